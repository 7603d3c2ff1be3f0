"""Rankings: intervals, odds, agreement with the truth, tables of others, the script on tiny tasks."""

import csv
import itertools
import json
import math
import re
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import rank_models
from tests.conftest import places
from utils.agreement import BY_ACCURACY, BY_BOTH, order_agreement, regret
from utils.backbones import NetworkSpec
from utils.errors import InputError
from utils.features import Features
from utils.learning_curve import LearningCurve
from utils.linear_head import fit_validated_ridge
from utils.ranking import (
    PREDICTED,
    Candidate,
    Comparison,
    Decision,
    Entry,
    Facts,
    Prediction,
    RankingSettings,
    Score,
    Standing,
    choose_points,
    consensus,
    decide,
    fine_tune,
    headline_of_sources,
    mean_rank_elsewhere,
    measure_full,
    more_or_another,
    open_candidate,
    place_of,
    predict_accuracy,
    published_agreement,
    rank,
    read_ranking,
    read_scores,
    read_truth,
    score_candidate,
    write_ranking,
)
from utils.statistics import jackknife_interval
from utils.storage import read_json, replace_files, write_json

SHORT = ("--RESAMPLES", "200")


pytestmark = pytest.mark.usefixtures("quick_certificates")


# ------------------------------------------------------------------------------------------- intervals
@pytest.mark.parametrize("each", [40, 5])
def test_jackknife_intervals_hold_the_mean_as_often_as_they_say(each):
    """Five parts, and Student's t with four degrees of freedom: 95 % all the same."""
    rng = np.random.default_rng(0)
    folds, held = np.tile(np.arange(5), each), 0
    for _ in range(1000):
        values = rng.normal(size=len(folds))
        low, high = jackknife_interval(
            values.mean(), lambda out, values=values: values[~out].mean(), folds
        )
        held += low <= 0 <= high
    assert 0.93 <= held / 1000 <= 0.97
    assert jackknife_interval(0.0, np.mean, np.zeros(9, dtype=int)) is None


