"""The stage scripts from the command line: the whole way, bad input, resuming, launchers."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import finetune_source_model_on_target_task as stage_2
import report
import train_source_model as stage_1
import transfer_source_to_target as stage_3
from tests.conftest import places
from tests.processes import run as python
from utils.backbones import LeNet
from utils.names import REPOSITORY
from utils.storage import save_checkpoint

CERTIFIED = {
    "fine_tuned_accuracy",
    "fine_tuned_loss",
    "target_accuracy",
    "target_loss",
    "accuracy_at_least",
    "bound_certified",
    "certified_source_loss",
    "certified_transport",
    "constant_prediction_loss",
    "bound_certified_train",
    "classes",
    "intervals",
    "start",
    "end",
    "improved",
}
QUANTITIES = {
    "target_accuracy",
    "target_loss",
    "transformed_source_accuracy",
    "transformed_source_loss",
    "weighted_source_loss",
    "label_mismatch",
    "wasserstein_distance",
    "tau_measured",
    "tau_certified",
    "bound_published",
    "bound_transformed",
    "bound_certified",
}
KEYS = {
    "stage",
    "source",
    "target",
    "model",
    "setting",
    "seed",
    "config",
    "data",
    "environment",
    "seconds",
}
PAIR = ["--SRC", "MNIST", "--TRG", "FMNIST", "--DATA", "embedded"]
SHORT = ["--ITERATIONS", "5", "--CERTIFICATE_STEPS", "3", "--MATCHINGS", "1", "--CONTROLS", "19"]


@pytest.fixture
def workplace(tmp_path, trained) -> Path:
    """A folder of its own with the trained network in it."""
    shutil.copytree(trained, tmp_path / "work")
    return tmp_path / "work"


def result(folder: Path, stage: str, pair: str, run: str) -> dict:
    return json.loads((folder / "results" / stage / pair / run / "result.json").read_text())


def fails(script, argv: list[str], capsys) -> str:
    """Runs a stage that must refuse; its one line on stderr."""
    with pytest.raises(SystemExit) as stop:
        script.main(argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def files(folder: Path) -> set[Path]:
    """Without the locks that processes take turns by."""
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


# ------------------------------------------------------------------------------------- the whole way
@pytest.mark.figures
def test_three_stages_leave_what_the_design_says(workplace, capsys):
    stage_2.main([*PAIR, *places(workplace)])
    stage_3.main(
        [*PAIR, "--TAU", "0.2", "--BATCH_SIZE", "500", "--ITERATIONS", "150", *places(workplace)]
    )
    shown = capsys.readouterr().out

    first = result(workplace, "train", "MNIST", "lenet_seed0")
    assert set(first) >= KEYS | {"test_accuracy", "test_loss"}
    assert first["test_accuracy"] > 0.8 and first["data"]["source"]["origin"] == "embedded"
    second = result(workplace, "finetune", "MNIST_to_FMNIST", "lenet_seed0")
    assert set(second) >= KEYS | {"test_accuracy", "test_loss"}
    assert second["weight_decay"] > 0 and second["test_accuracy"] > 0.75
    low, high = second["intervals"]["test_accuracy"]
    assert low < second["test_accuracy"] < high
    more = second["more_labels"]
    assert more["sizes"] == [2000, 4000, 8000] and more["accuracies"] == sorted(more["accuracies"])
    assert more["accuracies"][-1] < more["twice"]["accuracy"] < more["accuracies"][-1] + 0.05
    low, high = more["twice"]["interval"]
    assert low < second["test_accuracy"] < high
    assert (
        "with all 8000 images" in shown and f"would reach about {more['twice']['accuracy']:.3f}" in shown
    )

    third = result(workplace, "transfer", "MNIST_to_FMNIST", "lenet_LearnedAll_seed0")
    assert set(third) >= KEYS
    certificate, published = third["certificate"], third["published"]
    assert set(certificate) >= CERTIFIED and set(published) >= QUANTITIES
    for part in (certificate, published):
        assert part["bound_certified"] >= part["target_loss"]
    # Far below what a constant prediction costs, and h as good as linear fine-tuning.
    assert certificate["bound_certified"] < 1.1 < published["bound_certified"]
    assert certificate["target_accuracy"] > certificate["fine_tuned_accuracy"] - 0.02
    assert certificate["fine_tuned_loss"] == pytest.approx(second["test_loss"], rel=1e-5)
    assert published["bound_published"] == pytest.approx(
        published["weighted_source_loss"]
        + published["label_mismatch"]
        + published["tau_measured"] * published["wasserstein_distance"]
    )
    assert f"{second['test_loss']:.4f}" in shown  # the fine-tuned head stands in stage 3's table

    lines = (workplace / "results" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["train", "finetune", "transfer"]
    assert json.loads(lines[-1]) == third
    folder = workplace / "results/transfer/MNIST_to_FMNIST/lenet_LearnedAll_seed0"
    tensors = load_file(folder / "transform.safetensors")
    assert tensors["A"].shape == (200, 200) and tensors["B"].shape == (10, 10)
    tensors = load_file(folder / "certificate.safetensors")
    assert tensors["U"].shape == tensors["V"].shape == (10, 200)
    assert {path.name for path in folder.iterdir()} == {
        "result.json",
        "relation.safetensors",
        "relation.png",
        "transform.safetensors",
        "certificate.safetensors",
        "certificate.png",
        "bound.png",
        "label_map.png",
        "curves.png",
        "features.png",
    }


@pytest.mark.parametrize("setting", ["LearnedA", "FixedAll"])
def test_settings_are_a_flag(workplace, setting):
    stage_3.main([*PAIR, "--SETTING", setting, *SHORT, *places(workplace)])
    run = f"lenet_{setting}_seed0"
    record = result(workplace, "transfer", "MNIST_to_FMNIST", run)
    assert record["published"]["label_mismatch"] == 0
    assert record["certificate"]["bound_certified"] >= record["certificate"]["target_loss"]
    assert record["certificate"]["improved"] == (setting == "LearnedA")
    tensors = load_file(workplace / f"results/transfer/MNIST_to_FMNIST/{run}/transform.safetensors")
    assert sorted(tensors["B"].flatten().tolist()) == [0.0] * 90 + [1.0] * 10
    assert torch.equal(tensors["A"], torch.eye(200)) == (setting == "FixedAll")


def test_source_and_target_may_be_the_same(workplace):
    argv = ["--SRC", "MNIST", "--TRG", "MNIST", "--DATA", "embedded", *places(workplace)]
    stage_2.main(argv)
    stage_3.main([*argv, *SHORT])
    assert result(workplace, "finetune", "MNIST_to_MNIST", "lenet_seed0")["test_accuracy"] > 0.8


def test_feature_files_need_no_network(tmp_path, feature_files):
    argv = ["--SRC", feature_files[0], "--TRG", feature_files[1], *places(tmp_path)]
    stage_2.main(argv)
    stage_3.main(
        [*argv, "--BATCH_SIZE", "30", "--ITERATIONS", "200", "--TAU", "1", "--CERTIFICATE_STEPS", "60"]
    )
    pair = "features-source_to_features-target"
    assert result(tmp_path, "finetune", pair, "features_seed0")["test_accuracy"] > 0.9
    transfer = result(tmp_path, "transfer", pair, "features_LearnedAll_seed0")
    for part in ("certificate", "published"):
        assert transfer[part]["bound_certified"] >= transfer[part]["target_loss"]
    assert transfer["data"]["source"]["origin"] == "features"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["heads"]


def test_intervals_and_stopping_are_flags(tmp_path, feature_files, capsys):
    base = [
        "--SRC",
        feature_files[0],
        "--TRG",
        feature_files[1],
        *SHORT,
        "--BATCH_SIZE",
        "60",
        *places(tmp_path),
    ]
    results = tmp_path / "results" / "results.jsonl"

    def record(*flags: str) -> dict:
        stage_3.main([*base, "--OVERWRITE", *flags])
        return json.loads(results.read_text().splitlines()[-1])

    plain = record("--ITERATIONS", "12")
    assert "[ ]: 95 % intervals" in capsys.readouterr().out
    for part in ("certificate", "published"):
        low, high = plain[part]["intervals"]["bound_certified"]
        assert low < plain[part]["bound_certified"] < high
    assert plain["published"]["source_head_optimality_gap"] <= 1e-3
    without = record("--ITERATIONS", "12", "--BOOTSTRAP", "0")
    assert "[ ]: 95 % intervals" not in capsys.readouterr().out
    for part in ("certificate", "published"):
        assert without[part]["intervals"] is None
        assert without[part]["target_loss"] == plain[part]["target_loss"]
    assert plain["published"]["iterations"] == 12
    with pytest.raises(SystemExit):
        stage_3.main([*base, "--BOOTSTRAP", "-1"])
    assert "must be a whole number from 0 to 10000, not '-1'" in capsys.readouterr().err


def test_a_network_against_a_feature_file(workplace, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, dim in (("right", 200), ("wrong", 100)):
        x, y = rng.normal(size=(600, dim)), np.arange(600) % 10
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:100], y_test=y[:100])
    argv = ["--SRC", "MNIST", "--DATA", "embedded", *SHORT, *places(workplace)]
    stage_3.main([*argv, "--TRG", f"features:{tmp_path / 'right.npz'}"])
    capsys.readouterr()
    line = fails(stage_3, [*argv, "--TRG", f"features:{tmp_path / 'wrong.npz'}"], capsys)
    assert "MNIST has 200 features and features-wrong 100" in line


def test_the_published_procedure_runs(workplace):
    argv = ["--SRC", "MNIST", "--DATA", "embedded", "--PROCEDURE", "published", *places(workplace)]
    stage_1.main([*argv, "--EPOCHS", "1"])
    stage_2.main([*argv, "--TRG", "FMNIST", "--EPOCHS", "2"])
    stage_3.main(
        [*argv, "--TRG", "FMNIST", "--HEAD_EPOCHS", "2", "--ITERATIONS", "2", "--ANALYSIS", "published"]
    )
    run = result(workplace, "transfer", "MNIST_to_FMNIST", "lenet_LearnedAll_seed0_published")
    assert run["config"]["head"]["penalty_weight"] == 1e10
    assert run["config"]["transform"]["sampler"] == "truncated"
    assert run["config"]["tau_measure"] == "summed_pair"
    assert run["certificate"] is None and run["config"]["certificate"] is None
    assert (
        workplace / "results/finetune/MNIST_to_FMNIST/lenet_seed0_published/head.safetensors"
    ).exists()


# --------------------------------------------------------------------- repeating, resuming, overwriting
def without_seconds(record: dict) -> dict:
    return {key: value for key, value in record.items() if key not in ("seconds", "sha256")}


def test_same_seed_same_result_but_for_seconds(workplace):
    argv = [*PAIR, *SHORT, *places(workplace)]
    run = ("transfer", "MNIST_to_FMNIST", "lenet_LearnedAll_seed0")
    stage_3.main(argv)
    first = result(workplace, *run)
    stage_3.main([*argv, "--OVERWRITE"])
    second = result(workplace, *run)
    assert without_seconds(first) == without_seconds(second)
    assert first["seconds"] != second["seconds"]  # it did run again
    stage_3.main([*argv, "--SEED", "0", "--OVERWRITE", "True", "--LEARNING_RATE", "0.02"])
    other = result(workplace, *run)
    assert other["published"]["target_loss"] != first["published"]["target_loss"]
    assert other["certificate"] == first["certificate"]  # it knows nothing of the published form's rate


def test_a_finished_stage_says_so_and_stops(workplace, capsys):
    argv = [*PAIR, *SHORT, *places(workplace)]
    stage_1.main(["--SRC", "MNIST", "--DATA", "embedded", "--EPOCHS", "1", *places(workplace)])
    assert "the result was there" in capsys.readouterr().out
    for stage, extra in ((stage_2, []), (stage_3, SHORT)):
        stage.main([*PAIR, *extra, *places(workplace)])
        assert "the result was there" not in capsys.readouterr().out
        before = files(workplace)
        lines = (workplace / "results/results.jsonl").read_text()
        stage.main([*PAIR, *extra, *places(workplace)])
        assert "the result was there" in capsys.readouterr().out
        assert files(workplace) == before
        assert (workplace / "results/results.jsonl").read_text() == lines
    stage_3.main([*argv, "--TAU", "0.3"])
    assert "the result was there" not in capsys.readouterr().out
    folder = workplace / "results/transfer/MNIST_to_FMNIST/lenet_LearnedAll_seed0"
    for analysis, gone in (("published", "certificate"), ("certificate", "transform")):
        assert (folder / f"{gone}.safetensors").exists()
        stage_3.main([*argv, "--ANALYSIS", analysis])
        assert not (folder / f"{gone}.safetensors").exists()  # it would describe an earlier run


def test_a_retrained_network_makes_old_results_old(workplace, capsys):
    stage_2.main([*PAIR, *places(workplace)])
    stage_1.main(
        [
            "--SRC",
            "MNIST",
            "--DATA",
            "embedded",
            "--EPOCHS",
            "1",
            "--BATCH_SIZE",
            "100",
            *places(workplace),
        ]
    )
    capsys.readouterr()
    stage_3.main([*PAIR, *SHORT, "--ANALYSIS", "published", *places(workplace)])
    assert "(stage 2, " not in capsys.readouterr().out  # its head belongs to another network
    stage_2.main([*PAIR, *places(workplace)])
    assert "the result was there" not in capsys.readouterr().out


def test_killed_processes_go_on_to_the_same_numbers(feature_files, tmp_path):
    """SIGKILL in the middle of learning; the next run must end as one that was never stopped."""
    ended_while_saving = """if True:
        import os, sys
        import transfer_source_to_target
        from utils.storage import checkpoints
        checkpoints.SAVE_EVERY = 0.0
        how, left, write = *map(int, sys.argv[1:3]), checkpoints.write_checkpoint
        def write_and_count(path, state):
            global left
            write(path, state)
            left -= "resume_transform" in path.name
            if left == 0:
                os.kill(os.getpid(), how)
        checkpoints.write_checkpoint = write_and_count
        transfer_source_to_target.main(sys.argv[3:])
    """
    source, target = feature_files
    flags = [
        "--SRC",
        source,
        "--TRG",
        target,
        "--ITERATIONS",
        "60",
        "--BATCH_SIZE",
        "30",
        "--ANALYSIS",
        "published",
        "--CPUS",
        "1",
    ]

    def ended(folder: Path, how: int = 0, saved: int = 0) -> CompletedProcess:
        return python("-c", ended_while_saving, str(int(how)), str(saved), *flags, *places(folder))

    run = ("transfer", "features-source_to_features-target", "features_LearnedAll_seed0")
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    checkpoint = killed.joinpath("results", *run, "resume_transform.pt")
    for how, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        stopped = ended(killed, how, 20)
        assert stopped.returncode == status, stopped.stderr
        said = "terminated: the same command goes on from there" in stopped.stderr
        assert said == (how == signal.SIGTERM)
        assert checkpoint.exists()
        assert not (checkpoint.parent / "result.json").exists()
    assert list(checkpoint.parent.glob(".*.tmp"))  # what the killed one was writing

    for folder in (killed, whole):
        assert ended(folder).returncode == 0
    assert without_seconds(result(killed, *run)) == without_seconds(result(whole, *run))
    assert not checkpoint.exists()
    assert not list(tmp_path.rglob("*.tmp"))


# -------------------------------------------------------------------------------------------- bad input
BAD_INPUT = [
    (stage_1, "--SRC CIFAR", "not a data set; choose from MNIST, KMNIST, FMNIST, USPS, EMNIST"),
    (stage_1, "--SRC features:x.npz", "is not a data set"),
    (stage_1, "--SRC head", "is not a data set"),
    (stage_1, "--SRC MNIST --BATCH_SIZE 4001", "training samples (4000), not 4001"),
    (stage_1, "--SRC MNIST --EPOCHS 0", "--EPOCHS"),
    (stage_1, "--SRC KMNIST", "KMNIST has no embedded sample"),
    (stage_1, "--SRC MNIST --BATCH_SIZE 9", "number of classes (10)"),
    (stage_2, "--SRC MNIST --TRG FMNIST --PROCEDURE published", "--PROCEDURE published"),
    (stage_2, "--SRC features:gone.npz --TRG features:gone.npz", "gone.npz"),
    (stage_2, "--SRC features:~nobody-here/x.npz --TRG features:x.npz", "~nobody-here"),
    (stage_2, "--SRC MNIST --TRG EMNIST", "EMNIST is not a target data set"),
    (stage_2, "--SRC MNIST --TRG FMNIST --TAU -1", "--TAU"),
    (stage_2, "--SRC FMNIST --TRG MNIST", "train_source_model.py --SRC FMNIST --DATA"),
    (stage_2, "--SRC MNIST --TRG features:gone.npz", "gone.npz"),
    (stage_3, "--SRC MNIST --TRG FMNIST --SETTING LearnedB", "LearnedAll, LearnedA, FixedAll"),
    (stage_3, "--SRC MNIST --TRG FMNIST --BATCH_SIZE 9", "number of classes (10)"),
    (stage_3, "--SRC MNIST --TRG FMNIST --BATCH_SIZE 4001", "training samples (4000)"),
    (stage_3, "--SRC MNIST --TRG FMNIST --ITERATIONS 0", "--ITERATIONS"),
    (stage_3, "--SRC MNIST --TRG FMNIST --LABEL_WEIGHT inf", "--LABEL_WEIGHT"),
    (stage_3, "--SRC MNIST --TRG FMNIST --INVERSE_WEIGHT 0", "--INVERSE_WEIGHT"),
    (stage_3, "--SRC MNIST --TRG FMNIST --SEED 7", "--SRC MNIST --DATA embedded --SEED 7"),
    (stage_3, "--SRC features:a.npz --TRG features:a.npz", "a.npz"),
]


@pytest.mark.parametrize("stage, argv, complaint", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_no_trace(workplace, capsys, stage, argv, complaint):
    results = files(workplace / "results")
    line = fails(stage, [*argv.split(), "--DATA", "embedded", *places(workplace)], capsys)
    assert complaint in line
    assert files(workplace / "results") == results
    networks = {path for path in files(workplace) if "networks" in path.parts}
    assert len(networks) == 1


def test_a_stage_that_diverges_says_so_and_leaves_no_result(workplace, feature_files, capsys):
    rate = ["--LEARNING_RATE", "1e9"]
    before = files(workplace)
    line = fails(
        stage_1,
        ["--SRC", "MNIST", "--DATA", "embedded", "--EPOCHS", "1", *rate, *places(workplace)],
        capsys,
    )
    assert "training diverged" in line
    features = ["--SRC", feature_files[0], "--TRG", feature_files[1], *places(workplace)]
    by_sgd = ["--MODEL", "resnet18", "--PROCEDURE", "published", "--STEPS", "9"]
    line = fails(stage_2, [*features, *by_sgd, *rate], capsys)
    assert "target head diverged" in line
    line = fails(stage_3, [*features, "--BATCH_SIZE", "30", "--LABEL_LEARNING_RATE", "100"], capsys)
    assert "diverged at iteration" in line and "B is not finite" in line
    # The heads did not diverge, and are kept for the next run: the certificate's and the source's.
    assert [path.parent.name for path in files(workplace) - before] == ["heads"] * 3


def test_results_and_networks_of_other_runs_are_not_taken(workplace, capsys):
    """Whole files, but copied to another's place."""
    stage_2.main([*PAIR, *places(workplace)])
    folder = workplace / "results" / "finetune" / "MNIST_to_FMNIST"
    shutil.copytree(folder / "lenet_seed0", folder / "lenet_seed1")
    (network,) = (workplace / "checkpoints" / "networks").iterdir()
    shutil.copy(network, network.with_name(network.name.replace("seed0", "seed1")))
    capsys.readouterr()
    stage_2.main([*PAIR, "--SEED", "1", *places(workplace)])
    assert "is of another run; it is made again" in capsys.readouterr().err
    other = network.with_name(network.name.replace("MNIST", "FMNIST"))
    shutil.copy(network, other)
    line = fails(
        stage_2, ["--SRC", "FMNIST", "--TRG", "MNIST", "--DATA", "embedded", *places(workplace)], capsys
    )
    assert f"{other.name} holds the network of MNIST: it was renamed" in line


