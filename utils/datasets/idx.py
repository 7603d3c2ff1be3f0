"""IDX files, the format of MNIST and its relatives, plain or gzipped: checked by their content."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from utils.datasets.images import Split
from utils.errors import InputError

FILE_NAMES = ("images-idx3-ubyte", "labels-idx1-ubyte")
UNSIGNED_BYTES = 8  # the last byte of the file signature: the type of the values


def read_idx_splits(folder: Path, prefixes: tuple[str, str] = ("train", "t10k")) -> list[Split] | None:
    """Read training and test split; None unless all four files are there."""
    if any(_find(folder, f"{prefix}-{part}") is None for prefix in prefixes for part in FILE_NAMES):
        return None
    return [read_idx_split(folder, prefix) for prefix in prefixes]


def read_idx_split(folder: Path, prefix: str) -> Split:
    """Read {prefix}-images-idx3-ubyte and {prefix}-labels-idx1-ubyte, with .gz or without. Raises
    InputError that names a file which is damaged or of another shape.
    """
    paths = [_find(folder, f"{prefix}-{part}") or folder / f"{prefix}-{part}" for part in FILE_NAMES]
    images, labels = (read_idx(path) for path in paths)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise InputError(f"{paths[0]} holds no 28×28 images but an array of shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise InputError(f"{paths[1]} holds labels of shape {labels.shape} for {len(images)} images")
    return Split(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes. Its header: two zeros, the type, the number of axes, each axis's length as
    four bytes, the highest first.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is damaged ({error}): delete it, or put the right one there"
        ) from error
    axes = content[3] if len(content) > 3 else 0
    shape = tuple(np.frombuffer(content[4 : 4 + 4 * axes], ">u4").tolist())
    whole = len(shape) == axes > 0 and len(content) == 4 + 4 * axes + math.prod(shape)
    if content[:3] != bytes([0, 0, UNSIGNED_BYTES]) or not whole:
        raise InputError(f"{path} is no whole IDX file of bytes: delete it, or put the right one there")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
