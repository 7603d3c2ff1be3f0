"""How sure a score is, and how well scores order models: intervals, correlations, regret."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from utils.errors import InputError
from utils.summary import UNDEFINED

LEVEL = 0.95
CORRELATIONS = {
    "Pearson": lambda scores, truth: stats.pearsonr(scores, truth).statistic,
    "Kendall": lambda scores, truth: stats.kendalltau(scores, truth).statistic,
    "weighted Kendall": lambda scores, truth: stats.weightedtau(scores, truth).statistic,
}


@dataclass(frozen=True)
class Score:
    """Larger is better; `interval` at LEVEL, None where the score has none (a model's size)."""

    value: float
    interval: tuple[float, float] | None
    seconds: float


def half_samples(labels: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Indices of `count` random halves of the samples, half of each class (at least two of it)."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == k) for k in range(labels.max() + 1)]
    return [
        np.sort(np.concatenate([rng.permutation(m)[: max(2, len(m) // 2)] for m in members]))
        for _ in range(count)
    ]


def interval_of(
    metric: Callable[[np.ndarray], float], whole: float, halves: Sequence[np.ndarray]
) -> tuple[float, float] | None:
    """The interval of a score whose value on all samples is `whole`.

    A half drawn without repetition spreads about its mean as a bootstrap resample of all samples does
    (the delete-half jackknife), and holds no point twice: a copy among a point's neighbours would make
    k-NN perfect. Where the halves' mean lies is no matter: many scores depend on the number of samples.
    """
    if not halves:
        return None
    values = np.array([metric(half) for half in halves])
    low, high = np.quantile(values - values.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return whole + float(low), whole + float(high)


def regret(scores: np.ndarray, truth: np.ndarray) -> float:
    """By how much the best model is better than the one with the highest score."""
    return float(truth.max() - truth[np.argmax(scores)])


def agreement(
    scores: Sequence[float], truth: Sequence[float], resamples: int, seed: int
) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """Each of CORRELATIONS and the regret, with its bootstrap interval over the models. NaN where all
    scores are equal; resamples in which a correlation is undefined do not count.
    """
    scores, truth = np.asarray(scores, float), np.asarray(truth, float)
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(scores), size=len(scores)) for _ in range(resamples)]
    found = {}
    for name, measure in {**CORRELATIONS, "regret": regret}.items():
        value = _defined(measure, scores, truth)
        values = [_defined(measure, scores[draw], truth[draw]) for draw in draws]
        values = [v for v in values if not math.isnan(v)]
        limits = None
        if values and not math.isnan(value):
            limits = tuple(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist())
        found[name] = (value, limits)
    return found


def _defined(measure: Callable, scores: np.ndarray, truth: np.ndarray) -> float:
    if measure is not regret and (len(np.unique(scores)) < 2 or len(np.unique(truth)) < 2):
        return math.nan
    return float(measure(scores, truth))


# ------------------------------------------------------------------------------------------ the truth
def read_truth(path: Path) -> list[dict]:
    """Rows with model, source (or "") and accuracy in [0, 1]."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        wanted = {"model", "accuracy"}
        if not rows or not wanted <= rows[0].keys():
            raise ValueError(f"its first line must name the columns {', '.join(sorted(wanted))}")
        found = []
        for row in rows:
            accuracy = float(row["accuracy"])
            if not 0 <= accuracy <= 1:
                raise ValueError(f"accuracy {accuracy:g} of {row['model']} is no fraction in [0, 1]")
            found.append(
                {"model": row["model"], "source": row.get("source") or "", "accuracy": accuracy}
            )
    except (OSError, ValueError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--TRUTH {path} is not a table of accuracies: {error}") from error
    return found


def look_up(truth: Sequence[Mapping], model: str, source: str) -> float | None:
    fitting = [row for row in truth if row["model"] == model and row["source"] in ("", source)]
    return fitting[0]["accuracy"] if fitting else None


def check_truth(truth: Sequence[Mapping], candidates: Sequence[tuple[str, str]], path: Path) -> None:
    """Raises InputError naming the candidates (model, source) whose accuracy is not in the table."""
    missing = [
        f"{model} ({source})" for model, source in candidates if look_up(truth, model, source) is None
    ]
    if missing:
        raise InputError(f"--TRUTH {path} has no accuracy of {', '.join(missing)}")


# ------------------------------------------------------------------------------------------ the tables
def compare(scores: Mapping[str, Mapping[str, Score]], truth: Mapping[str, float], seed: int) -> dict:
    """By metric: agreement with the accuracies over the candidates that have it (at least three)."""
    names = dict.fromkeys(name for of_one in scores.values() for name in of_one)
    found = {}
    for name in names:
        having = [candidate for candidate, of_one in scores.items() if name in of_one]
        if len(having) > 2:
            values = [scores[candidate][name].value for candidate in having]
            found[name] = agreement(values, [truth[candidate] for candidate in having], 1000, seed)
    return found


def score_table(
    scores: Mapping[str, Mapping[str, Score]], truth: Mapping[str, float], shown: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """(head, rows): a row a candidate, the best accuracy first, else the best of the first score."""
    names = list(shown) or list(dict.fromkeys(name for of_one in scores.values() for name in of_one))
    order = sorted(scores, key=lambda c: -(truth[c] if truth else scores[c][names[0]].value))
    head = ["model (source)", *(["accuracy"] if truth else []), *names]
    rows = []
    for candidate in order:
        cells = [_shown(scores[candidate].get(name)) for name in names]
        rows.append([candidate, *([f"{truth[candidate]:.3f}"] if truth else []), *cells])
    return head, rows


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
    names = [*CORRELATIONS, "regret"]

    def cell(value: float, limits: tuple[float, float] | None) -> str:
        if math.isnan(value):
            return UNDEFINED
        return f"{value:.2f}" + (f" [{limits[0]:.2f}, {limits[1]:.2f}]" if limits else "")

    def key(metric: str) -> float:
        value = found[metric]["weighted Kendall"][0]
        return math.inf if math.isnan(value) else -value

    rows = []
    for metric in sorted(found, key=key):
        having = [of_one[metric] for of_one in scores.values() if metric in of_one]
        seconds = sum(score.seconds for score in having) / len(having)
        cells = [cell(*found[metric][name]) for name in names]
        rows.append([metric, str(len(having)), *cells, f"{seconds:.2f}"])
    return ["score", "models", *names, "seconds"], rows