def test_stage_1_heals_a_damaged_network(workplace, capsys):
    (path,) = (workplace / "checkpoints" / "networks").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    argv = ["--SRC", "MNIST", "--DATA", "embedded", "--EPOCHS", "1", *places(workplace)]
    stage_1.main(argv)
    assert "the result was there" not in capsys.readouterr().out
    stage_1.main(argv)
    assert "the result was there" in capsys.readouterr().out


def test_results_that_are_none_are_made_again(workplace):
    argv = [*PAIR, *SHORT, *places(workplace)]
    stage_2.main([*PAIR, *places(workplace)])
    for stage, run in (("finetune", "lenet_seed0"), ("transfer", "lenet_LearnedAll_seed0")):
        path = workplace / "results" / stage / "MNIST_to_FMNIST" / run / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[1]" if stage == "transfer" else '{"a": 1}')
    stage_3.main(argv)
    assert set(result(workplace, "transfer", "MNIST_to_FMNIST", "lenet_LearnedAll_seed0")) >= KEYS


def test_the_strength_of_each_head_is_said(workplace, capsys):
    """--TAU asks for the constraint: stage 2 of the fine-tuned head, stage 3 of the published form."""
    stage_2.main([*PAIR, "--TAU", "0.5", *places(workplace)])
    fine_tuned = result(workplace, "finetune", "MNIST_to_FMNIST", "lenet_seed0")
    assert fine_tuned["tau_certified"] <= 0.5 and fine_tuned["weight_decay"] is None
    assert "more_labels" not in fine_tuned  # which is of a validated head
    capsys.readouterr()
    stage_3.main([*PAIR, "--TAU", "0.3", *SHORT, *places(workplace)])
    shown = capsys.readouterr().out
    assert "published form, τ = 0.3:" in shown and "(stage 2, τ = 0.5; nats)" in shown
    record = result(workplace, "transfer", "MNIST_to_FMNIST", "lenet_LearnedAll_seed0")
    assert record["certificate"]["fine_tuned_loss"] < fine_tuned["test_loss"]


