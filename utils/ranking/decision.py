"""Which candidate to take: predicted accuracies of linear probes, and what the choice may cost.

Each candidate's probe is judged on training images that it was not fitted to (linear_head/ridge.py), the
same images for all. Resampling them for all candidates at once says how often each is the best, and
what is lost by taking another one.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from utils.errors import InputError
from utils.grouped import effective_count, effective_new
from utils.learning_curve import LearningCurve
from utils.linear_head import ValidatedRidge
from utils.sampling import FOLDS, stratified_folds
from utils.statistics import LEVEL, held_out_interval

CHUNK = 250  # resamples that are counted at a time
LITTLE = 0.005  # half a point: a third of the deviation of an accuracy near 0.7 of 1,000 new images


@dataclass(frozen=True)
class Prediction:
    """The `accuracy` of a linear probe on new images, its `interval`, and whether the probe was `right`
    (m,) on each image that was held out; which of their `groups` (m,) each belongs to, if there are any.
    """

    accuracy: float
    interval: tuple[float, float]
    right: np.ndarray
    groups: np.ndarray | None = None


def predict_accuracy(
    fitted: ValidatedRidge,
    labels: Tensor,
    new_images: int,
    groups: Tensor | None = None,
    new_groups: Tensor | None = None,
) -> Prediction:
    """From a probe's held-out logits. The interval is for the share that the probe gets right of as many
    new images as `new_images` (`statistics.held_out_interval`). With `groups` of the training images,
    and `new_groups` of the new ones, groups are what counts (`utils/grouped.py`). Raises InputError
    where no class has two images, or groups.
    """
    order = fitted.held_out.argsort()
    # A class's only image was seen by the head that judges it.
    order = order[stratified_folds(labels, groups)[fitted.held_out[order]] >= 0]
    if not len(order):
        what = "images" if groups is None else "groups of images"
        raise InputError(f"no class has two training {what}: what a probe will reach cannot be foretold")
    judged = fitted.held_out[order]
    right = (fitted.held_out_logits[order].argmax(1) == labels[judged]).double().cpu()
    groups = None if groups is None else groups[judged].cpu()
    count = effective_count(right, groups)
    new = effective_new(new_images, new_groups, right, groups)
    hits = right.sum().item() * (count / len(right))
    interval = held_out_interval(hits, count, FOLDS, new)
    right = right.numpy()
    return Prediction(float(right.mean()), interval, right, None if groups is None else groups.numpy())


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
) -> Decision:
    """Which candidate to take: draws the held-out images with replacement, for all candidates at once;
    whole groups of them where there are some.

    Args:
        predictions: of each candidate, in the order in which ties are broken, from `predict_accuracy`.
        views: which target features each candidate has. Candidates of one view (the same features with
            several sources) are one: the first stands for all.
        resamples: how many draws.
        seed: of the draws.

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
    sizes = np.ones(len(right))
    if (groups := predictions[names[0]].groups) is not None:
        right, sizes = _by_group(right, groups)
    rng, count, drawn = np.random.default_rng(seed), len(right), []
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        counts = rng.multinomial(count, np.full(count, 1 / count), size=size)
        drawn.append(counts @ right / (counts @ sizes)[:, None])
    accuracies = np.concatenate(drawn)
    best = accuracies.max(1)
    winners = accuracies >= best[:, None] - 1e-12
    odds = (winners / winners.sum(1, keepdims=True)).mean(0)
    means = right.sum(0) / sizes.sum()
    pick = int(means.argmax())
    as_good = (accuracies >= accuracies[:, [pick]] - 1e-12).mean(0)
    order = np.argsort(-means, kind="stable")
    return Decision(
        names[pick],
        {names[k]: float(odds[k]) for k in order},
        float((best - accuracies[:, pick]).mean()),
        tuple(names[k] for k in order if k != pick and as_good[k] > (1 - LEVEL) / 2),
    )


def _by_group(right: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(how many of each group's images each candidate has right, the groups' sizes)."""
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), right.shape[1]))
    np.add.at(sums, number, right)
    return sums, sizes.astype(float)


def more_or_another(
    curve: LearningCurve, decision: Decision, predictions: Mapping[str, Prediction]
) -> str:
    """Whether twice as many labels or another candidate would bring more, for a person: the gain of the
    pick's `curve` beside the expected regret, which is what the best choice would bring in the mean.
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
    behind = predictions[decision.pick].accuracy - predictions[others[0]].accuracy
    networks = (
        f"the best choice among these networks {100 * decision.regret:.1f} (the expected regret; the "
        f"next, {others[0]}, is {100 * behind:.1f} lower)"
    )
    verdict = "more labels" if gain > decision.regret else "another network"
    if max(gain, decision.regret) < LITTLE:
        verdict = "neither brings much"
    elif abs(gain - decision.regret) < LITTLE:
        verdict = "about as much"
    return f"more labels or another network? {verdict}: {labels}, {networks}"
