"""The grey data sets of the small scale, and the samples that lie in data/embedded."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from utils.datasets.content import DAMAGED, Content, Request, keep_classes, torchvision_class
from utils.datasets.idx import read_idx_splits
from utils.datasets.images import Split
from utils.errors import InputError
from utils.storage import REPOSITORY

EMBEDDED_DIR = REPOSITORY / "data" / "embedded"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def torchvision_reader(name: str, class_names: tuple[str, ...], **options) -> Callable:
    """Reads both splits of one of torchvision's MNIST-like classes."""

    def read(request: Request) -> Content:
        splits = []
        for train in (True, False):
            raw = torchvision_class(name)(
                request.data_dir, train=train, download=request.download, **options
            )
            splits.append(Split(raw.data.unsqueeze(1), raw.targets.long()))
        return Content(*splits, class_names)

    return read


def idx_reader(name: str, class_names: tuple[str, ...]) -> Callable:
    """The four files of an MNIST-like data set as they lie there, whichever mirror they come from:
    torchvision's checksums know one version of each. Else torchvision's own way, which can download.
    """
    by_torchvision = torchvision_reader(name, class_names)

    def read(request: Request) -> Content:
        folder = request.data_dir / name / "raw"
        try:
            if splits := read_idx_splits(folder):
                return Content(*splits, class_names)
        except InputError as error:
            if not request.download:  # which may mend it
                raise RuntimeError(str(error)) from error
            with contextlib.suppress(OSError, RuntimeError, *DAMAGED):
                by_torchvision(request)
            splits = read_idx_splits(folder)  # torchvision looks at names alone
            if splits is None:
                raise
            return Content(*splits, class_names)
        return by_torchvision(request)

    return read


def read_fashion_mnist(request: Request) -> Content:
    """The files in data_dir, else those of Debian's dataset-fashion-mnist, else a download."""
    read = idx_reader("FashionMNIST", CLOTHES)
    with contextlib.suppress(RuntimeError):  # what torchvision raises for absent files
        return read(replace(request, download=False))
    if splits := read_idx_splits(DEBIAN_FASHION_MNIST):
        return Content(*splits, CLOTHES)
    return read(request)


EMNIST_CLASSES = 10


def read_emnist(request: Request) -> Content:
    """The letters split, its labels 1..26 as 0..25 (orientation as torchvision delivers it): 10 of the
    26 letters, drawn from the seed and renumbered 0..9.
    """
    train, test, _ = torchvision_reader("EMNIST", LETTERS, split="letters")(request)
    chosen = torch.randperm(len(LETTERS), generator=request.generator)[:EMNIST_CLASSES].sort().values
    splits = [replace(split, labels=split.labels - 1) for split in (train, test)]
    return keep_classes(Content(*splits, LETTERS), chosen)


# ---------------------------------------------------------------------------------- embedded data
def embedded_reader(file: str, class_names: tuple[str, ...]) -> Callable[[], Content]:
    """Reads an .npz made by data/make_embedded.py: x_*, y_* for train and test, uint8, no pickle."""

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
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
)
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
