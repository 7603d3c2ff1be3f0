"""Every command of the README runs, on a small budget and in a temporary folder."""

import re
import shlex
import subprocess

import numpy as np
import pytest

import finetune_source_model_on_target_task
import rank_models
import sweep
import train_source_model
import transfer_source_to_target
from tests.conftest import places
from utils.jobs import check_stage_flags, plan_jobs
from utils.storage import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
STAGES = {
    "train_source_model.py": (train_source_model, ["--EPOCHS", "1"]),
    "finetune_source_model_on_target_task.py": (finetune_source_model_on_target_task, []),
    "transfer_source_to_target.py": (
        transfer_source_to_target,
        ["--ITERATIONS", "3", "--CERTIFICATE_STEPS", "3", "--MATCHINGS", "1"],
    ),
}
BLOCKS = re.findall(r"```\w*\n(.*?)```", README, flags=re.DOTALL)
STAGE_COMMANDS = [
    shlex.split(line) for block in BLOCKS for line in block.splitlines() if line.startswith("python3 ")
]


def test_the_commands_of_the_stages(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("A", "B"):
        x, y = rng.normal(size=(600, 5)), np.arange(600) % 3
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:60], y_test=y[:60])
    assert len(STAGE_COMMANDS) >= 5
    # Those of pre-trained models need other data: tests/test_large_scale.py runs them.
    run = [words for words in STAGE_COMMANDS if words[1] in STAGES and "--model" not in words]
    assert {words[1] for words in run} == set(STAGES)
    for _, script, *argv in run:
        stage, budget = STAGES[script]
        argv = [word.replace("features:", f"features:{tmp_path}/") for word in argv]
        stage.main([*argv, "--DATA", "embedded", *budget, *places(tmp_path)])
        assert "result" in capsys.readouterr().out or script == "train_source_model.py"
    lines = (tmp_path / "results" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(run)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z-]+)", README)) - {"it"}))
def test_make_knows_its_targets(target):
    subprocess.run(["make", "-n", target], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def test_make_run_runs_the_readmes_commands():
    recipe = subprocess.run(
        ["make", "-n", "-o", ".venv/requirements.stamp", "run"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for words in STAGE_COMMANDS[:3]:
        assert " ".join(words[1:]) in recipe


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("https://"):  # there is no network in tests
            assert (REPOSITORY / target).exists(), target


@pytest.mark.parametrize("script", ["sweep.py", "rank_models.py"])
def test_the_commands_over_many_runs_are_understood(script):
    """They take minutes: their own tests run them on tiny tasks. Here every stage reads its flags."""
    commands = [words for words in STAGE_COMMANDS if words[1] == script]
    assert commands
    for _, _, *argv in commands:
        options = {"sweep.py": sweep, "rank_models.py": rank_models}[script].parse_options(argv)
        if script == "sweep.py":
            planned = plan_jobs(options)
            check_stage_flags(planned)
            assert len(planned) >= 17
        else:
            assert len(rank_models.list_entries(options)) > 5


def test_nothing_imports_upwards():
    """The rooms of docs/design.md stand in the order in which they may know each other."""
    lines = (REPOSITORY / "docs" / "design.md").read_text().splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    rooms = [name.strip("/") for cell in cells for name in re.findall(r"`(\w+(?:\.py|/))`", cell)]
    rooms = [name.removesuffix(".py") for name in rooms]
    utils = REPOSITORY / "utils"
    files = {path: path.read_text() for path in utils.rglob("[a-z]*.py")}
    assert sorted(rooms) == sorted(
        {path.relative_to(utils).parts[0].removesuffix(".py") for path in files}
    )
    for path, text in files.items():
        name = path.relative_to(utils).parts[0].removesuffix(".py")
        known = set(re.findall(r"^ *from utils\.(\w+)[\w.]* import", text, re.MULTILINE))
        for group in re.findall(r"^ *from utils import (.+)", text, re.MULTILINE):
            known |= set(group.split(", "))
        assert all(rooms.index(other) < rooms.index(name) for other in known - {name}), path