def test_fewer_source_than_target_classes_are_told(tmp_path, capsys):
    """The published form has its undefined bounds, the certificate says why there is none."""
    rng = np.random.default_rng(0)
    for name, classes in (("A", 3), ("B", 4)):
        x, y = rng.normal(size=(60, 5)), np.arange(60) % classes
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    argv = ["--SRC", f"features:{tmp_path}/A.npz", "--TRG", f"features:{tmp_path}/B.npz", *SHORT]
    stage_3.main([*argv, "--BATCH_SIZE", "30", *places(tmp_path)])
    assert "3 source classes cannot stand for 4 target classes" in capsys.readouterr().out
    record = result(tmp_path, "transfer", "features-A_to_features-B", "features_LearnedAll_seed0")
    assert record["certificate"] is None and "cannot stand for" in record["no_certificate"]
    assert record["published"]["bound_certified"] is None


def test_the_head_that_a_file_carries_is_a_source(tmp_path, feature_files, capsys):
    """Without any source data: the relation is the whole answer."""
    arrays = dict(np.load(feature_files[1].removeprefix("features:")))
    weight, names = 4 * np.eye(5)[[1, 2, 0]], np.array(["one", "two", "none"])
    path = tmp_path / "own.npz"
    np.savez(path, **arrays, weight=weight, bias=np.zeros(3) - 8.0, class_names=names)
    argv = ["--TRG", f"features:{path}", "--CONTROLS", "19", *places(tmp_path)]
    stage_3.main(["--SRC", "head", *argv])
    shown = capsys.readouterr().out
    assert "the network's own classes are related to features-own's" in shown
    assert "the published form and the certificate are left out" in shown
    record = result(tmp_path, "transfer", "head_to_features-own", "features_LearnedAll_seed0")
    assert record["published"] is None and record["certificate"] is None
    assert record["relation"]["related"] and set(record["data"]) == {"target"}
    called = {one["target_class"]: one["called"][0][0] for one in record["relation"]["classes"]}
    assert called == {"0": "none", "1": "one", "2": "two"}
    stage_3.main(["--SRC", "HEAD", *argv])
    assert "the result was there" in capsys.readouterr().out
    report.main(["--RESULTS_DIR", str(tmp_path / "results")])
    for flags, complaint in (
        (["--ANALYSIS", "published"], "--SRC head has no source images, which published need"),
        (["--SETTING", "FixedAll"], "--SETTING has no effect on --SRC head"),
        (["--SOURCE_CLASSES", "2"], "--SOURCE_CLASSES has no effect on --SRC head"),
        (["--TRG", feature_files[0]], "weight"),
        (["--TRG", "MNIST"], "a pre-trained network brings: give a --model"),
        (["--TRG", "MNIST", "--model", "clip", "--DATA", "embedded"], "clip"),
    ):
        assert complaint in fails(stage_3, ["--SRC", "head", *argv, *flags], capsys)


