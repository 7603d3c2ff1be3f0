import math

import ot
import pytest
import torch
from torch.nn import functional

from tests.random_tasks import random_features, random_head, random_transform
from utils.errors import InputError
from utils.features import Features
from utils.linear_head import fit_linear_head
from utils.procedures import TransformSettings
from utils.published import OBJECTIVE_TERMS, TaskTransform, distribution_mismatch, learn_task_transform
from utils.published.transform import inverse_mismatch, label_distances_squared, label_mismatch
from utils.sampling import ByClass, class_counts, class_prior, draw_stratified
from utils.storage import ResumePoint

SMALL = TransformSettings(iterations=30, batch_size=40, label_weight=1e3)


@pytest.fixture
def tasks(generator) -> tuple[Features, Features]:
    return random_features(120, 5, 4, generator), random_features(150, 5, 4, generator)


@pytest.fixture
def head(tasks):
    return fit_linear_head(tasks[0], 4, 0.5)


# ------------------------------------------------------------------------- terms against dense formulas
def test_distribution_mismatch_and_its_gradients_equal_the_dense_formulation(generator):
    """Dense: POT's plan and all N×M squared distances, differentiated by autograd in float64."""
    source, target = random_features(30, 4, 3, generator), random_features(36, 4, 3, generator)
    source, target = (Features(part.x.double(), part.y) for part in (source, target))
    transform = random_transform(4, 3, 3, 1.0, generator).to(torch.float64)
    leaves = {name: value.requires_grad_() for name, value in transform.tensors().items()}
    weight = 5.0

    terms = distribution_mismatch(transform, source, target, weight)
    value = terms[0] + weight * terms[1]
    gradients = torch.autograd.grad(value, [leaves[name] for name in ("A", "b", "B")])

    moved = source.x @ leaves["A"].T + leaves["b"]
    labels = leaves["B"].T[source.y][:, None] - torch.eye(3, dtype=torch.float64)[target.y][None]
    features = moved[:, None] - target.x[None]
    cost = (features.norm(dim=2) + weight * labels.norm(dim=2)).detach().numpy()
    plan = torch.from_numpy(ot.emd([], [], cost))
    dense = (plan * (features.square().sum(2) + weight * labels.square().sum(2))).sum()
    expected = torch.autograd.grad(dense, [leaves[name] for name in ("A", "b", "B")])
    torch.testing.assert_close(value, dense)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_label_distances(generator):
    B = torch.softmax(torch.randn(5, 3, generator=generator, dtype=torch.float64), 0)
    expected = (B.T[:, None] - torch.eye(5, dtype=torch.float64)[None]).square().sum(2)
    torch.testing.assert_close(label_distances_squared(B), expected)


def test_label_mismatch_of_known_maps(generator):
    transform = random_transform(2, 4, 4, 1.0, generator)
    uniform = {**transform.tensors(), "B": torch.full((4, 4), 0.25).double()}
    permutation = {**transform.tensors(), "B": torch.eye(4).double()[[2, 0, 3, 1]]}
    assert label_mismatch(type(transform)(**uniform, history={})).item() == pytest.approx(math.log(4))
    assert label_mismatch(type(transform)(**permutation, history={})).item() == 0


def test_inverse_mismatch_vanishes_for_an_inverse(generator):
    transform = random_transform(3, 2, 2, 1.0, generator).to(torch.float64)
    exact = {**transform.tensors(), "A_inverse": torch.linalg.inv(transform.A)}
    assert inverse_mismatch(type(transform)(**exact, history={})).item() == pytest.approx(0, abs=1e-18)
    eye = torch.eye(3).double()
    expected = (transform.A @ transform.A_inverse - eye).norm() ** 2
    expected += (transform.A_inverse @ transform.A - eye).norm() ** 2
    torch.testing.assert_close(inverse_mismatch(transform), expected)


def test_the_transformed_classifier_mixes_the_source_classes(generator):
    transform = random_transform(4, 3, 5, 1.0, generator).to(torch.float64)
    head = random_head(3, 4, 1.0, generator).to(torch.float64)
    z = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    expected = torch.stack(
        [
            transform.B
            @ torch.softmax(head.weight @ (transform.A_inverse @ (row - transform.b)) + head.bias, 0)
            for row in z
        ]
    )
    torch.testing.assert_close(transform.log_probabilities(head, z).exp(), expected)
    torch.testing.assert_close(expected.sum(1), torch.ones(7, dtype=torch.float64))


