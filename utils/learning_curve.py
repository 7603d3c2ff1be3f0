"""What more labels would bring: a probe's accuracy with a quarter, half and all of the training images.

Each fifth of the images in turn is held out, as for the predicted accuracy of a ranking. The probe is
fitted to a share q = 1/4, 1/2, 1 of the others, and all of them are judged on the same held-out images.
q = 1 costs nothing: its logits come with a head of validated strength (linear_head/ridge.py), which
also gives the strength λ. The parts are nested and hold the same share of each class. λ is the same for
all: on CIFAR-10, flowers, MNIST and FMNIST choosing it anew for each part gave the same mean accuracy.

The error with m images is taken to be a power law (Hestness et al. 2017, arXiv:1712.00409, and the
survey of Mohr and van Rijn 2022, arXiv:2201.12150),

    e(m) = E (s + (1 − s)(m/M)^−b),                                                              (1)

where M is the largest m that was fitted, E the error there, s the share of it that no label removes
and b how fast the rest falls. Three noisy errors do not determine three unknowns, least of all near a
plateau. So every (s, b) of a grid is kept, with the weight of its likelihood: the measured errors are
Gaussian about (1) with the covariance of the hits, image by image, times κ; E is integrated out. With
the weights w and, for each (s, b), the mean Ê and variance v of E, the error with f n images is

    Σ w N(Ê g, v g² + p(1 − p)/m_new),    g = s + (1 − s)(f n/M)^−b,                             (2)

whose mean is the extrapolation and whose quantiles are its interval. The last term is there for the
share that is right of m_new new images. κ = (t/z)² is what widens the interval of a predicted accuracy
(`statistics.held_out_interval`): the fits of five fifths share their images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from utils.features import Features
from utils.grouped import effective_new
from utils.held_out import HeldOut, held_out_order
from utils.linear_head import SEARCHED, LinearHead, fit_linear_head, fit_ridge
from utils.sampling import FOLDS, index_by_class, stratified_folds
from utils.statistics import held_out_interval, mixture_interval, widening_of_folds

SHARES = (1 / 4, 1 / 2, 1.0)
FEWEST = 2  # images of each class in a part, or the part says nothing about its class
# s and b of (1) at each grid point; published exponents b lie between 0.05 and 1.
PLATEAUS, EXPONENTS = map(np.ravel, np.meshgrid(np.linspace(0, 1, 41), np.linspace(0, 1.5, 61)[1:]))


@dataclass(frozen=True)
class LearningCurve:
    """`sizes`: labelled images, of which `fitted_to` were fitted to while the others were held out (mean
    over fifths); `accuracies` on held-out images, with their `intervals` and their `covariance` (κ
    included). `new_images`: for the share right of how many of them intervals are, None for all that
    could be drawn. `unsaid`: why nothing is extrapolated, None where it is. Of few images a class the
    accuracies are those of as many images as the `sizes`, extrapolated as `note` says (held_out.py);
    `errors` are always those of held-out images.
    """

    sizes: tuple[int, ...]
    accuracies: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    fitted_to: tuple[float, ...] = field(repr=False)
    covariance: np.ndarray = field(repr=False)
    new_images: float | None
    unsaid: str | None
    note: str | None = None
    errors: np.ndarray | None = field(default=None, repr=False)

    @staticmethod
    def of(
        hits: np.ndarray,
        sizes: Sequence[int],
        fitted_to: Sequence[float],
        new_images: float | None = None,
        judged: HeldOut | None = None,
    ) -> "LearningCurve":
        """Make it from which of the held-out images each part's probe got right, (parts, m); the last is
        all. `judged`: what these images are, without which nothing says that they are few or in groups.
        """
        count, unsaid, effect, unit = hits.shape[1], None, 1.0, "images"
        if judged and judged.groups is not None:
            unit = "groups of images"
            effect = max(map(judged.design_effect, hits)) if count else 1.0
        if not count:
            sizes, unsaid = (), f"no class has two {unit}"
        elif len(sizes) < len(SHARES):
            unsaid = f"a class has fewer than {math.ceil(FEWEST / SHARES[0])} {unit}"
        accuracies = tuple(row.mean() for row in hits) if count else ()
        intervals = tuple(
            held_out_interval(row.sum() / effect, count / effect, FOLDS, new_images)
            for row in hits
            if count
        )
        note = None
        if judged and count and judged.is_few:
            parts = (judged.part(size / sizes[-1]) for size in sizes)
            found = [
                part.predict(row, new_images, few=True) for part, row in zip(parts, hits, strict=True)
            ]
            accuracies, intervals = zip(*((one.accuracy, one.interval) for one in found), strict=True)
            note = found[-1].note
        return LearningCurve(
            sizes=tuple(sizes),
            accuracies=accuracies,
            intervals=intervals,
            fitted_to=tuple(fitted_to),
            covariance=effect * _covariance(hits),
            new_images=new_images,
            unsaid=unsaid,
            note=note,
            errors=1 - hits.mean(1) if count else None,
        )

    def extrapolate(self, factor: float) -> tuple[float, tuple[float, float]] | None:
        """Return (accuracy, its interval) of a probe that is fitted to `factor` times as many images, by
        (2); None where there were too few images to say.
        """
        if self.unsaid is not None:
            return None
        error, variance, weight = self._errors_at_all()
        left = _share_left(factor * self.sizes[-1] / self.fitted_to[-1])
        mean = float(weight @ (error * left))
        noise = 0.0 if self.new_images is None else max(mean * (1 - mean), 0.0) / self.new_images
        low, high = mixture_interval(error * left, variance * left**2 + noise, weight)
        accuracy, *ends = (min(1.0, max(0.0, 1 - value)) for value in (mean, high, low))
        return accuracy, (ends[0], ends[1])

    def gain(self, factor: float) -> float | None:
        """Tell by how much `factor` times as many images raise the accuracy of a probe that is fitted to
        all; None as above. It has no interval: one by (2) held too rarely (docs/method.md).
        """
        if self.unsaid is not None:
            return None
        return self.extrapolate(factor)[0] - self.extrapolate(1.0)[0]

    @property
    def record(self) -> dict:
        """What a result holds of it; `twice`, of twice as many images, is None where it is not said."""
        twice = None
        if self.unsaid is None:
            accuracy, interval = self.extrapolate(2)
            twice = {"accuracy": accuracy, "interval": interval, "gain": self.gain(2)}
        return {
            "sizes": list(self.sizes),
            "accuracies": list(self.accuracies),
            "intervals": list(self.intervals),
            "twice": twice,
            "unsaid": self.unsaid,
            "note": self.note,
        }

    def _errors_at_all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute Ê, v and w of (2) at each point of the grid."""
        errors = 1 - np.array(self.accuracies) if self.note is None else self.errors
        sizes = np.array(self.fitted_to) / self.fitted_to[-1]
        # At a grid point the errors are E times a known shape, plus noise of a known covariance: E by
        # generalised least squares, its variance, and the point's weight by its marginal likelihood.
        shape = np.stack([_share_left(size) for size in sizes], axis=1)  # (grid, parts)
        precision = np.linalg.inv(self.covariance)
        variance = 1 / np.einsum("gi,ij,gj->g", shape, precision, shape)
        mean = variance * (shape @ precision @ errors)
        rest = errors - mean[:, None] * shape
        log_weight = (np.log(variance) - np.einsum("gi,ij,gj->g", rest, precision, rest)) / 2
        weight = np.exp(log_weight - log_weight.max())
        return mean, variance, weight / weight.sum()