def test_each_part_can_be_had_alone(tmp_path, feature_files):
    argv = ["--SRC", feature_files[0], "--TRG", feature_files[1], "--BATCH_SIZE", "30", "--CPUS", "1"]
    argv += ["--ITERATIONS", "5", "--CERTIFICATE_STEPS", "3", "--MATCHINGS", "1", "--CONTROLS", "19"]
    run = ("transfer", "features-source_to_features-target", "features_LearnedAll_seed0")
    stage_3.main([*argv, *places(tmp_path / "all")])
    whole = result(tmp_path / "all", *run)
    assert whole["published"]["start"] in ("random", "label_map")
    for part in ("relation", "published", "certificate"):
        stage_3.main([*argv, "--ANALYSIS", part, *places(tmp_path / part)])
        record = result(tmp_path / part, *run)
        assert record[part] == whole[part]
        assert [name for name in ("relation", "published", "certificate") if record[name]] == [part]


def test_the_same_data_as_source_and_target_are_judged_unseen(tmp_path, feature_files, capsys):
    argv = ["--SRC", feature_files[0], "--TRG", feature_files[0], "--ANALYSIS", "relation"]
    stage_3.main([*argv, "--CONTROLS", "19", *places(tmp_path)])
    assert "source and target are the same images" in capsys.readouterr().out
    run = ("transfer", "features-source_to_features-source", "features_LearnedAll_seed0")
    assert result(tmp_path, *run)["relation"]["shared_images"]


