"""Which number knows the source: the relation, the published form or the certificate?

    python3 -m benchmarks.relation --FOLDERS photos/cifar10 photos/flowers
    python3 -m benchmarks.relation --PARTS turned --FIGURE docs/turned.png

One table a part, in benchmarks/results/relation_PART.txt. Source and target never share an image, except
in the row that says so. `contribution` and `p` are of mixed classes, losses and bounds in nats.

forms_…      one half of MNIST or FMNIST as the target; sources with less and less to do with it, each
             seen by a LeNet trained on the source. From `through …'s LeNet` on one network sees all:
             the target's other half, labels shuffled in the head alone, and clouds in its features
turned       a LeNet trained on one half of MNIST's training images; the target is the other half and the
             test images, turned
clouds       20 draws of Gaussian clouds as the source, distance 4, 6 and 10 in turn
meaningless  ten runs each of shuffled labels and of random partitions of one half of MNIST's images, the
             targets in turn the other half of MNIST and of FMNIST
lenets       twelve LeNets, each a source for four targets. `10 a class`: linear fine-tuning on 10
             training images of each class, mean of three draws. Whole networks are not fine-tuned
colour       the pairs of one pre-trained network, 96 px; a seed draws controls and halves. `--SRC head`:
             ImageNet's 1,000 classes as the source
spread       the published bound of embedded pairs for several seeds, on one thread and on two, the LeNet
             trained anew for each; in spread_one_network it is one LeNet's. `1 v. 2 thr.`: how far apart
             the same seed gets
time         seconds of `relate`, without the fits of the heads; those of all processors say more where
             other work is done beside it
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import Table
from benchmarks.relation_figure import Turn, draw_turned
from benchmarks.relation_pairs import colour, lenets
from benchmarks.relation_sources import (
    DIGITS,
    Colour,
    Images,
    View,
    clouds,
    eight_by_eight,
    embedded,
    halves,
    partitioned,
    related,
    scaled,
    shuffled,
    train_lenet,
    turned,
    view,
)
from benchmarks.relation_tables import contribution, new_table, of, percent, share
from utils.backbones import Backbone
from utils.certificate import certify, learn_certificate
from utils.datasets import FOLDER_PREFIX
from utils.entry import stage_entry
from utils.errors import InputError
from utils.features import Features
from utils.linear_head import LinearHead, fit_linear_head
from utils.procedures import START_BETTER, START_RANDOM
from utils.procedures.small import IMPROVED
from utils.published import learn_task_transform, transfer_bound
from utils.relation import SIGNIFICANT, Relation

TRANSFORM, CERTIFICATE = IMPROVED.transform, IMPROVED.certificate


def published_bound(source: View, target: View, start: str, seed: int) -> float:
    """As stage 3 prints it by `improved`."""
    settings = IMPROVED.source_head
    head = fit_linear_head(source.train, source.num_classes, settings.tau, settings.method)
    learned = learn_task_transform(
        source.train, target.train, head, replace(TRANSFORM, start=start), seed=seed
    )
    bound = transfer_bound(learned, head, source.test, target.test, tau_measure=IMPROVED.tau_measure)
    return bound.bound_published


# ---------------------------------------------------------------------------------------------- forms
OTHER = {"MNIST": "FMNIST", "FMNIST": "MNIST"}
STARTS_COMPARED = (START_RANDOM, START_BETTER)
DISTANCES = (4, 6, 10)


def forms(name: str, options: argparse.Namespace) -> Table:
    columns = (
        "its accuracy",
        "labels alone",
        "contribution",
        "p",
        "verdict",
        "random start",
        "better start",
        "certificate",
        "acc. of h",
    )
    table = new_table(f"forms_{name}", columns, options)
    for seed in options.SEEDS:
        table.heading(f"target {name}, seed {seed}")
        for label, source, target, shared in sources_of_forms(name, seed):
            found = related(source, target, options.CONTROLS, seed, shared)
            bounds = (published_bound(source, target, start, seed) for start in STARTS_COMPARED)
            learned = learn_certificate(
                source.train, target.train, source.head, target.head, CERTIFICATE, seed=seed
            )
            splits = (source.train, target.train), (source.test, target.test)
            certified = certify(learned, target.head, *splits, (source.names, target.names))
            table.row(
                label,
                percent(source.accuracy),
                percent(found.label_map_accuracy),
                contribution(found),
                f"{found.source_contribution_p:.2f}",
                "related" if found.related else "chance",
                *(f"{bound:.2f}" for bound in bounds),
                f"{certified.bound_certified:.2f}",
                percent(certified.target_accuracy),
            )
    return table


def sources_of_forms(name: str, seed: int) -> Iterator[tuple[str, View, View, bool]]:
    """(what it is, source, target, whether they share images)."""
    whole, other = embedded(name), halves(embedded(OTHER[name]), seed)[0]
    own, target = halves(whole, seed)
    backbone = train_lenet(whole, seed)
    itself = view(backbone, whole)
    yield f"{name}, the same images", itself, itself, True
    seen = {f"{name}, other images": own, f"{name} turned by 30 degrees": turned(own, 30)}
    if name == "MNIST":
        seen[DIGITS] = eight_by_eight()
    seen |= {
        f"{OTHER[name]}, labels shuffled": shuffled(other, seed),
        f"{OTHER[name]}, random partition": partitioned(other, seed),
        OTHER[name]: other,
    }
    for label, images in seen.items():
        backbone = train_lenet(images, seed)
        yield label, view(backbone, images), view(backbone, target), False
    # What follows is seen by the last network, the unrelated data set's: only the sources differ.
    source, same, target = (view(backbone, images) for images in (other, own, target))
    yield f"{name}, through {OTHER[name]}'s LeNet", same, target, False
    yield f"{OTHER[name]}, shuffled in the head", source.shuffled(seed), target, False
    for distance in DISTANCES:
        yield f"clouds at distance {distance}", clouds(target, distance, seed), target, False


# --------------------------------------------------------------------------------------------- turned
ANGLES = (0, 15, 30, 45, 60, 75, 90, 120, 150, 180)


def turn(
    backbone: Backbone, head: LinearHead, target: Images, angle: int, controls: int | None, seed: int
) -> Turn:
    seen = view(backbone, turned(target, angle))
    found = related(head, seen, controls, seed)
    return Turn(
        angle=angle,
        seed=seed,
        labels=found.label_map_accuracy,
        mixed=found.mixed_classes.accuracy,
        mixed_spread=found.mixed_classes.accuracy_spread,
        tuned=found.fine_tuned_accuracy,
        contribution=share(found),
        p=found.source_contribution_p,
        against_random=against_random(found),
    )


def against_random(found: Relation) -> float:
    """The share of the loss gap between random directions and linear fine-tuning."""
    start = found.random_directions.loss
    return (start - found.label_map_loss) / (start - found.fine_tuned_loss)


def turns(options: argparse.Namespace) -> Table:
    columns = ("labels alone", "mixed", "fine-tuning", "contribution", "p", "v. random", "related")
    table, found = new_table("turned", columns, options), []
    for seed in options.SEEDS:
        own, other = halves(embedded("MNIST"), seed)
        backbone = train_lenet(own, seed)
        head = view(backbone, own).head
        target = Images(other.train, embedded("MNIST").test)
        found += [turn(backbone, head, target, angle, options.CONTROLS, seed) for angle in ANGLES]
        table.heading(f"seed {seed}")
        for one in found[-len(ANGLES) :]:
            table.row(f"turned by {one.angle} degrees", *cells_of([one]))
    table.heading("means over seeds")
    for angle in ANGLES:
        table.row(f"turned by {angle} degrees", *cells_of([one for one in found if one.angle == angle]))
    if options.FIGURE:
        draw_turned(found, embedded("MNIST").test, options.FIGURE)
    return table


def cells_of(same: list[Turn]) -> list[str]:
    mean = {
        field: statistics.fmean(getattr(one, field) for one in same)
        for field in ("labels", "mixed", "tuned", "contribution", "p", "against_random")
    }
    return [
        *(percent(mean[field]) for field in ("labels", "mixed", "tuned")),
        *(f"{mean[field]:.2f}" for field in ("contribution", "p", "against_random")),
        f"{sum(one.related for one in same)} of {len(same)}",
    ]


# ------------------------------------------------------------------------------- sources without sense
DRAWS, RUNS = 20, 10
LITTLE = 0.10  # of a contribution
CLOUD_TARGET = 2000  # images of each split
RUN_COLUMNS = ("contribution", "least", "largest", "<= 0.10", "mean p", "p <= 0.05", "called rel.")


def summary(table: Table, name: str, found: list[Relation]) -> None:
    """A row: over runs of one kind."""
    shares = [share(one) for one in found]
    p = [one.source_contribution_p for one in found]
    table.row(
        name,
        *(f"{value:.3f}" for value in (statistics.fmean(shares), min(shares), max(shares))),
        of(value <= LITTLE for value in shares),
        f"{statistics.fmean(p):.2f}",
        of(value <= SIGNIFICANT for value in p),
        of(one.related for one in found),
    )


def some(target: View, count: int) -> View:
    """`count` of its images in each split."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for part in (target.train, target.test):
        index = torch.randperm(len(part), generator=generator)[:count]
        parts.append(Features(part.x[index], part.y[index]))
    return View(*parts, target.num_classes)


