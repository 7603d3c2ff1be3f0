"""An entry's network opened, and the features of its tasks extracted."""

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Generator, Tensor

from utils.datasets import Dataset, Split
from utils.device import choose_device
from utils.errors import InputError
from utils.features import Features, Standardiser, Task, features_of_split, images_per_second
from utils.names import LINEAR
from utils.procedures import ScaleSettings, settings_for
from utils.ranking.entries import Entry, RankingSettings
from utils.ranking.scores import Facts
from utils.sampling import draw_by_counts, index_by_class
from utils.stage import SourceNetwork, find_source, find_target, open_network, open_task
from utils.storage import digest


@dataclass(frozen=True)
class Candidate:
    """An entry's data: `points`, the target's training features that scores see, as the network gives
    them, and `scaled` by their own deviations; `test` scaled the same, where accuracies are measured;
    `source`, a task seen by the same network, if there is one. `network` tells one network from another,
    `view` one set of target features from another; `images` says which images `points` are of, and
    `new_images` how many the test split has, None where there is none, and `new_groups` how they belong
    together, if they do. `procedure`: the settings of the certificate and the relation.
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
    new_groups: Tensor | None
    source: Task | None
    procedure: ScaleSettings
    facts: Facts
    provenance: dict[str, dict]
    class_names: tuple[str, ...]


def open_candidate(name: str, entry: Entry, settings: RankingSettings) -> Candidate:
    """Load an entry's network and extract what the cache does not hold: the test split where linear
    fine-tuning is measured on it.
    """
    asked, device, linear = entry.asked, choose_device(settings.device), settings.fine_tuning == LINEAR
    procedure = settings_for(settings.procedure, entry.model, entry.source, asked.target)
    network = open_network(asked, device)
    target = find_target(asked, needs_test=linear)
    points, test, unreadable = _target_features(target, network, entry, settings)
    scaler = Standardiser.fit(points.x, procedure.deviation_floor)
    source = None
    if entry.source:
        source = open_task(find_source(asked, network, target), asked.tasks, network)
    about = {"points": len(points), **({"unreadable": unreadable} if unreadable else {})}
    known_as = target.name if entry.file_name is None else f"features-{entry.file_name}"
    provenance = {known_as: {**target.provenance, **about}}
    provenance |= {source.name: source.provenance} if source else {}
    of_network, view = _identities(entry, network, target)
    return Candidate(
        name=name,
        entry=entry,
        network=of_network,
        view=view,
        points=points.to(device),
        scaled=scaler.scaled(points).to(device),
        test=test and scaler.scaled(test).to(device),
        num_classes=target.num_classes,
        images=digest(points.y, [name.partition(" (")[0] for name in unreadable]),
        new_images=len(target.test) or None,
        new_groups=target.test.groups,
        source=source,
        procedure=procedure,
        facts=_facts(network, target, points, asked.tasks.workers),
        provenance=provenance,
        class_names=target.class_names,
    )


def _identities(
    entry: Entry, network: SourceNetwork, target: Dataset | Task
) -> tuple[Hashable, Hashable]:
    """Return what tells (the network, the target's features through it) from others."""
    if network.about:
        known = digest(network.about)
        return known, known
    if entry.file_name:  # one a network, unless two hold the same
        known = target.provenance["sha256"]
        return known, known
    return entry.source_slug, target.name


def _facts(network: SourceNetwork, target: Dataset | Task, points: Features, workers: int) -> Facts:
    backbone, speed = network.backbone, None
    if backbone and isinstance(target, Dataset):
        speed = images_per_second(backbone, target.train, workers)
    size = backbone and sum(p.numel() for p in backbone.network.parameters())
    return Facts(size, points.x.shape[1], speed)


def _target_features(
    target: Dataset | Task, network: SourceNetwork, entry: Entry, settings: RankingSettings
) -> tuple[Features, Features | None, list[str]]:
    """Extract (training points, test features where they are wanted, unreadable images)."""
    with_test = settings.fine_tuning == LINEAR
    if isinstance(target, Task):
        index = _chosen(target.train.y, target, settings)
        return target.train.select(index), target.test if with_test else None, []
    splits = {"train": chosen_images(target, settings)[0]}
    splits |= {"test": target.test} if with_test else {}
    found, unreadable = {}, []
    for split_name, split in splits.items():
        found[split_name], skipped = features_of_split(
            target, split_name, split, network.backbone, entry.asked.tasks
        )
        unreadable += skipped
    return found["train"], found.get("test"), unreadable


def chosen_images(data: Dataset, settings: RankingSettings) -> tuple[Split, Tensor | None]:
    """Choose the training images that scores see, and their indices where these are not all."""
    index = _chosen(data.train.labels, data, settings)
    if len(index) == len(data.train):
        return data.train, None
    return data.train.select(index), index


def _chosen(labels: Tensor, data: Dataset | Task, settings: RankingSettings) -> Tensor:
    return choose_points(labels, data.class_names, settings.shots, settings.samples, settings.seed)


def choose_points(
    labels: Tensor, class_names: tuple[str, ...], shots: int | None, most: int, seed: int
) -> Tensor:
    """Draw the indices of the training images that scores see, sorted: `shots` of each class, else all,
    or of more than `most` each class's share. Raises InputError for a class with fewer than `shots`.
    """
    members = index_by_class(labels, len(class_names))
    share, counts = min(1.0, most / len(labels)), []
    for name, points in zip(class_names, members, strict=True):
        if shots and len(points) < shots:
            raise InputError(
                f"class {name} has {len(points)} training images, fewer than --SHOTS {shots}"
            )
        counts.append(min(len(points), shots or max(2, round(share * len(points)))))
    return draw_by_counts(members, counts, Generator().manual_seed(seed)).sort().values
