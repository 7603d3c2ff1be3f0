import math
from dataclasses import asdict

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.random_tasks import random_features, random_head, random_transform
from utils.features import Features
from utils.linear_head import LinearHead, lipschitz_constant
from utils.procedures import TransformSettings
from utils.published import learn_task_transform, transfer_bound
from utils.statistics import Resamples, least_share, wilson_interval


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sources=st.integers(2, 6),
    targets=st.integers(2, 6),
    dim=st.integers(1, 5),
    scale=st.sampled_from([0.01, 0.3, 3.0]),
    sharpness=st.sampled_from([3.0, 30.0]),
)
def test_the_certified_bound_is_never_below_the_target_loss(
    seed, sources, targets, dim, scale, sharpness
):
    """Random tasks, heads and transforms: A and A_inverse unrelated, priors unequal."""
    generator = torch.Generator().manual_seed(seed)
    sources = max(sources, targets)  # every target class is the image of some source class
    transform = random_transform(dim, sources, targets, sharpness, generator)
    head = random_head(sources, dim, scale, generator)
    source = random_features(30, dim, sources, generator)
    target = random_features(25, dim, targets, generator)
    bound = transfer_bound(transform, head, source, target)
    if bound.unreached_classes:
        assert bound.bound_certified is None
        return
    assert bound.bound_certified >= bound.target_loss - 1e-9 * max(1, bound.target_loss)
    assert bound.tau_certified >= 0


def test_one_outlier_leaves_loss_and_certificate_finite(generator):
    """Under LearnedA B has zeros: a probability that underflows would make the loss infinite."""
    source, target = random_features(60, 3, 4, generator), random_features(70, 3, 4, generator)
    head = random_head(4, 3, 0.5, generator)
    transform = learn_task_transform(source, target, head, TransformSettings(learned="FixedAll"))
    far = Features(target.x.clone(), target.y)
    far.x[5] *= 28_480.0
    bound = transfer_bound(transform, head, source, far, bootstrap=20)
    assert 100 < bound.target_loss <= bound.bound_certified < math.inf
    assert all(math.isfinite(end) for ends in bound.intervals.values() for end in ends)


def test_a_target_class_without_points_costs_nothing(generator):
    source, target = random_features(60, 3, 4, generator), random_features(70, 3, 4, generator)
    head = random_head(4, 3, 0.5, generator)
    transform = learn_task_transform(source, target, head, TransformSettings(learned="FixedAll"))
    kept = target.y != 2
    fewer = Features(target.x[kept], target.y[kept])
    bound = transfer_bound(transform, head, source, fewer, bootstrap=20)
    assert math.isfinite(bound.bound_certified) and bound.target_loss <= bound.bound_certified


def fixed_all(source: Features, target: Features, head: LinearHead):
    return learn_task_transform(source, target, head, TransformSettings(learned="FixedAll"), seed=1)


def test_fixed_all_reduces_to_the_closed_form(generator):
    """Nothing learned, B a permutation: every quantity in plain PyTorch and POT."""
    source, target = random_features(60, 3, 4, generator), random_features(70, 3, 4, generator)
    head = random_head(4, 3, 0.5, generator)
    transform = fixed_all(source, target, head)
    bound = transfer_bound(transform, head, source, target)

    permutation = transform.B.argmax(0)
    x, z = source.x.double(), target.x.double()
    logits = {"x": head.logits(source.x).double(), "z": head.logits(target.x).double()}
    source_loss = functional.cross_entropy(logits["x"], source.y)
    # Logit s becomes target logit permutation[s].
    target_logits = logits["z"][:, permutation.argsort()]
    assert bound.target_loss == pytest.approx(
        functional.cross_entropy(target_logits, target.y).item(), rel=1e-5
    )
    assert bound.target_accuracy == (target_logits.argmax(1) == target.y).double().mean()
    assert bound.weighted_source_loss == pytest.approx(source_loss.item(), rel=1e-5)
    assert bound.transformed_source_loss == pytest.approx(source_loss.item(), rel=1e-5)
    assert bound.transformed_source_accuracy == (logits["x"].argmax(1) == source.y).double().mean()
    assert bound.label_mismatch == 0
    assert bound.inverse_error == 0
    distances = [
        ot.emd2(
            [], [], ot.dist(x[permutation[source.y] == k].numpy(), z[target.y == k].numpy(), "euclidean")
        )
        for k in range(4)
    ]
    assert bound.wasserstein_distance == pytest.approx(np.mean(distances))
    assert bound.class_wasserstein == pytest.approx(distances)
    assert bound.tau_certified == pytest.approx(lipschitz_constant(head.weight))
    inputs = z.clone().requires_grad_()
    steepest = 0.0
    for label in range(4):
        losses = functional.cross_entropy(
            head.to(torch.float64).logits(inputs), torch.full((70,), label), reduction="sum"
        )
        steepest = max(steepest, torch.autograd.grad(losses, inputs)[0].norm(dim=1).max().item())
    assert bound.tau_measured == pytest.approx(steepest)
    third = bound.tau_measured * bound.wasserstein_distance
    assert bound.distribution_mismatch == third
    assert bound.bound_published == pytest.approx(source_loss.item() + third, rel=1e-5)
    assert bound.bound_transformed == pytest.approx(bound.bound_published, rel=1e-5)
    assert bound.constant_prediction_loss == math.log(4)


