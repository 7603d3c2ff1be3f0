"""What a probe will reach on new images, from the images that were held out.

The probe is fitted without each fifth of the images in turn and judged on that fifth. Where classes are
large, the share that is right is the prediction (`statistics.held_out_interval`). Of few images a class
the folds leave out too much: of two images a half. Then the accuracy is extrapolated to all images.

The law. Let c be the share of the most frequent class, which is right without a probe, and

    u = (p − c)/(1 − p)                                                                            (1)

the odds of an accuracy p above it. With n images a class in the place of m they are (n/m)^b times as
large: b is the local slope of ln u over ln m. The slope hardly depends on the number of classes and on
the accuracy, and falls as images become more: on features of photographs it is about n^(−1/3) in the
mean, of Gaussian classes half as much again (docs/method.md). So

    b = n^(−1/3) for the accuracy that is shown,   0 ≤ b ≤ 2.4 n^(−1/3), all alike, for its interval. (2)

Only over the way from the folds to all images, a factor of at most two, is it used.

The interval is of the mixture over b and over the held-out accuracy, Beta(hits/κ + 1, misses/κ + 1) with
κ of `statistics.widening_of_folds`, and over which new images are drawn.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import special
from torch import Tensor

from utils.features import Features
from utils.grouped import design_effect, effective_new
from utils.linear_head import LinearHead
from utils.sampling import FOLDS, stratified_folds
from utils.statistics import (
    held_out_interval,
    mixture_interval,
    share_of_classes,
    widening_of_folds,
    wilson_of_share,
)

FEW = 10  # images a class: where there are fewer, the accuracy is extrapolated
MANY_CLASSES, FEW_OF_MANY = 20, 100  # of more classes: where there are fewer than so many images a class
USUAL, STEEPEST, FLATTENING = 1.0, 2.4, 1 / 3  # of (2)
SLOPES, ACCURACIES = 15, 40  # nodes of the mixture


@dataclass(frozen=True)
class PredictedAccuracy:
    """An `accuracy` on new images and its `interval`. `extrapolated`: (how many images of a class the
    judging probes were fitted to, how many there are), where that is what was extrapolated; else None.
    `unit`: what is counted so, images or groups of them.
    """

    accuracy: float
    interval: tuple[float, float]
    extrapolated: tuple[float, float] | None = None
    unit: str = "images"

    @property
    def note(self) -> str | None:
        """For a person: how far it is extrapolated."""
        if self.extrapolated is None:
            return None
        fitted, images = self.extrapolated
        seen = f"{_short(fitted)} of {_short(images)} {self.unit} a class"
        return f"extrapolated from probes that saw {seen}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class HeldOut:
    """Of each held-out image its class, `labels` (m,), how many `images` its class has, and how many of
    them the probe that judged it was `fitted_to`. Of images in `groups` (m,) whole groups are counted.
    """

    labels: np.ndarray
    images: np.ndarray
    fitted_to: np.ndarray
    groups: Tensor | None = None

    @staticmethod
    def of(y: Tensor, fold: Tensor, judged: Tensor, groups: Tensor | None = None) -> "HeldOut":
        """Count them from all images' labels, folds and groups (n,), and the indices of the held-out
        ones (m,).
        """
        units = torch.stack([y, fold])  # what is counted: images, or each group once in each class
        if groups is not None:
            units = torch.stack([y, fold, groups]).unique(dim=1)
        of_class, of_fold = units[:2].cpu().numpy()
        counts = np.bincount(of_class)
        in_fold = np.zeros((len(counts), FOLDS), dtype=int)
        np.add.at(in_fold, (of_class[of_fold >= 0], of_fold[of_fold >= 0]), 1)
        labels, folds = y[judged].cpu().numpy(), fold[judged].cpu().numpy()
        fitted_to = counts[labels] - in_fold[labels, folds]
        groups = None if groups is None else groups[judged].cpu()
        return HeldOut(labels, counts[labels], fitted_to, groups)

    def part(self, share: float) -> "HeldOut":
        """Keep this share of the images of each class, rounded up in each fit."""
        fitted = np.ceil(share * self.fitted_to)
        return replace(self, images=np.maximum(share * self.images, fitted), fitted_to=fitted)

    def design_effect(self, right: np.ndarray) -> float:
        """Tell by how much fewer independent images would say as much of the share right (m,)."""
        return 1.0 if self.groups is None else design_effect(torch.from_numpy(right), self.groups)

    @property
    def is_few(self) -> bool:
        """Whether accuracies of these images are extrapolated."""
        return self._is_few(np.full(len(self.labels), 1 / len(self.labels)))

    def predict(
        self, right: np.ndarray, new_images: float | None, few: bool | None = None
    ) -> PredictedAccuracy:
        """Predict, from which of the held-out images were right, the share right of `new_images` new
        ones (None: of all that could be drawn). `few`: whether it is extrapolated (default: as
        `is_few`).
        """
        weights, effect = np.full(len(right), 1 / len(right)), self.design_effect(right)
        count = len(right) / effect
        if not (self._is_few(weights) if few is None else few):
            interval = held_out_interval(right.sum() / effect, count, FOLDS, new_images)
            return PredictedAccuracy(float(right.mean()), interval)
        return self._extrapolate(float(right.mean()), count, weights, new_images)

    def predict_balanced(self, right: np.ndarray, new_images: float | None) -> PredictedAccuracy:
        """Predict the same for the mean over classes of the share right; new images are taken to have
        the classes in the same shares.
        """
        share, count = share_of_classes(right, self.labels)
        if count == len(right):
            return self.predict(right, new_images)
        effective = None if new_images is None else new_images * count / len(right)
        count /= self.design_effect(right)
        if self._is_few(self.balance):
            return self._extrapolate(share, count, self.balance, effective)
        parts = widening_of_folds(FOLDS) + (count / effective if effective else 0.0)
        return PredictedAccuracy(share, wilson_of_share(share, count / parts))

    @property
    def balance(self) -> np.ndarray:
        """What each image weighs in a balanced accuracy, (m,): every class alike, 1 in all."""
        _, of_class = np.unique(self.labels, return_inverse=True)
        counts = np.bincount(of_class)
        return 1 / (len(counts) * counts[of_class])

    @property
    def majority(self) -> float:
        """The most frequent class's share of the held-out images."""
        return float(np.bincount(self.labels).max() / len(self.labels))

    @property
    def classes(self) -> int:
        """How many have a held-out image."""
        return len(np.unique(self.labels))

    def _is_few(self, weights: np.ndarray) -> bool:
        images = math.exp(weights @ np.log(self.images)) + 1e-9  # rounding
        return images < (FEW_OF_MANY if self.classes > MANY_CLASSES else FEW)

    def _extrapolate(
        self, share: float, count: float, weights: np.ndarray, new_images: float | None
    ) -> PredictedAccuracy:
        # Of unequal classes the geometric means: (1) has powers of numbers of images.
        images, fitted = (math.exp(weights @ np.log(n)) for n in (self.images, self.fitted_to))
        chance = np.bincount(self.labels, weights).max()
        flatter = images**-FLATTENING
        known = count / widening_of_folds(FOLDS)
        # The mixture's nodes: equally probable accuracies of the Beta distribution, slopes b of (2).
        levels = (np.arange(ACCURACIES) + 0.5) / ACCURACIES
        accuracies = special.betaincinv(share * known + 1, (1 - share) * known + 1, levels)
        slopes = STEEPEST * flatter * (np.arange(SLOPES) + 0.5) / SLOPES
        means = with_odds(accuracies[:, None], chance, (images / fitted) ** slopes).ravel()
        # Each node is a Gaussian: which new images are drawn makes the variance p (1 − p) / m.
        noise = means * (1 - means) / new_images if new_images else np.zeros_like(means)
        low, high = mixture_interval(means, noise, np.full(len(means), 1 / len(means)))
        accuracy = float(with_odds(np.array(share), chance, (images / fitted) ** (USUAL * flatter)))
        ends = max(0.0, min(low, accuracy)), min(1.0, max(high, accuracy))
        unit = "images" if self.groups is None else "groups of images"
        return PredictedAccuracy(accuracy, ends, (fitted, images), unit)


