"""Several processes started by torchrun: who does what, and how an error of one reaches all.

Without torchrun there is one process of rank 0 and nothing here waits for anything.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import distributed

from utils.errors import InputError

T = TypeVar("T")


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The process's number on its machine: which of its GPUs it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins torchrun's processes (gloo, and nccl where they compute on CUDA) for the block."""
    if world_size() == 1:
        yield
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()
    if rank() == 0 and torch.get_num_threads() == 1:  # torchrun's default for each of its processes
        torch.set_num_threads(os.cpu_count() or 1)  # from here on this one works alone


def main_process_first(action: Callable[[], T]) -> T:
    """Rank 0 runs it before the others do, so that a file is downloaded once."""
    result, problem = None, None
    if rank() == 0:
        try:
            result = action()
        except InputError as error:
            problem = error
    agree(problem)
    return result if rank() == 0 else action()


def agree(problem: InputError | None) -> None:
    """Waits for all processes; if one has a problem, all end: rank 0 with its message, the others
    silently, with the exit status of bad input.
    """
    if not distributed.is_initialized():
        problems = [problem]
    else:
        problems = [None] * world_size()
        distributed.all_gather_object(problems, problem)
    first = next((found for found in problems if found), None)
    if first and rank() > 0:
        raise SystemExit(2)
    if first:
        raise first
