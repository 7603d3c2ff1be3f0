"""Scores of candidates, their consensus, and the tables that a person reads."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from utils.agreement import BY_BOTH, MEASURES, correlation, order_agreement
from utils.names import ACCURACY, BALANCED
from utils.ranking.truth import ByTarget, mean_rank_elsewhere
from utils.report import UNDEFINED, format_value

PREDICTED, PREDICTED_BALANCED = "predicted accuracy", "balanced accuracy"
PREDICTED_BY = {ACCURACY: PREDICTED, BALANCED: PREDICTED_BALANCED}
MODEL_SIZE = "model size (log10)"


@dataclass(frozen=True)
class Score:
    """As it is reported; `interval` at LEVEL, None where the score has none (a model's size)."""

    value: float
    interval: tuple[float, float] | None
    seconds: float
    lower_is_better: bool = False

    @property
    def merit(self) -> float:
        """What orders models: the larger, the better."""
        return -self.value if self.lower_is_better else self.value


def compare(
    scores: Mapping[str, Mapping[str, Score]],
    truth: Mapping[str, float],
    seed: int,
    networks: Mapping[str, Hashable],
) -> dict:
    """Return by metric its agreement with the accuracies, where at least three candidates have it.
    `networks` says which network each candidate is.
    """
    names = dict.fromkeys(name for of_candidate in scores.values() for name in of_candidate)
    accuracies = [truth[candidate] for candidate in scores]
    groups = [networks[candidate] for candidate in scores]
    found = {}
    for name in names:
        values = [
            of_candidate[name].merit if name in of_candidate else math.nan
            for of_candidate in scores.values()
        ]
        if sum(not math.isnan(value) for value in values) > 2:
            found[name] = order_agreement(values, accuracies, 1000, seed, groups)
    return found


def consensus(scores: Mapping[str, Mapping[str, Score]], of: Sequence[str]) -> dict[str, Score]:
    """Return each candidate's mean rank (1 is the best) by the scores `of` that all candidates have."""
    names = [name for name in of if all(name in of_candidate for of_candidate in scores.values())]
    if not names:
        return {}
    ranks = [
        stats.rankdata([-of_candidate[name].merit for of_candidate in scores.values()]) for name in names
    ]
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
    majority: float | None = None,
    truth_column: str = "accuracy",
) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows) for a person: a row a candidate, in the order of `scores`. The balanced
    accuracy stands second, with its interval, where it is another number than the accuracy. `majority`:
    what always saying the most frequent class is right of, the last row.
    """
    nulls = [name for name in _names(scores) if name.startswith(MODEL_SIZE)]
    first = [PREDICTED, *([PREDICTED_BALANCED] if _of_unequal_classes(scores) else [])]
    names = [name for name in _names(scores) if name not in (*first, *nulls)]
    head = ["model", *([truth_column] if truth else []), *first, "best in", *names]
    head += ["parameters", "features", "images/s"]
    rows = []
    for candidate, of_candidate in scores.items():
        about, share = facts[candidate], odds.get(candidate)
        cells = [f"{truth[candidate]:.3f}"] if truth else []
        cells += [_shown(of_candidate.get(name)) for name in first]
        cells.append(UNDEFINED if share is None else f"{share:.0%}")
        cells += [
            f"{of_candidate[name].value:.3g}" if name in of_candidate else UNDEFINED for name in names
        ]
        size = UNDEFINED if about.parameters is None else f"{about.parameters / 1e6:.1f} M"
        speed = UNDEFINED if about.images_per_second is None else f"{about.images_per_second:.0f}"
        rows.append([candidate, *cells, size, str(about.feature_dim), speed])
    if majority is not None:
        known = {PREDICTED: f"{majority:.3f}"}
        rows.append([MAJORITY_ROW, *(known.get(name, "") for name in head[1:])])
    return head, rows


MAJORITY_ROW = "always the most frequent class"


def _of_unequal_classes(scores: Mapping[str, Mapping[str, Score]]) -> bool:
    """Tell whether a balanced accuracy says what the accuracy does not: a point or more."""
    return any(
        PREDICTED_BALANCED in of_candidate
        and abs(of_candidate[PREDICTED_BALANCED].value - of_candidate[PREDICTED].value) >= 0.01
        for of_candidate in scores.values()
    )


def score_table(
    scores: Mapping[str, Mapping[str, Score]], truth: Mapping[str, float]
) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows) of every score with its interval: a row a candidate, as `scores` has them."""
    names = _names(scores)
    head = ["model", *(["accuracy"] if truth else []), *names]
    rows = []
    for candidate, of_candidate in scores.items():
        cells = [_shown(of_candidate.get(name)) for name in names]
        rows.append([candidate, *([f"{truth[candidate]:.3f}"] if truth else []), *cells])
    return head, rows


def _names(scores: Mapping[str, Mapping[str, Score]]) -> list[str]:
    return list(dict.fromkeys(name for of_candidate in scores.values() for name in of_candidate))


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
    """Return (head, rows): a row a metric, the best weighted Kendall first, with its mean seconds a
    model.
    """

    def key(metric: str) -> float:
        value = found[metric][BY_BOTH][0]
        return math.inf if math.isnan(value) else -value

    rows = []
    for metric in sorted(found, key=key):
        having = [of_candidate[metric] for of_candidate in scores.values() if metric in of_candidate]
        seconds = sum(score.seconds for score in having) / len(having)
        cells = [format_value(*found[metric][name]) for name in MEASURES]
        rows.append([metric, str(len(having)), *cells, f"{seconds:.2f}"])
    return ["score", "models", *MEASURES, "seconds"], rows


# ------------------------------------------------------------------------- scores that others computed
ELSEWHERE = "mean rank elsewhere"


def published_agreement(
    scores: Mapping[str, ByTarget], accuracies: ByTarget, measure: str
) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows): for each score and target a correlation with the accuracies of the models
    that have both, and its mean over the targets. The order that looks at no data stands beside them.
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
    return correlation(measure, *map(np.asarray, pairs))


def _three_digits(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.3f}"
