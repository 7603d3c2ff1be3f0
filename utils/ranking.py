"""How sure a score is, and how well scores order models: intervals, correlations, regret."""

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from utils.bootstrap import LEVEL
from utils.summary import UNDEFINED
from utils.truth import Table, mean_rank_elsewhere

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
PREDICTED, MODEL_SIZE = "predicted accuracy", "model size (log10)"


@dataclass(frozen=True)
class Score:
    """As it is reported; `interval` at LEVEL, None where the score has none (a model's size)."""

    value: float
    interval: tuple[float, float] | None
    seconds: float
    lower_is_better: bool = False

    @property
    def rank(self) -> float:
        """What orders models: the larger, the better."""
        return -self.value if self.lower_is_better else self.value


def jackknife_interval(
    whole: float, metric: Callable[[np.ndarray], float], folds: np.ndarray
) -> tuple[float, float] | None:
    """The interval of a score whose value on all samples is `whole`. `metric`: its value without those
    that a mask (n,) says; `folds` (n,): the part 0.. that each sample belongs to, −1 for none. None
    where there are fewer than two parts.

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
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(parts) - 1)) * deviation
    return whole - reach, whole + reach


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """Of the mean of a few values by their spread, with Student's t; None for one value."""
    if len(values) < 2:
        return None
    deviation = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * deviation
    return statistics.fmean(values) - reach, statistics.fmean(values) + reach


def regret(scores: np.ndarray, truth: np.ndarray) -> float:
    """By how much the best model is better than the one with the highest score: the mean over those that
    share it, NaN where all do. A model that has no score (NaN) cannot be picked, but may be the best.
    """
    having = ~np.isnan(scores)
    if len(np.unique(scores[having])) < 2:
        return math.nan
    picked = truth[having & (scores == scores[having].max())].mean()
    return max(0.0, float(truth.max() - picked))  # rounding of a mean


def agreement(
    scores: Sequence[float],
    truth: Sequence[float],
    resamples: int,
    seed: int,
    networks: Sequence[Hashable] = (),
    measures: Sequence[str] = MEASURES,
) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """Each of the `measures`, over the models that have a score (the others: NaN), with its bootstrap
    interval over the models (FEWEST_FOR_INTERVALS or more). NaN where all scores are equal; resamples
    in which a measure is undefined do not count. `networks`: models of one network, which fine-tuning
    cannot tell apart, are drawn together.
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
        value = _defined(name, scores, truth)
        values = [_defined(name, scores[draw], truth[draw]) for draw in draws if enough]
        values = [v for v in values if not math.isnan(v)]
        limits = None
        if values and not math.isnan(value):
            limits = tuple(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist())
        found[name] = (value, limits)
    return found


def _defined(measure: str, scores: np.ndarray, truth: np.ndarray) -> float:
    if measure == "regret":
        return regret(scores, truth)
    having = ~np.isnan(scores)
    scores, truth = scores[having], truth[having]
    if len(np.unique(scores)) < 2 or len(np.unique(truth)) < 2:
        return math.nan
    return float(CORRELATIONS[measure](scores, truth))


# ------------------------------------------------------------------------------------------ the tables
def compare(
    scores: Mapping[str, Mapping[str, Score]],
    truth: Mapping[str, float],
    seed: int,
    networks: Mapping[str, Hashable],
) -> dict:
    """By metric: agreement with the accuracies, where at least three candidates have it. `networks` says
    which network each candidate is.
    """
    names = dict.fromkeys(name for of_one in scores.values() for name in of_one)
    accuracies = [truth[candidate] for candidate in scores]
    groups = [networks[candidate] for candidate in scores]
    found = {}
    for name in names:
        values = [of_one[name].rank if name in of_one else math.nan for of_one in scores.values()]
        if sum(not math.isnan(value) for value in values) > 2:
            found[name] = agreement(values, accuracies, 1000, seed, groups)
    return found


def consensus(scores: Mapping[str, Mapping[str, Score]], of: Sequence[str]) -> dict[str, Score]:
    """Each candidate's mean rank (1 is the best) by the scores `of` that all candidates have."""
    names = [name for name in of if all(name in of_one for of_one in scores.values())]
    if not names:
        return {}
    ranks = [stats.rankdata([-of_one[name].rank for of_one in scores.values()]) for name in names]
    means = np.mean(ranks, axis=0)
    return {
        candidate: Score(float(mean), None, 0.0, lower_is_better=True)
        for candidate, mean in zip(scores, means, strict=True)
    }


@dataclass(frozen=True)
class Facts:
    """Of a candidate's network, None where it is none: parameters, dimension of its features, and
    images/s that it saw on this machine.
    """

    parameters: int | None
    feature_dim: int
    images_per_second: float | None


