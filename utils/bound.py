"""What a transfer run reports: every quantity of the analysis, by its contract name.

`transfer_bound` evaluates a transform and the source head on both test splits. On the two bounds
that follow the paper see docs/method.md: neither is a certificate. `bound_certified` is one:
with Δ = W Ā(z − z') and d_h(z, z') = max_s Δ_s − min_s Δ_s, the loss satisfies
    |ℓ(h(z), t) − ℓ(h(z'), t)| ≤ d_h(z, z'),                                                    (1)
so by Kantorovich's inequality, class by class,
    target loss ≤ Σ_t π_T,t ( mean over source points mapped to t of ℓ(h(Ax + b), t) + W^h_t ),  (2)
W^h_t the exact Wasserstein-1 distance in d_h between those points and the target points of class t.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from utils.features import Features
from utils.linear_head import (
    LinearHead,
    lipschitz_constant,
    loss_gradient_norms,
    summed_gradient_norms,
)
from utils.task_transform import (
    TaskTransform,
    class_means,
    class_prior,
    inverse_mismatch,
    label_mismatch,
)
from utils.transport import solve_transport

TAU_MEASURES = ("all_labels", "summed_pair")


@dataclass(frozen=True)
class TransferBound:
    """Losses in nats, accuracies in [0, 1]. A quantity that is undefined because some target class
    receives no source point is None, and those classes stand in `unreached_classes`.
    """

    target_accuracy: float
    target_loss: float
    transformed_source_accuracy: float
    transformed_source_loss: float
    weighted_source_loss: float
    label_mismatch: float
    wasserstein_distance: float | None
    tau_measured: float
    tau_certified: float
    bound_published: float | None
    bound_transformed: float | None
    bound_certified: float | None
    constant_prediction_loss: float
    inverse_error: float
    class_wasserstein: tuple[float, ...] | None
    unreached_classes: tuple[int, ...]

    def quantities(self) -> dict:
        return asdict(self)


@torch.no_grad()
def transfer_bound(
    transform: TaskTransform,
    head: LinearHead,
    source_test: Features,
    target_test: Features,
    *,
    tau_measure: str = "all_labels",
    seed: int = 0,
) -> TransferBound:
    """Evaluates in float64. `tau_measure` `all_labels`: the largest ‖∇ℓ‖ over all target test points
    and labels; `summed_pair`: the released small-scale code's (true + one random label).
    """
    transform, head = transform.to(torch.float64), head.to(torch.float64)
    x, y = source_test.x.double(), source_test.y
    z, t = target_test.x.double(), target_test.y
    moved = transform.features(x)
    log_h_source, log_h_target = (transform.log_probabilities(head, v) for v in (moved, z))

    soft_labels = transform.B.T[y]
    transformed_loss = -_dot_zero_safe(soft_labels, log_h_source).mean().item()
    # The two first terms, on the test split: D re-weights the classes, whatever the split's prior.
    source_losses = functional.cross_entropy(head.logits(x), y, reduction="none")
    weighted_loss = (transform.D @ class_means(source_losses, y, head.num_classes)).item()
    mismatch = label_mismatch(transform).item()
    tau = _tau_measured(transform, head, z, t, tau_measure, seed)

    assigned = transform.target_class()[y]
    num_targets = len(transform.B)
    unreached = [k for k in range(num_targets) if not (assigned == k).any()]
    distances, wasserstein, certified = None, None, None
    if not unreached:
        distances = tuple(
            wasserstein_1(torch.cdist(moved[assigned == k], z[t == k])) for k in range(num_targets)
        )
        wasserstein = sum(distances) / num_targets
        certified = certified_bound(transform, head, Features(x, y), Features(z, t))
    return TransferBound(
        target_accuracy=(log_h_target.argmax(1) == t).double().mean().item(),
        target_loss=functional.nll_loss(log_h_target, t).item(),
        transformed_source_accuracy=(log_h_source.argmax(1) == assigned).double().mean().item(),
        transformed_source_loss=transformed_loss,
        weighted_source_loss=weighted_loss,
        label_mismatch=mismatch,
        wasserstein_distance=wasserstein,
        tau_measured=tau,
        tau_certified=lipschitz_constant(head.weight @ transform.A_inverse),
        bound_published=None if unreached else weighted_loss + mismatch + tau * wasserstein,
        bound_transformed=None if unreached else transformed_loss + tau * wasserstein,
        bound_certified=certified,
        constant_prediction_loss=math.log(num_targets),
        inverse_error=inverse_mismatch(transform).item(),
        class_wasserstein=distances,
        unreached_classes=tuple(unreached),
    )


@torch.no_grad()
def certified_bound(
    transform: TaskTransform, head: LinearHead, source: Features, target: Features
) -> float | None:
    """The right-hand side of (2) for two splits; None if a target class receives no source point."""
    assigned = transform.target_class()[source.y]
    moved = transform.features(source.x)
    losses = -transform.log_probabilities(head, moved)
    weight = head.weight @ transform.A_inverse
    u, v = moved @ weight.T, target.x @ weight.T
    total = 0.0
    for k, share in enumerate(class_prior(target.y, len(transform.B)).tolist()):
        mapped, aimed = assigned == k, target.y == k
        if not aimed.any():
            continue
        if not mapped.any():
            return None
        distance = wasserstein_1(logit_spread(u[mapped], v[aimed]))
        total += share * (losses[mapped, k].mean().item() + distance)
    return total


SPREAD_ELEMENTS = 2**22  # of the (rows, m, K) differences held at a time: 32 MiB in float64


def logit_spread(u: Tensor, v: Tensor) -> Tensor:
    """d_h of (1) for all pairs of u (n, K) and v (m, K): (n, m), in bounded memory."""
    rows = max(1, SPREAD_ELEMENTS // v.numel())
    differences = (part[:, None] - v[None] for part in u.split(rows))
    return torch.cat([difference.amax(2) - difference.amin(2) for difference in differences])


def wasserstein_1(cost: Tensor) -> float:
    """Exact transport cost between uniform weights on the rows and the columns of cost (n, m)."""
    return solve_transport(cost).cost


def _tau_measured(
    transform: TaskTransform, head: LinearHead, z: Tensor, t: Tensor, measure: str, seed: int
) -> float:
    seen = transform.inverse_features(z)
    if measure == "all_labels":
        return loss_gradient_norms(head, seen).max().item()
    if measure != "summed_pair":
        raise ValueError(f"tau_measure must be one of {', '.join(TAU_MEASURES)}, not {measure!r}")
    generator = torch.Generator().manual_seed(seed)
    true = t % head.num_classes
    other = torch.randint(head.num_classes, (len(t),), generator=generator).to(t.device)
    return summed_gradient_norms(head, seen, true, other).max().item()


def _dot_zero_safe(weights: Tensor, values: Tensor) -> Tensor:
    """Row-wise Σ weights · values where a weight of zero also silences an infinite value."""
    return torch.where(weights > 0, weights * values, 0.0).sum(1)
