"""Rankings: intervals, agreement with the truth, and the script on tiny tasks."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

import rank_models
from tests.conftest import places
from utils.errors import InputError
from utils.fine_tuning import fine_tune
from utils.ranking import Score, agreement, check_truth, half_samples, interval_of, read_truth, regret

SHORT = "--ITERATIONS 5 --BATCH_SIZE 30 --BOOTSTRAP 5 --REFINE_STEPS 2"
TINY = ("--TRANSFER_FLAGS", SHORT, "--RESAMPLES", "4")


def test_halves_spread_as_the_mean_of_all_samples_does():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    halves = half_samples(np.zeros(400, dtype=int), 2000, 0)
    assert all(len(half) == len(set(half)) == 200 for half in halves[:20])
    low, high = interval_of(lambda half: values[half].mean(), values.mean(), halves)
    expected = 1.96 * values.std() / np.sqrt(400)
    assert high - values.mean() == pytest.approx(expected, rel=0.1)
    assert values.mean() - low == pytest.approx(expected, rel=0.1)
    assert interval_of(len, 1.0, []) is None


def test_halves_keep_the_classes():
    labels = np.repeat([0, 1, 2], [40, 10, 3])
    for half in half_samples(labels, 5, 0):
        assert np.bincount(labels[half]).tolist() == [20, 5, 2]


def test_agreement_is_scipys_and_the_regret_that_of_the_pick():
    scores, truth = [0.1, 0.5, 0.4, 0.9], [0.2, 0.6, 0.8, 0.7]
    found = agreement(scores, truth, 200, 0)
    assert found["Pearson"][0] == pytest.approx(np.corrcoef(scores, truth)[0, 1])
    assert found["Kendall"][0] == pytest.approx((4 - 2) / 6)  # two pairs of six are discordant
    assert found["weighted Kendall"][0] == stats.weightedtau(scores, truth).statistic
    assert found["regret"][0] == pytest.approx(0.1)
    for name, (value, (low, high)) in found.items():
        assert low <= value <= high, name
    constant = agreement([1.0, 1.0, 1.0], truth[:3], 10, 0)
    assert np.isnan(constant["Kendall"][0]) and constant["Kendall"][1] is None
    assert regret(np.array([3.0, 1.0]), np.array([0.5, 0.5])) == 0


# ------------------------------------------------------------------------------------------ the truth
def test_a_table_of_accuracies(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("model,source,accuracy\nlenet,MNIST,0.5\nlenet,USPS,0.6\nclip,,0.9\n")
    table = read_truth(path)
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
    argv = ["--SRC", *sources[:3], "--TRG", sources[3], *TINY, *places(tmp_path)]
    rank_models.main([*argv, "--TRUTH", str(truth)])
    shown = capsys.readouterr().out
    folder = tmp_path / "results" / "rank" / "features-best"
    record = json.loads((folder / "ranking.json").read_text())
    candidates = record["candidates"]
    assert [candidate["accuracy"] for candidate in candidates.values()] == [0.3, 0.6, 0.9]
    # The target's features are the same for each: what the source head makes of them differs.
    leep = [candidate["scores"]["LEEP"]["value"] for candidate in candidates.values()]
    logme = {candidate["scores"]["LogME"]["value"] for candidate in candidates.values()}
    assert leep == sorted(leep) and len(logme) == 1
    assert record["agreement"]["LEEP"]["Kendall"]["value"] == pytest.approx(1.0)
    assert record["agreement"]["LEEP"]["regret"]["value"] == 0
    assert record["agreement"]["LogME"]["Kendall"]["value"] is None
    for name, scores in candidates.items():
        low, high = scores["scores"]["LEEP"]["interval"]
        assert low <= scores["scores"]["LEEP"]["value"] <= high, name
    with (folder / "scores.csv").open() as file:
        table = list(csv.reader(file))
    assert table[1][0] == "features (features-good)" and len(table) == 4
    assert (folder / "agreement.csv").exists() and (folder / "ranking.png").exists()
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
    assert "failed transfer features-wide" in shown.err and "features (features-poor)" in shown.out
    with pytest.raises(SystemExit) as stop:
        rank_models.main([*argv, "--SRC", wide])
    assert stop.value.code == 2 and "no candidate is left: " in capsys.readouterr().err


@pytest.mark.slow
def test_models_with_controls_and_measured_accuracies(tmp_path, capsys):
    few = ("--TRAIN_FLAGS", "--EPOCHS 1", "--TRANSFER_FLAGS", "--ITERATIONS 5 --REFINE_STEPS 2")
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
    sizes = {about["scores"]["model size"]["value"] for about in candidates.values()}
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


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--TRUTH", "x.csv", "--FINETUNE", "linear"], "give one of them"),
        (["--TRUTH", "/nonexistent/x.csv"], "--TRUTH /nonexistent/x.csv is not a table"),
        (["--MODEL", "resnet19"], "did you mean resnet18"),
        (["--MODEL", "random:resnet19"], "timm knows no architecture resnet19"),
        (["--FINETUNE", "half"], "must be one of linear, full"),
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
    assert vars(Score(1.0, (0.5, 1.5), 0.1)) == {"value": 1.0, "interval": (0.5, 1.5), "seconds": 0.1}
