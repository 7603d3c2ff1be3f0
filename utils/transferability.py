"""Scores that estimate, without fine-tuning, how well features suit a labelled target task.

Each takes the target's features x (n, d) or a source classifier's probabilities p (n, K_S), float64,
and its labels y (n,) in 0..K−1, and returns a number that is larger for the better model.
"""

import numpy as np
from scipy import linalg
from scipy.optimize import minimize_scalar
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 5
GBC_DIMENSIONS = 64  # of the principal components that the class Gaussians are fitted in
RANK_TOLERANCE = 1e-13  # of eigenvalues, in the place of the largest, that are no more than rounding
CODING_ERROR = 1e-4  # ε of the coding rate
GRID = 100  # points from which the evidence is climbed
PROBE_STRENGTH = 0.1  # C of the logistic regressions


def logme(x: np.ndarray, y: np.ndarray) -> float:
    """LogME (You et al. 2021): the evidence of a Bayesian linear regression on each class's indicator,
        log p(t | x) = max over α, β of log N(t; 0, I/β + xxᵀ/α),
    the mean over classes and samples. At ρ = α/β the best β is n/Q, and with the eigenvalues e of xᵀx
    and z the coordinates of t in the left singular vectors
        −n/2 log(2πQ/n) − n/2 − 1/2 Σ log(1 + e/ρ),  Q(ρ) = ‖t‖² − ‖z‖² + Σ z²/(1 + e/ρ).
    Eigenvalues that are zero add nothing. The original's fixed point in α and β cancels to NaN where
    labels are a linear function of x.
    """
    n = len(x)
    indicators = np.stack([(y == k).astype(float) for k in range(y.max() + 1)], axis=1)
    tall = n > x.shape[1]
    eigenvalues, vectors = linalg.eigh(x.T @ x if tall else x @ x.T)
    kept = eigenvalues > RANK_TOLERANCE * eigenvalues.max()
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    if not kept.any():  # features without any information
        eigenvalues, z = np.ones(1), np.zeros((1, indicators.shape[1]))
    elif tall:
        z = vectors.T @ (x.T @ indicators) / np.sqrt(eigenvalues)[:, None]
    else:
        z = vectors.T @ indicators
    evidences = [_evidence(eigenvalues, z[:, k], t.sum(), n) for k, t in enumerate(indicators.T)]
    return float(np.mean(evidences) / n)


def _evidence(eigenvalues: np.ndarray, z: np.ndarray, squares: float, n: int) -> float:
    """The largest over ρ: the best of a grid, and between its neighbours a search."""
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


def leep(p: np.ndarray, y: np.ndarray) -> float:
    """LEEP (Nguyen et al. 2020): mean log Σ_z P(y_i | z) p_iz, with the empirical P(y | z) of labels
    and source classes, P(y, z) = mean over i of [y_i = y] p_iz.
    """
    joint = np.stack([p[y == k].sum(0) for k in range(y.max() + 1)]) / len(y)
    conditional = joint / joint.sum(0).clip(1e-300)
    return float(np.log((conditional[y] * p).sum(1).clip(1e-300)).mean())


def nce(p: np.ndarray, y: np.ndarray) -> float:
    """NCE (Tran et al. 2019): −H(Y | Z), Z the source class that is the likeliest."""
    z = p.argmax(1)
    counts = np.zeros((y.max() + 1, p.shape[1]))
    np.add.at(counts, (y, z), 1)
    return float(np.log(counts[y, z] / counts.sum(0)[z]).mean())


def h_score(x: np.ndarray, y: np.ndarray) -> float:
    """H-score with shrinkage (Ibrahim et al. 2022): (1 − s) tr(Σ_s⁻¹ Σ_between), Σ_s the covariance that
    Ledoit and Wolf shrink by s, Σ_between that of the class means.
    """
    x = x - x.mean(0)
    covariance, shrinkage = ledoit_wolf(x, assume_centered=True)
    means, shares = _class_means(x, y)
    return float(
        (1 - shrinkage) * (shares[:, None] * means * np.linalg.solve(covariance, means.T).T).sum()
    )


