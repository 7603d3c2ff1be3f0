"""Pairs of `benchmarks.relation`: twelve LeNets and four targets; one pre-trained network, colour."""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from scipy.stats import spearmanr

from benchmarks.measure import Table
from benchmarks.relation_sources import (
    DIGITS,
    Colour,
    Images,
    View,
    accuracy,
    eight_by_eight,
    embedded,
    few,
    grey_folder,
    partitioned,
    related,
    shuffled,
    source_and_target,
    train_lenet,
    turned,
    view,
    view_halves,
)
from benchmarks.relation_tables import contribution, new_table, of, percent, share
from utils.datasets import FOLDER_PREFIX
from utils.relation import SIGNIFICANT, Relation

# --------------------------------------------------------------------------------------- twelve LeNets
LENET_IMAGES, LENET_ANGLES = 4000, (0, 15, 30, 45, 60, 90, 180)
PER_CLASS, FEW_DRAWS = 10, 3
CIFAR = "grey CIFAR10"


@dataclass(frozen=True)
class Pair:
    """One source and one target of the twelve LeNets."""

    source: str
    target: str
    found: Relation
    few_labels: float

    @property
    def kin(self) -> bool:
        """Digits and digits, or a data set and itself."""
        digits = self.target in ("MNIST", DIGITS)
        return self.source == self.target or (digits and self.source in DIGIT_SOURCES)


TURNED = {f"MNIST turned by {angle}": angle for angle in LENET_ANGLES}
DIGIT_SOURCES = (*TURNED, DIGITS)


def lenets(options: argparse.Namespace) -> Table:
    data = {
        "MNIST": embedded("MNIST"),
        "FMNIST": embedded("FMNIST"),
        CIFAR: grey_folder(options.FOLDERS[0]),
        DIGITS: eight_by_eight(),
    }
    table = new_table("lenets", (), options)
    for seed in options.SEEDS:
        sources, targets = sources_of_lenets(data, seed)
        pairs = []
        table.columns = tuple(targets)
        table.heading(f"seed {seed}: contribution, p of mixed classes")
        for name, images in sources.items():
            backbone = train_lenet(images, seed)
            source = view(backbone, images)
            of_source = [
                pair_of(name, label, source, view(backbone, target), options.CONTROLS, seed)
                for label, target in targets.items()
            ]
            table.row(
                name,
                *(
                    f"{contribution(pair.found)} {pair.found.source_contribution_p:.2f}"
                    for pair in of_source
                ),
            )
            pairs += of_source
        verdicts(table, pairs)
        orders(table, pairs, tuple(targets))
    return table


def sources_of_lenets(data: dict[str, Images], seed: int) -> tuple[dict, dict]:
    """(twelve sources, four targets) of different images."""
    parts = {name: source_and_target(images, most_of(name), seed) for name, images in data.items()}
    mnist = parts["MNIST"][0]
    sources = {name: turned(mnist, angle) for name, angle in TURNED.items()}
    sources |= {name: parts[name][0] for name in ("FMNIST", CIFAR, DIGITS)}
    sources["MNIST, labels shuffled"] = shuffled(mnist, seed)
    sources["MNIST, random partition"] = partitioned(mnist, seed)
    return sources, {name: parts[name][1] for name in data}


def most_of(name: str) -> int:
    return 900 if name == DIGITS else LENET_IMAGES


def pair_of(name: str, label: str, source: View, target: View, controls: int | None, seed: int) -> Pair:
    found = related(source, target, controls, seed)
    draws = (few(target, PER_CLASS, draw) for draw in range(FEW_DRAWS))
    reached = statistics.fmean(accuracy(draw.head, target.test) for draw in draws)
    return Pair(name, label, found, reached)


def verdicts(table: Table, pairs: list[Pair]) -> None:
    """How often each control's p is small."""
    table.columns = ("mixed", "random dir.")
    table.heading("p <= 0.05")
    for label, chosen in (
        ("unrelated pairs", [pair.found for pair in pairs if not pair.kin]),
        ("kin", [pair.found for pair in pairs if pair.kin]),
    ):
        both = [[one.mixed_classes.p, one.random_directions.p] for one in chosen]
        table.row(label, *(of(p <= SIGNIFICANT for p in of_kind) for of_kind in zip(*both, strict=True)))


def orders(table: Table, pairs: list[Pair], targets: tuple[str, ...]) -> None:
    """How the quantities order the sources of each target."""
    table.columns = targets
    table.heading(f"Spearman with the accuracy of linear fine-tuning on {PER_CLASS} images a class")
    rows = {
        "- loss of labels alone": lambda found: -found.label_map_loss,
        "contribution": lambda found: found.source_contribution or 0.0,
    }
    for label, value in rows.items():
        cells = []
        for target in targets:
            same = [pair for pair in pairs if pair.target == target]
            values = [value(pair.found) for pair in same]
            cells.append(spearmanr(values, [pair.few_labels for pair in same]).statistic)
        table.row(label, *(f"{cell:.2f}" for cell in cells))
    table.row(
        "least, largest such accuracy",
        *(
            f"{percent(min(reached))} {percent(max(reached))}"
            for reached in (
                [pair.few_labels for pair in pairs if pair.target == target] for target in targets
            )
        ),
    )


# --------------------------------------------------------------------------------------------- colour
UNRELATED = {
    "MNIST": ("FMNIST", "cifar10", "flowers"),
    "FMNIST": ("MNIST", "cifar10"),
    "cifar10": ("flowers", "MNIST", "FMNIST"),
    "flowers": ("cifar10",),
}


COLOUR_COLUMNS = (
    "labels alone",
    "fine-tuning",
    "contribution",
    "least",
    "largest",
    "largest p",
    "related",
)


def colour(options: argparse.Namespace) -> Table:
    network = Colour(options.CHECKPOINT_DIR)
    folders = dict(zip(("cifar10", "flowers"), options.FOLDERS, strict=True))
    names = {"MNIST": "MNIST", "FMNIST": "FMNIST", DIGITS: DIGITS} | {
        name: FOLDER_PREFIX + str(path) for name, path in folders.items()
    }
    views = {label: network.view(name) for label, name in names.items()}
    table = new_table("colour", COLOUR_COLUMNS, options)

    def row(label: str, relation_of: Callable[[int], Relation]) -> None:
        """Over the seeds."""
        found = [relation_of(seed) for seed in options.SEEDS]
        accuracies = ("label_map_accuracy", "fine_tuned_accuracy")
        shares = [share(one) for one in found]
        table.row(
            label,
            *(percent(statistics.fmean(getattr(one, name) for one in found)) for name in accuracies),
            *(f"{value:.2f}" for value in (statistics.fmean(shares), min(shares), max(shares))),
            f"{max(one.source_contribution_p for one in found):.2f}",
            of(one.related for one in found),
        )

    def itself(name: str, seed: int) -> Relation:
        return related(*view_halves(*network.parts(names[name]), seed), options.CONTROLS, seed)

    table.heading(f"over {len(options.SEEDS)} seeds")
    for name in folders:
        row(f"{name}, other images", partial(itself, name))
    for source, target in (
        (DIGITS, "MNIST"),
        *((s, t) for t, all_of in UNRELATED.items() for s in all_of),
    ):
        row(f"{source} -> {target}", partial(related, views[source], views[target], options.CONTROLS))
    for target in ("cifar10", "MNIST"):
        head = network.own_head(names[target])
        row(f"--SRC head -> {target}", partial(related, head, views[target], options.CONTROLS))
    return table
