"""The certificate on pairs of tasks: its value, what is left between it and the loss, what each choice
is worth, and how the probe beside it compares with scikit-learn's.

    python3 -m benchmarks.certificate                                     # the embedded pairs, LeNet
    python3 -m benchmarks.certificate --PAIRS features:A.npz,features:B.npz
    python3 -m benchmarks.certificate --MODEL efficientnet_lite0 --IMAGE_SIZE 96 --PAIRS FMNIST,MNIST

Cells are means over seeds. `gap` is certificate − loss of h on the test splits; `on training` the same
on as many training points (the difference is over-fitting); `two halves` the gap when one half of the
target's own test points of each class takes the place of the source's: larger, since the learned source
points lie closer together than those (docs/results.md). `best sklearn` is the highest test accuracy of
LogisticRegression over C = 1e-4 … 1.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

import train_source_model
import transfer_source_to_target
from benchmarks.measure import Table
from utils.certificate import (
    Certificate,
    CertificateTransform,
    certified_terms,
    certify,
    learn_certificate,
)
from utils.device import choose_device
from utils.entry import stage_entry
from utils.features import Features, Task, TaskRequest, is_feature_file, load_task, standardise
from utils.linear_head import LinearHead, fit_linear_head
from utils.names import REPOSITORY
from utils.procedures.small import IMPROVED
from utils.stage import open_network, pair_request

DEFAULT = IMPROVED.certificate
EMBEDDED_PAIRS = ["MNIST,FMNIST", "FMNIST,MNIST"]
VARIANTS = {
    "default": {},
    "classes paired at random": {"setting": "LearnedA"},
    "one pairing, by geometry": {"matchings": 1},
    "16 pairings tried": {"matchings": 16},
    "B as it begins": {"label_rate": 0.0},
    "weight of U / 10": {"decay": 0.1},
    "weight of U x 10": {"decay": 10.0},
    "100 steps": {"steps": 100},
    "1,000 steps": {"steps": 1000},
    "35 points a class": {"points_per_class": 35},
    "140 points a class": {"points_per_class": 140},
}
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Prepared:
    """Standardised features of both splits (source, target), their tasks and heads."""

    train: tuple[Features, Features]
    test: tuple[Features, Features]
    tasks: tuple[Task, Task]
    heads: tuple[LinearHead, LinearHead]
    seconds: float


def prepare(pair: str, seed: int, folder: Path, model: str, image_size: int | None) -> Prepared:
    source, target = pair.split(",")
    device = choose_device("auto")
    where = ["--DATA", "embedded", "--CHECKPOINT_DIR", str(folder), "--RESULTS_DIR", str(folder)]
    if model == "lenet" and not is_feature_file(source):
        train_source_model.main(["--SRC", source, "--SEED", str(seed), *where])
    size = ["--IMAGE_SIZE", str(image_size)] if image_size else []
    argv = ["--SRC", source, "--TRG", target, "--SEED", str(seed), "--MODEL", model, *size, *where]
    network = open_network(pair_request(transfer_source_to_target.parse_options(argv)), device)
    tasks, splits = [], []
    for name, role in ((source, "source"), (target, "target")):
        origin = "auto" if name.startswith("folder:") else "embedded"
        request = TaskRequest(
            data_dir=REPOSITORY / "data",
            cache_dir=folder / "features",
            origin=origin,
            seed=seed,
            workers=2,
        )
        task = load_task(name, network.backbone, request, role=role)
        tasks.append(task)
        splits.append(standardise(task, device, IMPROVED.deviation_floor))
    train, test = zip(*splits, strict=True)
    start = time.perf_counter()
    heads = tuple(
        fit_linear_head(split, task.num_classes, None, "ridge")
        for split, task in zip(train, tasks, strict=True)
    )
    return Prepared(train, test, tuple(tasks), heads, time.perf_counter() - start)


@stage_entry("benchmarks.certificate")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--PAIRS", nargs="+", default=EMBEDDED_PAIRS, metavar="SRC,TRG")
    parser.add_argument("--MODEL", default="lenet")
    parser.add_argument("--IMAGE_SIZE", type=int, default=None)
    parser.add_argument("--SEEDS", type=int, default=3)
    parser.add_argument("--VARIANTS", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--NAME", default="certificate", help="of the table")
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)
    table = Table("certificate", (), argv)
    table.name = options.NAME
    for pair in options.PAIRS:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            prepared = [
                prepare(pair, seed, Path(folder), options.MODEL, options.IMAGE_SIZE)
                for seed in range(options.SEEDS)
            ]
        names = " -> ".join(Path(part.rpartition(":")[2]).stem for part in pair.split(","))
        table.columns = ("certificate", "loss of h", "accuracy", "train. cert.", "seconds")
        table.heading(names)
        default: list[tuple[CertificateTransform, Certificate]] = []
        for name in dict.fromkeys(["default", *options.VARIANTS]):
            runs, seconds = [], []
            for seed, one in enumerate(prepared):
                start = time.perf_counter()
                runs.append(run(one, VARIANTS[name], seed))
                seconds.append(time.perf_counter() - start)
            default = default or runs
            cells = (
                mean(found.bound_certified for _, found in runs),
                mean(found.target_loss for _, found in runs),
                mean(found.target_accuracy for _, found in runs),
                mean(found.bound_certified_train for _, found in runs),
            )
            table.row(name, *(f"{cell:.4f}" for cell in cells), f"{statistics.fmean(seconds):.1f}")
        _what_is_left(table, prepared, default)
        _probes(table, prepared, [found for _, found in default])
    table.write(options.RESULTS)


def run(one: Prepared, variant: dict, seed: int) -> tuple[CertificateTransform, Certificate]:
    changed = {name: value for name, value in variant.items() if name not in ("setting", "decay")}
    source_head, target_head = one.heads
    decay = source_head.weight_decay * variant.get("decay", 1.0)
    learned = learn_certificate(
        *one.train,
        replace(source_head, weight_decay=decay),
        target_head,
        replace(DEFAULT, **changed),
        learned=variant.get("setting", "LearnedAll"),
        seed=seed,
    )
    names = tuple(task.class_names for task in one.tasks)
    return learned, certify(learned, target_head, one.train, one.test, names, seed=seed)


def _what_is_left(table: Table, prepared: list[Prepared], runs: list) -> None:
    """Between the certificate and the loss."""
    table.columns = ("gap", "on training", "two halves")
    table.row("", *table.columns)
    gaps = (
        mean(found.bound_certified - found.target_loss for _, found in runs),
        mean(found.bound_certified_train - found.target_loss_train for _, found in runs),
        mean(
            gap_of_halves(learned, one.test[1]) for one, (learned, _) in zip(prepared, runs, strict=True)
        ),
    )
    table.row("certificate less loss", *(f"{gap:.4f}" for gap in gaps))


@torch.no_grad()
def gap_of_halves(learned: CertificateTransform, target: Features) -> float:
    """Certificate less loss, one half of each class's target points against the other."""
    double = learned.double()
    generator = torch.Generator().manual_seed(0)
    halves: list[list[Tensor]] = [[], []]
    for label in target.y.unique():
        members = (target.y == label).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        for half, part in zip(halves, order.tensor_split(2), strict=True):
            half.append(part)
    one, other = (torch.cat(half) for half in halves)
    logits = double.target_logits(target.x.double())
    found = certified_terms(
        B=double.B,
        assigned=target.y[one],
        source_logits=logits[one],
        target_logits=logits[other],
        t=target.y[other],
        potentials=False,
    )
    loss = functional.nll_loss(double.log_probabilities(target.x[other].double()), target.y[other])
    return found.bound.value - loss.item()


def _probes(table: Table, prepared: list[Prepared], runs: list[Certificate]) -> None:
    """The validated probe, h and scikit-learn's."""
    table.columns = ("probe", "its loss", "h", "best sklearn", "heads s")
    table.row("", *table.columns)
    best = mean(best_of_sklearn(*one.train[1:], *one.test[1:]) for one in prepared)
    cells = (
        mean(found.fine_tuned_accuracy for found in runs),
        mean(found.fine_tuned_loss for found in runs),
        mean(found.target_accuracy for found in runs),
        best,
    )
    seconds = statistics.fmean(one.seconds for one in prepared)
    table.row("accuracy", *(f"{cell:.4f}" for cell in cells), f"{seconds:.1f}")


def best_of_sklearn(train: Features, test: Features) -> float:
    accuracies = []
    x, y = train.x.cpu().numpy(), train.y.cpu().numpy()
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(C=strength, max_iter=300).fit(x, y)
        accuracies.append(fitted.score(test.x.cpu().numpy(), test.y.cpu().numpy()))
    return max(accuracies)


def mean(values) -> float:
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
