"""What is asked of a reader of data and what it returns; reading files, or downloading them first."""

import contextlib
import pickle
import shutil
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from utils.datasets.images import Split
from utils.errors import InputError
from utils.storage import is_writable, only_one, require_writable

DOWNLOAD = "download"  # names the lock of a data folder
DOWNLOAD_TIMEOUT = 30  # seconds without an answer before a download is given up


# -------------------------------------------------------------------------------------- full data
class Content(NamedTuple):
    """What a reader returns: labels 0..K−1 in the order of `class_names`."""

    train: Split
    test: Split
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """What a reader may need to know; `load_dataset` explains the fields."""

    data_dir: Path
    download: bool = False
    role: str = "target"
    seed: int = 0
    classes_to_draw: int | None = None

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class DatasetEntry:
    """`read` raises FileNotFoundError or RuntimeError where the data is absent. `grey`: 28×28 grey."""

    name: str
    read: Callable[[Request], Content]
    where: str  # what to put into the data folder when it cannot be downloaded
    grey: bool = False
    embedded: Callable[[], Content] | None = None
    as_target: bool = True
    downloads: bool = True


# What a damaged file or archive makes its readers raise.
DAMAGED = (
    *(ValueError, LookupError, EOFError),
    *(pickle.UnpicklingError, zlib.error, tarfile.TarError, zipfile.BadZipFile),
)


def read_full(entry: DatasetEntry, request: Request) -> Content:
    """Read the files that are there, or after a download. One process at a time where another could be
    downloading: until that has ended, files are half there.
    """
    data_dir = request.data_dir
    if not entry.downloads:
        return _read_present(entry, request)
    if not is_writable(data_dir):
        try:
            return _read_present(entry, request)
        except (OSError, RuntimeError) as error:
            if isinstance(error.__cause__, InputError):  # they are there, but damaged
                raise error.__cause__ from None
        require_writable(data_dir, "--DATA_DIR")
    new = not data_dir.exists()
    try:
        with only_one(data_dir / DOWNLOAD):
            with contextlib.suppress(OSError, RuntimeError):
                return _read_present(entry, request)
            return _download(entry, request)
    finally:
        if new and not _visible(data_dir):
            shutil.rmtree(data_dir, ignore_errors=True)


def _read_present(entry: DatasetEntry, request: Request) -> Content:
    try:
        return entry.read(request)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(
            f"{entry.name}: damaged files in {request.data_dir}: {error}; delete them"
        ) from error


def _download(entry: DatasetEntry, request: Request) -> Content:
    """Have torchvision download it, with progress and checksum; remove what a failed one began."""
    data_dir = request.data_dir
    before = _visible(data_dir)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        return entry.read(replace(request, download=True))
    except InputError:
        raise
    except (OSError, RuntimeError):
        for made in _visible(data_dir) - before:
            _remove_empty_folders(made)
        raise
    except DAMAGED as error:
        for path in _visible(data_dir) - before:  # half of an archive's files
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise InputError(
            f"{entry.name}: its archive in {data_dir} is damaged ({str(error)[:200]}): delete it, and "
            "the next run downloads it again"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _visible(folder: Path) -> set[Path]:
    """List what is in it beside hidden files, such as its lock."""
    return {path for path in folder.glob("*") if path.name[0] != "."}


def _remove_empty_folders(top: Path) -> None:
    for path in [*sorted(top.rglob("*"), reverse=True), top]:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def torchvision_class(name: str) -> type:
    import torchvision  # two seconds, spared to every run that needs none of its files

    return getattr(torchvision.datasets, name)


def torchvision_parts(name: str, request: Request, **options) -> list:
    """Open the training and the test part of one of torchvision's data sets."""
    reader = torchvision_class(name)
    return [
        reader(request.data_dir, train=train, download=request.download, **options)
        for train in (True, False)
    ]


def keep_classes(content: Content, chosen: Tensor) -> Content:
    """Return the samples of the chosen classes, which are renumbered in the order given."""
    renumbered = torch.full((len(content.class_names),), -1)
    renumbered[chosen] = torch.arange(len(chosen))

    def keep(split: Split) -> Split:
        labels = renumbered[split.labels]
        return replace(split, labels=labels).select((labels >= 0).nonzero().flatten())

    names = tuple(content.class_names[k] for k in chosen.tolist())
    return Content(keep(content.train), keep(content.test), names)
