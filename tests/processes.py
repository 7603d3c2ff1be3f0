"""Processes that tests start, talk to and end: forks of one that has imported what the scripts load
(fork_server.py), as the seconds of those imports are not what is tested.
"""

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.names import REPOSITORY

# Seconds for what takes a few, on a machine that may be busy: only what hangs takes so long.
PATIENCE = 1200


class Forked:
    """What the tests use of subprocess.Popen."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], new_session: bool):
        self.args, self.returncode = argv, None
        out, its_out = os.pipe()
        err, its_err = os.pipe()
        self._report, its_report = os.pipe()
        request = {"argv": list(argv), "cwd": str(cwd), "env": dict(env), "new_session": new_session}
        given = (its_out, its_err, its_report)
        socket.send_fds(_server(), [json.dumps(request).encode()], given)
        for end in given:
            os.close(end)
        self.stdout, self.stderr = (os.fdopen(end, encoding="utf-8") for end in (out, err))
        self.pid = self._told(PATIENCE)

    def _told(self, seconds: float) -> int:
        """The next number that the server tells of it: its own, then its exit status."""
        text = b""
        while not text.endswith(b"\n"):
            if not select.select([self._report], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(self.args, seconds)
            read = os.read(self._report, 1)
            assert read, "the fork server has ended"
            text += read
        return int(text)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float = PATIENCE) -> int:
        if self.returncode is None:
            self.returncode = self._told(timeout)
            os.close(self._report)
        return self.returncode

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        said = {}

        def read(name: str) -> None:
            with getattr(self, name) as stream:
                said[name] = stream.read()

        readers = [threading.Thread(target=read, args=(n,), daemon=True) for n in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return said["stdout"], said["stderr"]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> socket.socket:
    """The way to this process's fork server; it ends when that is closed, as it is with this process."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # other threads would not survive a fork
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fork_server", str(there.fileno())],
        cwd=REPOSITORY,
        env=environment,
        pass_fds=[there.fileno()],
        stdin=subprocess.DEVNULL,
    )
    there.close()

    def end() -> None:
        here.close()
        process.wait()

    atexit.register(end)
    return here


def start(*argv: str, cwd: Path = REPOSITORY, new_session: bool = False, **environment: str) -> Forked:
    """`python ARGV…` with one thread; `environment` is added to this process's."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return Forked(argv, cwd, env, new_session)


def run(*argv: str, **about) -> subprocess.CompletedProcess[str]:
    """`start` and what came of it."""
    process = start(*argv, **about)
    out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


@contextmanager
def within_patience(process: subprocess.Popen | Forked) -> Iterator[None]:
    net = threading.Timer(PATIENCE, process.kill)
    net.start()
    try:
        yield
    finally:
        net.cancel()


def lines_until(process: subprocess.Popen | Forked, start: str, count: int) -> list[str]:
    """What a process says on stderr up to the `count`-th line that starts so: it is told what has
    happened, where a look at the files sees what is about to.
    """
    said = []
    with within_patience(process):
        while sum(line.startswith(start) for line in said) < count:
            line = process.stderr.readline()
            assert line, f"it ended before: {said}"
            said.append(line)
    return said


def the_rest(process: subprocess.Popen | Forked) -> tuple[str, str]:
    """(stdout, what is left of stderr) once it and all that it started have ended."""
    with within_patience(process):
        told = process.stderr.read()
        shown = process.stdout.read()
        process.wait()
    return shown, told
