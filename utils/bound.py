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
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from utils.bootstrap import Resamples, interval
from utils.errors import InputError
from utils.features import Features
from utils.linear_head import (
    LinearHead,
    lipschitz_constant,
    loss_gradient_norms,
    summed_gradient_norms,
)
from utils.task_transform import (
    TaskTransform,
    check_task,
    class_prior,
    inverse_mismatch,
    label_mismatch,
)
from utils.transport import optimal_potentials, solve_transport

TAU_MEASURES = ("all_labels", "summed_pair")


@dataclass(frozen=True)
class TransferBound:
    """Losses in nats, accuracies in [0, 1]. A quantity that is undefined because some target class
    receives no source point is None, and those classes stand in `unreached_classes`. `intervals`:
    95 % bootstrap intervals over the test samples of the quantities that depend on them, by name.
    """

    target_accuracy: float
    target_loss: float
    transformed_source_accuracy: float
    transformed_source_loss: float
    weighted_source_loss: float
    label_mismatch: float
    wasserstein_distance: float | None
    distribution_mismatch: float | None
    tau_measured: float
    tau_certified: float
    bound_published: float | None
    bound_transformed: float | None
    bound_certified: float | None
    constant_prediction_loss: float
    inverse_error: float
    class_wasserstein: tuple[float, ...] | None
    unreached_classes: tuple[int, ...]
    intervals: dict[str, tuple[float, float]] | None

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
    bootstrap: int = 0,
    seed: int = 0,
) -> TransferBound:
    """Evaluates in float64. `tau_measure` `all_labels`: the largest ‖∇ℓ‖ over all target test points
    and labels; `summed_pair`: the released small-scale code's (true + one random label). `bootstrap`:
    resamples for the intervals, 0 for none.

    The transport distances enter a resample through the optimal potentials of the whole splits: to
    first order that is their spread, and never more than the resample's own distance.
    """
    num_targets, num_sources = transform.B.shape
    if num_sources != head.num_classes:
        raise ValueError(f"transform.B has {num_sources} columns, the head {head.num_classes} classes")
    check_task("source_test", source_test, num_sources)
    check_task("target_test", target_test, num_targets)
    transform, head = transform.to(torch.float64), head.to(torch.float64)
    source = Features(source_test.x.double(), source_test.y)
    target = Features(target_test.x.double(), target_test.y)
    terms = _sample_terms(transform, head, source, target, potentials=bootstrap > 0)
    norms = _gradient_norms(transform, head, target, tau_measure, seed)
    mismatch = label_mismatch(transform).item()
    assigned = transform.target_class()[source.y]

    values = {name: term.value for name, term in terms.items()}
    values["tau_measured"] = norms.max().item()
    values |= dict.fromkeys(("distribution_mismatch", "bound_published", "bound_transformed"))
    values |= _bounds(values, mismatch)
    intervals = None
    if bootstrap:
        generator = torch.Generator().manual_seed(seed)
        drawn = [Resamples(split.y, bootstrap, generator) for split in (source, target)]
        resampled = {
            name: term.resampled(*drawn) for name, term in terms.items() if term.value is not None
        }
        resampled["tau_measured"] = drawn[1].largest(norms)
        resampled |= _bounds(resampled, mismatch)
        intervals = {name: interval(value) for name, value in resampled.items()}
    return TransferBound(
        **values,
        label_mismatch=mismatch,
        tau_certified=lipschitz_constant(head.weight @ transform.A_inverse),
        constant_prediction_loss=math.log(num_targets),
        inverse_error=inverse_mismatch(transform).item(),
        class_wasserstein=terms["wasserstein_distance"].parts,
        unreached_classes=tuple(k for k in range(num_targets) if not (assigned == k).any()),
        intervals=intervals,
    )


@torch.no_grad()
def certified_bound(
    transform: TaskTransform, head: LinearHead, source: Features, target: Features
) -> float | None:
    """The right-hand side of (2) for two splits; None if a target class receives no source point."""
    return _certified_terms(transform, head, source, target, potentials=False).value


# -------------------------------------------------------------------- quantities as means of terms
@dataclass(frozen=True)
class _Term:
    """A quantity and, for resampling, the terms whose means over both splits add up to it.

    `parts` holds a transport distance for each target class. `value` is None if undefined.
    """

    value: float | None
    source: Tensor | None = None
    target: Tensor | None = None
    parts: tuple[float, ...] | None = None

    def resampled(self, source: Resamples, target: Resamples) -> Tensor:
        pairs = ((source, self.source), (target, self.target))
        return sum(drawn.means(terms) for drawn, terms in pairs if terms is not None)


def _mean_of(*, source: Tensor | None = None, target: Tensor | None = None) -> _Term:
    terms = source if target is None else target
    return _Term(terms.double().mean().item(), source, target)


