"""Accuracies predicted from held-out images, and what is odd about measured ones."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import finetune_source_model_on_target_task
import rank_models
import transfer_source_to_target
from tests.conftest import places
from utils.doubts import doubts_of_accuracy, doubts_of_probe
from utils.features import Features
from utils.grouped import balanced_accuracy
from utils.held_out import HeldOut, with_odds
from utils.learning_curve import learning_curve
from utils.linear_head import LinearHead, evaluate_head, fit_validated_ridge
from utils.ranking import Prediction, decide, predict_accuracy
from utils.sampling import FOLDS, stratified_folds
from utils.statistics import (
    held_out_interval,
    majority_share,
    share_of_classes,
    wilson_interval,
    wilson_of_share,
)


def held_out_of(counts: list[int]) -> HeldOut:
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    fold = stratified_folds(y)
    return HeldOut.of(y, fold, (fold >= 0).nonzero().flatten())


# -------------------------------------------------------------------------------- few images a class
def test_what_the_folds_leave_of_each_class():
    judged = held_out_of([2, 3, 10, 1])  # one image cannot be held out
    assert len(judged.labels) == 15 and judged.classes == 3
    fitted = {k: set(judged.fitted_to[judged.labels == k].tolist()) for k in range(3)}
    assert fitted == {0: {1}, 1: {2}, 2: {8}}
    half = judged.part(0.5)
    assert {k: set(half.fitted_to[half.labels == k].tolist()) for k in range(3)} == {
        0: {1},
        1: {1},
        2: {4},
    }
    assert half.images[half.labels == 2].max() == 5


@pytest.mark.parametrize(
    "counts, few",
    [([9] * 10, True), ([10] * 10, False), ([99] * 21, True), ([100] * 21, False), ([10] * 20, False)],
)
def test_which_images_are_few(counts, few):
    assert held_out_of(counts).is_few == few


def test_where_there_are_enough_images_nothing_is_extrapolated():
    rng, judged = np.random.default_rng(0), held_out_of([60] * 4)
    right = (rng.random(240) < 0.7).astype(float)
    found = judged.predict(right, 200)
    assert found.extrapolated is None and found.note is None
    assert found.accuracy == right.mean()
    assert found.interval == held_out_interval(right.sum(), 240, FOLDS, 200)
    assert judged.predict_balanced(right, 200) == found  # classes of one size


def test_odds_above_chance():
    """From (0.6 − 0.5)/(1 − 0.6) = 1/4 to 1/2: (1/2 + 0.5)/(1 + 1/2)."""
    accuracy = np.array([0.6, 0.5, 0.4, 1.0])
    found = with_odds(accuracy, 0.5, np.full(4, 2.0))
    np.testing.assert_allclose(found, [2 / 3, 0.5, 0.4, 1.0])


def nearest_mean(classes: int, images: int, new_images: int, deviation: float, rng):
    """(which of the held-out images of Gaussian classes are right, accuracy with all images): by the
    nearest mean, which takes no time, fold for fold as a probe is judged.
    """
    y = torch.arange(classes * images) % classes
    means = deviation * rng.normal(size=(classes, 64))
    x = means[y.numpy()] + rng.normal(size=(len(y), 64))
    new_y = rng.integers(classes, size=new_images)
    new_x = means[new_y] + rng.normal(size=(new_images, 64))

    def said(rows, points):
        centres = np.stack([x[rows & (y.numpy() == k)].mean(0) for k in range(classes)])
        return (points @ centres.T - (centres**2).sum(1) / 2).argmax(1)

    fold = stratified_folds(y)
    right = np.zeros(len(y))
    for k in range(min(FOLDS, images)):
        out = (fold == k).numpy()
        right[out] = said(~out, x[out]) == y.numpy()[out]
    judged = HeldOut.of(y, fold, torch.arange(len(y)))
    return judged, right, (said(np.ones(len(y), bool), new_x) == new_y).mean()


@pytest.mark.parametrize(
    "classes, images, deviation",
    [(2, 2, 0.2), (2, 4, 0.2), (10, 2, 0.4), (10, 5, 0.3), (60, 2, 0.4), (60, 3, 0.4), (60, 6, 0.35)],
)
def test_intervals_of_few_images_hold_what_all_of_them_reach(classes, images, deviation):
    held = plain = 0
    for trial in range(40):
        rng = np.random.default_rng(trial)
        judged, right, measured = nearest_mean(classes, images, 1000, deviation, rng)
        found = judged.predict(right, 1000)
        assert found.interval[0] <= found.accuracy <= found.interval[1]
        assert found.note and found.accuracy >= right.mean()
        held += found.interval[0] <= measured <= found.interval[1]
        low, high = held_out_interval(right.sum(), len(right), FOLDS, 1000)
        plain += low <= measured <= high
    assert held >= 36  # 90 %
    if (classes, images) == (60, 2):
        assert plain < 30  # why there is anything to extrapolate


def test_the_probe_of_all_of_few_images_is_in_its_interval():
    """As above by the probe itself: 40 classes of two images, which held in 0.69 of the cases before."""
    held = 0
    for trial in range(10):
        generator = torch.Generator().manual_seed(trial)
        means = 0.5 * torch.randn(40, 32, generator=generator)
        y, new_y = torch.arange(80) % 40, torch.arange(2000) % 40
        x, new_x = (means[k] + torch.randn(len(k), 32, generator=generator) for k in (y, new_y))
        fitted = fit_validated_ridge(x, y, 40, "test")
        found = predict_accuracy(fitted, y, 2000)
        measured = (
            (functional.linear(new_x, fitted.weight, fitted.bias).argmax(1) == new_y).double().mean()
        )
        held += found.interval[0] <= measured <= found.interval[1]
        assert found.note == "extrapolated from probes that saw 1 of 2 images a class"
        curve = learning_curve(Features(x, y), 40, fitted=fitted, new_images=2000)
        assert (curve.accuracies[-1], curve.intervals[-1]) == (found.accuracy, found.interval)
        assert curve.record["note"] == found.note
    assert held >= 9


def test_all_right_or_all_wrong_is_not_certain():
    judged = held_out_of([2, 2])
    low, high = judged.predict(np.ones(4), 100).interval
    assert low < 0.5 and high == pytest.approx(1)
    low, high = judged.predict(np.zeros(4), 100).interval
    assert low == 0 and high > 0.5


# ---------------------------------------------------------------------------------- unequal classes
def test_shares_of_240_against_8_by_hand():
    truth = torch.tensor([0] * 240 + [1] * 8)
    right = torch.ones(248, dtype=torch.bool)
    right[240:246] = False  # 2 of the 8
    assert majority_share(truth) == pytest.approx(0.9677, abs=1e-4)
    share, (low, high) = balanced_accuracy(right, truth)
    assert share == (1 + 2 / 8) / 2
    # V by hand: q of the large class (240.5 + a)/242, of the small one (2.5 + a)/10, a = 244/252.
    a = 244 / 252
    q = np.array([(240.5 + a) / 242, (2.5 + a) / 10])
    variance = (q * (1 - q) / [240, 8]).sum() / 4
    assert share_of_classes(right.double().numpy(), truth.numpy())[1] == pytest.approx(
        q.mean() * (1 - q.mean()) / variance
    )
    assert low < share < high < 0.8
    all_one = torch.zeros(248, dtype=torch.bool)
    all_one[:240] = True
    assert balanced_accuracy(all_one, truth)[0] == 0.5


def test_of_equal_classes_it_is_the_accuracy():
    truth, right = torch.arange(60) % 3, torch.rand(60) < 0.7
    hits = int(right.sum())
    assert balanced_accuracy(right, truth) == (hits / 60, wilson_interval(hits, 60))
    assert wilson_of_share(0.9, 100) == pytest.approx(wilson_interval(90, 100))


@pytest.mark.parametrize(
    "counts, chances",
    [
        ((240, 8), (0.99, 0.7)),
        ((400, 40, 4), (0.9, 0.6, 0.5)),
        ((200, 3, 3, 3, 3), (0.95,) + (0.6,) * 4),
    ],
)
def test_intervals_of_balanced_accuracy_hold_the_chance_behind_it(counts, chances):
    rng, held = np.random.default_rng(0), 0
    truth = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    for _ in range(300):
        right = torch.from_numpy(rng.random(len(truth)) < np.array(chances)[truth.numpy()])
        low, high = balanced_accuracy(right, truth)[1]
        held += low <= np.mean(chances) <= high
    assert held >= 0.9 * 300


def test_a_choice_by_balanced_accuracy_weighs_each_class_alike():
    """One is right of the large class alone, the other of less of it and of the small one, too."""
    labels = np.array([0] * 90 + [1] * 10)
    judged = held_out_of([90, 10])
    assert judged.labels.tolist() == labels.tolist() and judged.majority == 0.9
    np.testing.assert_allclose(judged.balance, np.where(labels == 0, 1 / 180, 1 / 20))
    large, both = np.where(labels == 0, 1.0, 0.0), np.ones(100)
    both[:20] = 0
    found = {}
    for name, right in (("large", large), ("both", both)):
        one, balanced = judged.predict(right, 100), judged.predict_balanced(right, 100)
        found[name] = Prediction(
            accuracy=one.accuracy,
            interval=one.interval,
            right=right,
            balanced=balanced,
            weights=judged.balance,
            majority=0.9,
            classes=2,
        )
    assert found["large"].found("balanced")[::2] == (0.5, 0.5)
    assert found["both"].by("balanced") == pytest.approx((70 / 90 + 1) / 2)
    views = {"large": 1, "both": 2}
    assert decide(found, views, 200, 0).pick == "large"
    by_balanced = decide(found, views, 200, 0, "balanced")
    assert by_balanced.pick == "both" and by_balanced.odds["both"] == 1.0 and by_balanced.rivals == ()


# --------------------------------------------------------------------------- measured and predicted
NAMES = ("cat", "dog", "car", "tree")


def answers(rng, share: float, count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    truth = torch.arange(count) % 4
    other = (truth + torch.from_numpy(rng.integers(1, 4, size=count))) % 4
    return torch.where(torch.from_numpy(rng.random(count) < share), truth, other), truth


def test_labels_in_another_order_are_named():
    said, truth = answers(np.random.default_rng(0), 0.9)
    predicted = 0.9, (0.86, 0.94)
    assert doubts_of_accuracy(said, truth, NAMES, predicted) == []
    order = torch.tensor([1, 2, 3, 0])  # what is a cat is called dog, and so on
    (text,) = doubts_of_accuracy(said, order[truth], NAMES, predicted)
    assert "far below the predicted 0.900 [0.860, 0.940]" in text
    right = (said == truth).double().mean()
    assert f"in another order than those of the training split: {right:.3f} are right if its " in text
    assert "its dog is cat" in text and "1 more" in text
    swapped = torch.tensor([1, 0, 2, 3])
    (text,) = doubts_of_accuracy(said, swapped[truth], NAMES, predicted)
    assert "its cat is dog" in text and "its dog is cat" in text and "car" not in text
    # Without a prediction fewer hits than chance are odd.
    (text,) = doubts_of_accuracy(said, order[truth], NAMES, None)
    assert "below chance, 0.250" in text and "its dog is cat" in text


def test_other_images_are_no_other_order():
    said, truth = answers(np.random.default_rng(0), 0.6)
    (text,) = doubts_of_accuracy(said, truth, NAMES, (0.9, (0.86, 0.94)))
    assert "far below" in text and "of another kind than the training images" in text
    assert "order" not in text
    (text,) = doubts_of_accuracy(truth, truth, NAMES, (0.6, (0.55, 0.65)))
    assert "far above" in text and "among the training images" in text


def test_chance_alone_raises_no_doubt():
    rng = np.random.default_rng(0)
    for _ in range(300):
        truth = torch.from_numpy(rng.integers(4, size=200))
        said = torch.from_numpy(rng.integers(4, size=200))
        assert doubts_of_accuracy(said, truth, NAMES, None) == []
        share = rng.uniform(0.3, 0.95)
        held, new = (rng.binomial(400, share) / 400 for _ in range(2))
        said = torch.where(torch.arange(400) < round(new * 400), 0, 1)
        predicted = held, held_out_interval(held * 400, 400, FOLDS, 400)
        assert doubts_of_accuracy(said, torch.zeros(400).long(), NAMES, predicted) == []


def test_a_probe_that_found_nothing():
    assert doubts_of_probe((0.97, (0.95, 0.99)), 0.5) == [] == doubts_of_probe(None, 0.5)
    (text,) = doubts_of_probe((0.970, (0.95, 0.99)), 0.968)
    assert "0.970 [0.950, 0.990] is not known to be above 0.968" in text


# ------------------------------------------------------------------------------------- the scripts
@pytest.fixture
def unequal(tmp_path) -> str:
    """Two classes, 240 and 40 images to learn from, 120 and 20 others: they can be told apart."""
    rng, arrays = np.random.default_rng(0), {}
    for split, counts in (("train", (240, 40)), ("test", (120, 20))):
        y = np.repeat([0, 1], counts)
        arrays |= {f"y_{split}": y, f"x_{split}": 2.2 * np.eye(8)[y] + rng.normal(size=(len(y), 8))}
    np.savez(tmp_path / "unequal.npz", **arrays)
    return f"features:{tmp_path / 'unequal.npz'}"


def test_the_heads_record_says_majority_and_balance(tmp_path, unequal, capsys):
    finetune_source_model_on_target_task.main(["--SRC", unequal, "--TRG", unequal, *places(tmp_path)])
    shown = capsys.readouterr().out
    (path,) = (tmp_path / "results" / "finetune").glob("*/*/result.json")
    record = json.loads(path.read_text())
    assert record["majority_share"] == pytest.approx(120 / 140)
    low, high = record["intervals"]["balanced_accuracy"]
    assert low < record["balanced_accuracy"] < high and record["doubts"] == []
    assert f"balanced_accuracy  {record['balanced_accuracy']:.4f}" in shown
    assert "majority_share     0.8571" in shown


def test_a_ranking_by_balanced_accuracy(tmp_path, unequal, capsys):
    argv = ["--TRG", unequal, "--RESAMPLES", "100", "--FINETUNE", "linear", *places(tmp_path)]
    records = {}
    for metric in ("accuracy", "balanced"):
        rank_models.main([*argv, "--METRIC", metric])
        shown = capsys.readouterr().out
        assert "| always the most frequent class |  | 0.857 |" in shown
        path = tmp_path / "results" / "rank" / "features-unequal" / "ranking.json"
        records[metric] = json.loads(path.read_text())
    assert (
        "by balanced accuracy" in shown
        and "| model | balanced | predicted accuracy | balanced acc" in shown
    )
    (by_accuracy,), (by_balanced,) = (record["candidates"].values() for record in records.values())
    assert by_accuracy["scores"]["balanced accuracy"] | {"seconds": 0} == (
        by_balanced["scores"]["balanced accuracy"] | {"seconds": 0}
    )
    assert by_accuracy["balanced_accuracy"] == by_balanced["balanced_accuracy"]
    assert by_accuracy["accuracy"] == by_balanced["accuracy"]
    assert records["balanced"]["metric"] == "balanced"
    assert records["balanced"]["majority_share"] == pytest.approx(240 / 280)


def test_a_test_split_in_another_order_is_warned_of(tmp_path, capsys):
    rng, arrays = np.random.default_rng(0), {}
    for split, order in (("train", (0, 1, 2)), ("test", (1, 2, 0))):
        y = np.arange(300) % 3
        x = 3.0 * np.eye(6)[y] + rng.normal(size=(300, 6))
        arrays |= {f"x_{split}": x, f"y_{split}": np.array(order)[y]}
    np.savez(tmp_path / "turned.npz", **arrays)
    name = f"features:{tmp_path / 'turned.npz'}"
    commands = (
        (finetune_source_model_on_target_task, ["--SRC", name, "--TRG", name]),
        (finetune_source_model_on_target_task, ["--SRC", name, "--TRG", name]),  # the result was there
        (transfer_source_to_target, ["--SRC", name, "--TRG", name, "--ANALYSIS", "relation"]),
        (transfer_source_to_target, ["--SRC", name, "--TRG", name, "--ANALYSIS", "relation"]),
        (rank_models, ["--TRG", name, "--FINETUNE", "linear", "--RESAMPLES", "50"]),
    )
    for script, argv in commands:
        script.main([*argv, *places(tmp_path)])
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "far below" in line]
        assert line.startswith("warning: ") and "seem to be in another order" in line


def test_nothing_is_picked_where_nothing_was_found(tmp_path, capsys):
    rng, arrays = np.random.default_rng(0), {}
    for split, counts in (("train", (240, 8)), ("test", (120, 4))):
        y = np.repeat([0, 1], counts)
        arrays |= {f"x_{split}": rng.normal(size=(len(y), 8)), f"y_{split}": y}
    np.savez(tmp_path / "noise.npz", **arrays)
    rank_models.main(
        ["--TRG", f"features:{tmp_path / 'noise.npz'}", "--RESAMPLES", "50", *places(tmp_path)]
    )
    line = capsys.readouterr().out.splitlines()[0]
    assert "there is no pick to act on: always saying one class is right of 0.968" in line


def test_a_head_that_says_one_class_always():
    test = Features(torch.zeros(248, 2), torch.tensor([0] * 240 + [1] * 8))
    head = LinearHead(torch.zeros(2, 2), torch.tensor([1.0, 0.0]))
    found = evaluate_head(head, test, test)
    assert found["test_accuracy"] == found["majority_share"] == pytest.approx(240 / 248)
    low, high = found["intervals"]["balanced_accuracy"]
    assert found["balanced_accuracy"] == 0.5 and low < 0.5 < high and math.isfinite(low)
