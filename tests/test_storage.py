import json
import os
import pickle
import platform
import random
import shutil
import subprocess
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

import finetune_source_model_on_target_task as stage_2
import rank_models
import report
from tests.conftest import places
from tests.processes import run as python
from utils.errors import InputError
from utils.storage import (
    ResumePoint,
    Run,
    append_record,
    atomic_write,
    changed_settings,
    digest,
    find_network,
    finished_results,
    load_checkpoint,
    load_tensors,
    network_path,
    read_json,
    read_records,
    read_result,
    replace_files,
    require_writable,
    save_checkpoint,
    save_tensors,
    staged,
    state_digest,
    write_json,
)
from utils.storage.files import PROCESS


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_round_trip(tmp_path):
    path = tmp_path / "folder" / "state.pt"
    save_checkpoint(path, {"tensor": torch.arange(3), "nested": {"epoch": 2}})
    state = load_checkpoint(path)
    assert state["tensor"].tolist() == [0, 1, 2]
    assert state["nested"] == {"epoch": 2}


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_code_in_a_checkpoint_is_not_run(tmp_path, write):
    write({"network": Evil(tmp_path / "proof")}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil\.pt"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "proof").exists()


def test_damaged_files_are_named(tmp_path):
    save_checkpoint(tmp_path / "whole.pt", {"tensor": torch.arange(1000)})
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save(torch.arange(3), tmp_path / "tensor.pt")
    for name in ("half.pt", "text.pt", "tensor.pt"):
        with pytest.raises(InputError, match=name):
            load_checkpoint(tmp_path / name)
    save_tensors(tmp_path / "whole.safetensors", {"x": torch.arange(1000)}, {})
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"half\.safetensors"):
        load_tensors(tmp_path / "half.safetensors")


def test_a_changed_bit_is_noticed_in_every_kind_of_file(tmp_path):
    """Wherever it lies: what is read back is what was written, or an InputError."""
    save_checkpoint(tmp_path / "state.pt", {"tensor": torch.arange(50.0), "nested": {"epoch": [2, 3]}})
    save_tensors(tmp_path / "x.safetensors", {"x": torch.arange(50.0)}, {"unreadable": ["a.png"]})
    write_json(tmp_path / "ranking.json", {"accuracy": 0.75, "names": ["a", "b"]})
    readers = {"state.pt": load_checkpoint, "x.safetensors": load_tensors, "ranking.json": read_json}
    random.seed(0)
    for name, read in readers.items():
        path = tmp_path / name
        whole, content = path.read_bytes(), read(path)
        noticed = 0
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[random.randrange(len(whole))] ^= 1 << random.randrange(8)
            path.write_bytes(damaged)
            try:
                assert str(read(path)) == str(content)  # a bit that means nothing, as in padding
            except InputError as error:
                assert name in str(error)
                noticed += 1
        assert noticed > 10, name


def test_files_are_replaced_together_or_not_at_all(tmp_path):
    for name in ("result.json", "a.safetensors", "old.png", "resume.pt"):
        (tmp_path / name).write_text("old")
    with pytest.raises(OSError, match=r"a\.safetensors") as caught, replace_files(tmp_path) as new:
        staged(new / "result.json").write_text("new")
        (new / "a.safetensors" / "b").write_text("")
    assert str(new) not in str(caught.value)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"result.json", "a.safetensors", "old.png", "resume.pt"}
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}
    with replace_files(tmp_path) as new:
        for path in (staged(new / "result.json"), new / "a.safetensors"):
            path.write_text("new")
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"result.json": "new", "a.safetensors": "new", "resume.pt": "old"}


KILLED_IN_AN_EXCHANGE = """if True:
    import os, signal, sys
    from pathlib import Path
    import finetune_source_model_on_target_task as stage_2
    from utils.storage import results
    replace, append = os.replace, results.append_record
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    def killed_at(point, place, argv):
        def killing_append(*args):
            if point == "before the line":
                die()
            append(*args)
        def killing_replace(old, new):
            into_run = Path(new).parent.parent.parent.parent == Path(place) / "results"
            name = Path(new).name if into_run else ""
            if name and point == "before the exchange":
                die()
            if name == "result.json" and point == "between two files":
                die()
            replace(old, new)
            if name == "result.json" and point == "after the exchange":
                die()
        results.append_record, os.replace = killing_append, killing_replace
        stage_2.main([*argv, "--RESULTS_DIR", f"{place}/results"])
    for point in sys.argv[2:6]:  # a fork each
        if os.fork() == 0:
            killed_at(point, f"{sys.argv[1]}/{point}", sys.argv[6:])
            os._exit(0)
        assert os.WTERMSIG(os.wait()[1]) == signal.SIGKILL, point
"""
POINTS = ("before the line", "before the exchange", "between two files", "after the exchange")


