"""What the published form reports, and the certificate of any transformed classifier.

`transfer_bound` evaluates a transform and the source head on both test splits. On the two bounds
that follow the paper see docs/method.md: neither is a certificate. `bound_certified` is one. With the
logits g of a transformed source point and g' of a target point, Δ = g' − g and q_s ∝ B_ts exp(g_s), the
loss of h = B softmax(g) satisfies
    ℓ(g', t) − ℓ(g, t) = [LSE(g') − LSE(g)] − [LSE(g' + log B_t) − LSE(g + log B_t)]
                       ≤ max_s Δ_s − ⟨q, Δ⟩ =: c_t(g, g'),                                      (1)
so that for any coupling of the source points mapped to t with the target points of class t
    target loss ≤ Σ_t π_T,t ( mean over source points mapped to t of ℓ(g, t) + W^c_t ),        (2)
W^c_t the optimal transport cost for c_t, with which the right-hand side is smallest. c_t is no metric
and need not be one. Everything is computed from log-sum-exp: a probability that underflows has a finite
logarithm.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from utils.errors import InputError
from utils.features import Features
from utils.grouped import share_interval
from utils.linear_head import LinearHead, lipschitz_constant, loss_gradient_norms, summed_gradient_norms
from utils.sampling import class_prior
from utils.statistics import Resamples, interval
from utils.task_transform import (
    TaskTransform,
    check_task,
    inverse_mismatch,
    label_mismatch,
    log_class_probabilities,
)
from utils.transport import optimal_potentials, solve_transport

TAU_MEASURES = ("all_labels", "summed_pair")


@dataclass(frozen=True)
class TransferBound:
    """Losses in nats, accuracies in [0, 1]. A quantity that is undefined because some target class
    receives no source point is None, and those classes stand in `unreached_classes`. `intervals`:
    95 % intervals over the test samples of the quantities that depend on them, by name: Wilson's for
    accuracies, a bootstrap's for losses and bounds, with tau_measured held at its value (of a maximum no
    bootstrap has an interval).
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
    """Every quantity of the published form, on test splits, in float64.

    The transport distances enter a resample through the optimal potentials of the whole splits: to
    first order that is their spread, and never more than the resample's own distance.

    Args:
        transform: from `learn_task_transform`.
        head: the source head that it was learned with.
        source_test: standardised features (n, d) with labels 0..K_S−1.
        target_test: standardised features (m, d) with labels 0..K_T−1.
        tau_measure: `all_labels`, the largest ‖∇ℓ‖ over all target points and labels; `summed_pair`, the
            released small-scale code's (true + one random label).
        bootstrap: resamples for the 95 % intervals; 0: none.
        seed: of the resamples.

    Returns:
        Losses and bounds in nats, accuracies in [0, 1]; undefined bounds are None.

    Raises:
        ValueError: features, labels and head do not fit, or the measure is unknown.

    Source: arXiv:2307.00823, theorem 1; docs/method.md for `bound_certified`.

    Example:
        >>> from utils.task_transform import TransformSettings, learn_task_transform
        >>> x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
        >>> task = Features(x, (x[:, 0] > 0).long())
        >>> head = LinearHead(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.zeros(2))
        >>> fixed = learn_task_transform(task, task, head, TransformSettings("FixedAll"), seed=1)
        >>> found = transfer_bound(fixed, head, task, task)
        >>> found.target_loss <= found.bound_certified
        True
    """
    num_targets, num_sources = transform.B.shape
    if num_sources != head.num_classes:
        raise ValueError(f"transform.B has {num_sources} columns, the head {head.num_classes} classes")
    check_task("source_test", source_test, num_sources)
    check_task("target_test", target_test, num_targets)
    transform, head = transform.to(torch.float64), head.to(torch.float64)
    source, target = (replace(side, x=side.x.double()) for side in (source_test, target_test))
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
        drawn = draw_resamples(source, target, bootstrap, seed)
        intervals, resampled = term_intervals(terms, drawn)
        fixed = {"tau_measured": values["tau_measured"]}
        bounds = _bounds({**resampled, **fixed}, mismatch)
        intervals |= {name: interval(value) for name, value in bounds.items()}
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


# -------------------------------------------------------------------- quantities as means of terms
@dataclass(frozen=True)
class Term:
    """A quantity and, for resampling, the terms whose means over both splits add up to it.

    `parts` holds a value for each target class. `value` is None if undefined; `accuracy`: whether the
    terms are zeros and ones.
    """

    value: float | None
    source: Tensor | None = None
    target: Tensor | None = None
    parts: tuple[float, ...] | None = None
    accuracy: bool = False

    def resampled(self, source: Resamples, target: Resamples) -> Tensor:
        pairs = ((source, self.source), (target, self.target))
        return sum(drawn.means(terms) for drawn, terms in pairs if terms is not None)


def mean_of(*, source: Tensor | None = None, target: Tensor | None = None) -> Term:
    terms = source if target is None else target
    return Term(terms.double().mean().item(), source, target, accuracy=terms.dtype == torch.bool)


def draw_resamples(
    source: Features, target: Features, count: int, seed: int
) -> tuple[Resamples, Resamples]:
    generator = torch.Generator().manual_seed(seed)
    first = Resamples(source.y, count, generator, source.groups)
    return first, Resamples(target.y, count, generator, target.groups)


