"""Rankings: intervals, agreement with the truth, and the script on tiny tasks."""

import csv
import json
import math
import shlex
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import rank_models
from tests.conftest import places
from utils.candidates import Candidate, score_candidate
from utils.errors import InputError
from utils.fine_tuning import fine_tune
from utils.ranking import (
    Score,
    agreement,
    check_truth,
    half_samples,
    interval_of,
    look_up,
    read_truth,
    regret,
)

SHORT = "--ITERATIONS 5 --BATCH_SIZE 30 --BOOTSTRAP 5 --CERTIFICATE_STEPS 3 --MATCHINGS 1"
TINY = ("--TRANSFER_FLAGS", SHORT, "--RESAMPLES", "4")


def test_halves_spread_as_the_mean_of_all_samples_does():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    halves = half_samples(np.zeros(400, dtype=int), 2000, 0)
    assert all(len(half) == len(set(half)) == 200 for half in halves[:20])
    low, high = interval_of(lambda half: values[half].mean(), values.mean(), halves, 400)
    expected = 1.96 * values.std() / np.sqrt(400)
    assert high - values.mean() == pytest.approx(expected, rel=0.1)
    assert values.mean() - low == pytest.approx(expected, rel=0.1)
    assert interval_of(len, 1.0, [], 400) is None
    pairs = half_samples(np.repeat(range(5), 2), 4, 0)
    assert interval_of(len, 1.0, pairs, 10) is None  # of two samples a class, half is all


@pytest.mark.parametrize("each, count", [(40, 20), (3, 20)])
def test_intervals_hold_the_mean_as_often_as_they_say(each, count):
    """Few halves, and classes so small that two of three samples are a half: 95 % all the same."""
    rng = np.random.default_rng(0)
    labels, held = np.repeat(range(5), each), 0
    for trial in range(400):
        values = rng.normal(size=len(labels))
        halves = half_samples(labels, count, trial)
        low, high = interval_of(
            lambda half, values=values: values[half].mean(), values.mean(), halves, len(labels)
        )
        held += low <= 0 <= high
    assert 0.92 <= held / 400 <= 0.975


def test_halves_keep_the_classes():
    labels = np.repeat([0, 1, 2], [40, 10, 3])
    for half in half_samples(labels, 5, 0):
        assert np.bincount(labels[half]).tolist() == [20, 5, 2]


def test_agreement_is_scipys_and_the_regret_that_of_the_pick():
    scores, truth = [0.1, 0.5, 0.4, 0.9, 0.05, 0.0], [0.2, 0.6, 0.8, 0.7, 0.1, 0.05]
    found = agreement(scores, truth, 200, 0)
    assert found["Pearson"][0] == pytest.approx(np.corrcoef(scores, truth)[0, 1])
    assert found["Kendall"][0] == pytest.approx((13 - 2) / 15)  # two pairs of 15 are discordant
    assert found["weighted Kendall"][0] == stats.weightedtau(scores, truth).statistic
    assert found["regret"][0] == pytest.approx(0.1)
    for name, (value, (low, high)) in found.items():
        assert low <= value <= high, name
    few = agreement(scores[:5], truth[:5], 200, 0)
    assert few["Kendall"] == (pytest.approx((8 - 2) / 10), None)
    constant = agreement([1.0] * 6, truth, 10, 0)
    assert all(np.isnan(value) and limits is None for value, limits in constant.values())


def test_models_of_one_network_are_drawn_together():
    scores, truth = np.arange(12.0), np.repeat(np.arange(6.0), 2)
    draws = agreement(scores, truth, 50, 0, networks=np.repeat(np.arange(6), 2).tolist())
    # Whole networks: Pearson's correlation of a draw is that of its pairs, at least 0.85 here.
    assert draws["Pearson"][1][0] > 0.85
    five = agreement(scores[:10], truth[:10], 50, 0, networks=np.repeat(np.arange(5), 2).tolist())
    assert five["Pearson"][1] is None  # ten models, but five networks