def test_a_class_of_two_samples_among_thousands(tmp_path):
    """A rare class neither ends the run nor is left out of what is judged."""
    rng = np.random.default_rng(0)
    for name in ("A", "B"):
        y = np.concatenate([[2, 2], np.arange(2998) % 2])
        x = rng.normal(size=(3000, 4)) + 2 * np.eye(4)[y]
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:400], y_test=y[:400])
    argv = ["--SRC", f"features:{tmp_path}/A.npz", "--TRG", f"features:{tmp_path}/B.npz"]
    stage_3.main([*argv, "--ANALYSIS", "certificate", *places(tmp_path)])
    record = result(tmp_path, "transfer", "features-A_to_features-B", "features_LearnedAll_seed0")
    certificate = record["certificate"]
    assert certificate["improved"] and len(certificate["classes"]) == 3
    assert certificate["target_loss"] <= certificate["bound_certified"] < 1
    assert record["published"] is None and set(record["seconds"]) == {
        "heads",
        "certificate",
        "certificate_bound",
        "near_copies",
    }


def test_results_of_an_earlier_version_are_made_again(workplace):
    """Theirs had the quantities at the top: the same configuration is not the same result."""
    argv = [*PAIR, "--ANALYSIS", "published", *SHORT, *places(workplace)]
    stage_3.main(argv)
    path = workplace / "results/transfer/MNIST_to_FMNIST/lenet_LearnedAll_seed0/result.json"
    record = json.loads(path.read_text())
    old = {**record, **record.pop("published"), "refined": None}
    for part in ("certificate", "published"):
        old.pop(part, None)
    path.write_text(json.dumps(old))
    stage_3.main(argv)
    assert json.loads(path.read_text())["published"]["bound_published"] == old["bound_published"]
    stage_2.main([*PAIR, "--TAU", "0.2", *places(workplace)])
    path = workplace / "results/finetune/MNIST_to_FMNIST/lenet_seed0/result.json"
    record = json.loads(path.read_text())
    record.pop("weight_decay")
    path.write_text(json.dumps(record))
    stage_2.main([*PAIR, "--TAU", "0.2", *places(workplace)])  # shown as it is


