"""The relation against closed forms and an independent solver, and its controls against nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize

from utils import relation
from utils.features import Features
from utils.linear_head import LinearHead, fit_linear_head
from utils.procedures import RelationSettings
from utils.relation import MixedClasses, RandomDirections, fit_label_map, relate

FEW = RelationSettings(controls=19)


def task(count: int, dim: int, classes: int, generator: torch.Generator, spread=2.0) -> Features:
    """Gaussian classes around random centres; every class has points."""
    labels = torch.arange(count) % classes
    centres = spread * torch.randn(classes, dim, generator=generator)
    return Features(centres[labels] + torch.randn(count, dim, generator=generator), labels)


def halves(points: Features) -> tuple[Features, Features]:
    middle = len(points) // 2
    return Features(points.x[:middle], points.y[:middle]), Features(points.x[middle:], points.y[middle:])


def random_head(classes: int, dim: int, generator: torch.Generator) -> LinearHead:
    """The best classifier of isotropic clouds around centres on a sphere."""
    centres = torch.randn(classes, dim, generator=generator)
    return LinearHead(3 * centres / centres.norm(dim=1, keepdim=True), torch.zeros(classes))


def related(source_head, train, test, settings=FEW, target_head=None, **options):
    targets = int(torch.cat([train.y, test.y]).max()) + 1
    if target_head is None:
        target_head = fit_linear_head(train, targets, None, "ridge")
    names = (range(source_head.num_classes), range(targets))
    names = tuple([str(k) for k in one] for one in names)
    return relate(source_head, target_head, train, test, names, settings, **options)


# ------------------------------------------------------------------------------------- the label map
@pytest.mark.parametrize("sources, targets", [(3, 3), (2, 5), (6, 2)])
def test_the_label_map_is_the_optimum_of_a_convex_solver(sources, targets, generator):
    logits = 2 * torch.randn(120, sources, generator=generator)
    labels = (logits.argmax(1) + (torch.rand(120, generator=generator) < 0.3).long()) % targets
    labels[:targets] = torch.arange(targets)
    found = fit_label_map(logits, labels, targets)
    p = torch.softmax(found.temperature * logits.double(), 1).numpy()
    t, prior = labels.numpy(), np.bincount(labels, minlength=targets) / len(labels)

    def objective(flat):
        B = np.clip(flat.reshape(targets, sources), 1e-12, None)
        return -(np.log((p * B[t]).sum(1)).sum() + (prior[:, None] * np.log(B)).sum()) / len(t)

    start = np.full(targets * sources, 1 / targets)
    columns = {"type": "eq", "fun": lambda flat: flat.reshape(targets, sources).sum(0) - 1}
    best = minimize(
        objective,
        start,
        bounds=[(1e-9, 1)] * len(start),
        constraints=columns,
        method="SLSQP",
        options={"maxiter": 2000, "ftol": 1e-12},
    )
    assert best.success
    reached = objective(found.B.double().numpy().ravel())
    assert -1e-6 <= reached - best.fun <= found.optimality_gap + 1e-6
    assert found.optimality_gap <= relation.SUFFICIENT
    assert torch.allclose(found.B.sum(0), torch.ones(sources)) and (found.B > 0).all()


def test_the_gap_bounds_what_any_map_is_off(generator):
    """(3) for maps that are no optimum, against the fitted one."""
    logits, labels = 2 * torch.randn(1, 4, 200, generator=generator), torch.arange(200) % 3
    prior = torch.full((3,), 1 / 3)
    problem = relation._MapLikelihood(torch.softmax(logits, 1), labels, prior)

    def value(B):
        h = (B @ torch.softmax(logits, 1))[0].gather(0, labels[None])
        return (h.double().log().sum() + (prior[:, None] * B[0].double().log()).sum()) / 200

    best = torch.full((1, 3, 4), 1 / 3)
    for _ in range(500):
        best = problem.step(best)
    for _ in range(50):
        B = torch.softmax(2 * torch.randn(1, 3, 4, generator=generator), 1)
        assert value(best) - value(B) <= problem.gap(B).item() + 1e-6


@pytest.mark.parametrize("sources, targets", [(4, 3), (2, 5), (6, 1)])
def test_all_points_at_once_are_the_same_sums(generator, sources, targets):
    """What a GPU computes, on the processor: steps, gap and sums in float64; one class has no point."""
    logits = 2 * torch.randn(3, sources, 90, generator=generator).double()
    labels = torch.randint(targets, (90,), generator=generator)
    labels[labels == targets - 1] = 0
    prior = torch.bincount(labels, minlength=targets).double() / 90
    ways = [
        relation._MapLikelihood(torch.softmax(logits, 1), labels, prior, way) for way in (False, True)
    ]
    B = torch.softmax(torch.randn(3, targets, sources, generator=generator).double(), 1)
    for _ in range(5):
        steps = [way.step(B) for way in ways]
        for name in ("ratios", "gap"):
            torch.testing.assert_close(*(getattr(way, name)(B) for way in ways), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(*steps, rtol=1e-10, atol=1e-10)
        B = steps[0]


def test_renamed_labels_are_found(generator):
    logits = 6 * torch.eye(4)[torch.arange(400) % 4] + torch.randn(400, 4, generator=generator)
    renamed = torch.tensor([2, 0, 3, 1])[torch.arange(400) % 4]
    found = fit_label_map(logits, renamed, 4)
    assert found.B.argmax(0).tolist() == [2, 0, 3, 1]
    shifted = fit_label_map(logits + torch.randn(400, 1, generator=generator), renamed, 4)
    assert torch.allclose(found.B, shifted.B, atol=1e-4)  # a common part of the logits says nothing
    # The temperature is relative to the spread: tiny logits give the same map.
    tiny = fit_label_map(1e-4 * logits, renamed, 4)
    assert torch.allclose(found.B, tiny.B, atol=1e-3)
    assert tiny.temperature == pytest.approx(1e4 * found.temperature, rel=1e-3)


# ------------------------------------------------------------------------------------- the controls
def test_controls_keep_what_they_should(generator):
    x = torch.randn(500, 7, generator=generator)
    head = LinearHead(torch.randn(5, 7, generator=generator), torch.randn(5, generator=generator))
    logits = head.logits(x)
    centred = logits - logits.mean(1, keepdim=True)
    mixed, _ = MixedClasses(logits, logits, generator)()
    assert torch.allclose(mixed.T.norm(dim=1), centred.norm(dim=1), atol=1e-4)  # O is orthogonal
    assert torch.allclose(mixed.sum(0), torch.zeros(500), atol=1e-4)  # and keeps the vector of ones
    turn = torch.linalg.lstsq(centred, mixed.T).solution
    assert torch.allclose(centred @ turn, mixed.T, atol=1e-3)  # the same directions of the features
    turned, _ = RandomDirections(head, x, x, generator)()
    weight = torch.linalg.lstsq(x, turned.T - head.bias).solution.T
    assert torch.allclose(weight @ weight.T, head.weight @ head.weight.T, atol=1e-3)
    assert not torch.allclose(weight, head.weight, atol=0.1)


def test_rotations_are_haars(generator):
    """Entries of a random orthogonal matrix have mean 0 and variance 1/n, also on the diagonal."""
    drawn = torch.stack([relation._haar(3, 3, generator) for _ in range(4000)])
    assert drawn.mean(0).abs().max() < 0.05
    assert (drawn.square().mean(0) - 1 / 3).abs().max() < 0.03
    assert abs(torch.linalg.det(drawn).mean()) < 0.06  # rotations and reflections alike


def uniform(p: list[float], controls: int) -> float:
    """The p-value of Kolmogorov and Smirnov for p-values that are multiples of 1 / (controls + 1)."""
    jitter = np.random.default_rng(0).uniform(size=len(p)) / (controls + 1)
    return stats.kstest(np.array(p) - jitter, "uniform").pvalue


@pytest.mark.slow
def test_sources_that_are_clouds_have_uniform_p_by_both_controls():
    found = {"mixed_classes": [], "random_directions": []}
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        train, test = halves(task(240, 8, 4, generator))
        flat = LinearHead(torch.zeros(4, 8), torch.zeros(4))  # the control's p needs no fine-tuning
        one, _ = related(random_head(4, 8, generator), train, test, target_head=flat, seed=seed)
        for name, values in found.items():
            values.append(getattr(one, name).p)
    for name, values in found.items():
        assert uniform(values, 19) > 0.01, name


@pytest.mark.slow
def test_shuffled_labels_have_uniform_p_by_mixed_classes():
    values = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(1000 + seed)
        source = task(400, 8, 4, generator)
        labels = source.y[torch.randperm(len(source), generator=generator)]
        means = torch.stack([source.x[labels == k].mean(0) for k in range(4)])
        head = LinearHead(10 * (means - means.mean(0)), torch.zeros(4))  # the nearest mean of noise
        train, test = halves(task(240, 8, 4, generator))
        flat = LinearHead(torch.zeros(4, 8), torch.zeros(4))
        values.append(related(head, train, test, target_head=flat, seed=seed)[0].mixed_classes.p)
    assert uniform(values, 19) > 0.01


# ---------------------------------------------------------------------------------------- what it says
def test_a_task_to_itself_and_to_another(generator):
    own = task(1200, 10, 6, generator)
    source, target = halves(own)
    head = fit_linear_head(source, 6, None, "ridge")
    found, label_map = related(head, *halves(target), bootstrap=100)
    assert found.related and found.control == "mixed classes"
    assert found.source_contribution_p == 0.05 and found.source_contribution > 0.9
    assert label_map.B.argmax(0).tolist() == list(range(6))
    low, high = found.intervals["source_contribution"]
    assert low <= found.source_contribution <= high
    assert [row.called[0][0] for row in found.classes] == list("012345")
    assert sum(found.steps.values()) == pytest.approx(
        found.random_directions.loss - found.fine_tuned_loss
    )
    other = fit_linear_head(task(600, 10, 6, generator), 6, None, "ridge")
    unrelated, _ = related(other, *halves(target))
    assert not unrelated.related and unrelated.source_contribution < 0.3
    again, _ = related(other, *halves(target))
    assert again == unrelated  # the same seed, the same controls
    others, _ = related(other, *halves(target), seed=1)
    assert others.label_map_loss == unrelated.label_map_loss and others != unrelated


def test_quantities_are_those_of_the_label_map(generator):
    train, test = halves(task(400, 6, 3, generator))
    head, tuned = random_head(4, 6, generator), fit_linear_head(train, 3, None, "ridge")
    found, label_map = related(head, train, test, target_head=tuned)
    p = torch.softmax(label_map.temperature * head.logits(test.x).double(), 1)
    h = p @ label_map.B.double().T
    assert found.label_map_loss == pytest.approx(-h[torch.arange(200), test.y].log().mean().item(), 1e-5)
    assert found.label_map_accuracy == (h.argmax(1) == test.y).double().mean().item()
    way = found.mixed_classes.loss - found.fine_tuned_loss
    assert found.source_contribution == pytest.approx(
        (found.mixed_classes.loss - found.label_map_loss) / way, rel=1e-6
    )
    shares = sum(row.frequency * row.label_map_accuracy for row in found.classes)
    assert shares == pytest.approx(found.label_map_accuracy)
    by_control = sum(row.frequency * row.control_accuracy for row in found.classes)
    assert by_control == pytest.approx(found.mixed_classes.accuracy)
    assert found.constant_prediction_loss == math.log(3)


def test_blocks_change_nothing(generator, monkeypatch):
    train, test = halves(task(300, 6, 3, generator))
    head = random_head(5, 6, generator)
    whole, _ = related(head, train, test)
    monkeypatch.setattr(relation, "BLOCK_ELEMENTS", 1)
    single, _ = related(head, train, test)
    for kind in ("mixed_classes", "random_directions"):
        one, other = getattr(whole, kind), getattr(single, kind)
        assert one.loss == pytest.approx(other.loss, abs=2 * relation.SUFFICIENT)
        assert one.p == pytest.approx(other.p, abs=0.11)


def test_two_source_classes_cannot_be_mixed(generator):
    train, test = halves(task(400, 6, 3, generator))
    found, _ = related(random_head(2, 6, generator), train, test)
    assert found.mixed_classes is None and found.control == "random directions"
    assert found.source_contribution_p == found.random_directions.p
    assert set(found.steps) == {"source", "labels"}


@pytest.mark.parametrize("sources, targets", [(2, 60), (400, 2), (3, 2)])
def test_any_numbers_of_classes(sources, targets, generator):
    train, test = halves(task(240, 30, targets, generator))
    found, label_map = related(random_head(sources, 30, generator), train, test)
    assert label_map.B.shape == (targets, sources)
    assert 0 < found.label_map_loss < 3 * math.log(targets)


def test_classes_that_are_never_predicted_or_have_one_image(generator):
    train, test = halves(task(300, 6, 3, generator))
    head = random_head(4, 6, generator)
    head = replace(head, bias=torch.tensor([0.0, 0.0, 0.0, -80.0]))
    single = Features(torch.cat([train.x, test.x[:1]]), torch.cat([train.y, torch.tensor([3])]))
    shown = Features(test.x, torch.cat([torch.tensor([3]), test.y[1:]]))
    tuned = LinearHead(torch.randn(4, 6, generator=generator), torch.zeros(4))
    found, label_map = related(head, single, shown, target_head=tuned)
    assert math.isfinite(found.label_map_loss)
    prior = torch.bincount(single.y).float() / len(single)
    assert torch.allclose(label_map.B[:, 3], prior, atol=1e-3)  # nothing is known of it but the prior


def test_where_fine_tuning_gains_nothing_no_share_is_given(generator):
    noise = Features(torch.randn(400, 6, generator=generator), torch.arange(400) % 4)
    found, _ = related(random_head(5, 6, generator), *halves(noise))
    assert found.source_contribution is None and not found.related
    assert "hardly better than the control" in found.no_contribution


def test_shared_images_need_held_out_logits(generator):
    train, test = halves(task(300, 6, 3, generator))
    head = fit_linear_head(train, 3, None, "ridge")
    found, _ = related(head, train, test, shared_images=True)
    assert found.shared_images and found.source_contribution > 0.9
    with pytest.raises(ValueError, match="held_out_logits"):
        related(random_head(3, 6, generator), train, test, shared_images=True)
