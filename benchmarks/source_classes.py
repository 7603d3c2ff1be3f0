"""What the choice of the reference task's classes does to the bound: random, similar, or more of them.

    python3 -m benchmarks.source_classes
    python3 -m benchmarks.source_classes --SEEDS 1 --PAIRS MNIST,FMNIST

Stage 3 on the features of a LeNet trained on all of the source, embedded data; the target keeps its
first five classes. Means over seeds; — where a quantity is undefined for one of them.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import torch

from benchmarks.measure import Table
from benchmarks.pseudo_labels import PAIRS, QUANTITY_COLUMNS, columns, lenet_tasks, mean, save, transfer
from utils.entry import stage_entry
from utils.features import select_classes

TARGET_CLASSES = 5
CHOICES = ("random", "similar", "7", "all")
COLUMNS = (*QUANTITY_COLUMNS, "acc. of h")


@stage_entry("benchmarks.source_classes")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--PAIRS", nargs="+", default=PAIRS, metavar="SRC,TRG")
    parser.add_argument("--SEEDS", type=int, default=3)
    parser.add_argument("--FLAGS", nargs=argparse.REMAINDER, default=[], help="further flags of stage 3")
    parser.add_argument("--RESULTS", type=Path, help="folder of the table (default benchmarks/results)")
    options = parser.parse_args(argv)
    table = Table("source_classes", COLUMNS, argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for pair in options.PAIRS:
            rows: dict[str, list] = {choice: [] for choice in CHOICES}
            for seed in range(options.SEEDS):
                with contextlib.redirect_stdout(io.StringIO()):
                    source, target = lenet_tasks(pair, seed, folder)
                    target = select_classes(target, torch.arange(TARGET_CLASSES))
                    flags = ["--SRC", save(source, folder / f"source_{pair}_{seed}.npz")]
                    flags += ["--TRG", save(target, folder / f"target_{pair}_{seed}.npz")]
                    for choice in CHOICES:
                        more = ["--SOURCE_CLASSES", choice, *options.FLAGS]
                        record = transfer([*flags, *more], seed, folder)
                        accuracy = record["certificate"]["target_accuracy"]
                        rows[choice].append([*columns(record), accuracy])
            table.heading(f"{pair.replace(',', ' -> ')}, the first {TARGET_CLASSES} classes")
            for choice in CHOICES:
                table.row(choice, *(mean(column) for column in zip(*rows[choice], strict=True)))
    table.write(options.RESULTS)


if __name__ == "__main__":
    main()
