"""The figure of the part `turned` of `benchmarks.relation`."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torchvision.transforms.functional import InterpolationMode, rotate

from utils.datasets import Split
from utils.figures.run import COLOURS, save_figure
from utils.relation import SIGNIFICANT


@dataclass(frozen=True)
class Turn:
    """What one run measured with the target turned by `angle` degrees."""

    angle: int
    seed: int
    labels: float
    mixed: float
    mixed_spread: float
    tuned: float
    contribution: float
    p: float
    against_random: float

    @property
    def related(self) -> bool:
        return self.p <= SIGNIFICANT <= self.contribution


DIGITS_SHOWN = (2, 4)


def draw_turned(found: Sequence[Turn], images: Split, path: Path) -> None:
    """Above the accuracies, below the contribution of each run over the angle, and turned digits."""
    angles = sorted({one.angle for one in found})
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 5), layout="constrained", sharex=True, height_ratios=(1.15, 1)
    )
    _draw_accuracies(above, found, angles)
    _draw_contributions(below, found, angles)
    _draw_digits(below, images, angles)
    figure.suptitle(
        "Is a network of upright digits related to turned ones? LeNet of MNIST, other images"
    )
    save_figure(figure, path)


def _mean(found: Sequence[Turn], angle: int, field: str) -> float:
    return statistics.fmean(getattr(one, field) for one in found if one.angle == angle)


def _draw_accuracies(axes: plt.Axes, found: Sequence[Turn], angles: Sequence[int]) -> None:
    for field, label, colour in (
        ("tuned", "linear fine-tuning", COLOURS["actual"]),
        ("labels", "the source's labels alone", COLOURS["source"]),
        ("mixed", "its classes mixed (mean ± sd)", COLOURS["distribution"]),
    ):
        axes.plot(
            angles,
            [100 * _mean(found, angle, field) for angle in angles],
            "o-",
            markersize=4,
            color=colour,
            label=label,
        )
    middle = [_mean(found, angle, "mixed") for angle in angles]
    spread = [_mean(found, angle, "mixed_spread") for angle in angles]
    low, high = ([100 * (m + sign * s) for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1))
    axes.fill_between(angles, low, high, color=COLOURS["distribution"], alpha=0.2, linewidth=0)
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 104)
    axes.legend(loc="lower right", frameon=False, ncols=3)
    axes.grid(axis="y", alpha=0.3)


def _draw_contributions(axes: plt.Axes, found: Sequence[Turn], angles: Sequence[int]) -> None:
    means = [_mean(found, angle, "contribution") for angle in angles]
    axes.plot(angles, means, color=COLOURS["source"], linewidth=1.2)
    axes.axhline(0, color="black", linewidth=0.8)
    for clear, label in ((True, "p ≤ 0.05"), (False, "p > 0.05: no more than chance")):
        of_kind = [one for one in found if (one.p <= SIGNIFICANT) == clear]
        axes.plot(
            [one.angle for one in of_kind],
            [one.contribution for one in of_kind],
            "o",
            markersize=6,
            markeredgecolor=COLOURS["source"],
            linestyle="",
            markerfacecolor=COLOURS["source"] if clear else "white",
            label=label,
        )
    axes.set_ylabel("source_contribution")
    axes.set_ylim(-0.15, 1.15)
    axes.set_xticks(angles, [f"{angle}°" for angle in angles])
    axes.tick_params(axis="x", length=0, pad=30)
    axes.set_xlabel("the target's digits are turned by")
    axes.legend(loc="upper right", frameon=False)
    axes.grid(axis="y", alpha=0.3)


def _draw_digits(axes: plt.Axes, images: Split, angles: Sequence[int]) -> None:
    """Of two classes, one beside the other, between the axis and its labels."""
    chosen = [images.images[(images.labels == digit).nonzero()[0]] for digit in DIGITS_SHOWN]
    for angle in angles:
        for place, image in enumerate(chosen):
            picture = 255 - rotate(image, angle, InterpolationMode.BILINEAR)[0, 0].numpy()
            box = AnnotationBbox(
                OffsetImage(picture, zoom=0.7, cmap="gray", resample=True),
                (angle, 0),
                xycoords=axes.get_xaxis_transform(),
                xybox=(22 * place - 11, -18),
                boxcoords="offset points",
                frameon=False,
                annotation_clip=False,
            )
            axes.add_artist(box)