def test_a_task_transferred_to_itself_costs_its_own_loss(generator):
    """Identity map, source = target: W and the certificate's transport vanish."""
    task = random_features(80, 3, 4, generator)
    head = random_head(4, 3, 0.5, generator)
    transform = fixed_all(task, task, head)
    own = {**transform.tensors(), "B": torch.eye(4, dtype=torch.float64)}
    bound = transfer_bound(type(transform)(**own, history={}), head, task, task)
    assert bound.wasserstein_distance == pytest.approx(0, abs=1e-6)
    assert bound.bound_certified == pytest.approx(bound.target_loss, rel=1e-6)
    assert bound.bound_published == pytest.approx(bound.target_loss, rel=1e-5)


def test_the_prior_reweights_the_source_loss(generator):
    task = random_features(80, 3, 2, generator)
    head = random_head(2, 3, 1.0, generator)
    transform = fixed_all(task, task, head)
    for k in range(2):
        prior = {**transform.tensors(), "D": torch.eye(2, dtype=torch.float64)[k]}
        bound = transfer_bound(type(transform)(**prior, history={}), head, task, task)
        mine = task.y == k
        expected = functional.cross_entropy(head.logits(task.x[mine]), task.y[mine]).item()
        assert bound.weighted_source_loss == pytest.approx(expected, rel=1e-5)


def test_a_class_without_source_points_leaves_the_bounds_undefined(generator):
    source, target = random_features(40, 3, 3, generator), random_features(40, 3, 3, generator)
    head = random_head(3, 3, 0.5, generator)
    transform = random_transform(3, 3, 3, 1.0, generator)
    everything_to_zero = torch.full((3, 3), 0.1, dtype=torch.float64)
    everything_to_zero[0] = 0.8
    changed = {**transform.tensors(), "B": everything_to_zero}
    bound = transfer_bound(type(transform)(**changed, history={}), head, source, target)
    assert bound.unreached_classes == (1, 2)
    undefined = ("wasserstein_distance", "distribution_mismatch", "bound_published", "bound_transformed")
    for name in (*undefined, "bound_certified"):
        assert getattr(bound, name) is None
    assert math.isfinite(bound.target_loss)


def test_the_released_tau_sums_two_gradients(generator):
    """Where both labels agree the summed norm is twice the single one: at most twice in general."""
    source, target = random_features(60, 3, 4, generator), random_features(70, 3, 4, generator)
    head = random_head(4, 3, 0.5, generator)
    transform = fixed_all(source, target, head)
    single = transfer_bound(transform, head, source, target).tau_measured
    summed, again, other = (
        transfer_bound(transform, head, source, target, tau_measure="summed_pair", seed=s).tau_measured
        for s in (0, 0, 1)
    )
    assert summed == again
    assert 0 < summed <= 2 * single and 0 < other <= 2 * single
    with pytest.raises(ValueError, match="tau_measure must be one of"):
        transfer_bound(transform, head, source, target, tau_measure="median")


