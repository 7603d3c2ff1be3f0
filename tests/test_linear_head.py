import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from tests.random_tasks import random_features, random_head
from utils.errors import InputError
from utils.features import Features
from utils.linear_head import (
    LinearHead,
    evaluate_head,
    fit_linear_head,
    label_gradient_norms,
    lipschitz_constant,
    loss_gradient_norms,
    ridge,
    shared,
    shared_linear_head,
    summed_gradient_norms,
)
from utils.linear_head.lipschitz import _better_multipliers, _class_shares, _flows, _optimality_gap
from utils.procedures import HeadSettings
from utils.storage import ResumePoint


@pytest.fixture
def head(generator) -> LinearHead:
    return random_head(4, 6, 1.0, generator).to(torch.float64)


@pytest.fixture
def blobs(generator) -> Features:
    """Four overlapping classes in six dimensions."""
    features = random_features(400, 6, 4, generator)
    centres = 1.5 * torch.randn(4, 6, generator=generator)
    return Features(features.x + centres[features.y], features.y)


def gradient(head: LinearHead, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """∇_x ℓ by automatic differentiation, one row a sample."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(functional.cross_entropy(head.logits(x), y, reduction="sum"), x)[0]


def test_gradient_norms_equal_autograd(head, generator):
    x = 3 * torch.randn(50, 6, dtype=torch.float64, generator=generator)
    y, other = (torch.randint(4, (50,), generator=generator) for _ in range(2))
    norms = loss_gradient_norms(head, x)
    for label in range(4):
        expected = gradient(head, x, torch.full((50,), label)).norm(dim=1)
        torch.testing.assert_close(norms[:, label], expected, rtol=1e-10, atol=1e-7)
    expected = (gradient(head, x, y) + gradient(head, x, other)).norm(dim=1)
    torch.testing.assert_close(summed_gradient_norms(head, x, y, other), expected)
    torch.testing.assert_close(label_gradient_norms(head, x, y), gradient(head, x, y).norm(dim=1))


def test_the_gradient_of_a_norm_of_zero_is_zero(head, generator):
    """Elsewhere it is automatic differentiation's of the norm written out, ‖Wᵀ(p − e_y)‖."""
    x = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    for weight in (head.weight, torch.zeros_like(head.weight), head.weight[:1].expand(4, 6).clone()):
        bias = torch.tensor([0.0, 0.0, 0.0, 800.0]).double()  # p is e_3 to the last digit
        ours, theirs = (weight.clone().requires_grad_() for _ in range(2))
        norms = loss_gradient_norms(LinearHead(ours, bias), x)
        direction = torch.softmax(x @ theirs.T + bias, 1)[:, None] - torch.eye(4).double()
        written_out = torch.linalg.vector_norm(direction @ theirs, dim=2)
        torch.testing.assert_close(norms, written_out, rtol=1e-9, atol=1e-7)
        assert (norms[:, 3] == 0).all()
        positive = norms > 0
        (found,) = torch.autograd.grad(norms.sum(), ours)
        assert found.isfinite().all()
        if positive.any():
            (expected,) = torch.autograd.grad(written_out[positive].sum(), theirs)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        else:
            assert not found.any()


def test_lipschitz_constant_is_the_largest_difference(head):
    differences = [head.weight[i] - head.weight[j] for i, j in itertools.combinations(range(4), 2)]
    assert lipschitz_constant(head.weight) == pytest.approx(max(d.norm().item() for d in differences))
    assert lipschitz_constant(head.weight[:1]) == 0


def test_no_input_is_steeper_than_the_constant_and_some_reach_it(head):
    """Adversarial inputs: gradient ascent on ‖∇ℓ‖ from many starts, for every label."""
    constant = lipschitz_constant(head.weight)
    steepest = 0.0
    for label in range(4):
        x = (10 * torch.randn(200, 6, generator=torch.Generator().manual_seed(label))).double()
        x.requires_grad_()
        optimiser = torch.optim.Adam([x], lr=0.3)
        for _ in range(300):
            norms = loss_gradient_norms(head, x)[:, label]
            assert norms.max() <= constant * (1 + 1e-9)
            optimiser.zero_grad()
            (-norms.sum()).backward()
            optimiser.step()
        steepest = max(steepest, norms.max().item())
    assert steepest > 0.999 * constant


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_the_constrained_head_is_optimal(blobs, tau):
    """Against SciPy's SLSQP on the same convex problem, written down densely."""
    head = fit_linear_head(blobs, 4, tau)
    assert 0.999 * tau < lipschitz_constant(head.weight) <= tau  # met, and binding
    loss = evaluate_head(head, blobs, blobs)["train_loss"]

    pairs = np.array(list(itertools.combinations(range(4), 2)))

    def objective(flat):
        variables = torch.from_numpy(flat).requires_grad_()
        logits = blobs.x.double() @ variables[:24].reshape(4, 6).T + variables[24:]
        value = functional.cross_entropy(logits, blobs.y)
        return value.item(), torch.autograd.grad(value, variables)[0].numpy()

    def squared_distances(flat):
        w = flat[:24].reshape(4, 6)
        return ((w[pairs[:, 0]] - w[pairs[:, 1]]) ** 2).sum(1)

    def jacobian(flat):
        w, rows = flat[:24].reshape(4, 6), np.zeros((6, 4, 6))
        for row, (i, j) in zip(rows, pairs, strict=True):
            row[i], row[j] = 2 * (w[i] - w[j]), 2 * (w[j] - w[i])
        return np.hstack([rows.reshape(6, 24), np.zeros((6, 4))])

    reference = minimize(
        objective,
        np.zeros(28),
        jac=True,
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda v: tau**2 - squared_distances(v),
            "jac": lambda v: -jacobian(v),
        },
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert reference.success
    assert loss == pytest.approx(reference.fun, abs=2e-4)
    # The stated gap is no estimate: the reference lies inside it.
    assert head.optimality_gap <= 1e-3
    assert loss - head.optimality_gap <= reference.fun + 1e-6


def test_without_a_binding_constraint_it_is_logistic_regression(blobs):
    head = fit_linear_head(blobs, 4, tau=1e3)
    reference = LogisticRegression(C=np.inf, max_iter=10_000, tol=1e-8).fit(blobs.x, blobs.y)
    logits = torch.from_numpy(reference.decision_function(blobs.x))
    expected = functional.cross_entropy(logits, blobs.y).item()
    assert evaluate_head(head, blobs, blobs)["train_loss"] == pytest.approx(expected, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.floats(0.01, 10))
def test_the_stated_gap_holds_whatever_the_head_and_the_multipliers(seed, classes, tau):
    """Weak duality: no feasible head is better than loss − gap, even if nothing is optimal."""
    generator = torch.Generator().manual_seed(seed)
    features = random_features(60, 3, classes, generator)
    head = fit_linear_head(features, classes, tau)
    best = functional.cross_entropy(head.logits(features.x).double(), features.y).item()
    other = random_head(classes, 3, tau * torch.rand(1, generator=generator).item(), generator)
    other = LinearHead(other.weight * min(1.0, tau / lipschitz_constant(other.weight)), other.bias)
    multipliers = torch.rand(classes, classes, generator=generator).double().triu(1)
    shares = _class_shares(features.x, features.y, classes)
    loss = functional.cross_entropy(other.logits(features.x).double(), features.y).item()
    for goal in (math.inf, 0.0):  # with the multipliers as they are, and with better ones
        gap = _optimality_gap(
            head=other,
            x=features.x,
            y=features.y,
            class_shares=shares,
            multipliers=multipliers,
            tau=tau,
            goal=goal,
        )
        assert loss - gap <= best + 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_better_multipliers_prove_as_much_as_any(seed):
    """Σ ‖F_ij‖ written down densely, its least value by SciPy's minimiser without derivatives."""
    generator = torch.Generator().manual_seed(seed)
    w, gradient = (torch.randn(3, 4, generator=generator).double() for _ in range(2))
    gradient = gradient - gradient.mean(0)
    pairs = list(itertools.combinations(range(3), 2))

    def flows(values) -> float:
        S = np.zeros((3, 3))
        for (i, j), value in zip(pairs, values, strict=True):
            S[i, j] = S[j, i] = value
        ours = w.numpy()
        rest = gradient.numpy() + S.sum(1)[:, None] * ours - S @ ours
        F = {
            (i, j): -S[i, j] * (ours[i] - ours[j]) + (rest[i] - rest[j]) / 3
            for i, j in itertools.permutations(range(3), 2)
        }
        for i in range(3):  # they carry what they must, whatever S is
            assert np.allclose(sum(F[i, j] for j in range(3) if j != i), gradient[i].numpy())
        return sum(np.linalg.norm(F[pair]) for pair in pairs)

    start = torch.rand(3, 3, generator=generator).double().triu(1)
    symmetric = start + start.T
    values = [symmetric[pair].item() for pair in pairs]
    assert _flows(w, gradient, symmetric) == pytest.approx(flows(values))
    found = _better_multipliers(w, gradient, symmetric, enough=0.0)
    least = minimize(flows, values, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).fun
    assert _flows(w, gradient, found) == pytest.approx(least, rel=1e-4)
    assert _flows(w, gradient, found) <= flows(values)


def test_a_rare_class_lies_in_the_part_that_is_solved_first(generator):
    """Three of 1,200 samples: a tenth drawn at random would often hold none of them."""
    y = torch.tensor([0] * 497 + [1] * 700 + [2] * 3)
    x = torch.randn(1200, 4, generator=generator) + y[:, None]
    head = fit_linear_head(Features(x, y), 3, 0.3)
    assert head.optimality_gap <= 1e-3


@pytest.mark.parametrize("classes", [1, 3])
def test_constant_features_get_the_constant_head_which_is_optimal(classes):
    features = Features(torch.zeros(30, 4), torch.arange(30) % classes)
    head = fit_linear_head(features, classes, 0.2)
    assert not head.weight.any() and head.optimality_gap <= 1e-3


def test_chunks_of_samples_change_nothing(blobs, monkeypatch):
    whole = fit_linear_head(blobs, 4, 0.3)
    monkeypatch.setattr(ridge, "CHUNK", 4 * 37)
    chunked = fit_linear_head(blobs, 4, 0.3)
    torch.testing.assert_close(chunked.weight, whole.weight, rtol=1e-2, atol=1e-3)
    assert chunked.optimality_gap <= 1e-3


def test_the_constrained_head_is_deterministic_and_follows_its_classes(blobs):
    first, again = (fit_linear_head(blobs, 4, 0.3) for _ in range(2))
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)
    order = torch.tensor([2, 0, 3, 1])  # class k is renamed to order[k]
    renamed = fit_linear_head(Features(blobs.x, order[blobs.y]), 4, 0.3)
    difference = (renamed.logits(blobs.x)[:, order] - first.logits(blobs.x)).abs().max()
    assert difference < 0.02


