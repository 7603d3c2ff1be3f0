import itertools
from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.random_tasks import random_features
from utils.certificate import (
    CertificateTransform,
    certified_terms,
    certify,
    cost,
    impossible,
    learn_certificate,
    match_classes,
    objective,
    one_sided_cost,
)
from utils.certificate.matching import _confusability, _quadratic_assignments
from utils.certificate.objective import CertificateObjective
from utils.errors import InputError
from utils.features import Features
from utils.linear_head import LinearHead, Logits, fit_linear_head, log_class_probabilities
from utils.procedures import CertificateSettings

SETTINGS = CertificateSettings(steps=150, matchings=2, trial_steps=30)
NAMES = tuple("abcdefghij")


def blobs(generator, count: int, dim: int, classes: int, spread: float = 2.0) -> Features:
    """Gaussian classes around random centres."""
    features = random_features(count, dim, classes, generator)
    centres = spread * torch.randn(classes, dim, generator=generator)
    return Features(features.x + centres[features.y], features.y)


def tasks(generator, dim: int = 5, sources: int = 4, targets: int = 3, spread: float = 2.0):
    """(source, target, their heads of validated strength)."""
    source, target = (blobs(generator, 300, dim, k, spread) for k in (sources, targets))
    heads = (
        fit_linear_head(source, sources, None, "ridge"),
        fit_linear_head(target, targets, None, "ridge"),
    )
    return source, target, *heads


def evaluate(transform: CertificateTransform, head: LinearHead, source: Features, target: Features):
    return certify(
        transform, head, (source, target), (source, target), (NAMES, NAMES[: len(transform.B)])
    )


# -------------------------------------------------------------------------------- the bound itself
def log_loss(B: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """−log (B softmax(g))_t, independently: NumPy's logaddexp in long doubles, term by term."""
    losses = []
    for g, t in zip(logits.astype(np.longdouble), labels, strict=True):
        with np.errstate(divide="ignore"):
            log_B = np.log(B[t].astype(np.longdouble))
        losses.append(np.logaddexp.reduce(g) - np.logaddexp.reduce(g + log_B))
    return np.array(losses, dtype=float)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 6),
    targets=st.integers(2, 6),
    counts=st.sampled_from([(30, 25), (6, 40), (6, 6)]),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    outlier=st.sampled_from([0.0, 1e3, 1e6]),
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    absent=st.booleans(),
)
def test_the_certificate_is_never_below_the_target_loss(
    seed, classes, targets, counts, scale, outlier, zeros, dtype, absent
):
    """Against a loss computed by other means: zeros in B, outliers, target classes without points,
    K ≠ K_T, one point a class, single precision; finite wherever the loss is.
    """
    classes = max(classes, targets)  # every target class is stood for
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    source, target = (
        random_features(n, 1, k, generator) for n, k in zip(counts, (classes, targets), strict=True)
    )
    t = target.y
    if absent and targets > 2:
        t = torch.where(t == targets - 1, 0, t)
    stands_for = torch.arange(classes) % targets
    B = torch.softmax(3 * torch.randn(targets, classes, generator=generator).double(), 0)
    emptied = torch.from_numpy(rng.random(B.shape) < zeros)
    emptied[stands_for, torch.arange(classes)] = False
    B = torch.where(emptied, 0.0, B)
    B = (B / B.sum(0)).to(dtype)
    logits = [scale * torch.randn(n, classes, generator=generator, dtype=dtype) for n in counts]
    for side in logits:
        side[0] += outlier * torch.randn(classes, generator=generator, dtype=dtype)
    found = certified_terms(B, stands_for[source.y], *logits, t, potentials=False)
    loss = log_loss(B.double().numpy(), logits[1].double().numpy(), t.numpy()).mean()
    size = max(1.0, max(float(side.abs().max()) for side in logits))
    assert np.isfinite(loss) and np.isfinite(found.bound.value)
    assert found.bound.value >= loss - 1e-12 * size
    assert found.bound.value == pytest.approx(found.source_loss.value + found.transport.value)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), zeros=st.booleans())
