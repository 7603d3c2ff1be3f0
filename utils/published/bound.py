"""What the published form reports: the terms of its two bounds, and a certificate of its classifier.

`transfer_bound` evaluates a transform and the source head on both test splits. On the two bounds
that follow the paper see docs/method.md: neither is a certificate. `bound_certified` is one, of
certificate/inequality.py for the logits that this transform gives. Everything is computed from
log-sum-exp: a probability that underflows has a finite logarithm.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from utils.certificate import certified_terms
from utils.errors import InputError
from utils.features import Features
from utils.linear_head import LinearHead, lipschitz_constant, loss_gradient_norms, summed_gradient_norms
from utils.published.transform import TaskTransform, check_task, inverse_mismatch, label_mismatch
from utils.statistics import interval
from utils.terms import Term, class_transport, draw_resamples, mean_of, term_intervals

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
    """Evaluate every quantity of the published form, on test splits, in float64.

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
        >>> from utils.procedures import TransformSettings
        >>> from utils.published import learn_task_transform
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
def _sample_terms(
    transform: TaskTransform, head: LinearHead, source: Features, target: Features, potentials: bool
) -> dict[str, Term]:
    """Evaluate every quantity that is a mean over test samples. `potentials` False: values alone for the
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
    # W1 in the feature space for each target class, averaged equally over those that there are.
    classes = len(transform.B)
    costs = (torch.cdist(moved[assigned == k], z[t == k]) for k in range(classes))
    present = torch.bincount(t, minlength=classes) > 0
    shares = present.double() / present.sum()
    source_losses = functional.cross_entropy(head.logits(x), y, reduction="none")
    return {
        "target_accuracy": mean_of(target=log_h_target.argmax(1) == t),
        "target_loss": mean_of(target=functional.nll_loss(log_h_target, t, reduction="none")),
        "transformed_source_accuracy": mean_of(source=log_h_source.argmax(1) == assigned),
        "transformed_source_loss": mean_of(source=-_dot_zero_safe(transform.B.T[y], log_h_source)),
        "weighted_source_loss": mean_of(source=weights[y] * source_losses),
        "wasserstein_distance": class_transport(costs, shares, assigned, t, potentials),
        "bound_certified": certified_terms(
            B=transform.B,
            assigned=assigned,
            source_logits=head.logits(transform.inverse_features(moved)),
            target_logits=head.logits(transform.inverse_features(z)),
            t=t,
            potentials=potentials,
        ).bound,
    }


def _bounds(values: Mapping[str, float | Tensor], mismatch: float) -> dict[str, float | Tensor]:
    """Return the third term τ · W and the two bounds that hold it, of numbers or of resamples alike."""
    if values.get("wasserstein_distance") is None:
        return {}
    third = values["tau_measured"] * values["wasserstein_distance"]
    return {
        "distribution_mismatch": third,
        "bound_published": values["weighted_source_loss"] + mismatch + third,
        "bound_transformed": values["transformed_source_loss"] + third,
    }


def _gradient_norms(
    transform: TaskTransform, head: LinearHead, target: Features, measure: str, seed: int
) -> Tensor:
    """Return the steepest ‖∇ℓ‖ of each target point, (n,); their maximum is tau_measured."""
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
    """Return Σ weights · values of each row, where a weight of zero also silences an infinite value."""
    return torch.where(weights > 0, weights * values, 0.0).sum(1)