def test_a_kill_at_each_point_of_an_exchange(tmp_path, feature_files, capsys):
    """The earlier result or the new one is there, a search finds no other, the report says what is
    missing, and the same command leaves what an undisturbed one leaves.
    """
    argv = ["--SRC", feature_files[0], "--TRG", feature_files[1], "--CPUS", "1", *places(tmp_path)]
    folder = Path("finetune", "features-source_to_features-target", "features_seed0")

    def run(place, *flags: str) -> dict:
        stage_2.main([*argv, *flags, "--RESULTS_DIR", str(place / "results")])
        record = finished_results(place / "results")[0][place / "results" / folder]
        aside = ("seconds", "command", "environment")
        return {name: value for name, value in record.items() if name not in aside}

    whole = run(tmp_path / "whole", "--TAU", "0.3")
    earlier = [run(tmp_path / point, "--TAU", "0.5") for point in POINTS]
    argv += ["--TAU", "0.3"]
    killed = python("-c", KILLED_IN_AN_EXCHANGE, str(tmp_path), *POINTS, *argv)
    assert killed.returncode == 0, killed.stderr
    for point, before in zip(POINTS, earlier, strict=True):
        results = tmp_path / point / "results"
        finished, problems = finished_results(results)
        assert list(finished) == [results / folder], point
        assert [path.parent for path in results.rglob("result.json")] == [results / folder]
        record = finished[results / folder]
        expected = whole if point == "after the exchange" else before
        assert record["test_loss"] == expected["test_loss"] and whole["test_loss"] != before["test_loss"]
        lines = len((results / "results.jsonl").read_text().splitlines())
        assert lines == (1 if point == "before the line" else 2)
        unfinished = point in ("before the exchange", "between two files")
        alone = ["tells of 1 results that are not in their folders" in text for text in problems]
        assert alone == ([True] if unfinished else [])
        capsys.readouterr()
        report.main(["--RESULTS_DIR", str(results)])
        told = capsys.readouterr()
        assert "1 runs" in told.out and ("not in their folders" in told.err) == unfinished
        assert f"{record['test_loss']:.3f}" in (results / "report" / "index.html").read_text()

        assert run(tmp_path / point) == whole
        assert finished_results(results)[1] == [] and not list(results.rglob("*.tmp"))


def test_a_search_finds_no_result_that_is_being_written(tmp_path, feature_files, monkeypatch):
    """Neither while its line is written nor before the exchange, of a stage or of a ranking."""
    results, seen, replace = tmp_path / "results", [], os.replace

    def look_and_replace(old, new):
        for name in ("result.json", "ranking.json"):
            seen.extend(path.name for path in results.rglob(name))
        replace(old, new)

    monkeypatch.setattr(os, "replace", look_and_replace)
    stage_2.main(["--SRC", feature_files[0], "--TRG", feature_files[1], *places(tmp_path)])
    assert seen == []
    rank_models.main(["--TRG", feature_files[1], "--RESAMPLES", "20", *places(tmp_path)])
    assert set(seen) == {"result.json"}  # of stage 2, which has ended
    assert list(results.rglob("ranking.json"))


def test_what_is_no_finished_result_is_named(tmp_path, feature_files):
    stage_2.main(["--SRC", feature_files[0], "--TRG", feature_files[1], *places(tmp_path)])
    results = tmp_path / "results"
    (folder,) = finished_results(results)[0]
    shutil.copytree(folder, folder.with_name("a copy"))
    (folder.parent / "damaged").mkdir()
    (folder.parent / "damaged" / "result.json").write_text("{")
    (folder.parent / ".hidden").mkdir()
    (folder.parent / ".hidden" / "result.json").write_text("{")
    finished, problems = finished_results(results)
    assert list(finished) == [folder]
    assert "a copy/result.json is of another run" in problems[0]
    assert "damaged/result.json is damaged" in problems[1] and len(problems) == 2
    shutil.rmtree(folder)
    finished, (*_, alone) = finished_results(results)
    assert finished == {} and "tells of 1 results that are not in their folders" in alone
    assert finished_results(tmp_path / "absent") == ({}, [])


