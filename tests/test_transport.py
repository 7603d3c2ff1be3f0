from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

from benchmarks.transport import pot_plan
from tests.conftest import requires_cuda
from utils.transport import (
    EuclideanCost,
    _reduced_label_cost,
    optimal_potentials,
    solve_assignments,
    solve_transport,
)

SHAPES = ("soft", "near_permutation", "permutation", "many_to_one")


def label_cost(shape: str, sources: int, targets: int, weight: float, rng) -> np.ndarray:
    """Λ ‖B e_s − e_t‖ for the kinds of B that learning passes through."""
    if shape in ("soft", "near_permutation"):
        logits = rng.random((targets, sources))
        if shape == "near_permutation":
            logits[np.arange(sources) % targets, np.arange(sources)] += 12
        B = np.exp(logits) / np.exp(logits).sum(0)
    else:
        order = rng.permutation(max(sources, targets))[:sources] % targets
        B = np.eye(targets)[:, order if shape == "permutation" else np.zeros(sources, int)]
    others = (B**2).sum(0) - B**2  # ‖B e_s − e_t‖² without the component t
    return weight * np.sqrt(others.clip(min=0) + (1 - B) ** 2).T


@st.composite
def instances(draw):
    """(feature cost, label cost, source labels, target labels); sides of any two sizes, some classes
    absent, Λ from 0 to 1e10.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 30))
    m = n if draw(st.booleans()) else draw(st.integers(1, 30))
    sources, targets = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    weight = draw(st.sampled_from([0.0, 1e-3, 1.0, 10.0, 1e3, 1e6, 1e8, 1e10]))
    labels = label_cost(draw(st.sampled_from(SHAPES)), sources, targets, weight, rng)
    features = np.linalg.norm(rng.normal(size=(n, 1, 3)) - rng.normal(size=(1, m, 3)), axis=-1)
    return features, labels, rng.integers(sources, size=n), rng.integers(targets, size=m)


def solve(features, labels, y, t):
    return solve_transport(*(torch.from_numpy(part) for part in (features, labels, y, t)))


def pot_cost(features, labels, y, t) -> float:
    cost = features + labels[y][:, t]
    return float((pot_plan(cost) * cost).sum())


def dense(plan, shape) -> np.ndarray:
    matrix = np.zeros(shape)
    np.add.at(matrix, (plan.rows.numpy(), plan.columns.numpy()), plan.mass.numpy())
    return matrix


@pytest.mark.parametrize("weight", [1e3, 1e6, 1e9])
def test_rounding_of_label_costs_is_no_cost(weight):
    """A tie of classes that subtraction hides: at 1e9 its rounding is 4e-4, as large as features."""
    whole = np.array([[3.0, 2, 2, 1, 1], [0, 0, 0, 0, 3]])
    masses = np.array([5.0, 6]) * 22, np.array([3.0, 8, 3, 3, 5]) * 11
    reduced, _ = _reduced_label_cost(weight * 242 * whole, *masses)
    assert (reduced / weight).round(6).tolist() == [[242, 0, 0, 0, 0], [0, 0, 0, 242, 968]]
    assert (reduced == 0).sum() == 7
    y, t = np.repeat([0, 1], [5, 6]), np.repeat(range(5), [3, 8, 3, 3, 5])
    for seed in range(5):
        features = np.random.default_rng(seed).uniform(1, 4, (11, 22))
        reference = pot_plan(features + 1e3 * 242 * whole[y][:, t])
        plan = solve(features, weight * 242 * whole, y, t)
        part = (plan.mass.numpy() * features[plan.rows, plan.columns]).sum()
        assert part == pytest.approx((reference * features).sum(), rel=1e-7)


@settings(max_examples=300, deadline=None)
@given(instances())
def test_exact_costs_what_pots_emd_costs(instance):
    features, labels, y, t = instance
    n, m = features.shape
    plan = solve(*instance)
    matrix = dense(plan, (n, m))
    np.testing.assert_allclose(matrix.sum(1), 1 / n, rtol=1e-12)
    np.testing.assert_allclose(matrix.sum(0), 1 / m, rtol=1e-12)
    assert plan.cost == pytest.approx(pot_cost(*instance), rel=1e-9, abs=1e-12)
    assert plan.cost == pytest.approx((matrix * (features + labels[y][:, t])).sum(), rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(instances())
def test_feature_cost_is_optimal_under_a_huge_label_weight(instance):
    """At Λ = 1e10 the total hides the feature part; reduced costs from an independent LP show it."""
    features, labels, y, t = instance
    labels = labels / max(labels.max(), 1)  # at most 1, so that one linear programme resolves both
    n, m = features.shape
    if n * m > 200:
        n, m = min(n, 14), min(m, 14)
        features, y, t = features[:n, :m], y[:n], t[:m]
    weight = 1e3  # as large as the reference can still resolve to 1e-9 of the feature part
    plan = solve(features, weight * labels, y, t)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    reference = linprog(
        (features + weight * labels[y][:, t]).ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)]),
        method="highs",
    )
    assert plan.cost == pytest.approx(reference.fun, rel=1e-7, abs=1e-7)


@settings(max_examples=100, deadline=None)
@given(instances(), st.sampled_from([1e3, 1e6, 1e9]), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_feature_part_is_optimal_at_every_label_weight(instance, weight, ties, seed):
    """Whole label costs, whose optimum any Λ resolves: the feature part is emd's at Λ = 1e3, also with
    tied feature costs. Distances are under 100, so Λ = 1e3 orders the two parts already.
    """
    features, labels, y, t = instance
    features = features.round() if ties else features
    whole = np.random.default_rng(seed).integers(0, 4, labels.shape).astype(float)
    n, m = features.shape
    reference = pot_plan(features + 1e3 * n * m * whole[y][:, t])
    plan = dense(solve(features, weight * n * m * whole, y, t), (n, m))
    on_points = whole[y][:, t]
    assert (plan * on_points).sum() == pytest.approx((reference * on_points).sum(), abs=1e-9)
    assert (plan * features).sum() == pytest.approx((reference * features).sum(), rel=1e-7, abs=1e-7)


@settings(max_examples=50, deadline=None)
@given(instances(), st.floats(0.1, 100))
def test_cost_scales_and_does_not_fall_with_the_label_weight(instance, factor):
    features, labels, y, t = instance
    cost = solve(*instance).cost
    scaled = solve(factor * features, factor * labels, y, t).cost
    assert scaled == pytest.approx(factor * cost, rel=1e-9)
    assert solve(features, (1 + factor) * labels, y, t).cost >= cost * (1 - 1e-9)


@settings(max_examples=50, deadline=None)
@given(instances(), st.integers(0, 2**32 - 1))
def test_order_of_points_and_names_of_classes_do_not_matter(instance, seed):
    features, labels, y, t = instance
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(y)), rng.permutation(len(t))
    sources, targets = rng.permutation(len(labels)), rng.permutation(labels.shape[1])
    shuffled = solve(
        features[rows][:, columns],
        labels[np.argsort(sources)][:, np.argsort(targets)],
        sources[y[rows]],
        targets[t[columns]],
    )
    assert shuffled.cost == pytest.approx(solve(*instance).cost, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("equal_priors", [True, False])
def test_larger_instances(shape, equal_priors):
    rng = np.random.default_rng(1)
    n, classes = 240, 12
    prior = np.full(classes, 1 / classes) if equal_priors else rng.dirichlet(np.full(classes, 4.0))
    y = (
        np.repeat(np.arange(classes), rng.multinomial(n, prior))
        if not equal_priors
        else np.arange(n) % classes
    )
    features = np.linalg.norm(rng.normal(size=(n, 1, 8)) - rng.normal(size=(1, n, 8)), axis=-1)
    instance = (features, label_cost(shape, classes, classes, 1e6, rng), y, np.arange(n) % classes)
    assert solve(*instance).cost == pytest.approx(pot_cost(*instance), rel=1e-9)


@pytest.mark.parametrize("n, m, classes", [(1200, 1200, 1000), (900, 700, 37), (60, 400, 8)])
def test_many_classes_and_unequal_sides(n, m, classes):
    rng = np.random.default_rng(2)
    features = np.linalg.norm(rng.normal(size=(n, 1, 3)) - rng.normal(size=(1, m, 3)), axis=-1)
    labels = label_cost("near_permutation", classes, classes, 1e6, rng)
    instance = (features, labels, rng.integers(classes, size=n), rng.integers(classes, size=m))
    assert solve(*instance).cost == pytest.approx(pot_cost(*instance), rel=1e-9)


def test_a_lazy_cost_is_the_dense_one():
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 300, 20, generator=generator, dtype=torch.float64)
    y, t = torch.randint(10, (2, 300), generator=generator)
    labels = torch.from_numpy(label_cost("near_permutation", 10, 10, 1e3, np.random.default_rng(0)))
    lazy = solve_transport(EuclideanCost(x, z), labels, y, t)
    dense = solve_transport(torch.cdist(x, z), labels, y, t)
    assert lazy.cost == pytest.approx(dense.cost, rel=1e-9)
    assert solve_transport(EuclideanCost(x, z)).cost == pytest.approx(
        solve_transport(torch.cdist(x, z)).cost, rel=1e-9
    )


@pytest.mark.parametrize("offset", [1e3, 1e4, 1e5])
def test_a_large_offset_does_not_lose_the_plan(offset):
    """Of float32 points. The plan is judged by its cost in float64."""
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 200, 20, generator=generator)
    x, z = x + offset, z + offset  # as float32 holds them
    y, t = torch.randint(5, (2, 200), generator=generator)
    labels = 3 * (1 - torch.eye(5))
    true = torch.cdist(x.double(), z.double(), compute_mode="donot_use_mm_for_euclid_dist")
    best = pot_cost(true.numpy(), labels.double().numpy(), y.numpy(), t.numpy())
    plan = solve_transport(EuclideanCost(x, z), labels, y, t)
    total = true + labels.double()[y][:, t]
    found = (plan.mass.double() * total[plan.rows, plan.columns]).sum().item()
    assert found - best <= 1e-6 * best


@pytest.mark.parametrize("means", [0.5, 4.0])
def test_gaussians_with_equal_covariance_cost_the_distance_of_their_means(means):
    """W1 between N(μ, Σ) and N(ν, Σ) is ‖μ − ν‖; coupled samples come within their own noise."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    x, z = torch.randn(2, 2000, 3, generator=generator, dtype=torch.float64) @ root
    shift = means * torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64)
    sampled = solve_transport(EuclideanCost(x + shift, z)).cost
    noise = solve_transport(EuclideanCost(x, z)).cost  # what two samples of one Gaussian are apart
    assert abs(sampled - 3 * means) <= noise


