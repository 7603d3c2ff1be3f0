"""Tables as programs write them: CSV (comma, semicolon, tab, bar), JSON Lines, JSON. Nothing runs."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.datasets.roles import same_name
from utils.errors import InputError
from utils.storage import read_text

SHEETS, OBJECTS = (".csv", ".tsv"), (".jsonl", ".ndjson", ".json")
# Names of columns, letters and digits alone, those first that say it best.
CALLED_FILES = (
    "filename file filepath filepaths filenames files imagepath imagefile imagename image images path "
    "paths imgpath imgname img fname imageid imgid imageindex picture pictures pictureid photo photos "
    "photoid imgfile id name url imageurl"
)
FILE_COLUMNS = CALLED_FILES.split()

Row = tuple[int, dict[str, str]]  # its number, and its cells by the names of the columns


def plain_name(column: str) -> str:
    """Reduce the name of a column to its letters and digits, in lower case."""
    return re.sub(r"[\W_]", "", same_name(column)).lower()


def read_sheet(path: Path, is_image: Callable[[str], object]) -> tuple[list[int], dict[str, list[str]]]:
    """Read (the numbers of the rows, the text of each cell by column) of a table; an empty cell is "".

    Rows are numbered as spreadsheets do it, the names of the columns first; empty rows are left out.
    Where the first row has an image's name (`is_image`) already, the columns have no names.

    Raises:
        InputError: it is no table, has no rows, or a row and the names of the columns do not fit.
    """
    try:
        text = read_text(path)
        if path.suffix.lower() in OBJECTS:
            columns, rows = _objects(text, path)
        else:
            columns, rows = _lines(text, path, is_image)
    except InputError:
        raise
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{path} is not a table of labels: {error}") from error
    if not rows:
        raise InputError(f"{path} has no rows: give file and label in each")
    texts = {name: [same_name(cells.get(name, "")) for _, cells in rows] for name in columns}
    return [number for number, _ in rows], texts


def _lines(text: str, path: Path, is_image: Callable[[str], object]) -> tuple[list[str], list[Row]]:
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = max("\t;,|", key=lambda sign: len(next(csv.reader([first], delimiter=sign), [])))
    if delimiter in first:
        cells = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    else:  # `some/file.jpg 3`: the last word is the label
        cells = [line.strip().rsplit(None, 1) for line in lines]
    cells = [[cell.strip() for cell in row] for row in cells]
    numbered = [(number, row) for number, row in enumerate(cells, start=1) if any(row)]
    if not numbered:
        return [], []
    columns = numbered[0][1]
    named = any(plain_name(column) in FILE_COLUMNS for column in columns)
    if not named and any(map(is_image, columns)):
        columns = [f"column {k + 1}" for k in range(len(columns))]
    else:
        numbered = numbered[1:]
    if double := [column for column, count in Counter(columns).items() if count > 1 and column]:
        raise InputError(f"{path} has two columns {double[0]}: rename one")
    for number, row in numbered:
        if any(row[len(columns) :]):
            raise InputError(
                f"{path}, row {number}: {len(row)} cells under {len(columns)} names: put quotes around "
                f"what holds a {'tab' if delimiter == chr(9) else delimiter}"
            )
    rows = [(number, dict(zip(columns, row, strict=False))) for number, row in numbered]
    return [column for column in columns if column], rows


def _objects(text: str, path: Path) -> tuple[list[str], list[Row]]:
    """Read JSON Lines, a list of objects, or one object of files and their labels."""
    if path.suffix.lower() == ".json":
        content = json.loads(text)
        if isinstance(content, dict) and all(isinstance(v, str | int) for v in content.values()):
            content = [{"file": file, "label": label} for file, label in content.items()]
        if not isinstance(content, list):
            raise InputError(f"{path} is no list of objects with file_name and label")
        numbered = list(enumerate(content, start=1))
    else:
        lines = enumerate(text.split("\n"), start=1)
        numbered = [(number, _loaded(line, path, number)) for number, line in lines if line.strip()]
    rows = []
    for number, one in numbered:
        if not isinstance(one, dict):
            raise InputError(f"{path}, row {number}: no object with file_name and label")
        rows.append((number, {name: _text(value) for name, value in one.items()}))
    columns = dict.fromkeys(name for _, row in rows for name in row)
    return list(columns), [(number, row) for number, row in rows if any(row.values())]


def _loaded(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, row {number}: no JSON ({error})") from error


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
