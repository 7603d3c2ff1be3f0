"""How well an order agrees with another: correlations, and regret."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

from utils.statistics import LEVEL

FEWEST_FOR_INTERVALS = 6  # of fewer models a bootstrap holds too few different samples
# Two weighted Kendall correlations are in use: SciPy's own, which weighs candidates by their ranks in
# both orders (SFDA and the papers after it), and by their ranks in accuracy alone (Model Spider).
BY_BOTH, BY_ACCURACY = "weighted Kendall", "weighted Kendall by accuracy"
CORRELATIONS = {
    "Pearson": lambda scores, truth: stats.pearsonr(scores, truth).statistic,
    "Kendall": lambda scores, truth: stats.kendalltau(scores, truth).statistic,
    BY_BOTH: lambda scores, truth: stats.weightedtau(scores, truth).statistic,
    BY_ACCURACY: lambda scores, truth: stats.weightedtau(truth, scores, rank=None).statistic,
}
MEASURES = (*CORRELATIONS, "regret")


def regret(scores: np.ndarray, truth: np.ndarray) -> float:
    """Say by how much the best model is better than the one with the highest score: the mean over those
    that share it, NaN where all do. A model that has no score (NaN) cannot be picked, but may be the
    best.
    """
    having = ~np.isnan(scores)
    if len(np.unique(scores[having])) < 2:
        return math.nan
    picked = truth[having & (scores == scores[having].max())].mean()
    return max(0.0, float(truth.max() - picked))  # rounding of a mean


def order_agreement(
    scores: Sequence[float],
    truth: Sequence[float],
    resamples: int,
    seed: int,
    networks: Sequence[Hashable] = (),
    measures: Sequence[str] = MEASURES,
) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """Evaluate each of the `measures`, over the models that have a score (the others: NaN), with its
    bootstrap interval over the models (FEWEST_FOR_INTERVALS or more). NaN where all scores are equal;
    resamples in which a measure is undefined do not count. `networks`: models of one network, which
    fine-tuning cannot tell apart, are drawn together.
    """
    scores, truth = np.asarray(scores, float), np.asarray(truth, float)
    networks = list(networks) or list(range(len(scores)))
    members = [np.flatnonzero([n == one for n in networks]) for one in dict.fromkeys(networks)]
    rng = np.random.default_rng(seed)
    picks = (rng.integers(len(members), size=len(members)) for _ in range(resamples))
    draws = [np.concatenate([members[k] for k in pick]) for pick in picks]
    having = ~np.isnan(scores)
    enough = sum(having[group].any() for group in members) >= FEWEST_FOR_INTERVALS
    found = {}
    for name in measures:
        value = correlation(name, scores, truth)
        values = [correlation(name, scores[draw], truth[draw]) for draw in draws if enough]
        values = [v for v in values if not math.isnan(v)]
        limits = None
        if values and not math.isnan(value):
            limits = tuple(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist())
        found[name] = (value, limits)
    return found


def correlation(measure: str, scores: np.ndarray, truth: np.ndarray) -> float:
    if measure == "regret":
        return regret(scores, truth)
    having = ~np.isnan(scores)
    scores, truth = scores[having], truth[having]
    if len(np.unique(scores)) < 2 or len(np.unique(truth)) < 2:
        return math.nan
    return float(CORRELATIONS[measure](scores, truth))
