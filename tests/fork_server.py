"""A process that has imported what the scripts load. It forks for each request of processes.py, and the
fork does what `python ...` would, but for the seconds of those imports.

    python -m tests.fork_server SOCKET     (the number of an open one; it ends when that is closed)
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import select
import signal
import socket
import sys
import threading
import uuid

import numpy as np

import utils
from utils.storage import files

LARGEST_REQUEST = 2**18


def serve(requests: socket.socket) -> dict | None:
    """Forks until the other end is closed. In a fork: what it is to do; in the server: None."""
    ended, wake = os.pipe()
    for end in (ended, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    reports: dict[int, int] = {}  # where the status of each fork is to be told
    while True:
        ready, _, _ = select.select([requests, ended], [], [])
        if ended in ready:
            os.read(ended, 1024)
            for pid in [pid for pid in reports if _tell_status(pid, reports[pid])]:
                os.close(reports.pop(pid))
        if requests in ready:
            message, places, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 3)
            if not message:
                return None
            out, err, report_to = places
            assert threading.active_count() == 1
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                for end in (requests.detach(), ended, wake, *reports.values()):
                    os.close(end)
                request = json.loads(message)
                _become_a_process(request, out, err, report_to)
                return request
            os.close(out)
            os.close(err)
            reports[pid] = report_to


def _tell_status(pid: int, report_to: int) -> bool:
    """Whether it has ended."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
        with contextlib.suppress(BrokenPipeError):  # who asked has gone
            os.write(report_to, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return bool(found)


def _become_a_process(request: dict, out: int, err: int, report_to: int) -> None:
    """Its own session where asked for, its own streams, folder, environment and random numbers."""
    if request["new_session"]:
        os.setsid()
    for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(stream, number)
        os.close(stream)
    # New objects ask anew what it is that they write to.
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, closefd=False, errors="backslashreplace")
    for one in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(one, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    random.seed()
    np.random.seed()
    files.PROCESS = uuid.uuid4().hex[:8]
    os.write(report_to, f"{os.getpid()}\n".encode())
    os.close(report_to)


def run(how: str, *words: str) -> None:
    """As `python HOW …` does: -c CODE, -m MODULE or a script, each with its arguments."""
    if how == "-c":
        code, *sys.argv[1:] = words
        sys.argv[0], sys.path[0] = "-c", ""
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif how == "-m":
        module, *sys.argv[1:] = words
        sys.path[0] = os.getcwd()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [how, *words], os.path.dirname(os.path.abspath(how))
        runpy.run_path(how, run_name="__main__")


def status_of_running(*argv: str) -> int:
    """As Python ends: errors are shown, threads awaited, and what was to be done at exit is done."""
    status = 0
    try:
        run(*argv)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


if __name__ == "__main__":
    for found in pkgutil.walk_packages(utils.__path__, "utils."):
        importlib.import_module(found.name)
    gc.freeze()  # what a collection looks at, a fork has a copy of
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked:
        # Taking the interpreter apart would copy all that a fork shares with the server.
        os._exit(status_of_running(*asked["argv"]))