def noisy_classes(rng, each: int, classes: int = 4, dim: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(each * classes) % classes
    x = torch.from_numpy(rng.normal(size=(len(y), dim)).astype(np.float32))
    return x + 1.2 * torch.eye(dim)[y], y


@pytest.mark.parametrize("each, new_images", [(10, 200), (60, 400)])
def test_predicted_intervals_hold_the_accuracy_on_new_images(each, new_images):
    held = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        x, y = noisy_classes(rng, each)
        new_x, new_y = noisy_classes(rng, new_images // 4)
        fitted = fit_validated_ridge(x, y, 4, "test")
        low, high = predict_accuracy(fitted, y, new_images).interval
        logits = new_x @ fitted.weight.T + fitted.bias
        held += low <= (logits.argmax(1) == new_y).double().mean() <= high
    assert held >= 54  # 90 %


def test_a_prediction_is_of_images_that_the_probe_has_not_seen():
    rng = np.random.default_rng(0)
    x, y = noisy_classes(rng, 5, dim=400)
    fitted = fit_validated_ridge(x, y, 4, "test")
    prediction = predict_accuracy(fitted, y, 100)
    seen = ((x @ fitted.weight.T + fitted.bias).argmax(1) == y).double().mean()
    assert seen == 1.0 > prediction.accuracy and len(prediction.right) == 20
    # Image for image: the same folds whatever the features, so that candidates can be compared.
    k = int(fitted.held_out.argsort()[3])
    assert prediction.right[3] == float(fitted.held_out_logits[k].argmax() == y[3])


def test_a_class_of_one_image_says_nothing_of_accuracy():
    """It can be judged by no head but the one that it was fitted to."""
    rng = np.random.default_rng(0)
    x, y = noisy_classes(rng, 5, dim=400)
    with_one = torch.cat([y, torch.tensor([4])]), torch.cat([x, torch.randn(1, 400)])
    fitted = fit_validated_ridge(with_one[1], with_one[0], 5, "test")
    assert len(predict_accuracy(fitted, with_one[0], 100).right) == 20
    alone = fit_validated_ridge(x[:4], y[:4], 4, "test")
    with pytest.raises(InputError, match="no class has two training images"):
        predict_accuracy(alone, y[:4], 100)


# -------------------------------------------------------------------------------------------- decisions
def prediction(right) -> Prediction:
    right = np.asarray(right, float)
    return Prediction(right.mean(), (0.0, 1.0), right)


def test_odds_are_those_of_all_resamples():
    """Three images: their 27 resamples by hand."""
    first, second = [1, 1, 0], [1, 0, 0]
    wins = 0.0
    lost = 0.0
    for draw in itertools.product(range(3), repeat=3):
        a, b = sum(first[k] for k in draw), sum(second[k] for k in draw)
        wins += 1.0 if a > b else 0.5 if a == b else 0.0
        lost += max(0, b - a) / 3
    found = decide({"a": prediction(first), "b": prediction(second)}, {"a": 1, "b": 2}, 20_000, 0)
    assert found.pick == "a" and found.odds["a"] == pytest.approx(wins / 27, abs=0.01)
    assert found.regret == pytest.approx(lost / 27, abs=0.005) and found.rivals == ("b",)
    assert sum(found.odds.values()) == pytest.approx(1)
    assert found.line.startswith("take a: best in ") and "cannot tell it from b" in found.line


def test_what_is_clearly_worse_is_no_rival():
    rng = np.random.default_rng(0)
    good, fair, bad = (rng.random(2000) < p for p in (0.8, 0.79, 0.6))
    found = decide(
        {"bad": prediction(bad), "fair": prediction(fair), "good": prediction(good)},
        {"bad": 1, "fair": 2, "good": 3},
        2000,
        0,
    )
    assert set(found.rivals) <= {"good", "fair"} and "bad" not in found.rivals
    assert found.odds["bad"] == 0.0 and list(found.odds)[-1] == "bad"
    again = {"x": prediction(good), "y": prediction(good), "z": prediction(bad)}
    of_candidate = decide(again, {"x": "same", "y": "same", "z": "other"}, 100, 0)
    assert list(of_candidate.odds) == ["x", "z"] and of_candidate.rivals == ()
    alone = decide({"x": prediction(good)}, {"x": 1}, 100, 0)
    assert alone.line == "x is the only candidate: there is nothing to choose between"


def curve_of(gain: float) -> LearningCurve:
    """Of 1,000 images, the error at all of them 0.3."""
    return replace(
        LearningCurve.of(np.zeros((3, 100)), (250, 500, 1000), (200, 400, 800)),
        accuracies=(0.7 - 2 * gain, 0.7 - gain, 0.7),
        covariance=1e-9 * np.eye(3),
    )


@pytest.mark.parametrize(
    "gain, regret_, verdict",
    [
        (0.04, 0.002, "more labels"),
        (0.001, 0.03, "another network"),
        (0.0, 0.001, "neither brings much"),
        (0.03, 0.03, "about as much"),
    ],
)
def test_more_labels_are_compared_with_another_network(gain, regret_, verdict):
    predictions = {"a": prediction([1, 1, 0, 0]), "b": prediction([1, 0, 0, 0])}
    decision = Decision("a", {"a": 0.9, "b": 0.1}, regret_, ("b",))
    line = more_or_another(curve_of(gain), decision, predictions)
    assert line.startswith(
        f"more labels or another network? {verdict}: twice as many labels (2000 images)"
    )
    predicted = float(line.partition("add about ")[2].partition(" points")[0]) / 100
    assert predicted == pytest.approx(gain, abs=0.01) and "the next, b, is 25.0 lower" in line
    assert f"these networks {100 * regret_:.1f} (the expected regret" in line


def test_more_labels_where_there_is_nothing_to_compare_or_to_say():
    alone = Decision("a", {"a": 1.0}, 0.0, ())
    line = more_or_another(curve_of(0.04), alone, {"a": prediction([1, 0])})
    assert line.startswith("more labels? twice as many") and "no other network" in line
    few = LearningCurve.of(np.zeros((1, 9)), (9,), (7.2,))
    assert "is not said: a class has fewer than 8" in more_or_another(few, alone, {})


def test_the_consensus_is_the_mean_rank_by_scores_that_all_have():
    scores = {
        "a": {"p": Score(0.9, None, 0), "q": Score(1.0, None, 0, lower_is_better=True)},
        "b": {"p": Score(0.8, None, 0), "q": Score(0.5, None, 0, lower_is_better=True)},
        "c": {"p": Score(0.8, None, 0), "q": Score(2.0, None, 0, lower_is_better=True), "r": None},
    }
    found = {name: score.value for name, score in consensus(scores, ("p", "q", "r")).items()}
    assert found == {"a": 1.5, "b": 1.75, "c": 2.75}
    assert consensus(scores, ("r",)) == {}


# ------------------------------------------------------------------------------------------- agreement
def test_agreement_is_scipys_and_the_regret_that_of_the_pick():
    scores, truth = [0.1, 0.5, 0.4, 0.9, 0.05, 0.0], [0.2, 0.6, 0.8, 0.7, 0.1, 0.05]
    found = order_agreement(scores, truth, 200, 0)
    assert found["Pearson"][0] == pytest.approx(np.corrcoef(scores, truth)[0, 1])
    assert found["Kendall"][0] == pytest.approx((13 - 2) / 15)  # two pairs of 15 are discordant
    assert found["weighted Kendall"][0] == stats.weightedtau(scores, truth).statistic
    assert found["regret"][0] == pytest.approx(0.1)
    for name, (value, (low, high)) in found.items():
        assert low <= value <= high, name
    few = order_agreement(scores[:5], truth[:5], 200, 0)
    assert few["Kendall"] == (pytest.approx((8 - 2) / 10), None)
    constant = order_agreement([1.0] * 6, truth, 10, 0)
    assert all(np.isnan(value) and limits is None for value, limits in constant.values())


def test_models_of_one_network_are_drawn_together():
    scores, truth = np.arange(12.0), np.repeat(np.arange(6.0), 2)
    draws = order_agreement(scores, truth, 50, 0, networks=np.repeat(np.arange(6), 2).tolist())
    # Whole networks: Pearson's correlation of a draw is that of its pairs, at least 0.85 here.
    assert draws["Pearson"][1][0] > 0.85
    five = order_agreement(scores[:10], truth[:10], 50, 0, networks=np.repeat(np.arange(5), 2).tolist())
    assert five["Pearson"][1] is None  # ten models, but five networks


def test_regret_of_ties_and_of_models_without_a_score():
    truth = np.array([0.5, 0.9, 0.7, 0.95])
    assert regret(np.array([3.0, 1.0, 3.0, 2.0]), truth) == pytest.approx(0.95 - 0.6)
    assert np.isnan(regret(np.ones(4), truth))
    # The best model has no score, so that it cannot be picked: that is lost.
    assert regret(np.array([1.0, 2.0, 0.0, np.nan]), truth) == pytest.approx(0.05)
    values = order_agreement([1.0, 2.0, 0.0, math.nan], truth, 10, 0)
    assert values["Kendall"][0] == pytest.approx(stats.kendalltau([1, 2, 0], truth[:3]).statistic)


# ------------------------------------------------------------------------------------- tables of others
def test_a_table_of_accuracies(tmp_path):
    path = tmp_path / "truth.csv"
    rows = ["clip,,0.9", "lenet,MNIST,0.5", "lenet,USPS,0.6", "clip,KMNIST,0.8"]
    rows.append("random:lenet@64,features:a/B.npz,0.1")
    path.write_text("\ufeffModel,source,accuracy\n" + "\n".join(rows))
    table = read_truth(path)
    assert table.of("X", "clip", "KMNIST") == 0.8 and table.of("", "clip", "USPS") == 0.9
    assert table.of("X", "random-lenet@64", "features-B") == 0.1
    table.require("X", [("lenet", "USPS"), ("clip", "MNIST")])
    with pytest.raises(InputError, match=r"truth.csv has no accuracy of lenet \(FMNIST\), moco$"):
        table.require("X", [("lenet", "FMNIST"), ("moco", ""), ("clip", "X")])


def test_percent_becomes_fractions_and_targets_stand_apart(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text(
        "model,dataset,accuracy\na,pets,93.5\nb,pets,0\na,folder:x/BIRDS,50\nb,folder:x/BIRDS,60\n"
    )
    table = read_truth(path)
    assert table.of("pets", "a", "") == 0.935 and table.of("folder-BIRDS", "b", "") == 0.6
    with pytest.raises(InputError, match="no accuracy on dtd of a"):
        table.require("dtd", [("a", "")])
    assert mean_rank_elsewhere(table.by_target(), "pets") == {"a": 2.0, "b": 1.0}
    assert mean_rank_elsewhere(table.by_target(), "new") == {"a": 1.5, "b": 1.5}
    assert mean_rank_elsewhere({"": {"a": 0.5}}, "new") == {}  # it may be this one
    assert table.of("PETS", "a", "") == 0.935


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("model;accuracy\na;91,2\nb;0\nc;72\n", "utf-8"),
        ("model;accuracy\na;91,2 %\nb;0 %\nc;72 %\n", "utf-8-sig"),
        ("model;accuracy\na;0,912\nb;0\nc;0.72\n", "utf-8"),
        ("model,accuracy\na,91.2%\nb,0%\nc,72%\n", "utf-8"),
        ("model,accuracy\na,91.2 %\nb,0 %\nc,72\u00a0%\n", "utf-8"),
        ("Model,Accuracy (%)\na,91.2\nb,0\nc,72 %\n", "utf-8"),
        ('"MODEL" , "Top-1"\n"a" , "0.912"\nb, 0 \n c,.72\n', "utf-8"),
        ("source\tAcc@1\tNetwork\r\n\t91,2\ta\r\n\t0\tb\r\n\t72\tc\r\n", "utf-16"),
        ("sep=;\nbackbone;acc;notes, and more\na;0.912;\nb;0;x, y\nc;0.72;\n;;\n", "utf-8"),
        ("model,top1,accuracy\na,3,0.912\nb,2,0\nc,1,0.72\n", "utf-8"),  # the name itself first
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, text, encoding):
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    found = read_truth(tmp_path / "t.csv")
    assert {name: found.of("X", name, "") for name in "abc"} == {"a": 0.912, "b": 0.0, "c": 0.72}


def test_scores_as_spreadsheets_write_them(tmp_path):
    (tmp_path / "s.csv").write_text("Network;Target;LogME;kNN\na;x;0,5;91,2 %\nb;x;-1,5;\n")
    assert read_scores(tmp_path / "s.csv") == {
        "LogME": {"x": {"a": 0.5, "b": -1.5}},
        "kNN": {"x": {"a": 91.2}},
    }


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("model|accuracy\nlenet|0.5\n", "must name the columns accuracy, model"),
        ("model,value\nlenet,0.5\n", "must name the columns accuracy, model"),
        ("", "must name the columns"),
        ("model,accuracy\n", "there is no row below the names model, accuracy"),
        ("model,accuracy\nlenet,50\nclip,0.9\n", r"holds 0\.9 \(row 2\) and 50 \(row 1\)"),
        ("model,accuracy\nlenet,50\nclip,0.9\nmoco,0\n", "cannot be told apart"),
        ("model;accuracy\nlenet;50 %\nclip;0,9\n", r"accuracy holds 50 % \(row 1\) and 0,9 \(row 2\)"),
        ("model,accuracy [%]\nlenet,0.9\nclip,0\n", "said to be percent and holds nothing above 1"),
        ("model,accuracy\nlenet,500\n", r"must lie in .* not 500 \(row 1 below .* column accuracy\)"),
        ("model,accuracy\nclip,0.1\nlenet,-0.1\n", r"must lie in .* not -0\.1 \(row 2"),
        ("model,accuracy\nlenet,high\n", "row 1 below .*, column accuracy: high is no finite number"),
        ("model,accuracy\nlenet,0.9\nclip,91 % %\n", "row 2 .*: 91 % % is no finite number"),
        ('model,accuracy\nlenet,"0,9"\n', "row 1 .*: 0,9 is no finite number"),
        ("model;accuracy\nlenet;1.234,5\n", "1.234,5 is no finite number"),
        ("model,accuracy\nlenet,91,2\n", "row 1 below .* 3 cells for 2 columns .*put ; between"),
        ("model,top1,acc\nlenet,0.5,0.6\n", "columns top1 and acc could both be the accuracy"),
        ("model,accuracy\nlenet\n", "row 1 below the names has no accuracy"),
        ("model,accuracy\n\nlenet,0.5\n,0.5\n", "row 2 below the names has no model"),
        ("model,accuracy\nlenet,nan\n", "no finite number"),
        ("model,accuracy\nlenet,٠.٧\n", "no finite number"),
        ("model,accuracy\nlenet,0.1\nlenet,0.2\n", "lenet stands there twice"),
        ("model,target,accuracy\nlenet,x,0.1\nlenet,x,0.2\n", "lenet stands there twice for x"),
    ],
)
def test_a_bad_table_is_named(tmp_path, text, complaint):
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_truth(tmp_path / "truth.csv")