@pytest.mark.gpu
@requires_cuda
def test_cuda_agrees_with_the_cpu():
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 600, 20, generator=generator)
    y, t = torch.randint(10, (2, 600), generator=generator)
    labels = torch.from_numpy(label_cost("soft", 10, 10, 1e6, np.random.default_rng(0)))
    here = solve_transport(EuclideanCost(x, z), labels, y, t)
    there = solve_transport(EuclideanCost(x.cuda(), z.cuda()), labels.cuda(), y.cuda(), t.cuda())
    assert there.mass.device.type == "cuda"
    assert there.cost == pytest.approx(here.cost, rel=1e-5)
    cost = torch.cdist(x, z).double()
    parts = [
        (plan.mass.cpu().double() @ cost[plan.rows.cpu(), plan.columns.cpu()]).item()
        for plan in (here, there)
    ]
    assert parts[1] == pytest.approx(parts[0], rel=1e-4)  # the label part hides nothing here


def test_a_translated_cloud_costs_its_translation():
    """W1 between a cloud and its translate is the length of the translation (Jensen)."""
    rng = np.random.default_rng(0)
    cloud, shift = rng.normal(size=(40, 3)), np.array([3.0, -4.0, 12.0])
    cost = np.linalg.norm(cloud[:, None] - (cloud + shift)[None], axis=-1)
    assert solve_transport(torch.from_numpy(cost)).cost == pytest.approx(13.0)


