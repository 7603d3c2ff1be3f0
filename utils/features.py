"""Features: what the analysis works on. Tasks, feature files, standardising.

`load_task` turns a name into a `Task`: the features of a data set seen through a backbone, or
features made elsewhere and read from `features:PATH.npz`.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.backbones import Backbone
from utils.datasets import (
    FOLDER_PREFIX,
    Dataset,
    check_dataset_name,
    dataset_label,
    folder_path,
    is_image_folder,
    load_dataset,
    path_of,
)
from utils.distributed import main_process_first
from utils.errors import InputError
from utils.extraction import Features, cached_features
from utils.images import NO_LABEL, Split, cluster_names, is_labelled
from utils.storage import digest, require_regular

FEATURE_FILE_PREFIX = "features:"
# What NumPy and zlib raise for a file that is damaged or no archive at all.
UNREADABLE = (
    OSError, ValueError, EOFError, TypeError, AttributeError, RuntimeError, NotImplementedError,
    MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
MOST_CLASSES = 1_000_000  # a larger label is an identifier, not a class
FARTHEST = 1e9  # standard deviations from the mean at which losses still have a meaning
FEATURE_FILE_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Task:
    """A classification task as the analysis sees it: features of both splits and their classes."""

    name: str
    train: Features
    test: Features
    num_classes: int
    class_names: tuple[str, ...]
    provenance: dict

    @property
    def labelled(self) -> bool:
        """Otherwise every label is NO_LABEL."""
        return is_labelled(self.train.y)

    @property
    def feature_dim(self) -> int:
        return self.train.x.shape[1]


def is_feature_file(name: str) -> bool:
    return name.startswith(FEATURE_FILE_PREFIX)


def check_task_name(name: str, role: str, grey_only: bool = False) -> str:
    """`features:PATH` as it is, or the registered spelling of a data set; InputError otherwise."""
    if is_feature_file(name):
        return name
    return check_dataset_name(name, role, grey_only, also=f"{FEATURE_FILE_PREFIX}PATH.npz")


def absolute_name(name: str) -> str:
    """The same task from any working folder."""
    if is_feature_file(name):
        return f"{FEATURE_FILE_PREFIX}{_feature_path(name).absolute()}"
    return f"{FOLDER_PREFIX}{folder_path(name).absolute()}" if is_image_folder(name) else name


def task_label(name: str) -> str:
    """A task's name as it stands in paths and results: `features:some/FILE.npz` → features-FILE."""
    return f"features-{_feature_path(name).stem}" if is_feature_file(name) else dataset_label(name)


@dataclass(frozen=True)
class TaskRequest:
    """Where tasks are loaded from: `load_dataset` explains origin, data_dir and seed, `cached_features`
    the rest.
    """

    data_dir: Path
    cache_dir: Path
    origin: str = "auto"
    seed: int = 0
    workers: int = 0
    max_corrupt: int = 0


def find_data(
    name: str, request: TaskRequest, *, role: str, num_classes: int | None = None
) -> Dataset | Task:
    """A data set, or the task of a feature file. Both tell their classes and sizes before any image is
    looked at. `num_classes`: how many a source offers of which classes are drawn; of a target, that it
    has no labels but so many classes.
    """
    if is_feature_file(name):
        return task_of_feature_file(name, num_classes if role == "target" else None)
    return main_process_first(
        lambda: load_dataset(name, request.origin, request.data_dir, role, request.seed, num_classes)
    )


def load_task(
    name: str,
    backbone: Backbone | None,
    request: TaskRequest,
    *,
    role: str,
    num_classes: int | None = None,
) -> Task:
    """From a name to a task: a data set needs the backbone to see it."""
    data = find_data(name, request, role=role, num_classes=num_classes)
    if isinstance(data, Task):
        return data
    if backbone is None:
        raise needs_backbone(name)
    return task_of_dataset(data, backbone, request)


def needs_backbone(name: str) -> InputError:
    return InputError(
        f"{name} needs the network that made the source's features: with a features: source give the "
        "target as features:PATH.npz too"
    )


def task_of_dataset(dataset: Dataset, backbone: Backbone, request: TaskRequest) -> Task:
    """A data set's features through the backbone, from the cache as far as they are there."""
    splits, unreadable = [], []
    for split_name, split in (("train", dataset.train), ("test", dataset.test)):
        features, skipped = features_of_split(dataset, split_name, split, backbone, request)
        splits.append(features)
        unreadable += skipped
    provenance = {**dataset.provenance, **({"unreadable": unreadable} if unreadable else {})}
    return Task(dataset.name, *splits, dataset.num_classes, dataset.class_names, provenance)


def features_of_split(
    dataset: Dataset, split_name: str, split: Split, backbone: Backbone, request: TaskRequest
) -> tuple[Features, list[str]]:
    """One split of a data set, or some images of one, through the backbone; and the names of the images
    that could not be read.
    """
    features, unreadable = cached_features(
        backbone, split, request.cache_dir, f"{dataset.name}_{split_name}",
        workers=request.workers, max_corrupt=request.max_corrupt,
    )  # fmt: skip
    if is_labelled(features.y):
        require_every_class(dataset, split_name, features.y)
    _require_finite(f"features of {dataset.name} through {backbone.name}", split_name, features.x)
    return features, unreadable


