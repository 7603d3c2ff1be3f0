"""The head under an exact Lipschitz constraint, with a proof of how near it is to the optimum."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from utils.features import Features
from utils.linear_head.head import LinearHead, lipschitz_constant
from utils.linear_head.lbfgs import minimise
from utils.linear_head.ridge import mean_loss
from utils.progress import progress_bar
from utils.sampling import draw_by_counts, index_by_class


def fit_lipschitz(features: Features, num_classes: int, tau: float, progress: str) -> LinearHead:
    """Minimise mean ℓ(softmax(Wx + c), y) subject to ‖w_i − w_j‖ ≤ τ: a convex problem.

    Solved by an augmented Lagrangian on g_ij = (‖w_i − w_j‖²/τ² − 1)/2 ≤ 0,
        f(W, c) + 1/(2ρ) Σ_{i<j} max(0, λ_ij + ρ g_ij)²,                                        (2)
    each round by L-BFGS. With λ⁺ = max(0, λ + ρ g) the gradient of the second part is
    Laplacian(λ⁺) W / τ², so a K×K array is all the pairs need. A scaling makes the constraint exact,
    the multipliers give a lower bound on the optimum (`_optimality_gap`), and the first head within
    GAP of it is returned; the best one if rounding or OUTER_ROUNDS ends it before. Deterministic: it
    starts from zero and sees all samples at once, from memory (n·d floats, and `CHUNK` of the n·K
    logits at a time).
    """
    variables = torch.zeros(num_classes * (features.x.shape[1] + 1), dtype=torch.float64)
    state = _Multipliers(variables.to(features.x.device), num_classes)
    with progress_bar(desc=progress, unit="round") as bar:
        # A tenth of many samples leads close to the solution at a tenth of the cost.
        if len(features) >= 100 * features.x.shape[1]:
            members = index_by_class(features.y, num_classes)
            tenths = [math.ceil(len(points) / 10) for points in members]
            part = draw_by_counts(members, tenths, torch.Generator().manual_seed(0))
            _solve_rounds(features.select(part), state, tau, 1e-2, bar)
        return _solve_rounds(features, state, tau, GAP, bar)


@dataclass
class _Multipliers:
    """Where the augmented Lagrangian stands: variables (W / scale, c) flat, λ (upper triangle), ρ."""

    flat: Tensor
    num_classes: int
    rho: float = 1.0

    def __post_init__(self):
        self.multipliers = self.flat.new_zeros((self.num_classes,) * 2)
        self.pairs = torch.ones_like(self.multipliers, dtype=torch.bool).triu(1)

    def weight_and_bias(self, flat: Tensor, tau: float) -> tuple[Tensor, Tensor]:
        """Return (W, c) of the variables: W / min(τ, 1), of order one like c, and c."""
        split = len(flat) - self.num_classes
        return min(tau, 1.0) * flat[:split].view(self.num_classes, -1), flat[split:]

    def raised(self, violations: Tensor) -> Tensor:
        """Return λ⁺ = max(0, λ + ρ g) for i < j, (K, K)."""
        return (self.multipliers + self.rho * violations).clamp_min(0) * self.pairs


def _solve_rounds(
    features: Features, state: _Multipliers, tau: float, goal: float, bar: tqdm
) -> LinearHead:
    """Take rounds of (2) until a head is within `goal` nats of the optimum; the best one is returned."""
    x, y = features.x, features.y
    best, tolerance = None, 1e-6
    class_shares = _class_shares(x, y, state.num_classes)

    def objective(flat: Tensor) -> tuple[float, Tensor]:
        w, c = state.weight_and_bias(flat, tau)
        means = mean_loss(x, y, w.to(x), c.to(x))
        active = state.raised(_violations(w, tau))  # λ⁺: zero where a pair is well inside its constraint
        # ∂g_ij/∂w_i = (w_i − w_j)/τ², so that the second part of (2) adds Σ_j λ⁺_ij (w_i − w_j)/τ².
        gradient = means.gradient_weight + _laplacian(active + active.T, w) / tau**2
        value = means.loss + float(active.square().sum()) / (2 * state.rho)
        return value, torch.cat([min(tau, 1.0) * gradient.flatten(), means.gradient_bias])

    def reached(flat: Tensor) -> bool:
        """Tell whether the scaled head of `flat` is good enough; remember it if it is the best."""
        nonlocal best
        w, c = state.weight_and_bias(flat, tau)
        violations = _violations(w, tau)
        if best and _worst(violations, state) > FEASIBLE:
            return False
        head = LinearHead(_scaled_into(w.to(x), tau), c.to(x))
        gap = _optimality_gap(
            head=head,
            x=x,
            y=y,
            class_shares=class_shares,
            multipliers=state.raised(violations),
            tau=tau,
            goal=goal,
        )
        if best is None or gap < best.optimality_gap:
            best = replace(head, optimality_gap=gap)
        return gap <= goal

    def look(flat: Tensor) -> bool:
        nonlocal steps
        steps += 1
        return steps % LOOK_EVERY == 0 and reached(flat)

    for _ in range(OUTER_ROUNDS):
        steps = 0
        state.flat = minimise(
            objective, state.flat, tolerance=tolerance, most_steps=STEPS, look=look
        ).variables
        bar.update()
        if (best and best.optimality_gap <= goal) or reached(state.flat):
            break
        # The round's λ⁺ are the next multipliers (Hestenes, Powell); ρ rises while pairs violate theirs.
        violations = _violations(state.weight_and_bias(state.flat, tau)[0], tau)
        state.multipliers = state.raised(violations)
        if _worst(violations, state) > FEASIBLE:
            state.rho *= 4
        elif tolerance < FINEST:
            break
        else:
            tolerance /= 10
    return best


STEPS = 200  # of L-BFGS in a round
OUTER_ROUNDS = 30
FINEST = 1e-13  # relative decrease a step: rounding allows no finer solution
LOOK_EVERY = 20  # steps of L-BFGS
FEASIBLE = 1e-3  # relative excess in the squared distance: scaling that away costs little
GAP = 1e-3  # nats above the constrained optimum at most


def _scaled_into(weight: Tensor, tau: float) -> Tensor:
    """Scale the weight down, if need be, until its float32 values meet L(W) ≤ τ exactly."""
    while (constant := lipschitz_constant(weight)) > tau:
        weight = weight * (tau / constant * (1 - 1e-7))
    return weight


def _worst(violations: Tensor, state: _Multipliers) -> float:
    """Return the largest g_ij; 0 where there is a single class."""
    return float(torch.where(state.pairs, violations, -math.inf).max().clamp_min(0))


def _class_shares(x: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return mean e_{y_i} (x_i, 1)ᵀ, (K, d + 1) float64."""
    sums = torch.zeros((num_classes, x.shape[1]), dtype=torch.float64, device=x.device)
    for x_part, y_part in zip(x.split(2**15), y.split(2**15), strict=True):
        sums.index_add_(0, y_part, x_part.double())
    counts = torch.bincount(y, minlength=num_classes)[:, None]
    return torch.cat([sums, counts], dim=1) / len(y)


