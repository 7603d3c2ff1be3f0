"""Which candidate to take: predicted accuracies of linear probes, and what the choice may cost.

Each candidate's probe is judged on training images that it was not fitted to (linear_head/ridge.py), the
same images for all. Resampling them for all candidates at once says how often each is the best, and
what is lost by taking another one.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.errors import InputError
from utils.grouped import effective_new
from utils.held_out import PredictedAccuracy, judge_held_out
from utils.learning_curve import LearningCurve
from utils.linear_head import LinearHead
from utils.names import ACCURACY, BALANCED
from utils.statistics import LEVEL

CHUNK = 250  # resamples that are counted at a time
LITTLE = 0.005  # half a point: a third of the deviation of an accuracy near 0.7 of 1,000 new images


@dataclass(frozen=True)
class Prediction:
    """The `accuracy` of a linear probe on new images, its `interval`, and whether the probe was `right`
    (m,) on each image that was held out. `balanced`: the accuracy if every class counts alike, and
    `weights` (m,), what each held-out image then weighs; `majority`: the most frequent class's share of
    them, of `classes` classes. `note`: how far it is extrapolated, if it is (utils/held_out.py).
    `groups` (m,): which of the held-out images belong together, if some do.
    """

    accuracy: float
    interval: tuple[float, float]
    right: np.ndarray
    balanced: PredictedAccuracy | None = None
    weights: np.ndarray | None = None
    majority: float | None = None
    classes: int | None = None
    note: str | None = None
    groups: np.ndarray | None = None

    def by(self, metric: str) -> float:
        """Return the accuracy by one of METRICS."""
        return self.found(metric)[0]

    def found(self, metric: str) -> tuple[float, tuple[float, float], float | None]:
        """Return (the accuracy by `metric`, its interval, what always saying one class reaches)."""
        if metric == BALANCED:
            return self.balanced.accuracy, self.balanced.interval, 1 / self.classes
        return self.accuracy, self.interval, self.majority


def predict_accuracy(
    fitted: LinearHead,
    labels: Tensor,
    new_images: int | None,
    groups: Tensor | None = None,
    new_groups: Tensor | None = None,
) -> Prediction:
    """Predict from a probe's held-out logits. The interval is for the share that the probe gets right of
    as many new images as `new_images` (`statistics.held_out_interval`; None: of any number); of few
    images a class both are extrapolated (utils/held_out.py). With `groups` of the training images, and
    `new_groups` of the new ones, groups are what counts (utils/grouped.py). Raises InputError where no
    class has two images, or groups.
    """
    right, judged = judge_held_out(fitted, labels, groups)
    if not len(right):
        what = "images" if groups is None else "groups of images"
        raise InputError(
            f"no class has two training {what}: what a probe will reach cannot be predicted"
        )
    new = new_images
    if new_images is not None:
        new = effective_new(new_images, new_groups, torch.from_numpy(right), judged.groups)
    found, balanced = judged.predict(right, new), judged.predict_balanced(right, new)
    return Prediction(
        accuracy=found.accuracy,
        interval=found.interval,
        right=right,
        balanced=balanced,
        weights=judged.balance,
        majority=judged.majority,
        classes=judged.classes,
        note=found.note,
        groups=None if judged.groups is None else judged.groups.numpy(),
    )


@dataclass(frozen=True)
class Decision:
    """`pick`: the candidate with the highest predicted accuracy, the first of those that share it.
    `odds`: in which share of resamples of the held-out images each is the best. `regret`: by how much
    the best is better than the pick, mean over resamples. `rivals`: those that are as good as the pick
    in too many resamples to be ruled out.
    """

    pick: str
    odds: dict[str, float]
    regret: float
    rivals: tuple[str, ...]

    @property
    def line(self) -> str:
        """What a person can act on."""
        if len(self.odds) == 1:
            return f"{self.pick} is the only candidate: there is nothing to choose between"
        text = (
            f"take {self.pick}: best in {self.odds[self.pick]:.0%} of resamples, expected regret "
            f"{100 * self.regret:.1f} points"
        )
        if self.rivals:
            text += f"; a close call: the data cannot tell it from {', '.join(self.rivals)}"
        return text


def decide(
    predictions: Mapping[str, Prediction],
    views: Mapping[str, Hashable],
    resamples: int,
    seed: int,
    metric: str = ACCURACY,
) -> Decision:
    """Decide which candidate to take: draw the held-out images with replacement, for all candidates at
    once; whole groups of them where there are some.

    Args:
        predictions: of each candidate, in the order in which ties are broken, from `predict_accuracy`.
        views: which target features each candidate has. Candidates of one view (the same features with
            several sources) are one: the first stands for all.
        resamples: how many draws.
        seed: of the draws.
        metric: `accuracy`, or `balanced`: every class counts alike, whatever its share of the images.

    Returns:
        The pick, in which share of draws each is the best, the expected regret in [0, 1], and the
        candidates that the data cannot tell from the pick.

    Raises:
        ValueError: the predictions are of unequal numbers of images.

    Source: docs/method.md, "Rankings".

    Example:
        >>> seen = {"a": np.array([1.0, 1, 1, 0]), "b": np.array([1.0, 0, 0, 0])}
        >>> found = {name: Prediction(right.mean(), (0, 1), right) for name, right in seen.items()}
        >>> decide(found, {"a": 1, "b": 2}, resamples=100, seed=0).pick
        'a'
    """
    first: dict[Hashable, str] = {}
    for name in predictions:
        first.setdefault(views[name], name)
    names = list(first.values())
    right = np.stack([predictions[name].right for name in names], axis=1)
    weights = np.ones(len(right))
    if metric == BALANCED:
        weights = predictions[names[0]].weights * len(right)
    hits = right * weights[:, None]
    if (groups := predictions[names[0]].groups) is not None:
        hits, weights = _by_group(hits, groups), _by_group(weights, groups)
    rng, count, drawn = np.random.default_rng(seed), len(hits), []
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        counts = rng.multinomial(count, np.full(count, 1 / count), size=size)
        drawn.append(counts @ hits / (counts @ weights)[:, None])
    accuracies = np.concatenate(drawn)
    best = accuracies.max(1)
    winners = accuracies >= best[:, None] - 1e-12
    odds = (winners / winners.sum(1, keepdims=True)).mean(0)
    means = hits.sum(0) / weights.sum()
    pick = int(means.argmax())
    as_good = (accuracies >= accuracies[:, [pick]] - 1e-12).mean(0)
    order = np.argsort(-means, kind="stable")
    return Decision(
        names[pick],
        {names[k]: float(odds[k]) for k in order},
        float((best - accuracies[:, pick]).mean()),
        tuple(names[k] for k in order if k != pick and as_good[k] > (1 - LEVEL) / 2),
    )


def _by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum `values` (m, …) over the images of each group."""
    _, number = np.unique(groups, return_inverse=True)
    sums = np.zeros((number.max() + 1, *values.shape[1:]))
    np.add.at(sums, number, values)
    return sums


