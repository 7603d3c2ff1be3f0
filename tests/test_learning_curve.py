import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.random_tasks import random_features
from utils.errors import InputError
from utils.features import Features
from utils.learning_curve import LearningCurve, learning_curve, nested_parts
from utils.linear_head import fit_ridge, fit_validated_ridge
from utils.ranking import predict_accuracy
from utils.sampling import stratified_folds


@pytest.fixture
def blobs(generator) -> Features:
    """Five overlapping classes of 120 images each in thirty dimensions."""
    features = random_features(600, 30, 5, generator)
    y = torch.arange(600) % 5
    centres = 0.45 * torch.randn(5, 30, generator=generator)
    return Features(features.x + centres[y], y)


def of_power_law(error_of, images: int, count: int, rng: np.random.Generator, new_images=None):
    """A curve of independent hits whose errors are those of the law, of images // 4, // 2 and all."""
    sizes = (images // 4, images // 2, images)
    fitted_to = [0.8 * size for size in sizes]
    luck = rng.random(count)
    hits = np.stack([luck >= error_of(size) for size in fitted_to]).astype(float)
    return LearningCurve.of(hits, sizes, fitted_to, new_images)


def test_all_images_give_the_accuracy_that_a_ranking_predicts(blobs):
    fitted = fit_validated_ridge(blobs.x, blobs.y, 5, "test")
    curve = learning_curve(blobs, 5, fitted=fitted, new_images=200)
    predicted = predict_accuracy(fitted, blobs.y, 200)
    assert curve.sizes == (150, 300, 600) and curve.fitted_to == (120, 240, 480)
    assert curve.accuracies[-1] == predicted.accuracy and curve.intervals[-1] == predicted.interval


def test_parts_are_judged_on_fifths_that_their_probes_have_not_seen(blobs):
    """By scikit-learn's solution of the same problem, λ and images."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    fitted = fit_validated_ridge(blobs.x, blobs.y, 5, "test")
    curve, fold, hits = learning_curve(blobs, 5, seed=3, fitted=fitted), stratified_folds(blobs.y), 0
    for k in range(5):
        (part,) = nested_parts(blobs.y, fold != k, [0.25], 5, seed=3)
        reference = linear_model.LogisticRegression(C=1 / (fitted.weight_decay * len(part)))
        reference.fit(blobs.x[part].numpy(), blobs.y[part].numpy())
        hits += (reference.predict(blobs.x[fold == k]) == blobs.y[fold == k].numpy()).sum()
    assert curve.accuracies[0] == pytest.approx(hits / 600, abs=2.5 / 600)


def test_parts_are_nested_and_hold_the_same_share_of_each_class():
    y = torch.tensor([0] * 80 + [1] * 40 + [2] * 9)
    allowed = torch.arange(len(y)) % 5 != 0
    parts = nested_parts(y, allowed, [0.25, 0.5, 1.0], 3, seed=0)
    sets = [set(part.tolist()) for part in parts]
    assert sets[0] < sets[1] < sets[2] == set(allowed.nonzero().flatten().tolist())
    for q, part in zip((0.25, 0.5, 1.0), parts, strict=True):
        of_class = torch.bincount(y[allowed], minlength=3)
        assert torch.bincount(y[part]).tolist() == [math.ceil(q * int(count)) for count in of_class]
    again, other = (nested_parts(y, allowed, [0.25], 3, seed=seed)[0] for seed in (0, 1))
    assert again.equal(parts[0]) and not other.equal(parts[0])


@pytest.mark.parametrize("c, a, b", [(0.1, 2.0, 0.5), (0.0, 1.5, 0.25), (0.2, 20.0, 1.0)])
def test_a_power_law_is_continued(c, a, b):
    """The closed form c + a m^-b, from so many held-out images that hardly any noise is left."""

    def error(size: float) -> float:
        return c + a * size**-b

    curve = of_power_law(error, 4000, 4_000_000, np.random.default_rng(0))
    for factor in (2, 4):
        accuracy, (low, high) = curve.extrapolate(factor)
        assert accuracy == pytest.approx(1 - error(factor * 4000), abs=0.004)
        # The grid has steps, and hardly any noise is left that would hide them.
        assert low - 1e-3 <= 1 - error(factor * 4000) <= high + 1e-3
        assert curve.gain(factor) == pytest.approx(error(4000) - error(factor * 4000), abs=0.004)


def test_intervals_hold_what_is_drawn_from_a_power_law():
    """For the share right of 500 new images; hits are independent here, so more than 95 % hold."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(100):
        curve = of_power_law(lambda m: 0.15 + m**-0.3, 1000, 1000, rng, new_images=500)
        low, high = curve.extrapolate(2)[1]
        measured = rng.binomial(500, 1 - (0.15 + 2000**-0.3)) / 500
        held += low <= measured <= high
        assert high - low < 0.2
    assert held >= 93


def test_labels_without_meaning_promise_nothing(generator):
    x, y = torch.randn(600, 40, generator=generator), torch.arange(600) % 3
    curve = learning_curve(Features(x, y), 3)
    accuracy, (low, high) = curve.extrapolate(2)
    assert low < 1 / 3 < high and accuracy < 0.4
    assert curve.gain(2) < 0.02


def test_a_task_that_is_solved_has_nothing_to_gain():
    y = torch.arange(200) % 2
    x = functional.one_hot(y, 2).float() * 5
    curve = learning_curve(Features(x, y), 2)
    assert curve.accuracies == (1.0, 1.0, 1.0)
    accuracy, (low, high) = curve.extrapolate(2)
    assert accuracy > 0.99 and low > 0.95 and high == 1.0
    assert 0 <= curve.gain(2) < 0.01


@pytest.mark.parametrize(
    "counts, sizes, reason",
    [
        ((40, 7), (24, 47), "fewer than 8"),  # half of 47 is 23.5
        ((40, 3), (43,), "fewer than 8"),
        ((40, 1), (41,), "fewer than 8"),
        ((1, 1), (), "no class has two"),
    ],
)
def test_of_few_images_only_what_was_measured_is_said(generator, counts, sizes, reason):
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    curve = learning_curve(Features(torch.randn(len(y), 4, generator=generator), y), 2)
    assert curve.sizes == sizes and len(curve.accuracies) == len(curve.intervals) == len(sizes)
    assert reason in curve.unsaid and curve.extrapolate(2) is None and curve.gain(2) is None


def test_eight_images_of_each_class_are_enough(generator):
    curve = learning_curve(Features(torch.randn(24, 4, generator=generator), torch.arange(24) % 3), 3)
    assert curve.sizes == (6, 12, 24) and curve.extrapolate(2) is not None


def test_a_class_without_images_is_refused(generator):
    with pytest.raises(InputError, match="without training samples"):
        learning_curve(Features(torch.randn(20, 4, generator=generator), torch.arange(20) % 2), 3)


def test_it_is_the_same_again(blobs):
    first, again = (learning_curve(blobs, 5, seed=1) for _ in range(2))
    assert first.accuracies == again.accuracies and first.extrapolate(2) == again.extrapolate(2)
    assert first.accuracies[:2] != learning_curve(blobs, 5, seed=2).accuracies[:2]


def test_many_images_are_judged_on_as_many_fifths_as_the_head_was(blobs, monkeypatch):
    monkeypatch.setattr("utils.linear_head.ridge.ENOUGH_HELD_OUT", 200)
    fitted = fit_validated_ridge(blobs.x, blobs.y, 5, "test")
    curve = learning_curve(blobs, 5, fitted=fitted)
    assert len(fitted.held_out) == 240 and curve.extrapolate(2) is not None
    fold = stratified_folds(blobs.y)
    hits = 0
    for k in (0, 1):
        (part,) = nested_parts(blobs.y, fold != k, [0.5], 5, seed=0)
        head = fit_ridge(blobs.x[part], blobs.y[part], 5, fitted.weight_decay)
        hits += int((functional.linear(blobs.x[fold == k], *head).argmax(1) == blobs.y[fold == k]).sum())
    assert curve.accuracies[1] == pytest.approx(hits / 240, abs=2.5 / 240)
