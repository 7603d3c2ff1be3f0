"""Near copies, noticed without being told: frames of one scene, pictures of one patient.

An image that is held out while near copies of it stay is no new image, and a head is taken to be better
than it is. Let d_1 ≤ d_2 ≤ … be the distances from an image to its neighbours among the training images
of its class. Of independent images, of a density that varies little at this scale and in D dimensions,
d_1^D … d_K−1^D are uniform between 0 and d_K^D (Facco et al. 2017, arXiv:1803.06992), so that the chance
of a neighbour as near as d_1, or nearer, is

    p = 1 − (1 − (d_1/d_K)^D)^(K−1),   D = Σ_{K ≤ j < 2K} 1/j  /  median log(d_2K/d_K).            (1)

D, of each class, is taken from neighbours that are too far to be copies, if an image has fewer than K of
these. By chance p is less than RARE for one image in a thousand. Near copies are found where it is so
for one in ten, for some K of SCALES. Images are of one scene where distances link them that are less
than

    d_K (LINKED/(K−1))^(1/D),                                                                     (2)

within which an independent image would have a neighbour with the chance LINKED, for both of them.

Neither classes of fewer than 2 SCALES[0] + 1 images can be judged nor groups of more than SCALES[-1].
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from utils.features import Features
from utils.held_out import judge_held_out
from utils.linear_head import fit_linear_head
from utils.sampling import FOLDS
from utils.statistics import held_out_interval

SCALES = (4, 8, 16, 32)  # K of (1)
RARE = 1e-3
ALARM, FEWEST = 0.1, 10  # the share of images, and how many at least, with so small a p
LINKED = 0.3
QUERIES = 2000  # images of a split whose neighbours are looked for, if there are more
MOST_GROUPED = 20_000  # images that are put into groups
CHUNK = 2**23  # distances at a time
ROUNDING = 1e-12  # of a squared length: smaller squared distances are zero


@dataclass(frozen=True)
class NearCopies:
    """`share`: of the training images at least so many have near copies among these, `test_share`: of
    the test images (None: there were none to look at). `size`: of the group of a training image that has
    near copies, the median. `groups` (n,): of each training image; None for very many.
    """

    share: float
    test_share: float | None
    size: int | None
    groups: Tensor | None = field(repr=False)


def near_copies(train: Features, test: Features | None = None) -> NearCopies | None:
    """Tell whether images have near copies among the training images of their class.

    Args:
        train: standardised x (n, d) with labels. Those of one of its `groups`, if there are any, are no
            near copies of each other.
        test: images of the same task, scaled the same.

    Returns:
        Of how many images, and which training images belong together; None where none are found.

    Raises:
        ValueError: the splits have unequal numbers of features.

    Source: arXiv:1803.06992; docs/method.md, "Near copies".

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> scenes, y = torch.randn(60, 8, generator=generator), torch.arange(60) % 2
        >>> near_copies(Features(scenes, y)) is None
        True
        >>> pictures = scenes.repeat(5, 1) + 0.01 * torch.randn(300, 8, generator=generator)
        >>> found = near_copies(Features(pictures, y.repeat(5)))
        >>> found.share, found.size
        (1.0, 5)
    """
    if test is not None and test.x.shape[1] != train.x.shape[1]:
        raise ValueError(f"{train.x.shape[1]} features of training and {test.x.shape[1]} of test images")
    rare = _rare(train, test)
    found = max(_alarm(of_train) for of_train, _ in rare.values())
    of_test = None if test is None else max(_alarm(of_test) for _, of_test in rare.values())
    if not found and not of_test:
        return None
    K = max(SCALES, key=lambda K: _share(rare[K][0]))
    groups = _linked(train, K) if found and len(train) <= MOST_GROUPED else None
    return NearCopies(found, of_test, _usual_size(groups), groups)


def largest_share(train: Features) -> float:
    """Return the largest share, over all K, of training images with so small a p: ALARM is for it."""
    return max(_share(of_train) for of_train, _ in _rare(train, None).values())


def _rare(train: Features, test: Features | None) -> dict[int, tuple[Tensor, Tensor]]:
    """Tell for each K of SCALES of which (training, test) images that were looked at p is small."""
    rare: dict[int, tuple[list[Tensor], list[Tensor]]] = {K: ([], []) for K in SCALES}
    for label in train.y.unique():
        of_class = train.select(train.y == label)
        some = torch.arange(0, len(of_class), max(1, -(-len(train) // QUERIES)), device=label.device)
        own = _log_distances(of_class.select(some), of_class, some)
        new = None if test is None else _some_of(test, label)
        distances = [own] if new is None or not len(new) else [own, _log_distances(new, of_class)]
        for K in SCALES:
            if dimension := _dimension(own, K):
                for kept, log_distances in zip(rare[K], distances, strict=False):
                    kept.append(_rarity(log_distances, K, dimension) < RARE)
    none = torch.zeros(0, dtype=torch.bool, device=train.y.device)
    return {K: tuple(torch.cat([none, *part]) for part in parts) for K, parts in rare.items()}


def _some_of(split: Features, label: Tensor) -> Features:
    return split.select((split.y == label).nonzero().flatten()[:: max(1, -(-len(split) // QUERIES))])


def _share(rare: Tensor) -> float:
    return rare.double().mean().item() if len(rare) else 0.0


def _alarm(rare: Tensor) -> float:
    """Return the share, or 0 where it is no more than what chance and ordinary data have."""
    return _share(rare) if _share(rare) >= ALARM and int(rare.sum()) >= FEWEST else 0.0


def _dimension(log_distances: Tensor, K: int) -> float | None:
    """Estimate the D of (1) of one class; None where there are too few images, or all are equal."""
    if log_distances.shape[1] < 2 * K:
        return None
    # In D dimensions log d_2K − log d_K is 1/D times a sum of 1/j in the mean: D by its median.
    rise = log_distances[:, 2 * K - 1] - log_distances[:, K - 1]
    rise = rise[rise.isfinite()]
    if not len(rise) or rise.median() <= 0:
        return None
    return sum(1 / j for j in range(K, 2 * K)) / rise.median().item()


def _rarity(log_distances: Tensor, K: int, dimension: float) -> Tensor:
    """Compute the p of (1) from log d_1, log d_2, … (m, …): (m,)."""
    ratio = log_distances[:, 0] - log_distances[:, K - 1]
    ratio[log_distances[:, 0] == -torch.inf] = -torch.inf  # also where all K are equal
    ratio[log_distances[:, 2 * K - 1] == torch.inf] = 0.0  # too few that are of other groups
    # (d_1/d_K)^D is the least of K − 1 uniform numbers: P(less) = 1 − (1 − it)^(K−1).
    nearest = torch.exp(dimension * ratio).clamp_max(1)
    return -torch.expm1((K - 1) * torch.log1p(-nearest))


def _log_distances(images: Features, among: Features, places: Tensor | None = None) -> Tensor:
    """Return log distances to their nearest neighbours among others, nearest first: 2 SCALES[-1], if
    there are as many. `places`: where the images themselves stand among these.
    """
    count = min(2 * SCALES[-1], len(among) - (places is not None))
    found = []
    for rows in torch.arange(len(images), device=images.y.device).split(max(1, CHUNK // len(among))):
        own = None if places is None else places[rows]
        found.append(_squares(images.select(rows), among, own).topk(count, largest=False).values)
    return torch.cat(found).log() / 2


def _squares(images: Features, among: Features, places: Tensor | None) -> Tensor:
    """Return squared distances; infinite to itself and inside a group, zero where rounding decides."""
    x, others = images.x.double(), among.x.double()
    own = x.square().sum(1)[:, None]
    squares = own + others.square().sum(1) - 2 * x @ others.T
    squares[squares < ROUNDING * own] = 0.0
    if images.groups is not None and among.groups is not None:
        squares[images.groups[:, None] == among.groups] = torch.inf
    if places is not None:
        squares[torch.arange(len(places), device=places.device), places] = torch.inf
    return squares


# --------------------------------------------------------------------------------- which belong together
def _linked(train: Features, K: int) -> Tensor:
    """Return the group of each image: what links by (2), from both sides, and groups that are known hold
    together.
    """
    pairs = [torch.empty(2, 0, dtype=torch.int64)]
    if train.groups is not None:
        order = train.groups.argsort(stable=True).cpu()
        pairs.append(torch.stack([order[:-1], order[1:]])[:, (train.groups[order].diff() == 0).cpu()])
    for label in train.y.unique():
        members = (train.y == label).nonzero().flatten()
        of_class, places = train.select(members), torch.arange(len(members), device=members.device)
        log_distances = _log_distances(of_class, of_class, places)
        if not (dimension := _dimension(log_distances, K)):
            continue
        log_radius = log_distances[:, K - 1] + math.log(LINKED / (K - 1)) / dimension  # of (2)
        reach = (2 * log_radius).exp()
        for rows in places.split(max(1, CHUNK // len(members))):
            squares = _squares(of_class.select(rows), of_class, rows)
            first, second = (squares <= torch.minimum(reach[rows, None], reach)).nonzero().T
            pairs.append(torch.stack([members[rows[first]], members[second]]).cpu())
    first, second = torch.cat(pairs, 1).numpy()
    size = (len(train), len(train))
    graph = coo_matrix(([True] * len(first), (first, second)), shape=size)
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long().to(train.y.device)


def _usual_size(groups: Tensor | None) -> int | None:
    """Return the median over the images that are in a group with others."""
    if groups is None:
        return None
    sizes = torch.bincount(groups)[groups]
    return int(sizes[sizes > 1].median()) if (sizes > 1).any() else None


# ---------------------------------------------------------------------------------------- what it means
def report_near_copies(train: Features, num_classes: int, test: Features | None = None) -> dict | None:
    """Return what a result holds of near copies, None where none are found: of how many images, the size
    of their groups, and what a probe is predicted to reach where these are held out whole: too much,
    where not all copies were found.
    """
    found = near_copies(train, test)
    if found is None:
        return None
    record = {**asdict(replace(found, groups=None)), "new_scenes": None}
    del record["groups"]
    if found.groups is not None:
        record["new_scenes"] = _predicted(replace(train, groups=found.groups), num_classes)
    return record


def _predicted(train: Features, num_classes: int) -> dict | None:
    """Predict accuracy and interval of a probe on other groups; None where no class has two."""
    head = fit_linear_head(train, num_classes, None, "ridge", progress="near copies held out")
    right, judged = judge_held_out(head, train.y, train.groups)
    if not len(right):
        return None
    share, count = float(right.mean()), len(right) / judged.design_effect(right)
    interval = held_out_interval(share * count, count, FOLDS)
    return {"accuracy": share, "interval": interval}


def warn_of_near_copies(found: Mapping | None) -> None:
    """Say what `report_near_copies` found, in one line beside the accuracy that it bears on."""
    if not found:
        return
    parts = []
    if found["share"]:
        size = f" (groups of about {found['size']})" if found["size"] else ""
        parts.append(f"{found['share']:.0%} of the training images{size}")
    if found["test_share"]:
        parts.append(f"{found['test_share']:.0%} of the test images")
    text = (
        f"near copies: at least {' and '.join(parts)} have some among the training images; the accuracy "
        "holds for more pictures of the same scenes, not for new scenes"
    )
    if found["test_share"] == 0.0:
        text = (
            f"near copies: at least {parts[0]} have some among each other, none of the test images was "
            "found to: what the training images predict holds for the same scenes, not for new scenes"
        )
    if new := found["new_scenes"]:
        low, high = new["interval"]
        text += f", on which it is about {new['accuracy']:.3f} [{low:.3f}, {high:.3f}] (less, "
        text += "if not all copies were found)"
    warnings.warn(f"{text}: say by --GROUPS which images belong together", stacklevel=2)
