"""The one place that knows which accelerators there are."""

import platform

import torch

from utils.errors import InputError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--DEVICE cuda: this machine has no usable CUDA device; use auto or cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


def describe_device(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
    return f"{device.type} ({torch.cuda.get_device_name(device)})"