def test_tasks_that_do_not_fit_are_named(gaussians):
    transform, head, source, target = gaussians
    wide = LinearHead(torch.zeros(5, 3), torch.zeros(5))
    empty = Features(target.x[:0], target.y[:0])
    unlabelled = Features(target.x, target.y[:-1])
    for arguments, complaint in (
        ((transform, wide, source, target), "transform.B has 4 columns, the head 5 classes"),
        ((transform, head, Features(source.x, source.y + 1), target), "source_test has labels 1..4"),
        ((transform, head, source, Features(target.x, target.y - 1)), "target_test has labels -1..2"),
        ((transform, head, source, empty), "target_test needs points"),
        ((transform, head, source, unlabelled), "target_test needs points and one label for each"),
        ((transform, head, Features(source.x, source.y.clamp(max=2)), target), r"no sample.*\[3\]"),
    ):
        with pytest.raises(ValueError, match=complaint):
            transfer_bound(*arguments)


# ------------------------------------------------------------------------------------------ bootstrap
@pytest.fixture
def gaussians(generator):
    """(transform, head, source, target): 400 and 300 Gaussian points in four and four classes."""
    source, target = random_features(400, 3, 4, generator), random_features(300, 3, 4, generator)
    head = random_head(4, 3, 0.5, generator)
    return fixed_all(source, target, head), head, source, target


def test_intervals_hold_the_quantities_and_belong_to_what_depends_on_samples(gaussians):
    bound = transfer_bound(*gaussians, bootstrap=200)
    values = asdict(bound)
    for name, (low, high) in bound.intervals.items():
        assert low < values[name] < high
    assert set(bound.intervals) == {
        *("target_accuracy", "target_loss", "transformed_source_accuracy", "transformed_source_loss"),
        *("weighted_source_loss", "wasserstein_distance", "bound_published"),  # a maximum has none
        *("bound_transformed", "bound_certified", "distribution_mismatch"),
    }
    without = transfer_bound(*gaussians)
    assert without.intervals is None
    assert {**values, "intervals": None} == asdict(without)
    assert transfer_bound(*gaussians, bootstrap=200).intervals == bound.intervals


def test_the_interval_of_a_mean_is_the_normal_one(gaussians):
    """Target loss: mean ± 1.96 standard errors, from the variance inside the classes."""
    transform, head, _, target = gaussians
    low, high = transfer_bound(*gaussians, bootstrap=4000).intervals["target_loss"]
    double = transform.to(torch.float64), head.to(torch.float64)
    log_h = double[0].log_probabilities(double[1], target.x.double())
    losses = -log_h.gather(1, target.y[:, None])[:, 0]
    variance = sum(losses[target.y == k].var(correction=0) * (target.y == k).sum() for k in range(4))
    expected = 2 * 1.96 * variance.sqrt().item() / len(target)
    assert high - low == pytest.approx(expected, rel=0.06)


def test_the_interval_of_the_transport_covers_resamples_solved_exactly(gaussians):
    """Solving 60 resamples anew: their spread is the first-order one within sampling error."""
    transform, head, source, target = gaussians
    low, high = transfer_bound(*gaussians, bootstrap=1000).intervals["wasserstein_distance"]
    generator = torch.Generator().manual_seed(5)
    values = []
    for _ in range(60):
        drawn = []
        for split in (source, target):
            counts = Resamples(split.y, 1, generator).counts[0].long()
            index = torch.arange(len(split)).repeat_interleave(counts)
            drawn.append(Features(split.x[index], split.y[index]))
        values.append(transfer_bound(transform, head, *drawn).wasserstein_distance)
    deviation = np.std(values, ddof=1)
    assert 0.7 < (high - low) / (2 * 1.96 * deviation) < 1.4


@pytest.mark.parametrize("chance", [0.7, 0.97, 0.995])
def test_wilsons_interval_and_the_one_sided_bound_cover_the_chance(chance):
    """The share of 4,000 samples of 300 whose interval holds the chance: 95 % less a sampling error; the
    bootstrap's percentiles hold 0.995 in less than 80 %.
    """
    hits = np.random.default_rng(0).binomial(300, chance, size=4000)
    known = {int(k): (wilson_interval(int(k), 300), least_share(int(k), 300)) for k in set(hits)}
    covered = np.mean([known[k][0][0] <= chance <= known[k][0][1] for k in hits])
    below = np.mean([known[k][1] <= chance for k in hits])
    assert covered > 0.92 and below > 0.94
    low, high = wilson_interval(90, 100)  # by Wilson's formula
    centre, z = (0.9 + 1.96**2 / 200) / (1 + 1.96**2 / 100), 1.96
    reach = z * math.sqrt(0.09 / 100 + z**2 / 40000) / (1 + z**2 / 100)
    assert (low, high) == pytest.approx((centre - reach, centre + reach), abs=1e-4)
