"""The head under an exact Lipschitz constraint, with a proof of how near it is to the optimum."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from scipy.special import xlogy
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm import tqdm

from utils.features import Features
from utils.linear_head.head import LinearHead, lipschitz_constant
from utils.linear_head.ridge import mean_loss
from utils.sampling import draw_by_counts, index_by_class


def fit_lipschitz(features: Features, num_classes: int, tau: float, progress: str) -> LinearHead:
    """Minimises mean ℓ(softmax(Wx + c), y) subject to ‖w_i − w_j‖ ≤ τ: a convex problem.

    Solved by an augmented Lagrangian on g_ij = (‖w_i − w_j‖²/τ² − 1)/2 ≤ 0,
        f(W, c) + 1/(2ρ) Σ_{i<j} max(0, λ_ij + ρ g_ij)²,                                        (2)
    each round by L-BFGS. With λ⁺ = max(0, λ + ρ g) the gradient of the second part is
    Laplacian(λ⁺) W / τ², so a K×K array is all the pairs need. A scaling makes the constraint exact,
    the multipliers give a lower bound on the optimum (`_optimality_gap`), and the first head within
    GAP of it is returned; the best one if rounding or OUTER_ROUNDS ends it before. Deterministic: it
    starts from zero and sees all samples at once, from memory (n·d floats, and `CHUNK` of the n·K
    logits at a time).
    """
    state = _Multipliers(np.zeros(num_classes * (features.x.shape[1] + 1)), num_classes)
    # NumPy's and SciPy's BLAS threads, waiting for work, would take the cores from PyTorch's: four times
    # the time. What they are given here is small.
    with (
        threadpool_limits(1, user_api="blas"),
        tqdm(desc=progress, unit="round", disable=None, leave=False) as bar,
    ):
        # A tenth of many samples leads close to the solution at a tenth of the cost.
        if len(features) >= 100 * features.x.shape[1]:
            part = _tenth_of_each_class(features.y)
            _solve_rounds(features.select(part), state, tau, 1e-2, bar)
        return _solve_rounds(features, state, tau, GAP, bar)


def _tenth_of_each_class(labels: Tensor) -> Tensor:
    """Indices, at least one a class, always the same."""
    members = index_by_class(labels, int(labels.max()) + 1)
    tenths = [math.ceil(len(points) / 10) for points in members]
    return draw_by_counts(members, tenths, torch.Generator().manual_seed(0))


@dataclass
class _Multipliers:
    """Where the augmented Lagrangian stands: variables (W / scale, c) flat, λ (upper triangle), ρ."""

    flat: np.ndarray
    num_classes: int
    rho: float = 1.0

    def __post_init__(self):
        self.multipliers = np.zeros((self.num_classes,) * 2)
        self.pairs = np.triu(np.ones_like(self.multipliers, dtype=bool), k=1)

    def weight_and_bias(self, flat: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """The solver's variable is W / min(τ, 1), of order one like c."""
        split = len(flat) - self.num_classes
        return min(tau, 1.0) * flat[:split].reshape(self.num_classes, -1), flat[split:]

    def raised(self, violations: np.ndarray) -> np.ndarray:
        """λ⁺ = max(0, λ + ρ g) for i < j, (K, K)."""
        return np.where(self.pairs, np.maximum(0, self.multipliers + self.rho * violations), 0)


def _solve_rounds(
    features: Features, state: _Multipliers, tau: float, goal: float, bar: tqdm
) -> LinearHead:
    """Rounds of (2) until a head is within `goal` nats of the optimum; the best one is returned."""
    x, y = features.x, features.y
    best, tolerance = None, 1e-6
    class_shares = _class_shares(x, y, state.num_classes)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, c = state.weight_and_bias(flat, tau)
        means = mean_loss(x, y, torch.from_numpy(w).to(x), torch.from_numpy(c).to(x))
        active = state.raised(_violations(w, tau))
        gradient = means.gradient_weight + _laplacian(active + active.T, w) / tau**2
        value = means.loss + (active**2).sum() / (2 * state.rho)
        return value, np.concatenate([min(tau, 1.0) * gradient.ravel(), means.gradient_bias])

    def reached(flat: np.ndarray) -> bool:
        """Whether the scaled head of `flat` is good enough; remembers it if it is the best so far."""
        nonlocal best
        w, c = state.weight_and_bias(flat, tau)
        violations = _violations(w, tau)
        if best and violations[state.pairs].max(initial=0) > FEASIBLE:
            return False
        head = LinearHead(_scaled_into(torch.from_numpy(w).to(x), tau), torch.from_numpy(c).to(x))
        gap = _optimality_gap(head, x, y, class_shares, state.raised(violations), tau)
        if best is None or gap < best.optimality_gap:
            best = replace(head, optimality_gap=gap)
        return gap <= goal

    def look(intermediate_result: OptimizeResult) -> None:
        nonlocal steps
        steps += 1
        if steps % LOOK_EVERY == 0 and reached(intermediate_result.x):
            raise StopIteration

    for _ in range(OUTER_ROUNDS):
        steps = 0
        options = {"maxiter": 200, "maxcor": 20, "ftol": tolerance, "gtol": 1e-9}
        solved = minimize(
            objective, state.flat, jac=True, method="L-BFGS-B", options=options, callback=look
        )
        state.flat = solved.x
        bar.update()
        if reached(state.flat):
            break
        violations = _violations(state.weight_and_bias(state.flat, tau)[0], tau)
        state.multipliers = state.raised(violations)
        if violations[state.pairs].max(initial=0) > FEASIBLE:
            state.rho *= 4
        elif tolerance < FINEST:
            break
        else:
            tolerance /= 10
    return best


