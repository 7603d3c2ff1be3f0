"""Tries to make the commands lose a result or mislead a user, and counts what held.

    python3 -m benchmarks.campaign                                  # all of it: about an hour on 2 cores
    python3 -m benchmarks.campaign --MINUTES 10 --SEED 1
    python3 -m benchmarks.campaign --PARTS inputs damages

kills: SIGKILL at a random moment of a stage, an extraction, a sweep (local, Ray), a ranking, a report;
the same command again must leave what an undisturbed run leaves. inputs: values and files that are not
what they should be; each must end with status 2 and one line that names what is wrong. untidy: known
tasks in the dress that real projects' data have; what is found must be right. damages: files
that are read back, with changed bits, cut off, emptied, exchanged; what is damaged must be made again.
disks: too little space, on a file system in memory; nothing may be lost, and with room the command must
end as it should. readonly: folders that cannot be written to. together: the same command twice at the
same time. Exit status 1 if anything fell.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import Table
from tests.faults.damages import damages
from tests.faults.inputs import inputs
from tests.faults.kills import can_mount, full_disks, kills, read_only, together
from tests.faults.tasks import write_tasks
from tests.faults.untidy import untidy
from utils.entry import stage_entry

PARTS = {
    "inputs": (inputs, 3000),
    "untidy": (untidy, 1000),
    "damages": (damages, 300),
    "together": (together, 8),
    "disks": (full_disks, 30),
    "readonly": (read_only, 12),
    "kills": (kills, 200),
}


@stage_entry("campaign")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--PARTS", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--MINUTES", type=float, help="no trial begins later")
    parser.add_argument("--SEED", type=int, default=0)
    parser.add_argument("--COUNT", type=int, help="trials of each part (default: as in the docs)")
    parser.add_argument("--RESULTS", type=Path, help="folder of the table")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * (options.MINUTES or 1e6)
    torch.set_num_threads(1)  # as the processes that are started
    os.environ["OMP_NUM_THREADS"] = "1"
    work = Path(tempfile.mkdtemp(prefix="campaign-"))
    table = Table("campaign", ["tried", "held", "seconds"], argv)
    table.heading("part")
    fallen = 0
    try:
        write_tasks(work / "data")
        for part in options.PARTS:
            trials, usual = PARTS[part]
            if part in ("disks", "readonly") and not can_mount(work):
                print(f"{part}: left out, no file system can be mounted here", file=sys.stderr)
                continue
            begun, tried, held = time.monotonic(), 0, 0
            count = options.COUNT or usual
            with contextlib.closing(trials(work / "data", work / part, count, options.SEED)) as running:
                for trial in running:
                    tried += 1
                    held += not trial.problem
                    if trial.problem:
                        print(f"fell: {trial.part}: {trial.what}: {trial.problem}", file=sys.stderr)
                    if time.monotonic() > deadline:
                        break
            fallen += tried - held
            table.row(part, str(tried), str(held), f"{time.monotonic() - begun:.0f}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    table.write(options.RESULTS)
    if fallen:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