def cloud_draws(options: argparse.Namespace) -> Table:
    table = new_table("clouds", RUN_COLUMNS, options)
    table.heading(f"{DRAWS} draws each")
    for label, made in clouds_targets(options).items():
        target, found = made(), []
        for draw in range(DRAWS):
            source = clouds(target, DISTANCES[draw % len(DISTANCES)], draw)
            found.append(related(source, target, options.CONTROLS, draw))
        summary(table, label, found)
    return table


def clouds_targets(options: argparse.Namespace) -> dict[str, Callable[[], View]]:
    """Each is made when its turn comes."""
    targets = {"FMNIST, LeNet of MNIST": fmnist_through_a_lenet}
    if options.FOLDERS:
        name = FOLDER_PREFIX + str(options.FOLDERS[0])
        label = f"{options.FOLDERS[0].name}, EfficientNet-Lite0"
        targets[label] = lambda: some(Colour(options.CHECKPOINT_DIR).view(name), CLOUD_TARGET)
    return targets


def fmnist_through_a_lenet() -> View:
    return some(view(train_lenet(embedded("MNIST"), 0), embedded("FMNIST")), CLOUD_TARGET)


def meaningless(options: argparse.Namespace) -> Table:
    table = new_table("meaningless", RUN_COLUMNS, options)
    table.heading(f"{RUNS} runs each, source one half of MNIST's images")
    found: dict[str, list[Relation]] = {}
    for run in range(RUNS):
        own, other = halves(embedded("MNIST"), run)
        target = halves(embedded("FMNIST"), run)[1] if run % 2 else other
        backbone = train_lenet(own, 0)
        pairs = {
            "labels shuffled in the head": (view(backbone, own).shuffled(run), view(backbone, target))
        }
        for label, images in (
            ("labels shuffled in training", shuffled(own, run)),
            ("random linear partition", partitioned(own, run)),
        ):
            backbone = train_lenet(images, run)
            pairs[label] = view(backbone, images), view(backbone, target)
        for label, (source, seen) in pairs.items():
            found.setdefault(label, []).append(related(source, seen, options.CONTROLS, run))
    for label, of_kind in found.items():
        summary(table, label, of_kind)
    return table


