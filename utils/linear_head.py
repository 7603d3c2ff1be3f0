"""Linear heads h(x) = softmax(Wx + c): of validated strength, or with a τ-Lipschitz cross-entropy.

For a linear head ∇_x ℓ(h(x), y) = Wᵀ(p − e_y) with p = softmax(Wx + c). Since p − e_y lies in the
convex hull of {e_j − e_y}, the exact Lipschitz constant over all x and y is
    L(W) = max_{i≠j} ‖w_i − w_j‖₂.                                                             (1)
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from scipy.special import xlogy
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from utils.bootstrap import wilson_interval
from utils.errors import InputError
from utils.features import Features
from utils.ridge_head import fit_validated_ridge, mean_loss
from utils.storage import (
    ResumePoint,
    digest,
    load_tensors,
    only_one,
    read_if_whole,
    save_tensors,
)

METHODS = ("ridge", "lipschitz", "penalty")
PENALISED = ("sum", "separate")


@dataclass(frozen=True)
class LinearHead:
    """weight (K, d), bias (K,): logits Wx + c of a softmax classifier.

    `optimality_gap`: by how much its training loss may exceed the constrained optimum (nats); None
    where no such bound is known. `fit_seconds`: what fitting it took, here or where it was fitted.
    `weight_decay`, `held_out_loss`, `held_out` (m,) and `held_out_logits` (m, K), of training samples by
    heads that did not see them, belong to a head of validated strength (`ridge_head.ValidatedRidge`).
    """

    weight: Tensor
    bias: Tensor
    optimality_gap: float | None = None
    fit_seconds: float = 0.0
    weight_decay: float | None = None
    held_out_loss: float | None = None
    held_out: Tensor | None = None
    held_out_logits: Tensor | None = None

    @property
    def num_classes(self) -> int:
        return self.weight.shape[0]

    def logits(self, x: Tensor) -> Tensor:
        """X (n, d) → (n, K)."""
        return functional.linear(x, self.weight, self.bias)

    def to(self, target: torch.device | torch.dtype) -> "LinearHead":
        moved = {"weight": self.weight.to(target), "bias": self.bias.to(target)}
        if isinstance(target, torch.device) and self.held_out is not None:
            moved |= {name: getattr(self, name).to(target) for name in ("held_out", "held_out_logits")}
        return replace(self, **moved)


@dataclass(frozen=True)
class HeadSettings:
    """How a head is fitted: `method` `ridge` needs nothing, its strength is chosen by validation;
    `lipschitz` needs τ alone; the rest belongs to `penalty`.

    `penalised` `sum`: the norm of the true and a random label's gradient summed (released small-scale
    code), by Adam with β1; `separate`: each norm by itself (large scale), by SGD with momentum and
    weight decay. `steps`, where given, ends the fit inside an epoch.
    """

    method: str = "lipschitz"
    tau: float | None = 0.2
    epochs: int = 501
    batch_size: int = 500
    learning_rate: float = 1e-4
    beta1: float = 0.5
    penalty_weight: float = 1e5
    penalised: str = "sum"
    momentum: float = 0.9
    weight_decay: float = 0.0
    steps: int | None = None


# ------------------------------------------------------------------------------ Lipschitz constants
def lipschitz_constant(weight: Tensor) -> float:
    """L(W) of equation (1), in float64 from the differences themselves (no cancellation)."""
    if weight.shape[0] < 2:
        return 0.0
    return torch.pdist(weight.detach().double().cpu()).max().item()


def loss_gradient_norms(head: LinearHead, x: Tensor) -> Tensor:
    """‖Wᵀ(p − e_y)‖₂ for every row of x (n, d) and every label y: (n, K), float64.

    Expanded as pᵀGp − 2 (Gp)_y + G_yy with G = WWᵀ (K, K), so no (n, K, d) array is made. The
    rows of W are centred first, which changes no difference and removes most cancellation.
    """
    weight = head.weight.double()
    weight = weight - weight.mean(0)
    gram = weight @ weight.T
    p = torch.softmax(head.logits(x).double(), dim=1)
    gp = p @ gram
    squared = (p * gp).sum(1, keepdim=True) - 2 * gp + gram.diagonal()
    return squared.clamp_min(0).sqrt()


def label_gradient_norms(head: LinearHead, x: Tensor, y: Tensor) -> Tensor:
    """‖∇ℓ(x, y)‖₂ = ‖Wᵀ(p − e_y)‖₂ for each row: (n,), differentiable."""
    direction = torch.softmax(head.logits(x), dim=1) - functional.one_hot(y, head.num_classes)
    return torch.linalg.vector_norm(direction @ head.weight, dim=1)


def summed_gradient_norms(head: LinearHead, x: Tensor, y: Tensor, y_other: Tensor) -> Tensor:
    """‖∇ℓ(x, y) + ∇ℓ(x, y')‖₂ = ‖Wᵀ(2p − e_y − e_y')‖₂ for each row: (n,), differentiable.

    The small-scale released code penalises and reports this sum (equation 3).
    """
    direction = 2 * torch.softmax(head.logits(x), dim=1)
    direction = direction - functional.one_hot(y, head.num_classes)
    direction = direction - functional.one_hot(y_other, head.num_classes)
    return torch.linalg.vector_norm(direction @ head.weight, dim=1)


@torch.no_grad()
def evaluate_head(head: LinearHead, train: Features, test: Features) -> dict[str, float]:
    """Loss (nats) and accuracy on both splits, and how steep the loss is: `tau_measured`, the
    largest ‖∇ℓ‖ over test samples and labels, and `tau_certified`, the constant of (1).
    """
    logits = {name: head.logits(split.x) for name, split in (("train", train), ("test", test))}
    hits = int((logits["test"].argmax(1) == test.y).sum())
    return {
        "test_accuracy": hits / len(test),
        "test_loss": functional.cross_entropy(logits["test"].double(), test.y).item(),
        "train_loss": functional.cross_entropy(logits["train"].double(), train.y).item(),
        "tau_measured": loss_gradient_norms(head, test.x).max().item(),
        "tau_certified": lipschitz_constant(head.weight),
        "optimality_gap": head.optimality_gap,
        "weight_decay": head.weight_decay,
        "held_out_loss": head.held_out_loss,
        "intervals": {"test_accuracy": wilson_interval(hits, len(test))},
    }


# ------------------------------------------------------------------------------------------ fitting
def fit_linear_head(
    features: Features,
    num_classes: int,
    tau: float | None,
    method: str = "lipschitz",
    *,
    settings: HeadSettings | None = None,
    seed: int = 0,
    resume: ResumePoint | None = None,
    progress: str = "head",
) -> LinearHead:
    """Fits a softmax head to standardised features, by `ridge` (τ is not used) or under the Lipschitz
    constant τ.

    `ridge` chooses its strength by validation and is deterministic; `lipschitz` meets L(W) ≤ τ exactly
    and is deterministic; `penalty` follows the released procedure, which meets it only as far as its
    penalty was minimised. `settings` holds what `penalty` needs beside τ.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if method != "ridge":
        _check_tau(tau)
    counts = torch.bincount(features.y, minlength=num_classes)
    if len(counts) > num_classes or counts.min() == 0:
        raise InputError(
            f"the {progress} cannot be fitted: classes without training samples: "
            f"{(counts[:num_classes] == 0).nonzero().flatten().tolist()}, labels up to "
            f"{len(counts) - 1}, {num_classes} classes"
        )
    if settings and settings.penalised not in PENALISED:
        raise ValueError(f"penalised must be one of {', '.join(PENALISED)}, not {settings.penalised!r}")
    if method == "ridge":
        fitted = fit_validated_ridge(features.x, features.y, num_classes, progress)
        return LinearHead(**vars(fitted))
    if method == "lipschitz":
        return _fit_lipschitz(features, num_classes, tau, progress)
    return _fit_penalty(features, num_classes, tau, settings or HeadSettings(), seed, resume, progress)