def test_the_penalty_head_obeys_its_penalty(blobs):
    limited = HeadSettings("penalty", epochs=200, batch_size=100, learning_rate=1e-2, penalty_weight=1e4)
    head = fit_linear_head(blobs, 4, 0.2, "penalty", settings=limited)
    generator = torch.Generator().manual_seed(1)
    other = torch.randint(4, (len(blobs),), generator=generator)
    assert summed_gradient_norms(head, blobs.x, blobs.y, other).max() < 0.25
    unpenalised = replace(limited, penalty_weight=1e-9)
    free = fit_linear_head(blobs, 4, 0.2, "penalty", settings=unpenalised)
    assert lipschitz_constant(free.weight) > 2 * lipschitz_constant(head.weight)


def test_the_large_scale_penalty_limits_each_norm(blobs):
    large = HeadSettings(
        "penalty",
        batch_size=100,
        learning_rate=1e-3,
        penalty_weight=500.0,
        penalised="separate",
        steps=1500,
    )
    head = fit_linear_head(blobs, 4, 0.2, "penalty", settings=large)
    assert loss_gradient_norms(head, blobs.x).max() < 0.25
    free = fit_linear_head(blobs, 4, 0.2, "penalty", settings=replace(large, penalty_weight=1e-9))
    assert lipschitz_constant(free.weight) > 2 * lipschitz_constant(head.weight)


