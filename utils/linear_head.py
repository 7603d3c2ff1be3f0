"""Linear heads h(x) = softmax(Wx + c) whose cross-entropy is τ-Lipschitz in the features.

For a linear head ∇_x ℓ(h(x), y) = Wᵀ(p − e_y) with p = softmax(Wx + c). Since p − e_y lies in the
convex hull of {e_j − e_y}, the exact Lipschitz constant over all x and y is
    L(W) = max_{i≠j} ‖w_i − w_j‖₂.                                                             (1)
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from utils.errors import InputError
from utils.features import Features
from utils.storage import ResumePoint

METHODS = ("lipschitz", "penalty")


@dataclass(frozen=True)
class LinearHead:
    """weight (K, d), bias (K,): logits Wx + c of a softmax classifier."""

    weight: Tensor
    bias: Tensor

    @property
    def num_classes(self) -> int:
        return self.weight.shape[0]

    def logits(self, x: Tensor) -> Tensor:
        """X (n, d) → (n, K)."""
        return functional.linear(x, self.weight, self.bias)

    def to(self, target: torch.device | torch.dtype) -> "LinearHead":
        return LinearHead(self.weight.to(target), self.bias.to(target))


@dataclass(frozen=True)
class HeadSettings:
    """How a head is fitted: `method` `lipschitz` needs τ alone, the rest belongs to `penalty`."""

    method: str = "lipschitz"
    tau: float = 0.2
    epochs: int = 501
    batch_size: int = 500
    learning_rate: float = 1e-4
    beta1: float = 0.5
    penalty_weight: float = 1e5


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
    return {
        "test_accuracy": (logits["test"].argmax(1) == test.y).double().mean().item(),
        "test_loss": functional.cross_entropy(logits["test"].double(), test.y).item(),
        "train_loss": functional.cross_entropy(logits["train"].double(), train.y).item(),
        "tau_measured": loss_gradient_norms(head, test.x).max().item(),
        "tau_certified": lipschitz_constant(head.weight),
    }


# ------------------------------------------------------------------------------------------ fitting
def fit_linear_head(
    features: Features,
    num_classes: int,
    tau: float,
    method: str = "lipschitz",
    *,
    settings: HeadSettings | None = None,
    seed: int = 0,
    resume: ResumePoint | None = None,
    progress: str = "head",
) -> LinearHead:
    """Fits a softmax head to standardised features under the Lipschitz constant τ.

    `lipschitz` meets L(W) ≤ τ exactly and is deterministic; `penalty` follows the released
    procedure, which meets it only as far as its penalty was minimised. `settings` holds what
    `penalty` needs beside τ.
    """
    if not tau > 0 or not np.isfinite(tau):
        raise ValueError(f"tau must be positive and finite, not {tau}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    counts = torch.bincount(features.y, minlength=num_classes)
    if len(counts) > num_classes or counts.min() == 0:
        raise InputError(
            f"the {progress} cannot be fitted: classes without training samples: "
            f"{(counts[:num_classes] == 0).nonzero().flatten().tolist()}, labels up to "
            f"{len(counts) - 1}, {num_classes} classes"
        )
    if method == "lipschitz":
        return _fit_lipschitz(features, num_classes, tau, progress)
    return _fit_penalty(features, num_classes, tau, settings or HeadSettings(), seed, resume, progress)


def _fit_lipschitz(features: Features, num_classes: int, tau: float, progress: str) -> LinearHead:
    """Minimises mean ℓ(softmax(Wx + c), y) subject to ‖w_i − w_j‖ ≤ τ: a convex problem.

    Solved by an augmented Lagrangian on g_ij = (‖w_i − w_j‖²/τ² − 1)/2 ≤ 0,
        f(W, c) + 1/(2ρ) Σ_{i<j} max(0, λ_ij + ρ g_ij)²,                                        (2)
    each round by L-BFGS. With λ⁺ = max(0, λ + ρ g) the gradient of the second part is
    Laplacian(λ⁺) W / τ², so a K×K array is all the pairs need. One last scaling makes the
    constraint exact. Deterministic: it starts from zero and sees all samples at once.
    """
    dim = features.x.shape[1]
    shape, count = (num_classes, dim), num_classes * dim
    scale = min(tau, 1.0)  # the solver's variable is W / scale, of order one
    pairs = np.triu(np.ones((num_classes, num_classes), dtype=bool), k=1)

    def objective(
        flat: np.ndarray, x: Tensor, y: Tensor, multipliers: np.ndarray, rho: float
    ) -> tuple[float, np.ndarray]:
        w, c = scale * flat[:count].reshape(shape), flat[count:]
        loss, gradient_logits = _cross_entropy(
            x, y, torch.from_numpy(w).to(x), torch.from_numpy(c).to(x)
        )
        active = np.where(pairs, np.maximum(0, multipliers + rho * _violations(w, tau)), 0)
        symmetric = active + active.T
        gradient_w = (gradient_logits.T @ x).double().cpu().numpy()
        gradient_w += (symmetric.sum(1)[:, None] * w - symmetric @ w) / tau**2
        gradient_c = gradient_logits.sum(0).double().cpu().numpy()
        value = loss + (active**2).sum() / (2 * rho)
        return value, np.concatenate([scale * gradient_w.ravel(), gradient_c])

    flat, multipliers, rho = np.zeros(count + num_classes), np.zeros((num_classes,) * 2), 1.0
    # A tenth of many samples leads close to the solution at a tenth of the cost.
    strides = (10, 1) if len(features) >= 100 * dim else (1,)
    with tqdm(desc=progress, unit="round", disable=None, leave=False) as bar:
        for stride in strides:
            x, y = features.x[::stride].contiguous(), features.y[::stride].contiguous()
            for _ in range(OUTER_ROUNDS):
                solved = minimize(
                    objective,
                    flat,
                    args=(x, y, multipliers, rho),
                    jac=True,
                    method="L-BFGS-B",
                    options=INNER_OPTIONS,
                )
                flat = solved.x
                bar.update()
                violations = _violations(scale * flat[:count].reshape(shape), tau)
                multipliers = np.where(pairs, np.maximum(0, multipliers + rho * violations), 0)
                if violations[pairs].max(initial=0) > FEASIBLE:
                    rho *= 4
                elif solved.success:  # neither cut off nor infeasible
                    break
    weight = torch.from_numpy(scale * flat[:count].reshape(shape)).to(features.x)
    return LinearHead(_scaled_into(weight, tau), torch.from_numpy(flat[count:]).to(features.x))


# Rounds of the augmented Lagrangian; each ends at the inner tolerance of L-BFGS. A relative excess
# of FEASIBLE in the squared distance costs less than 1e-3 of the loss when it is scaled away.
OUTER_ROUNDS = 30
INNER_OPTIONS = {"maxiter": 100, "maxcor": 20, "ftol": 1e-6, "gtol": 1e-6}
FEASIBLE = 1e-3


def _scaled_into(weight: Tensor, tau: float) -> Tensor:
    """The weight scaled down, if need be, until its float32 values meet L(W) ≤ τ exactly."""
    while (constant := lipschitz_constant(weight)) > tau:
        weight = weight * (tau / constant * (1 - 1e-7))
    return weight


def _cross_entropy(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> tuple[float, Tensor]:
    """Mean cross-entropy and its gradient with respect to the logits, (n, K) divided by n."""
    log_p = torch.log_softmax(functional.linear(x, weight, bias), dim=1)
    rows = torch.arange(len(y), device=y.device)
    loss = -log_p[rows, y].double().mean().item()
    gradient = log_p.exp_()
    gradient[rows, y] -= 1
    return loss, gradient / len(y)


def _violations(w: np.ndarray, tau: float) -> np.ndarray:
    """g_ij = (‖w_i − w_j‖²/τ² − 1)/2 for all pairs, (K, K)."""
    gram = (w / tau) @ (w / tau).T
    squared = gram.diagonal()
    return (squared[:, None] + squared[None, :] - 2 * gram - 1) / 2


def _fit_penalty(
    features: Features,
    num_classes: int,
    tau: float,
    settings: HeadSettings,
    seed: int,
    resume: ResumePoint | None,
    progress: str,
) -> LinearHead:
    """The released small-scale procedure: Adam on mini-batches of
        mean ℓ(h(x), y) + penalty · mean relu(‖∇ℓ(x, y) + ∇ℓ(x, y')‖ − τ)²,  y' uniform.        (3)

    The gradient norm is taken in closed form, so one backward pass per step is enough. Every epoch
    draws from its own generator, which makes the end of an epoch a point to resume from.
    """
    generator = torch.Generator().manual_seed(seed)
    # The released code's framework initialises dense layers by Glorot's uniform rule.
    limit = (6 / (features.x.shape[1] + num_classes)) ** 0.5
    weight = torch.empty(num_classes, features.x.shape[1]).uniform_(-limit, limit, generator=generator)
    weight = weight.to(features.x).requires_grad_()
    bias = torch.zeros(num_classes).to(features.x).requires_grad_()
    head = LinearHead(weight, bias)
    optimiser = torch.optim.Adam(
        [weight, bias], lr=settings.learning_rate, betas=(settings.beta1, 0.999)
    )
    first = 0
    if resume and (state := resume.load()):
        with torch.no_grad():
            weight.copy_(state["weight"])
            bias.copy_(state["bias"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epoch"]

    count = len(features.y)
    epochs = tqdm(
        range(first, settings.epochs), initial=first, total=settings.epochs,
        desc=progress, unit="epoch", disable=None, leave=False,
    )  # fmt: skip
    for epoch in epochs:
        generator.manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        y_other = torch.randint(num_classes, (count,), generator=generator)
        for index in order.split(settings.batch_size):
            x, y, other = (part[index].to(weight.device) for part in (features.x, features.y, y_other))
            excess = functional.relu(summed_gradient_norms(head, x, y, other) - tau)
            loss = functional.cross_entropy(head.logits(x), y)
            loss = loss + settings.penalty_weight * excess.square().mean()
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
    return LinearHead(weight.detach(), bias.detach())