def test_the_one_sided_cost_bounds_the_change_of_the_loss(seed, zeros):
    """Equation (1) of cost.py, and that it is at most max Δ − min Δ."""
    generator = torch.Generator().manual_seed(seed)
    B = torch.softmax(2 * torch.randn(3, 4, generator=generator).double(), 0)
    if zeros:
        B[0, 1] = B[2, 0] = 0.0
    g, h = (5 * torch.randn(n, 4, generator=generator).double() for n in (7, 9))
    for t in range(3):
        before, after = (-log_class_probabilities(side, B)[:, t] for side in (g, h))
        cost = one_sided_cost(B[t], g, h)
        difference = h[None] - g[:, None]
        assert (after[None] - before[:, None] <= cost + 1e-9).all()
        assert (cost >= 0).all() and (cost <= difference.amax(2) - difference.amin(2) + 1e-9).all()


def test_one_class_each_is_the_supremum_over_all_biases():
    """Where one source class stands for the target class, c_t is the most that any bias of the head
    could make of the difference: it is approached as the bias goes to infinity towards the worst class.
    """
    g, h = torch.tensor([[1.0, 0.0, -1.0]]).double(), torch.tensor([[0.0, 2.0, -1.5]]).double()
    B = torch.eye(3).double()
    cost = one_sided_cost(B[0], g, h).item()
    changes = []
    for direction in range(3):
        bias = torch.zeros(3).double()
        bias[direction] = 60.0
        losses = [-log_class_probabilities(side + bias, B)[0, 0].item() for side in (g, h)]
        changes.append(losses[1] - losses[0])
    assert max(changes) == pytest.approx(cost, abs=1e-9)


def test_the_certificate_of_a_hand_made_pair_equals_pot(generator):
    """Source loss and transport in plain NumPy and POT, unequal sizes and priors."""
    B = torch.softmax(torch.randn(2, 3, generator=generator).double(), 0)
    assigned, t = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 1, 1, 1])
    g, h = (torch.randn(n, 3, generator=generator).double() for n in (6, 4))
    found = certified_terms(
        B=B, assigned=assigned, source_logits=g, target_logits=h, t=t, potentials=False
    )
    total = 0.0
    for k, share in ((0, 0.25), (1, 0.75)):
        x, z = g[assigned == k].numpy(), h[t == k].numpy()
        q = B[k].numpy() * np.exp(x)
        q /= q.sum(1, keepdims=True)
        difference = z[None] - x[:, None]
        cost = difference.max(2) - (q[:, None] * difference).sum(2)
        loss = -np.log((B[k].numpy() * np.exp(x)).sum(1) / np.exp(x).sum(1)).mean()
        total += share * (loss + ot.emd2([], [], np.ascontiguousarray(cost)))
    assert found.bound.value == pytest.approx(total)


def test_a_target_class_without_source_points_leaves_it_undefined(generator):
    B = torch.softmax(torch.randn(2, 2, generator=generator), 0)
    logits = torch.randn(4, 2, generator=generator)
    undefined = certified_terms(
        B=B,
        assigned=torch.zeros(4, dtype=torch.long),
        source_logits=logits,
        target_logits=logits,
        t=torch.tensor([0, 1, 0, 1]),
        potentials=False,
    )
    assert undefined.bound.value is undefined.transport.value is None


# -------------------------------------------------------------------------------------- the learner
@pytest.mark.parametrize("dim, sources, targets", [(5, 4, 3), (6, 3, 3), (2, 5, 4), (40, 6, 2)])
def test_learning_makes_the_certificate_small(generator, dim, sources, targets):
    """Also with more source than target classes, and with fewer dimensions than classes."""
    source, target, *heads = tasks(generator, dim, sources, targets)
    learned = learn_certificate(source, target, *heads, SETTINGS)
    found = evaluate(learned, heads[1], source, target)
    assert learned.improved and learned.end < learned.start
    assert found.target_loss <= found.bound_certified
    start = replace(
        SETTINGS, steps=1, learning_rate=1e-9, combination_rate=1e-9, offset_rate=1e-9, label_rate=1e-9
    )
    begun = evaluate(learn_certificate(source, target, *heads, start), heads[1], source, target)
    assert found.bound_certified < 0.9 * begun.bound_certified
    assert found.target_accuracy >= found.fine_tuned_accuracy - 0.05
    assert len(learned.source_classes.unique()) == targets
    torch.testing.assert_close(learned.B.sum(0), torch.ones(targets))


