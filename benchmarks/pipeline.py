"""The three stages as a user runs them, against the published procedure.

    python3 -m benchmarks.pipeline
    python3 -m benchmarks.pipeline --SRC features:A.npz --TRG features:B.npz --SEEDS 1

Each stage is a process of its own; wall is what the user waits, computing the sum of `seconds` in its
result.json, peak the process's largest resident memory. Stage 3 finds its features cached by stage 2.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.measure import Table
from utils.entry import stage_entry
from utils.names import REPOSITORY
from utils.procedures import PROCEDURE_NAMES

STAGES = {
    "train": "train_source_model.py",
    "finetune": "finetune_source_model_on_target_task.py",
    "transfer": "transfer_source_to_target.py",
}


def run(stage: str, arguments: list[str], results: Path) -> dict:
    """The stage's record, with wall seconds and peak MiB."""
    command = [sys.executable, STAGES[stage], *arguments, "--RESULTS_DIR", str(results)]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    record = json.loads((results / "results.jsonl").read_text().splitlines()[-1])
    return {**record, "wall": time.perf_counter() - start, "peak": usage.ru_maxrss / 1024}


@stage_entry("benchmarks.pipeline")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--SRC", default="MNIST")
    parser.add_argument("--TRG", default="FMNIST")
    parser.add_argument("--DATA", default="auto")
    parser.add_argument("--SEEDS", type=int, default=3)
    parser.add_argument("--STAGE_FLAGS", nargs=argparse.REMAINDER, default=[], help="of stage 3")
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)
    table = Table("pipeline", ("wall s", "spread", "computing s", "peak MiB"), argv)
    table.say(f"{options.SRC} -> {options.TRG}, medians over {options.SEEDS} seeds")
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for procedure in PROCEDURE_NAMES:
            runs = {stage: [] for stage in STAGES}
            for seed in range(options.SEEDS):
                shared = ["--SRC", options.SRC, "--DATA", options.DATA, "--SEED", str(seed)]
                shared += ["--PROCEDURE", procedure, "--CHECKPOINT_DIR", f"{folder}/checkpoints"]
                results = Path(folder) / procedure
                if not options.SRC.startswith("features:"):
                    runs["train"].append(run("train", shared, results))
                both = [*shared, "--TRG", options.TRG]
                runs["finetune"].append(run("finetune", both, results))
                runs["transfer"].append(run("transfer", [*both, *options.STAGE_FLAGS], results))
            table.heading(procedure)
            for stage, records in runs.items():
                if records:
                    _row(table, stage, records)
            seconds[procedure] = sum(median(r["wall"] for r in rs) for rs in runs.values() if rs)
            _quantities(table, runs["transfer"])
    ratio = seconds["published"] / seconds["improved"]
    shown = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    table.say(f"\nall stages: {shown} ({ratio:.1f} times as long)")
    table.write(options.RESULTS)


def _row(table: Table, stage: str, records: list[dict]) -> None:
    walls = [record["wall"] for record in records]
    computing = median(sum(record["seconds"].values()) for record in records)
    peak = max(record["peak"] for record in records)
    cells = (median(walls), max(walls) - min(walls), computing)
    table.row(stage, *(f"{cell:.1f}" for cell in cells), f"{peak:.0f}")


def _quantities(table: Table, records: list[dict]) -> None:
    for part in ("certificate", "published"):
        for name in ("target_accuracy", "target_loss", "bound_certified", "bound_published"):
            if all(record[part] and name in record[part] for record in records):
                line = " / ".join(_shown(record[part][name]) for record in records)
                table.say(f"{f'{part}: {name}':<34}{line}")


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
