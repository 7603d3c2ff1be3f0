"""How every script starts and ends: bad input, signals, full memory, terminals that are not UTF-8."""

import codecs
import contextlib
import functools
import os
import signal
import sys
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from utils.errors import InputError, Remark
from utils.torchrun import rank, world_size


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system sends it before it kills."""


def stage_entry(stage: str) -> Callable:
    """Wrap a script's main: bad input becomes one line on stderr, which names the stage, and exit status
    2; a warning or remark becomes one line on stderr, once a run; Ctrl-C gives exit status 130, SIGTERM
    143.
    """

    def who() -> str:
        return stage if world_size() == 1 else f"{stage}, process {rank()}"

    def fail(problem: object, error: BaseException) -> None:
        print(f"error: {who()}: {' '.join(str(problem).split())}", file=sys.stderr)
        raise SystemExit(2) from error

    def wrap(main: Callable[..., None]) -> Callable:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None, **defaults: Any) -> None:
            with warnings.catch_warnings(), _sigterm_raises():
                warnings.showwarning = _print_warning
                _told.clear()
                _use_plain_letters_where_needed()
                try:
                    with _output_that_may_fail():
                        main(argv, **defaults)
                except (InputError, OSError) as error:  # a folder in a file's place, a full disk
                    fail(error, error)
                except (MemoryError, RuntimeError) as error:
                    if not _is_lack_of_memory(error):
                        raise
                    fail(f"not enough memory for this run: {str(error)[:200]}", error)
                except KeyboardInterrupt as error:
                    how, status = "interrupted", 130
                    if isinstance(error, Terminated):
                        how, status = "terminated", 143
                    print(f"{stage} {how}: the same command goes on from there", file=sys.stderr)
                    raise SystemExit(status) from None

        return run

    return wrap


def _is_lack_of_memory(error: Exception) -> bool:
    texts = ("can't allocate memory", "out of memory", "out of shared memory", "unable to write to file")
    known = isinstance(error, MemoryError)
    return known or any(text in str(error) for text in texts)


def warning_line(message: object, category: type[Warning]) -> str:
    """Spell a warning as it is shown."""
    kind = "remark" if issubclass(category, Remark) else "warning"
    return f"{kind}: {' '.join(str(message).split())}"


_told: set[str] = set()


def print_once(line: str) -> None:
    """Print a line on stderr, unless this run has said it."""
    if line not in _told:
        _told.add(line)
        print(line, file=sys.stderr)


def _print_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print_once(warning_line(message, category))


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise; only the main thread may say what a signal does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------------------------------------ terminals
PLAIN = {
    "→": "->",
    "—": "-",
    "–": "-",
    "−": "-",
    "×": "x",
    "…": "...",
    "·": "*",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "τ": "tau",
    "ε": "eps",
    "λ": "lambda",
    "Λ": "Lambda",
    "Σ": "sum",
    "π": "pi",
}


def _plain_letters(error: UnicodeError) -> tuple[str, int]:
    """Find the nearest letters that ASCII has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = ""
    for letter in error.object[error.start : error.end]:
        without_marks = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
        text += PLAIN.get(letter) or without_marks or "?"
    return text, error.end


class _Output:
    """Stands for stdout: a full disk or a closed pipe behind it costs no result."""

    def __init__(self, stream: TextIO):
        self.stream, self.problem = stream, None

    def write(self, text: str) -> int:
        self._attempt(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def _attempt(self, action: Callable, *arguments: str) -> None:
        if self.problem is None:
            try:
                action(*arguments)
            except OSError as error:
                self.problem = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _output_that_may_fail() -> Iterator[None]:
    """Say at the end, when the results are kept, what could not be written."""
    output = _Output(sys.stdout)
    with contextlib.redirect_stdout(output):
        yield
    output.flush()
    if output.problem:
        with contextlib.suppress(OSError, ValueError):  # else Python tries again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.stream.fileno())
        if not isinstance(output.problem, BrokenPipeError):  # as `| head` means it
            raise InputError(f"the output could not be written ({output.problem}); results are kept")


codecs.register_error("plain letters", _plain_letters)


def _use_plain_letters_where_needed() -> None:
    """Let a terminal or pipe that is not UTF-8 show what it can."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain letters")
