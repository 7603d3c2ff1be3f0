"""Ways to refine the certificate, on pairs of tasks and seeds: what each choice is worth.

    python3 -m benchmarks.certificate                                     # the embedded pairs
    python3 -m benchmarks.certificate --PAIRS features:A.npz,features:B.npz

Every variant starts from the same learned transform. Cells are means over seeds; `lower in` counts the
seeds in which the certificate is lower than the default's.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import train_source_model
from benchmarks.measure import Table, measure
from small_scale.settings import IMPROVED
from utils.bound import transfer_bound
from utils.certificate import certificate_on_training_data, refine_transform
from utils.device import choose_device
from utils.features import TaskRequest, load_task, standardise
from utils.linear_head import fit_linear_head
from utils.options import stage_entry
from utils.source_network import load_source_network
from utils.storage import REPOSITORY
from utils.task_transform import TaskTransform, learn_task_transform

DEFAULT = IMPROVED.certificate
EMBEDDED_PAIRS = ["MNIST,FMNIST", "FMNIST,MNIST"]


def identity(transform: TaskTransform) -> TaskTransform:
    eye = torch.eye(len(transform.b), device=transform.b.device)
    return replace(transform, A=eye, A_inverse=eye, b=torch.zeros_like(transform.b))


def shuffled(transform: TaskTransform) -> TaskTransform:
    order = torch.randperm(len(transform.B), generator=torch.Generator().manual_seed(0))
    return replace(transform, B=transform.B[order.to(transform.B.device)])


LEARNED = replace(DEFAULT, matching="learned")
GEOMETRY = replace(DEFAULT, matching="geometry")
VARIANTS = {  # name: (settings, start, whether B is refined)
    "default": (DEFAULT, None, True),
    "classes matched as learned": (LEARNED, None, True),
    "classes matched by geometry": (GEOMETRY, None, True),
    "classes matched at random": (LEARNED, shuffled, True),
    "B not refined, matched as learned": (LEARNED, None, False),
    "start at A = I, b = 0": (DEFAULT, identity, True),
    "rate 1e-2": (replace(DEFAULT, learning_rate=1e-2), None, True),
    "rate 4e-2": (replace(DEFAULT, learning_rate=4e-2), None, True),
    "batches of 350": (replace(DEFAULT, batch_size=350), None, True),
    "batches of 1,400": (replace(DEFAULT, batch_size=1400), None, True),
    "1,000 steps": (replace(DEFAULT, steps=1000), None, True),
}


def prepare(pair: str, seed: int, folder: Path):
    """(head, transform, (source, target) training features, the same of the test splits)."""
    source, target = pair.split(",")
    device = choose_device("auto")
    where = ["--DATA", "embedded", "--CHECKPOINT_DIR", str(folder), "--RESULTS_DIR", str(folder)]
    if not source.startswith("features:"):
        train_source_model.main(["--SRC", source, "--SEED", str(seed), *where])
    about = {"origin": "embedded", "procedure": "improved", "seed": seed, "device": device}
    network = load_source_network(source, "lenet", checkpoints=folder, **about)
    splits = []
    for name, role in ((source, "source"), (target, "target")):
        request = TaskRequest(REPOSITORY / "data", folder / "features", "embedded", seed)
        task = load_task(name, network.backbone, request, role=role)
        splits.append(standardise(task, device, IMPROVED.deviation_floor))
    train, test = zip(*splits, strict=True)
    classes = int(train[0].y.max()) + 1
    head = fit_linear_head(train[0], classes, IMPROVED.source_head.tau)
    transform = learn_task_transform(*train, head, IMPROVED.transform, seed=seed)
    return head, transform, train, test


@stage_entry("benchmarks.certificate")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--PAIRS", nargs="+", default=EMBEDDED_PAIRS, metavar="SRC,TRG")
    parser.add_argument("--SEEDS", type=int, default=3)
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)
    table = Table("certificate", ("certified", "on training", "lower in", "target loss", "accuracy",
                                  "seconds"), argv)  # fmt: skip
    for pair in options.PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            prepared = [prepare(pair, seed, Path(folder)) for seed in range(options.SEEDS)]
        table.heading(" -> ".join(Path(part.removeprefix("features:")).stem for part in pair.split(",")))
        learned = [_quantities(transform, *rest) for rest, transform in _split(prepared)]
        _row(table, "not refined", learned, learned, "")
        default = None
        for name, (settings, start, labels) in VARIANTS.items():
            rows, seconds = [], []
            for seed, ((head, train, test), transform) in enumerate(_split(prepared)):
                begin = start(transform) if start else transform
                refined = measure(
                    lambda: refine_transform(
                        begin, *train, head, settings, refine_labels=labels, seed=seed  # noqa: B023
                    ),
                    repeats=1,
                    warm_up=False,
                )  # fmt: skip
                rows.append(_quantities(refined.value, head, train, test))
                seconds.append(refined.seconds)
            default = default or rows
            _row(table, name, rows, default, f"{sum(seconds) / len(seconds):.1f}")
    table.write(options.RESULTS)


def _split(prepared: list) -> list:
    return [((head, train, test), transform) for head, transform, train, test in prepared]


def _quantities(transform: TaskTransform, head, train, test) -> tuple[float, float, float, float]:
    bound = transfer_bound(transform, head, *test)
    on_training = certificate_on_training_data(transform, head, train, test)
    return bound.bound_certified, on_training, bound.target_loss, bound.target_accuracy


def _row(table: Table, name: str, rows: list, default: list, seconds: str) -> None:
    certified, on_training, loss, accuracy = (
        sum(values) / len(rows) for values in zip(*rows, strict=True)
    )
    lower = sum(row[0] < other[0] for row, other in zip(rows, default, strict=True))
    table.row(
        name, f"{certified:.4f}", f"{on_training:.4f}", f"{lower}/{len(rows)}", f"{loss:.4f}",
        f"{accuracy:.4f}", seconds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
