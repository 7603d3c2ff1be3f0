"""The faults of tests/faults that take seconds; `python3 -m benchmarks.campaign` tries all of them."""

from pathlib import Path

import pytest

from tests.faults.damages import READ_BACK, damages
from tests.faults.inputs import inputs
from tests.faults.kills import kills
from tests.faults.tasks import (
    FINETUNE,
    TRAIN,
    Command,
    as_process,
    left_in,
    run_here,
    what_differs,
    write_tasks,
)
from tests.faults.untidy import untidy
from tests.processes import Forked, start
from utils.names import REPOSITORY
from utils.storage import read_json, write_json


def fallen(trials, tmp_path: Path, count: int) -> list[str]:
    write_tasks(tmp_path / "data")
    tried = list(trials(tmp_path / "data", tmp_path / "work", count, 0))
    assert len(tried) == count
    return [f"{trial.what}: {trial.problem}" for trial in tried if trial.problem]


def start_forked(command: Command, data: Path, place: Path) -> Forked:
    _, *argv = as_process(command, data, place, REPOSITORY)
    return start(*argv, cwd=place, new_session=True)


def test_bad_inputs_end_with_one_line(tmp_path):
    assert fallen(inputs, tmp_path, 400) == []


def test_untidy_data_are_taken_for_what_they_are(tmp_path):
    """The other cases are the campaign's."""
    assert fallen(untidy, tmp_path, 60) == []


@pytest.mark.slow
def test_damaged_files_are_made_again(tmp_path, monkeypatch):
    kinds = {TRAIN: READ_BACK[TRAIN], FINETUNE: READ_BACK[FINETUNE]}
    monkeypatch.setattr("tests.faults.damages.READ_BACK", kinds)
    monkeypatch.setattr("tests.faults.damages.RESUMED", {})
    assert fallen(damages, tmp_path, 14) == []


@pytest.mark.slow
def test_killed_commands_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.faults.kills.SHARES", {TRAIN: 1.0})
    monkeypatch.setattr("tests.faults.kills.start", start_forked)
    assert fallen(kills, tmp_path, 2) == []


def test_what_is_not_as_in_an_undisturbed_run_is_noticed(tmp_path):
    write_tasks(tmp_path / "data")
    argv = TRAIN.argv(tmp_path / "data", tmp_path / "place")
    assert run_here(TRAIN.script, argv).status == 0
    wanted = left_in(tmp_path / "place")
    assert what_differs(tmp_path / "place", wanted) == ""
    (path,) = (tmp_path / "place").rglob("result.json")
    record = read_json(path)
    write_json(path, {**record, "test_accuracy": record["test_accuracy"] / 2})
    assert "result.json differs" in what_differs(tmp_path / "place", wanted)
