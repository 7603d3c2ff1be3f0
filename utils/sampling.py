"""Classes and their samples: priors, means, and the drawing of points by class."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

FOLDS = 5


def class_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Return relative frequencies (K,), float64."""
    return torch.bincount(labels, minlength=num_classes).double() / len(labels)


def class_means(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return means of `values` (n, …) over each class: (K, …)."""
    sums = torch.zeros(num_classes, *values.shape[1:], dtype=values.dtype, device=values.device)
    counts = torch.bincount(labels, minlength=num_classes)
    return sums.index_add(0, labels, values) / counts.view(-1, *[1] * (values.ndim - 1))


def class_counts(prior: Tensor, size: int, sampler: str) -> Tensor:
    """Return how many of `size` points each class gets: int(size · prior), and with `exact` the points
    that are left over go to the largest remainders.
    """
    share = prior.cpu() * size
    counts = share.floor().long()
    if sampler == "exact":
        left = size - int(counts.sum())
        counts[(share - counts).argsort(descending=True, stable=True)[:left]] += 1
    elif sampler != "truncated":
        raise ValueError(f"sampler must be exact or truncated, not {sampler!r}")
    return counts


class ByClass:
    """The samples of each class, to be drawn from at every step of a learner: for all classes at once.

    The drawing is done on the host, so that a seed gives the same batches on every device; one transfer
    takes them to the device of the labels.
    """

    def __init__(self, labels: Tensor, num_classes: int):
        self.device = labels.device
        labels = labels.cpu()
        self.samples = labels.argsort(stable=True).numpy()  # of class 0, then of class 1, …
        self.sizes = torch.bincount(labels, minlength=num_classes).numpy()
        self.first = self.sizes.cumsum() - self.sizes

    def draw(self, counts: Sequence[int] | Tensor, generator: torch.Generator) -> Tensor:
        """Draw so many samples of each class at random, class after class; where there are fewer, all of
        them again and again. Equal in distribution to a permutation of each class's samples, of which as
        many as are wanted are taken. Raises ValueError for a class without samples.
        """
        counts = np.asarray(counts)
        if (missing := np.flatnonzero((counts > 0) & (self.sizes == 0))).size:
            raise ValueError(f"no samples of classes {missing.tolist()} to draw from")
        rounds = -(-counts // self.sizes.clip(min=1))
        of_class = np.arange(len(counts)).repeat(rounds)  # a row for each round of each class
        number = np.arange(len(of_class)) - (rounds.cumsum() - rounds)[of_class]
        sizes = self.sizes[of_class]
        wanted = np.minimum(sizes, counts[of_class] - number * sizes)
        places = _distinct_places(sizes, wanted, generator)
        drawn = self.samples[self.first[of_class].repeat(wanted) + places]
        return torch.from_numpy(drawn).to(self.device)


def _distinct_places(sizes: np.ndarray, wanted: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Draw for each row `wanted` different numbers of 0 … `sizes` − 1 in random order, row after row.

    From few numbers: the order of random keys, one for each number. From many: drawn with replacement,
    and what repeats an earlier one of its row is drawn again. What is drawn again depends on which
    numbers are equal, never on what they are, so every choice in every order is as likely as any other.
    The cost is that of what is wanted, however large the classes are.
    """
    width = int(wanted.max(initial=0))
    slots = np.arange(width)
    used = slots < wanted[:, None]
    places = np.where(used, 0, -1 - slots)  # what is not used repeats nothing
    few = sizes <= FEW * wanted
    if few.any():
        across = max(width, int(sizes[few].max()))
        keys = torch.rand(int(few.sum()), across, generator=generator, dtype=torch.float64).numpy()
        keys[np.arange(across) >= sizes[few, None]] = np.inf
        places[few] = np.where(used[few], keys.argsort(1)[:, :width], places[few])
    row, slot = (used & ~few[:, None]).nonzero()
    while len(row):
        numbers = torch.randint(2**62, (len(row),), generator=generator).numpy()
        places[row, slot] = numbers % sizes[row]
        again = np.unique(row)
        ordered = np.sort(places[again] * width + slots)  # equal numbers side by side, the first first
        index, column = (ordered[:, 1:] // width == ordered[:, :-1] // width).nonzero()
        row, slot = again[index], ordered[index, column + 1] % width
    return places[used]


FEW = 8  # numbers for each one wanted: with more of them hardly any is drawn twice


def draw_stratified(
    by_class: ByClass, prior: Tensor, size: int, sampler: str, generator: torch.Generator
) -> Tensor:
    """Draw the indices of a batch stratified by `prior`. Without replacement inside a class; a class
    with fewer points than its share is capped (`truncated`) or repeated (`exact`, to keep the prior).
    """
    counts = class_counts(prior, size, sampler)
    if sampler == "truncated":
        counts = torch.minimum(counts, torch.from_numpy(by_class.sizes))
    return by_class.draw(counts, generator)


def draw_by_counts(
    index: list[Tensor], counts: Sequence[int] | Tensor, generator: torch.Generator
) -> Tensor:
    """Draw so many points of each class at random; where there are fewer, all of them again and again.
    Once: a learner that draws at every step takes `ByClass`.
    """
    drawn = []
    for points, count in zip(index, torch.as_tensor(counts).tolist(), strict=True):
        if not count:
            continue
        rounds = -(-count // len(points))
        for _ in range(rounds):
            taken = torch.randperm(len(points), generator=generator)[:count]
            drawn.append(points[taken.to(points.device)])
            count -= len(taken)
    return torch.cat(drawn)


def index_by_class(labels: Tensor, num_classes: int) -> list[Tensor]:
    """Return the samples of each class, in their order."""
    return [(labels == k).nonzero().flatten() for k in range(num_classes)]


def stratified_folds(y: Tensor, groups: Tensor | None = None) -> Tensor:
    """Choose the fifth, 0..4, that each sample belongs to, (n,); −1, in none, for a class's only sample.

    With `groups` (n,), numbers from 0 on, no group lies in two fifths. Then −1 is for the samples of a
    class that has one group, or whose groups could only be put into one fifth.
    """
    if groups is not None:
        return _folds_of_groups(y, groups)
    generator = torch.Generator().manual_seed(0)
    fold = torch.full_like(y, -1)
    for label in y.unique():
        members = (y == label).nonzero().flatten()
        if len(members) > 1:
            order = torch.randperm(len(members), generator=generator).to(y.device)
            fold[members[order]] = torch.arange(len(members), device=y.device) % FOLDS
    return fold


def held_out_part(y: Tensor, fold: Tensor) -> Tensor:
    """Say which samples (n,) one fifth holds out: the first, and of a class that groups keep out of it
    the next that has some. Every class that is in two fifths is on both sides.
    """
    num_classes = int(y.max()) + 1
    first = torch.full((num_classes,), FOLDS, device=y.device)
    having = fold >= 0
    first = first.scatter_reduce(0, y[having], fold[having], "amin")
    return having & (fold == first[y])


def _folds_of_groups(y: Tensor, groups: Tensor) -> Tensor:
    """Fill the fifths greedily: the groups that hold most of a class first, each into the fifth that has
    least of its classes, of equal ones the smallest. Deterministic.
    """
    parts = _classes_of_groups(y, groups)
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(0)).tolist()
    order.sort(key=lambda g: -max(share for _, _, share in parts[g]))
    filled = [[0.0] * FOLDS for _ in range(int(y.max()) + 1)]  # shares of each class
    sizes, fold_of = [0] * FOLDS, torch.empty(len(parts), dtype=torch.int64)
    for g in order:
        costs = [
            (round(sum(share * filled[label][k] for label, _, share in parts[g]), 9), sizes[k])
            for k in range(FOLDS)
        ]
        fold_of[g] = fold = costs.index(min(costs))
        for label, count, share in parts[g]:
            filled[label][fold] += share
            sizes[fold] += count
    fold = fold_of.to(y.device)[groups.unique(return_inverse=True)[1]]
    spread = torch.tensor([sum(part > 0 for part in of_class) > 1 for of_class in filled])
    return torch.where(spread.to(y.device)[y], fold, -1)


def _classes_of_groups(y: Tensor, groups: Tensor) -> list[list[tuple[int, int, float]]]:
    """Return for each group, as they are numbered, (class, samples, their share of the class)."""
    _, number = groups.unique(return_inverse=True)
    size, of_class = int(y.max()) + 1, torch.bincount(y).tolist()
    pairs, counts = (number * size + y).unique(return_counts=True)
    parts: list[list[tuple[int, int, float]]] = [[] for _ in range(int(number.max()) + 1)]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        group, label = divmod(pair, size)
        parts[group].append((label, count, count / of_class[label]))
    return parts


def held_out_share(
    labels: Tensor, groups: Tensor | None, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the indices of (what is left, what is held out): this share of each class, drawn, at least
    one sample of it. With `groups` (n,) whole groups, as near to the share as they allow. A class needs
    two samples, or groups, one for each side. Raises ValueError where groups that hold several classes
    cannot be divided so that each side has every class.
    """
    if groups is not None:
        return _held_out_groups(labels, groups, share, generator)
    parts = ([], [])
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = max(1, round(share * len(members)))
        for part, chosen in zip(parts, (members[held_out:], members[:held_out]), strict=True):
            part.append(chosen.sort().values)
    return torch.cat(parts[0]), torch.cat(parts[1])


def _held_out_groups(
    labels: Tensor, groups: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Take in a drawn order each group that brings its classes nearer to the share and leaves each
    another group; then, for a class of which none was taken, the one that brings least beside it.
    """
    labels = labels - labels.min()  # of images without labels they are −1
    parts = _classes_of_groups(labels, groups)
    missing = [max(1.0, share * count) for count in torch.bincount(labels).tolist()]
    left = [0] * len(missing)
    for label in (label for part in parts for label, _, _ in part):
        left[label] += 1
    at_first, taken = tuple(left), torch.zeros(len(parts), dtype=torch.bool)

    def take(g: int) -> None:
        taken[g] = True
        for label, count, _ in parts[g]:
            missing[label] -= count
            left[label] -= 1

    def can_go(g: int) -> bool:
        return not taken[g] and all(left[label] > 1 for label, _, _ in parts[g])

    for g in torch.randperm(len(parts), generator=generator).tolist():
        farther = sum(abs(missing[k] - count) - abs(missing[k]) for k, count, _ in parts[g])
        if farther < 0 and can_go(g):
            take(g)
    for label in range(len(missing)):
        if at_first[label] == left[label] and at_first[label]:
            having = [g for g, part in enumerate(parts) if any(k == label for k, _, _ in part)]
            having = [g for g in having if can_go(g)]
            if not having:
                raise ValueError(f"no group of class {label} can be held out")
            take(min(having, key=lambda g: sum(count for _, count, _ in parts[g])))
    held_out = taken[groups.unique(return_inverse=True)[1]]
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def share_of_each_class(y: Tensor, fold: Tensor, share: float) -> Tensor:
    """Return indices of this share of the samples of each class and fold, at least one; all where it is
    1.
    """
    if share == 1.0:
        return torch.arange(len(y), device=y.device)
    group = y * (FOLDS + 1) + fold + 1
    order = group.argsort(stable=True)
    count = torch.bincount(group)
    place = torch.arange(len(y), device=y.device) - (count.cumsum(0) - count)[group[order]]
    return order[place < (count[group[order]] * share).ceil()].sort().values
