"""Labels for a target that has none: clusters of its features.

The bound and the target loss do not change when classes are renumbered, so clusters need no names. They
are k-means clusters of the directions of the first 2·K principal components, made equally large (as most
data sets' classes are) by optimal transport between points and centres.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from utils.errors import InputError
from utils.features.types import Features
from utils.transport import shortest_distances, solve_transport

PSEUDO_VARIANT = "pseudo-labels"  # in the names of runs
STARTS = 10  # of k-means, of which the best is kept
MOST_COSTS = 500_000  # points · centres between which the mass is balanced
MOST_STEPS = 30  # of balancing


@dataclass(frozen=True)
class Clusters:
    """K centres (K, m) among the directions of (x − mean) · axes, axes (d, m). A point belongs to the
    centre with the least squared distance less its offset (K,).
    """

    mean: np.ndarray
    axes: np.ndarray
    centres: np.ndarray
    offsets: np.ndarray

    def labels(self, x: Tensor) -> Tensor:
        """Return the cluster of each row of x (n, d): (n,) int64 on its device."""
        squared = cdist(_directions(x, self.mean, self.axes), self.centres, "sqeuclidean")
        return torch.from_numpy((squared - self.offsets).argmin(1)).to(x.device)

    def relabel(self, split: Features) -> Features:
        """Return the split with cluster numbers for labels. Raises InputError for an empty cluster."""
        labels = self.labels(split.x)
        empty = (torch.bincount(labels, minlength=len(self.centres)) == 0).nonzero().flatten().tolist()
        if empty:
            raise InputError(
                f"pseudo-labels: no sample of a split is in cluster {empty[0]}: it has too few samples "
                f"for {len(self.centres)} classes"
            )
        return replace(split, y=labels)


def cluster(x: Tensor, num_classes: int, seed: int) -> Clusters:
    """Cluster standardised training features x (n, d), in clusters of equal size."""
    rows = x.double().cpu().numpy()
    mean = rows.mean(0)
    _, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean))
    axes = vectors[:, ::-1][:, : 2 * num_classes]
    z = _directions(x, mean, axes)
    different = len(np.unique(z.round(6), axis=0))
    if different < num_classes:
        raise InputError(
            f"pseudo-labels: the training features point in {different} different directions from their "
            f"mean: they hold no {num_classes} clusters"
        )
    from sklearn.cluster import KMeans  # a second, spared to runs that cluster nothing

    fitted = KMeans(num_classes, n_init=STARTS, random_state=seed).fit(z)
    return Clusters(mean, axes, *_equally_large(z, fitted.cluster_centers_))


def _equally_large(z: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (centres, offsets). Points are transported to the centres, which take 1/K of the mass each,
    and centres move to the means of what they got, until neither changes: a local minimum of k-means
    under that constraint.
    """
    count = len(centres)
    z = z[:: -(-len(z) * count // MOST_COSTS)]
    for step in range(1, MOST_STEPS + 1):
        squared = cdist(z, centres, "sqeuclidean")
        found = solve_transport(torch.from_numpy(squared))
        plan = np.zeros_like(squared)
        plan[found.rows, found.columns] = found.mass
        moved = plan.T @ z * count
        if step == MOST_STEPS or np.allclose(moved, centres, atol=1e-9):
            break
        centres = moved
    return centres, _offsets(squared, plan.argmax(1))


def _offsets(squared: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return offsets (K,) under which each point belongs to its cluster: v_k − v_l ≥ max over the points
    of k of ‖z − c_k‖² − ‖z − c_l‖². Shortest paths between clusters solve these inequalities on their
    edge; the mean of all of them lies inside, where no point belongs to two.
    """
    count = squared.shape[1]
    least = np.zeros((count, count))
    for k in np.unique(labels):
        own = squared[labels == k]
        least[k] = (own[:, [k]] - own).max(0)
    return shortest_distances(-least).mean(0)


def clustering_accuracy(labels: Tensor, truth: Tensor) -> float:
    """Return the share of samples on which they agree when clusters are named as well as can be."""
    size = int(max(labels.max(), truth.max())) + 1
    pairs = (labels * size + truth).cpu()
    counts = torch.bincount(pairs, minlength=size**2).reshape(size, size).numpy()
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))


def _directions(x: Tensor, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    z = (x.double().cpu().numpy() - mean) @ axes
    return z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
