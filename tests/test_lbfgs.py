import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, rosen, rosen_der
from torch.nn import functional

from utils.features import Features
from utils.linear_head import fit_ridge
from utils.linear_head.lbfgs import Minimum, minimise


def own(f, start: np.ndarray, tolerance: float, most_steps: int = 1000) -> Minimum:
    def objective(variables):
        value, gradient = f(variables.numpy())
        return float(value), torch.from_numpy(np.asarray(gradient, dtype=float))

    return minimise(objective, torch.from_numpy(start), tolerance=tolerance, most_steps=most_steps)


def scipys(f, start: np.ndarray, tolerance: float):
    options = {"maxiter": 1000, "maxcor": 20, "ftol": tolerance, "gtol": 1e-7}
    return minimize(f, start, jac=True, method="L-BFGS-B", options=options)


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_the_minimum_of_a_quadratic(seed):
    """Known in closed form; eigenvalues from 0.01 to 100."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    A, b = basis * 10 ** rng.uniform(-2, 2, 40) @ basis.T, rng.normal(size=40)
    found = own(lambda x: (x @ A @ x / 2 - b @ x, A @ x - b), np.zeros(40), 1e-15)
    expected = np.linalg.solve(A, b)
    assert found.value == pytest.approx(-b @ expected / 2, rel=1e-10)
    assert found.variables.numpy() == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_is_as_low_as_scipy_and_takes_no_more_steps(seed, scale):
    """Logistic regressions, of them separable ones and badly scaled ones."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, 12)) * scale ** rng.uniform(0, 1, 12)
    y = np.where(x[:, 0] + (seed % 2) * scale * rng.normal(size=80) > 0, 1.0, -1.0)

    def loss(w):
        margin = y * (x @ w)
        share = np.exp(-np.logaddexp(0, margin))
        return np.logaddexp(0, -margin).mean() + 1e-4 * w @ w, -(y * share) @ x / 80 + 2e-4 * w

    reference, found = scipys(loss, np.zeros(12), 1e-12), own(loss, np.zeros(12), 1e-12)
    assert found.value <= reference.fun + 1e-8
    assert found.evaluations <= 1.5 * reference.nfev + 10


def test_it_follows_a_curved_valley():
    reference = scipys(lambda x: (rosen(x), rosen_der(x)), np.full(10, -1.2), 1e-12)
    found = own(lambda x: (rosen(x), rosen_der(x)), np.full(10, -1.2), 1e-12)
    assert found.value < 1e-9 and found.evaluations < 1.5 * reference.nfev
    assert found.variables.numpy() == pytest.approx(np.ones(10), abs=1e-4)


def test_a_value_that_is_no_number_is_a_step_too_far():
    """Σ x − log x has its minimum at 1 and is infinite, or no number, where x ≤ 0."""
    for bad in (math.inf, math.nan):

        def barrier(x, bad=bad):
            with np.errstate(all="ignore"):
                value = (x - np.log(x)).sum() if (x > 0).all() else bad
                return value, 1 - 1 / x

        found = own(barrier, np.full(6, 5.0), 1e-14)
        assert found.value == pytest.approx(6) and found.variables.numpy() == pytest.approx(np.ones(6))


def test_it_never_ends_above_its_start():
    """With a gradient that is wrong in sign, in size, or all noise."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=5)
    for wrong in (
        lambda g: -g,
        lambda g: 1e8 * g,
        lambda g: rng.normal(size=5),
        lambda g: 0 * g + np.nan,
    ):
        found = own(lambda x, wrong=wrong: (x @ x, wrong(2 * x)), start, 1e-12)
        assert found.value <= start @ start and np.isfinite(found.variables.numpy()).all()


def test_it_stops_where_it_is_told_to():
    def bowl(x):
        return x @ x / 2, x

    assert own(bowl, np.zeros(3), 1e-9).steps == 0  # nothing to do
    assert own(lambda x: (rosen(x), rosen_der(x)), np.full(4, -1.0), 0.0, most_steps=7).steps == 7
    shown = []

    def look(variables):
        shown.append(variables.clone())
        return len(shown) == 3

    found = minimise(
        lambda v: (float(rosen(v.numpy())), torch.from_numpy(rosen_der(v.numpy()))),
        torch.full((4,), -1.0, dtype=torch.float64),
        tolerance=0.0,
        most_steps=50,
        look=look,
    )
    assert found.steps == 3 and torch.equal(found.variables, shown[-1])


def ridge_value(features: Features, classes: int, decay: float, weight, bias) -> float:
    logits = functional.linear(features.x.double(), weight.double(), bias.double())
    return (
        functional.cross_entropy(logits, features.y).item()
        + decay / 2 * weight.double().square().sum().item()
    )


def hostile_tasks(generator) -> dict[str, tuple[Features, int]]:
    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    y = torch.arange(60) % 3
    separable = noise(60, 5) + 20 * torch.eye(3, 5)[y]
    badly_scaled = (noise(60, 5) + torch.eye(3, 5)[y]) * torch.tensor([1e-2, 1e-1, 1.0, 1e1, 1e2])
    return {
        "separable": (Features(separable, y), 3),
        "constant": (Features(torch.ones(60, 5), y), 3),
        "zero": (Features(torch.zeros(60, 5), y), 3),
        "one image a class": (Features(noise(4, 9), torch.arange(4)), 4),
        "badly scaled": (Features(badly_scaled, y), 3),
        "a class far away": (Features(torch.where(y[:, None] == 2, 1e4, 1.0) * noise(60, 5), y), 3),
        "one class": (Features(noise(20, 5), torch.zeros(20, dtype=torch.int64)), 1),
    }


@pytest.mark.parametrize("decay", [1e-6, 1e-2])
def test_hostile_tasks_end_as_low_as_with_scipy(generator, decay):
    for name, (features, classes) in hostile_tasks(generator).items():
        x, y = features.x.double(), features.y
        shape = (classes, x.shape[1] + 1)

        def objective(flat, x=x, y=y, shape=shape):
            both = torch.from_numpy(flat).view(shape).requires_grad_()
            loss = functional.cross_entropy(functional.linear(x, both[:, :-1], both[:, -1]), y)
            loss = loss + decay / 2 * both[:, :-1].square().sum()
            return loss.item(), torch.autograd.grad(loss, both)[0].flatten().numpy()

        reference = scipys(objective, np.zeros(shape[0] * shape[1]), 1e-12)
        weight, bias = fit_ridge(x, y, classes, decay, tolerance=1e-12)
        value = ridge_value(features, classes, decay, weight, bias)
        assert value <= reference.fun + 1e-5 * max(1.0, abs(reference.fun)), name
