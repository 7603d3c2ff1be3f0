"""Sweeps of small feature files: what is planned, shared, kept, retried and summed up."""

import csv
import errno
import json
import os
import signal
import socket
import statistics
import time
from argparse import Namespace
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack

import numpy as np
import pytest

import rank_models
import sweep
import train_source_model
from tests.conftest import places
from tests.processes import PATIENCE, Forked, lines_until, start, the_rest
from utils import storage
from utils.errors import InputError
from utils.linear_head import shared
from utils.report import latex, markdown, summarise
from utils.storage import Run, finished_results, only_one, read_records
from utils.sweep import COMPUTED, FAILED, REUSED, Job, Outcome, Processes, engines, jobs, run_jobs

SHORT = (
    "--TRANSFER_FLAGS",
    "--ITERATIONS 5 --BATCH_SIZE 30 --BOOTSTRAP 5 --CERTIFICATE_STEPS 3 --MATCHINGS 1 --CONTROLS 19",
)


@pytest.fixture
def command(feature_files, tmp_path):
    """Both files as sources and targets, two settings: 4 transfers, 2 heads."""
    cells = ["--SRC", *feature_files, "--TRG", *feature_files, "--SETTING", "LearnedAll", "FixedAll"]
    return [*cells, "--CPUS", "1", *SHORT, *places(tmp_path)]


def plan(*argv: str) -> list[Job]:
    return jobs.plan_jobs(sweep.parse_options(argv), sweep.STAGES)


def records(folder) -> dict[str, dict]:
    """Every finished result below a folder by its path, without what depends on the run."""
    finished, _ = finished_results(folder / "results")
    for record in finished.values():
        del record["seconds"], record["environment"]
    return {str((path / "result.json").relative_to(folder)): found for path, found in finished.items()}


# ------------------------------------------------------------------------------------------------ plan
def test_shared_stages_are_planned_once():
    planned = plan(
        "--SRC",
        "MNIST",
        "FMNIST",
        "--TRG",
        "MNIST",
        "FMNIST",
        "--SEED",
        "0",
        "1",
        "--SETTING",
        "LearnedAll",
        "LearnedA",
        "FixedAll",
    )
    stages = [job.stage for job in planned]
    # Two networks a seed, a head for each of two pairs, and three settings of each pair.
    assert [stages.count(stage) for stage in ("train", "finetune", "transfer")] == [4, 4, 12]
    place = {job: k for k, job in enumerate(planned)}
    for job in planned:
        assert job.source != job.target
        assert all(place[before] < place[job] for before in (*job.needs, *job.follows))
        for need in job.needs:
            assert (need.stage, need.source, need.names.seed) == ("train", job.source, job.names.seed)


def test_a_data_set_alone_is_paired_with_itself():
    assert {job.target for job in plan("--SRC", "MNIST", "--TRG", "MNIST")} == {None, "MNIST"}


def test_two_files_of_one_name_are_refused(tmp_path, feature_files):
    other = tmp_path / "elsewhere" / "target.npz"
    with pytest.raises(InputError, match="have one name in the results: rename a file"):
        plan("--SRC", feature_files[0], "--TRG", feature_files[1], f"features:{other}")


def test_flags_reach_the_models_that_know_them():
    planned = plan(
        "--SRC",
        "MNIST",
        "--TRG",
        "FMNIST",
        "--MODEL",
        "lenet",
        "resnet18",
        "robust_resnet18",
        "--IMAGE_SIZE",
        "96",
        "--EPS",
        "0.1",
    )
    given = {job.names.model: job.options for job in planned if job.stage == "transfer"}
    assert given["lenet"].IMAGE_SIZE is None and given["resnet18"].IMAGE_SIZE == 96
    assert given["resnet18"].EPS is None and given["robust_resnet18_eps0.1"].EPS == 0.1
    assert [job.names.model for job in planned if job.stage == "train"] == ["lenet"]
    assert all(options.ANALYSIS == ["relation", "published"] for options in given.values())
    for job in plan("--SRC", "MNIST", "--TRG", "FMNIST", "--ANALYSIS", "certificate"):
        assert (job.stage == "transfer") == ("--ANALYSIS certificate" in job.command)


