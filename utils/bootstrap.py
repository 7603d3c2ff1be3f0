"""Bootstrap intervals for quantities that are means of one term a sample.

A resample draws as many samples with replacement as there are, inside each class, so that the class
frequencies stay what they are. The interval is the percentile one.
"""

import torch
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

    def largest(self, values: Tensor) -> Tensor:
        """Largest of `values` (n,) in each resample: (R,)."""
        return torch.where(self.counts > 0, values.double(), -torch.inf).amax(1)


def interval(resampled: Tensor) -> tuple[float, float]:
    """The central LEVEL of the resampled values."""
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail]).to(resampled)).tolist()
    return low, high
