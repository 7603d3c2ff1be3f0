"""Scores that estimate, without fine-tuning, how well features suit a labelled target task.

Each takes the target's features x (n, d) or the source head's probabilities p (n, K_S), float64, and its
labels y (n,) in 0..K−1, and returns a number that is larger for the better model.
"""

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 5
GBC_DIMENSIONS = 64  # of the principal components that the class Gaussians are fitted in
CODING_ERROR = 1e-4  # ε of the coding rate


def logme(x: np.ndarray, y: np.ndarray) -> float:
    """LogME (You et al. 2021): the evidence of a Bayesian linear regression on each class's indicator,
        log p(t | x) = n/2 log β + d/2 log α − n/2 log 2π − β/2 ‖xm − t‖² − α/2 ‖m‖² − 1/2 log|A|,
    A = αI + βxᵀx, m = βA⁻¹xᵀt, maximised over α and β by MacKay's fixed point; the mean over classes
    and samples. All d eigenvalues of A count, also the d − n that are α when n < d.
    """
    n, d = x.shape
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    eigenvalues = s**2
    evidences = []
    for k in range(y.max() + 1):
        t = (y == k).astype(float)
        z = u.T @ t
        outside = t @ t - z @ z  # what no linear function of x explains
        alpha = beta = 1.0
        for _ in range(200):
            shrunk = alpha + beta * eigenvalues
            m_squared = ((beta * s * z / shrunk) ** 2).sum()
            residual = ((alpha * z / shrunk) ** 2).sum() + max(outside, 0.0)
            effective = (beta * eigenvalues / shrunk).sum()
            old, alpha = alpha / beta, effective / max(m_squared, 1e-300)
            beta = (n - effective) / max(residual, 1e-300)
            if abs(alpha / beta - old) <= 1e-8 * old:
                break
        shrunk = alpha + beta * eigenvalues
        m_squared = ((beta * s * z / shrunk) ** 2).sum()
        residual = ((alpha * z / shrunk) ** 2).sum() + max(outside, 0.0)
        log_determinant = np.log(shrunk).sum() + (d - len(s)) * np.log(alpha)
        evidence = n * np.log(beta / (2 * np.pi)) + d * np.log(alpha) - log_determinant
        evidences.append((evidence - beta * residual - alpha * m_squared) / 2)
    return float(np.mean(evidences) / n)


def leep(p: np.ndarray, y: np.ndarray) -> float:
    """LEEP (Nguyen et al. 2020): mean log Σ_z P(y_i | z) p_iz, with the empirical P(y | z) of labels
    and source classes, P(y, z) = mean over i of [y_i = y] p_iz.
    """
    joint = np.stack([p[y == k].sum(0) for k in range(y.max() + 1)]) / len(y)
    conditional = joint / joint.sum(0).clip(1e-300)
    return float(np.log((conditional[y] * p).sum(1).clip(1e-300)).mean())


def nce(p: np.ndarray, y: np.ndarray) -> float:
    """NCE (Tran et al. 2019): −H(Y | Z), Z the source class that the source head predicts."""
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
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    x = x @ axes[:GBC_DIMENSIONS].T
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
    """Accuracy on every fifth point of a logistic regression fitted to the others."""
    held_out = np.arange(len(y)) % 5 == 0
    probe = LogisticRegression(C=0.1, tol=1e-3, max_iter=2000).fit(x[~held_out], y[~held_out])
    return float(probe.score(x[held_out], y[held_out]))


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
