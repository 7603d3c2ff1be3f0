"""Tiny tasks, the commands that are run on them, and what they leave."""

import contextlib
import importlib
import io
import json
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils.storage import file_digest, finished_results, read_json, read_records

CLASSES = ("circles", "crosses", "waves")
PATIENCE = 600  # seconds for a command, which takes some, on a machine that may be busy

# Many small shards, and a state saved at every step: there is always something half done.
EAGER = """
import importlib, sys
sys.path.insert(0, sys.argv.pop(1))
script = importlib.import_module(sys.argv.pop(1))
from utils.features import cache
from utils.storage import checkpoints
cache.SHARD, checkpoints.SAVE_EVERY = 32, 0.0
script.main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Command:
    """A script's module name and its arguments, in which {data} and {place} stand for folders."""

    name: str
    script: str
    arguments: str
    before: tuple["Command", ...] = ()

    def argv(self, data: Path, place: Path) -> list[str]:
        words = [word.format(data=data, place=place) for word in self.arguments.split()]
        return [*words, *places(place)] if self.script != "report" else words


def places(place: Path) -> list[str]:
    """Flags that keep a run inside a folder; no data lies there."""
    return [
        *("--DATA_DIR", f"{place}/data", "--CHECKPOINT_DIR", f"{place}/checkpoints"),
        *("--RESULTS_DIR", f"{place}/results", "--DEVICE", "cpu"),
    ]


FEATURES = "--SRC features:{data}/a.npz --TRG features:{data}/b.npz"
IMAGES = "--SRC folder:{data}/signs --TRG folder:{data}/signs --MODEL efficientnet_lite0 --IMAGE_SIZE 32"
TRAIN = Command("train", "train_source_model", "--SRC folder:{data}/signs --EPOCHS 12")
FINETUNE = Command(
    "finetune",
    "finetune_source_model_on_target_task",
    FEATURES + " --PROCEDURE published --EPOCHS 40 --BATCH_SIZE 30",
)
TRANSFER = Command(
    "transfer", "transfer_source_to_target", FEATURES + " --BATCH_SIZE 30 --ITERATIONS 150"
)
EXTRACT = Command("extraction", "finetune_source_model_on_target_task", IMAGES)
SWEEP = Command(
    "sweep",
    "sweep",
    "--SRC features:{data}/a.npz --TRG features:{data}/b.npz --SEED 0 1 --JOBS 2 "
    "--SETTING LearnedAll FixedAll --TRANSFER_FLAGS=--BATCH_SIZE=30",
)
RAY = Command(
    "sweep on Ray",
    "sweep",
    "--SRC features:{data}/a.npz --TRG features:{data}/b.npz --SETTING FixedAll --ENGINE ray",
)
RANK = Command(
    "ranking",
    "rank_models",
    "--TRG folder:{data}/signs --MODEL efficientnet_lite0@32 efficientnet_lite0@48 --RESAMPLES 50",
)
FULL = Command(
    "fine-tuning",
    "rank_models",
    "--TRG folder:{data}/signs --MODEL efficientnet_lite0@32 --FINETUNE full --EPOCHS 1",
)
REPORT = Command("report", "report", "--RESULTS_DIR {place}/results", (TRANSFER, FINETUNE))


def write_tasks(folder: Path) -> None:
    """Two feature files and a folder of images, the same on every machine."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, shift in (("a", 0.0), ("b", 1.0)):
        np.savez(folder / f"{name}.npz", **arrays(rng, shift))
    for split, each in (("train", 30), ("test", 10)):
        for number, name in enumerate(CLASSES):
            place = folder / "signs" / split / name
            place.mkdir(parents=True)
            for k in range(each):
                picture(rng, number).save(place / f"{k}.png")


def arrays(rng: np.random.Generator, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Three classes in five dimensions."""
    found = {}
    for split, count in (("train", 90), ("test", 45)):
        labels = np.arange(count) % 3
        found[f"x_{split}"] = 4 * np.eye(5)[:3][labels] + shift + rng.normal(size=(count, 5))
        found[f"y_{split}"] = labels
    return found


def picture(rng: np.random.Generator, number: int) -> Image.Image:
    y, x = np.mgrid[:28, :28] - 13.5 + rng.normal(size=2)[:, None, None]
    shape = (np.hypot(x, y) < 8, np.minimum(abs(x), abs(y)) < 3, np.sin(x / 2) > 0)[number]
    noise = rng.normal(scale=25, size=(28, 28))
    return Image.fromarray((180 * shape + 40 + noise).clip(0, 255).astype(np.uint8))


# ----------------------------------------------------------------------------------------- running
@dataclass(frozen=True)
class Ended:
    """`status`: None where an exception came through."""

    status: int | None
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that says what is wrong; empty where there is none, or more than one."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return lines[0] if len(lines) == 1 and "Traceback" not in self.err else ""


def run_here(script: str, argv: Sequence[str]) -> Ended:
    """Runs a script's main in this process: a start costs seconds."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _time_limit():
        try:
            with warnings.catch_warnings():
                importlib.import_module(script).main(list(argv))
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except (Exception, TooLong):
            status = None
            traceback.print_exc(file=err)
    if status in (130, 143):  # the tests or the campaign were asked to end
        raise KeyboardInterrupt
    return Ended(status, out.getvalue(), err.getvalue())


class TooLong(BaseException):
    """No script may take it for an error of its own."""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_):
        raise TooLong(f"no end after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def as_process(command: Command, data: Path, place: Path, root: Path) -> list[str]:
    return [sys.executable, "-c", EAGER, str(root), command.script, *command.argv(data, place)]


# ------------------------------------------------------------------------------------ what is left
def left_in(place: Path) -> dict[str, object]:
    """The results in a place, without what depends on the run: times, speeds, checksums of records."""
    found: dict[str, object] = {}
    finished, _ = finished_results(place / "results")  # a damaged one is missed below
    for folder, record in finished.items():
        for name in ("seconds", "environment"):
            record.pop(name)
        for name, checksum in record["files"].items():
            if file_digest(folder / name) != checksum:
                raise RuntimeError(f"{folder} does not fit its {name}")
        found[str((folder / "result.json").relative_to(place))] = record
    for path in sorted((place / "results").rglob("ranking.json")):
        candidates = read_json(path)["candidates"]
        found[str(path.relative_to(place))] = {
            name: [about["accuracy"], {k: s["value"] for k, s in about["scores"].items()}]
            for name, about in candidates.items()
        }
    for path in sorted((place / "results").rglob("summary.csv")):
        found[str(path.relative_to(place))] = path.read_text()
    page = place / "results" / "report" / "index.html"
    if page.exists():
        found["page"] = page.read_text().rstrip().endswith("</html>")
    return json.loads(json.dumps(found))


def what_differs(place: Path, wanted: dict[str, object]) -> str:
    """What is not as in an undisturbed run, in a few words; empty if nothing is."""
    found = left_in(place)
    if found.keys() != wanted.keys():
        return f"other results: {sorted(found.keys() ^ wanted.keys())}"
    for name, content in wanted.items():
        if found[name] != content:
            return f"{name} differs"
    leftovers = [path.name for path in place.rglob("*.tmp")]
    if leftovers:
        return f"left over: {leftovers}"
    lines = place / "results" / "results.jsonl"
    if lines.exists():
        records, _ = read_records(lines)
        if len(records) != sum(name.endswith("result.json") for name in found):
            return f"results.jsonl has {len(records)} runs"
    return ""