def require_every_class(dataset: Dataset, split_name: str, labels: Tensor) -> None:
    """Raises InputError for a class of which no image could be read."""
    missing = torch.bincount(labels, minlength=dataset.num_classes) == 0
    if missing.any():
        names = [dataset.class_names[k] for k in missing.nonzero().flatten().tolist()]
        raise InputError(f"{dataset.name}: no readable {split_name} image of {', '.join(names[:5])}")


def task_of_feature_file(name: str, unlabelled_classes: int | None = None) -> Task:
    """Reads `features:PATH.npz` with x_train, y_train, x_test, y_test; labels are integers 0..K−1. Of a
    task that has none, but `unlabelled_classes` classes, x_train and x_test alone are read.
    """
    path = _feature_path(name)
    arrays = _read_arrays(path, FEATURE_FILE_KEYS[::2] if unlabelled_classes else FEATURE_FILE_KEYS)
    train, test = (_checked_split(path, arrays, split) for split in ("train", "test"))
    if train.x.shape[1] != test.x.shape[1]:
        raise InputError(f"{path}: x_train has {train.x.shape[1]} features and x_test {test.x.shape[1]}")
    num_classes = unlabelled_classes or _count_classes(path, train, test)
    class_names = cluster_names(num_classes) if unlabelled_classes else map(str, range(num_classes))
    provenance = {
        "origin": "features",
        "train": len(train),
        "test": len(test),
        "sha256": digest(train.x, train.y, test.x, test.y),
        **({"unlabelled_classes": num_classes} if unlabelled_classes else {}),
    }
    for split_name, split in (("train", train), ("test", test)):
        _require_finite(str(path), split_name, split.x)
    return Task(task_label(name), train, test, num_classes, tuple(class_names), provenance)


def _read_arrays(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    require_regular(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive]
            if missing:
                hint = ""
                if all(key.startswith("y_") for key in missing):
                    hint = " (a target without labels needs --TARGET_LABELS pseudo --TARGET_CLASSES K)"
                raise InputError(f"{path}: the arrays {', '.join(missing)} are missing{hint}")
            return {key: archive[key] for key in keys}
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


def _feature_path(name: str) -> Path:
    return path_of(name, FEATURE_FILE_PREFIX)


def _checked_split(path: Path, arrays: dict[str, np.ndarray], split: str) -> Features:
    x = arrays[f"x_{split}"]
    if x.ndim != 2 or len(x) == 0 or x.shape[1] == 0:
        raise InputError(f"{path}: x_{split} must be (n, d), not {x.shape}")
    if not np.issubdtype(x.dtype, np.floating) and not np.issubdtype(x.dtype, np.integer):
        raise InputError(f"{path}: x_{split} must be numbers, not {x.dtype}")
    y = arrays.get(f"y_{split}")
    labels = torch.full((len(x),), NO_LABEL) if y is None else _checked_labels(path, y, split, x.shape)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        x = x.astype(np.float32)
    return Features(torch.from_numpy(x), labels)


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


def _require_finite(what: str, split_name: str, x: Tensor) -> None:
    bad = ~torch.isfinite(x).all(1)
    if bad.any():
        kind = {"train": "training"}.get(split_name, split_name)
        raise InputError(
            f"{what}: {int(bad.sum())} of {len(x)} {kind} samples have NaN or infinite features "
            f"(first: sample {int(bad.nonzero()[0])})"
        )


def with_clusters(task: Task, train: Tensor, test: Tensor) -> Task:
    """The task with cluster numbers for the labels of its splits."""
    return replace(
        task,
        train=Features(task.train.x, train.cpu()),
        test=Features(task.test.x, test.cpu()),
        class_names=cluster_names(task.num_classes),
    )


# ------------------------------------------------------------------------------------- standardising
@dataclass(frozen=True)
class Standardiser:
    """x ↦ (x − mean) / scale per coordinate, fitted on a training split.

    A coordinate without variance is centred and left unscaled. With `floor` > 0 so is one whose
    deviation is at most `floor` times the median deviation: a ReLU unit that fires on one training
    sample in 60,000 would otherwise turn a single test sample into an outlier of thousands.
    """

    mean: Tensor
    scale: Tensor

    @staticmethod
    def fit(x: Tensor, floor: float = 0.0) -> "Standardiser":
        deviation, mean = torch.std_mean(x.double(), dim=0, correction=0)
        # A constant float32 coordinate has a deviation of rounding size, not exactly zero.
        unscaled = deviation <= 1e-7 * mean.abs()
        if not unscaled.all():
            unscaled |= deviation <= floor * deviation[~unscaled].median()
        deviation[unscaled] = 1.0
        return Standardiser(mean.float(), deviation.float())

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale

    def scaled(self, split: Features) -> Features:
        return Features(self(split.x), split.y)


def standardise(task: Task, device: torch.device, floor: float = 0.0) -> tuple[Features, Features]:
    """(train, test) of a task, standardised by its own training split, on the device."""
    scaler = Standardiser.fit(task.train.x, floor)
    train, test = (scaler.scaled(split).to(device) for split in (task.train, task.test))
    reach = test.x.abs().max().item()
    if not reach < FARTHEST:
        raise InputError(
            f"{task.name}: a test sample lies {reach:.0e} standard deviations from the training ones: "
            "the two splits are not of one network"
        )
    return train, test
