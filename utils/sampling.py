"""Classes and their samples: priors, means, and the drawing of points by class."""

import torch
from torch import Tensor


# ------------------------------------------------------------------------------------ classes, batches
def class_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Relative frequencies (K,), float64."""
    return torch.bincount(labels, minlength=num_classes).double() / len(labels)


def class_means(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean of `values` (n,) over each class: (K,)."""
    sums = torch.zeros(num_classes, dtype=values.dtype, device=values.device)
    return sums.index_add(0, labels, values) / torch.bincount(labels, minlength=num_classes)


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


def draw_by_counts(index: list[Tensor], counts: Tensor, generator: torch.Generator) -> Tensor:
    drawn = []
    for points, count in zip(index, counts.tolist(), strict=True):
        if not count:
            continue
        rounds = -(-count // len(points))
        for _ in range(rounds):
            taken = torch.randperm(len(points), generator=generator)[:count]
            drawn.append(points[taken.to(points.device)])
            count -= len(taken)
    return torch.cat(drawn)


def index_by_class(labels: Tensor, num_classes: int) -> list[Tensor]:
    return [(labels == k).nonzero().flatten() for k in range(num_classes)]
