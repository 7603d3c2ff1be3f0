"""Lists of labels: a table with a file and its label in each row, beside a folder of images.

CSV (comma, semicolon, tab, bar), JSON Lines, or a JSON list of objects. Nothing in them is executed.
"""

import csv
import io
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from utils.datasets.images import require_utf8
from utils.datasets.roles import TEST, TRAINING, VALIDATION, role_of, same_name
from utils.datasets.tree import ENDINGS, Folder, describe_names, images_below
from utils.errors import InputError
from utils.storage import require_regular

# Names of columns, letters and digits alone, those first that say it best.
FILE_COLUMNS = (
    "filename", "file", "filepath", "filepaths", "filenames", "files", "imagepath", "imagefile",
    "imagename", "image", "images", "path", "paths", "imgpath", "imgname", "img", "fname", "imageid",
    "imgid", "imageindex", "picture", "pictures", "pictureid", "photo", "photos", "photoid", "imgfile",
    "id", "name", "url", "imageurl",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "classes", "classname", "labelname", "category", "categoryname",
    "target", "classid", "labelid", "categoryid", "breed", "species", "diagnosis", "dx", "y",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "subset", "partition", "phase", "usage", "set", "dataset")
MAY_BE_SPLITS = ("usage", "phase", "set", "dataset")  # these only if they name nothing but splits
TRUE, FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
NO_LABELS = ("nan", "null", "none", "<na>", "n/a", "#n/a", "nat")  # as programs write an empty cell
SHEETS, OBJECTS = (".csv", ".tsv"), (".jsonl", ".ndjson", ".json")
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.0+)?")
LOOKED_AT = 1000  # cells of a column, to tell whether they are names of files
MOST_BYTES = 100 * 2**20  # of a table that nobody named
AGREES, DIFFERS, REPLACES, OTHER = "agrees", "differs", "replaces", "other"  # than class folders
NEARLY_ALL, MOSTLY = 0.95, 0.8
LEAST_SHARE = 0.1  # of the images; fewer numbers are those of classes
# sample_submission.csv, predictions.csv: labels that stand for nothing, or are a model's.
NOT_OURS = ("submission", "prediction", "predicted")


def _plain(column: str) -> str:
    return re.sub(r"[\W_]", "", same_name(column)).lower()


# ------------------------------------------------------------------------------- files by their names
class Index:
    """The images below a folder by the names that a table may give them: relative to any folder on the
    way, with the folders above in front, with and without ending, in any case and Unicode form, with
    backslashes.
    """

    def __init__(self, folder: Folder):
        self.folder, below = folder, images_below(folder)
        self.names, self.left_out = below.names, below.left_out
        self._exact = {same_name(name): name for name in self.names}
        self._whole: dict[str, str | None] = {}
        self._tails: dict[str, str | None] = {}
        self._asked: dict[str, str | None] = {}
        for name in self.names:
            whole = same_name(name).casefold()
            for form in {whole, _without_ending(whole)}:
                _note(self._whole, form, name)
                for tail in _tails(form):
                    _note(self._tails, tail, name)

    def find(self, given: str) -> str | None:
        """The image that is meant. None: there is none, or more than one."""
        if given not in self._asked:
            self._asked[given] = self._find(given)
        return self._asked[given]

    def _find(self, given: str) -> str | None:
        path = _cleaned(given)
        if path in self._exact:
            return self._exact[path]
        path = path.casefold()
        if found := self._whole.get(path) or self._tails.get(path):
            return found
        return next((self._whole[tail] for tail in _tails(path) if tail in self._whole), None)

    def is_ambiguous(self, given: str) -> bool:
        return _cleaned(given).casefold() in self._tails and self.find(given) is None

    def is_whole(self, given: str) -> bool:
        """Whether it is a file's name with its ending, of a file that is there or of one that is not."""
        if "." not in given:
            return False
        if _without_ending(given) != given:
            return True
        found, last = self.find(given), posixpath.basename(_cleaned(given))
        return bool(found) and posixpath.basename(same_name(found)).casefold() == last.casefold()


def _note(names: dict[str, str | None], key: str, name: str) -> None:
    """None where two have one key."""
    names[key] = name if names.get(key, name) == name else None


