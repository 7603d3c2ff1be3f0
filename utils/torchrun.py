"""What torchrun tells each process of a run: its number. Without torchrun there is one, of rank 0."""

import os


def rank() -> int:
    return _from_torchrun("RANK")


def local_rank() -> int:
    """Return the process's number on its machine: which of its GPUs it takes."""
    return _from_torchrun("LOCAL_RANK")


def world_size() -> int:
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdigit() else 1


def _from_torchrun(name: str) -> int:
    """Return 0 where one process runs alone, whatever other programs keep in variables of this name."""
    return int(os.environ.get(name, "0")) if world_size() > 1 else 0
