"""Labels for a target that has none: clusters of its features, re-estimated through the transform.

The bound and the target loss do not change when classes are renumbered, so clusters need no names. They
are k-means clusters of the directions of the first 2·K principal components; between two rounds of
learning the transformed classifier's predictions h(z) give the centres from which k-means starts anew.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from torch import Tensor

from utils.errors import InputError
from utils.extraction import Features
from utils.linear_head import LinearHead
from utils.task_transform import TaskTransform

GIVEN, PSEUDO = "given", "pseudo"
PSEUDO_VARIANT = "pseudo-labels"  # in the names of runs
STARTS = 10  # of k-means, of which the best is kept


@dataclass(frozen=True)
class Clusters:
    """K centres (K, m) among the directions of (x − mean) · axes, axes (d, m)."""

    mean: np.ndarray
    axes: np.ndarray
    centres: np.ndarray

    def labels(self, x: Tensor) -> Tensor:
        """The nearest centre of each row of x (n, d): (n,) int64 on its device."""
        distances = cdist(_directions(x, self.mean, self.axes), self.centres)
        return torch.from_numpy(distances.argmin(1)).to(x.device)

    def relabel(self, split: Features) -> Features:
        """The split with cluster numbers for labels. Raises InputError for an empty cluster."""
        labels = self.labels(split.x)
        empty = (torch.bincount(labels, minlength=len(self.centres)) == 0).nonzero().flatten().tolist()
        if empty:
            raise InputError(
                f"pseudo-labels: no sample of a split is in cluster {empty[0]}: it has too few samples "
                f"for {len(self.centres)} classes"
            )
        return Features(split.x, labels)


def cluster(x: Tensor, num_classes: int, seed: int) -> Clusters:
    """Clusters of standardised training features x (n, d)."""
    rows = x.double().cpu().numpy()
    mean = rows.mean(0)
    _, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean))
    axes = vectors[:, ::-1][:, : 2 * num_classes]
    fitted = KMeans(num_classes, n_init=STARTS, random_state=seed).fit(_directions(x, mean, axes))
    return Clusters(mean, axes, fitted.cluster_centers_)


def re_estimate(clusters: Clusters, x: Tensor, transform: TaskTransform, head: LinearHead) -> Clusters:
    """K-means that starts from the centres of the classes that the transformed h sees in x."""
    z = _directions(x, clusters.mean, clusters.axes)
    double = torch.float64
    h = transform.to(double).log_probabilities(head.to(double), x.double()).exp().cpu().numpy()
    centres = h.T @ z / h.sum(0)[:, None].clip(1e-12)
    fitted = KMeans(len(centres), init=centres, n_init=1).fit(z)
    return Clusters(clusters.mean, clusters.axes, fitted.cluster_centers_)


def label_agreement(labels: Tensor, truth: Tensor) -> float:
    """The share of samples on which they agree when clusters are named as well as can be."""
    size = int(max(labels.max(), truth.max())) + 1
    pairs = (labels * size + truth).cpu()
    counts = torch.bincount(pairs, minlength=size**2).reshape(size, size).numpy()
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))


def _directions(x: Tensor, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    z = (x.double().cpu().numpy() - mean) @ axes
    return z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