def _cleaned(path: str) -> str:
    path = posixpath.normpath(same_name(path).replace("\\", "/")).lstrip("/")
    while path.startswith("../"):
        path = path.removeprefix("../")
    return path


def _without_ending(name: str) -> str:
    stem, ending = posixpath.splitext(name)
    return stem if ending.lower() in ENDINGS else name


def _tails(path: str) -> Iterator[str]:
    """a/b/c, b/c, c."""
    while path:
        yield path
        path = path.partition("/")[2]


# ------------------------------------------------------------------------------------------ the table
@dataclass(frozen=True)
class Row:
    """`number`: as spreadsheets count, the names of the columns first."""

    number: int
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Labelled:
    """An image with its label and the split that it is for; None where the table does not say."""

    name: str
    label: str
    role: str | None
    row: int


class LabelTable:
    """A table about the images of `index`. `column`: that of the labels, where it was named. With
    `named` False nobody said that this is a list of labels: `is_one` tells whether it looks like one.
    """

    def __init__(self, path: Path, index: Index, column: str | None = None, named: bool = True):
        self.path, self.index, self.column, self.named = path, index, column, named
        self.columns, self.rows = _read(path, index)

    @cached_property
    def unfit(self) -> str:
        """Why it does not look like a list of labels; empty where columns of files and labels tell what
        they are, and files are there: some that are called files, or, of bare numbers, more than a list
        of the classes has.
        """
        if not self._file_columns:
            return "it has no column of file names: call it file_name"
        if not self.label_columns:
            if self._is_one_hot:
                return "it has a column for each class: write the class into one column, label"
            return f"of its columns {describe_names(self.columns)} none is called label or class"
        texts = [text for text in self._texts(self.file_column) if self.index.find(text)]
        called = any(text != _without_ending(text) for text in texts)
        if texts and (called or len(texts) >= LEAST_SHARE * len(self.index.names)):
            return ""
        return f"its column {self.file_column} names {'few' if texts else 'none'} of the images"

    @property
    def _is_one_hot(self) -> bool:
        columns = [self._texts(c) for c in self.columns if c != self.file_column]
        hot = [texts for texts in columns if all(text in ("0", "1", "0.0", "1.0") for text in texts)]
        rows = zip(*hot, strict=True)
        return len(hot) > 1 and all(sum(text[0] == "1" for text in row) == 1 for row in rows)

    @property
    def count(self) -> int:
        """How many rows name an image that is there."""
        return sum(file is not None for file in self.files) if self._file_columns else 0

    @property
    def files(self) -> list[str | None]:
        """Of each row the image, relative to the folder of the index."""
        return self._files(self.file_column)

    def _known(self, names: Sequence[str]) -> list[str]:
        known = [column for column in self.columns if _plain(column) in names]
        return sorted(known, key=lambda column: names.index(_plain(column)))

    def _files(self, column: str) -> list[str | None]:
        return [self.index.find(text) for text in self._texts(column)]

    @cached_property
    def _whole_columns(self) -> list[str]:
        """Those that hold names of files with their endings, whatever they are called."""
        return [column for column in self.columns if self._is_whole(column)]

    def _is_whole(self, column: str) -> bool:
        cells = (_text(row.cells.get(column)) for row in self.rows)
        texts = [text for text in islice(filter(None, cells), LOOKED_AT) if "://" not in text]
        return bool(texts) and 2 * sum(map(self.index.is_whole, texts)) > len(texts)

    @cached_property
    def _file_columns(self) -> list[str]:
        """Those that may be it, the likeliest first: numbers of rows and of images look alike, so that
        they count where no column says more.
        """
        known = self._known(FILE_COLUMNS)
        if self._whole_columns:
            return sorted(self._whole_columns, key=lambda column: column not in known)
        if known or not self.named:
            return known
        return [c for c in self.columns if _plain(c) not in LABEL_COLUMNS] or list(self.columns)

    @cached_property
    def file_column(self) -> str:
        """Of the columns that may be it the one with most files that are there. Raises InputError that
        names two which find all, as many and not the same.
        """
        if not self._file_columns:
            raise InputError(f"{self.path} has no column of file names: call it file_name")
        files = {column: self._files(column) for column in self._file_columns}
        best = max(files, key=lambda c: (sum(f is not None for f in files[c]), len({*files[c]})))
        for column, found in files.items():
            if None not in found and found != files[best] and len({*found}) == len({*files[best]}):
                raise InputError(
                    f"{self.path}: which column names the files, {best} or {column}? Both name images "
                    "that are there, but not the same: take one out of the list"
                )
        return best

    @cached_property
    def label_columns(self) -> list[str]:
        return [column for column in self._known(LABEL_COLUMNS) if column != self.file_column]

    @cached_property
    def label_column(self) -> str:
        """Raises InputError that names the columns where it could be one or another."""
        if self.column:
            return self._column_that_was_named()
        columns = self.label_columns
        if not columns:
            aside = {self.file_column, *self.split_columns, *self._whole_columns}
            others = [c for c in self.columns if c not in aside and _plain(c) not in ("", "unnamed0")]
            columns = [c for c in others if _plain(c) not in FILE_COLUMNS] or others
        if not columns:
            raise InputError(f"{self.path} has no column of labels beside {self.file_column}")
        if self.label_columns and self._same_classes(columns):  # a number and its name
            numbers = [column for column in columns if all(_is_number(t) for t in self._texts(column))]
            return next((column for column in columns if column not in numbers), columns[0])
        if len(columns) > 1:
            raise InputError(
                f"{self.path}: which column holds the labels, {describe_names(columns)}? Call it label "
                f"and no other so, or give --LABELS {self.path}:{columns[0]}"
            )
        return columns[0]

    def _column_that_was_named(self) -> str:
        found = [column for column in self.columns if _plain(column) == _plain(self.column)]
        if not found:
            raise InputError(
                f"{self.path} has no column {self.column}; it has {describe_names(self.columns)}"
            )
        return found[0]

    def _texts(self, column: str) -> list[str]:
        return [_text(row.cells.get(column)) for row in self.rows]

    def _same_classes(self, columns: Sequence[str]) -> bool:
        first = self._texts(columns[0])
        return all(one_to_one(first, self._texts(column)) for column in columns[1:])

    @property
    def split_columns(self) -> list[str]:
        return [*self._flags] or [column for column in (self.split_column,) if column]

    @cached_property
    def _flags(self) -> dict[str, str]:
        """Columns as is_train, or train beside test, that say yes or no, and the split of each."""
        flags = {}
        for column in self.columns:
            plain = _plain(column)
            role = role_of(plain.removeprefix("is"))
            if role is None or column in (self.file_column, *self.label_columns):
                continue
            if all(text.lower() in (*TRUE, *FALSE) for text in self._texts(column)):
                flags[column] = role
        says = TRAINING in flags.values() or any(_plain(column)[:2] == "is" for column in flags)
        # Alone beside the files such a column is the label: with a train in the picture, or without.
        return flags if says and len(flags) + 1 < len(self.columns) else {}

    @cached_property
    def split_column(self) -> str | None:
        """The one column that says it, in words or, the first of several, with yes and no."""
        for column in self._known(SPLIT_COLUMNS):
            texts = self._texts(column)
            if column in (self.file_column, *self.label_columns):
                continue
            if _plain(column) not in MAY_BE_SPLITS or all(role_of(text) for text in texts):
                return column
        return next(iter(self._flags), None)

    def labelled(self) -> list[Labelled]:
        """Every image that has a row. Raises InputError that names the first row and column with
        something that cannot be meant.
        """
        file_column, label_column, found = self.file_column, self.label_column, {}
        self._require_files()
        self._require_labels()
        for row in self.rows:
            where = f"{self.path}, row {row.number}"
            name = self.index.find(_text(row.cells.get(file_column)))
            label = _label(row.cells.get(label_column), f"{where}, column {label_column}")
            one = Labelled(name, label, self._role(row, where), row.number)
            other = found.setdefault(name, one)
            for what, a, b in (("label", other.label, label), ("split", other.role, one.role)):
                if a != b:
                    raise InputError(
                        f"{where}: {name} has the {what} {b} here and {a} in row {other.row}"
                    )
        return list(found.values())

    def _require_files(self) -> None:
        missing = []
        for row in self.rows:
            text = _text(row.cells.get(self.file_column))
            if self.index.find(text) is None:
                missing.append((row.number, text))
        if not missing:
            return
        number, text = missing[0]
        where = f"{self.path}, row {number}, column {self.file_column}"
        more = f" ({len(missing)} of {len(self.rows)} rows are so)" if len(missing) > 1 else ""
        if not text:
            raise InputError(f"{where}: no file is named{more}")
        if self.index.is_ambiguous(text):
            raise InputError(f"{where}: {text} may be several images: name their folders too{more}")
        raise InputError(f"{where}: no image {text} below {self.index.folder.path}{more}")

    def _require_labels(self) -> None:
        """Raises InputError for a cell that is as good as empty, and for a -1 that may be."""
        texts = self._texts(self.label_column)
        words = {text for text in texts if text}
        nothing = {word for word in words if word.casefold() in NO_LABELS}
        if nothing == words:  # of nothing else: so are the classes called
            nothing = set()
        numbers = {int(float(word)) for word in words if WHOLE_NUMBER.fullmatch(word)}
        if -1 in numbers and len(numbers) == len(words) and not numbers <= {-1, 1}:
            nothing |= {word for word in words if WHOLE_NUMBER.fullmatch(word) and float(word) == -1}
        for row, text in zip(self.rows, texts, strict=True):
            if text not in nothing:
                continue
            where = f"{self.path}, row {row.number}, column {self.label_column}: {text}"
            if text.casefold() in NO_LABELS:
                raise InputError(
                    f"{where} stands for no label: fill it in or remove the row; a class, call otherwise"
                )
            others = describe_names(map(str, sorted(numbers - {-1})))
            raise InputError(
                f"{where} beside {others}: where -1 means an image without a label, remove the row; "
                "where it is a class, number the classes from 0"
            )

    def _role(self, row: Row, where: str) -> str | None:
        if self.split_column is None:
            return None
        if self.split_column in self._flags:
            return self._role_by_flags(row, where)
        text = _text(row.cells.get(self.split_column))
        role = role_of(text)
        if role is None:
            raise InputError(
                f"{where}, column {self.split_column}: {text or 'nothing'} is no split: write train, "
                "validation or test"
            )
        return role

    def _role_by_flags(self, row: Row, where: str) -> str:
        yes = {role for name, role in self._flags.items() if _text(row.cells.get(name)).lower() in TRUE}
        if len(yes) == 1:
            return yes.pop()
        names, roles = describe_names(self._flags), {*self._flags.values()}
        if yes:
            raise InputError(f"{where}: of {names} several say yes: an image is of one split")
        if TRAINING not in roles:
            return TRAINING
        if TEST in roles:
            raise InputError(f"{where}: of {names} none says yes: an image is of one split")
        return TEST

    def beside(self, class_of: Mapping[str, str]) -> str:
        """What it is to class folders: `AGREES` where some column of labels names the classes of the
        images, or numbers them; `DIFFERS` where one does for most; `REPLACES` where it labels about all
        images, with other labels, and says that these are labels, or the folders are numbered; else
        `OTHER`. An image that is not there, or has no class, says nothing.
        """
        files, differs = self.files, False
        for column in self.label_columns:
            pairs = zip(files, map(same_name, self._texts(column)), strict=True)
            known = [(class_of[name], text) for name, text in pairs if name in class_of]
            folders, labels = [a for a, _ in known], [b for _, b in known]
            several = len({*folders}) > 1  # one goes with one, whatever they are called
            if known and one_to_one(folders, labels) and (several or folders == labels):
                return AGREES
            differs |= _same_classes_mostly(known)
        if differs:
            return DIFFERS
        explicit = "label" in self.path.stem.lower() or any(
            _plain(column) in ("label", "labels") for column in self.label_columns
        )
        numbered = len({re.sub("[0-9]+", "", folder) for folder in class_of.values()}) == 1
        about_all = len({*files} & class_of.keys()) >= NEARLY_ALL * len(self.index.names)
        return REPLACES if about_all and (explicit or numbered) else OTHER


