"""Features that were made elsewhere: `features:PATH.npz`."""

import glob
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.backbones import Classifier, checked_classifier
from utils.datasets import NO_LABEL, about_classes, about_groups, cluster_names, numbered_groups, path_of
from utils.errors import InputError
from utils.features.labels import different_values, numbered_labels
from utils.features.types import Features, Task, require_finite_features
from utils.storage import PATH, digest, require_regular

FEATURE_FILE_PREFIX = "features:"
# What NumPy and zlib raise for a file that is damaged or no archive at all.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
FEATURE_FILE_KEYS = ("x_train", "y_train", "x_test", "y_test")
SHORT_KEYS = (("x", "y"), ("features", "labels"))  # of a file without a test split
GROUP_KEYS = ("groups_train", "groups_test", "groups")  # the last: of the training split
HEAD_KEYS = ("weight", "bias")


def is_feature_file(name: str) -> bool:
    return name.startswith(FEATURE_FILE_PREFIX)


def task_of_feature_file(
    name: str, unlabelled_classes: int | None = None, needs_test: bool = True
) -> Task:
    """Read `features:PATH.npz` with x_train, y_train, x_test, y_test; `numbered_labels` says what labels
    may look like. Of a task that has none, but `unlabelled_classes` classes, x_train and x_test alone
    are read. Unless `needs_test`, the test split may be missing, and the training split be called x and
    y, or features and labels. Where samples belong together, groups_train and groups_test say so.
    """
    path = feature_path(name)
    arrays = _read_task(path, unlabelled_classes, needs_test)
    splits = [split for split in ("train", "test") if f"x_{split}" in arrays]
    x = {split: _checked_features(path, f"x_{split}", arrays[f"x_{split}"]) for split in splits}
    if "test" in x and x["train"].shape[1] != x["test"].shape[1]:
        dims = [values.shape[1] for values in x.values()]
        raise InputError(f"{path}: x_train has {dims[0]} features and x_test {dims[1]}")
    if unlabelled_classes:
        class_names = tuple(cluster_names(unlabelled_classes))
        y = {split: torch.full((len(values),), NO_LABEL) for split, values in x.items()}
    else:
        y, class_names = _labels(path, arrays, splits, {split: arrays[f"x_{split}"] for split in splits})
    found = [Features(x[split], y[split]) for split in splits]
    found = _with_groups(name, path, arrays, found, class_names)
    for split_name, split in zip(splits, found, strict=True):
        require_finite_features(str(path), split_name, split.x)
    provenance = {
        "origin": "features",
        **{split_name: len(split) for split_name, split in zip(splits, found, strict=True)},
        "sha256": digest(*(part for split in found for part in (split.x, split.y))),
        **({"unlabelled_classes": unlabelled_classes} if unlabelled_classes else {}),
        "classes": about_classes(class_names),
        PATH: str(path.resolve()),
    }
    train, test = (*found, Features(found[0].x[:0], found[0].y[:0]))[:2]
    if train.groups is not None or test.groups is not None:
        provenance["groups"] = about_groups("the file", train.groups, test.groups)
    return Task(
        name=feature_file_slug(name),
        train=train,
        test=test,
        num_classes=len(class_names),
        class_names=class_names,
        provenance=provenance,
    )


def require_same_labels(names: Sequence[str]) -> None:
    """Raise InputError unless these feature files hold the same labels, and groups, in the same order:
    that their rows are features of the same samples is all that can be asked of a file.
    """
    first: dict[str, tuple[Path, Tensor, tuple[str, ...]]] = {}
    paths = list(map(feature_path, names))
    groups = _groups_alone(paths[0])
    for path in paths[1:]:
        if _groups_alone(path) != groups:
            raise InputError(
                f"{paths[0]} and {path} do not say alike which samples belong together: give each file "
                "the same groups"
            )
    for path in paths:
        labels, class_names = _labels_alone(path)
        for key, y in labels.items():
            other, expected, other_names = first.setdefault(key, (path, y, class_names))
            if len(y) != len(expected):
                problem = f"{key} has {len(expected)} labels and {len(y)}"
            elif (y != expected).any():
                row, count = int((y != expected).nonzero()[0]), int((y != expected).sum())
                values = f"{other_names[expected[row]]} and {class_names[y[row]]}"
                problem = f"{key}[{row}] is {values}, and {count} of {len(y)} differ"
            else:
                continue
            raise InputError(
                f"{other} and {path} are not of the same samples: {problem}; each row must be of the "
                "same sample in every file"
            )


