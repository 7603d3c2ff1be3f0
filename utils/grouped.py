"""Shares of samples that come in groups: ten pictures of one scene say less than ten scenes.

The share p that is right of m samples varies as if there were fewer of them,

    m / d,   d = Σ_g (h_g − p m_g)² / (m p(1 − p)),                                               (1)

with h_g of the m_g samples of group g right: d is the design effect (Kish 1965), 1 where groups say
nothing and the size of the groups where all of one group are right or wrong together. Four groups of
mean size are added, two of them right: shares of 0 or 1 would seem to be known. Intervals are those of
independent samples with m/d in the place of m, with Student's t of one group less in the place of the
normal quantile (Korn and Graubard 1998).
"""

import math

import torch
from torch import Tensor

from utils.statistics import (
    LEVEL,
    beta_quantile,
    least_share,
    normal_quantile,
    share_of_classes,
    student_quantile,
    wilson_interval,
    wilson_of_share,
)

ADDED = 4  # groups, half of them right


def design_effect(right: Tensor, groups: Tensor) -> float:
    """Estimate the d of (1), at least 1, from which samples (m,) are right and their groups (m,)."""
    _, number, sizes = groups.cpu().unique(return_inverse=True, return_counts=True)
    sizes, hits = sizes.double(), torch.bincount(number, right.double().cpu())
    mean = sizes.mean()
    sizes = torch.cat([sizes, mean.expand(ADDED)])
    hits = torch.cat([hits, mean * (torch.arange(ADDED) % 2)])
    p = hits.sum() / sizes.sum()
    spread = (hits - p * sizes).square().sum() / (sizes.sum() * p * (1 - p))
    return max(1.0, spread.item())


def effective_count(right: Tensor, groups: Tensor | None) -> float:
    """Return how many independent samples say as much of the share that is right."""
    return len(right) if groups is None else len(right) / design_effect(right, groups)


def effective_new(count: int, new_groups: Tensor | None, right: Tensor, groups: Tensor | None) -> float:
    """Return the effective count of `count` new samples in groups of their own, by how much those of one
    group agree in `right` and `groups`: d = 1 + ρ (b − 1), b the mean size of the group of a sample.
    Where that is not known, they are taken to agree.
    """
    if new_groups is None:
        return count
    agreement, size = 1.0, 1.0
    if groups is not None and (size := _size_of_own_group(groups)) > 1:
        agreement = min(1.0, (design_effect(right, groups) - 1) / (size - 1))
    return count / (1 + agreement * (_size_of_own_group(new_groups) - 1))


def share_interval(right: Tensor, groups: Tensor | None) -> tuple[float, float]:
    """Return Wilson's interval of the chance to be right (m,), of whole groups (m,) where there are
    some.
    """
    if groups is None:
        return wilson_interval(int(right.sum()), len(right))
    z = normal_quantile((1 + LEVEL) / 2)
    p, n = right.double().mean().item(), _count_at(right, groups, (1 + LEVEL) / 2)
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    reach = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def balanced_accuracy(
    right: Tensor, labels: Tensor, groups: Tensor | None = None
) -> tuple[float, tuple[float, float]]:
    """Return (the mean over classes of the share `right` (m,), its interval): Wilson's with as many
    samples as `share_of_classes` says, of whole groups (m,) with fewer. Of independent samples in
    classes of one size it is the accuracy with Wilson's interval.
    """
    share, count = share_of_classes(right.double().cpu().numpy(), labels.cpu().numpy())
    if groups is not None:
        count *= _count_at(right, groups, (1 + LEVEL) / 2) / len(right)
    elif count == len(right):
        return share, wilson_interval(int(right.sum()), len(right))
    return share, wilson_of_share(share, count)


def least_share_right(right: Tensor, groups: Tensor | None) -> float:
    """Return `statistics.least_share` of which samples are right (m,), of whole groups (m,)."""
    if groups is None:
        return least_share(int(right.sum()), len(right))
    p, n = right.double().mean().item(), _count_at(right, groups, LEVEL)
    return beta_quantile(1 - LEVEL, p * n, (1 - p) * n + 1) if p > 0 else 0.0


def _count_at(right: Tensor, groups: Tensor, quantile: float) -> float:
    """Return the effective count, less what Student's t adds to the reach of an interval to this
    quantile.
    """
    freedom = max(1, len(groups.unique()) - 1)
    widening = normal_quantile(quantile) / student_quantile(quantile, freedom)
    return effective_count(right, groups) * float(widening**2)


def _size_of_own_group(groups: Tensor) -> float:
    sizes = groups.unique(return_counts=True)[1].double().cpu()
    return (sizes.square().sum() / sizes.sum()).item()