# ------------------------------------------------------------------------------------------- learning
def test_learned_all_meets_its_constraints_and_lowers_every_term(tasks, head):
    settings = TransformSettings(iterations=300, batch_size=80, label_weight=1e3, learning_rate=3e-2)
    transform = learn_task_transform(*tasks, head, settings)
    torch.testing.assert_close(transform.B.sum(0), torch.ones(4, dtype=torch.float64))
    assert transform.D.sum().item() == pytest.approx(1)
    assert transform.B.min() >= 0 and transform.D.min() > 0
    assert set(transform.history) == set(OBJECTIVE_TERMS)
    for name in ("label_mismatch", "feature_distance", "label_distance"):
        curve = transform.history[name]
        assert curve[-20:].mean() < 0.95 * curve[0]


def test_a_shifted_and_rotated_source_is_found_again(generator):
    """The target is the source under a known map: transport can be driven far down."""
    source = random_features(400, 3, 2, generator)
    source = Features(source.x + 4 * source.y[:, None], source.y)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    target = Features(source.x @ (0.5 * rotation).T + 2, source.y)
    head = fit_linear_head(source, 2, 1.0)
    settings = TransformSettings(iterations=600, batch_size=200, learning_rate=2e-2)
    transform = learn_task_transform(source, target, head, settings)
    first, last = (transform.history["feature_distance"][k].item() for k in (0, -1))
    assert last < 0.05 * first


def test_fixed_all_is_the_closed_form(tasks, head):
    transform = learn_task_transform(*tasks, head, TransformSettings(learned="FixedAll"), seed=5)
    eye = torch.eye(5)
    assert torch.equal(transform.A, eye) and torch.equal(transform.A_inverse, eye)
    assert torch.equal(transform.b, torch.zeros(5))
    assert torch.equal(transform.D, class_prior(tasks[0].y, 4))
    assert_permutation(transform.B)
    others = [
        learn_task_transform(*tasks, head, TransformSettings(learned="FixedAll"), seed=s).B
        for s in range(10)
    ]
    assert any(not torch.equal(transform.B, other) for other in others)
    assert transform.history == {}


def test_learned_a_keeps_b_and_d(tasks, head):
    settings = TransformSettings(learned="LearnedA", iterations=20, batch_size=40)
    fixed = learn_task_transform(*tasks, head, TransformSettings(learned="FixedAll"), seed=2)
    transform = learn_task_transform(*tasks, head, settings, seed=2)
    assert torch.equal(transform.B, fixed.B) and torch.equal(transform.D, fixed.D)
    assert_permutation(transform.B)
    for name in ("A", "b", "A_inverse"):
        assert not torch.equal(getattr(transform, name), getattr(fixed, name))


def assert_permutation(B):
    assert ((B == 0) | (B == 1)).all()
    assert (B.sum(0) == 1).all() and (B.sum(1) == 1).all()


def test_more_source_than_target_classes(generator):
    source, target = random_features(90, 4, 5, generator), random_features(90, 4, 3, generator)
    head = fit_linear_head(source, 5, 0.5)
    assert learn_task_transform(source, target, head, SMALL).B.shape == (3, 5)


def learn_with_a_kill(tmp_path, monkeypatch, tasks, head, settings) -> TaskTransform:
    """Seed 1, interrupted after the fifth iteration and resumed."""
    resume = ResumePoint(tmp_path / "r.pt", "", seconds=0)

    def save_fifth_then_die(**state):
        ResumePoint.save(resume, **state)
        if len(state["history"]) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(resume, "save", save_fifth_then_die)
    with pytest.raises(KeyboardInterrupt):
        learn_task_transform(*tasks, head, settings, seed=1, resume=resume)
    return learn_task_transform(
        *tasks, head, settings, seed=1, resume=ResumePoint(tmp_path / "r.pt", "")
    )


