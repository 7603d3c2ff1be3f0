"""Commands that are killed at a random moment, run twice at once, or short of space."""

import functools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.tasks import (
    EXTRACT,
    FINETUNE,
    FULL,
    PATIENCE,
    RANK,
    RAY,
    REPORT,
    SWEEP,
    TRAIN,
    TRANSFER,
    Command,
    as_process,
    left_in,
    what_differs,
)
from utils.names import REPOSITORY

# How often each is tried, in the place of all kills.
SHARES = {
    TRAIN: 0.18,
    FINETUNE: 0.17,
    TRANSFER: 0.2,
    EXTRACT: 0.18,
    SWEEP: 0.08,
    RANK: 0.1,
    REPORT: 0.06,
    RAY: 0.03,
}


@dataclass(frozen=True)
class Trial:
    """`problem`: what fell; empty where all held."""

    part: str
    what: str
    problem: str


@dataclass(frozen=True)
class Undisturbed:
    """How long a command takes after its start, and what it leaves."""

    seconds: float
    results: dict[str, object]


def start(command: Command, data: Path, place: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        as_process(command, data, place, REPOSITORY),
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen) -> tuple[int | None, str]:
    """(status, what it said on stderr); no status if it had to be killed after PATIENCE."""
    try:
        _, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, f"no end after {PATIENCE} s"
    return process.returncode, err


def end(process: subprocess.Popen) -> str:
    """Its problem: another status than 0, or a traceback."""
    status, err = wait_for(process)
    if "Traceback" in err:
        return "a traceback: " + err.strip().splitlines()[-1]
    return "" if status == 0 else f"status {status}: {err.strip()[-200:]}"


def must_end(command: Command, data: Path, place: Path) -> None:
    if problem := end(start(command, data, place)):
        raise RuntimeError(f"{command.name} itself fails: {problem}")


@functools.cache
def undisturbed(command: Command, data: Path, place: Path) -> Undisturbed:
    fresh(command, data, place)
    begun = time.perf_counter()
    must_end(command, data, place)
    return Undisturbed(time.perf_counter() - begun, left_in(place))


def fresh(command: Command, data: Path, place: Path) -> None:
    """An empty place, or one in which the commands before have ended."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for earlier in command.before:
        must_end(earlier, data, place)


def in_turn(
    commands: Sequence[Command], data: Path, work: Path, count: int
) -> Iterator[tuple[int, Command, Undisturbed, Path]]:
    """`count` times: (number, one of the commands, what it leaves undisturbed, a place for it)."""
    for number in range(count):
        command = commands[number % len(commands)]
        yield number, command, undisturbed(command, data, work / "whole"), work / str(number)


# ------------------------------------------------------------------------------------------- kills
def kills(data: Path, work: Path, count: int, seed: int) -> Iterator[Trial]:
    """SIGKILL to the whole group of processes; then the same command must end as if nothing had been."""
    rng = random.Random(seed)
    known = {command: undisturbed(command, data, work / "whole") for command in SHARES}
    plan = [c for c, share in SHARES.items() for _ in range(max(1, round(share * count)))][:count]
    rng.shuffle(plan)

    def one(number: int, command: Command, fraction: float) -> Trial:
        place = work / f"kill{number}"
        fresh(command, data, place)
        moment = fraction * known[command].seconds
        process = start(command, data, place)
        time.sleep(moment)
        with suppress(ProcessLookupError):  # it was quicker than the undisturbed one
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        problem = end(start(command, data, place)) or what_differs(place, known[command].results)
        shutil.rmtree(place)
        return Trial("kill", f"{command.name} after {moment:.1f} s", problem)

    # The first third of a run is Python's start.
    jobs = [(k, command, rng.uniform(0.3, 1.0)) for k, command in enumerate(plan)]
    with ThreadPoolExecutor(2) as pool:
        try:
            yield from pool.map(lambda job: one(*job), jobs)
        finally:  # also where no more are wanted
            pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------ two at once
def together(data: Path, work: Path, count: int, seed: int) -> Iterator[Trial]:
    """The same command twice at the same time: both end well, and what is left is what one leaves."""
    commands = (TRAIN, FINETUNE, TRANSFER, EXTRACT)
    for _, command, known, place in in_turn(commands, data, work, count):
        fresh(command, data, place)
        both = [start(command, data, place) for _ in range(2)]
        problem = "; ".join(filter(None, map(end, both))) or what_differs(place, known.results)
        shutil.rmtree(place)
        yield Trial("two at once", command.name, problem)


# ------------------------------------------------------------------------------------- full disks
ON_DISKS = (TRAIN, FINETUNE, TRANSFER, EXTRACT, RANK, FULL)
ROOM = 2**16  # KiB, enough for each of them


def full_disks(data: Path, work: Path, count: int, seed: int) -> Iterator[Trial]:
    """A command on a disk with too little space ends with one line and status 2; with --OVERWRITE the
    earlier result is still whole; with room the same command ends as it should.
    """
    rng = random.Random(seed)
    for number, command, known, place in in_turn(ON_DISKS, data, work, count):
        again = number % 2 == 1  # over an earlier result
        with disk(place) as resize:
            room = rng.randrange(16, 400)
            if again:
                must_end(command, data, place)
                room += _used(place)
            resize(room)
            problem = _short_of_space(command, data, place, again, known)
            resize(ROOM)
            problem = problem or end(start(command, data, place))
            problem = problem or what_differs(place, known.results)
        yield Trial("full disk", f"{command.name}, {room} KiB{', again' if again else ''}", problem)


def _short_of_space(command: Command, data: Path, place: Path, again: bool, known: Undisturbed) -> str:
    overwriting = Command(command.name, command.script, command.arguments + " --OVERWRITE")
    status, err = wait_for(start(overwriting if again else command, data, place))
    if status == 0:  # there was room
        return ""
    lines = err.strip().splitlines()
    if status not in (1, 2) or "Traceback" in err:
        return f"status {status}: {lines[-1] if lines else ''}"
    if "No space left" not in err:
        return f"it does not say that the disk is full: {lines[-1]}"
    if again:
        return what_differs(place, known.results)
    return ""


def read_only(data: Path, work: Path, count: int, seed: int) -> Iterator[Trial]:
    """Folders that cannot be written to, empty ones and such with results: one line says so, and when
    they can be, the same command ends as it should.
    """
    for number, command, known, place in in_turn(ON_DISKS, data, work, count):
        with disk(place):
            if number >= len(ON_DISKS):
                must_end(command, data, place)
            _remount(place, "ro")
            status, err = wait_for(start(command, data, place))
            said = [line for line in err.splitlines() if line.startswith("error: ")]
            held = status == 2 and len(said) == 1 and "cannot be written" in said[0]
            problem = "" if held else f"status {status}: {err.strip()[-200:]}"
            _remount(place, "rw")
            problem = problem or end(start(command, data, place))
            problem = problem or what_differs(place, known.results)
        yield Trial("read-only folder", command.name, problem)


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def _used(place: Path) -> int:
    return (shutil.disk_usage(place).used + 1023) // 1024


@contextmanager
def disk(place: Path) -> Iterator[Callable[[int], None]]:
    """A file system in memory at `place`, of size ROOM; the function changes it (KiB)."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}k", "tmpfs", str(place)], check=True)

    def resize(kib: int) -> None:
        _remount(place, f"size={max(kib, _used(place))}k")

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()


def can_mount(work: Path) -> bool:
    try:
        with disk(work / "probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        (work / "probe").rmdir()
        return False
