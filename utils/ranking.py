"""How sure a score is, and how well scores order models: intervals, correlations, regret."""

import csv
import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from utils.backbones import backbone_label
from utils.errors import InputError
from utils.features import task_label
from utils.summary import UNDEFINED

LEVEL = 0.95
FEWEST_FOR_INTERVALS = 6  # of fewer models a bootstrap holds too few different samples
MEASURES = ("Pearson", "Kendall", "weighted Kendall", "regret")
CORRELATIONS = {
    "Pearson": lambda scores, truth: stats.pearsonr(scores, truth).statistic,
    "Kendall": lambda scores, truth: stats.kendalltau(scores, truth).statistic,
    "weighted Kendall": lambda scores, truth: stats.weightedtau(scores, truth).statistic,
}


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


def half_samples(labels: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Indices of `count` random halves of the samples, half of each class (at least two of it)."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == k) for k in range(labels.max() + 1)]
    return [
        np.sort(np.concatenate([rng.permutation(m)[: max(2, len(m) // 2)] for m in members]))
        for _ in range(count)
    ]


def interval_of(
    metric: Callable[[np.ndarray], float], whole: float, halves: Sequence[np.ndarray], count: int
) -> tuple[float, float] | None:
    """The interval of a score whose value on all `count` samples is `whole`; None where the halves hold
    them all.

    The delete-half jackknife: parts of h samples, drawn without repetition, spread √((n − h)/h) times as
    much as samples of n would. No part holds a point twice: a copy among a point's neighbours would make
    k-NN perfect. Where the halves' mean lies is no matter: many scores depend on the number of samples.
    Exact for means, and rather too wide for scores that depend on n as strongly as k-NN and the probe.
    """
    if not halves or len(halves[0]) == count:
        return None
    values = [metric(half) for half in halves]
    h = len(halves[0])
    deviation = statistics.stdev(values) * math.sqrt(h / (count - h))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(halves) - 1)) * deviation
    return whole - reach, whole + reach


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


# ------------------------------------------------------------------------------------------ the truth
def read_truth(path: Path) -> dict[tuple[str, str], float]:
    """Accuracies in [0, 1] by model, as it stands in results, and source ("" for all)."""
    found = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark in front
            rows = list(csv.DictReader(file))
        wanted = {"model", "accuracy"}
        if not rows or not wanted <= rows[0].keys():
            raise ValueError(f"its first line must name the columns {', '.join(sorted(wanted))}")
        for row in rows:
            accuracy = float(row["accuracy"])
            if not 0 <= accuracy <= 1:
                raise ValueError(f"accuracy {accuracy:g} of {row['model']} is no fraction in [0, 1]")
            model, source = backbone_label(row["model"]), task_label(row.get("source") or "")
            if (model, source) in found:
                raise ValueError(f"{row['model']} stands there twice")
            found[model, source] = accuracy
    except (OSError, ValueError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--TRUTH {path} is not a table of accuracies: {error}") from error
    return found


def look_up(truth: Mapping[tuple[str, str], float], model: str, source: str) -> float | None:
    """That of the model with this source, else that of the model with any."""
    return truth.get((model, source), truth.get((model, "")))


def check_truth(
    truth: Mapping[tuple[str, str], float], candidates: Sequence[tuple[str, str]], path: Path
) -> None:
    """Raises InputError naming the candidates (model, source) whose accuracy is not in the table."""
    missing = [
        f"{model} ({source})" for model, source in candidates if look_up(truth, model, source) is None
    ]
    if missing:
        raise InputError(f"--TRUTH {path} has no accuracy of {', '.join(missing)}")


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


def score_table(
    scores: Mapping[str, Mapping[str, Score]], truth: Mapping[str, float], shown: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """(head, rows): a row a candidate, the best accuracy first, else the best of the first score."""
    names = list(shown) or list(dict.fromkeys(name for of_one in scores.values() for name in of_one))

    def first(candidate: str) -> float:
        if truth:
            return truth[candidate]
        score = scores[candidate].get(names[0])
        return -math.inf if score is None else score.rank

    order = sorted(scores, key=first, reverse=True)
    head = ["model (source)", *(["accuracy"] if truth else []), *names]
    rows = []
    for candidate in order:
        cells = [_shown(scores[candidate].get(name)) for name in names]
        rows.append([candidate, *([f"{truth[candidate]:.3f}"] if truth else []), *cells])
    return head, rows


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
        value = found[metric]["weighted Kendall"][0]
        return math.inf if math.isnan(value) else -value

    rows = []
    for metric in sorted(found, key=key):
        having = [of_one[metric] for of_one in scores.values() if metric in of_one]
        seconds = sum(score.seconds for score in having) / len(having)
        cells = [format_value(*found[metric][name]) for name in MEASURES]
        rows.append([metric, str(len(having)), *cells, f"{seconds:.2f}"])
    return ["score", "models", *MEASURES, "seconds"], rows
