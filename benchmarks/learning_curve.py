"""What more labels would bring, predicted from a part of them and measured with all.

    python3 -m benchmarks.learning_curve --FOLDERS photos/cifar10 photos/flowers
    python3 -m benchmarks.learning_curve --FOLDERS --EMBEDDED MNIST --PAIRS --DRAWS 2

Of each data set's training images an eighth, a quarter and a half are drawn, DRAWS times each. Each
part's learning curve is extrapolated by the factor 8, 4 and 2, and compared with what the probe that is
fitted to all training images reaches on the test split. Means over draws, accuracies in percent: `as it
is`, the accuracy of the part's probe on the test split; `predicted` with all images; `measured`; `width`
of the interval; `held`: in how many draws it holds the measured one; `error` of what is predicted, and
`of as it is`: the error of saying that more images change nothing; `gain` that is predicted of more
images, and the `true gain`.

Features: LeNets trained on the first of each pair (embedded data), and MODEL's at IMAGE_SIZE. All images
of one data set have one test split: its draws are not independent of each other.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.measure import Table
from benchmarks.pseudo_labels import PAIRS, lenet_tasks
from utils.backbones import load_backbone
from utils.datasets import FOLDER_PREFIX
from utils.entry import stage_entry
from utils.features import Features, Standardiser, Task, TaskRequest, load_task
from utils.learning_curve import learning_curve, nested_parts
from utils.linear_head import LinearHead, fit_validated_ridge
from utils.procedures import settings_for

FACTORS = (8, 4, 2)
COLUMNS = (
    "as it is",
    "predicted",
    "measured",
    "width",
    "held",
    "error",
    "of as it is",
    "gain",
    "true gain",
)
POINTS = 100  # percentage points in an accuracy


@dataclass(frozen=True)
class Draw:
    """Of one part: its probe's accuracy on the test split, what the probe of all reaches there, and what
    was predicted of it, each with its interval.
    """

    as_it_is: float
    measured: float
    predicted: float
    interval: tuple[float, float]
    gain: float

    @property
    def row(self) -> tuple[float, ...]:
        """COLUMNS."""
        (low, high), gain = self.interval, self.measured - self.as_it_is
        return (
            self.as_it_is,
            self.predicted,
            self.measured,
            high - low,
            low <= self.measured <= high,
            abs(self.predicted - self.measured),
            abs(gain),
            self.gain,
            gain,
        )


def tasks(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Task]]:
    for pair in options.PAIRS:
        source, target = pair.split(",")
        with contextlib.redirect_stdout(io.StringIO()):
            target_task = lenet_tasks(pair, 0, folder)[1]
        yield f"{target}, LeNet of {source}", target_task
    names = [FOLDER_PREFIX + path for path in options.FOLDERS] + options.EMBEDDED
    if not names:
        return
    backbone = load_backbone(options.MODEL, folder=folder, image_size=options.IMAGE_SIZE)
    request = TaskRequest(folder / "data", folder / "features", "embedded")
    for name in names:
        task = load_task(name, backbone, request, role="target")
        size = f" at {options.IMAGE_SIZE} px" if options.IMAGE_SIZE else ""
        yield f"{Path(name).name}, {options.MODEL}{size}", task


def probe(
    train: Features, test: Features, floor: float, classes: int
) -> tuple[Features, LinearHead, float]:
    """(the scaled training images, their probe, its accuracy on the test split)."""
    scaler = Standardiser.fit(train.x, floor)
    scaled = scaler.scaled(train)
    fitted = fit_validated_ridge(scaled.x, scaled.y, classes, "linear probe")
    logits = functional.linear(scaler(test.x), fitted.weight, fitted.bias)
    return scaled, fitted, (logits.argmax(1) == test.y).double().mean().item()


def predict(task: Task, factor: int, seed: int, measured: float, floor: float) -> Draw:
    """From one part in `factor` of the training images."""
    y, classes = task.train.y, task.num_classes
    (index,) = nested_parts(y, torch.ones_like(y, dtype=torch.bool), [1 / factor], classes, seed)
    part = Features(task.train.x[index], y[index])
    scaled, fitted, as_it_is = probe(part, task.test, floor, classes)
    curve = learning_curve(scaled, classes, seed, fitted=fitted, new_images=len(task.test))
    exact = len(y) / len(part)  # parts are rounded up
    return Draw(as_it_is, measured, *curve.extrapolate(exact), curve.gain(exact))


@stage_entry("benchmarks.learning_curve")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--FOLDERS", nargs="*", default=[], help="folders of images")
    parser.add_argument("--EMBEDDED", nargs="*", default=["FMNIST", "MNIST"], help="seen by MODEL, too")
    parser.add_argument("--PAIRS", nargs="*", default=PAIRS, metavar="SRC,TRG", help="seen by a LeNet")
    parser.add_argument("--MODEL", default="efficientnet_lite0")
    parser.add_argument("--IMAGE_SIZE", type=int, default=96)
    parser.add_argument("--DRAWS", type=int, default=5)
    parser.add_argument("--CHECKPOINT_DIR", type=Path, help="where features are kept (default: nowhere)")
    parser.add_argument("--RESULTS", type=Path, help="folder of the table (default benchmarks/results)")
    options = parser.parse_args(argv)
    floor = settings_for("improved", options.MODEL).deviation_floor
    table, found = Table("learning_curve", COLUMNS, argv), {factor: [] for factor in FACTORS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.CHECKPOINT_DIR or Path(temporary)
        for name, task in tasks(options, folder):
            measured = probe(task.train, task.test, floor, task.num_classes)[2]
            table.heading(f"{name}: {len(task.train)} + {len(task.test)} images")
            for factor in FACTORS:
                draws = [predict(task, factor, s, measured, floor) for s in range(options.DRAWS)]
                say(table, f"1/{factor} of them", draws)
                found[factor] += draws
    table.heading("all data sets")
    for factor, draws in found.items():
        say(table, f"1/{factor} of them", draws)
    say(table, "all", [draw for draws in found.values() for draw in draws])
    table.write(options.RESULTS)


def say(table: Table, name: str, draws: list[Draw]) -> None:
    """A row: means over draws, in points, and how many held."""
    cells = []
    for title, values in zip(COLUMNS, zip(*(draw.row for draw in draws), strict=True), strict=True):
        held = f"{sum(values)} of {len(values)}"
        cells.append(held if title == "held" else f"{POINTS * statistics.fmean(values):.1f}")
    table.row(name, *cells)


if __name__ == "__main__":
    main()