OUTER_ROUNDS = 30
FINEST = 1e-13  # relative decrease a step: rounding allows no finer solution
LOOK_EVERY = 20  # steps of L-BFGS
FEASIBLE = 1e-3  # relative excess in the squared distance: scaling that away costs little
GAP = 1e-3  # nats above the constrained optimum at most


def _scaled_into(weight: Tensor, tau: float) -> Tensor:
    """The weight scaled down, if need be, until its float32 values meet L(W) ≤ τ exactly."""
    while (constant := lipschitz_constant(weight)) > tau:
        weight = weight * (tau / constant * (1 - 1e-7))
    return weight


def _class_shares(x: Tensor, y: Tensor, num_classes: int) -> np.ndarray:
    """Mean e_{y_i} (x_i, 1)ᵀ, (K, d + 1) float64."""
    sums = torch.zeros((num_classes, x.shape[1]), dtype=torch.float64, device=x.device)
    for x_part, y_part in zip(x.split(2**15), y.split(2**15), strict=True):
        sums.index_add_(0, y_part, x_part.double())
    counts = torch.bincount(y, minlength=num_classes)[:, None]
    return (torch.cat([sums, counts], dim=1) / len(y)).cpu().numpy()


def _violations(w: np.ndarray, tau: float) -> np.ndarray:
    """g_ij = (‖w_i − w_j‖²/τ² − 1)/2 for all pairs, (K, K)."""
    return (_pair_products(w / tau, w / tau) - 1) / 2


def _pair_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """⟨a_i − a_j, b_i − b_j⟩ for all pairs, (K, K) from (K, d) twice."""
    gram = a @ b.T
    diagonal = gram.diagonal()
    return diagonal[:, None] + diagonal[None, :] - gram - gram.T


def _laplacian(weights: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Σ_j weights_ij (w_i − w_j) for every i, (K, d); weights (K, K) symmetric."""
    return weights.sum(1)[:, None] * w - weights @ w


def _optimality_gap(
    head: LinearHead, x: Tensor, y: Tensor, class_shares: np.ndarray, multipliers: np.ndarray, tau: float
) -> float:
    """How far the head's mean loss is above the constrained optimum at most, in nats, by duality.

    ℓ(logits, y) = max over p on the simplex of ⟨logits, p − e_y⟩ + H(p), so for any p_1 … p_n
        min f ≥ mean H(p_i) + min over W of ⟨W, G⟩ + min over c of ⟨c, g⟩,
    G = mean (p_i − e_{y_i}) x_iᵀ and g = mean (p_i − e_{y_i}). The last is 0 if g = 0 and −∞ else, so
    the head's own p_i are mixed with the least share ε of one q that makes g vanish. Where antisymmetric
    F_ij ∈ R^d satisfy Σ_j F_ij = G_i, ⟨W, G⟩ = Σ_{i<j} ⟨w_i − w_j, F_ij⟩ ≥ −τ Σ_{i<j} ‖F_ij‖. Taken is
    F_ij = −λ_ij (w_i − w_j)/τ² + (R_i − R_j)/K, R what the first part leaves of G. `class_shares` is
    mean e_{y_i} (x_i, 1)ᵀ, (K, d + 1).
    """
    means = mean_loss(x, y, head.weight, head.bias, with_entropy=True)
    w, classes = head.weight.double().cpu().numpy(), head.num_classes
    gradient, entropy = means.gradient_weight, means.entropy
    frequency = class_shares[:, -1]
    excess = (means.gradient_bias / frequency).max(initial=0)
    if excess > 0:
        share = excess / (1 + excess)
        q = (frequency - means.gradient_bias / excess).clip(min=0)
        of_q = np.outer(q, class_shares[:, :-1].sum(0)) - class_shares[:, :-1]
        gradient = (1 - share) * gradient + share * of_q
        entropy = (1 - share) * entropy - share * xlogy(q, q).sum()
    symmetric = (multipliers + multipliers.T) / tau**2
    rest = gradient + _laplacian(symmetric, w)
    squared = (
        symmetric**2 * _pair_products(w, w)
        - 2 / classes * symmetric * _pair_products(w, rest)
        + _pair_products(rest, rest) / classes**2
    )
    flows = np.sqrt(np.triu(squared, k=1).clip(min=0)).sum()
    return float(means.loss - (entropy - tau * flows))
