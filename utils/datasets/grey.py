"""The grey data sets of the small scale, and the samples that lie in data/embedded."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from utils.datasets.content import DAMAGED, Content, Request, keep_classes, torchvision_parts
from utils.datasets.idx import read_idx_splits
from utils.datasets.images import Split
from utils.errors import InputError
from utils.names import REPOSITORY

EMBEDDED_DIR = REPOSITORY / "data" / "embedded"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def _torchvision_splits(name: str, request: Request, **options) -> list[Split]:
    """Read both splits of one of torchvision's MNIST-like classes."""
    parts = torchvision_parts(name, request, **options)
    return [Split(part.data.unsqueeze(1), part.targets.long()) for part in parts]


def idx_reader(name: str, class_names: tuple[str, ...]) -> Callable:
    """Read the four files of an MNIST-like data set as they lie there, whichever mirror they come from:
    torchvision's checksums know one version of each. Else torchvision's own way, which can download.
    """

    def read(request: Request) -> Content:
        folder = request.data_dir / name / "raw"
        try:
            if splits := read_idx_splits(folder):
                return Content(*splits, class_names)
        except InputError as error:
            if not request.download:  # which may mend it
                raise RuntimeError(str(error)) from error
            with contextlib.suppress(OSError, RuntimeError, *DAMAGED):
                _torchvision_splits(name, request)
            splits = read_idx_splits(folder)  # torchvision looks at names alone
            if splits is None:
                raise
            return Content(*splits, class_names)
        return Content(*_torchvision_splits(name, request), class_names)

    return read


def read_fashion_mnist(request: Request) -> Content:
    """Read the files in data_dir, else those of Debian's dataset-fashion-mnist, else a download."""
    read = idx_reader("FashionMNIST", CLOTHES)
    with contextlib.suppress(RuntimeError):  # what torchvision raises for absent files
        return read(replace(request, download=False))
    if splits := read_idx_splits(DEBIAN_FASHION_MNIST):
        return Content(*splits, CLOTHES)
    return read(request)


EMNIST_CLASSES = 10


def read_emnist(request: Request) -> Content:
    """Read 10 of the 26 letters, drawn from the seed and renumbered 0..9, of the letters split, whose
    labels are 1..26 (orientation as torchvision delivers it).
    """
    chosen = torch.randperm(len(LETTERS), generator=request.generator)[:EMNIST_CLASSES].sort().values
    parts = _torchvision_splits("EMNIST", request, split="letters")
    splits = [replace(split, labels=split.labels - 1) for split in parts]
    return keep_classes(Content(*splits, LETTERS), chosen)


# ---------------------------------------------------------------------------------- embedded data
def embedded_reader(file: str, class_names: tuple[str, ...]) -> Callable[[], Content]:
    """Read an .npz made by data/make_embedded.py: x_*, y_* for train and test, uint8, no pickle."""

    def read() -> Content:
        with np.load(EMBEDDED_DIR / file, allow_pickle=False) as arrays:
            splits = [
                Split(
                    torch.from_numpy(arrays[f"x_{split}"]).unsqueeze(1),
                    torch.from_numpy(arrays[f"y_{split}"].astype(np.int64)),
                )
                for split in ("train", "test")
            ]
        return Content(*splits, class_names)

    return read


# -------------------------------------------------------------------------------------- the registry
DIGITS = tuple("0123456789")
CLOTHES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "boot"),
)
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
