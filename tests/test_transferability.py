"""Each metric against a closed form or an implementation that shares no code with it."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import mutual_info_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from utils.ranking import (
    OF_FEATURES,
    Sample,
    gbc,
    h_score,
    k_nearest,
    leep,
    logme,
    metrics,
    nce,
    transrate,
)


def gaussians(n: int, d: int, classes: int = 3, distance: float = 3.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, d)) + distance * np.eye(classes, d)[y]
    return x, y


# No priors on α and β, and iterated to the end.
EXACT = {
    "alpha_1": 0,
    "alpha_2": 0,
    "lambda_1": 0,
    "lambda_2": 0,
    "max_iter": 20_000,
    "tol": 1e-12,
    "compute_score": True,
    "fit_intercept": False,
}


@pytest.mark.parametrize("n, d", [(200, 10), (60, 60), (50, 128)])
def test_logme_is_the_evidence_that_bayesian_ridge_maximises(n, d):
    """N < D included, where the usual fast routine leaves out the d − n eigenvalues that are zero."""
    x, y = gaussians(n, d)
    fits = [BayesianRidge(**EXACT).fit(x, (y == k).astype(float)) for k in range(3)]
    assert logme(Sample(x, y)) == pytest.approx(np.mean([fit.scores_[-1] for fit in fits]) / n, rel=1e-6)


def test_logme_is_the_largest_density_of_the_labels():
    """For each class max over α, β of N(t; 0, I/β + xxᵀ/α): no point of a grid is better, the best
    nearly as good.
    """
    x, y = gaussians(30, 50)
    grid = np.exp(np.linspace(-4, 10, 57))
    eigenvalues, basis = np.linalg.eigh(x @ x.T)
    best = []
    for k in range(3):
        squared = (basis.T @ (y == k).astype(float)) ** 2
        variances = 1 / grid[:, None, None] + eigenvalues / grid[None, :, None]
        log_density = -0.5 * (squared / variances + np.log(2 * np.pi * variances)).sum(2)
        best.append(log_density.max())
    evidence = 30 * logme(Sample(x, y))
    assert np.mean(best) <= evidence <= np.mean(best) + 0.05


def test_nce_is_minus_the_conditional_entropy():
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(4), 300), np.arange(300) % 3
    z = p.argmax(1)
    entropy = -sum((y == k).mean() * math.log((y == k).mean()) for k in range(3))
    assert nce(p, y) == pytest.approx(mutual_info_score(z, y) - entropy)


def test_leep_by_its_definition_and_at_its_ends():
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(4), 90), np.arange(90) % 3
    total = 0.0
    for i in range(90):
        inner = 0.0
        for z in range(4):
            joint = sum(p[j, z] for j in range(90) if y[j] == y[i]) / 90
            inner += joint / (p[:, z].sum() / 90) * p[i, z]
        total += math.log(inner)
    assert leep(p, y) == pytest.approx(total / 90)
    certain = np.eye(4)[y]
    assert leep(certain, y) == pytest.approx(0.0) == nce(certain, y)
    assert leep(np.full((90, 4), 0.25), y) == pytest.approx(-math.log(3))


@pytest.mark.parametrize("n, d", [(200, 10), (40, 80)])
def test_h_score_by_its_definition(n, d):
    x, y = gaussians(n, d)
    fitted = LedoitWolf().fit(x)
    centred = x - x.mean(0)
    replaced = np.stack([centred[y == k].mean(0) for k in y])  # each point by its class's mean
    between = replaced.T @ replaced / n
    expected = (1 - fitted.shrinkage_) * np.trace(fitted.get_precision() @ between)
    assert h_score(Sample(x, y)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n, d", [(90, 6), (30, 40)])
def test_transrate_by_singular_values(n, d):
    x, y = gaussians(n, d)
    x = x - x.mean(0)

    def rate(part):
        s = np.linalg.svd(part, compute_uv=False)
        return 0.5 * np.log1p(s**2 / (len(part) * metrics.CODING_ERROR)).sum()

    expected = rate(x) - sum(len(x[y == k]) / n * rate(x[y == k]) for k in range(3))
    assert transrate(Sample(x, y)) == pytest.approx(expected, rel=1e-9)


def test_gbc_is_the_overlap_of_two_gaussians():
    """Σ_{i≠j} of ∫ √(p q): numerically, in one dimension, counted twice."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (500, 1)), rng.normal(2, 2, (500, 1))])
    y = np.repeat([0, 1], 500)
    grid = np.linspace(-20, 25, 200_001)
    densities = [multivariate_normal.pdf(grid, x[y == k].mean(), x[y == k].var()) for k in range(2)]
    overlap = np.trapezoid(np.sqrt(densities[0] * densities[1]), grid)
    assert gbc(Sample(x, y)) == pytest.approx(-2 * overlap, rel=1e-5)


def share_of_votes(x, y) -> float:
    return k_nearest(torch.as_tensor(x), torch.as_tensor(y)).double().mean().item()


def test_k_nearest_is_leave_one_out(monkeypatch):
    x, y = gaussians(150, 4, distance=1.5)
    monkeypatch.setattr(metrics, "NEIGHBOURS", 1)
    monkeypatch.setattr(metrics, "CHUNK", 1000)  # several chunks
    expected = (cross_val_predict(KNeighborsClassifier(1), x, y, cv=LeaveOneOut()) == y).mean()
    assert share_of_votes(x, y) == pytest.approx(expected)


def test_votes_of_neighbours_and_their_ties():
    x, y = np.array([0.0, 1, 2, 3, 10, 11, 12, 13])[:, None], np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert share_of_votes(x, y) == 1.0  # three of five votes
    x, y = np.array([0.0, 1, 2.1])[:, None], np.array([0, 0, 1])
    # Of two votes that disagree the nearer one counts: the third point is called 0.
    assert share_of_votes(x, y) == pytest.approx(2 / 3)


@pytest.mark.parametrize("n, d", [(150, 10), (60, 90)])
def test_parts_of_a_sample_share_its_products_and_nothing_else(n, d):
    x, y = gaussians(n, d)
    left_out = np.arange(n) % 5 == 0
    whole = Sample(x, y)
    assert whole.gram.shape == (d, d)
    for name, metric in OF_FEATURES.items():
        alone = metric(Sample(x[~left_out], y[~left_out]))
        assert metric(whole.without(left_out)) == pytest.approx(alone, rel=1e-8), name


@pytest.mark.parametrize("metric", [logme, h_score, transrate, gbc])
@pytest.mark.parametrize("n, d", [(150, 10), (60, 90)])
def test_separated_classes_score_higher(metric, n, d):
    close, far = (gaussians(n, d, distance=distance) for distance in (0.5, 6.0))
    assert metric(Sample(*far)) > metric(Sample(*close))
