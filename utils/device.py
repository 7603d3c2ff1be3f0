"""The one place that knows which accelerators there are."""

import platform

import torch
from threadpoolctl import threadpool_limits

from utils.distributed import local_rank
from utils.errors import InputError

DEVICES = ("auto", "cpu", "cuda")


def use_threads(count: int) -> None:
    """From here on this process computes with so many threads."""
    torch.set_num_threads(count)
    threadpool_limits(count)


def choose_device(name: str, threads: int | None = None) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU, with so many `threads` (None: as it is)."""
    if threads is not None:
        use_threads(threads)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--DEVICE cuda: this machine has no usable CUDA device; use auto or cpu")
    if name == "cpu" or not available:
        return torch.device("cpu")
    if local_rank() >= torch.cuda.device_count():
        raise InputError(
            f"process {local_rank()} of this machine finds {torch.cuda.device_count()} CUDA devices: "
            "start one process a GPU (--nproc_per_node)"
        )
    device = torch.device("cuda", local_rank())  # torchrun starts a process a GPU
    torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
    return f"{device.type} ({torch.cuda.get_device_name(device)})"