def _check_tau(tau: float) -> None:
    if not tau > 0 or not np.isfinite(tau):
        raise ValueError(f"tau must be positive and finite, not {tau}")
    if np.float32(tau) ** 2 == 0:
        raise InputError(f"tau = {tau} is too small: in single precision the head would be constant")


def shared_linear_head(
    folder: Path,
    features: Features,
    num_classes: int,
    settings: HeadSettings,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: str = "head",
) -> LinearHead:
    """`fit_linear_head`, or the head that another run fitted to the same features and left in `folder`:
    a source has one head for all its targets, a target one for all its sources. Of several processes
    that want it one fits it; `overwrite` fits it anew, once in each process.
    """
    drawn = seed if settings.method == "penalty" else None  # the exact fit draws nothing
    device = features.x.device
    about = (num_classes, asdict(settings), drawn, device.type, FITS)
    key = digest(features.x, features.y, *about)
    path = folder / f"{key}.safetensors"
    with only_one(path):
        if path in _FITTED_HERE or not overwrite:
            stored = read_if_whole(path, _stored_head, "the head is fitted again")
            if stored:
                return stored.to(device)
        head = _fit_and_store(path, features, num_classes, settings, seed, progress)
    _FITTED_HERE.add(path)
    return head


_FITTED_HERE: set[Path] = set()  # --OVERWRITE is for each of a sweep's cells, and they share heads


FITS = 2  # counts the ways in which heads have been fitted: another version's are not used
HEAD_TENSORS = ("weight", "bias", "held_out", "held_out_logits")
HEAD_FIGURES = ("optimality_gap", "fit_seconds", "weight_decay", "held_out_loss")


def _stored_head(path: Path) -> LinearHead:
    tensors, about = load_tensors(path)
    if about.get("key") != path.stem:
        raise InputError(f"{path} holds another head")
    figures = {name: about[name] for name in HEAD_FIGURES}
    return LinearHead(**tensors, **figures)


