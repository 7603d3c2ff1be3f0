"""Intervals for quantities that are means of one term a sample: a bootstrap's, and Wilson's for shares.

A resample draws as many samples with replacement as there are, inside each class, so that the class
frequencies stay what they are. The interval is the percentile one. For a share close to 0 or 1 it is too
narrow (of samples that are all right every resample is): accuracies take Wilson's.
"""

import torch
from scipy.stats import binomtest
from torch import Tensor

LEVEL = 0.95


class Resamples:
    """How often each of the n samples is drawn in each resample: counts (R, n) float64."""

    def __init__(self, labels: Tensor, count: int, generator: torch.Generator):
        counts = torch.zeros((count, len(labels)), dtype=torch.float64)
        for label in labels.unique():
            members = (labels == label).nonzero().flatten().cpu()
            drawn = torch.randint(len(members), (count, len(members)), generator=generator)
            counts.scatter_add_(1, members[drawn], torch.ones_like(drawn, dtype=torch.float64))
        self.counts = counts.to(labels.device)

    def means(self, values: Tensor) -> Tensor:
        """Mean of `values` (n,) over each resample: (R,)."""
        return self.counts @ values.double() / len(values)


def interval(resampled: Tensor) -> tuple[float, float]:
    """The central LEVEL of the resampled values."""
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail]).to(resampled)).tolist()
    return low, high


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Of the chance behind `hits` of `count` independent samples (Wilson 1927), at LEVEL."""
    found = binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def least_share(hits: int, count: int) -> float:
    """What the chance behind `hits` of `count` samples is at least, with confidence LEVEL: the exact
    bound of Clopper and Pearson, to one side.
    """
    test = binomtest(hits, count, alternative="greater")
    return float(test.proportion_ci(LEVEL, method="exact").low)