def test_on_the_line_sorted_points_are_matched():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=50), rng.normal(size=50)
    plan = solve_transport(torch.from_numpy(abs(x[:, None] - z[None])))
    assert plan.cost == pytest.approx(abs(np.sort(x) - np.sort(z)).mean())
    # Unequal sizes: 50 against each of 25 points twice is the same cloud.
    plan = solve_transport(torch.from_numpy(abs(x[:, None] - z[None, :25])))
    assert plan.cost == pytest.approx(abs(np.sort(x) - np.sort(np.repeat(z[:25], 2))).mean())


@settings(max_examples=60, deadline=None)
@given(instances())
def test_potentials_are_feasible_and_tight_where_the_plan_has_mass(instance):
    cost = torch.from_numpy(instance[0])
    plan = solve_transport(cost)
    u, v = optimal_potentials(cost, plan)
    tiny = solve_transport(1e-13 * cost)  # POT's tolerance is absolute
    assert tiny.cost == pytest.approx(1e-13 * plan.cost, rel=1e-9)
    u_tiny, v_tiny = optimal_potentials(1e-13 * cost, tiny)
    assert (u_tiny.mean() + v_tiny.mean()).item() == pytest.approx(tiny.cost, rel=1e-6)
    slack = cost - u[:, None] - v
    assert slack.min() >= -1e-10
    assert slack[plan.rows, plan.columns].abs().max() <= 1e-9
    assert (u.mean() + v.mean()).item() == pytest.approx(plan.cost, rel=1e-9)