def test_what_killed_processes_left_is_cleared(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = platform.node().replace(".", "_")[:32]
    kept = tmp_path / f".a.json.{host}-{os.getpid()}-{PROCESS}01234567.tmp"
    (tmp_path / f".a.json.{host}-{os.getpid()}-0123abcd01234567.tmp").touch()  # before a restart
    others = tmp_path / ".a.json.elsewhere-1-0123abcd01234567.tmp"
    (tmp_path / f".a.json.{host}-{dead.pid}-0123abcd01234567.tmp").touch()
    (tmp_path / f".new.{host}-{dead.pid}-0123abcd01234567.tmp").mkdir()
    (tmp_path / f".new.{host}-{dead.pid}-0123abcd01234567.tmp" / "result.json").touch()
    for path in (kept, others):
        path.touch()
    with replace_files(tmp_path):
        pass
    assert set(tmp_path.iterdir()) == {kept, others}
    os.utime(others, (0, 0))
    with replace_files(tmp_path):
        pass
    assert set(tmp_path.iterdir()) == {kept}


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (load_checkpoint, load_tensors, read_json, read_records):
        with pytest.raises(InputError, match="pipe is a pipe"):
            read(tmp_path / "pipe")


@pytest.mark.filterwarnings("ignore:.*begins anew")
def test_a_resume_point_belongs_to_one_computation(tmp_path):
    path = tmp_path / "resume.pt"
    ResumePoint(path, "mine").save(epoch=3)
    assert ResumePoint(path, "mine").load() == {"epoch": 3}
    assert ResumePoint(path, "another").load() is None
    path.write_bytes(path.read_bytes()[:40])
    assert ResumePoint(path, "mine").load() is None
    save_checkpoint(path, {"fingerprint": "mine", "state": {"epoch": 3}})  # an earlier version's
    assert ResumePoint(path, "mine").load() is None
    ResumePoint(path, "mine").clear()
    assert not path.exists()


def test_digests_depend_on_content_alone():
    weights = {"a": torch.ones(2), "b": torch.zeros(3)}
    assert state_digest(weights) == state_digest(dict(reversed(weights.items())))
    assert state_digest(weights) != state_digest({**weights, "b": torch.ones(3)})
    assert state_digest(weights) != state_digest({"a": weights["a"], "c": weights["b"]})
    assert digest(torch.zeros(2, 3)) != digest(torch.zeros(3, 2))
    assert digest(torch.zeros(2)) != digest(torch.zeros(2, dtype=torch.float64))


def _append(path, writer):
    for number in range(50):
        append_record(path, {"writer": writer, "number": number, "padding": "x" * 5000})


def test_concurrent_records_do_not_mix(tmp_path):
    path = tmp_path / "results.jsonl"
    context = get_context("fork")
    writers = [context.Process(target=_append, args=(path, k)) for k in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted((r["writer"], r["number"]) for r in records) == [
        (k, n) for k in range(3) for n in range(50)
    ]


def test_a_record_that_was_cut_off_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"half": ')
    append_record(path, {"whole": 1})
    half, whole = path.read_text().splitlines()
    assert half == '{"half": ' and json.loads(whole)["whole"] == 1


@pytest.mark.filterwarnings("ignore:.*it is left out")
@pytest.mark.parametrize("content", ["[1]", '{"a": 1}', "", "{", "null"])
def test_a_result_that_is_none_is_none(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    assert read_result(tmp_path) is None


def test_changed_settings_are_named():
    one, other = ({"source": {"sha256": text, "path": "/x"}} for text in "ab")
    stored = {"config": {"tau": 0.2, "steps": [1, 2]}, "data": one}
    assert changed_settings(stored, {"tau": 0.2, "steps": (1, 2)}, one) == []
    assert changed_settings(stored, {"tau": 0.3, "steps": (1, 2)}, other) == ["data", "tau"]
    elsewhere = {"source": {"sha256": "a", "path": "/y"}}
    assert changed_settings(stored, {"tau": 0.2, "steps": (1, 2)}, elsewhere) == []


def test_run_folders_follow_the_contract(tmp_path):
    run = Run(
        stage="transfer",
        source="MNIST",
        target="FMNIST",
        model="lenet",
        setting="LearnedAll",
        seed=3,
        procedure="improved",
    )
    assert run.folder(tmp_path) == tmp_path / "transfer" / "MNIST_to_FMNIST" / "lenet_LearnedAll_seed3"
    run = Run(
        stage="train",
        source="MNIST",
        target=None,
        model="lenet",
        setting=None,
        seed=3,
        procedure="published",
    )
    assert run.folder(tmp_path) == tmp_path / "train" / "MNIST" / "lenet_seed3_published"


def test_auto_prefers_the_network_trained_on_full_data(tmp_path):
    arguments = (tmp_path, "lenet", "MNIST")
    assert find_network(*arguments, "auto", "improved", 0) is None
    for origin in ("embedded", "full"):
        path = network_path(*arguments, origin, "improved", 0)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        assert find_network(*arguments, "auto", "improved", 0) == (path, origin)
    assert find_network(*arguments, "embedded", "improved", 0)[1] == "embedded"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--RESULTS_DIR"):
        require_writable(tmp_path / "file" / "results", "--RESULTS_DIR")
    require_writable(tmp_path / "new" / "folder", "--RESULTS_DIR")
    assert not (tmp_path / "new").exists()
