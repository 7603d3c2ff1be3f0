"""What is known when a ranking is done: the only place that knows the keys of ranking.json."""

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from utils.errors import InputError
from utils.features import same_images
from utils.names import ACCURACY, BALANCED
from utils.ranking.decision import Decision
from utils.ranking.scores import Facts, Score, agreement_table, candidate_table
from utils.storage import named_data, read_json, staged, write_json

FILE = "ranking.json"
Agreements = dict[str, dict[str, tuple[float, Sequence[float] | None]]]  # by score and measure


@dataclass(frozen=True)
class Standing:
    """What is known of one candidate: its scores by name, and what was measured or stands in a table of
    accuracies, if anything. `balanced_accuracy`: beside the accuracy of a linear probe on the test
    split; `doubts`: what is odd about the two; `note`: how far the prediction is extrapolated.
    """

    scores: dict[str, Score]
    facts: Facts
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    fine_tuning_seconds: float | None = None
    doubts: tuple[str, ...] = ()
    note: str | None = None

    def measured(self, metric: str) -> float | None:
        """Return the accuracy that scores are compared with; one from a table is taken as it is."""
        if metric == BALANCED and self.balanced_accuracy is not None:
            return self.balanced_accuracy
        return self.accuracy


@dataclass(frozen=True)
class Ranking:
    """The candidates, the best first, by name; which one to take (`decision`, and in words `line`); and
    what more labels would bring it (`more_labels`, in words `more_line`).

    `agreement`: how well each score orders which candidates, by the title of that group. `failed`: why
    candidates are left out. `majority_share`: what always saying one class is right of. `near_copies`:
    frames of one scene among the training images. `shots`, `samples`, `seed`, `truth`: as they were
    asked for.
    """

    target: str
    standings: dict[str, Standing]
    decision: Decision
    line: str
    metric: str = ACCURACY
    more_line: str | None = None
    more_labels: dict = field(default_factory=dict)
    agreement: dict[str, tuple[list[str], Agreements]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    majority_share: float | None = None
    near_copies: dict | None = None
    seed: int = 0
    shots: int | None = None
    samples: int | None = None
    truth: str | None = None
    data: dict[str, dict] = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    command: str | None = None
    target_folder: str | None = None

    @property
    def scores(self) -> dict[str, dict[str, Score]]:
        return {name: standing.scores for name, standing in self.standings.items()}

    @property
    def facts(self) -> dict[str, Facts]:
        return {name: standing.facts for name, standing in self.standings.items()}

    @property
    def accuracies(self) -> dict[str, float]:
        """Those that the scores are compared with, where they are known."""
        found = {name: one.measured(self.metric) for name, one in self.standings.items()}
        return {name: accuracy for name, accuracy in found.items() if accuracy is not None}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return (head, rows) for a person."""
        balanced = any(one.balanced_accuracy is not None for one in self.standings.values())
        return candidate_table(
            scores=self.scores,
            truth=self.accuracies,
            odds=self.decision.odds,
            facts=self.facts,
            majority=self.majority_share,
            truth_column=self.metric if balanced else ACCURACY,
        )

    def agreement_table(self, title: str) -> tuple[list[str], list[list[str]]]:
        """Return (head, rows): how well each score orders the candidates of one group."""
        names, found = self.agreement[title]
        return agreement_table({name: self.standings[name].scores for name in names}, found)


# --------------------------------------------------------------------------------- writing and reading
AS_THEY_ARE = (
    "target",
    "seed",
    "command",
    "shots",
    "samples",
    "metric",
    "majority_share",
    "truth",
    "data",
    "environment",
    "near_copies",
)


def write_ranking(folder: Path, ranking: Ranking) -> None:
    """Write the ranking.json of a folder that `replace_files` gave."""
    decision, folder_of_files = ranking.decision, ranking.target_folder
    record = {
        **{name: getattr(ranking, name) for name in AS_THEY_ARE},
        **({"target_folder": folder_of_files} if folder_of_files else {}),
        "decision": {
            "line": ranking.line,
            "pick": decision.pick,
            "odds": decision.odds,
            "expected_regret": decision.regret,
            "rivals": list(decision.rivals),
            "failed": ranking.failed,
        },
        "candidates": {name: _about(one) for name, one in ranking.standings.items()},
        "agreement": {
            title: {"candidates": names, "scores": _with_null(found)}
            for title, (names, found) in ranking.agreement.items()
        },
        "more_labels": {"line": ranking.more_line, **ranking.more_labels},
    }
    write_json(staged(folder / FILE), record)


def read_ranking(path: Path) -> Ranking:
    """Read a ranking.json. Raises InputError for a file that is damaged, and LookupError, TypeError or
    AttributeError for one of another kind; what earlier versions did not know is left at its default.
    """
    record = read_json(path)
    decision, more = record["decision"], dict(record.get("more_labels", {}))
    return Ranking(
        **{name: record[name] for name in AS_THEY_ARE if name in record},
        target_folder=record.get("target_folder"),
        decision=Decision(
            decision["pick"], decision["odds"], decision["expected_regret"], tuple(decision["rivals"])
        ),
        line=decision["line"],
        failed=decision.get("failed", {}),
        standings={name: _standing(about) for name, about in record["candidates"].items()},
        agreement={
            title: (group["candidates"], _with_nan(group["scores"]))
            for title, group in record["agreement"].items()
        },
        more_line=more.pop("line", None),
        more_labels=more,
    )


def _about(standing: Standing) -> dict:
    scores = {name: vars(score) for name, score in standing.scores.items()}
    about = {**vars(standing), **vars(standing.facts), "scores": scores}
    del about["facts"]
    if standing.balanced_accuracy is None:
        del about["balanced_accuracy"]
    return about


def _standing(about: Mapping) -> Standing:
    about = dict(about)
    facts = Facts(**{one.name: about.pop(one.name) for one in fields(Facts)})
    scores = {name: Score(**score) for name, score in about.pop("scores").items()}
    return Standing(scores, facts, **about)


def _with_null(found: Agreements) -> dict:
    """Convert NaN to what JSON has instead of it."""
    return {
        score: {
            measure: {"value": None if math.isnan(value) else value, "interval": limits}
            for measure, (value, limits) in of_score.items()
        }
        for score, of_score in found.items()
    }


def _with_nan(scores: Mapping) -> Agreements:
    return {
        score: {
            measure: (math.nan if cell["value"] is None else cell["value"], cell["interval"])
            for measure, cell in of_score.items()
        }
        for score, of_score in scores.items()
    }


def warn_of_another(folder: Path, ranking: Ranking) -> None:
    """Warn where the folder's ranking is of other data that have the target's name."""
    with contextlib.suppress(InputError):  # there is none, or none that is whole
        before = read_json(folder / FILE)
        data, now = before.get("data", {}), ranking.data
        shared = data.keys() & now.keys()
        if data and not (shared and all(same_images(data[name], now[name]) for name in shared)):
            known = data.get(ranking.target, {})
            owner = before.get("target_folder") or named_data(ranking.target, known)
            warnings.warn(f"replaces the ranking for {owner} (other data)", stacklevel=2)
