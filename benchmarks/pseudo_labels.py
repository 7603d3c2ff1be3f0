"""How far the estimate without the target's labels is from the one with them.

    python3 -m benchmarks.pseudo_labels
    python3 -m benchmarks.pseudo_labels --SEEDS 1 --PAIRS MNIST,FMNIST

Stage 3 on the features of a LeNet trained on the source, embedded data: with the target's labels, and
with clusters of equal size. Once on the target as it is, and once with the samples of its
classes thinned out, the last to a fifth of the first. Means over seeds; — where a quantity is undefined
for one of them.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

import train_source_model
import transfer_source_to_target
from benchmarks.measure import Table
from utils.backbones import load_backbone
from utils.datasets import load_dataset
from utils.entry import stage_entry
from utils.features import Features, Task, TaskRequest, task_of_dataset
from utils.storage import network_path

PAIRS = ["MNIST,FMNIST", "FMNIST,MNIST"]
METHODS = {"given labels": [], "equal sizes": ["--TARGET_LABELS", "pseudo"]}
LEAST_SHARE = 0.2
QUANTITY_COLUMNS = (
    "certificate",
    "its source",
    "transport",
    "loss of h",
    "source",
    "label",
    "distribution",
    "published",
)
COLUMNS = ("agreement", *QUANTITY_COLUMNS)
QUANTITIES = {
    "certificate": ("bound_certified", "certified_source_loss", "certified_transport", "target_loss"),
    "published": ("weighted_source_loss", "label_mismatch", "distribution_mismatch", "bound_published"),
}


def lenet_tasks(pair: str, seed: int, folder: Path) -> tuple[Task, Task]:
    """Source and target of embedded data through a LeNet trained on the source."""
    names = pair.split(",")
    places = ["--CHECKPOINT_DIR", str(folder), "--RESULTS_DIR", str(folder)]
    train_source_model.main(["--SRC", names[0], "--DATA", "embedded", "--SEED", str(seed), *places])
    weights = network_path(
        checkpoints=folder,
        model="lenet",
        source=names[0],
        origin="embedded",
        procedure="improved",
        seed=seed,
    )
    backbone = load_backbone("lenet", torch.device("cpu"), weights=weights)
    request = TaskRequest(folder / "data", folder / "features", "embedded")
    source, target = (
        task_of_dataset(load_dataset(name, "embedded"), backbone, request) for name in names
    )
    return source, target


def write_features(pair: str, seed: int, folder: Path) -> dict[str, list[str]]:
    """The flags for the target as it is and for the thinned one, by their name."""
    source, target = lenet_tasks(pair, seed, folder)
    flags = ["--SRC", save(source, folder / f"source_{pair}_{seed}.npz"), "--TRG"]
    return {
        name: [*flags, save(task, folder / f"{name.replace(' ', '_')}_{pair}_{seed}.npz")]
        for name, task in (("as it is", target), ("thinned out", thin_out(target)))
    }


def thin_out(task: Task) -> Task:
    """Of class k a share of the samples that falls evenly from all to LEAST_SHARE, the first ones."""

    def kept(split: Features) -> Features:
        index = []
        for k, share in enumerate(np.linspace(1, LEAST_SHARE, task.num_classes)):
            members = (split.y == k).nonzero().flatten()
            index.append(members[: max(2, round(share * len(members)))])
        index = torch.cat(index)
        return Features(split.x[index], split.y[index])

    about = (task.num_classes, task.class_names, task.provenance)
    return Task(task.name, kept(task.train), kept(task.test), *about)


def save(task: Task, path: Path) -> str:
    arrays = {
        f"{letter}_{split}": getattr(getattr(task, split), letter).numpy()
        for split in ("train", "test")
        for letter in "xy"
    }
    np.savez(path, **arrays)
    return f"features:{path}"


def transfer(flags: list[str], seed: int, folder: Path) -> dict:
    """The record of a stage-3 run."""
    with tempfile.TemporaryDirectory() as results:
        where = ["--CHECKPOINT_DIR", str(folder), "--RESULTS_DIR", results, "--SEED", str(seed)]
        transfer_source_to_target.main([*flags, *where, "--BOOTSTRAP", "0"])
        return json.loads((Path(results) / "results.jsonl").read_text())


def columns(record: dict) -> list[float | None]:
    """QUANTITIES of both parts."""
    return [record[part][name] for part, names in QUANTITIES.items() for name in names]


@stage_entry("benchmarks.pseudo_labels")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--PAIRS", nargs="+", default=PAIRS, metavar="SRC,TRG")
    parser.add_argument("--SEEDS", type=int, default=3)
    parser.add_argument("--FLAGS", nargs=argparse.REMAINDER, default=[], help="further flags of stage 3")
    parser.add_argument("--RESULTS", type=Path, help="folder of the table (default benchmarks/results)")
    options = parser.parse_args(argv)
    table = Table("pseudo_labels", COLUMNS, argv)
    with tempfile.TemporaryDirectory() as folder:
        for pair in options.PAIRS:
            rows: dict[tuple[str, str], list] = {}
            for seed in range(options.SEEDS):
                with contextlib.redirect_stdout(io.StringIO()):
                    for target, flags in write_features(pair, seed, Path(folder)).items():
                        for method, more in METHODS.items():
                            record = transfer([*flags, *more, *options.FLAGS], seed, Path(folder))
                            agreement = (record["pseudo_labels"] or {}).get("agreement")
                            row = [agreement, *columns(record)]
                            rows.setdefault((target, method), []).append(row)
            for target in dict.fromkeys(name for name, _ in rows):
                table.heading(f"{pair.replace(',', ' -> ')}, target {target}")
                for method in METHODS:
                    of_method = zip(*rows[target, method], strict=True)
                    table.row(method, *(mean(column) for column in of_method))
    table.write(options.RESULTS)


def mean(values: tuple[float | None, ...]) -> str:
    return "—" if None in values else f"{statistics.fmean(values):.3f}"


if __name__ == "__main__":
    main()