def test_regret_of_ties_and_of_models_without_a_score():
    truth = np.array([0.5, 0.9, 0.7, 0.95])
    assert regret(np.array([3.0, 1.0, 3.0, 2.0]), truth) == pytest.approx(0.95 - 0.6)
    assert np.isnan(regret(np.ones(4), truth))
    # The best model has no score, so that it cannot be picked: that is lost.
    assert regret(np.array([1.0, 2.0, 0.0, np.nan]), truth) == pytest.approx(0.05)
    values = agreement([1.0, 2.0, 0.0, math.nan], truth, 10, 0)
    assert values["Kendall"][0] == pytest.approx(stats.kendalltau([1, 2, 0], truth[:3]).statistic)


# ------------------------------------------------------------------------------------------ the truth
def test_a_table_of_accuracies(tmp_path):
    path = tmp_path / "truth.csv"
    rows = ["clip,,0.9", "lenet,MNIST,0.5", "lenet,USPS,0.6", "clip,KMNIST,0.8"]
    rows.append("random:lenet,features:a/B.npz,0.1")
    path.write_text("\ufeffmodel,source,accuracy\n" + "\n".join(rows))
    table = read_truth(path)
    assert look_up(table, "clip", "KMNIST") == 0.8 and look_up(table, "clip", "USPS") == 0.9
    assert look_up(table, "random-lenet", "features-B") == 0.1
    check_truth(table, [("lenet", "USPS"), ("clip", "MNIST")], path)
    with pytest.raises(
        InputError, match=r"truth.csv has no accuracy of lenet \(FMNIST\), moco \(MNIST\)"
    ):
        check_truth(table, [("lenet", "FMNIST"), ("moco", "MNIST"), ("clip", "X")], path)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("model;accuracy\nlenet;0.5\n", "must name the columns accuracy, model"),
        ("", "must name the columns"),
        ("model,accuracy\nlenet,50\n", "accuracy 50 of lenet is no fraction"),
        ("model,accuracy\nlenet,high\n", "could not convert"),
        ("model,accuracy\nlenet\n", "is not a table"),
        ("model,accuracy\nlenet,nan\n", "no fraction"),
        ("model,accuracy\nlenet,0.1\nlenet,0.2\n", "lenet stands there twice"),
    ],
)
def test_a_bad_table_is_named(tmp_path, text, complaint):
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_truth(tmp_path / "truth.csv")


# ------------------------------------------------------------------------------------------ the script
@pytest.fixture
def sources(tmp_path) -> list[str]:
    """Feature files of three classes: the farther apart the classes, the better the features."""
    names = []
    for name, distance in (("poor", 0.3), ("fair", 1.5), ("good", 4.0), ("best", 8.0)):
        rng = np.random.default_rng(0)
        arrays = {}
        for split, count in (("train", 120), ("test", 60)):
            y = np.arange(count) % 3
            arrays |= {
                f"y_{split}": y,
                f"x_{split}": distance * np.eye(5)[y] + rng.normal(size=(count, 5)),
            }
        np.savez(tmp_path / f"{name}.npz", **arrays)
        names.append(f"features:{tmp_path / name}.npz")
    return names


