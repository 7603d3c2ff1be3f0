"""The certificate on test splits: the bound, its parts and intervals, for all and for each class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from utils.certificate.inequality import CertifiedTerms, certified_terms
from utils.certificate.transform import CertificateTransform
from utils.features import Features
from utils.grouped import least_share_right
from utils.linear_head import LinearHead, log_class_probabilities
from utils.sampling import draw_by_counts, index_by_class
from utils.statistics import largest_shares
from utils.terms import draw_resamples, mean_of, term_intervals


@dataclass(frozen=True)
class ClassCertificate:
    """One target class: its share of the test points, the losses (nats) and `share`, its part of
    bound_certified; the source classes that stand for it, and the two classes that h takes it for most
    often, each with how often.
    """

    target_class: str
    frequency: float
    share: float
    target_loss: float
    source_loss: float
    transport: float
    stood_for_by: tuple[str, ...]
    taken_for: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Certificate:
    """Losses in nats, accuracies in [0, 1], on the test splits. bound_certified is the sum of
    certified_source_loss and certified_transport. `accuracy_at_least`: with 95 % confidence the chance
    that h is right on a new image of the same kind. `fine_tuned_*`: the target head of validated
    strength. `intervals` as in TransferBound. `start`, `end` and `improved`: the certificate on
    training points before and after learning (None and False where nothing was learned).
    """

    fine_tuned_loss: float
    fine_tuned_accuracy: float
    target_loss: float
    target_accuracy: float
    accuracy_at_least: float
    bound_certified: float
    certified_source_loss: float
    certified_transport: float
    constant_prediction_loss: float
    source_accuracy: float
    bound_certified_train: float
    target_loss_train: float
    classes: tuple[ClassCertificate, ...]
    intervals: dict[str, tuple[float, float]] | None
    start: float | None
    end: float | None
    improved: bool


@torch.no_grad()
def certify(
    transform: CertificateTransform,
    target_head: LinearHead,
    train: tuple[Features, Features],
    test: tuple[Features, Features],
    class_names: tuple[Sequence[str], Sequence[str]],
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> Certificate:
    """Evaluate (2) of inequality.py on the test splits (source, target), in float64."""
    double = transform.double()
    source, target = _points(double, *test)
    terms = _terms(double, source, target, potentials=bootstrap > 0)
    log_h = double.log_probabilities(target.x)
    losses, right = functional.nll_loss(log_h, target.y, reduction="none"), log_h.argmax(1) == target.y
    fine_tuned = target_head.to(torch.float64).logits(target.x)
    log_h_source = log_class_probabilities(double.source_logits(source.x), double.B)
    named = {
        "fine_tuned_loss": mean_of(
            target=functional.cross_entropy(fine_tuned, target.y, reduction="none")
        ),
        "fine_tuned_accuracy": mean_of(target=fine_tuned.argmax(1) == target.y),
        "target_loss": mean_of(target=losses),
        "target_accuracy": mean_of(target=right),
        "bound_certified": terms.bound,
        "certified_source_loss": terms.source_loss,
        "certified_transport": terms.transport,
        "source_accuracy": mean_of(source=log_h_source.argmax(1) == double.stands_for[source.y]),
    }
    intervals = None
    if bootstrap:
        drawn = draw_resamples(source, target, bootstrap, seed)
        intervals, _ = term_intervals(named, drawn)
    train_bound, train_loss = _on_training_points(double, train, test, seed)
    return Certificate(
        **{name: term.value for name, term in named.items()},
        accuracy_at_least=least_share_right(right, target.groups),
        constant_prediction_loss=math.log(len(double.B)),
        bound_certified_train=train_bound,
        target_loss_train=train_loss,
        classes=_by_class(double, terms, losses, log_h.argmax(1), target.y, class_names),
        intervals=intervals,
        start=transform.start,
        end=transform.end,
        improved=transform.improved,
    )


def _points(
    transform: CertificateTransform, source: Features, target: Features
) -> tuple[Features, Features]:
    """Take both sides in float64, of the source those of the classes that stand for one."""
    kept = transform.keep(source)
    return replace(kept, x=kept.x.double()), replace(target, x=target.x.double())


def _terms(
    transform: CertificateTransform, source: Features, target: Features, potentials: bool
) -> CertifiedTerms:
    """Evaluate (2) for source points labelled by the class that they are kept as."""
    assigned = transform.stands_for[source.y]
    logits = transform.source_logits(source.x), transform.target_logits(target.x)
    return certified_terms(transform.B, assigned, *logits, target.y, potentials)


def _on_training_points(
    transform: CertificateTransform,
    train: tuple[Features, Features],
    test: tuple[Features, Features],
    seed: int,
) -> tuple[float, float]:
    """Return (bound_certified, target_loss) on as many training points of each class as the test splits
    have: the gap to the test values is what was fitted to the training points, at equal sampling error.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for split, other in zip(train, test, strict=True):
        members = index_by_class(split.y, int(torch.cat([split.y, other.y]).max()) + 1)
        wanted = torch.bincount(other.y, minlength=len(members)).tolist()
        counts = [min(count, len(points)) for count, points in zip(wanted, members, strict=True)]
        chosen = draw_by_counts(members, counts, generator)
        parts.append(split.select(chosen))
    source, target = _points(transform, *parts)
    terms = _terms(transform, source, target, potentials=False)
    loss = functional.nll_loss(transform.log_probabilities(target.x), target.y)
    return terms.bound.value, loss.item()


def _by_class(
    transform: CertificateTransform,
    terms: CertifiedTerms,
    losses: Tensor,
    predicted: Tensor,
    t: Tensor,
    class_names: tuple[Sequence[str], Sequence[str]],
) -> tuple[ClassCertificate, ...]:
    sources, targets = class_names
    rows = []
    for k, name in enumerate(targets):
        members = t == k
        count = int(members.sum())
        taken = torch.bincount(predicted[members], minlength=len(targets)).double() / max(1, count)
        taken[k] = 0.0
        frequency = count / len(t)
        rows.append(
            ClassCertificate(
                target_class=name,
                frequency=frequency,
                share=frequency * terms.bound.parts[k],
                target_loss=losses[members].mean().item() if count else 0.0,
                source_loss=terms.source_loss.parts[k],
                transport=terms.transport.parts[k],
                stood_for_by=tuple(
                    sources[s] for s in transform.source_classes[transform.stands_for == k].tolist()
                ),
                taken_for=largest_shares(taken, targets),
            )
        )
    return tuple(rows)