# LogME and NCE of ten networks and their accuracies (%) after fine-tuning, from the repository
# zhangyikaii/Model-Spider (learnware_info.py, commit d2a53e4), and the correlations that its authors
# print for them.
MODEL_SPIDER = """model,dataset,LogME,NCE,accuracy
googlenet,CIFAR10,0.293,-1.14,96.2
inception_v3,CIFAR10,0.349,-1.061,97.5
resnet50,CIFAR10,0.388,-1.007,96.8
resnet101,CIFAR10,0.463,-0.839,97.7
resnet152,CIFAR10,0.469,-0.851,97.9
densenet121,CIFAR10,0.302,-1.006,97.2
densenet169,CIFAR10,0.343,-0.946,97.4
densenet201,CIFAR10,0.369,-0.867,97.4
mobilenet_v2,CIFAR10,0.29,-1.089,95.7
mnasnet1_0,CIFAR10,0.304,-1.086,96.8
"""
PRINTED = {"LogME": "0.802", "NCE": "0.694"}


def test_published_correlations_are_found_again(tmp_path, capsys):
    lines = [line.split(",") for line in MODEL_SPIDER.split()]
    for name, columns in (("scores", (0, 1, 2, 3)), ("truth", (0, 1, 4))):
        text = "\n".join(",".join(line[k] for k in columns) for line in lines)
        (tmp_path / f"{name}.csv").write_text(text)
    scores = read_scores(tmp_path / "scores.csv")
    accuracies = read_truth(tmp_path / "truth.csv", for_order=True).by_target()
    head, rows = published_agreement(scores, accuracies, BY_ACCURACY)
    assert head == [BY_ACCURACY, "mean", "CIFAR10"]
    assert {row[0]: row[2] for row in rows} == {**PRINTED, "mean rank elsewhere": "—"}
    _, by_both = published_agreement(scores, accuracies, BY_BOTH)
    truth = [accuracies["CIFAR10"][line[0]] for line in lines[1:]]
    logme = [float(line[2]) for line in lines[1:]]
    assert by_both[0][2] == f"{stats.weightedtau(logme, truth).statistic:.3f}" == "0.785"

    files = ["--SCORES", str(tmp_path / "scores.csv"), "--TRUTH", str(tmp_path / "truth.csv")]
    rank_models.main([*files, "--RESULTS_DIR", str(tmp_path / "results")])
    assert "| LogME | 0.802 | 0.802 |" in capsys.readouterr().out
    saved = tmp_path / "results" / "rank" / "published" / "weighted_Kendall.csv"
    assert "LogME,0.785,0.785" in saved.read_text()


