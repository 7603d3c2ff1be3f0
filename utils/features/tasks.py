"""From a name to a `Task`: the features of a data set seen through a backbone, or of a file."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from utils.backbones import Backbone
from utils.datasets import (
    FOLDER_PREFIX,
    Dataset,
    Grouping,
    Split,
    check_dataset_name,
    cluster_names,
    dataset_slug,
    folder_path,
    is_image_folder,
    is_labelled,
    load_dataset,
    require_folder,
)
from utils.distributed import main_process_first, rank
from utils.errors import InputError
from utils.features.cache import cached_features
from utils.features.decoding import left_out_line, without_root
from utils.features.files import (
    FEATURE_FILE_PREFIX,
    feature_file_slug,
    feature_path,
    is_feature_file,
    task_of_feature_file,
)
from utils.features.types import Features, Task, require_finite_features
from utils.names import HEAD


def check_task_name(name: str, role: str, grey_only: bool = False) -> str:
    """Return `features:PATH` as it is, HEAD for a source, or the registered spelling of a data set;
    InputError otherwise.
    """
    if is_feature_file(name):
        return name
    if role == "source" and name.lower() == HEAD:
        return HEAD
    return check_dataset_name(name, role, grey_only, also=f"{FEATURE_FILE_PREFIX}PATH.npz")


def same_images(one: Mapping, other: Mapping) -> bool:
    """Tell whether two tasks, by their provenance, are of the same images, wherever these lie."""
    return one.get("sha256") == other.get("sha256")


def absolute_name(name: str) -> str:
    """Name the same task from any working folder."""
    if is_feature_file(name):
        return f"{FEATURE_FILE_PREFIX}{feature_path(name).absolute()}"
    return f"{FOLDER_PREFIX}{folder_path(name).absolute()}" if is_image_folder(name) else name


def task_slug(name: str) -> str:
    """Return a task's name as paths and results have it: `features:some/FILE.npz` → features-FILE."""
    return feature_file_slug(name) if is_feature_file(name) else dataset_slug(name)


@dataclass(frozen=True)
class TaskRequest:
    """Where tasks are loaded from: `load_dataset` explains origin, data_dir, seed and grouping,
    `cached_features` the rest.
    """

    data_dir: Path = Path("data")
    cache_dir: Path = Path("checkpoints") / "features"
    origin: str = "auto"
    seed: int = 0
    workers: int = 0
    max_corrupt: int = 0
    max_pixels: int | None = None
    grouping: Grouping | None = None

    @property
    def index_dir(self) -> Path:
        """Where it is kept what is known of image files."""
        return self.cache_dir / "files"


def find_data(
    name: str,
    request: TaskRequest,
    *,
    role: str,
    classes_to_draw: int | None = None,
    unlabelled_classes: int | None = None,
    labels: Path | None = None,
    needs_test: bool = True,
) -> Dataset | Task:
    """Find a data set, or the task of a feature file. Both tell their classes and sizes before any image
    is looked at. `load_dataset` explains the options, `task_of_feature_file` `needs_test`.
    """
    if labels:
        require_folder(name, unlabelled_classes)
    if is_feature_file(name):
        if request.grouping and not request.grouping.where_it_fits:
            raise InputError(
                f"--GROUPS is for names of image files, and {name} has none: put the arrays "
                "groups_train and groups_test into the file"
            )
        return task_of_feature_file(name, unlabelled_classes, needs_test)
    return main_process_first(
        lambda: load_dataset(
            name,
            request.origin,
            request.data_dir,
            role,
            request.seed,
            classes_to_draw=classes_to_draw,
            unlabelled_classes=unlabelled_classes,
            labels=labels,
            grouping=request.grouping,
            index_dir=request.index_dir,
            max_pixels=request.max_pixels,
        )
    )


def load_task(name: str, backbone: Backbone | None, request: TaskRequest, *, role: str) -> Task:
    """Load a task by its name: a data set needs the backbone to see it."""
    data = find_data(name, request, role=role)
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
    """Extract a data set's features through the backbone, from the cache as far as they are there."""
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
    """Pass one split of a data set, or some images of one, through the backbone; and the names of the
    images that could not be read, which a warning tells, too.
    """
    features, unreadable = cached_features(
        backbone,
        split,
        request.cache_dir,
        f"{dataset.name}_{split_name}",
        workers=request.workers,
        max_corrupt=request.max_corrupt,
    )
    unreadable = without_root(split.images, unreadable)
    text = left_out_line(dataset.name, split_name, unreadable, len(split))
    if text and rank() == 0:
        warnings.warn(text, stacklevel=2)
    if is_labelled(features.y):
        require_every_class(dataset, split_name, features.y)
    require_finite_features(
        f"features of {dataset.name} through {backbone.name}", split_name, features.x
    )
    return features, unreadable


def require_every_class(dataset: Dataset, split_name: str, labels: Tensor) -> None:
    """Raise InputError for a class of which no image could be read."""
    missing = torch.bincount(labels, minlength=dataset.num_classes) == 0
    if missing.any():
        names = [dataset.class_names[k] for k in missing.nonzero().flatten().tolist()]
        raise InputError(f"{dataset.name}: no readable {split_name} image of {', '.join(names[:5])}")


def with_clusters(task: Task, train: Tensor, test: Tensor) -> Task:
    """Return the task with cluster numbers for the labels of its splits."""
    return replace(
        task,
        train=replace(task.train, y=train.cpu()),
        test=replace(task.test, y=test.cpu()),
        class_names=cluster_names(task.num_classes),
    )
