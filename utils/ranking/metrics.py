"""Scores that estimate, without fine-tuning, how well features suit a labelled target task.

Each takes a `Sample` of the target, the network's own features with their labels, or a source
classifier's probabilities p (n, K_S) and labels y (n,), float64, and returns a number that is larger
for the better model. The scores of features change when a coordinate is rescaled: their authors use
features as the network gives them, and so does a ranking.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import linalg
from scipy.optimize import minimize_scalar
from torch import Tensor

NEIGHBOURS = 5
GBC_DIMENSIONS = 64  # of the principal components that the class Gaussians are fitted in
RANK_TOLERANCE = 1e-13  # of eigenvalues, in the place of the largest, that are no more than rounding
CODING_ERROR = 1e-4  # ε of the coding rate
GRID = 100  # points from which the evidence is climbed
CHUNK = 2**24  # distances held at a time


@dataclass(frozen=True)
class Sample:
    """Features x (n, d) float64 and labels y (n,) in 0..K−1. What several scores need is computed once;
    `parts` share it with the whole.
    """

    x: np.ndarray
    y: np.ndarray

    @cached_property
    def gram(self) -> np.ndarray:
        """Return xᵀx, (d, d)."""
        return self.x.T @ self.x

    @cached_property
    def mean(self) -> np.ndarray:
        return self.x.mean(0)

    @cached_property
    def scatter(self) -> np.ndarray:
        """Return the scatter of the centred features."""
        return self.gram - len(self.x) * np.outer(self.mean, self.mean)

    @cached_property
    def classes(self) -> list[np.ndarray]:
        """Return indices of each class's points."""
        return [np.flatnonzero(self.y == k) for k in range(self.y.max() + 1)]

    @property
    def indicators(self) -> np.ndarray:
        return np.stack([(self.y == k).astype(float) for k in range(len(self.classes))], axis=1)

    def class_means(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the means of the centred features (K, d), and the classes' shares (K,)."""
        means = np.stack([self.x[members].mean(0) for members in self.classes]) - self.mean
        return means, np.array([len(members) for members in self.classes]) / len(self.x)

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Return eigenvalues and vectors of xᵀx, or of xxᵀ where that is smaller, in rising order."""
        return linalg.eigh(self.gram if len(self.x) > self.x.shape[1] else self.x @ self.x.T)

    @cached_property
    def class_kernels(self) -> list[np.ndarray]:
        """Return xxᵀ of each class's points."""
        return [self.x[members] @ self.x[members].T for members in self.classes]

    def without(self, left_out: np.ndarray) -> "Sample":
        """Return the other points; `left_out` (n,) bool, fewer than half of them."""
        part = Sample(self.x[~left_out], self.y[~left_out])
        known = self.__dict__
        if "gram" in known:
            out = self.x[left_out]
            part.__dict__["gram"] = self.gram - out.T @ out
        if "class_kernels" in known:
            kept = [~left_out[members] for members in self.classes]
            part.__dict__["class_kernels"] = [
                kernel[np.ix_(rows, rows)] for kernel, rows in zip(self.class_kernels, kept, strict=True)
            ]
        return part

    def leading(self, count: int) -> "Sample":
        """Return the points in the `count` axes of the largest xᵀx, or all axes if there are fewer."""
        n, d = self.x.shape
        if min(n, d) <= count:
            return self
        values, vectors = (part[..., -count:] for part in self.spectrum)
        x = self.x @ vectors if n > d else vectors * np.sqrt(values.clip(0))
        return Sample(x, self.y)


def logme(sample: Sample) -> float:
    """Return LogME (You et al. 2021): the evidence of a Bayesian linear regression on each class's
    indicator,
        log p(t | x) = max over α, β of log N(t; 0, I/β + xxᵀ/α),
    the mean over classes and samples. At ρ = α/β the best β is n/Q, and with the eigenvalues e of xᵀx
    and z the coordinates of t in the left singular vectors
        −n/2 log(2πQ/n) − n/2 − 1/2 Σ log(1 + e/ρ),  Q(ρ) = ‖t‖² − ‖z‖² + Σ z²/(1 + e/ρ).
    Eigenvalues that are zero add nothing. The original's fixed point in α and β cancels to NaN where
    labels are a linear function of x.
    """
    n, indicators = len(sample.x), sample.indicators
    tall = n > sample.x.shape[1]
    # z of the docstring: with xᵀx = V e Vᵀ the left singular vectors are x V / √e.
    eigenvalues, vectors = sample.spectrum
    kept = eigenvalues > RANK_TOLERANCE * eigenvalues.max()
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    if not kept.any():  # features without any information
        eigenvalues, z = np.ones(1), np.zeros((1, indicators.shape[1]))
    elif tall:
        z = vectors.T @ (sample.x.T @ indicators) / np.sqrt(eigenvalues)[:, None]
    else:
        z = vectors.T @ indicators
    evidences = [_evidence(eigenvalues, z[:, k], t.sum(), n) for k, t in enumerate(indicators.T)]
    return float(np.mean(evidences) / n)


def _evidence(eigenvalues: np.ndarray, z: np.ndarray, squares: float, n: int) -> float:
    """Find the largest over ρ: the best of a grid, and between its neighbours a search."""
    outside = max(squares - z @ z, 1e-12 * squares)  # what no linear function of x explains

    def negative(log_rho: float) -> float:
        ratios = eigenvalues / np.exp(log_rho)
        q = outside + (z**2 / (1 + ratios)).sum()
        return (n * np.log(2 * np.pi * q / n) + n + np.log1p(ratios).sum()) / 2

    grid = np.linspace(np.log(eigenvalues.min()) - 20, np.log(eigenvalues.max()) + 20, GRID)
    best = int(np.argmin([negative(point) for point in grid]))
    limits = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(negative, bounds=limits, method="bounded", options={"xatol": 1e-8})
    return -min(found.fun, negative(grid[best]))


def h_score(sample: Sample) -> float:
    """Return H-score with shrinkage (Ibrahim et al. 2022): (1 − s) tr(Σ_s⁻¹ Σ_between), Σ_s the
    covariance that Ledoit and Wolf shrink by s, Σ_between that of the class means.
    """
    covariance, shrinkage = _shrunk_covariance(sample)
    means, shares = sample.class_means()
    solved = linalg.solve(covariance, means.T, assume_a="pos").T
    return float((1 - shrinkage) * (shares[:, None] * means * solved).sum())


def _shrunk_covariance(sample: Sample) -> tuple[np.ndarray, float]:
    """Return (Σ_s (d, d), s), as sklearn.covariance.ledoit_wolf: Σ_s = (1 − s) Σ + s μ I, μ = tr Σ / d,
    with
        s = min(1, (mean of ‖x‖⁴ − ‖Σ‖²) / (n ‖Σ − μ I‖²)),  x centred.
    The fourth powers come from the norms of the rows, which takes no second (d, d) product.
    """
    n, d = sample.x.shape
    covariance = sample.scatter / n
    mu = np.trace(covariance) / d
    squares = (covariance**2).sum()
    mean = sample.mean
    norms = np.einsum("ij,ij->i", sample.x, sample.x) - 2 * sample.x @ mean + mean @ mean
    fourth = (norms**2).mean()
    spread = squares - d * mu**2
    if not spread > 0:
        raise np.linalg.LinAlgError("all directions have the same variance, or none has any")
    shrinkage = min(1.0, (fourth - squares) / n / spread)
    covariance = (1 - shrinkage) * covariance
    covariance[np.diag_indices(d)] += shrinkage * mu
    return covariance, float(shrinkage)


def transrate(sample: Sample) -> float:
    """Return TransRate (Huang et al. 2022): R(x) − Σ_k n_k/n R(x of class k), x centred, with the coding
    rate R(x) = 1/2 log|I + xᵀx / (nε)|.
    """
    n, d = sample.x.shape
    mean = sample.mean
    share = np.array([len(members) for members in sample.classes]) / n
    if n > d:
        rate = _coding_rate(sample.scatter, n)
    else:
        rate = _coding_rate((sample.x - mean) @ (sample.x - mean).T, n)
    for k, members in enumerate(sample.classes):
        of_class = sample.x[members]
        if len(members) < d:
            along = of_class @ mean
            products = sample.class_kernels[k] - along[:, None] - along + mean @ mean
        else:
            products = (of_class - mean).T @ (of_class - mean)
        rate -= share[k] * _coding_rate(products, len(members))
    return float(rate)


def _coding_rate(products: np.ndarray, n: int) -> float:
    """Return the coding rate of xᵀx or xxᵀ, which have the same eigenvalues but for zeros."""
    # log|M| / 2 is the sum of the logarithms of the diagonal of M's Cholesky factor.
    root = linalg.cholesky(np.eye(len(products)) + products / (n * CODING_ERROR), check_finite=False)
    return float(np.log(np.diag(root)).sum())


def gbc(sample: Sample) -> float:
    """Return GBC (Pándy et al. 2022): −Σ_{i≠j} exp(−D_B(i, j)), the overlap of the classes as Gaussians
    with diagonal covariances on the first principal components, D_B the Bhattacharyya distance
        1/8 Σ (μ_i − μ_j)²/v + 1/2 Σ log(v / √(v_i v_j)), v = (v_i + v_j)/2.
    """
    x = _principal_components(sample, GBC_DIMENSIONS)
    means = np.stack([x[members].mean(0) for members in sample.classes])
    floor = 1e-9 * x.var(0).max()
    if not floor > 0:
        raise np.linalg.LinAlgError("no direction has any variance")
    variances = np.stack([x[members].var(0) for members in sample.classes]) + floor
    total = 0.0
    for i in range(len(means)):
        v = (variances + variances[i]) / 2
        distance = ((means - means[i]) ** 2 / v).sum(1) / 8
        distance += np.log(v / np.sqrt(variances * variances[i])).sum(1) / 2
        total += np.exp(-np.delete(distance, i)).sum()
    return float(-total)


def _principal_components(sample: Sample, count: int) -> np.ndarray:
    """Return the centred features in their first `count` principal axes: (n, count or fewer)."""
    n, d = sample.x.shape
    x = sample.x - sample.mean
    products = sample.scatter if n > d else x @ x.T
    last = len(products) - 1
    values, vectors = linalg.eigh(products, subset_by_index=(max(0, last + 1 - count), last))
    return x @ vectors if n > d else vectors * np.sqrt(values.clip(0))


# ----------------------------------------------------------------------- of a classifier's probabilities
def leep(p: np.ndarray, y: np.ndarray) -> float:
    """Return LEEP (Nguyen et al. 2020): mean log Σ_z P(y_i | z) p_iz, with the empirical P(y | z) of
    labels and source classes, P(y, z) = mean over i of [y_i = y] p_iz.
    """
    joint = np.stack([p[y == k].sum(0) for k in range(y.max() + 1)]) / len(y)
    conditional = joint / joint.sum(0).clip(1e-300)
    return float(np.log((conditional[y] * p).sum(1).clip(1e-300)).mean())


def nce(p: np.ndarray, y: np.ndarray) -> float:
    """Return NCE (Tran et al. 2019): −H(Y | Z), Z the source class that is the likeliest."""
    z = p.argmax(1)
    counts = np.zeros((y.max() + 1, p.shape[1]))
    np.add.at(counts, (y, z), 1)
    return float(np.log(counts[y, z] / counts.sum(0)[z]).mean())


# ------------------------------------------------------------------------------------------- neighbours
def k_nearest(x: Tensor, y: Tensor, groups: Tensor | None = None) -> Tensor:
    """Tell whether the vote of each point's nearest neighbours among the others (n, d) is its class
    (n,): (n,) bool. Ties go to the class of the nearest one. Points of its own of `groups` (n,) have no
    vote as long as there are others.
    """
    n, k = len(x), min(NEIGHBOURS, len(x) - 1)
    squares = x.square().sum(1)
    weights = 1 + 1e-3 * 2.0 ** -torch.arange(k, device=x.device)
    right = []
    for rows in torch.arange(n, device=x.device).split(max(1, CHUNK // n)):
        distances = squares - 2 * x[rows] @ x.T  # but for a constant of each row
        if groups is not None:
            distances[groups[rows][:, None] == groups] = OF_ONE_GROUP
        distances[torch.arange(len(rows), device=x.device), rows] = torch.inf
        nearest = distances.topk(k, largest=False).indices
        votes = torch.zeros(len(rows), int(y.max()) + 1, device=x.device)
        votes.scatter_add_(1, y[nearest], weights.expand(len(rows), -1).to(votes))
        right.append(votes.argmax(1) == y[rows])
    return torch.cat(right)


OF_ONE_GROUP = 1e30  # farther than any other point

OF_FEATURES = {"LogME": logme, "H-score": h_score, "TransRate": transrate, "GBC": gbc}
OF_PROBABILITIES = {"LEEP": leep, "NCE": nce}