@pytest.mark.parametrize(
    "scores, truth, complaint",
    [
        ("model,s\na,1\nb,2\n", "model,accuracy\na,1\nb,0\n", "no three models of one target"),
        ("model,note\na,x\n", "model,accuracy\na,1\n", "no column of numbers"),
        ("model,s\na,1\na,2\n", "model,accuracy\na,1\n", "a stands there twice"),
        ("model,s\na,1\n", None, "give --TRUTH"),
    ],
)
def test_bad_scores_are_one_line(tmp_path, capsys, scores, truth, complaint):
    (tmp_path / "s.csv").write_text(scores)
    argv = ["--SCORES", str(tmp_path / "s.csv"), "--RESULTS_DIR", str(tmp_path / "results")]
    if truth:
        (tmp_path / "t.csv").write_text(truth)
        argv += ["--TRUTH", str(tmp_path / "t.csv")]
    with pytest.raises(SystemExit) as stop:
        rank_models.main(argv)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and complaint in line and not (tmp_path / "results").exists()


# ------------------------------------------------------------------------------------------ equal data
def test_points_are_some_of_each_class():
    labels = torch.arange(100) % 3
    names = ("a", "b", "c")
    few = choose_points(labels, names, 4, 10, 0)
    assert torch.bincount(labels[few]).tolist() == [4, 4, 4] and (few.diff() > 0).all()
    assert torch.equal(choose_points(labels, names, None, 1000, 0), torch.arange(100))
    assert torch.bincount(labels[choose_points(labels, names, None, 30, 0)]).tolist() == [10, 10, 10]
    with pytest.raises(InputError, match="class b has 33 training images, fewer than --SHOTS 34"):
        choose_points(labels, names, 34, 1000, 0)


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


def candidate_of(source: str | None, target: str, tmp_path, *flags: str) -> Candidate:
    argv = ["--TRG", target, *(["--SRC", source] if source else []), *flags, *places(tmp_path)]
    return opened(*argv, "--FINETUNE", "linear")


def compared(*argv: str) -> Comparison:
    return rank_models.comparison_of(rank_models.parse_options(argv))


def opened(*argv: str) -> Candidate:
    comparison = compared(*argv)
    ((name, entry),) = comparison.entries.items()
    return open_candidate(name, entry, comparison.settings)


def test_no_score_sees_the_test_split(tmp_path, sources):
    candidate = candidate_of(sources[1], sources[2], tmp_path)
    scored = score_candidate(candidate, 0)
    wanted = {
        PREDICTED,
        "k-NN",
        "LogME",
        "H-score",
        "TransRate",
        "GBC",
        "LEEP",
        "NCE",
        "certificate",
        "source p",
        "label map loss",
    }
    assert wanted <= scored.scores.keys()
    noise = Features(torch.randn_like(candidate.test.x), candidate.test.y.flip(0))
    other = score_candidate(replace(candidate, test=noise), 0)
    assert other.linear_accuracy < scored.linear_accuracy
    for name, score in scored.scores.items():
        assert score.value == other.scores[name].value and score.interval == other.scores[name].interval
        if score.interval:
            assert score.interval[0] <= score.value <= score.interval[1], name


def test_the_target_is_scored_once_for_all_sources(tmp_path, sources, monkeypatch):
    one, other = (candidate_of(source, sources[2], tmp_path) for source in sources[:2])
    assert one.view == other.view and one.network != other.network
    first, alone = score_candidate(one, 0), score_candidate(other, 0).scores
    monkeypatch.setattr("utils.ranking.scoring.fit_validated_ridge", None)
    second = score_candidate(other, 0, first).scores
    assert {name: score.value for name, score in second.items()} == {
        name: score.value for name, score in alone.items()
    }
    assert second["LEEP"].value != first.scores["LEEP"].value


def test_scores_of_features_see_them_as_the_network_gives_them(tmp_path, sources):
    """LogME and its like change when a coordinate is rescaled; the probe and k-NN see it scaled."""
    candidate = candidate_of(None, sources[2], tmp_path)
    assert candidate.points.x.std() > 1.2 > candidate.scaled.x.std()
    scaled = Features(candidate.points.x * torch.tensor([10.0, 1, 1, 1, 1]), candidate.points.y)
    before, after = (
        score_candidate(c, 0).scores for c in (candidate, replace(candidate, points=scaled))
    )
    for name in ("LogME", "H-score", "GBC"):
        assert before[name].value != pytest.approx(after[name].value, rel=1e-3), name
    assert "LEEP" not in before and "certificate" not in before


