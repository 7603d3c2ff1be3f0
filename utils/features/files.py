"""Features that were made elsewhere: `features:PATH.npz`."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.backbones import Classifier, checked_classifier
from utils.datasets import NO_LABEL, about_groups, cluster_names, numbered_groups, path_of
from utils.errors import InputError
from utils.features.types import Features, Task, require_finite_features
from utils.storage import digest, require_regular

FEATURE_FILE_PREFIX = "features:"
# What NumPy and zlib raise for a file that is damaged or no archive at all.
UNREADABLE = (
    OSError, ValueError, EOFError, TypeError, AttributeError, RuntimeError, NotImplementedError,
    MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
MOST_CLASSES = 1_000_000  # a larger label is an identifier, not a class
FEATURE_FILE_KEYS = ("x_train", "y_train", "x_test", "y_test")
GROUP_KEYS = ("groups_train", "groups_test", "groups")  # the last: of the training split
HEAD_KEYS = ("weight", "bias")


def is_feature_file(name: str) -> bool:
    return name.startswith(FEATURE_FILE_PREFIX)


def task_of_feature_file(name: str, unlabelled_classes: int | None = None) -> Task:
    """Reads `features:PATH.npz` with x_train, y_train, x_test, y_test; labels are integers 0..K−1. Of a
    task that has none, but `unlabelled_classes` classes, x_train and x_test alone are read. Where
    samples belong together, groups_train and groups_test say so.
    """
    path = feature_path(name)
    keys = FEATURE_FILE_KEYS[::2] if unlabelled_classes else FEATURE_FILE_KEYS
    arrays = _read_arrays(path, keys, GROUP_KEYS)
    train, test = (_checked_split(path, arrays, split) for split in ("train", "test"))
    if train.x.shape[1] != test.x.shape[1]:
        raise InputError(f"{path}: x_train has {train.x.shape[1]} features and x_test {test.x.shape[1]}")
    num_classes = unlabelled_classes or _count_classes(path, train, test)
    class_names = cluster_names(num_classes) if unlabelled_classes else map(str, range(num_classes))
    class_names = tuple(class_names)
    train, test = _with_groups(name, path, arrays, (train, test), class_names)
    provenance = {
        "origin": "features",
        "train": len(train),
        "test": len(test),
        "sha256": digest(train.x, train.y, test.x, test.y),
        **({"unlabelled_classes": num_classes} if unlabelled_classes else {}),
    }
    if train.groups is not None or test.groups is not None:
        provenance["groups"] = about_groups("the file", train.groups, test.groups)
    for split_name, split in (("train", train), ("test", test)):
        require_finite_features(str(path), split_name, split.x)
    return Task(feature_file_slug(name), train, test, num_classes, class_names, provenance)


def classifier_of_feature_file(name: str) -> Classifier:
    """Reads the classifier that `features:PATH.npz` may carry: `weight` (K, d) and `bias` (K,), which
    make logits of its x_train, and K strings `class_names`; without these the classes are called 0..K−1.
    Raises InputError, one line that names the file, where it carries none or one that does not fit.
    """
    path = feature_path(name)
    arrays = _read_arrays(path, (*HEAD_KEYS, "x_train"), optional=("class_names",))
    dim = _checked_split(path, arrays, "train").x.shape[1]
    for key in HEAD_KEYS:
        _require_numbers(path, key, arrays[key])
    weight, bias = (torch.from_numpy(_as_float32(arrays[key])) for key in HEAD_KEYS)
    names = arrays.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise InputError(f"{path}: class_names must be (K,) strings, not {names.shape} of {names.dtype}")
    return checked_classifier(str(path), weight, bias, dim, None if names is None else names.tolist())


def _read_arrays(path: Path, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    require_regular(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive]
            if missing:
                hint = ""
                if all(key.startswith("y_") for key in missing):
                    hint = " (a target without labels needs --TARGET_LABELS pseudo --TARGET_CLASSES K)"
                if set(missing) & set(HEAD_KEYS):
                    hint = ": a classifier of its own is weight (K, d) and bias (K,)"
                raise InputError(f"{path}: the arrays {', '.join(missing)} are missing{hint}")
            return {key: archive[key] for key in (*keys, *optional) if key in archive}
    except InputError:
        raise
    except UNREADABLE as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise InputError(f"{path} is not a readable .npz of {', '.join(keys)}: {reason}") from error


def _count_classes(path: Path, train: Features, test: Features) -> int:
    """K where both splits hold every class 0..K−1; InputError otherwise."""
    num_classes = int(train.y.max()) + 1
    if num_classes < 2:
        raise InputError(f"{path} has one class: there is nothing to tell apart")
    for split_name, split in (("y_train", train), ("y_test", test)):
        counts = torch.bincount(split.y, minlength=num_classes)
        if len(counts) > num_classes or counts.min() == 0:
            absent = (counts == 0).nonzero().flatten().tolist()
            raise InputError(
                f"{path}: {split_name} must hold every class 0..{num_classes - 1}: none of "
                f"{absent[:5]}, largest label {int(split.y.max())}"
            )
    return num_classes


def feature_path(name: str) -> Path:
    return path_of(name, FEATURE_FILE_PREFIX)


def _checked_split(path: Path, arrays: dict[str, np.ndarray], split: str) -> Features:
    x = arrays[f"x_{split}"]
    if x.ndim != 2 or len(x) == 0 or x.shape[1] == 0:
        raise InputError(f"{path}: x_{split} must be (n, d), not {x.shape}")
    _require_numbers(path, f"x_{split}", x)
    y = arrays.get(f"y_{split}")
    labels = torch.full((len(x),), NO_LABEL) if y is None else _checked_labels(path, y, split, x.shape)
    return Features(torch.from_numpy(_as_float32(x)), labels)


def _require_numbers(path: Path, key: str, values: np.ndarray) -> None:
    if not np.issubdtype(values.dtype, np.floating) and not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"{path}: {key} must be numbers, not {values.dtype}")


def _as_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        return values.astype(np.float32)


def _checked_labels(path: Path, y: np.ndarray, split: str, shape: tuple[int, int]) -> Tensor:
    if y.shape != shape[:1]:
        raise InputError(
            f"{path}: x_{split} must be (n, d) and y_{split} (n,), not {shape} and {y.shape}"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise InputError(f"{path}: y_{split} must be integers from 0 on, not {y.dtype}")
    if y.max() >= MOST_CLASSES:
        raise InputError(f"{path}: y_{split} holds the label {y.max()}: labels must be 0..K-1")
    return torch.from_numpy(y.astype(np.int64))


def _with_groups(
    name: str,
    path: Path,
    arrays: dict[str, np.ndarray],
    splits: tuple[Features, Features],
    class_names: Sequence[str],
) -> tuple[Features, Features]:
    """The splits with what the file says of samples that belong together."""
    of_train = [key for key in ("groups_train", "groups") if key in arrays]
    if len(of_train) > 1:
        raise InputError(f"{path}: groups_train and groups are both there: which is right?")
    keys = [*of_train, *([None] if not of_train else []), "groups_test"]
    names = [
        _checked_groups(path, key, arrays[key], len(split)) if key in arrays else None
        for key, split in zip(keys, splits, strict=True)
    ]
    if names == [None, None]:
        return splits
    kinds = {type(one) for part in names if part is not None for one in part}
    if len(kinds) > 1:
        raise InputError(f"{path}: {keys[0]} and groups_test must both be numbers, or both strings")
    labels = [split.y for split in splits]
    numbers = numbered_groups(f"the groups of {path}", name, names, labels, class_names)
    train, test = (replace(split, groups=part) for split, part in zip(splits, numbers, strict=True))
    return train, test


def _checked_groups(path: Path, key: str, groups: np.ndarray, count: int) -> list:
    if groups.shape != (count,) or groups.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: {key} must be ({count},) integers or strings, not {groups.shape} of {groups.dtype}"
        )
    return groups.tolist()


def feature_file_slug(name: str) -> str:
    """As it stands in paths and results: `features:some/FILE.npz` → features-FILE."""
    return f"features-{feature_path(name).stem}"
