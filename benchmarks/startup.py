"""What a person waits for before anything is computed: --help, a flag that does not exist, and a result
that is there already.

    python3 -m benchmarks.startup
    python3 -m benchmarks.startup --TREE ../another_version        # of another checkout

Each command is a process of its own. The second of a pair finds the first one's result.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Table
from utils.entry import stage_entry
from utils.names import REPOSITORY

PAIR = ["--SRC", "MNIST", "--TRG", "FMNIST"]
STAGES = {
    "train_source_model.py": ["--SRC", "MNIST"],
    "finetune_source_model_on_target_task.py": PAIR,
    "transfer_source_to_target.py": [*PAIR, "--BATCH_SIZE", "500", "--TAU", "0.2"],
}
OTHERS = ("sweep.py", "rank_models.py", "report.py")


@stage_entry("benchmarks.startup")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--TREE", type=Path, default=REPOSITORY, help="the checkout that is measured")
    parser.add_argument("--REPEATS", type=int, default=3)
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)

    table = Table("startup", ["--help", "bad flag", "first run", "result there"], argv)
    table.heading(f"seconds (of the processor); all but first runs: the best of {options.REPEATS}")
    with tempfile.TemporaryDirectory() as folder:
        places = ["--CHECKPOINT_DIR", f"{folder}/checkpoints", "--RESULTS_DIR", f"{folder}/results"]
        for script in (*STAGES, *OTHERS):
            cells = [best(options, script, "--help"), best(options, script, "--NO_SUCH_FLAG")]
            if script in STAGES:
                command = [script, *STAGES[script], "--DATA", "embedded", *places]
                cells += [seconds(options.TREE, *command), best(options, *command)]
            table.row(script, *(f"{wall:.2f} ({cpu:.2f})" for wall, cpu in cells))
    table.write(options.RESULTS)


def best(options: argparse.Namespace, *command: str) -> tuple[float, float]:
    return min(seconds(options.TREE, *command) for _ in range(options.REPEATS))


def seconds(tree: Path, *command: str) -> tuple[float, float]:
    """(by the clock, of the processor) of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=tree, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