def more_or_another(
    curve: LearningCurve,
    decision: Decision,
    predictions: Mapping[str, Prediction],
    metric: str = ACCURACY,
) -> str:
    """Say whether twice as many labels or another candidate would bring more: the gain of the pick's
    `curve`, in accuracy, beside the expected regret, which is what the best choice would bring in the
    mean, in the accuracy of the `metric`.
    """
    images, gain = curve.sizes[-1], curve.gain(2)
    if gain is None:
        return (
            f"more labels or another network? what more labels would bring is not said: {curve.unsaid}"
        )
    accuracy, (low, high) = curve.extrapolate(2)
    labels = (
        f"twice as many labels ({2 * images} images) would add about {100 * gain:.1f} points "
        f"(to {accuracy:.3f} [{low:.3f}, {high:.3f}])"
    )
    others = [name for name in decision.odds if name != decision.pick]
    if not others:
        return f"more labels? {labels}; there is no other network to compare with"
    behind = predictions[decision.pick].by(metric) - predictions[others[0]].by(metric)
    kind = " in balanced accuracy" if metric == BALANCED else ""
    networks = (
        f"the best choice among these networks {100 * decision.regret:.1f} (the expected regret{kind}; "
        f"the next, {others[0]}, is {100 * behind:.1f} lower)"
    )
    verdict = "more labels" if gain > decision.regret else "another network"
    if max(gain, decision.regret) < LITTLE:
        verdict = "neither brings much"
    elif abs(gain - decision.regret) < LITTLE:
        verdict = "about as much"
    return f"more labels or another network? {verdict}: {labels}, {networks}"