# ----------------------------------------------------------------------------------------- local engine
def test_a_sweep_and_its_second_call(command, tmp_path, capsys):
    sweep.main(command)
    shown = capsys.readouterr()
    assert "6 tasks: 6 computed" in shown.out and shown.err.count("computed transfer") == 4
    first = records(tmp_path)
    assert len(first) == 6
    sweep.main(command)
    assert "6 tasks: 6 reused" in capsys.readouterr().out
    assert len((tmp_path / "results" / "results.jsonl").read_text().splitlines()) == 6

    with (tmp_path / "results" / "sweep" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        pair = f"{row['source']}_to_{row['target']}"
        record = first[f"results/transfer/{pair}/features_{row['setting']}_seed0/result.json"]
        for name, (part, quantity) in {
            "label_map_loss": ("relation", "label_map_loss"),
            "source_contribution_p": ("relation", "source_contribution_p"),
            "bound_published": ("published", "bound_published"),
            "published_target_loss": ("published", "target_loss"),
        }.items():
            assert float(row[name]) == record[part][quantity]
        head = first[f"results/finetune/{pair}/features_seed0/result.json"]
        assert float(row["fine_tuned_accuracy"]) == head["test_accuracy"]

    # What is gone is made again, and nothing else.
    folder = tmp_path / "results/transfer/features-source_to_features-target/features_FixedAll_seed0"
    (folder / "result.json").unlink()
    sweep.main(command)
    shown = capsys.readouterr().out
    assert "5 reused" in shown and "1 computed" in shown
    assert records(tmp_path) == first


def test_a_failed_cell_is_named_and_the_others_are_there(command, tmp_path, feature_files, capsys):
    x, y = np.eye(3, 7)[np.arange(30) % 3], np.arange(30) % 3
    np.savez(tmp_path / "wide.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    wide = f"features:{tmp_path / 'wide.npz'}"
    with pytest.raises(SystemExit) as stop:
        sweep.main([*command, "--TRG", feature_files[1], wide])
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert "failed: transfer features-source → features-wide features LearnedAll seed 0" in shown.err
    assert "both must come from the same backbone" in shown.err
    text = (tmp_path / "results" / "sweep" / "failed.txt").read_text()
    # Two sources, each with a head and two settings; source and target of one pair are the same.
    assert len(text.splitlines()) == 6 and "wide" in text
    rows = (tmp_path / "results" / "sweep" / "summary.jsonl").read_text().splitlines()
    assert [json.loads(row)["target"] for row in rows] == ["features-target"] * 2
    sweep.main(command)
    assert not (tmp_path / "results" / "sweep" / "failed.txt").exists()


def test_a_target_without_labels_needs_no_head(tmp_path, feature_files, capsys):
    arrays = np.load(feature_files[1].removeprefix("features:"))
    np.savez(tmp_path / "bare.npz", x_train=arrays["x_train"], x_test=arrays["x_test"])
    bare = f"features:{tmp_path / 'bare.npz'}"
    flags = f"{SHORT[1]} --TARGET_LABELS pseudo --TARGET_CLASSES 3"
    argv = ["--SRC", feature_files[0], "--TRG", bare, "--TRANSFER_FLAGS", flags, *places(tmp_path)]
    sweep.main(argv)
    assert "1 tasks: 1 computed" in capsys.readouterr().out
    (row,) = (tmp_path / "results" / "sweep" / "summary.jsonl").read_text().splitlines()
    (path,) = (tmp_path / "results" / "transfer").rglob("result.json")
    relation = json.loads(path.read_text())["relation"]
    # That of a head fitted to the clusters, as all the row's numbers are against clusters.
    assert json.loads(row)["fine_tuned_accuracy"] == relation["fine_tuned_accuracy"]
    sweep.main([*argv, "--ANALYSIS", "published"])
    (row,) = (tmp_path / "results" / "sweep" / "summary.jsonl").read_text().splitlines()
    assert json.loads(row)["fine_tuned_accuracy"] is None
    with pytest.raises(SystemExit) as stop:
        rank_models.main(["--TRG", bare, *places(tmp_path)])  # its scores need labels
    assert stop.value.code == 2 and "the arrays y_train are missing" in capsys.readouterr().err


def test_a_full_disk_fails_the_cell(command, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.results, "append_record", full)
    with pytest.raises(SystemExit) as stop:
        sweep.main(command)
    assert stop.value.code == 1
    assert capsys.readouterr().err.count("No space left on device") == 12  # each told twice


def test_an_error_that_no_one_foresaw_leaves_a_log(command, tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        print("so far so good")
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr("utils.published.transfer_bound", broken)
        with pytest.raises(SystemExit):
            sweep.main([*command, "--SETTING", "FixedAll", "--RETRIES", "1"])
    assert "ZeroDivisionError: a bug (see " in capsys.readouterr().err
    (log, _) = sorted((tmp_path / "results").rglob("failed.log"))
    text = log.read_text()
    assert f"--RESULTS_DIR {tmp_path / 'results'}" in text  # the command is for the same folders
    assert text.startswith("python3 transfer_source_to_target.py --SRC features:")
    assert "so far so good" in text and "Traceback" in text
    sweep.main(command)
    assert not log.exists()


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--TRANSFER_FLAGS", "--SEED 5"], "--SEED is one of the table's own: not for --TRANSFER_FLAGS"),
        (["--TRANSFER_FLAGS", "--SETTING FixedAll"], "--SETTING is one of the table's own"),
        (["--TRANSFER_FLAGS", "--RESULTS_DIR elsewhere"], "--RESULTS_DIR is one of the table's own"),
        (["--TRANSFER_FLAGS", "--ANALYSIS certificate"], "--ANALYSIS is one of the table's own"),
        (["--FINETUNE_FLAGS", "--PROCEDURE published"], "not for --FINETUNE_FLAGS"),
        (["--TRANSFER_FLAGS", "--MODEL resnet18"], "--MODEL is one of the table's own"),
        (["--TRANSFER_FLAGS=--help"], "for help ask the script itself"),
        (["--MODEL", "lenet", "resnet18"], "has no network, whichever it is: give one --model"),
    ],
)
def test_flags_that_would_make_another_cell_are_refused(command, tmp_path, capsys, flags, complaint):
    with pytest.raises(SystemExit) as stop:
        sweep.main([*command, *flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line and not (tmp_path / "results").exists()


def test_warnings_of_stages_are_told_once(tmp_path, capsys, feature_files):
    """Two source classes for three target classes, in two settings."""
    arrays = dict(np.load(feature_files[0].removeprefix("features:")))
    for split in ("train", "test"):
        kept = arrays[f"y_{split}"] < 2
        arrays |= {f"{k}_{split}": arrays[f"{k}_{split}"][kept] for k in "xy"}
    np.savez(tmp_path / "two.npz", **arrays)
    argv = ["--SRC", f"features:{tmp_path / 'two.npz'}", "--TRG", feature_files[1], "--SEED", "0", "1"]
    sweep.main([*argv, *SHORT, *places(tmp_path)])
    told = capsys.readouterr().err
    assert told.count("warning: 2 source classes stand for at most 2 of the target's 3") == 1
    (row,) = (tmp_path / "results" / "sweep" / "summary.jsonl").read_text().splitlines()
    row = json.loads(row)
    assert row["bound_certified"] is None and row["published_target_loss"] > 0


def test_a_run_folder_that_is_a_file_fails_its_cell_alone(command, tmp_path, capsys):
    pair = tmp_path / "results" / "transfer" / "features-source_to_features-target"
    pair.mkdir(parents=True)
    (pair / "features_FixedAll_seed0").touch()
    with pytest.raises(SystemExit) as stop:
        sweep.main(command)
    assert stop.value.code == 1
    shown = capsys.readouterr().out
    assert "5 computed" in shown and "1 failed" in shown


def test_a_cell_whose_line_could_not_be_written_is_run_again(command, tmp_path, monkeypatch):
    """No result lacks its line."""
    append, failing = storage.append_record, ["transfer"]

    def full_once(path, record):
        if record["stage"] in failing:
            failing.clear()
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, record)

    monkeypatch.setattr(storage.results, "append_record", full_once)
    with pytest.raises(SystemExit):
        sweep.main(command)
    sweep.main(command)
    found, _ = read_records(tmp_path / "results" / "results.jsonl")
    assert len(found) == len(records(tmp_path)) == 6


def test_a_summary_that_cannot_be_written_is_named_after_the_table(command, monkeypatch, capsys):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("utils.report.summary.write_text", full)
    with pytest.raises(SystemExit) as stop:
        sweep.main(command)
    shown = capsys.readouterr()
    assert stop.value.code == 2 and "6 tasks: 6 computed" in shown.out
    assert "summary.csv" in shown.err


def test_overwrite_fits_a_shared_head_once(command, monkeypatch):
    sweep.main(command)
    fitted = []
    fit = shared.fit_linear_head
    monkeypatch.setattr(shared, "_FITTED_HERE", set())
    monkeypatch.setattr(shared, "fit_linear_head", lambda *a, **k: fitted.append(a) or fit(*a, **k))
    sweep.main([*command, "--OVERWRITE"])
    # Of each file the published form's, and that of validated strength, which serves stage 2 and the
    # certificate, and the file as source and as target.
    assert len(fitted) == 4


def test_two_sweeps_on_one_folder(command, tmp_path, capsys):
    with only_one(tmp_path / "results" / "sweep"), pytest.raises(SystemExit) as stop:
        sweep.main(command)
    assert stop.value.code == 2
    assert f"another sweep is writing to {tmp_path / 'results'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--SRC"], "argument --SRC/--src: expected at least one argument"),
        (["--SRC", "x"], "x is not a data set"),
        (["--MODEL", "resnet19"], "did you mean resnet18"),
        (["--SETTING", "LearnedB"], "must be one of LearnedAll"),
        (["--SEED", "-1"], "must be a whole number"),
        (["--ENGINE", "slurm"], "must be one of local, ray"),
        (["--JOBS", "0"], "must be a whole number from 1"),
        (["--JOBS", "2", "--ENGINE", "ray"], "--JOBS has no effect on --ENGINE ray"),
        (["--GPUS", "1"], "--GPUS has no effect on --ENGINE local"),
        (["--GPUS", "1.5", "--ENGINE", "ray"], "a fraction of one GPU, or whole ones"),
        (["--RAY_ADDRESS", "a:1"], "--RAY_ADDRESS has no effect on --ENGINE local"),
        (["--TRANSFER_FLAGS", "--ITERATION 5"], "unknown arguments: --ITERATION 5"),
    ],
)
def test_bad_input_is_one_line(command, tmp_path, capsys, flags, complaint):
    with pytest.raises(SystemExit) as stop:
        sweep.main([*command, *flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: sweep: ") and complaint in line
    assert not list((tmp_path / "results").rglob("*.json"))


# -------------------------------------------------------------------------------------------- schedule
class Scripted:
    """An engine whose jobs end as told: an Outcome, or an exception for a lost worker."""

    def __init__(self, capacity: int, ends: dict[str, list]):
        self.capacity, self.ends, self.order = capacity, ends, []

    def submit(self, job):
        self.order.append(job.source)
        end = self.ends.get(job.source, [Outcome(COMPUTED)]).pop(0)
        future = Future()
        future.set_exception(end) if isinstance(end, Exception) else future.set_result(end)
        return future


def job(name: str, needs=(), follows=()) -> Job:
    run = Run(
        stage="train",
        source=name,
        target=None,
        model="lenet",
        setting=None,
        seed=0,
        procedure="improved",
    )
    return Job(run, print, Namespace(SRC=name), "", tuple(needs), tuple(follows))


def test_needs_come_first_and_fail_with_what_they_need():
    first, other = job("MNIST"), job("USPS")
    second, third = job("FMNIST", [first]), job("KMNIST", follows=[first])
    engine = Scripted(3, {"MNIST": [Outcome(FAILED, reason="no data")]})
    outcomes = run_jobs([second, third, first, other], engine, 2)
    assert engine.order == ["MNIST", "USPS", "KMNIST"]
    assert outcomes[second].reason == "needs train MNIST lenet seed 0, which failed"
    assert outcomes[third].state == outcomes[other].state == COMPUTED


def test_a_job_that_waits_for_no_job_of_the_table_is_an_error():
    with pytest.raises(ValueError, match="train FMNIST lenet seed 0 waits for a job that is not"):
        run_jobs([job("FMNIST", [job("MNIST")])], Scripted(1, {}), 2)


def test_lost_jobs_are_run_again_and_bad_input_is_not():
    lost = BrokenProcessPool("a process died")
    engine = Scripted(
        2,
        {
            "MNIST": [lost, lost, Outcome(REUSED)],
            "USPS": [lost, lost, lost],
            "FMNIST": [Outcome(FAILED, reason="no data")],
        },
    )
    mnist, usps, fmnist = (job(name) for name in ("MNIST", "USPS", "FMNIST"))
    outcomes = run_jobs([mnist, usps, fmnist], engine, 2)
    assert outcomes[mnist].state == REUSED
    assert "its process was lost (BrokenProcessPool: a process died)" in outcomes[usps].reason
    assert engine.order.count("FMNIST") == 1


# --------------------------------------------------------------------------- processes, Ctrl-C and Ray
@pytest.fixture
def started(feature_files, tmp_path):
    """Starts a sweep of 16 cells in two processes. Those of the second pair cannot end while the test
    holds their folders: whatever the test does after the first pair, it does to a sweep at work. Without
    holding them it goes on in one process.
    """
    cells = ["--SRC", *feature_files, "--TRG", *feature_files, "--SEED", *map(str, range(4))]
    flags = [*cells, "--SETTING", "FixedAll", *SHORT, "--CPUS", "1", *places(tmp_path)]
    second = {job.folder for job in plan(*flags) if job.source == feature_files[1]}
    assert len(second) == 8

    def begin(hold: bool = True) -> tuple[Forked, ExitStack]:
        held = ExitStack()
        for folder in second if hold else ():
            held.enter_context(only_one(folder.with_name(f"{folder.name}.exchange")))
        return start("sweep.py", *flags, "--JOBS", "2" if hold else "1"), held

    return begin


@pytest.mark.slow
def test_a_killed_worker_and_an_interrupt_lose_no_finished_cell(started, tmp_path):
    process, held = started()
    with held:
        said = lines_until(process, "computed ", 2)
        os.kill(_workers(process.pid)[0], signal.SIGKILL)
        said += lines_until(process, "computed ", 3)
        process.send_signal(signal.SIGINT)
        shown, told = the_rest(process)
    assert process.returncode == 130 and "interrupted" in told
    kept = records(tmp_path)
    assert sum(line.startswith("computed ") for line in said) == 5 <= len(kept) <= 8
    stamps = {path: (tmp_path / path).stat().st_mtime_ns for path in kept}

    process, _ = started(hold=False)
    shown, told = the_rest(process)
    assert process.returncode == 0, told
    assert len(records(tmp_path)) == 16 and f"{len(kept)} reused" in shown
    assert stamps == {path: (tmp_path / path).stat().st_mtime_ns for path in kept}


def _workers(main: int) -> list[int]:
    return [
        int(entry.name)
        for entry in os.scandir("/proc")
        if entry.name.isdigit() and _parent(entry.name) == main and _runs_jobs(entry.name)
    ]


def _parent(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def _runs_jobs(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return "spawn_main" in file.read()
    except OSError:  # it has ended meanwhile
        return False


def test_a_pool_that_broke_is_started_again(tmp_path):
    """A process that dies takes no other's job with it, and its place is filled."""
    engine = Processes(2, 1)
    options = train_source_model.parse_options(["--SRC", "x", *places(tmp_path)])
    run = Run(
        stage="train", source="x", target=None, model="lenet", setting=None, seed=0, procedure="improved"
    )
    absent = Job(run, train_source_model.run, options, options.command)
    engine.running[0] = engine.pools[0].submit(time.sleep, 1)
    beside = engine.submit(absent)
    with pytest.raises(BrokenProcessPool):
        engine.pools[0].submit(os._exit, 1).result()
    outcomes = [beside.result(), engine.submit(absent).result(), engine.submit(absent).result()]
    engine.close(at_once=True)
    for outcome in outcomes:
        assert outcome.state == FAILED and "x is not a data set" in outcome.reason


@pytest.mark.slow
def test_workers_end_with_the_main_process_however_it_ends(started):
    """Else they would go on writing when another sweep is let into the folder."""
    process, held = started()
    with held:
        lines_until(process, "computed ", 1)
        workers = _workers(process.pid)
        assert len(workers) == 2
        process.kill()
        the_rest(process)  # which the workers' ends of the pipes are part of
        deadline = time.monotonic() + PATIENCE
        while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


@pytest.mark.parametrize(
    "resources, cpus, gpus, count",
    [
        ({"CPU": 4}, 2, 0.0, 2),
        ({"CPU": 1}, 2, 0.0, 0),
        ({"CPU": 8, "GPU": 1}, 1, 0.25, 4),
        ({"CPU": 2, "GPU": 1}, 1, 0.25, 2),
        ({"CPU": 8}, 1, 0.5, 0),
    ],
)
def test_tasks_that_fit_a_machine(resources, cpus, gpus, count):
    assert engines._tasks_that_fit(resources, cpus, gpus) == count


@pytest.mark.slow
def test_ray_gives_the_same_numbers(command, tmp_path, feature_files, capsys):
    command = [*command, "--SRC", feature_files[0], "--TRG", feature_files[1]]
    sweep.main(command)
    local = records(tmp_path)
    sweep.main([*command, *places(tmp_path / "ray"), "--ENGINE", "ray"])
    assert "3 tasks: 3 computed" in capsys.readouterr().out
    assert records(tmp_path / "ray") == local


def test_ray_that_does_not_answer(command, capsys, monkeypatch):
    monkeypatch.setattr(engines, "ANSWER_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for address, complaint in (
            ("127.0.0.1:1", "does not answer"),
            ("nonsense", "does not answer"),
            ("ray://127.0.0.1:1", "does not answer"),
            (f"127.0.0.1:{silent.getsockname()[1]}", "no Ray cluster answers"),
            ("auto", "no Ray cluster answers"),
        ):
            with pytest.raises(SystemExit) as stop:
                sweep.main([*command, "--ENGINE", "ray", "--RAY_ADDRESS", address])
            assert stop.value.code == 2
            assert complaint in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- summary
def record(seed: int, value: float | None, source: str = "A_B") -> dict:
    names = ("target_accuracy", "target_loss", "weighted_source_loss", "label_mismatch")
    certificate = {
        "target_accuracy": 0.9,
        "target_loss": 0.25,
        "bound_certified": value and 3 * value,
        "certified_source_loss": value and value,
        "certified_transport": value and 2 * value,
        "fine_tuned_accuracy": 0.75,
        "fine_tuned_loss": 0.125,
    }
    published = {
        **dict.fromkeys(names, 1.0),
        "bound_published": value,
        "bound_certified": value,
        "tau_measured": 0.5,
        "distribution_mismatch": value and 0.5 * value,
    }
    return {
        "source": source,
        "target": "C",
        "model": "lenet",
        "setting": "LearnedAll",
        "seed": seed,
        "certificate": certificate,
        "published": published,
    }


def test_means_and_spread_over_seeds():
    values = [1.5, 2.5, 4.0]
    rows = summarise(
        [
            (record(k, value), {"test_accuracy": 0.5, "test_loss": value})
            for k, value in enumerate(values)
        ]
    )
    (row,) = rows
    assert row["seeds"] == 3
    assert row["bound_published"] == pytest.approx(np.mean(values))
    assert row["bound_published_spread"] == pytest.approx(statistics.stdev(values))
    assert row["distribution_mismatch"] == pytest.approx(0.5 * np.mean(values))
    assert row["bound_certified"] == pytest.approx(3 * np.mean(values))
    assert row["bound_certified_spread"] == pytest.approx(3 * statistics.stdev(values))
    assert (row["target_loss"], row["published_target_loss"]) == (0.25, 1.0)
    assert row["fine_tuned_loss"] == pytest.approx(np.mean(values))  # stage 2's, where it was run
    (single,) = summarise([(record(0, 1.0), None)])
    assert single["bound_published_spread"] is None and single["fine_tuned_accuracy"] == 0.75
    (published,) = summarise([({**record(0, 1.0), "certificate": None}, None)])
    assert published["fine_tuned_accuracy"] is None and published["target_loss"] is None
    assert published["bound_certified"] is None and published["bound_published"] == 1.0
    (certificate,) = summarise([({**record(0, 1.0), "published": None}, None)])
    assert certificate["bound_published"] is None and certificate["bound_certified"] == 3.0
    (few,) = summarise([(record(0, 1.0), None)], 3)
    assert "| 1 of 3 |" in markdown([few]) and "| 1 |" in markdown([single])
    (undefined,) = summarise([(record(0, 1.0), None), (record(1, None), None)])
    assert undefined["bound_published"] is None and undefined["published_target_loss"] == 1.0
    assert undefined["bound_certified"] is None and undefined["target_loss"] == 0.25


def test_tables_of_papers():
    rows = summarise([(record(0, 1.0), None), (record(1, 2.0), None)])
    lines = markdown(rows).splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
    assert "| 1.500 ± 0.707 |" in lines[2]
    text = latex(rows)
    assert r"A\_B & C" in text and r"1.500 $\pm$ 0.707" in text and text.count(r"\\") == 2
    rows = summarise([(record(0, None, r"a_b&c%d$e#f{g}h~i^j\k|l"), None)])
    escaped = r"a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k|l & C"
    assert escaped in latex(rows) and "& -- &" in latex(rows)
    assert r"k\|l | C |" in markdown(rows)


def test_damaged_lines_are_named_and_the_others_used(command, tmp_path):
    sweep.main([*command, "--SETTING", "FixedAll"])
    path = tmp_path / "results" / "results.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([lines[0], '{"stage": "trai', lines[1], "[]", *lines[2:], lines[1]]) + "\n"
    )
    found, damaged = read_records(path)
    assert len(found) == 4
    assert [line.split(" is no")[0] for line in damaged] == [f"{path}, line {k}" for k in (2, 4)]
    with pytest.raises(InputError, match="run a stage first"):
        read_records(tmp_path / "absent.jsonl")
