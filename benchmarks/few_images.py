"""Whether intervals of predicted accuracies hold the measured one where classes have few images.

    python3 -m benchmarks.few_images
    python3 -m benchmarks.few_images --PARTS photos --FOLDERS photos/cifar10 photos/flowers

`gaussian`: K Gaussian classes in 64 dimensions, unit variance in each, means drawn with three deviations
(DEVIATIONS), so that accuracies lie low, in the middle and high; REPEATS draws of each. The probe is
fitted to all images; the accuracy is measured on 4,000 new ones, and on 500, each with its own interval.
`unequal`: the same with classes of unequal sizes, for the accuracy and for the balanced accuracy, new
images having the same shares. `photos`: a few images of each class of each folder, as MODEL sees them;
measured on the others, as many of each class.

`held out`: the share of held-out images that is right; `predicted`: extrapolated to all images, where
they are few; `width` of the 95 % interval; `held`: how many of the intervals hold the measured accuracy,
of 4,000 and of 500 new images; `plain`: how many would if the held-out share were the prediction and
every image counted alike.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.learning_curve import tasks
from benchmarks.measure import Table
from utils.entry import stage_entry
from utils.features import Standardiser, Task
from utils.grouped import balanced_accuracy
from utils.linear_head import fit_validated_ridge
from utils.procedures import settings_for
from utils.ranking import predict_accuracy
from utils.sampling import FOLDS, index_by_class
from utils.statistics import held_out_interval

PARTS = ("gaussian", "unequal", "photos")
DIMENSIONS = 64
DEVIATIONS = {2: (0.1, 0.2, 0.4), 10: (0.2, 0.35, 0.5), 100: (0.25, 0.4, 0.6), 200: (0.3, 0.45, 0.65)}
IMAGES = (2, 3, 4, 5, 6, 8, 10)
NEW_IMAGES = (4000, 500)
UNEQUAL = {  # images of each class
    "240 + 8": (240, 8),
    "40 + 2": (40, 2),
    "5 x 2 + 5 x 200": (2,) * 5 + (200,) * 5,
    "50 x 2 + 50 x 20": (2,) * 50 + (20,) * 50,
    "100 of 2 to 6": (2, 3, 4, 5, 6) * 20,
}
COLUMNS = ("held out", "predicted", "measured", "width", "held", "held (500)", "plain")


@dataclass(frozen=True)
class Draw:
    """Accuracies of one draw, its interval's width, and whether each interval held."""

    held_out: float
    predicted: float
    measured: float
    width: float
    held: bool
    held_few: bool
    plain: bool


