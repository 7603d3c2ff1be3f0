"""How the benchmarks measure, and how they write their tables."""

import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.names import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"


@dataclass(frozen=True)
class Measurement:
    """Seconds: the median and the spread (largest less least) over repeats. Peak: MiB that the runs
    added to what the process held before (on CUDA: on the device).
    """

    seconds: float
    spread: float
    peak: float
    value: object


def measure(run: Callable[[], object], repeats: int = 3, warm_up: bool = True) -> Measurement:
    """Runs it `repeats` times, after one run that does not count; `value` is the last run's."""
    if warm_up:
        run()
    gc.collect()
    before = _reset_peak()
    seconds = []
    for _ in range(repeats):
        _synchronise()
        start = time.perf_counter()
        value = run()
        _synchronise()
        seconds.append(time.perf_counter() - start)
    return Measurement(statistics.median(seconds), max(seconds) - min(seconds), _peak() - before, value)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peak() -> float:
    """Forgets the peak so far, and returns what is held now (MiB)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew
    return _status("VmRSS")


def _peak() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return _status("VmHWM")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def machine() -> str:
    """The processor and the versions that the numbers depend on, in one line."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{len(names)} x {names[0] if names else platform.processor()}, {device}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


class Table:
    """Prints rows as they come; `write` keeps them in benchmarks/results/NAME.txt."""

    def __init__(self, name: str, columns: Sequence[str], argv: Sequence[str] | None):
        self.name, self.columns = name, columns
        self.lines: list[str] = []
        arguments = sys.argv[1:] if argv is None else argv
        self.say(" ".join(["python3 -m", f"benchmarks.{name}", *arguments]))
        self.say(machine())

    def heading(self, text: str) -> None:
        self.say(f"\n{text}")
        self.row("", *self.columns)

    def row(self, first: str, *cells: str) -> None:
        self.say(f"{first:<34}" + "".join(f"{cell:>13}" for cell in cells))

    def say(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)

    def write(self, folder: Path | None) -> None:
        """Into `folder`, or benchmarks/results; a GPU's table does not replace the CPU's."""
        folder = folder or RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        (folder / table_file(self.name)).write_text("\n".join(self.lines) + "\n")


def table_file(name: str) -> str:
    """What a table's file is called on this machine."""
    return f"{name}_cuda.txt" if torch.cuda.is_available() else f"{name}.txt"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"