def transrate(x: np.ndarray, y: np.ndarray) -> float:
    """TransRate (Huang et al. 2022): R(x) − Σ_k n_k/n R(x of class k), x centred, with the coding rate
    R(x) = 1/2 log|I + xᵀx / (nε)|.
    """
    x = x - x.mean(0)
    within = sum((y == k).mean() * _coding_rate(x[y == k]) for k in range(y.max() + 1))
    return float(_coding_rate(x) - within)


def _coding_rate(x: np.ndarray) -> float:
    small = x @ x.T if len(x) < x.shape[1] else x.T @ x  # the same non-zero eigenvalues
    return 0.5 * np.linalg.slogdet(np.eye(len(small)) + small / (len(x) * CODING_ERROR))[1]


def gbc(x: np.ndarray, y: np.ndarray) -> float:
    """GBC (Pándy et al. 2022): −Σ_{i≠j} exp(−D_B(i, j)), the overlap of the classes as Gaussians with
    diagonal covariances on the first principal components, D_B the Bhattacharyya distance
        1/8 Σ (μ_i − μ_j)²/v + 1/2 Σ log(v / √(v_i v_j)), v = (v_i + v_j)/2.
    """
    x = x - x.mean(0)
    d = x.shape[1]
    _, axes = linalg.eigh(x.T @ x, subset_by_index=(max(0, d - GBC_DIMENSIONS), d - 1))
    x = x @ axes
    means, _ = _class_means(x, y)
    floor = 1e-9 * x.var(0).max()
    variances = np.stack([x[y == k].var(0) for k in range(len(means))]) + floor
    total = 0.0
    for i in range(len(means)):
        v = (variances + variances[i]) / 2
        distance = ((means - means[i]) ** 2 / v).sum(1) / 8
        distance += np.log(v / np.sqrt(variances * variances[i])).sum(1) / 2
        total += np.exp(-np.delete(distance, i)).sum()
    return float(-total)


def k_nearest(x: np.ndarray, y: np.ndarray) -> float:
    """Accuracy of the vote of each point's nearest neighbours among the others; ties go to the class of
    the nearest one.
    """
    finder = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(x) - 1)).fit(x)
    votes = y[finder.kneighbors(return_distance=False)]  # each point without itself
    counts = np.stack([(votes == k).sum(1) for k in range(y.max() + 1)], axis=1).astype(float)
    rows = np.arange(len(y))
    for rank in range(votes.shape[1]):
        counts[rows, votes[:, rank]] += 1e-3 * 2.0**-rank
    return float((counts.argmax(1) == y).mean())


def linear_probe(x: np.ndarray, y: np.ndarray) -> float:
    """Accuracy on a fifth of each class of a logistic regression fitted to the others."""
    held_out = np.zeros(len(y), dtype=bool)
    for k in range(y.max() + 1):
        held_out[np.flatnonzero(y == k)[4::5]] = True
    held_out[::5] |= not held_out.any()  # no class has five points
    return float(source_classifier(x[~held_out], y[~held_out]).score(x[held_out], y[held_out]))


def source_classifier(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    """The multinomial logistic regression whose predictions LEEP and NCE compare with the labels."""
    return LogisticRegression(C=PROBE_STRENGTH, tol=1e-3, max_iter=2000).fit(x, y)


def _class_means(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, d) and the classes' shares (K,)."""
    classes = range(y.max() + 1)
    return np.stack([x[y == k].mean(0) for k in classes]), np.array([(y == k).mean() for k in classes])


OF_FEATURES = {
    "LogME": logme,
    "H-score": h_score,
    "TransRate": transrate,
    "GBC": gbc,
    "k-NN": k_nearest,
    "linear probe": linear_probe,
}
OF_PROBABILITIES = {"LEEP": leep, "NCE": nce}