def _share_left(ratio: float) -> np.ndarray:
    """Compute G of (2): the share of E that is left with `ratio` times as many images, at each grid
    point.
    """
    return PLATEAUS + (1 - PLATEAUS) * ratio**-EXPONENTS


def learning_curve(
    features: Features,
    num_classes: int,
    seed: int = 0,
    *,
    fitted: LinearHead | None = None,
    new_images: int | None = None,
    new_groups: Tensor | None = None,
) -> LearningCurve:
    """Measure accuracies of the linear probe with parts of the training images, for what more would
    bring.

    Args:
        features: standardised, x (n, d) float32 with labels y (n,), of every class at least one.
        num_classes: K.
        seed: of which images the parts hold.
        fitted: the head of validated strength of these features, if there is one; else it is fitted.
        new_images: for the share right of how many new images intervals are (default: of any number).
        new_groups: of these images, (new_images,), where they are not independent.

    Returns:
        The curve. Parts with fewer than FEWEST images of a class are left out, and then nothing is
        extrapolated; where no class has two images, nothing can be held out and the curve is empty.

    Raises:
        InputError: a class has no image.

    Source: arXiv:1712.00409; docs/method.md, "What more labels would bring".

    Example:
        >>> y = torch.arange(400) % 2
        >>> x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)) + 0.8 * y[:, None]
        >>> curve = learning_curve(Features(x, y), 2)
        >>> accuracy, (low, high) = curve.extrapolate(2)
        >>> curve.sizes, low < accuracy < high
        ((100, 200, 400), True)
    """
    x, y = features.x, features.y
    fitted = fitted or fit_linear_head(features, num_classes, None, "ridge", progress="linear probe")
    fold, fewest = stratified_folds(y, features.groups), _fewest(features, num_classes)
    shares = [q for q in SHARES if q == 1 or q * fewest >= FEWEST]
    order = held_out_order(fitted, fold)
    judged = fitted.held_out[order]
    right = torch.empty(len(shares), len(judged), dtype=torch.bool, device=y.device)
    right[-1] = fitted.held_out_logits[order].argmax(1) == y[judged]
    fitted_to: list[list[int]] = []
    for k in fold[judged].unique().tolist():
        out, head = fold[judged] == k, None
        parts = nested_parts(
            y=y,
            allowed=fold != k,
            shares=shares,
            num_classes=num_classes,
            seed=seed,
            groups=features.groups,
        )
        fitted_to.append([len(part) for part in parts])
        for row, part in enumerate(parts[:-1]):  # none of their heads has seen the fifth
            decay = fitted.weight_decay
            head = fit_ridge(
                x=x[part],
                y=y[part],
                num_classes=num_classes,
                weight_decay=decay,
                start=head,
                tolerance=SEARCHED,
            )
            right[row, out] = functional.linear(x[judged[out]], *head).argmax(1) == y[judged[out]]
    sizes = [round(q * len(y)) for q in shares]
    means = [sum(column) / len(column) for column in zip(*fitted_to, strict=True)]
    of_images = HeldOut.of(y, fold, judged, features.groups)
    if len(judged) and new_images is not None:
        new_images = effective_new(new_images, new_groups, right[-1], of_images.groups)
    return LearningCurve.of(right.double().cpu().numpy(), sizes, means, new_images, of_images)