def test_an_undefined_score_is_left_out_with_a_warning(tmp_path, sources):
    """A dead backbone: every feature of every sample is the same."""
    candidate = candidate_of(sources[1], sources[2], tmp_path)
    dead = Features(torch.zeros_like(candidate.points.x), candidate.points.y)
    with pytest.warns(UserWarning, match="H-score of features is undefined"):
        scores = score_candidate(replace(candidate, points=dead, scaled=dead), 0).scores
    assert "H-score" not in scores and {PREDICTED, "k-NN", "LEEP"} <= scores.keys()
    assert all(math.isfinite(score.value) for score in scores.values())


# ------------------------------------------------------------------------------------------ the script
@pytest.mark.figures
def test_sources_are_ranked_for_a_target(tmp_path, sources, capsys):
    truth = tmp_path / "truth.csv"
    rows = zip(("poor", "fair", "good"), (0.3, 0.6, 0.9), strict=True)
    truth.write_text(
        "model,source,accuracy\n" + "".join(f"features,features-{s},{a}\n" for s, a in rows)
    )
    argv = ["--SRC", *sources[:3], "--TRG", sources[3], *SHORT, *places(tmp_path)]
    rank_models.main([*argv, "--TRUTH", str(truth)])
    shown = capsys.readouterr().out
    folder = tmp_path / "results" / "rank" / "features-best"
    for path in (*folder.glob("*.png"), *folder.glob("*.pdf")):
        assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF"), path
    record = json.loads((folder / "ranking.json").read_text())
    candidates = record["candidates"]
    accuracies = {name: about["accuracy"] for name, about in candidates.items()}
    assert accuracies == {
        f"features (features-{s})": a for s, a in (("poor", 0.3), ("fair", 0.6), ("good", 0.9))
    }
    # The target's features are the same for each: what the source's head makes of them differs.
    leep = {name: about["scores"]["LEEP"]["value"] for name, about in candidates.items()}
    logme = {about["scores"]["LogME"]["value"] for about in candidates.values()}
    assert min(leep, key=leep.get) == "features (features-poor)" and len(logme) == 1
    kendall = stats.kendalltau([leep[name] for name in accuracies], [*accuracies.values()]).statistic
    found = record["agreement"]["all candidates"]["scores"]
    assert found["LEEP"]["Kendall"]["value"] == pytest.approx(kendall)
    assert found["LogME"]["Kendall"]["value"] is None
    # One network with several sources: the relation says which.
    scores = {name: about["scores"] for name, about in candidates.items()}
    best = min(scores, key=lambda name: scores[name]["label map loss"]["value"])
    assert record["decision"]["pick"] == best == "features (features-good)"
    # Three classes mixed are hardly another classifier: none of the sources is known to be related.
    assert all(scores[name]["source p"]["value"] > 0.05 for name in scores)
    assert shown.startswith("one network with several sources: there is nothing to choose between; the")
    assert next(iter(candidates)) == best
    with (folder / "scores.csv").open() as file:
        table = list(csv.reader(file))
    assert table[1][0] == best and len(table) == 4
    for name in ("agreement_all_candidates.csv", "ranking.png", "ranking.pdf", "decision.png"):
        assert (folder / name).exists()
    again = rank_models.parse_options(shlex.split(record["command"])[2:])
    assert sources[:3] == again.SRC
    assert set(record["data"]) == {"features-best", "features-poor", "features-fair", "features-good"}

    truth.write_text("model,source,accuracy\nfeatures,features-poor,0.3\n")
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, "--TRUTH", str(truth), "--RESULTS_DIR", str(tmp_path / "other")])
    assert stop.value.code == 2
    complaint = "has no accuracy of features (features-fair), features (features-good)"
    assert complaint in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "p, loss, first, said",
    [
        (
            (0.01, 0.01, 0.5),
            (1.2, 0.9, 0.4),
            "b",
            "take b: of one network's sources the one whose classes",
        ),
        ((0.3, 0.5, 0.9), (1.2, 0.9, 1.0), "b", "one network with several sources: there is nothing"),
    ],
)
def test_a_source_is_chosen_by_p_and_then_by_the_label_map(p, loss, first, said):
    standings = {}
    for name, one, nats in zip("abc", p, loss, strict=True):
        scores = {"source p": Score(one, None, 0.0), "label map loss": Score(nats, None, 0.0)}
        scores[PREDICTED] = Score(0.8, None, 0.0)
        standings[name] = Standing(scores, Facts(None, 5, None))
    order = sorted(standings, key=lambda name: place_of(standings[name], "accuracy"))
    assert order[0] == first
    text = headline_of_sources(first, {name: standings[name] for name in order})
    assert text.startswith(said)
    empty = [name for name, one in zip("abc", p, strict=True) if one > 0.05]
    assert f"the classes of {', '.join(sorted(empty, key=order.index))} say no more" in text


def test_a_ranking_is_read_as_it_was_written(tmp_path, files):
    """Everything but what stays in memory: undefined agreements, and accuracies of both kinds."""
    settings = RankingSettings(metric="balanced", fine_tuning="linear", resamples=50)
    three = [name for path, name in files.items() if path != "feats/best"]
    found = rank(three, settings=settings)
    undefined = {"LogME": {"Kendall": (math.nan, None)}}
    found = replace(found, command="python3 …", agreement={"all candidates": (["a"], undefined)})
    with replace_files(tmp_path / "ranked") as new:
        write_ranking(new, found)
    read = read_ranking(tmp_path / "ranked" / "ranking.json")
    assert math.isnan(read.agreement["all candidates"][1]["LogME"]["Kendall"][0])
    assert read.accuracies == found.accuracies and read.table() == found.table()
    assert read.table()[0][:2] == ["model", "balanced"]
    for name, standing in read.standings.items():
        assert standing.balanced_accuracy == found.accuracies[name] and standing.accuracy > 0.2
    once = json.loads((tmp_path / "ranked" / "ranking.json").read_text())
    with replace_files(tmp_path / "again") as new:
        write_ranking(new, read)
    assert json.loads((tmp_path / "again" / "ranking.json").read_text()) == once


@pytest.mark.parametrize("wrong", [{"metric": "Balanced"}, {"fine_tuning": "half"}])
def test_settings_that_mean_nothing_are_refused(wrong):
    (value,) = wrong.values()
    with pytest.raises(InputError, match=f"^{value} is none of "):
        RankingSettings(**wrong)


