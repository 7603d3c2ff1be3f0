"""Several processes started by torchrun: who does what, and how an error of one reaches all.

Without torchrun there is one process of rank 0 and nothing here waits for anything.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from utils.errors import InputError
from utils.torchrun import rank, world_size

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # one process may extract, or download, for longer than gloo's half hour


@contextlib.contextmanager
def process_group(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """Join torchrun's processes (gloo, and nccl where they compute on CUDA) for the block; `threads`:
    how many were asked for.
    """
    if world_size() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()
    # From here on this one works alone; 1 thread is torchrun's default for each of its processes.
    if rank() == 0 and threads is None and torch.get_num_threads() == 1:
        torch.set_num_threads(os.cpu_count() or 1)


def main_process_first(action: Callable[[], T]) -> T:
    """Rank 0 runs it before the others do, so that a file is downloaded once."""
    result, problem = None, None
    if rank() == 0:
        result, problem = _attempt(action)
    agree(problem)
    if distributed.is_initialized():
        if rank() > 0:
            result, problem = _attempt(action)
        agree(problem)
    return result


def _attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return action(), None
    except Exception as error:  # whatever it is, the other processes must hear of it
        return None, error


def from_main_process(value: T) -> T:
    """Rank 0's value, in all processes."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def agree(problem: Exception | None) -> None:
    """Wait for all processes; if one has a problem, all end: rank 0 with its message, the others
    silently, with the exit status of bad input.
    """
    if not distributed.is_initialized():
        if problem:
            raise problem
        return
    texts: list[str | None] = [None] * world_size()
    expected = isinstance(problem, InputError | OSError)
    text = problem and (str(problem) if expected else f"{type(problem).__name__}: {problem}")
    distributed.all_gather_object(texts, text)  # as text: not every exception can be sent
    first = next((k for k, found in enumerate(texts) if found), None)
    if first is None:
        return
    if rank() > 0:
        raise SystemExit(2)
    where = "" if first == 0 else f"in process {first}: "
    raise InputError(f"{where}{texts[first]}") from problem