def classifier_of_feature_file(name: str) -> Classifier:
    """Read the classifier that `features:PATH.npz` may carry: `weight` (K, d) and `bias` (K,), which
    make logits of its x_train, and K strings `class_names`; without these the classes are called 0..K−1.
    Raises InputError, one line that names the file, where it carries none or one that does not fit.
    """
    path = feature_path(name)
    arrays = _read_arrays(path, (*HEAD_KEYS, "x_train"), optional=("class_names",))
    dim = _checked_features(path, "x_train", arrays["x_train"]).shape[1]
    for key in HEAD_KEYS:
        _require_numbers(path, key, arrays[key])
    weight, bias = (torch.from_numpy(_as_float32(arrays[key])) for key in HEAD_KEYS)
    names = arrays.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise InputError(f"{path}: class_names must be (K,) strings, not {names.shape} of {names.dtype}")
    return checked_classifier(str(path), weight, bias, dim, None if names is None else names.tolist())


def _read_arrays(path: Path, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return arrays by their names in small letters: X_train is x_train."""
    require_regular(path)
    ending = path.suffix.lower()
    other = (
        ""
        if ending == ".npz"
        else f": features: reads NumPy's .npz, as np.savez writes it, not {ending}"
    )
    try:
        with np.load(path, allow_pickle=False) as archive:
            # By names in small letters; of two that differ in case alone the small one.
            there = {name.lower(): name for name in sorted(archive.files, key=str.islower)}
            missing = [key for key in keys if key not in there]
            if missing:
                hint = "" if len(missing) < len(keys) else other or f" (it holds {', '.join(there)})"
                if all(key.startswith("y_") for key in missing):
                    hint = (
                        " (a target without labels is for transfer_source_to_target.py, with "
                        "--TARGET_LABELS pseudo --TARGET_CLASSES K)"
                    )
                if set(missing) & set(HEAD_KEYS):
                    hint = ": a classifier of its own is weight (K, d) and bias (K,)"
                raise InputError(f"{path}: the arrays {', '.join(missing)} are missing{hint}")
            return {key: _array(archive, there[key]) for key in (*keys, *optional) if key in there}
    except InputError:
        raise
    except UNREADABLE as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        if "allow_pickle" in str(error):  # how NumPy takes whatever it does not know
            reason = "it is no such archive"
        wrong = "" if isinstance(error, FileNotFoundError) else other
        named = f" of {', '.join(keys)}" if keys else ""
        raise InputError(f"{path} is not a readable .npz{named}: {reason}{wrong}") from error


def _array(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise ValueError(
            f"{name} holds Python objects, which may run code when they are read: save it as numbers or "
            "strings"
        ) from error


def _read_task(path: Path, unlabelled: int | None, needs_test: bool) -> dict[str, np.ndarray]:
    """Return the arrays of a task, under the names of FEATURE_FILE_KEYS."""
    if unlabelled:
        return _read_arrays(path, FEATURE_FILE_KEYS[::2], GROUP_KEYS)
    about = ("class_names", *HEAD_KEYS, *GROUP_KEYS)
    if needs_test:
        return _read_arrays(path, FEATURE_FILE_KEYS, about)
    pairs = (FEATURE_FILE_KEYS[:2], *SHORT_KEYS)
    found = _read_arrays(
        path, (), (*FEATURE_FILE_KEYS, *(key for pair in pairs for key in pair), *about)
    )
    pair = next((pair for pair in pairs if set(pair) <= found.keys()), None)
    if pair is None:
        return _read_arrays(path, FEATURE_FILE_KEYS[:2])  # which says what is missing
    arrays = {key: found[key] for key in about if key in found}
    arrays |= dict(zip(FEATURE_FILE_KEYS, (found[key] for key in pair), strict=False))
    if pair == pairs[0] and set(FEATURE_FILE_KEYS) <= found.keys():
        arrays |= {key: found[key] for key in FEATURE_FILE_KEYS[2:]}
    return arrays


def _groups_alone(path: Path) -> dict[str, list[int]]:
    """Return which samples belong together, numbered in the order of their first ones."""
    found = _read_arrays(path, (), GROUP_KEYS)
    numbers = {}
    for key, groups in found.items():
        _, first, number = np.unique(groups, return_index=True, return_inverse=True)
        split = key if key in GROUP_KEYS[:2] else GROUP_KEYS[0]
        numbers[split] = first.argsort().argsort()[number].tolist()
    return numbers


def _labels_alone(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read what `_labels` does, without a look at the features."""
    found = _read_arrays(path, (), ("y_train", "y_test", *(labels for _, labels in SHORT_KEYS)))
    keys = [key for key in ("y_train", "y_test") if key in found] or list(found)[:1]
    if not keys:
        _read_arrays(path, ("y_train",))  # which says what is missing
    labels, names = numbered_labels(path, {key: found[key] for key in keys})
    return dict(zip(("y_train", "y_test"), labels.values(), strict=False)), names


def _labels(
    path: Path, arrays: dict[str, np.ndarray], splits: Sequence[str], x: dict[str, np.ndarray]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return (labels of each split, class names). Names beside a classifier are of its classes, not of
    these.
    """
    for split, values in x.items():
        shape = arrays[f"y_{split}"].shape
        if shape not in ((len(values),), (1, len(values))) and (
            len(shape) != 2 or shape[0] != len(values)
        ):
            raise InputError(
                f"{path}: x_{split} must be (n, d) and y_{split} (n,), not {values.shape} and {shape}"
            )
    own_names = None if set(HEAD_KEYS) & arrays.keys() else arrays.get("class_names")
    labels, names = numbered_labels(path, {f"y_{s}": arrays[f"y_{s}"] for s in splits}, own_names)
    return {split: labels[f"y_{split}"] for split in splits}, names


def feature_path(name: str) -> Path:
    return path_of(name, FEATURE_FILE_PREFIX)


def _checked_features(path: Path, key: str, x: np.ndarray) -> Tensor:
    """Take features as (n, d) float32; (n, d, 1, 1), as pooling leaves them, is that too."""
    if x.ndim > 2 and set(x.shape[2:]) == {1}:
        x = x.reshape(x.shape[:2])
    if x.ndim != 2 or len(x) == 0 or x.shape[1] == 0:
        pooled = ": average or flatten what lies behind the first axis" if x.ndim > 2 else ""
        raise InputError(f"{path}: {key} must be (n, d), not {x.shape}{pooled}")
    _require_numbers(path, key, x)
    return torch.from_numpy(np.ascontiguousarray(_as_float32(x)))


def _require_numbers(path: Path, key: str, values: np.ndarray) -> None:
    if not np.issubdtype(values.dtype, np.floating) and not np.issubdtype(values.dtype, np.integer):
        unknown = " (bfloat16? save float32)" if values.dtype.kind == "V" else ""
        raise InputError(f"{path}: {key} must be numbers, not {values.dtype}{unknown}")


def _as_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        return values.astype(np.float32)


def _with_groups(
    name: str,
    path: Path,
    arrays: dict[str, np.ndarray],
    splits: list[Features],
    class_names: Sequence[str],
) -> list[Features]:
    """Read the splits, training and perhaps test, with what the file says of samples that belong
    together.
    """
    of_train = [key for key in ("groups_train", "groups") if key in arrays]
    if len(of_train) > 1:
        raise InputError(f"{path}: groups_train and groups are both there: which is right?")
    keys = [*of_train, *([None] if not of_train else []), "groups_test"]
    names = [
        _checked_groups(path, key, arrays[key], len(split)) if key in arrays else None
        for key, split in zip(keys, splits, strict=False)
    ]
    if not any(names):
        return splits
    kinds = {type(one) for part in names if part is not None for one in part}
    if len(kinds) > 1:
        raise InputError(f"{path}: {keys[0]} and groups_test must both be numbers, or both strings")
    labels = [split.y for split in splits]
    numbers = numbered_groups(f"the groups of {path}", name, names, labels, class_names)
    return [replace(split, groups=part) for split, part in zip(splits, numbers, strict=True)]


def _checked_groups(path: Path, key: str, groups: np.ndarray, count: int) -> list:
    """Read whole numbers or strings, one a sample, in the forms that labels may have."""
    if groups.shape not in ((count,), (count, 1), (1, count)) or groups.dtype.kind not in "iufUS":
        raise InputError(
            f"{path}: {key} must be ({count},) integers or strings, not {groups.shape} of {groups.dtype}"
        )
    values, rows = different_values(path, key, groups, "group", "groups are whole numbers or names")
    return [values[row] for row in rows.reshape(-1)]


def feature_file_slug(name: str) -> str:
    """Return a file's name as it stands in paths and results: `features:some/FILE.npz` → features-FILE,
    and all files of `features:FOLDER/` → features-FOLDER.
    """
    path = feature_path(name)
    return f"features-{path.name if name.endswith('/') else path.stem}"


def expand_feature_files(name: str) -> list[str]:
    """List what `features:PATTERN` (with *, ? or [) and `features:FOLDER` stand for: the files that
    match, or that end in .npz (or .NPZ), in the order of their names. The name of a file stands for
    itself. Raises InputError for none.
    """
    path = feature_path(name)
    if not path.is_dir() and (path.exists() or not any(mark in str(path) for mark in "*?[")):
        return [name]
    pattern = f"{glob.escape(str(path))}/*.[nN][pP][zZ]" if path.is_dir() else str(path)
    files = [text for text in sorted(glob.glob(pattern, recursive=True)) if Path(text).is_file()]
    if not files:
        shown = f"{path}/*.npz" if path.is_dir() else pattern
        raise InputError(f"{name} stands for no file: nothing matches {shown}")
    return [f"{FEATURE_FILE_PREFIX}{text}" for text in files]