def _same_classes_mostly(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether folders and labels have names in common, which of numbers says little, or most images of
    each folder have a label that no other folder has.
    """
    folders, labels = ({pair[k].casefold() for pair in pairs} for k in (0, 1))
    shared = folders & labels
    if any(not _is_number(name) for name in shared) or 2 * len(shared) >= len(folders | labels):
        return True
    most = {}
    for (folder, label), count in Counter(pairs).items():
        most[folder] = max(most.get(folder, (0, "")), (count, label))
    kept = sum(count for count, _ in most.values())
    one_each = len({label for _, label in most.values()}) == len(most) == len(labels)
    return len(most) > 1 and one_each and kept >= MOSTLY * len(pairs)


def one_to_one(some: Iterable[str], others: Iterable[str]) -> bool:
    """Whether each value on the one side goes with one on the other."""
    pairs = set(zip(some, others, strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text))


def _label(cell: Any, where: str) -> str:
    text = _text(cell)
    if not text:
        raise InputError(f"{where}: the label is empty: fill it in or remove the row")
    if isinstance(cell, list | dict) or (text[0] == "[" and text[-1] == "]"):
        raise InputError(
            f"{where}: {text[:40]} is a list: an image has one label here, several are not supported"
        )
    require_utf8(text)
    return same_name(text)


def sorted_classes(labels: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """(names of the classes, the class of each label): whole numbers in the order of numbers, where
    3.0 is 3.
    """
    labels = set(labels)
    if not all(WHOLE_NUMBER.fullmatch(label) for label in labels):
        return sorted(labels), {label: label for label in labels}
    class_of = {label: label.partition(".")[0] for label in labels}
    return sorted(set(class_of.values()), key=lambda name: (int(name), name)), class_of


def alike(class_names: Iterable[str]) -> list[str]:
    """Names that differ only in case, spaces or zeros in front: they may be meant for one class."""
    spelled: dict[str, list[str]] = {}
    for name in class_names:
        key = re.sub(r"[\s_]+", " ", name.casefold()).strip()
        key = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", key)
        spelled.setdefault(key, []).append(name)
    return [" and ".join(names) for names in spelled.values() if len(names) > 1]


# ------------------------------------------------------------------------------------ reading the file
def _read(path: Path, index: Index) -> tuple[list[str], list[Row]]:
    """(names of the columns, the rows that hold anything)."""
    require_regular(path)
    try:
        text = _decoded(path)
        if path.suffix.lower() in OBJECTS:
            columns, rows = _objects(text, path)
        else:
            columns, rows = _sheet(text, path, index)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a table of labels: {error}") from error
    rows = [row for row in rows if any(_text(cell) for cell in row.cells.values())]
    if not rows:
        raise InputError(f"{path} has no rows: give file and label in each")
    return columns, rows


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):  # as spreadsheets save "Unicode text"
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from error


def _sheet(text: str, path: Path, index: Index) -> tuple[list[str], list[Row]]:
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = max("\t;,|", key=lambda sign: len(next(csv.reader([first], delimiter=sign), [])))
    if delimiter in first:
        cells = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    else:  # `some/file.jpg 3`: the last word is the label
        cells = [line.strip().rsplit(None, 1) for line in lines]
    numbered = [(k, row) for k, row in enumerate(cells, start=1) if any(cell.strip() for cell in row)]
    if not numbered:
        return [], []
    columns = [cell.strip() for cell in numbered[0][1]]
    named = any(_plain(column) in FILE_COLUMNS for column in columns)
    if not named and any(index.find(column) for column in columns):  # a row of images already
        columns = [f"column {k + 1}" for k in range(len(columns))]
    else:
        numbered = numbered[1:]
    if double := [column for column, count in Counter(columns).items() if count > 1 and column]:
        raise InputError(f"{path} has two columns {double[0]}: rename one")
    for number, row in numbered:
        if len(row) > len(columns) and any(cell.strip() for cell in row[len(columns) :]):
            raise InputError(
                f"{path}, row {number}: {len(row)} cells under {len(columns)} names: put quotes around "
                f"what holds a {'tab' if delimiter == chr(9) else delimiter}"
            )
    rows = [Row(number, dict(zip(columns, row, strict=False))) for number, row in numbered]
    return [column for column in columns if column], rows


def _objects(text: str, path: Path) -> tuple[list[str], list[Row]]:
    """JSON Lines; a list of objects; or one object of files and their labels."""
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
    for number, one in numbered:
        if not isinstance(one, dict):
            raise InputError(f"{path}, row {number}: no object with file_name and label")
    columns = dict.fromkeys(str(key) for _, one in numbered for key in one)
    return list(columns), [Row(number, one) for number, one in numbered]


def _loaded(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, row {number}: no JSON ({error})") from error


# ---------------------------------------------------------------------------------- finding the tables
@dataclass
class Tables:
    """Those in a folder: `lists` of labels; others by their names, with the reason why they are none.
    `unread`: the names of those that could not be read.
    """

    lists: list[LabelTable] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


def tables_in(folder: Folder) -> Tables:
    """The tables that lie in `folder` itself."""
    found, indices = Tables(), {}
    for name in folder.others:
        path = folder.path / name
        if path.suffix.lower() not in (*SHEETS, *OBJECTS) or any(w in name.lower() for w in NOT_OURS):
            continue
        try:
            if path.stat().st_size > MOST_BYTES:
                raise InputError(f"{path} is larger than {MOST_BYTES // 2**20} MiB")
            table = table_about(path, folder, indices, named=False)
        except InputError as error:
            found.unused[name] = str(error).replace(f"{path}", name)
            found.unread.append(name)
            continue
        if table.unfit:
            found.unused[name] = table.unfit
        else:
            found.lists.append(table)
    return found


def table_about(
    path: Path,
    top: Folder,
    indices: dict[Folder, Index],
    column: str | None = None,
    named: bool = True,
) -> LabelTable:
    """The table, of the images of the folder below `top` in which it finds most of its files: the one it
    lies in, that of the split it is called after (train/ for train.csv), or `top`. The narrower comes
    first: two splits may hold files of the same names. `indices`: those that there are already.
    """
    tables = []
    for folder in _folders_meant(path, top):
        if folder not in indices:
            indices[folder] = Index(folder)
        tables.append(LabelTable(path, indices[folder], column, named))
    if len(tables) == 1:
        return tables[0]
    return max(tables, key=lambda table: table.count)


def _folders_meant(path: Path, top: Folder) -> list[Folder]:
    role = role_of_table(path)
    of_role = [folder for name, folder in top.folders.items() if role and role_of(name) == role]
    place, above = top, path.parent.resolve()
    if above.is_relative_to(top.path.resolve()):
        for part in above.relative_to(top.path.resolve()).parts:
            place = place.folders.get(part, top)
            if place is top:
                break
    own = [place] if place is not top else []
    return [*own, *(of_role if len(of_role) == 1 else []), top]


def may_hold_tables(folder: Folder) -> bool:
    return any(Path(name).suffix.lower() in (*SHEETS, *OBJECTS) for name in folder.others)


def role_of_table(path: Path) -> str | None:
    """train.csv, test_labels.csv: the split that a table is of."""
    words = ("labels", "label", "metadata", "annotations", "list", "classes")
    name = path.stem.lower()
    for word in words:
        name = name.removesuffix(word).removeprefix(word)
    return role_of(name)


def role_of_place(name: str) -> str | None:
    """The split that an image's folders name: photos/train/1.jpg."""
    return next(filter(None, map(role_of, name.split("/")[:-1])), None)


def with_roles(images: Sequence[Labelled]) -> Sequence[Labelled]:
    """Where the table does not say what is for what, the folders may: if every image lies in one of a
    split, and some are to train and some are not.
    """
    if any(image.role for image in images):
        return images
    roles = [role_of_place(image.name) for image in images]
    if None in roles or TRAINING not in roles or len(set(roles)) == 1:
        return images
    return [
        Labelled(image.name, image.label, role, image.row)
        for image, role in zip(images, roles, strict=True)
    ]


def test_role(roles: Iterable[str | None]) -> str | None:
    """What is tested on, where there are splits: validation stands in where there is no test."""
    others = {*roles} - {TRAINING, None}
    return None if not others else min(others, key=lambda role: role == VALIDATION)