def _violations(w: Tensor, tau: float) -> Tensor:
    """Return g_ij = (‖w_i − w_j‖²/τ² − 1)/2 for all pairs, (K, K)."""
    return (_pairs((w / tau) @ (w / tau).T) - 1) / 2


def _laplacian(weights: Tensor, w: Tensor) -> Tensor:
    """Return Σ_j weights_ij (w_i − w_j) for every i, (K, d); weights (K, K) symmetric."""
    return weights.sum(1)[:, None] * w - weights @ w


def _optimality_gap(
    head: LinearHead,
    x: Tensor,
    y: Tensor,
    class_shares: Tensor,
    multipliers: Tensor,
    tau: float,
    goal: float = math.inf,
) -> float:
    """Bound how far the head's mean loss is above the constrained optimum at most, in nats, by duality.

    ℓ(logits, y) = max over p on the simplex of ⟨logits, p − e_y⟩ + H(p), so for any p_1 … p_n
        min f ≥ mean H(p_i) + min over W of ⟨W, G⟩ + min over c of ⟨c, g⟩,
    G = mean (p_i − e_{y_i}) x_iᵀ and g = mean (p_i − e_{y_i}). The last is 0 if g = 0 and −∞ else, so
    the head's own p_i are mixed with the least share ε of one q that makes g vanish. Where antisymmetric
    F_ij ∈ R^d satisfy Σ_j F_ij = G_i, ⟨W, G⟩ = Σ_{i<j} ⟨w_i − w_j, F_ij⟩ ≥ −τ Σ_{i<j} ‖F_ij‖. Taken is
    F_ij = −λ_ij (w_i − w_j)/τ² + (R_i − R_j)/K, R what the first part leaves of G, with the given λ and,
    where that proves no gap below `goal`, with better ones (`_better_multipliers`). `class_shares` is
    mean e_{y_i} (x_i, 1)ᵀ, (K, d + 1).
    """
    # p_i: the head's own predictions. G (K, d) and g (K,) are then the gradients of the mean loss.
    means = mean_loss(x, y, head.weight, head.bias, with_entropy=True)
    w = head.weight.double()
    gradient, entropy = means.gradient_weight, means.entropy
    # (1 − ε) p_i + ε q has g = 0 for q = frequency − (1 − ε)/ε · g, which must not be negative: ε is the
    # least share for which it is not. The entropy is concave: the mixture's is at least the mixed one.
    frequency = class_shares[:, -1]
    excess = float((means.gradient_bias / frequency).max().clamp_min(0))
    if excess > 0:
        share = excess / (1 + excess)
        q = (frequency - means.gradient_bias / excess).clamp_min(0)
        of_q = torch.outer(q, class_shares[:, :-1].sum(0)) - class_shares[:, :-1]
        gradient = (1 - share) * gradient + share * of_q
        entropy = (1 - share) * entropy - share * float(torch.xlogy(q, q).sum())
    # f(head) less the lower bound: loss − mean H(p_i) + τ Σ_{i<j} ‖F_ij‖, for any flow F that carries G.
    symmetric = (multipliers + multipliers.T) / tau**2
    gap = means.loss - entropy + tau * _flows(w, gradient, symmetric)
    if gap > goal:
        enough = (goal - means.loss + entropy) / tau
        better = _better_multipliers(w, gradient, symmetric, enough)
        gap = min(gap, means.loss - entropy + tau * _flows(w, gradient, better))
    return gap


