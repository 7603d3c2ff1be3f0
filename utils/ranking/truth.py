"""Tables that a user brings: accuracies after fine-tuning, and scores that others computed.

A line of names, then rows, with commas, semicolons or tabs between the columns. A model's accuracy may
depend on a source; several targets may stand in one table (column target, dataset or data set).
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from utils.backbones import backbone_slug
from utils.errors import InputError
from utils.features import task_slug
from utils.options import NUMBER
from utils.storage import read_text

TARGET_COLUMNS = ("target", "dataset", "data set")
# What columns are called, too: in any case, letters and digits alone.
OTHER_NAMES = {
    "model": ("models", "network", "architecture", "backbone", "modelname"),
    "accuracy": ("acc", "top1", "acc1", "top1acc", "top1accuracy", "testaccuracy", "testacc"),
}
DELIMITERS = (",", ";", "\t")
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
        """Return the accuracy of the model with this source, else that with any, on this target, else on
        any.
        """
        named = next((t for t in self.targets if t.lower() == target.lower()), target)
        keys = ((t, model, s) for t in (named, "") for s in (source, ""))
        return next((self.accuracies[key] for key in keys if key in self.accuracies), None)

    def require(self, target: str, candidates: Iterable[tuple[str, str]]) -> None:
        """Raise InputError naming the candidates (model, source) whose accuracy is not there."""
        if missing := [
            f"{model} ({source})" if source else model
            for model, source in candidates
            if self.of(target, model, source) is None
        ]:
            on = f" on {target}" if self.targets != [""] else ""
            raise InputError(f"--TRUTH {self.path} has no accuracy{on} of {', '.join(missing)}")

    def by_target(self) -> ByTarget:
        """Return accuracies by target and model, of any source."""
        table: ByTarget = {}
        for (target, model, source), accuracy in self.accuracies.items():
            if not source:
                table.setdefault(target, {})[model] = accuracy
        return table


def read_truth(path: Path, for_order: bool = False) -> Truth:
    """Read a table with the columns model, accuracy and, if need be, source and target. Accuracies are
    fractions or, all of them, percent (91.2 or 91.2 %), and become fractions; only `for_order`, any
    numbers of which the larger are better. Raises InputError that says what is wrong, by row and column.
    """
    found = {}
    try:
        table = _Table.read(path, ("model", "accuracy"))
        accuracies, percent = table.numbers("accuracy")
        if None in accuracies:
            number = accuracies.index(None) + 1
            cell = table.rows[number - 1]["accuracy"]
            raise ValueError(f"{_place(number, 'accuracy')}: {cell} is no finite number")
        accuracies = accuracies if for_order else _as_fractions(accuracies, percent)
        for row, accuracy in zip(table.rows, accuracies, strict=True):
            key = (_target(row), backbone_slug(row["model"]), task_slug(row.get("source") or ""))
            if key in found:
                raise ValueError(
                    f"{row['model']} stands there twice{f' for {key[0]}' if key[0] else ''}"
                )
            found[key] = accuracy
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"--TRUTH {path} is not a table of accuracies: {error}") from error
    return Truth(path, found)


def _as_fractions(values: Sequence[float], percent: bool) -> list[float]:
    """Leave fractions as they are and divide percent. A table of neither, or of both, is refused: 0.9
    beside 85 may be 0.9 % or 90 %. `percent`: it is said that they are.
    """
    lowest, highest = min(values), max(values)
    if lowest < 0 or highest > 100:
        row = values.index(lowest if lowest < 0 else highest) + 1
        raise ValueError(
            f"accuracies must lie in [0, 1] or, as percent, in [0, 100], not {values[row - 1]:g} "
            f"({_place(row, 'accuracy')})"
        )
    if percent and 0 < highest <= 1:
        raise ValueError("column accuracy is said to be percent and holds nothing above 1: fractions?")
    if percent:
        return [value / 100 for value in values]
    if highest <= 1:
        return list(values)
    if small := [row for row, value in enumerate(values, start=1) if 0 < value <= 1]:
        large = values.index(highest) + 1
        raise ValueError(
            f"fractions and percent cannot be told apart: column accuracy holds "
            f"{values[small[0] - 1]:g} (row {small[0]}) and {highest:g} (row {large})"
        )
    return [value / 100 for value in values]


def read_scores(path: Path) -> dict[str, ByTarget]:
    """Read a table with the columns model, target and one a score (larger is better; cells may be
    empty): by score, target and model. Columns without any number are left aside.
    """
    try:
        table = _Table.read(path, ("model",))
        aside = {"model", *TARGET_COLUMNS}
        found: dict[str, ByTarget] = {}
        for name in [name for name in table.rows[0] if name not in aside]:
            for row, value in zip(table.rows, table.numbers(name)[0], strict=True):
                model, target = backbone_slug(row["model"]), _target(row)
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


# ------------------------------------------------------------------------------------ rows and cells
@dataclass(frozen=True)
class _Table:
    """Rows by the names of their columns; those of the model, the accuracy, the target and the source
    under their first name, others as they are. `decimal_comma`: numbers may have one. `percent`: the
    columns whose name says so.
    """

    rows: list[dict[str, str]]
    decimal_comma: bool
    percent: set[str]

    @staticmethod
    def read(path: Path, wanted: Sequence[str]) -> "_Table":
        """Read the table with the columns `wanted`, which must be filled in every row."""
        names, lines, delimiter = _read_lines(path, wanted)
        known = _known_columns(names, wanted)
        rows = []
        for cells in lines:
            if not any(cells):  # spreadsheets leave rows of commas
                continue
            where = f"row {len(rows) + 1} below the names"
            if any(cells[len(names) :]):
                raise ValueError(
                    f"{where} has {len(cells)} cells for {len(names)} columns (with decimal commas, put "
                    "; between columns)"
                )
            cells = [*cells, *[""] * (len(names) - len(cells))]
            row = {known.get(k, name): cells[k] for k, name in enumerate(names) if name}
            if empty := [name for name in wanted if not row[name]]:
                raise ValueError(f"{where} has no {empty[0]}")
            rows.append(row)
        if not rows:
            raise ValueError(f"there is no row below the names {', '.join(names)}")
        return _Table(rows, delimiter != ",", {name for k, name in known.items() if "%" in names[k]})

    def numbers(self, column: str) -> tuple[list[float | None], bool]:
        """Return (of each row, None where there is no finite number; whether they are said to be
        percent: by the column's name or by a sign, which must stand in all cells or in none).
        """
        cells = [row[column] for row in self.rows]
        values = [_number(cell, self.decimal_comma) for cell in cells]
        signs = {cells[k].endswith("%"): k for k, value in enumerate(values) if value is not None}
        if column in self.percent:
            return values, True
        if len(signs) == 2:
            with_sign, without = (f"{cells[signs[k]]} (row {signs[k] + 1})" for k in (True, False))
            raise ValueError(
                f"fractions and percent cannot be told apart: column {column} holds {with_sign} and "
                f"{without}"
            )
        return values, True in signs


def _place(row: int, column: str) -> str:
    return f"row {row} below the names, column {column}"


def _number(text: str, decimal_comma: bool) -> float | None:
    text = text.removesuffix("%").strip()
    if decimal_comma and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def _read_lines(path: Path, wanted: Sequence[str]) -> tuple[list[str], list[list[str]], str]:
    """Read (names, rows, delimiter): that by which the first line names the columns `wanted`."""
    text = re.sub(r'\A"?sep=.?"?\r?\n', "", read_text(path))  # Excel's first line, if any
    for delimiter in DELIMITERS:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows = [[cell.strip() for cell in cells] for cells in lines]
        if rows and set(wanted) <= set(_known_columns(rows[0], wanted).values()):
            return rows[0], rows[1:], delimiter
    raise ValueError(f"its first line must name the columns {', '.join(sorted(wanted))}")


def _known_columns(names: Sequence[str], wanted: Sequence[str]) -> dict[int, str]:
    """Find the positions of the columns that have a meaning, and what they are called here."""
    plain = [name.lower() for name in names]
    known = {k: name for k, name in enumerate(plain) if name in (*wanted, *TARGET_COLUMNS, "source")}
    for name in wanted:
        if name not in known.values():
            letters = [re.sub("[^a-z0-9]", "", text) for text in plain]
            known |= {k: name for k, text in enumerate(letters) if text in (name, *OTHER_NAMES[name])}
    for name in wanted:
        if len(same := [names[k] for k, meaning in known.items() if meaning == name]) > 1:
            raise ValueError(f"its columns {' and '.join(same)} could both be the {name}")
    return known


def _target(row: Mapping[str, str]) -> str:
    return task_slug(next((row[name] for name in TARGET_COLUMNS if row.get(name)), ""))


# ------------------------------------------------------------------------------- looking at no data
def mean_rank_elsewhere(accuracies: ByTarget, target: str) -> dict[str, float]:
    """Return each model's mean rank (1 is the best) on the other targets: an order that ignores this
    one. Of models that stand in none of those there is none.
    """
    ranks: dict[str, list[float]] = {}
    for other, of_models in accuracies.items():
        if other in (target, ""):  # without a name it may be this one
            continue
        for model, rank in zip(of_models, rankdata([-a for a in of_models.values()]), strict=True):
            ranks.setdefault(model, []).append(float(rank))
    return {model: float(np.mean(of_model)) for model, of_model in ranks.items()}
