"""Intervals of shares, of means and of scores.

Quantities that are means of one term a sample have a bootstrap's interval, shares have Wilson's.

A resample draws as many samples with replacement as there are, inside each class, so that the class
frequencies stay what they are. The interval is the percentile one. For a share close to 0 or 1 it is too
narrow (of samples that are all right every resample is): accuracies take Wilson's.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy import special
from scipy.optimize import brentq
from torch import Tensor

LEVEL = 0.95


# SciPy's own functions below scipy.stats, which takes half a second to import.
def normal_quantile(level: float) -> float:
    return float(special.ndtri(level))


def student_quantile(level: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, level))


def beta_quantile(level: float, a: float, b: float) -> float:
    return float(special.betaincinv(a, b, level))


def jackknife_interval(
    whole: float, metric: Callable[[np.ndarray], float], folds: np.ndarray
) -> tuple[float, float] | None:
    """Return the interval of a score whose value on all samples is `whole`. `metric`: its value without
    those that a mask (n,) says; `folds` (n,): the part 0.. that each sample belongs to, −1 for none.
    None where there are fewer than two parts.

    The jackknife that leaves out one of J parts: (J − 1)/J times the values' sum of squares estimates
    the variance, and Student's t with J − 1 degrees of freedom its reach. Exact for means of normal
    values.
    """
    parts = [k for k in range(int(folds.max()) + 1) if (folds == k).any()]
    if len(parts) < 2:
        return None
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        values = list(pool.map(lambda k: metric(folds == k), parts))
    deviation = math.sqrt(statistics.pvariance(values) * (len(parts) - 1))
    reach = float(student_quantile((1 + LEVEL) / 2, len(parts) - 1)) * deviation
    return whole - reach, whole + reach


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of the mean of a few values by their spread, with Student's t; None for one
    value.
    """
    if len(values) < 2:
        return None
    deviation = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(student_quantile((1 + LEVEL) / 2, len(values) - 1)) * deviation
    return statistics.fmean(values) - reach, statistics.fmean(values) + reach


class Resamples:
    """How often each of the n samples is drawn in each resample: counts (R, n) float64. Of `groups` (n,)
    whole ones are drawn, and each class weighs what it did.
    """

    def __init__(
        self, labels: Tensor, count: int, generator: torch.Generator, groups: Tensor | None = None
    ):
        self.groups = groups
        if groups is not None:
            self.counts = _group_counts(labels, count, generator, groups).to(labels.device)
            return
        counts = torch.zeros((count, len(labels)), dtype=torch.float64)
        for label in labels.unique():
            members = (labels == label).nonzero().flatten().cpu()
            drawn = torch.randint(len(members), (count, len(members)), generator=generator)
            counts.scatter_add_(1, members[drawn], torch.ones_like(drawn, dtype=torch.float64))
        self.counts = counts.to(labels.device)

    def means(self, values: Tensor) -> Tensor:
        """Return mean of `values` (n,) over each resample: (R,)."""
        return self.counts @ values.double() / len(values)


def _group_counts(labels: Tensor, count: int, generator: torch.Generator, groups: Tensor) -> Tensor:
    """Count the groups to draw from: they are drawn inside each class, or among all where some hold
    several classes.
    """
    labels, groups = labels.cpu(), groups.cpu().unique(return_inverse=True)[1]
    pairs = (groups * (int(labels.max()) + 2) + labels).unique()
    if len(pairs) > int(groups.max()) + 1:
        labels = torch.zeros_like(labels)
    counts = torch.zeros((count, len(labels)), dtype=torch.float64)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        _, number = groups[members].unique(return_inverse=True)
        drawn = torch.randint(most := int(number.max()) + 1, (count, most), generator=generator)
        of_groups = torch.zeros((count, most), dtype=torch.float64)
        of_groups.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        of_samples = of_groups[:, number]
        counts[:, members] = of_samples * (len(members) / of_samples.sum(1, keepdim=True))
    return counts