def test_a_ranking_of_an_earlier_version_is_read(tmp_path, files):
    found = rank([*files.values()], settings=RankingSettings(resamples=50))
    with replace_files(tmp_path / "ranked") as new:
        write_ranking(new, found)
    path = tmp_path / "ranked" / "ranking.json"
    record = read_json(path)
    for name in ("metric", "majority_share", "more_labels", "near_copies"):
        del record[name]
    write_json(path, record)
    read = read_ranking(path)
    assert (read.metric, read.more_line, read.majority_share) == ("accuracy", None, None)
    assert read.line == found.line and read.scores.keys() == found.scores.keys()


def test_a_candidate_that_fails_is_left_out(tmp_path, sources, capsys):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 7)), np.arange(90) % 3
    np.savez(tmp_path / "wide.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    wide = f"features:{tmp_path / 'wide.npz'}"
    argv = ["--TRG", sources[3], *SHORT, *places(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, "--SRC", sources[0], wide])
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert "failed: features (features-wide): " in shown.err
    line = shown.out.splitlines()[0]
    assert line.endswith("1 failed and are not compared: features (features-wide)")
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, "--SRC", wide])
    assert stop.value.code == 2 and "no candidate is left: " in capsys.readouterr().err


def test_a_source_with_too_few_classes_has_no_certificate(tmp_path, sources, capsys):
    arrays = dict(np.load(sources[0].removeprefix("features:")))
    kept = {split: arrays[f"y_{split}"] < 2 for split in ("train", "test")}
    two = {f"{k}_{split}": arrays[f"{k}_{split}"][kept[split]] for split in kept for k in "xy"}
    np.savez(tmp_path / "two.npz", **two)
    argv = ["--SRC", f"features:{tmp_path / 'two.npz'}", sources[1], "--TRG", sources[3]]
    rank_models.main([*argv, *SHORT, *places(tmp_path)])
    shown = capsys.readouterr()
    assert "features (features-fair)" in shown.out.splitlines()[0]
    assert shown.err.count("warning: features (features-two): no certificate: 2 source classes") == 1


