"""Lists of labels: a table with a file and its label in each row, beside a folder of images."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from utils.datasets.classes import doubtful_labels, is_number, one_to_one, same_classes_mostly
from utils.datasets.images import require_utf8
from utils.datasets.index import Index, without_ending
from utils.datasets.roles import TEST, TRAINING, role_of
from utils.datasets.sheets import FILE_COLUMNS, plain_name, read_sheet
from utils.datasets.tree import describe_names
from utils.errors import InputError

# Names of columns, letters and digits alone, those first that say it best.
CALLED_LABELS = (
    "label labels class classes classname labelname category categoryname target classid labelid "
    "categoryid breed species diagnosis dx y"
)
LABEL_COLUMNS = CALLED_LABELS.split()
SPLIT_COLUMNS = ("split", "subset", "partition", "phase", "usage", "set", "dataset")
MAY_BE_SPLITS = ("usage", "phase", "set", "dataset")  # these only if they name nothing but splits
TRUE, FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
LOOKED_AT = 1000  # cells of a column, to tell whether they are names of files
AGREES, DIFFERS, REPLACES, OTHER = "agrees", "differs", "replaces", "other"  # than class folders
NEARLY_ALL = 0.95
LEAST_SHARE = 0.1  # of the images; fewer numbers are those of classes


class Labelled(NamedTuple):
    """An image with its label and the split that it is for; None where the table does not say."""

    name: str
    label: str
    role: str | None
    row: int


class LabelTable:
    """A table about the images of `index`. `column`: that of the labels, where it was named. With
    `named` False nobody said that this is a list of labels: `unfit` tells whether it looks like one.
    """

    def __init__(self, path: Path, index: Index, column: str | None = None, named: bool = True):
        self.path, self.index, self.column, self.named = path, index, column, named
        self.numbers, self.columns = read_sheet(path, index.find)

    @cached_property
    def unfit(self) -> str:
        """Say why it does not look like a list of labels; empty where columns of files and labels tell
        what they are, and files are there: some that are called files, or, of bare numbers, more than a
        list of the classes has.
        """
        if not self._found:
            return "it has no column of file names: call it file_name"
        if not self.label_columns:
            if self._is_one_hot:
                return "it has a column for each class: write the class into one column, label"
            return f"of its columns {describe_names(self.columns)} none is called label or class"
        given = zip(self.columns[self.file_column], self.files, strict=True)
        texts = [text for text, file in given if file]
        called = any(text != without_ending(text) for text in texts)
        if texts and (called or len(texts) >= LEAST_SHARE * len(self.index.names)):
            return ""
        return f"its column {self.file_column} names {'few' if texts else 'none'} of the images"

    @property
    def _is_one_hot(self) -> bool:
        columns = [texts for name, texts in self.columns.items() if name != self.file_column]
        hot = [texts for texts in columns if {*texts} <= {"0", "1", "0.0", "1.0"}]
        rows = zip(*hot, strict=True)
        return len(hot) > 1 and all(sum(text[0] == "1" for text in row) == 1 for row in rows)

    def _known(self, names: Sequence[str]) -> list[str]:
        known = [column for column in self.columns if plain_name(column) in names]
        return sorted(known, key=lambda column: names.index(plain_name(column)))

    # -------------------------------------------------------------------------------------- the files
    @cached_property
    def _whole_columns(self) -> list[str]:
        """List the columns that hold names of files with their endings, whatever they are called."""
        return [column for column in self.columns if self._is_whole(column)]

    def _is_whole(self, column: str) -> bool:
        some = islice(filter(None, self.columns[column]), LOOKED_AT)
        texts = [text for text in some if "://" not in text]
        return bool(texts) and 2 * sum(map(self.index.is_whole, texts)) > len(texts)

    @cached_property
    def _found(self) -> dict[str, list[str | None]]:
        """List the columns that may name the files, the likeliest first, with the image of each row:
        numbers of rows and of images look alike, so that they count where no column says more.
        """
        likely = known = self._known(FILE_COLUMNS)
        if self._whole_columns:
            likely = sorted(self._whole_columns, key=lambda column: column not in known)
        elif self.named and not known:
            likely = [c for c in self.columns if plain_name(c) not in LABEL_COLUMNS] or self.columns
        return {column: list(map(self.index.find, self.columns[column])) for column in likely}

    @cached_property
    def file_column(self) -> str:
        """Choose of the columns that may name files the one with most files that are there. Raises
        InputError that names two which find all, as many and not the same.
        """
        if not self._found:
            raise InputError(f"{self.path} has no column of file names: call it file_name")
        best = max(self._found, key=lambda c: (_count(self._found[c]), len({*self._found[c]})))
        files = self._found[best]
        for column, found in self._found.items():
            if None not in found and found != files and len({*found}) == len({*files}):
                raise InputError(
                    f"{self.path}: which column names the files, {best} or {column}? Both name images "
                    "that are there, but not the same: take one out of the list"
                )
        return best

    @property
    def files(self) -> list[str | None]:
        """Of each row the image, relative to the folder of the index."""
        return self._found[self.file_column]

    @property
    def count(self) -> int:
        """How many rows name an image that is there."""
        return _count(self.files) if self._found else 0

    # ------------------------------------------------------------------------------------- the labels
    @cached_property
    def label_columns(self) -> list[str]:
        return [column for column in self._known(LABEL_COLUMNS) if column != self.file_column]

    @cached_property
    def label_column(self) -> str:
        """Raise InputError that names the columns where it could be one or another."""
        if self.column:
            return self._column_that_was_named()
        columns = self.label_columns
        if columns and self._same_classes(columns):  # a number and its name
            names = (column for column in columns if not all(map(is_number, self.columns[column])))
            return next(names, columns[0])
        if not columns:
            aside = {self.file_column, self.split_column, *self._flags, *self._whole_columns}
            others = [
                c for c in self.columns if c not in aside and plain_name(c) not in ("", "unnamed0")
            ]
            columns = [c for c in others if plain_name(c) not in FILE_COLUMNS] or others
        if not columns:
            raise InputError(f"{self.path} has no column of labels beside {self.file_column}")
        if len(columns) > 1:
            raise InputError(
                f"{self.path}: which column holds the labels, {describe_names(columns)}? Call it label "
                f"and no other so, or give --LABELS {self.path}:{columns[0]}"
            )
        return columns[0]

    def _column_that_was_named(self) -> str:
        found = [column for column in self.columns if plain_name(column) == plain_name(self.column)]
        if not found:
            raise InputError(
                f"{self.path} has no column {self.column}; it has {describe_names(self.columns)}"
            )
        return found[0]

    def _same_classes(self, columns: Sequence[str]) -> bool:
        first = self.columns[columns[0]]
        return all(one_to_one(first, self.columns[column]) for column in columns[1:])

    # ------------------------------------------------------------------------------------- the splits
    @cached_property
    def _flags(self) -> dict[str, str]:
        """Find columns as is_train, or train beside test, that say yes or no, and the split of each."""
        flags = {}
        for column, texts in self.columns.items():
            role = role_of(plain_name(column).removeprefix("is"))
            if role is None or column in (self.file_column, *self.label_columns):
                continue
            if all(text.lower() in (*TRUE, *FALSE) for text in texts):
                flags[column] = role
        says = TRAINING in flags.values() or any(plain_name(column)[:2] == "is" for column in flags)
        # Alone beside the files such a column is the label: with a train in the picture, or without.
        return flags if says and len(flags) + 1 < len(self.columns) else {}

    @cached_property
    def split_column(self) -> str | None:
        """Find the column that says the split, in words or, the first of several, with yes and no."""
        for column in self._known(SPLIT_COLUMNS):
            if column in (self.file_column, *self.label_columns):
                continue
            if plain_name(column) not in MAY_BE_SPLITS or all(map(role_of, self.columns[column])):
                return column
        return next(iter(self._flags), None)

    def _role(self, place: int) -> str | None:
        if self.split_column is None:
            return None
        where = f"{self.path}, row {self.numbers[place]}"
        if self.split_column in self._flags:
            return self._role_by_flags(place, where)
        text = self.columns[self.split_column][place]
        role = role_of(text)
        if role is None:
            raise InputError(
                f"{where}, column {self.split_column}: {text or 'nothing'} is no split: write train, "
                "validation or test"
            )
        return role

    def _role_by_flags(self, place: int, where: str) -> str:
        flags = self._flags.items()
        yes = {role for name, role in flags if self.columns[name][place].lower() in TRUE}
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

    # ------------------------------------------------------------------------------------ what it says
    def labelled(self) -> list[Labelled]:
        """Return every image that has a row. Raises InputError that names the first row and column with
        something that cannot be meant.
        """
        labels, found = self.columns[self.label_column], {}
        self._require_files()
        self._require_labels()
        rows = zip(self.numbers, self.files, labels, strict=True)
        for place, (number, name, label) in enumerate(rows):
            one = Labelled(name, label, self._role(place), number)
            other = found.setdefault(name, one)
            for what, a, b in (("label", other.label, label), ("split", other.role, one.role)):
                if a != b:
                    raise InputError(
                        f"{self.path}, row {number}: {name} has the {what} {b} here and {a} in row "
                        f"{other.row}"
                    )
        return list(found.values())

    def _require_files(self) -> None:
        texts = self.columns[self.file_column]
        rows = zip(self.numbers, texts, self.files, strict=True)
        missing = [(number, text) for number, text, file in rows if file is None]
        if not missing:
            return
        number, text = missing[0]
        where = f"{self.path}, row {number}, column {self.file_column}"
        more = f" ({len(missing)} of {len(texts)} rows are so)" if len(missing) > 1 else ""
        if not text:
            raise InputError(f"{where}: no file is named{more}")
        if self.index.is_ambiguous(text):
            raise InputError(f"{where}: {text} may be several images: name their folders too{more}")
        raise InputError(f"{where}: no image {text} below {self.index.folder.path}{more}")

    def _require_labels(self) -> None:
        texts = self.columns[self.label_column]
        doubts = doubtful_labels(texts)
        for number, text in zip(self.numbers, texts, strict=True):
            if text in doubts:
                raise InputError(
                    f"{self.path}, row {number}, column {self.label_column}: {doubts[text]}"
                )
            require_utf8(text)

    def beside(self, class_of: Mapping[str, str]) -> str:
        """Say what it is to class folders: `AGREES` where some column of labels names the classes of the
        images, or numbers them; `DIFFERS` where one does for most; `REPLACES` where it labels about all
        images, with other labels, and says that these are labels, or the folders are numbered; else
        `OTHER`. An image that is not there, or has no class, says nothing.
        """
        differs = False
        for column in self.label_columns:
            pairs = zip(self.files, self.columns[column], strict=True)
            known = [(class_of[name], text) for name, text in pairs if name in class_of]
            folders, labels = [a for a, _ in known], [b for _, b in known]
            several = len({*folders}) > 1  # one goes with one, whatever they are called
            if known and one_to_one(folders, labels) and (several or folders == labels):
                return AGREES
            differs |= same_classes_mostly(folders, labels)
        if differs:
            return DIFFERS
        explicit = "label" in self.path.stem.lower() or any(
            plain_name(column) in ("label", "labels") for column in self.label_columns
        )
        numbered = len({re.sub("[0-9]+", "", folder) for folder in class_of.values()}) == 1
        about_all = len({*self.files} & class_of.keys()) >= NEARLY_ALL * len(self.index.names)
        return REPLACES if about_all and (explicit or numbered) else OTHER


def _count(files: Sequence[str | None]) -> int:
    return sum(file is not None for file in files)