def _sample_terms(
    transform: TaskTransform, head: LinearHead, source: Features, target: Features, potentials: bool
) -> dict[str, _Term]:
    """Every quantity that is a mean over test samples. `potentials` False: values alone for the
    transport distances.
    """
    x, y, z, t = source.x, source.y, target.x, target.y
    moved = transform.features(x)
    log_h_source, log_h_target = (transform.log_probabilities(head, v) for v in (moved, z))
    assigned = transform.target_class()[y]
    # The first term of the bound: D re-weights the classes, whatever the split's prior.
    count = torch.bincount(y, minlength=head.num_classes)
    if not count.all():
        missing = (count == 0).nonzero().flatten().tolist()
        raise InputError(f"source_test holds no sample of the source classes {missing}")
    weights = len(y) * transform.D / count
    source_losses = functional.cross_entropy(head.logits(x), y, reduction="none")
    return {
        "target_accuracy": _mean_of(target=log_h_target.argmax(1) == t),
        "target_loss": _mean_of(target=functional.nll_loss(log_h_target, t, reduction="none")),
        "transformed_source_accuracy": _mean_of(source=log_h_source.argmax(1) == assigned),
        "transformed_source_loss": _mean_of(source=-_dot_zero_safe(transform.B.T[y], log_h_source)),
        "weighted_source_loss": _mean_of(source=weights[y] * source_losses),
        "wasserstein_distance": _wasserstein_terms(transform, source, target, potentials),
        "bound_certified": _certified_terms(transform, head, source, target, potentials),
    }


def _bounds(values: Mapping[str, float | Tensor], mismatch: float) -> dict[str, float | Tensor]:
    """The third term τ · W and the two bounds that hold it, of numbers or of resamples alike."""
    if values.get("wasserstein_distance") is None:
        return {}
    third = values["tau_measured"] * values["wasserstein_distance"]
    return {
        "distribution_mismatch": third,
        "bound_published": values["weighted_source_loss"] + mismatch + third,
        "bound_transformed": values["transformed_source_loss"] + third,
    }


def _wasserstein_terms(
    transform: TaskTransform, source: Features, target: Features, potentials: bool
) -> _Term:
    """W1 in the feature space for each target class, averaged equally over those it has."""
    moved, classes = transform.features(source.x), len(transform.B)
    assigned = transform.target_class()[source.y]
    costs = (torch.cdist(moved[assigned == k], target.x[target.y == k]) for k in range(classes))
    present = torch.bincount(target.y, minlength=classes) > 0
    shares = present.double() / present.sum()
    return _class_transport(costs, shares, assigned, target.y, potentials)


def _certified_terms(
    transform: TaskTransform, head: LinearHead, source: Features, target: Features, potentials: bool
) -> _Term:
    """The right-hand side of (2)."""
    assigned = transform.target_class()[source.y]
    moved = transform.features(source.x)
    weight = head.weight @ transform.A_inverse
    u, v = moved @ weight.T, target.x @ weight.T
    shares = class_prior(target.y, len(transform.B))
    costs = (logit_spread(u[assigned == k], v[target.y == k]) for k in range(len(shares)))
    spread = _class_transport(costs, shares, assigned, target.y, potentials)
    if spread.value is None:
        return spread
    losses = -transform.log_probabilities(head, moved).gather(1, assigned[:, None])[:, 0]
    count = torch.bincount(assigned, minlength=len(shares)).to(losses)
    losses = losses * (len(losses) * shares.to(losses) / count)[assigned]
    losses_by_source = losses if spread.source is None else losses + spread.source
    return _Term(spread.value + losses.mean().item(), losses_by_source, spread.target)


def _class_transport(
    costs: Iterable[Tensor], shares: Tensor, assigned: Tensor, t: Tensor, potentials: bool
) -> _Term:
    """Σ_k shares_k · W1 of class k, one class's cost in memory at a time. Undefined if a class with
    target points receives no source point.
    """
    distances = []
    source = torch.zeros(len(assigned), dtype=torch.float64, device=t.device)
    target = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    for k, (cost, share) in enumerate(zip(costs, shares.tolist(), strict=True)):
        if cost.shape[1] == 0:
            distances.append(0.0)
            continue
        if cost.shape[0] == 0:
            return _Term(None)
        plan = solve_transport(cost)
        distances.append(plan.cost)
        if potentials:
            u, v = optimal_potentials(cost, plan)
            source[assigned == k] = share * len(assigned) / len(u) * u
            target[t == k] = share * len(t) / len(v) * v
    value = sum(share * distance for share, distance in zip(shares.tolist(), distances, strict=True))
    if not potentials:
        source = target = None
    return _Term(value, source, target, tuple(distances))


SPREAD_ELEMENTS = 2**22  # of the (rows, m, K) differences held at a time: 32 MiB in float64


def logit_spread(u: Tensor, v: Tensor) -> Tensor:
    """d_h of (1) for all pairs of u (n, K) and v (m, K): (n, m), in bounded memory."""
    rows = max(1, SPREAD_ELEMENTS // max(1, v.numel()))
    differences = (part[:, None] - v[None] for part in u.split(rows))
    return torch.cat([difference.amax(2) - difference.amin(2) for difference in differences])


def _gradient_norms(
    transform: TaskTransform, head: LinearHead, target: Features, measure: str, seed: int
) -> Tensor:
    """The steepest ‖∇ℓ‖ of each target point, (n,); their maximum is tau_measured."""
    seen = transform.inverse_features(target.x)
    if measure == "all_labels":
        return loss_gradient_norms(head, seen).amax(1)
    if measure != "summed_pair":
        raise ValueError(f"tau_measure must be one of {', '.join(TAU_MEASURES)}, not {measure!r}")
    generator = torch.Generator().manual_seed(seed)
    true = target.y % head.num_classes
    other = torch.randint(head.num_classes, (len(target),), generator=generator).to(true.device)
    return summed_gradient_norms(head, seen, true, other)


def _dot_zero_safe(weights: Tensor, values: Tensor) -> Tensor:
    """Row-wise Σ weights · values where a weight of zero also silences an infinite value."""
    return torch.where(weights > 0, weights * values, 0.0).sum(1)