@pytest.mark.parametrize("sampler, source_loss", [("exact", "split"), ("truncated", "batch")])
def test_same_seed_same_transform_and_resuming_equals_not_stopping(
    tmp_path, tasks, head, sampler, source_loss, monkeypatch
):
    settings = TransformSettings(iterations=12, batch_size=40, sampler=sampler, source_loss=source_loss)
    whole = learn_task_transform(*tasks, head, settings, seed=1)
    other = learn_task_transform(*tasks, head, settings, seed=2)
    again = learn_with_a_kill(tmp_path, monkeypatch, tasks, head, settings)
    for name, value in whole.tensors().items():
        assert torch.equal(value, getattr(again, name))
        assert not torch.equal(value, getattr(other, name))
    for name, curve in whole.history.items():
        assert torch.equal(curve, again.history[name])


def test_the_first_objective_is_what_the_method_says(tasks, head):
    """At the start D is the softmax of π_S, A = Ā = I: three terms have closed forms."""
    transform = learn_task_transform(*tasks, head, TransformSettings(iterations=1, batch_size=40))
    source = tasks[0]
    D = torch.softmax(class_prior(source.y, 4), 0)
    losses = functional.cross_entropy(head.logits(source.x), source.y, reduction="none").double()
    means = torch.stack([losses[source.y == k].mean() for k in range(4)])
    assert transform.history["weighted_source_loss"][0].item() == pytest.approx((D @ means).item())
    assert transform.history["inverse_mismatch"][0].item() == 0


def test_impossible_settings_are_refused(generator, tasks, head):
    other = random_features(90, 5, 3, generator)
    for setting in ("LearnedA", "FixedAll"):
        with pytest.raises(InputError, match="not 4 and 3; use LearnedAll"):
            learn_task_transform(tasks[0], other, head, TransformSettings(learned=setting))
    for size in (3, 121):
        with pytest.raises(InputError, match=rf"number of classes \(4\).*samples \(120\), not {size}"):
            learn_task_transform(*tasks, head, TransformSettings(batch_size=size))
    with pytest.raises(ValueError, match=r"label_weight must be finite and not negative, not -1\.0"):
        learn_task_transform(*tasks, head, TransformSettings(label_weight=-1.0))
    with pytest.raises(ValueError, match=r"source has labels 0\.\.9, the head 4 classes"):
        learn_task_transform(random_features(90, 5, 10, generator), other, head, SMALL)
    with pytest.raises(InputError, match="setting must be one of LearnedAll, LearnedA, FixedAll"):
        learn_task_transform(*tasks, head, TransformSettings(learned="LearnedB"))


@pytest.mark.filterwarnings("error")
def test_sparse_products_say_nothing_on_any_device(generator, monkeypatch):
    """CUDA's product makes a sparse tensor of its own, without saying whether it is to be checked: so
    does the one that stands in for it here.
    """
    from_torch, made = torch.sparse.mm, []

    def like_cudas(matrix, z):
        made.append(torch.sparse_coo_tensor(matrix._indices(), matrix._values(), matrix.shape))
        return from_torch(made[-1], z)

    monkeypatch.setattr(torch.sparse, "mm", like_cudas)
    source, target = random_features(30, 4, 3, generator), random_features(36, 4, 3, generator)
    transform = random_transform(4, 3, 3, 1.0, generator)
    torch.set_warn_always(True)  # torch says it once a process otherwise
    try:
        mismatch = distribution_mismatch(transform, source, target, 5.0)
    finally:
        torch.set_warn_always(False)
    assert made and mismatch[0].isfinite()


# -------------------------------------------------------------------------------------------- batches
def test_class_counts():
    prior = torch.tensor([0.5, 0.26, 0.24], dtype=torch.float64)
    assert class_counts(prior, 10, "truncated").tolist() == [5, 2, 2]
    assert class_counts(prior, 10, "exact").tolist() == [5, 3, 2]
    with pytest.raises(ValueError, match="sampler must be"):
        class_counts(prior, 10, "round")


def test_stratified_batches(generator):
    labels = torch.tensor([0] * 50 + [1] * 4)
    by_class = ByClass(labels, 2)
    prior = torch.tensor([0.5, 0.5])
    capped = draw_stratified(by_class, prior, 20, "truncated", generator)
    assert torch.bincount(labels[capped]).tolist() == [10, 4]
    assert len(capped.unique()) == 14  # without replacement
    exact = draw_stratified(by_class, prior, 20, "exact", generator)
    assert torch.bincount(labels[exact]).tolist() == [10, 10]
    assert sorted(torch.bincount(exact)[50:].tolist()) == [2, 2, 3, 3]  # repeated evenly