def with_odds(accuracy: np.ndarray, chance: float, factor: np.ndarray) -> np.ndarray:
    """Return the accuracy whose odds (1) above chance are `factor` times as large; what is not above
    chance stays.
    """
    # (p' − c)/(1 − p') = factor · (p − c)/(1 − p), solved for p'.
    above, wrong = factor * np.maximum(accuracy - chance, 0), 1 - accuracy
    return np.where(accuracy > chance, (above + chance * wrong) / (above + wrong), accuracy)


def held_out_order(fitted: LinearHead, fold: Tensor) -> Tensor:
    """Tell where in `fitted.held_out` the images stand, in their order, that the head which judges them
    has not seen: a class's only image, or group, is in no `fold` (n,) and was seen.
    """
    order = fitted.held_out.argsort()
    return order[fold[fitted.held_out[order]] >= 0]


def judge_held_out(
    fitted: LinearHead, labels: Tensor, groups: Tensor | None = None
) -> tuple[np.ndarray, HeldOut]:
    """Return (whether each image that was held out is right (m,), what these images are), of a head of
    validated strength.
    """
    fold = stratified_folds(labels, groups)
    order = held_out_order(fitted, fold)
    judged = fitted.held_out[order]
    right = fitted.held_out_logits[order].argmax(1) == labels[judged]
    return right.double().cpu().numpy(), HeldOut.of(labels, fold, judged, groups)


def accuracy_on_new_images(
    fitted: LinearHead, train: Features, test: Features
) -> PredictedAccuracy | None:
    """Predict the accuracy of a head of validated strength that is fitted to `train`, on as many new
    images as `test` has; None where no class has two images, or groups.
    """
    right, judged = judge_held_out(fitted, train.y, train.groups)
    if not len(right):
        return None
    new = effective_new(len(test), test.groups, torch.from_numpy(right), judged.groups)
    return judged.predict(right, new)
