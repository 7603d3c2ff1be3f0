"""Labels as people save them: an array a split becomes classes 0..K−1 and their names."""

import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import InputError

# With more classes than this, each of fewer than two samples, labels are something else.
FEW_CLASSES = 20
Value = int | bool | str


def numbered_labels(
    path: Path, arrays: Mapping[str, np.ndarray], class_names: np.ndarray | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return (labels 0..K−1 of each array, names of the K classes), numbered in the order of the labels:
    numbers by size, strings by the alphabet. `arrays` by their names in the file, y_train first:
    integers, whole floats, booleans, strings, one-hot rows, or columns of those; all must hold the same
    classes. `class_names`: what the file calls them. Raises InputError that names the first label that
    is none.
    """
    read = {key: _values_and_rows(path, key, y) for key, y in arrays.items()}
    sets = {key: set(values) for key, (values, _) in read.items()}
    classes = set().union(*sets.values())
    _require_classes(path, sets, len(next(iter(read.values()))[1]))
    ordered = sorted(classes, key=_place_of(classes))
    number = {value: k for k, value in enumerate(ordered)}
    labels = {
        key: torch.from_numpy(np.array([number[value] for value in values], np.int64)[rows])
        for key, (values, rows) in read.items()
    }
    return labels, _names(path, ordered, class_names)


# ------------------------------------------------------------------------------------------ one array
def _values_and_rows(path: Path, key: str, y: np.ndarray) -> tuple[list[Value], np.ndarray]:
    """Return (the different labels, for each sample which of them it has)."""
    if y.ndim == 2 and 1 not in y.shape:
        y = _columns_of_one_hot(path, key, y)
    if y.dtype.kind not in "iufbUS":
        raise InputError(f"{path}: {key} must be classes, as numbers or strings, not {y.dtype}")
    return different_values(path, key, y, "class", "labels are classes, not values or probabilities")


def different_values(
    path: Path, key: str, array: np.ndarray, each: str, rule: str
) -> tuple[list[Value], np.ndarray]:
    """Return (the different values, for each sample which of them it has) of numbers or strings; `each`:
    what every sample needs; `rule`: what is said of a number that is not whole.
    """
    values, rows = np.unique(array.reshape(-1), return_inverse=True)
    if array.dtype.kind in "US":
        return _texts(path, key, values, rows, each), rows
    if array.dtype.kind == "f":
        for k, value in enumerate(values.tolist()):
            if not value.is_integer():
                what = "is no whole number" if np.isfinite(value) else f"is no {WORDS[each]}"
                raise InputError(f"{path}: {key}[{_first(rows, k)}] = {value:g} {what}: {rule}")
        return [int(value) for value in values.tolist()], rows
    return values.tolist(), rows


WORDS = {"class": "label", "group": "group"}  # what a value that stands for it is called


def _texts(path: Path, key: str, values: np.ndarray, rows: np.ndarray, each: str) -> list[str]:
    """Return one spelling of each; it may stand there several times."""
    texts = values.tolist()
    if values.dtype.kind == "S":
        texts = [text.decode("utf-8", "backslashreplace") for text in texts]
    texts = [unicodedata.normalize("NFC", text) for text in texts]
    for k, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"{path}: {key}[{_first(rows, k)}] is empty: every sample needs a {each}")
    return texts


def _columns_of_one_hot(path: Path, key: str, y: np.ndarray) -> np.ndarray:
    """Read (n, K) rows with a single 1 as (n,) numbers of columns."""
    if y.dtype.kind not in "iufb":
        raise InputError(
            f"{path}: {key} must be (n,) or one-hot rows (n, K), not {y.shape} of {y.dtype}"
        )
    wrong = ((y != 0) & (y != 1)).any(1) | ((y == 1).sum(1) != 1)
    if wrong.any():
        row = int(wrong.argmax())
        shown = ", ".join(f"{value:g}" for value in y[row, :4].astype(float))
        raise InputError(
            f"{path}: {key} has {y.shape[1]} columns, and row {row} is not one-hot ({shown}"
            f"{', …' if y.shape[1] > 4 else ''}): each sample has one class; neither several labels nor "
            "probabilities are read"
        )
    return y.argmax(1)


def _first(rows: np.ndarray, k: int) -> int:
    return int((rows == k).argmax())


# ------------------------------------------------------------------------------------------- all of them
def _require_classes(path: Path, sets: Mapping[str, set[Value]], count: int) -> None:
    """Raise InputError for labels that are no classes, or not the same ones in all arrays."""
    classes = set().union(*sets.values())
    if len(classes) == 1:
        raise InputError(f"{path} has one class: there is nothing to tell apart")
    for key, values in sets.items():
        if -1 in values and not classes <= {-1, 1}:
            others = sorted(v for v in classes if not isinstance(v, str) and v != -1)
            raise InputError(
                f"{path}: {key} holds -1 beside {_listed(others)}: where -1 means a sample without a "
                "label, leave that out; where it is a class, number the classes from 0"
            )
    (first, own), *others = sets.items()
    if len(own) > max(FEW_CLASSES, count / 2) and own != set(range(len(own))):
        raise InputError(
            f"{path}: {first} holds {len(own)} different labels in {count} samples: they look like "
            "values or names of samples, not like classes"
        )
    for key, values in others:
        if values != own:
            lacking = [
                f"only {name} has {_listed(_sorted(some))}"
                for name, some in ((first, own - values), (key, values - own))
                if some
            ]
            raise InputError(
                f"{path}: {first} and {key} must hold the same classes: {'; '.join(lacking)}"
            )


def _names(path: Path, ordered: Sequence[Value], given: np.ndarray | None) -> tuple[str, ...]:
    numbers = [] if isinstance(ordered[0], str) else [int(value) for value in ordered]
    if numbers and numbers != [-1, 1] and numbers[-1] - numbers[0] + 1 > len(numbers):
        warnings.warn(
            f"{path}: the labels {_listed(numbers)} are taken for {len(numbers)} classes; of the "
            "numbers between them there are no samples",
            stacklevel=2,
        )
    own = tuple(map(str, ordered))
    if given is None or not numbers:
        return own
    if given.ndim == 1 and given.dtype.kind in "US":
        texts = [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in given.tolist()]
        if len(texts) == len(own):
            own = tuple(texts)
        elif numbers[0] >= 0 and numbers[-1] < len(texts):
            own = tuple(texts[value] for value in numbers)
        else:
            texts = []
        if texts and len(set(own)) == len(own):
            return own
    warnings.warn(
        f"{path}: class_names is not used: it is not one name for each of {len(numbers)} classes",
        stacklevel=2,
    )
    return tuple(map(str, ordered))


def _place_of(classes: set[Value]):
    """Return what labels are put in order by: "10" comes behind "9" where all strings are numbers."""
    if all(isinstance(value, str) and value.isdecimal() for value in classes):
        return lambda text: (int(text), text)
    return lambda value: (isinstance(value, str), value)


def _sorted(values: set[Value]) -> list[Value]:
    return sorted(values, key=_place_of(values))


def _listed(values: Sequence[Value]) -> str:
    shown = [*map(str, values[:5]), *(["…", str(values[-1])] if len(values) > 5 else [])]
    return ", ".join(shown).replace("…, ", "… ")
