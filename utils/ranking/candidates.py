"""What a ranking compares: a network at a size of images, with a source or without."""

import argparse
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from utils.backbones import ROBUST_PREFIX, check_backbone_name, is_grey_model, split_pixels
from utils.datasets import Dataset, Split
from utils.device import choose_device
from utils.errors import InputError
from utils.features import (
    FEATURE_FILE_PREFIX,
    Features,
    Standardiser,
    Task,
    expand_feature_files,
    feature_path,
    features_of_split,
    images_per_second,
    is_feature_file,
    task_slug,
)
from utils.ranking.scores import Facts
from utils.sampling import draw_by_counts, index_by_class
from utils.stage import (
    SourceNetwork,
    check_options,
    decoding_workers,
    find_source,
    find_target,
    open_network,
    open_task,
    task_request,
)
from utils.storage import digest


# ------------------------------------------------------------------------------------ what is compared
@dataclass(frozen=True)
class Entry:
    """A model, at `image_size` pixels (None: its own), and a source (None: none). `options`: the
    ranking's as stage 3 would have them for this candidate, checked. `file_name`: of the target's
    feature file, where each candidate has its own.
    """

    model: str
    image_size: int | None
    source: str | None
    options: argparse.Namespace = field(repr=False, compare=False)
    file_name: str | None = None

    @staticmethod
    def of(
        text: str, source: str | None, options: argparse.Namespace, file: tuple[str, str] | None = None
    ) -> "Entry":
        """Of NAME or NAME@PIXELS; `file`: (what the target's feature file is called, the target)."""
        model, image_size = split_pixels(text)
        model = check_backbone_name(model)
        if not is_grey_model(model) and not is_feature_file(source or options.TRG):
            image_size = image_size or options.IMAGE_SIZE
        own = {
            "MODEL": model,
            "SRC": source,
            "IMAGE_SIZE": image_size,
            "EPS": options.EPS if model.startswith(ROBUST_PREFIX) else None,
            "WEIGHTS": None,
            "ROBUST": False,
            "SOURCE_CLASSES": "all",
            "TRG": file[1] if file else options.TRG,
        }
        of_entry = argparse.Namespace(**{**vars(options), **own})
        return Entry(model, image_size, source, check_options(of_entry), file and file[0])

    @property
    def of_features(self) -> bool:
        """Whether the features were made elsewhere."""
        return is_feature_file(self.source or self.options.TRG)

    @property
    def model_name(self) -> str:
        """NAME@PIXELS; features have no network, whatever the model: their file stands for it."""
        if self.of_features:
            return self.file_name or "features"
        return self.model if self.image_size is None else f"{self.model}@{self.image_size}"

    @property
    def source_slug(self) -> str:
        return task_slug(self.source) if self.source else ""

    @property
    def is_control(self) -> bool:
        return self.model.startswith("random:")


@dataclass(frozen=True)
class Candidate:
    """An entry's data: `points`, the target's training features that scores see, as the network gives
    them, and `scaled` by their own deviations; `test` scaled the same, where accuracies are measured;
    `source`, a task seen by the same network, if there is one. `network` tells one network from another,
    `view` one set of target features from another; `images` says which images `points` are of, and
    `new_images` how many the test split has, None where there is none, and `new_groups` how they belong
    together, if they do.
    """

    name: str
    entry: Entry
    network: Hashable
    view: Hashable
    points: Features
    scaled: Features
    test: Features | None
    num_classes: int
    images: str
    new_images: int | None
    new_groups: torch.Tensor | None
    source: Task | None
    deviation_floor: float
    facts: Facts
    provenance: dict[str, dict]
    class_names: tuple[str, ...]


def open_candidate(name: str, entry: Entry, deviation_floor: float, with_test: bool) -> Candidate:
    """Loads an entry's network and extracts what the cache does not hold."""
    options = entry.options
    device = choose_device(options.DEVICE)
    network = open_network(options, device)
    target = find_target(options, needs_test=with_test)
    points, test, unreadable = _target_features(target, network, options, with_test)
    about = {"points": len(points), **({"unreadable": unreadable} if unreadable else {})}
    scaler = Standardiser.fit(points.x, deviation_floor)
    source = entry.source and open_task(find_source(options, network, target), options, network)
    backbone, speed = network.backbone, None
    if backbone and isinstance(target, Dataset):
        speed = images_per_second(backbone, target.train, decoding_workers(options))
    size = backbone and sum(p.numel() for p in backbone.network.parameters())
    known_as = target.name if entry.file_name is None else f"features-{entry.file_name}"
    provenance = {known_as: {**target.provenance, **about}}
    provenance |= {source.name: source.provenance} if source else {}
    if network.about:
        of_network = view = digest(network.about)
    elif entry.file_name:  # one a network, unless two hold the same
        of_network = view = target.provenance["sha256"]
    else:
        of_network, view = entry.source_slug, target.name
    return Candidate(
        name, entry, of_network, view,
        points.to(device), scaler.scaled(points).to(device),
        test and scaler.scaled(test).to(device), target.num_classes,
        digest(points.y, [name.partition(" (")[0] for name in unreadable]), len(target.test) or None,
        target.test.groups, source or None, deviation_floor,
        Facts(size, points.x.shape[1], speed), provenance, target.class_names,
    )  # fmt: skip