# --------------------------------------------------------------------------------- spread of the bound
THREADS = (1, 2)


def spread(one_network: bool, options: argparse.Namespace) -> Table:
    columns = ("mean", "deviation", "least", "largest", "1 v. 2 thr.")
    table = new_table("spread_one_network" if one_network else "spread", columns, options)
    for source, target in OTHER.items():
        table.heading(f"{source} -> {target}, {len(options.SEEDS)} seeds")
        used = torch.get_num_threads()
        found = {(threads, start): [] for threads in THREADS for start in STARTS_COMPARED}
        for seed in options.SEEDS:
            for threads in THREADS:
                if not one_network:
                    torch.set_num_threads(threads)
                backbone = train_lenet(embedded(source), 0 if one_network else seed)
                torch.set_num_threads(threads)
                both = [view(backbone, embedded(name)) for name in (source, target)]
                for start in STARTS_COMPARED:
                    found[threads, start].append(published_bound(*both, start, seed))
                torch.set_num_threads(used)
        for start in STARTS_COMPARED:
            of_start = [found[threads, start] for threads in THREADS]
            values = [value for part in of_start for value in part]
            apart = max(abs(one - two) for one, two in zip(*of_start, strict=True))
            cells = statistics.fmean(values), deviation(of_start[0]), min(values), max(values), apart
            table.row(f"{start} start", *(f"{cell:.3f}" for cell in cells))
    return table


def deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


# ----------------------------------------------------------------------------------------------- time
SIZES = ((6000, 1280, 10, 99), (6000, 1280, 1000, 19))


def seconds(options: argparse.Namespace) -> Table:
    table = new_table("time", ("seconds", "of processors"), options)
    table.heading("n x d, K_S, controls of each kind")
    for count, dim, classes, controls in SIZES:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(count, dim, generator=generator)
        target = scaled(*2 * [Features(x, x[:, :10].argmax(1))], 10)
        weight = torch.randn(classes, dim, generator=generator) / dim**0.5
        source, _ = LinearHead(weight, torch.zeros(classes)), target.head
        start, used = time.perf_counter(), time.process_time()
        related(source, target, controls, 0)
        passed = time.perf_counter() - start, time.process_time() - used
        table.row(f"{count} x {dim}, {classes}, {controls}", *(f"{part:.1f}" for part in passed))
    return table


PARTS: dict[str, Callable[[argparse.Namespace], Table]] = {
    **{f"forms_{name}": partial(forms, name) for name in OTHER},
    "turned": turns,
    "clouds": cloud_draws,
    "meaningless": meaningless,
    "lenets": lenets,
    "colour": colour,
    "spread": partial(spread, False),
    "spread_one_network": partial(spread, True),
    "time": seconds,
}


NEEDED_FOLDERS = {"lenets": 1, "colour": 2}


@stage_entry("benchmarks.relation")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--PARTS", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--SEEDS", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--FOLDERS", nargs="*", type=Path, default=[], help="images of CIFAR-10 and of flowers"
    )
    parser.add_argument("--CONTROLS", type=int, help="of each kind (default: as stage 3)")
    parser.add_argument("--FIGURE", type=Path, help="where the part turned is drawn (default: nowhere)")
    parser.add_argument("--CHECKPOINT_DIR", type=Path, help="where features are kept (default: nowhere)")
    parser.add_argument("--RESULTS", type=Path, help="folder of the tables (default benchmarks/results)")
    options = parser.parse_args(argv)
    for name in options.PARTS:
        if len(options.FOLDERS) < NEEDED_FOLDERS.get(name, 0):
            raise InputError(f"the part {name} needs --FOLDERS: images of CIFAR-10 and of flowers")
    with tempfile.TemporaryDirectory() as temporary:
        options.CHECKPOINT_DIR = options.CHECKPOINT_DIR or Path(temporary)
        for name in options.PARTS:
            PARTS[name](options).write(options.RESULTS)


if __name__ == "__main__":
    main()