def test_steps_do_not_depend_on_the_head_or_on_the_number_of_features(generator):
    """From heads that are nearly constant, as a small τ makes them; with each feature eight times."""
    source, target, *heads = tasks(generator, spread=0.7)
    plain = learn_certificate(source, target, *heads, SETTINGS)
    weak = [
        replace(head, weight=head.weight / 30, held_out_logits=head.held_out_logits / 30)
        for head in heads
    ]
    assert learn_certificate(source, target, *weak, SETTINGS).improved
    wide = [Features(torch.cat([side.x] * 8, 1), side.y) for side in (source, target)]
    fitted = [
        fit_linear_head(side, head.num_classes, None, "ridge")
        for side, head in zip(wide, heads, strict=True)
    ]
    assert learn_certificate(*wide, *fitted, SETTINGS).end < 1.2 * plain.end


SHAPES = {  # of three classes and four features
    "source_weight": (3, 4),
    "combination": (3, 3),
    "source_bias": (3,),
    "target_bias": (3,),
    "label_logits": (3, 3),
}


def test_what_is_minimised_is_the_certificate(generator):
    """On a batch of all points (equal classes on both sides) the objective is the certificate."""
    labels = torch.arange(60) % 3
    source = Features(torch.randn(60, 4, generator=generator), labels)
    logits = torch.randn(60, 3, generator=generator)
    settings = CertificateSettings(points_per_class=20)
    problem = CertificateObjective(source, Logits(logits, labels), settings, 0)
    variables = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    loss, transport = problem.match(variables, 20, problem.x, generator).terms()
    found = certified_terms(
        B=torch.softmax(variables["label_logits"], 0),
        assigned=labels,
        source_logits=source.x @ variables["source_weight"].T + variables["source_bias"],
        target_logits=logits @ variables["combination"].T + variables["target_bias"],
        t=labels,
        potentials=False,
    )
    assert loss.mean().item() == pytest.approx(found.source_loss.value, rel=1e-5)
    assert transport.mean().item() == pytest.approx(found.transport.value, rel=1e-4)


@pytest.mark.parametrize("alike", [False, True])
def test_the_gradients_are_those_of_automatic_differentiation(generator, alike):
    """In float64, the matching held fixed; also where all classes have the same logits and the largest
    difference is not unique.
    """
    labels = torch.arange(90) % 3
    source = Features(torch.randn(90, 4, generator=generator), labels)
    logits = torch.randn(90, 3, generator=generator).double()
    problem = CertificateObjective(
        source, Logits(logits, labels), CertificateSettings(points_per_class=12), 0
    )
    problem.x, problem.prior = source.x.double(), torch.tensor([0.5, 0.3, 0.2]).double()
    variables = {
        name: torch.randn(shape, generator=generator).double()
        * (0.0 if alike and name != "label_logits" else 1.0)
        for name, shape in SHAPES.items()
    }
    batch = problem.match(variables, 12, problem.x, generator)
    leaves = {name: value.clone().requires_grad_() for name, value in variables.items()}
    g = (batch.x @ leaves["source_weight"].T + leaves["source_bias"]).view(3, 12, 3)
    g_target = (batch.z @ leaves["combination"].T + leaves["target_bias"]).view(3, 12, 3)
    log_B = torch.log_softmax(leaves["label_logits"], 0)[:, None]
    difference, q = g_target - g, torch.softmax(g + log_B, 2)
    loss = torch.logsumexp(g, 2) - torch.logsumexp(g + log_B, 2)
    transport = difference.amax(2) - (q * difference).sum(2)
    (problem.prior @ (loss + transport).mean(1)).backward()
    found = problem.gradients(variables, batch)
    assert found.keys() == leaves.keys()
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf.grad, rtol=1e-10, atol=1e-12, msg=name)


def test_steps_in_bfloat16_learn_what_steps_in_float32_learn(generator, monkeypatch):
    """The certificate of large U, whose products are rounded, is that of exact products within 2 %."""
    source, target, *heads = tasks(generator)
    exact = learn_certificate(source, target, *heads, SETTINGS)
    monkeypatch.setattr(objective, "LARGE", 1)
    monkeypatch.setattr(objective, "multiplies_bfloat16", lambda device: True)
    rounded = learn_certificate(source, target, *heads, SETTINGS)
    assert rounded.U.dtype == torch.float32 and not torch.equal(rounded.U, exact.U)
    assert rounded.end == pytest.approx(exact.end, rel=0.02)