def test_steps_end_inside_an_epoch(blobs):
    """400 samples are four batches: five steps are one epoch and a step."""
    few = HeadSettings("penalty", batch_size=100, learning_rate=1e-2, penalty_weight=1.0)
    five, four, eight = (
        fit_linear_head(blobs, 4, 0.2, "penalty", settings=replace(few, steps=steps)).weight
        for steps in (5, 4, 8)
    )
    one, two = (
        fit_linear_head(blobs, 4, 0.2, "penalty", settings=replace(few, epochs=epochs)).weight
        for epochs in (1, 2)
    )
    assert torch.equal(four, one) and torch.equal(eight, two)
    assert not torch.equal(five, four) and not torch.equal(five, eight)


def test_resuming_a_penalty_head_equals_not_stopping(tmp_path, blobs, monkeypatch):
    few = HeadSettings("penalty", epochs=6, batch_size=64, learning_rate=1e-2)
    whole = fit_linear_head(blobs, 4, 0.2, "penalty", settings=few, seed=3)
    resume = ResumePoint(tmp_path / "head.pt", "", seconds=0)

    def save_third_then_die(**state):
        ResumePoint.save(resume, **state)
        if state["epoch"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(resume, "save", save_third_then_die)
    arguments = {"settings": few, "seed": 3}
    with pytest.raises(KeyboardInterrupt):
        fit_linear_head(blobs, 4, 0.2, "penalty", **arguments, resume=resume)
    resumed = fit_linear_head(
        blobs, 4, 0.2, "penalty", **arguments, resume=ResumePoint(tmp_path / "head.pt", "")
    )
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(whole.bias, resumed.bias)


def test_unusable_arguments_are_named(blobs):
    for tau in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tau must be positive and finite"):
            fit_linear_head(blobs, 4, tau)
    with pytest.raises(ValueError, match=r"tau = 1e-60 is too small"):
        fit_linear_head(blobs, 4, 1e-60)
    with pytest.raises(ValueError, match="penalised must be one of"):
        fit_linear_head(blobs, 4, 0.2, settings=HeadSettings(penalised="all"))
    with pytest.raises(ValueError, match="method must be one of"):
        fit_linear_head(blobs, 4, 0.2, "lasso")
    with pytest.raises(InputError, match=r"classes without training samples: \[4\]"):
        fit_linear_head(blobs, 5, 0.2)
    with pytest.raises(InputError, match="labels up to 3, 3 classes"):
        fit_linear_head(blobs, 3, 0.2)


def test_evaluation_of_a_constant_head(blobs):
    quantities = evaluate_head(LinearHead(torch.zeros(4, 6), torch.zeros(4)), blobs, blobs)
    assert quantities["test_loss"] == pytest.approx(np.log(4))
    assert quantities["tau_measured"] == quantities["tau_certified"] == 0


@pytest.mark.filterwarnings("ignore:.*fitted again")
def test_a_head_is_fitted_once_for_the_same_features(tmp_path, blobs, monkeypatch):
    fits = []
    real = shared.fit_linear_head

    def counting(*args, **options):
        fits.append(args)
        return real(*args, **options)

    monkeypatch.setattr(shared, "fit_linear_head", counting)
    settings = HeadSettings(tau=0.5)

    def head(features=blobs, **options):
        return shared_linear_head(tmp_path, features, 4, options.pop("settings", settings), **options)

    first, again = head(), head(seed=3)  # the exact fit draws nothing
    assert len(fits) == 1 and torch.equal(first.weight, again.weight)
    assert (first.optimality_gap, first.fit_seconds) == (again.optimality_gap, again.fit_seconds)
    assert first.fit_seconds > 0
    head(settings=replace(settings, tau=0.6))
    head(Features(blobs.x, blobs.y.flip(0)))
    head(Features(blobs.x + 1e-3, blobs.y))
    penalty = replace(settings, method="penalty", epochs=1, batch_size=100)
    head(settings=penalty, seed=0)
    head(settings=penalty, seed=1)
    assert len(fits) == 6
    ridge = [head(settings=HeadSettings("ridge", tau=None), seed=seed) for seed in (0, 1)]
    assert len(fits) == 7  # and all that belongs to it comes back
    assert ridge[0].weight_decay == ridge[1].weight_decay
    assert ridge[0].held_out_loss == ridge[1].held_out_loss
    assert torch.equal(ridge[0].held_out_logits, ridge[1].held_out_logits)
    assert torch.equal(ridge[0].held_out, ridge[1].held_out)
    monkeypatch.setattr(shared, "_FITTED_HERE", set())  # as in another process
    head(overwrite=True)
    head(overwrite=True)  # the next of a sweep's cells
    assert len(fits) == 8
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(head().weight, first.weight) and len(fits) == 9
