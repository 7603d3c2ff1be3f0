"""What a ranking compares: a network at a size of images, with a source or without."""

import argparse
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from utils.backbones import ROBUST_PREFIX, check_backbone_name, is_grey_model, split_pixels
from utils.datasets import Dataset, Split
from utils.device import choose_device
from utils.errors import InputError
from utils.features import (
    Features,
    Standardiser,
    Task,
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
    ranking's as stage 3 would have them for this candidate, checked.
    """

    model: str
    image_size: int | None
    source: str | None
    options: argparse.Namespace = field(repr=False, compare=False)

    @staticmethod
    def of(text: str, source: str | None, options: argparse.Namespace) -> "Entry":
        """Of NAME or NAME@PIXELS."""
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
        }
        of_entry = argparse.Namespace(**{**vars(options), **own})
        return Entry(model, image_size, source, check_options(of_entry))

    @property
    def model_name(self) -> str:
        """NAME@PIXELS; features have no network, whatever the model."""
        if is_feature_file(self.source or self.options.TRG):
            return "features"
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
    `new_images` how many the test split has, `new_groups` how they belong together, if they do.
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
    new_images: int
    new_groups: torch.Tensor | None
    source: Task | None
    deviation_floor: float
    facts: Facts
    provenance: dict[str, dict]


def open_candidate(name: str, entry: Entry, deviation_floor: float, with_test: bool) -> Candidate:
    """Loads an entry's network and extracts what the cache does not hold."""
    options = entry.options
    device = choose_device(options.DEVICE)
    network = open_network(options, device)
    target = find_target(options)
    points, test, unreadable = _target_features(target, network, options, with_test)
    about = {"points": len(points), **({"unreadable": unreadable} if unreadable else {})}
    scaler = Standardiser.fit(points.x, deviation_floor)
    source = entry.source and open_task(find_source(options, network, target), options, network)
    backbone, speed = network.backbone, None
    if backbone and isinstance(target, Dataset):
        speed = images_per_second(backbone, target.train, decoding_workers(options))
    size = backbone and sum(p.numel() for p in backbone.network.parameters())
    provenance = {target.name: {**target.provenance, **about}}
    provenance |= {source.name: source.provenance} if source else {}
    return Candidate(
        name, entry,
        digest(network.about) if network.about else entry.source_slug,
        digest(network.about) if network.about else target.name,
        points.to(device), scaler.scaled(points).to(device),
        test and scaler.scaled(test).to(device), target.num_classes,
        digest(points.y, [name.partition(" (")[0] for name in unreadable]), len(target.test),
        target.test.groups, source or None, deviation_floor,
        Facts(size, points.x.shape[1], speed), provenance,
    )  # fmt: skip


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
