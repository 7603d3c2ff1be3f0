from dataclasses import replace

import pytest
import torch

from tests.random_tasks import random_features, random_transform
from utils.bound import certified_bound, transfer_bound
from utils.certificate import (
    CertificateSettings,
    _Certificate,
    certificate_on_training_data,
    match_by_geometry,
    refine_transform,
)
from utils.features import Features
from utils.linear_head import fit_linear_head

SETTINGS = CertificateSettings(steps=150, batch_size=200)


def tasks(generator, dim=4, sources=4, targets=3):
    """Shifted Gaussian classes on both sides, a head, and a transform that fits neither."""
    source, target = (random_features(300, dim, k, generator) for k in (sources, targets))
    source = Features(source.x + 2 * torch.randn(sources, dim, generator=generator)[source.y], source.y)
    target = Features(target.x + 2 * torch.randn(targets, dim, generator=generator)[target.y], target.y)
    head = fit_linear_head(source, sources, 0.5)
    return source, target, head, random_transform(dim, sources, targets, 5.0, generator)


@pytest.mark.parametrize("dim, sources, targets", [(4, 4, 3), (6, 3, 3), (2, 5, 4)])
def test_refining_lowers_the_certificate(generator, dim, sources, targets):
    """Also with more source than target classes, and with fewer dimensions than classes."""
    source, target, head, transform = tasks(generator, dim, sources, targets)
    learned = replace(SETTINGS, matching="learned")
    refined = refine_transform(transform, source, target, head, learned)
    before, after = (transfer_bound(t, head, source, target) for t in (transform, refined))
    assert after.target_loss <= after.bound_certified < 0.9 * before.bound_certified
    assert torch.equal(refined.target_class(), transform.target_class())
    torch.testing.assert_close(refined.B.sum(0), torch.ones(sources, dtype=torch.float64))
    assert torch.equal(refined.D, transform.D)


def test_the_logits_survive_the_way_back_to_feature_space(generator):
    """Equation (2): the refined A, b and A_inverse have exactly the logits that were optimised."""
    source, target, head, transform = tasks(generator)
    problem = _Certificate(transform, source, target, head, SETTINGS, seed=0)
    variables = problem.start()
    for name in ("U", "V", "e"):
        variables[name] += torch.randn(variables[name].shape, generator=generator)
    refined = problem.as_transform(variables)
    centred = problem.projection
    seen = head.weight @ refined.inverse_features(refined.features(source.x)).T
    torch.testing.assert_close(
        centred @ seen, centred @ variables["U"] @ source.x.T, rtol=1e-3, atol=1e-2
    )
    seen = head.weight @ refined.inverse_features(target.x).T
    expected = centred @ (variables["V"] @ target.x.T - variables["e"][:, None])
    torch.testing.assert_close(centred @ seen, expected, rtol=1e-3, atol=1e-2)


def test_what_is_minimised_is_the_certificate(generator):
    """On a batch of all points (equal classes on both sides) the objective is bound_certified."""
    source, target, head, transform = tasks(generator, sources=3, targets=3)
    labels = torch.arange(300) % 3
    source, target = Features(source.x, labels), Features(target.x, labels)
    problem = _Certificate(transform, source, target, head, CertificateSettings(batch_size=300), seed=0)
    value = problem.evaluate(problem.start(), problem.draw())
    double = transform.to(torch.float64), head.to(torch.float64)
    points = (Features(part.x.double(), part.y) for part in (source, target))
    assert value == pytest.approx(certified_bound(*double, *points), rel=1e-4)


def test_the_same_seed_gives_the_same_refinement(generator):
    source, target, head, transform = tasks(generator)
    settings = CertificateSettings(steps=10, batch_size=100)
    first, again = (
        refine_transform(transform, source, target, head, settings, seed=3) for _ in range(2)
    )
    for name, value in first.tensors().items():
        assert torch.equal(value, getattr(again, name))


def test_labels_can_be_left_as_they_are(generator):
    source, target, head, transform = tasks(generator)
    settings = CertificateSettings(steps=10, batch_size=100)
    refined = refine_transform(transform, source, target, head, settings, refine_labels=False)
    torch.testing.assert_close(refined.B, transform.B, rtol=1e-5, atol=1e-6)
    assert not torch.equal(refined.A_inverse, transform.A_inverse)


def test_the_geometry_of_the_classes_finds_a_planted_matching(generator):
    """The target is the source under a rotation, its classes renamed: the renaming is the optimum."""
    source, _, head, _ = tasks(generator, dim=5, sources=7)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
    renaming = torch.randperm(7, generator=generator)
    target = Features(source.x @ rotation.T, renaming[source.y])
    transform = random_transform(5, 7, 7, 5.0, generator)
    matched = match_by_geometry(transform, source, target)
    assert torch.equal(matched.target_class(), renaming)
    torch.testing.assert_close(matched.B.sort(0).values, transform.B.sort(0).values)
    settings = replace(SETTINGS, matching="geometry")
    refined = refine_transform(transform, source, target, head, settings)
    assert torch.equal(refined.target_class(), renaming)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_better_of_two_matchings_is_kept(generator, classes):
    """On the points that decide (here all of them) no matching has a lower certificate."""
    source, target, head, transform = tasks(generator, sources=classes, targets=classes)
    values = {}
    for matching in ("best", "learned", "geometry"):
        settings = CertificateSettings(steps=40, batch_size=100, matching=matching)
        refined = refine_transform(transform, source, target, head, settings)
        values[matching] = transfer_bound(refined, head, source, target).bound_certified
    assert values["best"] == min(values.values())


def test_classes_without_points_are_no_error(generator):
    """No certificate to refine; and none on training points when a rare class is not drawn."""
    source, target, head, transform = tasks(generator, sources=3, targets=3)
    gone = Features(target.x[target.y != 1], target.y[target.y != 1])
    assert refine_transform(transform, source, gone, head, SETTINGS) is None
    assert match_by_geometry(transform, source, gone) is transform
    assert transfer_bound(transform, head, source, gone).bound_certified is not None
    rare = Features(target.x[:40], torch.tensor([1] + [0, 2] * 19 + [0]))
    test = Features(target.x[:10], rare.y[1:11])
    train = (source, rare)
    assert certificate_on_training_data(transform, head, train, (source, test)) is not None


def test_an_unknown_matching_is_named(generator):
    source, target, head, transform = tasks(generator)
    with pytest.raises(ValueError, match="matching must be one of best, learned, geometry"):
        refine_transform(transform, source, target, head, replace(SETTINGS, matching="geometri"))


def test_unequal_class_counts_keep_the_learned_matching(generator):
    source, target, _, transform = tasks(generator)
    assert match_by_geometry(transform, source, target) is transform


def test_without_a_certificate_there_is_nothing_to_refine(generator):
    source, target, head, transform = tasks(generator)
    B = torch.full_like(transform.B, 0.1)
    B[0] = 0.8
    collapsed = type(transform)(**{**transform.tensors(), "B": B}, history={})
    assert refine_transform(collapsed, source, target, head, SETTINGS) is None
    assert certificate_on_training_data(collapsed, head, (source, target), (source, target)) is None


def test_the_training_certificate_of_the_test_points_is_the_test_certificate(generator):
    source, target, head, transform = tasks(generator)
    bound = transfer_bound(transform, head, source, target)
    value = certificate_on_training_data(transform, head, (source, target), (source, target))
    assert value == pytest.approx(bound.bound_certified)