def gaussian(
    counts: Sequence[int], deviation: float, seed: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(training images and labels, new ones with the classes in the same shares)."""
    generator = torch.Generator().manual_seed(seed)
    means = deviation * torch.randn(len(counts), DIMENSIONS, generator=generator)
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    new_y = y[torch.randint(len(y), (NEW_IMAGES[0],), generator=generator)]

    def images(labels: Tensor) -> Tensor:
        return means[labels] + torch.randn(len(labels), DIMENSIONS, generator=generator)

    return (images(y), y), (images(new_y), new_y)


def judge(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    floor: float,
    balanced: bool = False,
) -> Draw:
    """A probe of few images: what is predicted of it, and what it does on new ones."""
    (x, y), (new_x, new_y) = train, test
    scaler = Standardiser.fit(x, floor)
    fitted = fit_validated_ridge(scaler(x), y, classes, "probe")
    right = functional.linear(scaler(new_x), fitted.weight, fitted.bias).argmax(1) == new_y
    held, found = [], []
    for count in NEW_IMAGES:
        some, labels = right[:count], new_y[:count]
        prediction = predict_accuracy(fitted, y, len(some))
        _, (low, high), _ = prediction.found("balanced" if balanced else "accuracy")
        measured = balanced_accuracy(some, labels)[0] if balanced else some.double().mean().item()
        held.append(low <= measured <= high)
        found.append((prediction, measured, high - low))
    prediction, measured, width = found[0]
    weights = prediction.weights if balanced else 1 / len(prediction.right)
    share, count = float((prediction.right * weights).sum()), len(prediction.right)
    low, high = held_out_interval(share * count, count, FOLDS, len(right))
    predicted = prediction.by("balanced" if balanced else "accuracy")
    return Draw(share, predicted, measured, width, *held, low <= measured <= high)


def say(table: Table, name: str, draws: Sequence[Draw]) -> None:
    """A row: means over draws in percent, and how many held."""
    numbers = [
        f"{100 * statistics.fmean(getattr(draw, field) for draw in draws):.1f}"
        for field in ("held_out", "predicted", "measured", "width")
    ]
    shares = [
        f"{sum(getattr(draw, field) for draw in draws)} of {len(draws)}"
        for field in ("held", "held_few", "plain")
    ]
    table.row(name, *numbers, *shares)


def few_and_others(
    task: Task, images: int, seed: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """So many images of each class, of both splits, and of the others as many of each class, in a random
    order.
    """
    x, y = torch.cat([task.train.x, task.test.x]), torch.cat([task.train.y, task.test.y])
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(y), generator=generator)
    members = [shuffled[of_class] for of_class in index_by_class(y[shuffled], task.num_classes)]
    others = min(min(map(len, members)) - images, NEW_IMAGES[0] // task.num_classes)
    few = torch.cat([of_class[:images] for of_class in members])
    new = torch.cat([of_class[images : images + others] for of_class in members])
    new = new[torch.randperm(len(new), generator=generator)]
    return (x[few], y[few]), (x[new], y[new])


def cells(options: argparse.Namespace, part: str) -> Iterator[tuple[str, Callable[[], list[Draw]]]]:
    """(the row's name, what draws it) of a part of Gaussian classes."""
    if part == "gaussian":
        for classes in options.CLASSES:
            for images in options.IMAGES:
                yield (
                    f"{classes} classes, {images} images each",
                    lambda k=classes, m=images: [
                        judge(*gaussian((m,) * k, deviation, seed), k, 0.01)
                        for deviation in DEVIATIONS[k]
                        for seed in range(options.REPEATS)
                    ],
                )
        return
    for name, counts in UNEQUAL.items():
        for balanced in (False, True):
            kind = "balanced" if balanced else "accuracy"
            yield (
                f"{name}: {kind}",
                lambda c=counts, b=balanced: [
                    judge(*gaussian(c, deviation, seed), len(c), 0.01, b)
                    for deviation in DEVIATIONS[len(c)]
                    for seed in range(options.REPEATS)
                ],
            )


@stage_entry("benchmarks.few_images")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--PARTS", nargs="+", choices=PARTS, default=PARTS[:2], help="default: no photos"
    )
    parser.add_argument("--CLASSES", nargs="+", type=int, default=list(DEVIATIONS), metavar="K")
    parser.add_argument("--IMAGES", nargs="+", type=int, default=list(IMAGES), metavar="N")
    parser.add_argument("--REPEATS", type=int, default=20, help="of each deviation, or photos' draws")
    parser.add_argument("--FOLDERS", nargs="*", default=[], help="folders of images, for photos")
    parser.add_argument("--EMBEDDED", nargs="*", default=[], help="for photos, too")
    parser.add_argument("--PAIRS", nargs="*", default=[], metavar="SRC,TRG", help="seen by a LeNet")
    parser.add_argument("--MODEL", default="efficientnet_lite0")
    parser.add_argument("--IMAGE_SIZE", type=int, default=64)
    parser.add_argument("--CHECKPOINT_DIR", type=Path, help="where features are kept (default: nowhere)")
    parser.add_argument("--RESULTS", type=Path, help="folder of the table (default benchmarks/results)")
    options = parser.parse_args(argv)
    for part in options.PARTS:
        table = new_table(part, options)
        if part == "photos":
            photos(table, options)
        else:
            table.heading(f"{part}, percent")
            for name, draw in cells(options, part):
                say(table, name, draw())
        table.write(options.RESULTS)


def new_table(part: str, options: argparse.Namespace) -> Table:
    """Under the command that makes this part anew; folders by name: paths are this machine's."""
    shown = ["--PARTS", part, "--REPEATS", str(options.REPEATS)]
    if part == "photos":
        shown += ["--FOLDERS", *(Path(path).name for path in options.FOLDERS)]
        shown += ["--EMBEDDED", *options.EMBEDDED] if options.EMBEDDED else []
        shown += ["--PAIRS", *options.PAIRS] if options.PAIRS else []
    table = Table("few_images", COLUMNS, shown)
    table.name = f"few_images_{part}"
    return table


def photos(table: Table, options: argparse.Namespace) -> None:
    floor = settings_for("improved", options.MODEL).deviation_floor
    with tempfile.TemporaryDirectory() as temporary:
        for name, task in tasks(options, options.CHECKPOINT_DIR or Path(temporary)):
            table.heading(f"{name}, percent")
            for images in options.IMAGES:
                draws = [
                    judge(*few_and_others(task, images, seed), task.num_classes, floor)
                    for seed in range(options.REPEATS)
                ]
                say(table, f"{images} images of each class", draws)


if __name__ == "__main__":
    main()
