"""What is odd about a measured accuracy: it lies far from the predicted one, or below chance.

An accuracy on the test split that lies outside of the predicted interval by more than its width is no
accident of which images were drawn. Neither are fewer hits than chance at p < 10^-4. That the labels of
the test split are in another order is told by their confusions: a renaming of the classes makes the
accuracy what was predicted.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import bdtr
from torch import Tensor

CERTAIN = 1e-4
NAMED = 3  # classes
OTHER_IMAGES = (
    "test images of another kind than the training images (origin, preprocessing), near copies among "
    "the training images, which make the prediction too high, or wrong labels"
)
SEEN_IMAGES = "test images that are among the training images, too, or easier ones"


def doubts_of_accuracy(
    said: Tensor,
    truth: Tensor,
    class_names: Sequence[str],
    predicted: tuple[float, tuple[float, float]] | None,
) -> list[str]:
    """Say what a person should know of the answers `said` (n,) on a test split with the labels `truth`,
    a line each. `predicted`: the accuracy that was expected, and its interval for as many images; None
    where none was.
    """
    confusion = confusions(said, truth, len(class_names))
    hits, count, classes = int(confusion.trace()), len(truth), len(class_names)
    measured = hits / count
    accuracy, (low, high) = predicted or (None, (0.0, 1.0))
    width = high - low
    chance = bdtr(hits, count, 1 / classes)
    beside = f"the predicted {accuracy:.3f} [{low:.3f}, {high:.3f}]" if predicted else ""
    if predicted and measured < low - width:
        place = f"far below {beside}"
    elif chance < CERTAIN and (measured < low or not predicted):
        place = f"below chance, {1 / classes:.3f}" + (f", and below {beside}" if predicted else "")
    elif predicted and measured > high + width:
        return [_line(measured, f"far above {beside}", f"likely causes: {SEEN_IMAGES}")]
    else:
        return []
    # A renaming must bring the accuracy back to where it is not odd, and most of the way there.
    least = max(low - width, (accuracy + measured) / 2) if predicted else (1 + 1 / classes) / 2
    return [
        _line(measured, place, _order(confusion, class_names, least) or f"likely causes: {OTHER_IMAGES}")
    ]


def _line(measured: float, place: str, why: str) -> str:
    return f"measured accuracy {measured:.3f} is {place}: {why}"


def confusions(said: Tensor, truth: Tensor, classes: int) -> np.ndarray:
    """Count how many images of each class (row) are called what (column)."""
    both = torch.bincount(truth * classes + said, minlength=classes**2)
    return both.view(classes, classes).cpu().numpy()


def _order(confusion: np.ndarray, class_names: Sequence[str], least: float) -> str | None:
    """Say that the labels are in another order, if a renaming of the classes makes `least` right."""
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    right = confusion[rows, columns].sum() / confusion.sum()
    moved = [(confusion[t, s], t, s) for t, s in zip(rows, columns, strict=True) if t != s]
    if not moved or right < least:
        return None
    moved.sort(key=lambda one: (-one[0], one[1]))
    named = [f"its {class_names[t]} is {class_names[s]}" for _, t, s in moved[:NAMED]]
    more = f" and {len(moved) - NAMED} more" if len(moved) > NAMED else ""
    return (
        f"the labels of the test split seem to be in another order than those of the training split: "
        f"{right:.3f} are right if {', '.join(named)}{more}"
    )


def doubts_of_probe(predicted: tuple[float, tuple[float, float]] | None, majority: float) -> list[str]:
    """Say that a probe is not known to be better than always saying the most frequent class."""
    if predicted is None or predicted[1][0] > majority:
        return []
    accuracy, (low, high) = predicted
    return [
        f"the probe found nothing that is sure: its predicted accuracy {accuracy:.3f} [{low:.3f}, "
        f"{high:.3f}] is not known to be above {majority:.3f}, that of always saying the most frequent "
        f"class"
    ]


def warn_of_doubts(record: Mapping) -> None:
    """Warn of those of a result."""
    for text in record.get("doubts", ()):  # earlier versions had none
        warnings.warn(text, stacklevel=2)
