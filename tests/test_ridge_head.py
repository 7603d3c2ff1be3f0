import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from tests.random_tasks import random_features
from utils.features import Features
from utils.linear_head import STEP, fit_ridge, fit_validated_ridge, ridge
from utils.sampling import stratified_folds


@pytest.fixture
def blobs(generator) -> Features:
    """Five overlapping classes in twenty dimensions."""
    features = random_features(600, 20, 5, generator)
    centres = 0.6 * torch.randn(5, 20, generator=generator)
    return Features(features.x + centres[features.y], features.y)


@pytest.mark.parametrize("decay", [0.3, 1e-2, 1e-4])
def test_it_solves_what_scikit_learn_solves(blobs, decay):
    """C = 1/(λ n); biases may differ by a common constant."""
    reference = LogisticRegression(C=1 / (decay * len(blobs)), tol=1e-8, max_iter=5000)
    reference.fit(blobs.x.double().numpy(), blobs.y.numpy())
    weight, bias = fit_ridge(blobs.x, blobs.y, 5, decay, tolerance=1e-12)
    seen = functional.linear(blobs.x, weight, bias).double()
    wanted = torch.from_numpy(reference.decision_function(blobs.x.double().numpy()))
    sides = [torch.softmax(side, 1) for side in (seen, wanted)]
    torch.testing.assert_close(*sides, rtol=0, atol=2e-3)


def test_its_gradient_vanishes_in_double_precision(blobs):
    weight, bias = fit_ridge(blobs.x.double(), blobs.y, 5, 1e-2, tolerance=1e-14)
    weight.requires_grad_(), bias.requires_grad_()
    loss = functional.cross_entropy(functional.linear(blobs.x.double(), weight, bias), blobs.y)
    (loss + 1e-2 / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-5 and bias.grad.abs().max() < 1e-5


def test_held_out_logits_are_those_of_heads_that_did_not_see_the_samples(blobs):
    fitted = fit_validated_ridge(blobs.x, blobs.y, 5, "test")
    assert sorted(fitted.held_out.tolist()) == list(range(600))
    folds = stratified_folds(blobs.y)
    for k in (0, 3):
        out = folds == k
        head = fit_ridge(blobs.x[~out], blobs.y[~out], 5, fitted.weight_decay)
        place = {int(i): row for row, i in enumerate(fitted.held_out)}
        rows = [place[int(i)] for i in out.nonzero().flatten()]
        expected = functional.linear(blobs.x[out], *head)
        torch.testing.assert_close(fitted.held_out_logits[rows], expected, rtol=0.05, atol=0.05)
    loss = functional.cross_entropy(fitted.held_out_logits, blobs.y[fitted.held_out])
    seen = functional.cross_entropy(functional.linear(blobs.x, fitted.weight, fitted.bias), blobs.y)
    assert loss > seen + 0.01  # the head's own logits are too sure


def test_the_chosen_weight_is_a_minimum_of_the_held_out_loss(blobs):
    fitted = fit_validated_ridge(blobs.x, blobs.y, 5, "test")
    folds, losses = stratified_folds(blobs.y), {}
    for exponent in range(-10, 4):
        logits = torch.empty(len(blobs), 5)
        for k in range(5):  # of so few samples each fifth is held out in turn
            out = folds == k
            head = fit_ridge(blobs.x[~out], blobs.y[~out], 5, STEP**exponent)
            logits[out] = functional.linear(blobs.x[out], *head)
        losses[STEP**exponent] = functional.cross_entropy(logits, blobs.y).item()
    near = min(losses, key=lambda decay: abs(np.log(decay / fitted.weight_decay)))
    assert losses[near] < min(losses.values()) + 3e-3


def test_labels_without_meaning_are_not_foreseen(generator, monkeypatch):
    """More dimensions than samples, hardly a penalty: no fit may begin at a head that saw its fifth."""
    monkeypatch.setattr(ridge, "FIRST_EXPONENT", -12)
    monkeypatch.setattr(ridge, "EXPONENTS", range(-12, -11))
    x, y = torch.randn(100, 400, generator=generator), torch.arange(100) % 4
    fitted = fit_validated_ridge(x, y, 4, "test")
    right = (fitted.held_out_logits.argmax(1) == y[fitted.held_out]).float().mean()
    assert right < 0.45  # by chance 0.25, and its deviation 0.04


@pytest.mark.parametrize("count, dim, classes, distance", [(1000, 100, 4, 0.2), (2000, 50, 5, 0.3)])
def test_it_is_within_a_point_of_the_best_strength(generator, count, dim, classes, distance):
    """Features whose variances fall off, as a network's do; 4,000 new samples."""
    scale = torch.arange(1, dim + 1) ** -0.7
    centres = distance * torch.randn(classes, dim, generator=generator)
    mixed = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q

    def draw(size: int) -> Features:
        features = random_features(size, dim, classes, generator)
        x = (3 * features.x * scale + centres[features.y] * scale.sqrt()) @ mixed
        return Features(x / x.std(0), features.y)

    train, test = draw(count), draw(4000)
    fitted = fit_validated_ridge(train.x, train.y, classes, "test")
    predicted = functional.linear(test.x, fitted.weight, fitted.bias).argmax(1)
    accuracy = (predicted == test.y).double().mean()
    best = max(
        LogisticRegression(C=C, max_iter=500).fit(train.x, train.y).score(test.x, test.y)
        for C in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    )
    assert accuracy > best - 0.01


def test_many_samples_are_searched_in_part_and_held_out_in_part(blobs, monkeypatch):
    whole = fit_validated_ridge(blobs.x, blobs.y, 5, "test")
    monkeypatch.setattr(ridge, "SEARCHED_ON", 300)
    monkeypatch.setattr(ridge, "ENOUGH_HELD_OUT", 200)
    part = fit_validated_ridge(blobs.x, blobs.y, 5, "test")
    assert 200 <= len(part.held_out) < 300 and len(part.held_out_logits) == len(part.held_out)
    assert 0.1 < part.weight_decay / whole.weight_decay < 10


def test_classes_of_one_sample_stay_in_every_part(generator):
    x = torch.randn(30, 4, generator=generator)
    y = torch.tensor([0, *([1, 2] * 15)])[:30]
    fitted = fit_validated_ridge(x, y, 3, "test")
    assert stratified_folds(y)[0] == -1 and sorted(fitted.held_out.tolist()) == list(range(30))
    alone = fit_validated_ridge(x[:3], torch.arange(3), 3, "test")  # nothing can be held out
    assert alone.held_out_loss is None and len(alone.held_out) == 3


def test_constant_features_choose_the_strongest_weight():
    """Validation cannot tell weights apart."""
    x, y = torch.zeros(40, 3), torch.arange(40) % 2
    fitted = fit_validated_ridge(x, y, 2, "test")
    assert not fitted.weight.any() and fitted.weight_decay == pytest.approx(STEP**-2)
