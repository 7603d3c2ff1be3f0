"""Tables that a user brings: accuracies after fine-tuning, and scores that others computed.

CSV with a line of names. A model's accuracy may depend on a source; several targets may stand in one
table (column target, dataset or data set).
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from utils.backbones import backbone_slug
from utils.errors import InputError
from utils.features import task_slug
from utils.options import NUMBER
from utils.storage import require_regular

TARGET_COLUMNS = ("target", "dataset", "data set")
ByTarget = dict[str, dict[str, float]]  # by target and model


@dataclass(frozen=True)
class Truth:
    """Accuracies by target, model and source, as they stand in results; "" is any."""

    path: Path
    accuracies: dict[tuple[str, str, str], float]

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(target for target, _, _ in self.accuracies))

    def of(self, target: str, model: str, source: str) -> float | None:
        """That of the model with this source, else that with any, on this target, else on any."""
        named = next((t for t in self.targets if t.lower() == target.lower()), target)
        keys = ((t, model, s) for t in (named, "") for s in (source, ""))
        return next((self.accuracies[key] for key in keys if key in self.accuracies), None)

    def require(self, target: str, candidates: Iterable[tuple[str, str]]) -> None:
        """Raises InputError naming the candidates (model, source) whose accuracy is not there."""
        if missing := [
            f"{model} ({source})" if source else model
            for model, source in candidates
            if self.of(target, model, source) is None
        ]:
            on = f" on {target}" if self.targets != [""] else ""
            raise InputError(f"--TRUTH {self.path} has no accuracy{on} of {', '.join(missing)}")

    def by_target(self) -> ByTarget:
        """Accuracies by target and model, of any source."""
        table: ByTarget = {}
        for (target, model, source), accuracy in self.accuracies.items():
            if not source:
                table.setdefault(target, {})[model] = accuracy
        return table


def read_truth(path: Path, for_order: bool = False) -> Truth:
    """A table with the columns model, accuracy and, if need be, source and target. Accuracies are
    fractions or, all of them, percent, and become fractions; only `for_order`, any numbers of which the
    larger are better. Raises InputError that says what is wrong.
    """
    found = {}
    try:
        rows = _read_rows(path, ("model", "accuracy"))
        accuracies = [_number(row["accuracy"]) for row in rows]
        if None in accuracies:
            raise ValueError("an accuracy is no finite number")
        accuracies = accuracies if for_order else _as_fractions(accuracies)
        for row, accuracy in zip(rows, accuracies, strict=True):
            key = (_target(row), backbone_slug(row["model"]), task_slug(row.get("source") or ""))
            if key in found:
                raise ValueError(
                    f"{row['model']} stands there twice{f' for {key[0]}' if key[0] else ''}"
                )
            found[key] = accuracy
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"--TRUTH {path} is not a table of accuracies: {error}") from error
    return Truth(path, found)


def _as_fractions(values: Sequence[float]) -> list[float]:
    """Fractions as they are, percent divided. A table of neither, or of both, is refused: 0.9 beside 85
    may be 0.9 % or 90 %.
    """
    lowest, highest = min(values), max(values)
    if lowest < 0 or highest > 100:
        raise ValueError("accuracies must lie in [0, 1] or, as percent, in [0, 100]")
    if highest <= 1:
        return list(values)
    if small := [value for value in values if 0 < value <= 1]:
        raise ValueError(
            f"fractions and percent cannot be told apart: it holds {small[0]:g} and {highest:g}"
        )
    return [value / 100 for value in values]


def read_scores(path: Path) -> dict[str, ByTarget]:
    """A table with the columns model, target and one a score (larger is better; cells may be empty): by
    score, target and model. Columns without any number are left aside.
    """
    try:
        rows = _read_rows(path, ("model",))
        aside = {"model", *TARGET_COLUMNS}
        found: dict[str, ByTarget] = {}
        for name in [name for name in rows[0] if name not in aside]:
            for row in rows:
                model, target = backbone_slug(row["model"]), _target(row)
                value = _number(row[name])
                if value is None:
                    continue
                of_target = found.setdefault(name, {}).setdefault(target, {})
                if model in of_target:
                    raise ValueError(f"{row['model']} stands there twice for {target or 'its target'}")
                of_target[model] = value
        if not found:
            raise ValueError("it has no column of numbers beside model and target")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"--SCORES {path} is not a table of scores: {error}") from error
    return found


def _number(text: str | None) -> float | None:
    text = (text or "").strip()
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def _read_rows(path: Path, wanted: Sequence[str]) -> list[dict[str, str]]:
    """The names of the columns `wanted` and of the target in lower case, others as they are."""
    require_regular(path)
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark in front
        rows = list(csv.DictReader(file))
    known = {*wanted, *TARGET_COLUMNS, "source"}
    rows = [
        {
            name.lower() if name.lower() in known else name: (cell or "").strip()
            for name, cell in row.items()
            if name
        }
        for row in rows
    ]
    rows = [row for row in rows if any(row.values())]  # spreadsheets leave rows of commas
    if not rows or not set(wanted) <= rows[0].keys():
        raise ValueError(f"its first line must name the columns {', '.join(sorted(wanted))}")
    for number, row in enumerate(rows, start=1):
        if empty := [name for name in wanted if not row[name]]:
            raise ValueError(f"row {number} below the names has no {empty[0]}")
    return rows


def _target(row: Mapping[str, str]) -> str:
    return task_slug(next((row[name] for name in TARGET_COLUMNS if row.get(name)), ""))


# ------------------------------------------------------------------------------- looking at no data
def mean_rank_elsewhere(accuracies: ByTarget, target: str) -> dict[str, float]:
    """Each model's mean rank (1 is the best) on the other targets: an order that ignores this one. Of
    models that stand in none of those there is none.
    """
    ranks: dict[str, list[float]] = {}
    for other, of_models in accuracies.items():
        if other in (target, ""):  # without a name it may be this one
            continue
        for model, rank in zip(of_models, rankdata([-a for a in of_models.values()]), strict=True):
            ranks.setdefault(model, []).append(float(rank))
    return {model: float(np.mean(of_model)) for model, of_model in ranks.items()}