COST = torch.ones(2, 3)
LABELS = (torch.ones(2, 2), torch.tensor([0, 1]), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ((COST * float("nan"),), "feature_cost holds NaN"),
        ((COST * float("inf"),), "feature_cost holds NaN or infinite"),
        ((torch.ones(0, 3),), "feature_cost must be"),
        ((COST, -LABELS[0], *LABELS[1:]), "finite and not negative"),
        ((COST, LABELS[0], None, LABELS[2]), "source_labels and target_labels must be given together"),
        ((COST, LABELS[0], torch.tensor([0]), LABELS[2]), r"source_labels must have shape \(2,\)"),
        ((EuclideanCost(COST * float("nan"), COST),), "feature_cost holds NaN"),
        ((EuclideanCost(COST * 1e25, COST),), "feature_cost holds NaN or infinite"),
        ((COST, *LABELS[:2], LABELS[1]), r"target_labels must have shape \(3,\)"),
        ((COST, LABELS[0], torch.tensor([0, 2]), LABELS[2]), r"source_labels must lie in 0\.\.1"),
    ],
)
def test_unusable_arguments_are_named(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        solve_transport(*arguments)


def test_a_solver_that_stops_early_is_an_error(monkeypatch):
    monkeypatch.setattr("utils.transport.EMD_ITERATIONS", 1)
    with pytest.raises(RuntimeError, match="did not reach the optimum"):
        solve_transport(torch.rand(30, 20))


@pytest.mark.parametrize("count, size", [(1, 1), (7, 3), (40, 30)])
def test_assignments_at_once_are_those_one_by_one(generator, count, size):
    costs = torch.randn(count, size, size, generator=generator)
    costs[0] = 1.0  # all plans are as good
    expected = [linear_sum_assignment(cost)[1].tolist() for cost in costs.numpy()]
    assert solve_assignments(costs).tolist() == expected
    for workers in (1, 3, 64):
        with ThreadPoolExecutor(workers) as pool:
            assert solve_assignments(costs, pool).tolist() == expected