def _fit_and_store(
    path: Path, features: Features, num_classes: int, settings: HeadSettings, seed: int, progress: str
) -> LinearHead:
    resume = ResumePoint(path.with_suffix(".resume.pt"), path.stem)
    start = time.perf_counter()
    head = fit_linear_head(
        features, num_classes, settings.tau, settings.method,
        settings=settings, seed=seed, resume=resume, progress=progress,
    )  # fmt: skip
    head = replace(head, fit_seconds=time.perf_counter() - start)
    if torch.isfinite(head.weight).all():  # a head that diverged is of no use to anyone
        about = {"key": path.stem} | {name: getattr(head, name) for name in HEAD_FIGURES}
        tensors = {name: getattr(head, name) for name in HEAD_TENSORS}
        save_tensors(path, {name: t for name, t in tensors.items() if t is not None}, about)
    resume.clear()
    return head


def _fit_lipschitz(features: Features, num_classes: int, tau: float, progress: str) -> LinearHead:
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
            _solve_rounds(Features(features.x[part], features.y[part]), state, tau, 1e-2, bar)
        return _solve_rounds(features, state, tau, GAP, bar)


def _tenth_of_each_class(labels: Tensor) -> Tensor:
    """Indices, at least one a class, always the same."""
    generator = torch.Generator().manual_seed(0)
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)[: math.ceil(len(members) / 10)]
        chosen.append(members[order.to(members.device)])
    return torch.cat(chosen)


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
    return means.loss - (entropy - tau * flows)


def _fit_penalty(
    features: Features,
    num_classes: int,
    tau: float,
    settings: HeadSettings,
    seed: int,
    resume: ResumePoint | None,
    progress: str,
) -> LinearHead:
    """The released procedures: steps on mini-batches of
        mean ℓ(h(x), y) + penalty · mean relu(‖∇ℓ(x, y) + ∇ℓ(x, y')‖ − τ)²,  y' uniform,        (3)
    or, with `separate`, penalty · mean (relu(‖∇ℓ(x, y)‖ − τ)² + relu(‖∇ℓ(x, y')‖ − τ)²).

    The gradient norm is taken in closed form, so one backward pass per step is enough. Every epoch
    draws from its own generator, which makes the end of an epoch a point to resume from.
    """
    generator = torch.Generator().manual_seed(seed)
    weight, bias = _initial_head(settings.penalised, features.x.shape[1], num_classes, generator)
    weight, bias = (part.to(features.x).requires_grad_() for part in (weight, bias))
    head = LinearHead(weight, bias)
    optimiser = _penalty_optimiser(settings, [weight, bias])
    first = 0
    if resume and (state := resume.load()):
        with torch.no_grad():
            weight.copy_(state["weight"])
            bias.copy_(state["bias"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epoch"]

    count = len(features.y)
    per_epoch = math.ceil(count / settings.batch_size)
    steps = settings.epochs * per_epoch if settings.steps is None else settings.steps
    last = math.ceil(steps / per_epoch)
    epochs = tqdm(
        range(first, last), initial=first, total=last,
        desc=progress, unit="epoch", disable=None, leave=False,
    )  # fmt: skip
    for epoch in epochs:
        generator.manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        y_other = torch.randint(num_classes, (count,), generator=generator)
        for index in order.split(settings.batch_size)[: steps - epoch * per_epoch]:
            x, y, other = (part[index].to(weight.device) for part in (features.x, features.y, y_other))
            loss = functional.cross_entropy(head.logits(x), y)
            for norms in _penalised_norms(settings.penalised, head, x, y, other):
                loss = loss + settings.penalty_weight * functional.relu(norms - tau).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if resume and resume.due():
            resume.save(
                {
                    "epoch": epoch + 1,
                    "weight": weight.detach(),
                    "bias": bias.detach(),
                    "optimiser": optimiser.state_dict(),
                }
            )
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        if resume:
            resume.clear()  # it leads nowhere
        raise InputError(f"the {progress} diverged: lower its learning rate or --PENALTY")
    return LinearHead(weight.detach(), bias.detach())


def _initial_head(
    penalised: str, dim: int, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Small scale: Glorot's uniform rule, as the released code's framework does. Large scale: PyTorch's
    rule, 1/√d; from Glorot's larger weights the released rate diverges on standardised features.
    """
    weight, bias = torch.empty(num_classes, dim), torch.zeros(num_classes)
    if penalised == "sum":
        limit = (6 / (dim + num_classes)) ** 0.5
        return weight.uniform_(-limit, limit, generator=generator), bias
    limit = dim**-0.5
    bias.uniform_(-limit, limit, generator=generator)
    return weight.uniform_(-limit, limit, generator=generator), bias


def _penalty_optimiser(settings: HeadSettings, variables: list[Tensor]) -> torch.optim.Optimizer:
    if settings.penalised == "sum":
        return torch.optim.Adam(variables, lr=settings.learning_rate, betas=(settings.beta1, 0.999))
    return torch.optim.SGD(
        variables,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def _penalised_norms(
    penalised: str, head: LinearHead, x: Tensor, y: Tensor, y_other: Tensor
) -> tuple[Tensor, ...]:
    if penalised == "sum":
        return (summed_gradient_norms(head, x, y, y_other),)
    return label_gradient_norms(head, x, y), label_gradient_norms(head, x, y_other)
