"""The one place that knows which accelerators there are, and what to do where their memory is full."""

import platform
import warnings
from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from utils.errors import InputError
from utils.torchrun import local_rank


def use_threads(count: int) -> None:
    """Have this process compute with so many threads from here on."""
    torch.set_num_threads(count)
    threadpool_limits(count)


def choose_device(name: str, threads: int | None = None) -> torch.device:
    """Choose the device: `auto` is CUDA where there is one, else the CPU, with so many `threads` (None:
    as it is).
    """
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


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether the device has instructions for products of bfloat16 (an older torch does not tell of
    a CPU's: no).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    told = getattr(torch.cpu, "get_capabilities", dict)()
    return any(told.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


# ------------------------------------------------------------------------------------------ full memory
# As PyTorch's allocators and CUDA's libraries put it.
FULL = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")


def is_full(error: BaseException) -> bool:
    """Tell whether an error says that the memory of a device did not suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in FULL)


class InFittingParts:
    """Runs an action on a batch whole or, where the device's memory does not suffice, in parts half as
    large, quarter as large and so on; what was learned holds for later batches. A warning tells it and
    how to begin with that size: `flag`.
    """

    def __init__(self, flag: str):
        self.flag = flag
        self.most: int | None = None

    def __call__(self, action: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """Return what the action gives, for each of the batch's rows one. Raises InputError if the
        memory does not even suffice for one row.
        """
        while (results := self._attempt(action, batch)) is None:
            size = min(self.most or len(batch), len(batch))
            memory = f"the memory of {describe_device(batch.device)} does not suffice for"
            if size == 1:
                raise InputError(
                    f"{memory} a single image of this size: free some, or use another --DEVICE, smaller "
                    "images or a smaller network"
                )
            self.most = size // 2
            warnings.warn(
                f"{memory} {size} images at once: going on with {self.most} ({self.flag} {self.most} "
                "begins so)",
                stacklevel=2,
            )
            if batch.is_cuda:
                torch.cuda.empty_cache()
        return results[0] if len(results) == 1 else torch.cat(results)

    def _attempt(self, action: Callable[[Tensor], Tensor], batch: Tensor) -> list[Tensor] | None:
        """Call the action; return None where the memory is full; nothing of the failed attempt is held
        any more then.
        """
        try:
            return [action(part) for part in batch.split(self.most or len(batch))]
        except RuntimeError as error:
            if is_full(error):
                return None
            raise