def test_sources_are_ranked_for_a_target(tmp_path, sources, capsys):
    truth = tmp_path / "truth.csv"
    rows = zip(("poor", "fair", "good"), (0.3, 0.6, 0.9), strict=True)
    truth.write_text(
        "model,source,accuracy\n" + "".join(f"features,features-{s},{a}\n" for s, a in rows)
    )
    argv = ["--SRC", *sources[:3], "--TRG", sources[3], *TINY, *places(tmp_path), "--ANALYSIS", "both"]
    rank_models.main([*argv, "--TRUTH", str(truth)])
    shown = capsys.readouterr().out
    folder = tmp_path / "results" / "rank" / "features-best"
    assert not (tmp_path / "results" / "transfer").exists()  # where runs with other flags may lie
    record = json.loads((folder / "ranking.json").read_text())
    candidates = record["candidates"]
    assert [candidate["accuracy"] for candidate in candidates.values()] == [0.3, 0.6, 0.9]
    # The target's features are the same for each: what the source head makes of them differs.
    leep = [candidate["scores"]["LEEP"]["value"] for candidate in candidates.values()]
    logme = {candidate["scores"]["LogME"]["value"] for candidate in candidates.values()}
    assert leep[0] == min(leep) < max(leep) and len(logme) == 1
    kendall = stats.kendalltau(leep, (0.3, 0.6, 0.9)).statistic
    assert record["agreement"]["LEEP"]["Kendall"]["value"] == pytest.approx(kendall)
    lost = 0.9 - (0.3, 0.6, 0.9)[int(np.argmax(leep))]
    assert record["agreement"]["LEEP"]["regret"]["value"] == pytest.approx(lost)
    assert record["agreement"]["LogME"]["Kendall"]["value"] is None
    for name in ("published bound", "certificate", "loss of h"):
        bound = candidates["features (features-poor)"]["scores"][name]
        assert bound["value"] > 0 and bound["lower_is_better"]
    for name, scores in candidates.items():
        low, high = scores["scores"]["LEEP"]["interval"]
        assert low <= scores["scores"]["LEEP"]["value"] <= high, name
    with (folder / "scores.csv").open() as file:
        table = list(csv.reader(file))
    assert table[1][0] == "features (features-good)" and len(table) == 4
    for name in ("agreement.csv", "ranking.png", "ranking.pdf"):
        assert (folder / name).exists()
    again = rank_models.parse_options(shlex.split(record["command"])[2:])
    assert sources[:3] == again.SRC and SHORT.split() == again.TRANSFER_FLAGS
    assert set(record["data"]) == {"features-best", "features-poor", "features-fair", "features-good"}
    assert "| features (features-good) | 0.900 |" in shown

    truth.write_text("model,source,accuracy\nfeatures,features-poor,0.3\n")
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, "--TRUTH", str(truth), "--RESULTS_DIR", str(tmp_path / "other")])
    assert stop.value.code == 2
    complaint = "has no accuracy of features (features-fair), features (features-good)"
    assert complaint in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_a_candidate_that_fails_is_left_out(tmp_path, sources, capsys):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 7)), np.arange(90) % 3
    np.savez(tmp_path / "wide.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    wide = f"features:{tmp_path / 'wide.npz'}"
    argv = ["--TRG", sources[3], *TINY, *places(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, "--SRC", sources[0], wide])
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert "failed: transfer features-wide" in shown.err and "features (features-poor)" in shown.out
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, "--SRC", wide])
    assert stop.value.code == 2 and "no candidate is left: " in capsys.readouterr().err


def test_an_accuracy_that_could_not_be_measured_is_not_taken_from_an_earlier_run(
    tmp_path, sources, capsys, monkeypatch
):
    argv = ["--SRC", *sources[:2], "--TRG", sources[3], *TINY, *places(tmp_path)]
    rank_models.main([*argv, "--FINETUNE", "linear"])

    def broken(*_):
        raise InputError("no head today")

    monkeypatch.setattr("finetune_source_model_on_target_task.evaluate_head", broken)
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, "--FINETUNE", "linear", "--TAU", "0.3"])
    assert stop.value.code == 2
    assert "no candidate is left: no head today" in capsys.readouterr().err
    rank_models.main([*argv, "--TAU", "0.3"])  # without accuracies heads do not matter


