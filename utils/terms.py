"""Quantities that are means of one term for each test sample, and their intervals."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.features import Features
from utils.grouped import share_interval
from utils.statistics import Resamples, interval
from utils.transport import optimal_potentials, solve_transport


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
    """Return (the 95 % interval of each defined term, the resampled values of those that are no
    accuracy).
    """
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


def class_transport(
    costs: Iterable[Tensor], shares: Tensor, assigned: Tensor, t: Tensor, potentials: bool
) -> Term:
    """Return Σ_k shares_k · W_k, W_k the optimal transport cost of class k, one class's cost in memory
    at a time. Undefined if a class with target points receives no source point.
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
            # W_k = mean u + mean v: of a resample, to first order, the means of these over it.
            u, v = optimal_potentials(cost, plan)
            source[assigned == k] = share * len(assigned) / len(u) * u
            target[t == k] = share * len(t) / len(v) * v
    value = sum(share * distance for share, distance in zip(shares.tolist(), distances, strict=True))
    if not potentials:
        source = target = None
    return Term(value, source, target, tuple(distances))