def interval(resampled: Tensor) -> tuple[float, float]:
    """Return the central LEVEL of the resampled values."""
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail]).to(resampled)).tolist()
    return low, high


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the interval of the chance behind `hits` of `count` independent samples (Wilson 1927), at
    LEVEL.
    """
    share, z = hits / count, normal_quantile((1 + LEVEL) / 2)
    middle = (2 * count * share + z**2) / (2 * (count + z**2))
    reach = z / (2 * (count + z**2)) * math.sqrt(4 * count * share * (1 - share) + z**2)
    return (middle - reach if hits else 0.0), (middle + reach if hits < count else 1.0)


def widening_of_folds(folds: int) -> float:
    """Return (t/z)²: by how much the variance of a mean over held-out folds is taken to be larger than
    if their samples were independent, t Student's quantile with folds − 1 degrees of freedom, z the
    normal one.
    """
    tail = (1 + LEVEL) / 2
    return float((student_quantile(tail, folds - 1) / normal_quantile(tail)) ** 2)


def held_out_interval(
    hits: float, count: int, folds: int, new_samples: int | None = None
) -> tuple[float, float]:
    """Return the interval for the share that is right of `new_samples` new samples (None: of all that
    could be drawn), from `hits` of `count` held-out ones: with p = (hits + 2)/(count + 4),

        hits/count ± √(t² p(1 − p)/count + z² p(1 − p)/new_samples).

    Student's t: the folds share most of their training data, so that their samples say less than
    independent ones (Bates, Hastie and Tibshirani 2024).
    """
    p, z = (hits + 2) / (count + 4), normal_quantile((1 + LEVEL) / 2)
    shares = widening_of_folds(folds) / count + (1 / new_samples if new_samples else 0.0)
    share, reach = hits / count, float(z * math.sqrt(p * (1 - p) * shares))
    return max(0.0, share - reach), min(1.0, share + reach)


def majority_share(labels: Tensor) -> float:
    """Return the share of the most frequent class: the accuracy of always answering it."""
    return int(torch.bincount(labels).max()) / len(labels)


def share_of_classes(right: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return (balanced accuracy p: the mean over classes of the share `right` of each one's samples; how
    many samples of a single class would tell it as well). The second is q(1 − q)/V with

        V = (1/K²) Σ_c q_c(1 − q_c)/n_c,   q_c = (hits_c + 1/2 + a)/(n_c + 2),   q = mean of q_c,

    a = (hits + 2)/(n + 4) of all classes. Half of what is added to a class are the others' hits, half of
    it is even: a class whose few samples are all right is not taken for certain.
    """
    _, of_class = np.unique(labels, return_inverse=True)
    counts = np.bincount(of_class)
    hits = np.bincount(of_class, weights=right)
    if (counts == counts[0]).all():
        return float(right.sum() / len(right)), float(len(right))
    pooled = (right.sum() + 2) / (len(right) + 4)
    expected = (hits + 1 / 2 + pooled) / (counts + 2)
    variance = (expected * (1 - expected) / counts).sum() / len(counts) ** 2
    mean = expected.mean()
    return float((hits / counts).mean()), float(mean * (1 - mean) / variance)


def wilson_of_share(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's interval where `count` need not be a whole number."""
    z = normal_quantile((1 + LEVEL) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def mixture_interval(
    means: np.ndarray, variances: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """Return the central LEVEL of a mixture of Gaussians."""
    deviations = np.sqrt(variances) + 1e-12  # where nothing is gained, nothing varies
    ends = (means - 10 * deviations).min(), (means + 10 * deviations).max()

    def quantile(q: float) -> float:
        return brentq(lambda x: weights @ special.ndtr((x - means) / deviations) - q, *ends)

    return quantile((1 - LEVEL) / 2), quantile((1 + LEVEL) / 2)


def least_share(hits: int, count: int) -> float:
    """Return what the chance behind `hits` of `count` samples is at least, with confidence LEVEL: the
    exact bound of Clopper and Pearson, to one side.
    """
    return beta_quantile(1 - LEVEL, hits, count - hits + 1) if hits else 0.0


def largest_shares(shares: Tensor, names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return the two largest of `shares` (K,) that are not zero, with their names."""
    most = shares.argsort(descending=True, stable=True)[:2].tolist()
    return tuple((names[j], shares[j].item()) for j in most if shares[j] > 0)
