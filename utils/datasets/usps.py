"""USPS: the released code's pickle, read without running code in it, or torchvision's files."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from utils.datasets.content import DAMAGED, Content, Request, torchvision_parts
from utils.datasets.grey import DIGITS
from utils.datasets.images import Split
from utils.errors import InputError
from utils.storage import require_regular

USPS_TRAINING_IMAGES = 1800


def read_usps(request: Request) -> Content:
    """Read usps_28x28.pkl (gzip) when it lies in data_dir, else torchvision's USPS resized to 28×28. A
    source has 1,800 random training images, as in the released code.
    """
    pickled = request.data_dir / "usps_28x28.pkl"
    train, test = _read_usps_pickle(pickled) if pickled.exists() else _read_torchvisions_usps(request)
    if request.role == "source":
        drawn = torch.randperm(len(train.labels), generator=request.generator)[:USPS_TRAINING_IMAGES]
        train = train.select(drawn)
    return Content(train, test, DIGITS)


def _read_torchvisions_usps(request: Request) -> list[Split]:
    splits = []
    for part in torchvision_parts("USPS", request):
        images = torch.from_numpy(part.data).float().unsqueeze(1)
        images = functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
        splits.append(Split(images.round().clamp(0, 255).byte(), torch.tensor(part.targets)))
    return splits


class _PlainType:
    """Stands in for a pickled NumPy dtype: NumPy's own takes a state that may be anything."""

    NAMES = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")

    def __init__(self, name: str, *_):
        if name not in self.NAMES:
            raise pickle.UnpicklingError(f"it holds values of the type {name!r}")
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple):
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("it holds values in no order of bytes")
        self.order = state[1]

    def values(self, content: bytes | str) -> np.ndarray:
        content = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(content, np.dtype(self.order + self.name))


class _PlainArray:
    """Stands in for a pickled NumPy array."""

    def __init__(self, *_):
        self.array = np.empty(0)

    def __setstate__(self, state: tuple):
        _, shape, plain_type, by_columns, content = state
        self.array = plain_type.values(content).reshape(shape, order="F" if by_columns else "C")

    def __len__(self) -> int:
        return len(self.array)


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays, as _PlainArray, in lists; refuses every other name."""

    ADMITTED = {
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (
            ("_reconstruct", lambda *_: _PlainArray()),
            ("scalar", lambda plain_type, content: plain_type.values(content)[0]),
        )
    } | {("numpy", "ndarray"): _PlainArray, ("numpy", "dtype"): _PlainType}

    def find_class(self, module: str, name: str):
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 stores an array's bytes
            return lambda text, _: text.encode("latin1")
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no NumPy array")
        return self.ADMITTED[module, name]


def _read_usps_pickle(path: Path) -> list[Split]:
    """Read [[train images, labels], [test …]], images (n, 1, 28, 28) in [0, 1] or 0..255."""
    require_regular(path)
    try:
        with gzip.open(path) as file:
            content = ArrayUnpickler(file, encoding="latin1").load()
        splits = []
        for parts in (content[0][:2], content[1][:2]):
            images, labels = (p.array if isinstance(p, _PlainArray) else np.asarray(p) for p in parts)
            images, labels = images.astype(np.float64).reshape(-1, 1, 28, 28), labels.reshape(-1)
            _check_digits(images, labels)
            scale = 255 if images.max() <= 1 else 1
            pixels = (images * scale).round().clip(0, 255).astype(np.uint8)
            splits.append(Split(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))))
    except (OSError, TypeError, AttributeError, ArithmeticError, MemoryError, *DAMAGED) as error:
        raise InputError(f"{path} is not the USPS pickle: {error}") from error
    return splits


def _check_digits(images: np.ndarray, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images have {len(labels)} labels")
    if not np.isfinite(images).all():
        raise ValueError("some pixels are NaN or infinite")
    if not np.isin(labels, np.arange(10)).all():
        raise ValueError("some labels are no digits 0..9")