def _flows(w: Tensor, gradient: Tensor, symmetric: Tensor) -> float:
    """Return Σ_{i<j} ‖F_ij‖ of `_optimality_gap`, with S = λ/τ² (K, K) `symmetric`."""
    classes = len(w)
    rest = gradient + _laplacian(symmetric, w)  # R: what −λ_ij (w_i − w_j)/τ² leaves of G
    # ‖F_ij‖² for F_ij = −S_ij (w_i − w_j) + (R_i − R_j)/K, from inner products alone.
    squared = (
        symmetric**2 * _pairs(w @ w.T)
        - 2 / classes * symmetric * _pairs(w @ rest.T)
        + _pairs(rest @ rest.T) / classes**2
    )
    return float(squared.triu(1).clamp_min(0).sqrt().sum())


def _better_multipliers(w: Tensor, gradient: Tensor, symmetric: Tensor, enough: float) -> Tensor:
    """Find S with smaller Σ_{i<j} ‖F_ij‖, by L-BFGS until that is `enough`: a convex function of S.

    The augmented Lagrangian's own λ follow its last step; those that prove most lie elsewhere, and
    looking for them takes no look at the samples: with P = WWᵀ, Q = GWᵀ, GGᵀ and L the Laplacian of S,
        RWᵀ = Q + LP,   RRᵀ = GGᵀ + LQᵀ + QL + LPL,   R = G + LW.
    With N_ij = 1/‖F_ij‖ and v_i = Σ_j N_ij F_ij the derivative for S_ij is
        ⟨v_i − v_j, w_i − w_j⟩/K − N_ij ⟨F_ij, w_i − w_j⟩.
    """
    classes = len(w)
    P, Q, of_gradient = w @ w.T, gradient @ w.T, gradient @ gradient.T
    rows, columns = torch.triu_indices(classes, classes, 1, device=w.device)
    apart, unit = _pairs(P), float(symmetric.max()) or 1.0

    def matrix(flat: Tensor) -> Tensor:
        S = torch.zeros_like(P)
        S[rows, columns] = S[columns, rows] = unit * flat
        return S

    def objective(flat: Tensor) -> tuple[float, Tensor]:
        S = matrix(flat)
        L = _as_laplacian(S)
        RW = Q + L @ P
        of_rest = of_gradient + L @ Q.T + RW @ L
        along = _pairs(RW) / classes - S * apart  # ⟨F_ij, w_i − w_j⟩
        squared = S * (S * apart - 2 / classes * _pairs(RW)) + _pairs(of_rest) / classes**2
        lengths = (squared.clamp_min(0) + SMOOTHED * largest).sqrt()
        N = 1 / lengths
        VW = _as_laplacian(N) @ RW / classes - _as_laplacian(N * S) @ P
        slope = _pairs(VW) / classes - N * along
        return float(lengths[rows, columns].sum()), unit * slope[rows, columns]

    def sufficient(flat: Tensor) -> bool:
        return _flows(w, gradient, matrix(flat)) <= enough

    largest = float(of_gradient.diagonal().max()) or 1.0
    start = symmetric[rows, columns] / unit
    found = minimise(objective, start, tolerance=1e-9, most_steps=BETTER_STEPS, look=sufficient)
    return matrix(found.variables)


BETTER_STEPS = 100
SMOOTHED = 1e-18  # of the largest ‖G_i‖²: keeps the norms differentiable where F_ij = 0


def _pairs(products: Tensor) -> Tensor:
    """Return ⟨a_i − a_j, b_i − b_j⟩ for all pairs from ⟨a_i, b_j⟩, (K, K) both."""
    diagonal = products.diagonal()
    return diagonal[:, None] + diagonal[None, :] - products - products.T


def _as_laplacian(weights: Tensor) -> Tensor:
    """Return diag(Σ_j weights_ij) − weights, (K, K); weights' own diagonal cancels."""
    return weights.sum(1).diag() - weights
