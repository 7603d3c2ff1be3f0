"""The part of benchmarks/campaign that takes seconds."""

from pathlib import Path

import pytest

from benchmarks.campaign.__main__ import main
from benchmarks.campaign.damages import READ_BACK, damages
from benchmarks.campaign.inputs import STAGES, inputs
from benchmarks.campaign.kills import kills
from benchmarks.campaign.tasks import FINETUNE, TRAIN, left_in, run_here, what_differs, write_tasks
from benchmarks.campaign.untidy import untidy
from utils.storage import read_json, write_json


def fallen(trials, tmp_path: Path, count: int) -> list[str]:
    write_tasks(tmp_path / "data")
    tried = list(trials(tmp_path / "data", tmp_path / "work", count, 0))
    assert len(tried) == count
    return [f"{trial.what}: {trial.problem}" for trial in tried if trial.problem]


def test_bad_inputs_end_with_one_line(tmp_path):
    assert fallen(inputs, tmp_path, 400) == []


def test_untidy_data_are_taken_for_what_they_are(tmp_path):
    """The others of its cases are the campaign's."""
    assert fallen(untidy, tmp_path, 60) == []


@pytest.mark.slow
def test_damaged_files_are_made_again(tmp_path, monkeypatch):
    kinds = {TRAIN: READ_BACK[TRAIN], FINETUNE: READ_BACK[FINETUNE]}
    monkeypatch.setattr("benchmarks.campaign.damages.READ_BACK", kinds)
    monkeypatch.setattr("benchmarks.campaign.damages.RESUMED", {})
    assert fallen(damages, tmp_path, 14) == []


@pytest.mark.slow
def test_killed_commands_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.campaign.kills.SHARES", {TRAIN: 1.0})
    assert fallen(kills, tmp_path, 2) == []


def test_the_campaign_notices_what_fell(tmp_path, capsys, monkeypatch):
    write_tasks(tmp_path / "data")
    argv = TRAIN.argv(tmp_path / "data", tmp_path / "place")
    assert run_here(TRAIN.script, argv).status == 0
    wanted = left_in(tmp_path / "place")
    assert what_differs(tmp_path / "place", wanted) == ""
    (path,) = (tmp_path / "place").rglob("result.json")
    record = read_json(path)
    write_json(path, {**record, "test_accuracy": record["test_accuracy"] / 2})
    assert "result.json differs" in what_differs(tmp_path / "place", wanted)

    monkeypatch.setattr("benchmarks.campaign.inputs.NO_VALUES", ("0.5",))  # which some flags take
    monkeypatch.setattr("benchmarks.campaign.inputs.bad_files", list)
    stages = {name: given for name, given in STAGES.items() if name.startswith("finetune")}
    monkeypatch.setattr("benchmarks.campaign.inputs.STAGES", stages)
    monkeypatch.setattr("benchmarks.campaign.inputs.bad_combinations", list)
    with pytest.raises(SystemExit) as stop:
        main(["--PARTS", "inputs", "--RESULTS", str(tmp_path)])
    shown = capsys.readouterr()
    assert stop.value.code == 1 and "fell: bad input" in shown.err
    assert (tmp_path / "campaign.txt").read_text() in shown.out