# ------------------------------------------------------------------------- feature files, one a network
@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """Features of the same samples through four networks: two folders hold a file called good; the best
    has neither a test split nor the usual names.
    """
    rng, y, new = np.random.default_rng(0), np.arange(120) % 3, np.arange(60) % 3
    for name, distance in (("feats/poor", 0.3), ("feats/good", 2.5), ("more/good", 1.2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        x, x_new = (distance * np.eye(5)[t] + rng.normal(size=(len(t), 5)) for t in (y, new))
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y + 1, x_test=x_new, y_test=new + 1)
    best = 4 * np.eye(7)[y] + rng.normal(size=(120, 7))
    np.savez(tmp_path / "feats" / "best.npz", x=best, y=np.array(["a", "b", "c"])[y])
    names = ("feats/poor", "feats/good", "more/good", "feats/best")
    return {name: f"features:{tmp_path / name}.npz" for name in names}


def test_feature_files_are_ranked_as_networks(tmp_path, files, capsys):
    rank_models.main(["--TRG", *files.values(), *SHORT, *places(tmp_path)])
    shown = capsys.readouterr()
    assert shown.out.startswith("take best: best in 1")
    path = tmp_path / "results" / "rank" / f"features-{tmp_path.name}" / "ranking.json"
    record = json.loads(path.read_text())
    assert list(record["candidates"]) == ["best", "feats/good", "more/good", "poor"]
    assert record["target_folder"] == str(tmp_path)
    assert {f"features-{name}" for name in record["candidates"]} == set(record["data"])
    assert sum(record["decision"]["odds"].values()) == pytest.approx(1)
    # The same machinery as for a file alone.
    for name, of_file in (("feats/good", files["feats/good"]), ("best", files["feats/best"])):
        alone = score_candidate(candidate_without_test(of_file, tmp_path), 0).scores
        scores = record["candidates"][name]["scores"]
        assert {key: score.value for key, score in alone.items()} == {
            key: about["value"] for key, about in scores.items() if key != "consensus"
        }
        assert scores[PREDICTED]["interval"] == list(alone[PREDICTED].interval)
    again = rank_models.parse_options(shlex.split(record["command"])[2:])
    assert list(files.values()) == again.TRG


def candidate_without_test(target: str, tmp_path) -> Candidate:
    return opened("--TRG", target, *places(tmp_path))


@pytest.mark.parametrize("target", ["feats", "feats/", "feats/*.npz", "feats/[bgp]*.npz"])
def test_a_folder_or_a_pattern_stands_for_its_files(tmp_path, files, capsys, target):
    (tmp_path / "feats" / "._good.npz").touch()  # as macOS leaves them
    argv = [f"features:{tmp_path / target}", *([f"features:{tmp_path}/feats/../feats/good.npz"])]
    assert list(compared("--TRG", *argv).entries) == ["best", "good", "poor"]
    assert list(compared("--TRG", f"features:{tmp_path}/more/*.npz").entries) == ["good"]
    assert list(compared("--TRG", files["more/good"]).entries) == ["features"]


def test_measured_accuracies_of_feature_files(tmp_path, files, capsys):
    three = [name for name in files if name != "feats/best"]
    target = ["--TRG", *(files[name] for name in three), *SHORT, *places(tmp_path)]
    rank_models.main([*target, "--FINETUNE", "linear", "--SHOTS", "30", "--SAMPLES", "80"])
    path = tmp_path / "results" / "rank" / f"features-{tmp_path.name}" / "ranking.json"
    record = json.loads(path.read_text())
    measured = {name: about["accuracy"] for name, about in record["candidates"].items()}
    assert measured["feats/good"] > measured["more/good"] > measured["poor"] > 0.2
    assert {about["points"] for about in record["data"].values()} == {90}
    assert set(record["agreement"]) == {"all candidates"}

    (tmp_path / "t.csv").write_text("Model;Accuracy\npoor;30,5 %\nfeats/good;91,2 %\nmore/good;40 %\n")
    rank_models.main([*target, "--TRUTH", str(tmp_path / "t.csv")])
    record = json.loads(path.read_text())
    assert record["candidates"]["feats/good"]["accuracy"] == pytest.approx(0.912)
    kendall = record["agreement"]["all candidates"]["scores"][PREDICTED]["Kendall"]
    assert kendall["value"] == 1.0
    capsys.readouterr()

    with pytest.raises(SystemExit):  # of which there is no test split
        rank_models.main(["--TRG", *files.values(), *SHORT, *places(tmp_path), "--FINETUNE", "linear"])
    shown = capsys.readouterr()
    assert "failed: best: " in shown.err and "x_test, y_test are missing" in shown.err


def test_two_files_of_the_same_features_are_one_network(tmp_path, files, capsys):
    shutil.copy(tmp_path / "feats" / "good.npz", tmp_path / "feats" / "copy.npz")
    rank_models.main(["--TRG", f"features:{tmp_path / 'feats'}", *SHORT, *places(tmp_path)])
    record = json.loads((tmp_path / "results/rank/features-feats/ranking.json").read_text())
    assert len(record["candidates"]) == 4 and len(record["decision"]["odds"]) == 3


def test_a_ranking_of_files_elsewhere_is_not_replaced_without_a_word(tmp_path, files, capsys):
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "more", tmp_path / "other" / "feats")
    for folder in ("feats", "feats", "other/feats"):
        rank_models.main(["--TRG", f"features:{tmp_path / folder}", *SHORT, *places(tmp_path)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert line == f"warning: replaces the ranking for {tmp_path / 'feats'} (other data)"


@pytest.mark.parametrize(
    "more, flags, complaint",
    [
        ("FMNIST", [], "several --TRG must be feature files of the same samples, .* and FMNIST is none"),
        ("feats/poor.npz", [], "and feats/poor.npz is none"),
        (
            None,
            ["--SRC", "MNIST"],
            "--SRC is seen by one network, and the files of --TRG are of several",
        ),
        (None, ["--model", "lenet", "clip"], "two candidates are called poor: .* give one --model"),
        (None, ["--FINETUNE", "full"], "--FINETUNE full needs images and networks"),
        ("features:{}/none/*.npz", [], "none/.* stands for no file: nothing matches"),
        ("features:{}/empty", [], "empty stands for no file: nothing matches .*empty/.*npz"),
        (
            "features:{}/short.npz",
            [],
            "poor.npz and .*short.npz are not of the same samples: .* 120 labels",
        ),
        ("features:{}/mixed.npz", [], r"poor.npz and .*mixed.npz are not .*: y_train\[0\] is 1 and 3"),
        ("features:{}/torn.npz", [], "torn.npz is not a readable .npz"),
    ],
)
def test_feature_files_that_cannot_be_compared(tmp_path, files, capsys, more, flags, complaint):
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.npz").write_bytes(b"PK")
    content = dict(np.load(tmp_path / "feats" / "poor.npz"))
    short = {"x_train": content["x_train"][:90], "y_train": content["y_train"][:90]}
    np.savez(tmp_path / "short.npz", **{**content, **short})
    np.savez(tmp_path / "mixed.npz", **{**content, "y_train": content["y_train"][::-1]})
    targets = [*files.values(), *([more.format(tmp_path)] if more else [])]
    with pytest.raises(SystemExit) as stop:
        rank_models.main(["--TRG", *targets, *flags, *places(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("error: rank_models: ")
    assert re.search(complaint, line) and not (tmp_path / "results").exists()


@pytest.fixture
def photographs(tmp_path) -> str:
    """Fifteen images of each of two classes, split by the tool: bright above, or bright below."""
    rng = np.random.default_rng(0)
    for name, top in (("above", 200), ("below", 40)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(15):
            pixels = rng.normal(0, 25, size=(40, 52, 3)) + 120
            pixels[:20] += top - 120
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(tmp_path / "photos" / name / f"{k}.png")
    return f"folder:{tmp_path / 'photos'}"


def test_networks_are_ranked_without_a_source(tmp_path, photographs, capsys):
    models = ["random:lenet", "random:resnet18@32", "random:resnet18@64"]
    argv = ["--TRG", photographs, "--model", *models, *SHORT, *places(tmp_path), "--WORKERS", "0"]
    rank_models.main([*argv, "--FINETUNE", "linear"])
    shown = capsys.readouterr()
    assert "3 candidates: random:lenet, random:resnet18@32, random:resnet18@64" in shown.err
    assert shown.err.count("its images become 28×28 grey ones for the LeNet") == 1
    assert shown.out.startswith("take ") and "| random:resnet18@64 | " in shown.out
    path = tmp_path / "results" / "rank" / "folder-photos" / "ranking.json"
    record = json.loads(path.read_text())
    for about in record["candidates"].values():
        assert about["images_per_second"] > 0 and about["parameters"] > 1e5
        assert "certificate" not in about["scores"] and 0 <= about["accuracy"] <= 1
    assert set(record["agreement"]) == {"all candidates"}  # without the controls nothing is left
    assert sum(record["decision"]["odds"].values()) == pytest.approx(1)
    more, pick = record["more_labels"], record["candidates"][record["decision"]["pick"]]
    assert shown.out.splitlines()[1] == more["line"] and more["sizes"] == [6, 12, 24]
    assert more["accuracies"][-1] == pick["scores"]["predicted accuracy"]["value"]
    assert more["twice"]["interval"][0] <= more["twice"]["accuracy"] <= more["twice"]["interval"][1]

    rank_models.main([*argv, "--SHOTS", "5"])
    few = json.loads(path.read_text())
    assert few["data"]["folder-photos"]["points"] == 10 and few["shots"] == 5
    assert few["candidates"]["random:lenet"]["accuracy"] is None
    assert few["more_labels"]["sizes"] == [5, 10] and few["more_labels"]["twice"] is None
    with pytest.raises(SystemExit):
        rank_models.main([*argv, "--SHOTS", "13"])
    assert "class above has 12 training images, fewer than --SHOTS 13" in capsys.readouterr().err


def test_candidates_that_read_other_images_are_not_compared(tmp_path, photographs, capsys):
    """An image that a LeNet's crop takes and a resizing network's memory does not."""
    Image.new("L", (70_000_000, 1)).save(tmp_path / "photos" / "above" / "0.png")
    argv = ["--TRG", photographs, "--model", "random:lenet", "random:resnet18@32", *SHORT]
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, *places(tmp_path), "--WORKERS", "0", "--MAX_CORRUPT", "1"])
    shown = capsys.readouterr()
    assert stop.value.code == 1
    assert "failed: random:resnet18@32: it could not read the same training images" in shown.err
    assert "1 failed and are not compared: random:resnet18@32" in shown.out


def test_own_grey_images_with_the_lenet(tmp_path, photographs, capsys):
    """As source and as target: stage 1 trains on one folder, the ranking runs on the other."""
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "photos"  # of the same name, but other images
    for name in ("above", "below"):
        (other / name).mkdir(parents=True)
        for file in (tmp_path / "photos" / name).iterdir():
            image = Image.open(file).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
            image.save(other / name / f"flipped_{file.name}")
    argv = ["--TRG", photographs, "--SRC", f"folder:{other}", *places(tmp_path), "--WORKERS", "0"]
    rank_models.main([*argv, *SHORT, "--TRAIN_FLAGS", "--EPOCHS 2"])
    shown = capsys.readouterr()
    assert shown.out.startswith("lenet is the only candidate: there is nothing to choose between")
    record = json.loads((tmp_path / "results/rank/folder-photos/ranking.json").read_text())
    assert record["candidates"]["lenet"]["scores"]["certificate"]["value"] > 0
    (network,) = (tmp_path / "checkpoints" / "networks").iterdir()
    assert network.name.startswith("lenet_folder-photos_data-")
    # A folder of the same name elsewhere has a network of its own.
    with pytest.raises(SystemExit):
        rank_models.main([*argv[:2], "--SRC", photographs, *argv[4:], "--TRAIN_FLAGS", "--EPOCHS 0"])
    assert "--EPOCHS" in capsys.readouterr().err


@pytest.mark.slow
def test_models_with_controls_and_measured_accuracies(tmp_path, capsys, monkeypatch):
    argv = [
        "--SRC",
        "MNIST",
        "--TRG",
        "FMNIST",
        "--model",
        "lenet",
        "random:lenet",
        "--DATA",
        "embedded",
        "--TRAIN_FLAGS",
        "--EPOCHS 1",
        "--SAMPLES",
        "600",
        *SHORT,
        *places(tmp_path),
    ]
    rank_models.main([*argv, "--FINETUNE", "full", "--EPOCHS", "5"])
    path = tmp_path / "results" / "rank" / "FMNIST" / "ranking.json"
    candidates = json.loads(path.read_text())["candidates"]
    accuracies = {name: about["accuracy"] for name, about in candidates.items()}
    assert set(accuracies) == {"lenet", "random:lenet"}
    # After 94 steps; by chance 0.1. What was trained on digits is ahead.
    assert accuracies["lenet"] > accuracies["random:lenet"] + 0.1 > 0.35
    assert len(list((tmp_path / "checkpoints" / "fine_tuned").iterdir())) == 2  # and used again
    monkeypatch.setattr("utils.ranking.fine_tuning.fine_tune", None)
    comparison = compared(*argv, "--EPOCHS", "5")
    for name, entry in comparison.entries.items():
        assert measure_full(entry, comparison.settings)[0] == accuracies[name]
    sizes = {about["parameters"] for about in candidates.values()}
    assert sizes == {185_770}
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


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--TRUTH", "x.csv", "--FINETUNE", "linear"], "give one of them"),
        (["--TRUTH", "/nonexistent/x.csv"], "--TRUTH /nonexistent/x.csv is not a table"),
        (["--MODEL", "resnet19"], "did you mean resnet18"),
        (["--MODEL", "random:resnet19"], "timm knows no architecture resnet19"),
        (["--MODEL", "timm:resnett*"], "timm has weights for no model like resnett*; nearest: resnet*"),
        (["--MODEL", "timm:vit_*"], "models, more than --MOST_MODELS 20: vit_"),
        (["--MODEL", "resnet18@", "--SRC", "MNIST", "--TRG", "FMNIST"], "write NAME@PIXELS"),
        (["--MODEL", "lenet@96", "--SRC", "MNIST", "--TRG", "FMNIST"], "has no effect on a LeNet"),
        (["--FINETUNE", "half"], "must be one of linear, full"),
        (["--FINETUNE", "full"], "--FINETUNE full needs images and networks"),
        (["--MODEL", "lenet", "clip"], "two candidates are called features"),
        (["--RESAMPLES", "0"], "must be a whole number from 1"),
        (["--SHOTS", "1"], "must be a whole number from 2"),
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


@pytest.mark.parametrize(
    "argv, complaint",
    [
        ([], "give the target with --TRG"),
        (["--TRG", "FMNIST"], "give the candidates with --model, or --SRC"),
        (["--TRG", "FMNIST", "--model", "lenet"], "lenet has no weights until stage 1 trains it"),
    ],
)
def test_what_is_missing_is_said(tmp_path, capsys, argv, complaint):
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, "--DATA", "embedded", *places(tmp_path)])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_a_target_of_one_class_is_refused(tmp_path, capsys):
    x, y = np.zeros((9, 4)), np.zeros(9, dtype=int)
    np.savez(tmp_path / "one.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(SystemExit) as stop:
        rank_models.main(["--TRG", f"features:{tmp_path / 'one.npz'}", *places(tmp_path)])
    assert stop.value.code == 2 and "has one class" in capsys.readouterr().err


def test_names_of_candidates():
    settings = RankingSettings(network=NetworkSpec("", eps=3))
    robust = Entry.of("robust@64", None, "FMNIST", settings)
    assert (robust.model, robust.image_size, robust.model_name) == (
        "robust_resnet18",
        64,
        "robust_resnet18@64",
    )
    assert robust.asked.network.eps == 3 and robust.asked.network.image_size == 64
    named = Entry.of("timm:resnet18.tv_in1k@64", None, "FMNIST", settings)
    assert named.model_name == "timm:resnet18.tv_in1k@64" and named.asked.network.eps is None
    assert Entry.of("random:lenet", "MNIST", "FMNIST", settings).is_control
    assert not Entry.of("lenet", "MNIST", "FMNIST", settings).is_control