@pytest.mark.figures
@pytest.mark.parametrize("dim", [1, 2])
def test_few_dimensions(tmp_path, dim):
    rng = np.random.default_rng(0)
    for name in ("A", "B"):
        x, y = rng.normal(size=(60, dim)), np.arange(60) % 3
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    argv = ["--SRC", f"features:{tmp_path}/A.npz", "--TRG", f"features:{tmp_path}/B.npz", *SHORT]
    stage_3.main([*argv, "--BATCH_SIZE", "30", *places(tmp_path)])
    (folder,) = (tmp_path / "results" / "transfer").iterdir()
    assert (folder / "features_LearnedAll_seed0" / "features.png").exists()


def test_damaged_networks_are_named(workplace, capsys):
    (path,) = (workplace / "checkpoints" / "networks").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert path.name in fails(stage_2, [*PAIR, *places(workplace)], capsys)
    path.write_text("hello")
    assert path.name in fails(stage_3, [*PAIR, *places(workplace)], capsys)
    weights = LeNet(10).state_dict()
    weights["penultimate.8.weight"] = torch.zeros(100, 800)
    save_checkpoint(path, {"network": weights})
    assert "another architecture" in fails(stage_2, [*PAIR, *places(workplace)], capsys)


def test_features_gone_bad_name_the_stage(workplace, capsys):
    (path,) = (workplace / "checkpoints" / "networks").iterdir()
    weights = {
        name: torch.full_like(value, float("nan")) for name, value in LeNet(10).state_dict().items()
    }
    save_checkpoint(path, {"network": weights})
    assert "stage 2 (finetune): features of FMNIST" in fails(
        stage_2, [*PAIR, *places(workplace)], capsys
    )
    assert "stage 3 (transfer): features of MNIST" in fails(stage_3, [*PAIR, *places(workplace)], capsys)


def test_folders_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    for flag in ("--RESULTS_DIR", "--CHECKPOINT_DIR"):
        argv = [
            "--SRC",
            "MNIST",
            "--DATA",
            "embedded",
            *places(tmp_path),
            flag,
            str(tmp_path / "file" / "x"),
        ]
        assert flag in fails(stage_1, argv, capsys)


# ------------------------------------------------------------------------------------------- launchers
@pytest.mark.parametrize(
    "script", ["train_source_model", "finetune_source_model_on_target_task", "transfer_source_to_target"]
)
def test_launchers_answer_from_their_folder(script):
    shown = subprocess.run(
        [sys.executable, f"{script}.py", "--help"],
        cwd=REPOSITORY / "small_scale",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--SRC" in shown and f"python3 {script}.py" in shown


def test_bad_input_of_a_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "train_source_model.py", "--SRC", "CIFAR", *places(tmp_path)],
        cwd=REPOSITORY / "small_scale",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