def test_a_ranking_without_truth_and_with_an_undefined_bound(tmp_path, sources, capsys):
    arrays = dict(np.load(sources[0].removeprefix("features:")))
    kept = {split: arrays[f"y_{split}"] < 2 for split in ("train", "test")}
    two = {f"{k}_{split}": arrays[f"{k}_{split}"][kept[split]] for split in kept for k in "xy"}
    np.savez(tmp_path / "two.npz", **two)
    argv = ["--SRC", f"features:{tmp_path / 'two.npz'}", sources[1], "--TRG", sources[3]]
    rank_models.main([*argv, *TINY, *places(tmp_path)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| features (")]
    assert rows[0].startswith("| features (features-fair)") and "| — |" in rows[1]


@pytest.mark.slow
def test_models_with_controls_and_measured_accuracies(tmp_path, capsys, monkeypatch):
    few = ("--TRAIN_FLAGS", "--EPOCHS 1", "--TRANSFER_FLAGS", "--CERTIFICATE_STEPS 3 --MATCHINGS 1")
    argv = [
        "--SRC", "MNIST", "--TRG", "FMNIST", "--model", "lenet", "random:lenet", "--DATA", "embedded",
        *few, "--RESAMPLES", "3", "--SAMPLES", "200", *places(tmp_path),
    ]  # fmt: skip
    path = tmp_path / "results" / "rank" / "FMNIST" / "ranking.json"
    accuracies = {}
    for how in ("linear", "full"):
        rank_models.main([*argv, "--FINETUNE", how, "--EPOCHS", "1"])
        candidates = json.loads(path.read_text())["candidates"]
        accuracies[how] = {name: about["accuracy"] for name, about in candidates.items()}
    assert set(accuracies["full"]) == {"lenet (MNIST)", "random-lenet (MNIST)"}
    assert min(accuracies["full"].values()) > 0.6  # 31 steps of 8,000 images are 250
    assert len(list((tmp_path / "checkpoints" / "fine_tuned").iterdir())) == 2  # and used again
    with monkeypatch.context() as patched:
        patched.setattr("utils.candidates.fine_tune", None)
        rank_models.main([*argv, "--FINETUNE", "full", "--EPOCHS", "1"])
    sizes = {about["scores"]["model size (log10)"]["value"] for about in candidates.values()}
    assert len(sizes) == 1 and 10 ** sizes.pop() == pytest.approx(185_770, abs=1)
    assert "fewer than three candidates" in capsys.readouterr().out


def test_fine_tuning_leaves_the_backbone_alone(trained):
    import torch

    from utils.backbones import load_backbone
    from utils.datasets import load_dataset
    from utils.storage import state_digest

    (network,) = (trained / "checkpoints" / "networks").iterdir()
    backbone = load_backbone("lenet", torch.device("cpu"), weights=network)
    before = state_digest(backbone.network.state_dict())
    data = load_dataset("MNIST", "embedded")
    train, test = (split.select(torch.arange(640)) for split in (data.train, data.test))
    accuracy = fine_tune(backbone, train, test, 10, epochs=3, seed=0)
    assert accuracy > 0.8  # it has seen MNIST already
    assert accuracy == fine_tune(backbone, train, test, 10, epochs=3, seed=0)
    assert state_digest(backbone.network.state_dict()) == before and not backbone.network.training


TWO_SCALES = ("--SRC", "MNIST", "--TRG", "FMNIST", "--MODEL", "lenet", "resnet18")


@pytest.mark.parametrize(
    "flags",
    [
        [],  # validated strengths, and no published form
        ["--ANALYSIS", "both", "--TAU", "0.1"],
        ["--PROCEDURE", "published", "--TAU", "0.1"],
        ["--MODEL", "lenet", "--ANALYSIS", "both", "--TRANSFER_FLAGS", "--TAU 0.1"],
        ["--FINETUNE_FLAGS", "--TAU 0.1"],
    ],
)
def test_heads_that_can_be_compared_are(flags):
    options = rank_models.parse_options([*TWO_SCALES, *flags])
    planned = rank_models.plan(options)
    rank_models.check_comparable(planned)
    analysis = f"--ANALYSIS {options.ANALYSIS}"
    assert all(analysis in " ".join(job.argv) for job in planned if job.stage == "transfer")


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--TRUTH", "x.csv", "--FINETUNE", "linear"], "give one of them"),
        (["--TRUTH", "/nonexistent/x.csv"], "--TRUTH /nonexistent/x.csv is not a table"),
        (["--MODEL", "resnet19"], "did you mean resnet18"),
        (["--MODEL", "random:resnet19"], "timm knows no architecture resnet19"),
        (["--FINETUNE", "half"], "must be one of linear, full"),
        (["--FINETUNE", "full"], "--FINETUNE full needs images and networks"),
        (
            [*TWO_SCALES, "--ANALYSIS", "both"],
            "heads of different τ cannot be compared: 0.2 (transfer, lenet), 0.02 (transfer, resnet18)",
        ),
        (
            [*TWO_SCALES, "--PROCEDURE", "published"],
            "heads of different τ cannot be compared: 0.2 (finetune, lenet), 0.02 (finetune, resnet18)",
        ),
        ([*TWO_SCALES, "--TRANSFER_FLAGS", "--ANALYSIS both"], "--ANALYSIS is one of the table's own"),
        (["--TRANSFER_FLAGS", "--TARGET_LABELS pseudo"], "no --TARGET_LABELS pseudo"),
        (["--RESAMPLES", "1"], "must be 0 or at least 2"),
        (["--SRC"], "expected at least one argument"),
    ],
)
def test_bad_input_is_one_line(tmp_path, sources, capsys, flags, complaint):
    with pytest.raises(SystemExit) as stop:
        rank_models.main(["--SRC", sources[0], "--TRG", sources[1], *flags, *places(tmp_path)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: rank_models: ") and complaint in line
    assert not (tmp_path / "results").exists()


def test_scores_are_what_the_record_says():
    score = Score(1.0, (0.5, 1.5), 0.1)
    about = {"value": 1.0, "interval": (0.5, 1.5), "seconds": 0.1, "lower_is_better": False}
    assert vars(score) == about
    assert score.rank == 1.0 == -Score(1.0, None, 0.1, lower_is_better=True).rank


def test_an_undefined_score_is_left_out_with_a_warning(candidate):
    """A dead backbone: every feature of every sample is the same."""
    with pytest.warns(UserWarning, match=r"H-score of lenet \(MNIST\) is undefined"):
        scores = score_candidate(replace(candidate, x=np.zeros_like(candidate.x)), 4, 0)
    assert (
        "H-score" not in scores and {"LEEP", "k-NN", "certificate", "published bound"} <= scores.keys()
    )
    assert all(math.isfinite(score.value) for score in scores.values())


def test_scores_of_the_result_are_losses_with_their_seconds(candidate):
    scores = score_candidate(candidate, 0, 0)
    bound, certificate = scores["published bound"], scores["certificate"]
    assert (bound.value, bound.interval, bound.seconds) == (3.0, (2.9, 3.1), 1 + 2 + 8)
    assert (certificate.value, certificate.interval) == (1.5, (1.4, 1.6))
    assert certificate.seconds == 16 + 32 + 64
    assert bound.lower_is_better and certificate.rank == -1.5
    assert (scores["loss of h"].value, scores["loss of h"].interval) == (1.0, (0.9, 1.1))
    assert scores["certificate's source loss"].value == 0.7
    assert scores["certificate's transport"].rank == -0.8
    assert scores["label mismatch"].interval is None  # it depends on no sample
    assert scores["LEEP"].seconds >= 7.0  # the classifier's
    assert scores["model size (log10)"].value == 3


@pytest.fixture
def candidate() -> Candidate:
    rng = np.random.default_rng(0)
    names = ("bound_published", "bound_certified", "weighted_source_loss", "distribution_mismatch")
    transfer = {
        "published": {
            **dict.fromkeys(names, 3.0), "label_mismatch": 0.5,
            "intervals": {name: [2.9, 3.1] for name in names},
        },
        "seconds": {
            "source_head": 1, "transform": 2, "bound": 8,
            "heads": 16, "certificate": 32, "certificate_bound": 64,
        },
        "certificate": {
            "bound_certified": 1.5, "target_loss": 1.0, "certified_source_loss": 0.7,
            "certified_transport": 0.8,
            "intervals": {"bound_certified": [1.4, 1.6], "target_loss": [0.9, 1.1]},
        },
    }  # fmt: skip
    return Candidate(
        "lenet", "MNIST", "digest", transfer, {}, rng.normal(size=(60, 4)), np.arange(60) % 3,
        rng.dirichlet(np.ones(3), 60), 7.0, 1000, None,
    )  # fmt: skip