def candidate_table(
    scores: Mapping[str, Mapping[str, Score]],
    truth: Mapping[str, float],
    odds: Mapping[str, float],
    facts: Mapping[str, Facts],
) -> tuple[list[str], list[list[str]]]:
    """(head, rows) for a person: a row a candidate, in the order of `scores`."""
    nulls = [name for name in _names(scores) if name.startswith(MODEL_SIZE)]
    names = [name for name in _names(scores) if name != PREDICTED and name not in nulls]
    head = ["model", *(["accuracy"] if truth else []), PREDICTED, "best in", *names]
    head += ["parameters", "features", "images/s"]
    rows = []
    for candidate, of_one in scores.items():
        about, share = facts[candidate], odds.get(candidate)
        cells = [f"{truth[candidate]:.3f}"] if truth else []
        cells += [_shown(of_one.get(PREDICTED)), UNDEFINED if share is None else f"{share:.0%}"]
        cells += [f"{of_one[name].value:.3g}" if name in of_one else UNDEFINED for name in names]
        size = UNDEFINED if about.parameters is None else f"{about.parameters / 1e6:.1f} M"
        speed = UNDEFINED if about.images_per_second is None else f"{about.images_per_second:.0f}"
        rows.append([candidate, *cells, size, str(about.feature_dim), speed])
    return head, rows


def score_table(
    scores: Mapping[str, Mapping[str, Score]], truth: Mapping[str, float]
) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of every score with its interval: a row a candidate, in the order of `scores`."""
    names = _names(scores)
    head = ["model", *(["accuracy"] if truth else []), *names]
    rows = []
    for candidate, of_one in scores.items():
        cells = [_shown(of_one.get(name)) for name in names]
        rows.append([candidate, *([f"{truth[candidate]:.3f}"] if truth else []), *cells])
    return head, rows


def _names(scores: Mapping[str, Mapping[str, Score]]) -> list[str]:
    return list(dict.fromkeys(name for of_one in scores.values() for name in of_one))


def format_value(value: float, limits: Sequence[float] | None) -> str:
    """With its interval; NaN as undefined."""
    if math.isnan(value):
        return UNDEFINED
    return f"{value:.2f}" + (f" [{limits[0]:.2f}, {limits[1]:.2f}]" if limits else "")


def _shown(score: Score | None) -> str:
    if score is None:
        return UNDEFINED
    text = f"{score.value:.3f}"
    return (
        text if score.interval is None else f"{text} [{score.interval[0]:.3f}, {score.interval[1]:.3f}]"
    )


def agreement_table(
    scores: Mapping[str, Mapping[str, Score]], found: Mapping[str, Mapping]
) -> tuple[list[str], list[list[str]]]:
    """(head, rows): a row a metric, the best weighted Kendall first, with its mean seconds a model."""

    def key(metric: str) -> float:
        value = found[metric][BY_BOTH][0]
        return math.inf if math.isnan(value) else -value

    rows = []
    for metric in sorted(found, key=key):
        having = [of_one[metric] for of_one in scores.values() if metric in of_one]
        seconds = sum(score.seconds for score in having) / len(having)
        cells = [format_value(*found[metric][name]) for name in MEASURES]
        rows.append([metric, str(len(having)), *cells, f"{seconds:.2f}"])
    return ["score", "models", *MEASURES, "seconds"], rows


# ------------------------------------------------------------------------- scores that others computed
ELSEWHERE = "mean rank elsewhere"


def published_agreement(
    scores: Mapping[str, Table], accuracies: Table, measure: str
) -> tuple[list[str], list[list[str]]]:
    """(head, rows): for each score and target a correlation with the accuracies of the models that have
    both, and its mean over the targets. The order that looks at no data stands beside them.
    """
    targets = [target for target in accuracies if any(target in table for table in scores.values())]
    elsewhere = {
        target: {model: -rank for model, rank in mean_rank_elsewhere(accuracies, target).items()}
        for target in targets
    }
    rows = []
    for name, table in {**scores, ELSEWHERE: elsewhere}.items():
        values = [_of_target(table.get(t, {}), accuracies[t], measure) for t in targets]
        defined = [value for value in values if not math.isnan(value)]
        mean = statistics.fmean(defined) if defined else math.nan
        rows.append([name, *(_three_digits(value) for value in (mean, *values))])
    return [measure, "mean", *(target or "target" for target in targets)], rows


def _of_target(scores: Mapping[str, float], truth: Mapping[str, float], measure: str) -> float:
    models = [model for model in truth if model in scores]
    if len(models) < 3:
        return math.nan
    pairs = ([values[model] for model in models] for values in (scores, truth))
    return _defined(measure, *map(np.asarray, pairs))


def _three_digits(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.3f}"
