"""How long it takes to know which files a folder holds: by their content, and when that is remembered.

    python3 -m benchmarks.identity
    python3 -m benchmarks.identity --FILES 5000

Files lie in 50 folders below one, as a data set of 50 classes does; they were written before, so that
the system has them in memory: a first look at a disk takes what the disk takes. Of deep and transparent
pictures the first look decodes each file.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Table
from utils.datasets import ImageFiles, content_digest, identity
from utils.entry import stage_entry

FOLDERS = 50


@stage_entry("benchmarks.identity")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--FILES", type=int, default=50_000)
    parser.add_argument("--REPEATS", type=int, default=3)
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)

    table = Table("identity", ["no index", "first look", "remembered", "100 changed"], argv)
    table.heading(f"seconds (of the processor), best of {options.REPEATS}")
    rng = np.random.default_rng(0)
    for name, count, write in (
        ("JPEG, 2 to 4 KB", options.FILES, lambda k: jpeg(rng, 2000 + k % 2000)),
        ("JPEG, 100 KB", options.FILES // 50, lambda _: jpeg(rng, 100_000)),
        ("PNG, 64x64, transparent", options.FILES // 50, lambda _: transparent(rng)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            times = measure_folder(Path(folder), count, write, options.REPEATS)
        table.row(f"{count} x {name}", *(f"{wall:.2f} ({cpu:.2f})" for wall, cpu in times))
    table.write(options.RESULTS)


def jpeg(rng: np.random.Generator, size: int) -> bytes:
    """What begins as a JPEG does: none is decoded to know it."""
    return b"\xff\xd8\xff" + rng.bytes(size)


def transparent(rng: np.random.Generator) -> bytes:
    file = BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 4), np.uint8)).save(file, "PNG")
    return file.getvalue()


def measure_folder(
    folder: Path, count: int, write: Callable[[int], bytes], repeats: int
) -> list[tuple[float, float]]:
    """(seconds, seconds of the processor) of each column; on a busy machine the former are more."""
    root, index = folder / "images", folder / "index"
    names = tuple(f"class_{k % FOLDERS:02d}/image_{k:06d}.jpg" for k in range(count))
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(write(k))
    time.sleep(identity.RACY / 1e9 + 0.5)  # what has just changed is not remembered

    def look(place: Path | None) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        content_digest(ImageFiles(root, names, place), 0, count)
        return time.perf_counter() - wall, time.process_time() - cpu

    rounds = []
    for _ in range(repeats):
        shutil.rmtree(index, ignore_errors=True)
        times = [look(place) for place in (None, index, index)]
        for name in names[:100]:
            os.utime(root / name)
        rounds.append([*times, look(index)])
        time.sleep(identity.RACY / 1e9 + 0.5)
    return [min(column) for column in zip(*rounds, strict=True)]


if __name__ == "__main__":
    main()
