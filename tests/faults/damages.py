"""Files that the project reads back, damaged at random: bits, ends, whole contents, places."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.kills import Trial, fresh, start
from tests.faults.tasks import (
    EXTRACT,
    FINETUNE,
    FULL,
    RANK,
    TRAIN,
    TRANSFER,
    Command,
    Ended,
    left_in,
    run_here,
    what_differs,
)

# Kinds of files by the command that reads them back, as patterns below a place.
READ_BACK = {
    TRAIN: ("checkpoints/networks/*.pt", "results/**/result.json"),
    FINETUNE: ("checkpoints/heads/*.safetensors", "results/**/*.safetensors", "results/**/result.json"),
    TRANSFER: ("checkpoints/heads/*.safetensors", "results/**/*.safetensors", "results/**/result.json"),
    EXTRACT: (
        "checkpoints/features/*/*.safetensors",
        "checkpoints/features/files/*.json",
        "checkpoints/heads/*.safetensors",
    ),
    RANK: ("checkpoints/features/*/*.safetensors",),
    FULL: ("checkpoints/fine_tuned/*.json", "checkpoints/features/*/*.safetensors"),
}
RESUMED = {FINETUNE: "checkpoints/heads/*.resume.pt", TRANSFER: "results/**/resume_transform.pt"}
REPORTED = ("results/results.jsonl", "results/rank/*/ranking.json")


def damages(data: Path, work: Path, count: int, seed: int) -> Iterator[Trial]:
    """After each the same command ends with status 0 and the same numbers: what was damaged is made
    again. A report names what it leaves out.
    """
    rng = random.Random(seed)
    plan = [(command, pattern) for command, patterns in READ_BACK.items() for pattern in patterns]
    plan += [(None, pattern) for pattern in REPORTED]
    plan += [(command, pattern) for command, pattern in RESUMED.items()]
    whole: dict[Command, Path] = {}
    for command in READ_BACK:
        whole[command] = work / f"whole-{command.name}"
        _must_end(command, run_here(command.script, command.argv(data, whole[command])))
    reported = work / "whole-reported"
    for command in (TRAIN, FINETUNE, RANK):
        _must_end(command, run_here(command.script, command.argv(data, reported)))
    stopped = {command: work / f"stopped-{command.name}" for command in RESUMED}
    for command, pattern in RESUMED.items():
        _stop_at(command, data, stopped[command], pattern)
    for number in range(count):
        command, pattern = plan[number % len(plan)]
        place = work / f"damaged{number}"
        at_rest = reported if command is None else whole[command]
        shutil.copytree(stopped[command] if pattern == RESUMED.get(command) else at_rest, place)
        files = sorted(place.glob(pattern))
        path = rng.choice(files)
        how = damage(path, files, rng)
        what = f"{pattern}: {how}"
        if command is None:
            problem = _after_report(place, path, 0 if how in ("empty", "cut") else 2)
        else:
            problem = _after_repeating(command, data, place, path, left_in(whole[command]), rng)
        shutil.rmtree(place)
        yield Trial("damaged file", what, problem)


def _must_end(command: Command, ended: Ended) -> None:
    if ended.status != 0:
        raise RuntimeError(f"{command.name} itself fails: {ended.err[-500:]}")


def _stop_at(command: Command, data: Path, place: Path, pattern: str) -> None:
    """Kills it as soon as it has left its state."""
    fresh(command, data, place)
    process = start(command, data, place)
    while not any(place.glob(pattern)) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    if not any(place.glob(pattern)):
        raise RuntimeError(f"{command.name} ended before it left a state")


def damage(path: Path, same_kind: list[Path], rng: random.Random) -> str:
    """Changes the file for the worse; says how."""
    content = path.read_bytes()
    how = rng.choice(
        ("a bit", "a bit", "a bit", "bytes", "cut", "zeros", "empty", "longer", "another's")
    )
    at = rng.randrange(len(content))
    if how == "a bit":
        content = _with(content, at, bytes([content[at] ^ (1 << rng.randrange(8))]))
    elif how == "bytes":
        content = _with(content, at, rng.randbytes(min(16, len(content) - at)))
    elif how == "cut":
        content = content[:at]
    elif how == "zeros":
        content = _with(content, at, bytes(min(512, len(content) - at)))
    elif how == "empty":
        content = b""
    elif how == "longer":
        content += rng.randbytes(100)
    else:
        others = [other for other in same_kind if other != path]
        content = rng.choice(others).read_bytes() if others else b"another"
    path.write_bytes(content)
    return how


def _with(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def _after_repeating(
    command: Command, data: Path, place: Path, path: Path, wanted: dict, rng: random.Random
) -> str:
    """The result is wanted again, by the same command or by one that must compute."""
    argv = command.argv(data, place)
    damaged = path.read_bytes()
    of_a_result = {"results", "networks"} & {*path.relative_to(place).parts}
    if not of_a_result and rng.random() < 0.5:  # the caches are read, not the result
        for result in (place / "results").rglob("result.json"):
            result.unlink()
        (place / "results" / "results.jsonl").unlink(missing_ok=True)
    ended = run_here(command.script, argv)
    if ended.status != 0:
        return f"status {ended.status}: {ended.err.strip()[-300:]}"
    if path.exists() and path.read_bytes() != damaged and path.name not in ended.err:
        return "it is made again without a word"
    return what_differs(place, wanted)


def _after_report(place: Path, path: Path, number: int) -> str:
    before = path.read_bytes()
    ended = run_here("report", ["--RESULTS_DIR", str(place / "results")])
    if ended.status != 0:
        return f"status {ended.status}: {ended.err.strip()[-300:]}"
    if path.read_bytes() != before:
        return "the report changed the file"
    runs = f"({number} runs;"
    return "" if path.name in ended.err or runs in ended.out else "left out without a word"