@pytest.mark.parametrize("elements", [1, 250, 2**23])
def test_the_costs_of_a_batch_are_those_of_all_pairs(generator, monkeypatch, elements):
    """However many classes or points are taken at a time."""
    g, g_target = (torch.randn(4, 5, 4, generator=generator).double() for _ in range(2))
    B = torch.softmax(torch.randn(4, 4, generator=generator).double(), 0)
    monkeypatch.setattr(cost, "PAIR_ELEMENTS", elements)
    found = cost.costs_in_batch(cost.cost_weights(g, B.log()[:, None]), g, g_target)
    expected = torch.stack([one_sided_cost(B[t], g[t], g_target[t]) for t in range(4)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_start_that_cannot_be_improved_is_kept_and_said(generator):
    source, target, *heads = tasks(generator)
    wild = replace(SETTINGS, steps=3, learning_rate=1e6, combination_rate=1e6, offset_rate=1e6)
    learned = learn_certificate(source, target, *heads, wild)
    assert not learned.improved and learned.end == learned.start
    assert torch.equal(learned.U, heads[0].weight[learned.source_classes])
    found = evaluate(learned, heads[1], source, target)
    assert not found.improved and np.isfinite(found.bound_certified)
    torch.testing.assert_close(learned.V, heads[1].weight)  # M = I: the target head itself


def test_fixed_all_learns_nothing_and_learned_a_keeps_its_permutation(generator):
    source, target, *heads = tasks(generator, sources=3, targets=3)
    fixed = learn_certificate(source, target, *heads, SETTINGS, learned="FixedAll", seed=4)
    assert fixed.start is None and not fixed.improved
    assert torch.equal(fixed.U, fixed.V) and not fixed.e.any()
    learned = learn_certificate(source, target, *heads, SETTINGS, learned="LearnedA", seed=4)
    assert torch.equal(learned.source_classes, fixed.source_classes)
    assert torch.equal(learned.B, torch.eye(3))
    values = [evaluate(one, heads[1], source, target).bound_certified for one in (fixed, learned)]
    assert values[1] < values[0]


def test_the_logits_are_those_of_a_transform_of_the_features(generator):
    """feature_maps: W Ā (A x + b − b) is U x, W Ā (z − b) is V z − e, up to a shift of all logits."""
    source, target, *heads = tasks(generator, dim=8)
    learned = learn_certificate(source, target, *heads, SETTINGS).double()
    A, b, inverse = learned.feature_maps(heads[0])
    weight = heads[0].weight.double()[learned.source_classes]
    x, z = source.x.double(), target.x.double()
    for moved, logits in ((x @ A.T + b, learned.source_logits(x)), (z, learned.target_logits(z))):
        sides = ((moved - b) @ inverse.T @ weight.T, logits - learned.c)
        torch.testing.assert_close(
            *(side - side.mean(1, keepdim=True) for side in sides), rtol=1e-6, atol=1e-6
        )


def test_the_weight_of_u_is_raised_where_held_out_points_ask_for_it(generator):
    """More features than samples and a source head that is hardly regularised."""
    source, target = blobs(generator, 120, 200, 3, 0.4), blobs(generator, 120, 200, 3, 0.4)
    heads = [fit_linear_head(side, 3, None, "ridge") for side in (source, target)]
    free = replace(heads[0], weight_decay=1e-4)
    raised = learn_certificate(source, target, free, heads[1], SETTINGS)
    assert raised.weight_decay > 1e-4
    strong = replace(heads[0], weight_decay=10.0)
    assert learn_certificate(source, target, strong, heads[1], SETTINGS).weight_decay == 10.0


def test_the_same_seed_gives_the_same_transform(generator):
    source, target, *heads = tasks(generator)
    first, again = (learn_certificate(source, target, *heads, SETTINGS, seed=3) for _ in range(2))
    for name, value in first.tensors().items():
        assert torch.equal(value, again.tensors()[name])


def test_fewer_source_than_target_classes_are_refused(generator):
    source, target, *heads = tasks(generator, sources=3, targets=4)
    with pytest.raises(InputError, match="3 source classes cannot stand for 4 target classes"):
        learn_certificate(source, target, *heads, SETTINGS)
    assert impossible(4, 4) is None


def test_a_class_of_one_sample_and_constant_features_are_no_error(generator):
    """No held-out part for that class; more features than samples; a feature that says nothing."""
    source, target = blobs(generator, 40, 60, 3), blobs(generator, 40, 60, 3)
    target = Features(target.x, torch.where(target.y == 2, 1, target.y))
    target.y[0] = 2
    source.x[:, 5] = target.x[:, 5] = 0.0
    heads = [fit_linear_head(side, 3, None, "ridge") for side in (source, target)]
    learned = learn_certificate(source, target, *heads, SETTINGS)
    found = evaluate(learned, heads[1], source, target)
    assert found.target_loss <= found.bound_certified < 20


# ------------------------------------------------------------------------ which class stands for which
@pytest.mark.parametrize("sources, targets", [(4, 4), (5, 3), (6, 6)])
def test_the_exchanges_find_the_best_assignment(sources, targets):
    """Against all injections."""
    rng = np.random.default_rng(sources)
    matrices = []
    for classes in (sources, targets):
        half = np.triu(rng.normal(size=(classes, classes)), 1)
        matrices.append(half + half.T)
    best, *others = _quadratic_assignments(*matrices, 5)

    def value(m) -> float:
        return (matrices[0][np.ix_(m, m)] * matrices[1]).sum()

    everything = max(value(list(m)) for m in itertools.permutations(range(sources), targets))
    assert value(best) == pytest.approx(everything)
    assert all(value(best) >= value(other) - 1e-12 for other in others)


def test_a_renamed_task_is_matched_to_itself(generator):
    """The target is the source under a rotation, its classes renamed."""
    source = blobs(generator, 700, 5, 6, spread=1.0)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
    renaming = torch.randperm(6, generator=generator)
    target = Features(source.x @ rotation.T, renaming[source.y])
    heads = [fit_linear_head(side, 6, None, "ridge") for side in (source, target)]
    matching = match_classes(source, target, *heads, SETTINGS)
    assert torch.equal(renaming[matching], torch.arange(6))


def test_confusable_classes_are_those_whose_logits_overlap():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, -1.0], [1.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    similar = _confusability(logits, torch.tensor([0, 0, 1, 2]))
    assert similar[0, 1] == similar.max() and np.allclose(similar, similar.T)
    assert not similar.diagonal().any()


def test_many_source_classes_offer_the_clearest():
    rng = np.random.default_rng(0)
    half = np.triu(rng.random((200, 200)), 1)
    source = half + half.T
    source[:, :150] += 1.0
    source[:150] += 1.0
    np.fill_diagonal(source, 0.0)
    (best,) = _quadratic_assignments(source, np.ones((3, 3)) - np.eye(3), 1)
    assert (best >= 150).all() and len(set(best)) == 3


# ---------------------------------------------------------------------------------- what it says
def test_the_classes_add_up_to_the_certificate(generator):
    source, target, *heads = tasks(generator, spread=0.7)
    learned = learn_certificate(source, target, *heads, SETTINGS)
    found = certify(
        learned, heads[1], (source, target), (source, target), (NAMES[:4], NAMES[:3]), bootstrap=50
    )
    assert sum(one.share for one in found.classes) == pytest.approx(found.bound_certified)
    assert sum(one.frequency for one in found.classes) == pytest.approx(1)
    loss = sum(one.frequency * one.target_loss for one in found.classes)
    assert loss == pytest.approx(found.target_loss)
    for one in found.classes:
        assert one.share == pytest.approx(one.frequency * (one.source_loss + one.transport))
        assert one.target_class not in [name for name, _ in one.taken_for]
        assert one.target_loss <= one.source_loss + one.transport + 1e-9
    low, high = found.intervals["target_accuracy"]
    assert low < found.target_accuracy < high and low < found.accuracy_at_least
    low, high = found.intervals["bound_certified"]
    assert low < found.bound_certified < high
    assert found.bound_certified_train == pytest.approx(found.bound_certified)  # the same points
    assert found.target_loss_train == pytest.approx(found.target_loss)