def _fewest(features: Features, num_classes: int) -> int:
    """Count the images, or groups of them, of the smallest class."""
    y = features.y
    if features.groups is not None:
        number = features.groups.unique(return_inverse=True)[1]
        y = (number * num_classes + y).unique() % num_classes
    return int(torch.bincount(y, minlength=num_classes).min())


def nested_parts(
    y: Tensor,
    allowed: Tensor,
    shares: Sequence[float],
    num_classes: int,
    seed: int,
    groups: Tensor | None = None,
) -> list[Tensor]:
    """Return indices of the first share of each class's allowed (n,) images, in an order that the seed
    draws: rounded up, so that every class that has images keeps one. With `groups` (n,) the first share
    of the class's groups, whole.
    """
    if groups is not None:
        return _nested_groups(y, allowed, shares, num_classes, seed, groups)
    generator = torch.Generator().manual_seed(seed)
    members = []
    for of_class in index_by_class(y, num_classes):
        drawn = of_class[torch.randperm(len(of_class), generator=generator).to(y.device)]
        members.append(drawn[allowed[drawn]])
    return [
        torch.cat([of_class[: math.ceil(q * len(of_class))] for of_class in members]).sort().values
        for q in shares
    ]


def _nested_groups(
    y: Tensor, allowed: Tensor, shares: Sequence[float], num_classes: int, seed: int, groups: Tensor
) -> list[Tensor]:
    """Do the same with groups, in one order for all classes, so that a part tends to hold them whole."""
    number = groups.unique(return_inverse=True)[1]
    generator = torch.Generator().manual_seed(seed)
    place = torch.randperm(int(number.max()) + 1, generator=generator).to(y.device)[number]
    parts = [[] for _ in shares]
    for of_class in index_by_class(y, num_classes):
        kept = of_class[allowed[of_class]]
        rank = place[kept].unique(return_inverse=True)[1]  # of its group among the class's
        count = int(rank.max()) + 1 if len(rank) else 0
        for part, q in zip(parts, shares, strict=True):
            part.append(kept[rank < math.ceil(q * count)])
    return [torch.cat(part).sort().values for part in parts]


def _covariance(hits: np.ndarray) -> np.ndarray:
    """Estimate that of the accuracies, from which held-out images each part's probe got right (parts,
    m), κ included. Four images more, spread over all outcomes: probes that are always right would have
    no variance.
    """
    outcomes = np.array(list(product((0.0, 1.0), repeat=len(hits)))).T
    both = np.column_stack([hits, outcomes])
    weight = np.repeat([1.0, 4 / outcomes.shape[1]], [hits.shape[1], outcomes.shape[1]])
    spread = np.atleast_2d(np.cov(both, aweights=weight, bias=True))
    return widening_of_folds(FOLDS) * spread / weight.sum()