def files_of_target(names: Sequence[str]) -> dict[str, str]:
    """Targets by what tables call them, where several feature files, one a network, stand for one: the
    names of files without their ending, behind as many folders as tell equal ones apart. Empty for a
    single target. Raises InputError for several targets that are not all feature files.
    """
    expanded = {name: expand_feature_files(name) if is_feature_file(name) else [name] for name in names}
    if len(expanded) == 1 and list(expanded.values()) == [list(expanded)]:
        return {}
    if others := [name for name in expanded if not is_feature_file(name)]:
        raise InputError(
            f"several --TRG must be feature files of the same samples, one a network, and "
            f"{', '.join(others)} is none"
        )
    files: dict[Path, str] = {}
    for name in (name for found in expanded.values() for name in found):
        files.setdefault(Path(os.path.abspath(feature_path(name))), name)
    return dict(zip(_told_apart(list(files)), files.values(), strict=True))


def folder_of_files(names: Sequence[str]) -> str:
    """The folder that holds these feature files, as a name of all: features:FOLDER/."""
    folders = [os.path.abspath(feature_path(name).parent) for name in names]
    return f"{FEATURE_FILE_PREFIX}{os.path.commonpath(folders).rstrip('/')}/"


def _told_apart(paths: Sequence[Path]) -> list[str]:
    names = []
    for path in paths:
        same = [other for other in paths if other.stem == path.stem and other != path]
        beside = any(other.parent == path.parent for other in same)  # a.npz and a.NPZ
        folders = [other.parent.parts for other in same if other.parent != path.parent]
        depth, own = 0, path.parent.parts
        while any(other[len(other) - depth :] == own[len(own) - depth :] for other in folders):
            depth += 1
        names.append("/".join([*own[len(own) - depth :], path.name if beside else path.stem]))
    return names


def _target_features(
    target: Dataset | Task, network: SourceNetwork, options: argparse.Namespace, with_test: bool
) -> tuple[Features, Features | None, list[str]]:
    """(training points, test features where they are wanted, the images that could not be read)."""
    if isinstance(target, Task):
        index = _chosen(target.train.y, target, options)
        return target.train.select(index), target.test if with_test else None, []
    splits = {"train": chosen_images(target, options)[0]}
    splits |= {"test": target.test} if with_test else {}
    found, unreadable = {}, []
    for split_name, split in splits.items():
        found[split_name], skipped = features_of_split(
            target, split_name, split, network.backbone, task_request(options)
        )
        unreadable += skipped
    return found["train"], found.get("test"), unreadable


def chosen_images(data: Dataset, options: argparse.Namespace) -> tuple[Split, torch.Tensor | None]:
    """The training images that scores see, and their indices where these are not all."""
    index = _chosen(data.train.labels, data, options)
    if len(index) == len(data.train):
        return data.train, None
    return data.train.select(index), index


def _chosen(labels: torch.Tensor, data: Dataset | Task, options: argparse.Namespace) -> torch.Tensor:
    return choose_points(labels, data.class_names, options.SHOTS, options.SAMPLES, options.SEED)


def choose_points(
    labels: torch.Tensor, class_names: tuple[str, ...], shots: int | None, most: int, seed: int
) -> torch.Tensor:
    """Indices of the training images that scores see, sorted: `shots` of each class, else all, or of
    more than `most` each class's share. Raises InputError for a class with fewer than `shots`.
    """
    members = index_by_class(labels, len(class_names))
    share, counts = min(1.0, most / len(labels)), []
    for name, points in zip(class_names, members, strict=True):
        if shots and len(points) < shots:
            raise InputError(
                f"class {name} has {len(points)} training images, fewer than --SHOTS {shots}"
            )
        counts.append(min(len(points), shots or max(2, round(share * len(points)))))
    return draw_by_counts(members, counts, torch.Generator().manual_seed(seed)).sort().values
