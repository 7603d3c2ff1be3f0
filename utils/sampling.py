"""Classes and their samples: priors, means, and the drawing of points by class."""

from collections.abc import Sequence

import torch
from torch import Tensor

FOLDS = 5


def class_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Relative frequencies (K,), float64."""
    return torch.bincount(labels, minlength=num_classes).double() / len(labels)


def class_means(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Means of `values` (n, …) over each class: (K, …)."""
    sums = torch.zeros(num_classes, *values.shape[1:], dtype=values.dtype, device=values.device)
    counts = torch.bincount(labels, minlength=num_classes)
    return sums.index_add(0, labels, values) / counts.view(-1, *[1] * (values.ndim - 1))


def class_counts(prior: Tensor, size: int, sampler: str) -> Tensor:
    """How many of `size` points each class gets: int(size · prior), and with `exact` the points that
    are left over go to the largest remainders.
    """
    share = prior.cpu() * size
    counts = share.floor().long()
    if sampler == "exact":
        left = size - int(counts.sum())
        counts[(share - counts).argsort(descending=True, stable=True)[:left]] += 1
    elif sampler != "truncated":
        raise ValueError(f"sampler must be exact or truncated, not {sampler!r}")
    return counts


def draw_stratified(
    index: list[Tensor], prior: Tensor, size: int, sampler: str, generator: torch.Generator
) -> Tensor:
    """Indices of a batch stratified by `prior`. Without replacement inside a class; a class with
    fewer points than its share is capped (`truncated`) or repeated (`exact`, to keep the prior).
    """
    counts = class_counts(prior, size, sampler)
    if sampler == "truncated":
        counts = torch.minimum(counts, torch.tensor([len(points) for points in index]))
    return draw_by_counts(index, counts, generator)


def draw_by_counts(
    index: list[Tensor], counts: Sequence[int] | Tensor, generator: torch.Generator
) -> Tensor:
    """So many points of each class at random; where there are fewer, all of them again and again."""
    drawn = []
    for points, count in zip(index, torch.as_tensor(counts).tolist(), strict=True):
        if not count:
            continue
        rounds = -(-count // len(points))
        for _ in range(rounds):
            taken = torch.randperm(len(points), generator=generator)[:count]
            drawn.append(points[taken.to(points.device)])
            count -= len(taken)
    return torch.cat(drawn)


def index_by_class(labels: Tensor, num_classes: int) -> list[Tensor]:
    """The samples of each class, in their order."""
    return [(labels == k).nonzero().flatten() for k in range(num_classes)]


def stratified_folds(y: Tensor) -> Tensor:
    """The fifth, 0..4, that each sample belongs to, (n,); −1, in none, for a class's only sample."""
    generator = torch.Generator().manual_seed(0)
    fold = torch.full_like(y, -1)
    for label in y.unique():
        members = (y == label).nonzero().flatten()
        if len(members) > 1:
            order = torch.randperm(len(members), generator=generator).to(y.device)
            fold[members[order]] = torch.arange(len(members), device=y.device) % FOLDS
    return fold


def share_of_each_class(y: Tensor, fold: Tensor, share: float) -> Tensor:
    """Indices of this share of the samples of each class and fold, at least one; all where it is 1."""
    if share == 1.0:
        return torch.arange(len(y), device=y.device)
    group = y * (FOLDS + 1) + fold + 1
    order = group.argsort(stable=True)
    count = torch.bincount(group)
    place = torch.arange(len(y), device=y.device) - (count.cumsum(0) - count)[group[order]]
    return order[place < (count[group[order]] * share).ceil()].sort().values