def term_intervals(
    terms: Mapping[str, Term], drawn: tuple[Resamples, Resamples]
) -> tuple[dict[str, tuple[float, float]], dict[str, Tensor]]:
    """(the 95 % interval of each defined term, the resampled values of those that are no accuracy)."""
    intervals, resampled = {}, {}
    for name, term in terms.items():
        if term.value is None:
            continue
        if term.accuracy:
            side = 0 if term.target is None else 1
            intervals[name] = share_interval((term.source, term.target)[side], drawn[side].groups)
        else:
            resampled[name] = term.resampled(*drawn)
            intervals[name] = interval(resampled[name])
    return intervals, resampled


def _sample_terms(
    transform: TaskTransform, head: LinearHead, source: Features, target: Features, potentials: bool
) -> dict[str, Term]:
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
        "target_accuracy": mean_of(target=log_h_target.argmax(1) == t),
        "target_loss": mean_of(target=functional.nll_loss(log_h_target, t, reduction="none")),
        "transformed_source_accuracy": mean_of(source=log_h_source.argmax(1) == assigned),
        "transformed_source_loss": mean_of(source=-_dot_zero_safe(transform.B.T[y], log_h_source)),
        "weighted_source_loss": mean_of(source=weights[y] * source_losses),
        "wasserstein_distance": _wasserstein_terms(transform, source, target, potentials),
        "bound_certified": certified_terms(
            transform.B, assigned, head.logits(transform.inverse_features(moved)),
            head.logits(transform.inverse_features(z)), t, potentials,
        ).bound,
    }  # fmt: skip


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
) -> Term:
    """W1 in the feature space for each target class, averaged equally over those it has."""
    moved, classes = transform.features(source.x), len(transform.B)
    assigned = transform.target_class()[source.y]
    costs = (torch.cdist(moved[assigned == k], target.x[target.y == k]) for k in range(classes))
    present = torch.bincount(target.y, minlength=classes) > 0
    shares = present.double() / present.sum()
    return _class_transport(costs, shares, assigned, target.y, potentials)


@dataclass(frozen=True)
class CertifiedTerms:
    """The right-hand side of (2) and its two parts, each with its value for every target class."""

    bound: Term
    source_loss: Term
    transport: Term


def certified_terms(
    B: Tensor,
    assigned: Tensor,
    source_logits: Tensor,
    target_logits: Tensor,
    t: Tensor,
    potentials: bool,
) -> CertifiedTerms:
    """(2) for B (K_T, K), logits (n, K) of source points mapped to the target classes `assigned` (n,),
    and logits (m, K) of target points of classes t (m,). A target class without points costs nothing;
    one that has points and no source point leaves all three undefined.
    """
    source_logits, target_logits, B = source_logits.double(), target_logits.double(), B.double()
    num_targets = len(B)
    shares = class_prior(t, num_targets)
    costs = (
        one_sided_cost(B[k], source_logits[assigned == k], target_logits[t == k])
        for k in range(num_targets)
    )
    transport = _class_transport(costs, shares, assigned, t, potentials)
    if transport.value is None:
        return CertifiedTerms(*(Term(None),) * 3)
    losses = -log_class_probabilities(source_logits, B).gather(1, assigned[:, None])[:, 0]
    count = torch.bincount(assigned, minlength=num_targets)
    weights = len(assigned) * shares.to(losses) / count.clamp_min(1)
    by_class = torch.zeros(num_targets).to(losses).index_add_(0, assigned, losses) / count.clamp_min(1)
    weighted = torch.where(weights[assigned] > 0, weights[assigned] * losses, 0.0)
    source_loss = Term(weighted.mean().item(), weighted, None, tuple(by_class.tolist()))
    both = weighted if transport.source is None else weighted + transport.source
    total = source_loss.value + transport.value
    parts = tuple(a + b for a, b in zip(source_loss.parts, transport.parts, strict=True))
    return CertifiedTerms(Term(total, both, transport.target, parts), source_loss, transport)


PAIR_ELEMENTS = 2**22  # of the (rows, m, K) differences held at a time: 32 MiB in float64


def one_sided_cost(B_t: Tensor, source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """c_t of (1) for all pairs, B_t (K,) the row of B: (n, m), not negative, in bounded memory. Where
    B_t is zero the loss is infinite on both sides; the cost is then max Δ − min Δ.
    """
    log_B = B_t.log() if (B_t > 0).any() else torch.zeros_like(B_t)
    q = torch.softmax(source_logits + log_B, dim=1)
    rows = max(1, PAIR_ELEMENTS // max(1, target_logits.numel()))
    costs = []
    for part, weights in zip(source_logits.split(rows), q.split(rows), strict=True):
        difference = target_logits[None] - part[:, None]
        # ⟨q, Δ⟩ from the differences themselves: outliers would cancel in ⟨q, g'⟩ − ⟨q, g⟩.
        costs.append(difference.amax(2) - (difference @ weights[:, :, None])[:, :, 0])
    return torch.cat(costs).clamp_min(0)


def _class_transport(
    costs: Iterable[Tensor], shares: Tensor, assigned: Tensor, t: Tensor, potentials: bool
) -> Term:
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
            return Term(None)
        plan = solve_transport(cost)
        distances.append(plan.cost)
        if potentials:
            u, v = optimal_potentials(cost, plan)
            source[assigned == k] = share * len(assigned) / len(u) * u
            target[t == k] = share * len(t) / len(v) * v
    value = sum(share * distance for share, distance in zip(shares.tolist(), distances, strict=True))
    if not potentials:
        source = target = None
    return Term(value, source, target, tuple(distances))


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
