"""The published large-scale commands, letter for letter, on tiny data and random networks."""

import json
import runpy
import shlex

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights

import finetune_source_model_on_target_task as stage_2
import train_source_model as stage_1
import transfer_source_to_target as stage_3
from tests.conftest import places
from tests.test_pretrained import FORMATS, random_resnet
from tests.test_readme import STAGE_COMMANDS, STAGES
from tests.tiny_data import write_cifar, write_class_folders, write_imagenet
from utils.names import REPOSITORY
from utils.options import HEAD_FLAGS, add_model_flags, add_setting_flags, stage_parser
from utils.procedures import procedures, settings_for

RESNET = (
    "finetune_source_model_on_target_task_pytorch_resnet18.py --SRC imagenet_small --TRG cifar10 "
    "TAU 0.02",
    "transfer_source_to_target_pytorch_resnet18.py --SRC imagenet_small --TRG cifar10 --TAU 0.02",
)
ROBUST = (
    "finetune_source_model_on_target_task_pytorch_resnet18.py --SRC imagenet_small --TRG cifar10 "
    "--ROBUST True --EPS 0.1 --TAU 0.02",
    "transfer_source_to_target_pytorch_resnet18.py --SRC imagenet_small --TRG cifar10 "
    "--ROBUST True --EPS 0.1 --TAU 0.02",
)
OTHERS = (
    "fine-tune.py --SRC imagenet_small TRG cifar10 --model {}",
    "transfer.py --SRC imagenet_small TRG cifar10 --model {}",
)
SHORT = (
    "--BATCH_SIZE",
    "20",
    "--ITERATIONS",
    "1",
    "--CERTIFICATE_STEPS",
    "3",
    "--MATCHINGS",
    "1",
    "--BOOTSTRAP",
    "5",
    "--CONTROLS",
    "19",
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with CIFAR-10 and an ImageNet of twelve classes."""
    write_cifar(tmp_path / "data", monkeypatch, each=3)
    write_imagenet(tmp_path / "data")
    return tmp_path


def put_weights(place, name: str) -> None:
    file, make, _ = FORMATS[name]
    path = place / "checkpoints" / file
    path.parent.mkdir(parents=True)
    torch.save(make(random_resnet(18 if "18" in file else 50).state_dict()), path)


def run(command: str, place, monkeypatch, *flags: str) -> dict:
    """Runs a command from inside large_scale/; its result record."""
    script, *argv = shlex.split(command)
    monkeypatch.chdir(REPOSITORY / "large_scale")
    monkeypatch.setattr("sys.argv", [script, *argv, *flags, *places(place)])
    runpy.run_path(script, run_name="__main__")
    return json.loads((place / "results" / "results.jsonl").read_text().splitlines()[-1])


def run_both(commands, place, monkeypatch, *flags: str) -> tuple[dict, dict]:
    fine_tuned = run(commands[0], place, monkeypatch, *flags)
    transferred = run(commands[1], place, monkeypatch, *flags, *SHORT)
    assert (fine_tuned["stage"], transferred["stage"]) == ("finetune", "transfer")
    for record in (fine_tuned, transferred):
        assert (record["source"], record["target"]) == ("imagenet_small", "cifar10")
    assert fine_tuned["config"]["network"] == transferred["config"]["network"]
    # The published form's head has τ by default, the fine-tuned one where the command gives it.
    assert transferred["config"]["head"]["tau"] == 0.02
    given = "TAU" in commands[0]
    head = fine_tuned["config"]["head"]
    assert (head["method"], head["tau"]) == (("lipschitz", 0.02) if given else ("ridge", None))
    for part in ("certificate", "published"):
        assert transferred[part]["target_loss"] <= transferred[part]["bound_certified"]
    return fine_tuned, transferred


def test_resnet_18(place, monkeypatch, capsys):
    put_weights(place, "resnet18")
    record, transferred = run_both(RESNET, place, monkeypatch, "--IMAGE_SIZE", "32")
    assert record["model"] == "resnet18" and transferred["data"]["source"]["train"] == 50
    shown = capsys.readouterr()
    assert "remark: TAU is taken as --TAU" in shown.err
    assert f"{record['test_loss']:.4f}" in shown.out  # stage 3 shows the fine-tuned head's
    # The README's commands for the root's scripts mean the same; the flag that says False means it.
    commands = [words for words in STAGE_COMMANDS if "resnet18" in words and words[1] in STAGES]
    for stage, words, short in zip((stage_2, stage_3), commands, ((), SHORT), strict=True):
        argv = [*words[2:], *short, "--ROBUST", "False", "--IMAGE_SIZE", "32", *places(place)]
        stage.main(argv)
        assert "the result was there" in capsys.readouterr().out


@pytest.mark.slow
def test_the_readmes_command_for_photographs_of_ones_own(tmp_path, monkeypatch, capsys):
    write_class_folders(tmp_path / "photos", ("a", "b"), 20)
    monkeypatch.chdir(tmp_path)
    (words,) = [words for words in STAGE_COMMANDS if "head" in words]
    stage_3.main([*words[2:], "--IMAGE_SIZE", "32", *places(tmp_path)])
    shown = capsys.readouterr().out
    assert "why: what the network's own classes have to do with it" in shown
    (line,) = (tmp_path / "results" / "results.jsonl").read_text().splitlines()
    relation = json.loads(line)["relation"]
    assert relation["mixed_classes"]["count"] == 19
    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert {name for one in relation["classes"] for name, _ in one["called"]} <= {*names}


def test_robust_resnet_18(place, monkeypatch):
    put_weights(place, "robust")
    record, _ = run_both(ROBUST, place, monkeypatch, "--IMAGE_SIZE", "32")
    assert record["model"] == "robust_resnet18_eps0.1"


@pytest.mark.parametrize("model", ["simclr", "moco", "swav"])
def test_self_supervised_models(place, monkeypatch, model):
    put_weights(place, model)
    commands = [command.format(model) for command in OTHERS]
    record, _ = run_both(commands, place, monkeypatch, "--IMAGE_SIZE", "32")
    assert record["model"] == model


def test_clip(place, monkeypatch):
    import open_clip

    config = open_clip.get_model_config("ViT-B-32-quickgelu")  # test_pretrained has all twelve layers
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 1
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", config)
    weights = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).state_dict()
    path = place / "checkpoints" / "pretrained_models" / "ViT-B-32.pt"
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    commands = [command.format("clip") for command in OTHERS]
    record, _ = run_both(commands, place, monkeypatch)
    assert record["model"] == "clip" and record["config"]["network"]["preprocess"]["open_clip"]


def test_the_published_procedure(place, monkeypatch):
    put_weights(place, "resnet18")
    flags = ("--PROCEDURE", "published", "--IMAGE_SIZE", "32")
    record = run(RESNET[0], place, monkeypatch, *flags, "--STEPS", "3")
    assert record["config"]["head"]["learning_rate"] == 1e-5
    record = run(RESNET[1], place, monkeypatch, *flags, "--HEAD_STEPS", "3", *SHORT)
    assert record["config"]["head"]["penalised"] == "separate"
    assert record["config"]["tau_measure"] == "all_labels"


@pytest.mark.figures
def test_the_users_own_folders(tmp_path, monkeypatch, capsys):
    for name, shift in (("birds", 0), ("cats", 5)):
        for split, each in (("train", 12), ("test", 6)):
            write_class_folders(tmp_path / name / split, ("a$^$", "b_$x", "c"), each + shift)
    argv = ["--SRC", f"folder:{tmp_path / 'birds'}", "--TRG", f"folder:{tmp_path / 'cats'}"]
    argv += ["--model", "efficientnet_lite0", "--IMAGE_SIZE", "32", *places(tmp_path)]
    stage_2.main(argv)
    stage_3.main([*argv, *SHORT, "--BATCH_SIZE", "12"])
    pair = "folder-birds_to_folder-cats"
    folder = tmp_path / "results" / "transfer" / pair / "efficientnet_lite0_LearnedAll_seed0"
    assert json.loads((folder / "result.json").read_text())["data"]["target"]["origin"] == "folder"


# ------------------------------------------------------------------------------------------ settings
def test_published_settings_are_those_of_the_released_code():
    resnet = settings_for("published", "resnet18", "imagenet_small", "cifar10")
    assert resnet.target_head.learning_rate == 1e-5
    assert (resnet.target_head.steps, resnet.source_head.steps) == (5001, 10001)
    assert (resnet.transform.iterations, resnet.transform.batch_size) == (2001, 1000)
    assert (resnet.transform.label_weight, resnet.transform.prior_learning_rate) == (1e6, 1e-3)
    assert settings_for("published", "robust_resnet18", None, "pets").target_head.learning_rate == 1e-4
    for model, batch in (("clip", 1500), ("moco", 2500), ("timm:resnet18", 2500)):
        other = settings_for("published", model, "imagenet_small", "cifar10")
        assert other.transform.batch_size == batch
        assert (other.target_head.learning_rate, other.source_head.steps) == (1e-4, 2001)


def test_help_shows_the_values_of_the_models_scale(capsys):
    for model, shown in (("lenet", "published 501]"), ("clip", "published 5001]")):
        parser = stage_parser("A test.", "test.py", with_target=True)
        add_model_flags(parser, "lenet")
        settings = procedures(parser.peek("MODEL", ["--model", model]))
        add_setting_flags(parser, "head", HEAD_FLAGS, settings, "target_head")
        with pytest.raises(SystemExit):
            parser.parse_args(["--help"])
        assert shown in " ".join(capsys.readouterr().out.split())


# ------------------------------------------------------------------------------------------ bad input
LITE = ("--model", "efficientnet_lite0", "--IMAGE_SIZE", "32")


@pytest.mark.parametrize(
    "stage, argv, complaint",
    [
        (stage_2, ["--SRC", "MNIST", "--TRG", "cifar10"], "no data set of 28×28 grey images"),
        (stage_1, ["--SRC", "cifar10"], "no data set of 28×28 grey images"),
        (stage_2, ["--SRC", "MNIST", "--TRG", "FMNIST", "--WEIGHTS", "x"], "--WEIGHTS has no effect on"),
        (stage_2, ["--SRC", "MNIST", "--TRG", "FMNIST", *LITE, "--EPS", "1"], "--EPS has no effect on"),
        (stage_2, ["--SRC", "MNIST", "--TRG", "FMNIST", *LITE, "--ROBUST", "True"], "not for efficient"),
        (stage_2, ["--SRC", "MNIST", "--TRG", "FMNIST", *LITE, "--STEPS", "5"], "--STEPS has no effect"),
        (stage_2, ["--SRC", "x", "--TRG", "FMNIST", *LITE], "x is not a data set"),
        (stage_2, ["--SRC", "MNIST", "--TRG", "imagenet_small", *LITE], "is not a target data set"),
        (
            stage_2,
            ["--SRC", "MNIST", "--TRG", "FMNIST", "--model", "timm:resnet_18"],
            "nearest: resnet18",
        ),
        (
            stage_3,
            ["--SRC", "imagenet_small", "--TRG", "cifar10", *LITE, "--EPS", "-1"],
            "argument --EPS",
        ),
        (stage_3, ["--SRC", "imagenet_small", "--TRG", "many", *LITE], "13 classes asked for"),
        (stage_3, ["--SRC", "few", "--TRG", "many", *LITE, "--SETTING", "LearnedA"], "LearnedA"),
        (stage_3, ["--SRC", "few", "--TRG", "many", *LITE, "--SETTING", "FixedAll"], "FixedAll"),
        (stage_3, ["--SRC", "few", "--TRG", "few", *LITE], "the batch size must lie between"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, stage, argv, complaint):
    write_imagenet(tmp_path / "data")
    for name, classes in (("few", 3), ("many", 13)):
        write_class_folders(tmp_path / name, tuple(f"class{k:02d}" for k in range(classes)), 3)
    argv = [f"folder:{tmp_path / word}" if word in ("few", "many") else word for word in argv]
    with pytest.raises(SystemExit) as stop:
        stage.main([*argv, *places(tmp_path)])
    assert stop.value.code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "remark: found" not in line]
    (line,) = told
    assert line.startswith("error: ") and complaint in line
    assert not (tmp_path / "results").exists()
    assert not list(tmp_path.rglob("*.safetensors"))  # refused before any image was looked at


def test_feature_files_may_choose_the_large_scales_settings(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), np.arange(60) % 3
    np.savez(tmp_path / "A.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    name = f"features:{tmp_path / 'A.npz'}"
    argv = ["--SRC", name, "--TRG", name, "--model", "clip", *places(tmp_path)]
    stage_2.main([*argv, "--PROCEDURE", "published", "--STEPS", "3"])
    stage_3.main([*argv, *SHORT])
    lines = (tmp_path / "results" / "results.jsonl").read_text().splitlines()
    fine_tuned, transferred = map(json.loads, lines)
    assert fine_tuned["model"] == transferred["model"] == "features"
    assert fine_tuned["config"]["head"]["tau"] == transferred["config"]["head"]["tau"] == 0.02
