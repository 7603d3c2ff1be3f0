"""The data sets: `load_dataset(name, …)` → `Dataset`; a registry, one entry a data set.

A data set is had in full (torchvision's files, downloaded when absent; ImageNet's and the user's own
folders) or, for two of them, as the small real sample committed in data/embedded. Small images stay
uint8 tensors, others files; scaling and decoding them is the backbone's preprocessing.
"""

import contextlib
import difflib
import gzip
import os
import pickle
import shutil
import socket
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.errors import InputError
from utils.idx import read_idx_splits
from utils.images import (
    ImageFiles,
    Split,
    class_folders,
    cluster_names,
    describe_split,
    is_labelled,
    require_utf8,
    split_of_folder,
    split_without_labels,
)
from utils.storage import digest, is_writable, only_one, require_regular, require_writable

EMBEDDED_DIR = Path(__file__).resolve().parent.parent / "data" / "embedded"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
ORIGINS = ("auto", "full", "embedded")
FOLDER_PREFIX = "folder:"
DOWNLOAD = "download"  # names the lock of a data folder
DOWNLOAD_TIMEOUT = 30  # seconds without an answer before a download is given up


@dataclass(frozen=True)
class Dataset:
    """One data set, training and test split, with where it came from for the record."""

    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    provenance: dict


# ---------------------------------------------------------------------------------- the one entrance
def load_dataset(
    name: str,
    origin: str = "auto",
    data_dir: Path = Path("data"),
    role: str = "target",
    seed: int = 0,
    num_classes: int | None = None,
) -> Dataset:
    """Loads a data set by its registered name, or the user's own by `folder:PATH`.

    `origin`: `full` (files in data_dir, else a download), `embedded` (the committed sample) or
    `auto` (full where it can be had, otherwise embedded with a warning). `role` (`source` or
    `target`), `seed` and `num_classes` decide the draws that belong to a role: EMNIST's classes, USPS's
    training sample, the classes and images of imagenet_small, of which there are `num_classes`. For a
    target, `num_classes` says that its folder has no labels but so many classes. Raises InputError
    when the data cannot be had or a class has no samples.
    """
    if origin not in ORIGINS:
        raise ValueError(f"origin must be one of {', '.join(ORIGINS)}, not {origin!r}")
    name = check_dataset_name(name, role)
    request = Request(Path(data_dir), False, role, seed, num_classes)
    unlabelled_classes = num_classes if role == "target" else None
    if is_image_folder(name):
        content, origin = read_image_folder(folder_path(name), seed, unlabelled_classes), "folder"
    elif unlabelled_classes:
        raise InputError(
            f"{name} has labels: --TARGET_CLASSES is for targets without, {FOLDER_PREFIX}PATH or "
            "features:PATH.npz"
        )
    else:
        content, origin = _load_content(DATASETS[name], origin, request)
    train, test, class_names = content
    if len(class_names) < 2:
        raise InputError(f"{name} has one class: there is nothing to tell apart")
    for split_name, split in (("training", train), ("test", test)):
        if not is_labelled(split.labels):
            continue
        if split.labels.min() < 0:
            raise InputError(
                f"{name} ({origin}): the {split_name} labels hold {int(split.labels.min())}"
            )
        counts = torch.bincount(split.labels, minlength=len(class_names))
        if counts.min() == 0 or len(counts) > len(class_names):
            absent = (counts == 0).nonzero().flatten().tolist()
            raise InputError(
                f"{name} ({origin}): the {split_name} labels do not cover 0..{len(class_names) - 1}: "
                f"none of {absent[:5]}, largest label {int(split.labels.max())}"
            )
    provenance = {
        "origin": origin,
        "train": len(train.labels),
        "test": len(test.labels),
        "sha256": digest(*describe_split(train), *describe_split(test)),
        **({"unlabelled_classes": unlabelled_classes} if unlabelled_classes else {}),
    }
    if isinstance(train.images, ImageFiles):  # read from stamps: a changed file must be noticed
        provenance["modified"] = digest(train.images.stamps, test.images.stamps)
    return Dataset(dataset_label(name), train, test, len(class_names), class_names, provenance)


def check_dataset_name(name: str, role: str, grey_only: bool = False, also: str | None = None) -> str:
    """The registered spelling of `name`. Raises InputError with the choices for this role, and `also`
    what else the caller takes; `grey_only`: among those that a LeNet can see.
    """
    if is_image_folder(name):
        return name
    entry = next((entry for entry in DATASETS.values() if entry.name.lower() == name.lower()), None)
    fitting = [
        known.name
        for known in DATASETS.values()
        if (role == "source" or known.as_target) and (known.grey or not grey_only)
    ]
    if entry and entry.name in fitting:
        return entry.name
    if entry and role == "target" and not entry.as_target:
        problem = "is not a target data set"
    elif entry:
        problem = "is no data set of 28×28 grey images, which a LeNet needs: give a --model"
    else:
        spelled = {known.lower(): known for known in fitting}
        close = difflib.get_close_matches(name.lower(), spelled, 1)
        problem = "is not a data set" + (f" (did you mean {spelled[close[0]]}?)" if close else "")
    choices = ", ".join([*fitting, f"{FOLDER_PREFIX}PATH", *([also] if also else [])])
    raise InputError(f"{name} {problem}; choose from {choices}")


def is_image_folder(name: str) -> bool:
    return name.startswith(FOLDER_PREFIX)


def folder_path(name: str) -> Path:
    return path_of(name, FOLDER_PREFIX)


def path_of(name: str, prefix: str) -> Path:
    """The path in `prefix:PATH`, ~ replaced. Raises InputError for no path and for ~name of nobody."""
    text = name.removeprefix(prefix)
    if not text:
        raise InputError(f"{name} names no path: give {prefix}PATH")
    require_utf8(text)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: {error}") from error


def dataset_label(name: str) -> str:
    """As it stands in paths and results: `folder:some/BIRDS` → folder-BIRDS."""
    return f"folder-{folder_path(name).resolve().name}" if is_image_folder(name) else name


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
    num_classes: int | None = None

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


def _load_content(entry: DatasetEntry, origin: str, request: Request) -> tuple[Content, str]:
    problem = None
    if origin != "embedded":
        try:
            return _read_full(entry, request), "full"
        except (OSError, RuntimeError) as error:
            problem = str(error).strip().replace("\n", " ")
    if origin != "full" and entry.embedded:
        if origin == "auto":
            warnings.warn(
                f"{entry.name}: the full data set is neither in {request.data_dir} nor can it be "
                "downloaded; using the embedded sample",
                stacklevel=2,
            )
        return entry.embedded(), "embedded"
    if origin == "embedded":
        with_sample = [e.name for e in DATASETS.values() if e.embedded]
        raise InputError(
            f"{entry.name} has no embedded sample in {EMBEDDED_DIR} (only {', '.join(with_sample)} "
            f"have one): use --DATA full and put {entry.where} into --DATA_DIR {request.data_dir}"
        )
    raise InputError(
        f"{entry.name} is not in {request.data_dir} and cannot be downloaded: put {entry.where} there "
        f"({problem[:200]})"
    )


# What a damaged file or archive makes its readers raise.
DAMAGED = (
    ValueError, LookupError, EOFError, pickle.UnpicklingError, zlib.error, tarfile.TarError,
    zipfile.BadZipFile,
)  # fmt: skip


def _read_full(entry: DatasetEntry, request: Request) -> Content:
    """From the files that are there, or after a download. One process at a time where another could be
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
    """Progress and checksum are torchvision's; what a failed download began is removed."""
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
    """What is in it beside hidden files, such as its lock."""
    return {path for path in folder.glob("*") if path.name[0] != "."}


def _remove_empty_folders(top: Path) -> None:
    for path in [*sorted(top.rglob("*"), reverse=True), top]:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _torchvision_class(name: str) -> type:
    import torchvision  # two seconds, spared to every run that needs none of its files

    return getattr(torchvision.datasets, name)


def _torchvision_reader(name: str, class_names: tuple[str, ...], **options) -> Callable:
    """Reads both splits of one of torchvision's MNIST-like classes."""

    def read(request: Request) -> Content:
        splits = []
        for train in (True, False):
            raw = _torchvision_class(name)(
                request.data_dir, train=train, download=request.download, **options
            )
            splits.append(Split(raw.data.unsqueeze(1), raw.targets.long()))
        return Content(*splits, class_names)

    return read


def _idx_reader(name: str, class_names: tuple[str, ...]) -> Callable:
    """The four files of an MNIST-like data set as they lie there, whichever mirror they come from:
    torchvision's checksums know one version of each. Else torchvision's own way, which can download.
    """
    by_torchvision = _torchvision_reader(name, class_names)

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


def _read_fashion_mnist(request: Request) -> Content:
    """The files in data_dir, else those of Debian's dataset-fashion-mnist, else a download."""
    read = _idx_reader("FashionMNIST", CLOTHES)
    with contextlib.suppress(RuntimeError):  # what torchvision raises for absent files
        return read(replace(request, download=False))
    if splits := read_idx_splits(DEBIAN_FASHION_MNIST):
        return Content(*splits, CLOTHES)
    return read(request)


EMNIST_CLASSES = 10
USPS_TRAINING_IMAGES = 1800


def _read_emnist(request: Request) -> Content:
    """The letters split, its labels 1..26 as 0..25 (orientation as torchvision delivers it): 10 of the
    26 letters, drawn from the seed and renumbered 0..9.
    """
    train, test, _ = _torchvision_reader("EMNIST", LETTERS, split="letters")(request)
    chosen = torch.randperm(len(LETTERS), generator=request.generator)[:EMNIST_CLASSES].sort().values
    splits = [replace(split, labels=split.labels - 1) for split in (train, test)]
    return _keep_classes(Content(*splits, LETTERS), chosen)


def _keep_classes(content: Content, chosen: Tensor) -> Content:
    """The samples of the chosen classes, which are renumbered in the order given."""
    renumbered = torch.full((len(content.class_names),), -1)
    renumbered[chosen] = torch.arange(len(chosen))

    def keep(split: Split) -> Split:
        labels = renumbered[split.labels]
        return replace(split, labels=labels).select((labels >= 0).nonzero().flatten())

    names = tuple(content.class_names[k] for k in chosen.tolist())
    return Content(keep(content.train), keep(content.test), names)


def _read_usps(request: Request) -> Content:
    """usps_28x28.pkl (gzip) when it lies in data_dir, else torchvision's USPS resized to 28×28. As a
    source 1,800 random training images, as in the released code.
    """
    pickled = request.data_dir / "usps_28x28.pkl"
    train, test = _read_usps_pickle(pickled) if pickled.exists() else _read_torchvisions_usps(request)
    if request.role == "source":
        drawn = torch.randperm(len(train.labels), generator=request.generator)[:USPS_TRAINING_IMAGES]
        train = train.select(drawn)
    return Content(train, test, DIGITS)


def _read_torchvisions_usps(request: Request) -> tuple[Split, Split]:
    splits = []
    for train in (True, False):
        raw = _torchvision_class("USPS")(request.data_dir, train=train, download=request.download)
        images = torch.from_numpy(raw.data).float().unsqueeze(1)
        images = torch.nn.functional.interpolate(
            images, size=(28, 28), mode="bilinear", align_corners=False
        )
        splits.append(Split(images.round().clamp(0, 255).byte(), torch.tensor(raw.targets)))
    return splits[0], splits[1]


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


def _read_usps_pickle(path: Path) -> tuple[Split, Split]:
    """[[train images, labels], [test images, labels]], images (n, 1, 28, 28) in [0, 1] or 0..255."""
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
    return splits[0], splits[1]


def _check_digits(images: np.ndarray, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images have {len(labels)} labels")
    if not np.isfinite(images).all():
        raise ValueError("some pixels are NaN or infinite")
    if not np.isin(labels, np.arange(10)).all():
        raise ValueError("some labels are no digits 0..9")


# ------------------------------------------------------------------------------------ colour images
def _cifar_reader(name: str, first_classes: int | None = None) -> Callable[[Request], Content]:
    """Torchvision's CIFAR-10 or -100; of the latter, `first_classes` if given."""

    def read(request: Request) -> Content:
        splits = []
        for train in (True, False):
            raw = _torchvision_class(name)(request.data_dir, train=train, download=request.download)
            images = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
            splits.append(Split(images, torch.tensor(raw.targets)))
        content = Content(*splits, tuple(raw.classes))
        return _keep_classes(content, torch.arange(first_classes)) if first_classes else content

    return read


def _files_reader(name: str, train: Sequence[str], test: str, **options) -> Callable[[Request], Content]:
    """One of torchvision's data sets of image files; the parts named by `train` together.

    Torchvision keeps names and labels in attributes of its own: asking it for a label by its public
    interface would decode the image.
    """

    def read(request: Request) -> Content:
        def part(split: str) -> tuple[list[str], list[int], tuple[str, ...]]:
            raw = _torchvision_class(name)(
                request.data_dir, split=split, download=request.download, **options
            )
            files = raw._images if hasattr(raw, "_images") else raw._image_files
            names = [os.path.relpath(file, request.data_dir) for file in files]
            return names, list(raw._labels), tuple(raw.classes)

        parts = [part(split) for split in train]
        names, labels = ([x for p in parts for x in p[k]] for k in (0, 1))
        test_names, test_labels, class_names = part(test)
        if any(p[2] != class_names for p in parts):
            raise InputError(f"{name}: the splits in {request.data_dir} name different classes")
        return Content(
            Split(ImageFiles(request.data_dir, tuple(names)), torch.tensor(labels)),
            Split(ImageFiles(request.data_dir, tuple(test_names)), torch.tensor(test_labels)),
            class_names,
        )

    return read


IMAGENET_SMALL_IMAGES = 50 * 200  # training images: the released code's batches


def _imagenet_classes(request: Request) -> tuple[Path, tuple[str, ...]]:
    folder = request.data_dir / "imagenet"
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder / part} is missing")
    return folder, class_folders(folder / "train")


def _read_imagenet(request: Request) -> Content:
    folder, names = _imagenet_classes(request)
    return Content(*(split_of_folder(folder / part, names) for part in ("train", "val")), names)


def _read_imagenet_small(request: Request) -> Content:
    """As many random classes as the target has: 10,000 of their training images, all their
    validation images. Only these classes' folders are listed.
    """
    folder, names = _imagenet_classes(request)
    if request.num_classes is None or request.num_classes > len(names):
        raise InputError(
            f"imagenet_small: {request.num_classes} classes asked for, as many as the target has, and "
            f"{folder / 'train'} has {len(names)}"
        )
    generator = request.generator
    chosen = torch.randperm(len(names), generator=generator)[: request.num_classes].sort().values
    names = tuple(names[k] for k in chosen.tolist())
    train, test = (split_of_folder(folder / part, names) for part in ("train", "val"))
    drawn = torch.randperm(len(train.labels), generator=generator)[:IMAGENET_SMALL_IMAGES]
    return Content(train.select(drawn.sort().values), test, names)


# ------------------------------------------------------------------------------- the user's own folder
TEST_SHARE = 0.2


def read_image_folder(folder: Path, seed: int, unlabelled_classes: int | None = None) -> Content:
    """folder/train/CLASS/* with folder/test/CLASS/* (or val), or folder/CLASS/*, of which a fifth of
    each class, drawn from the seed, becomes the test split. With `unlabelled_classes` the folders
    below mean nothing: no image has a label.
    """
    if not (folder / "train").is_dir():
        return _split_by_seed(folder, seed, unlabelled_classes)
    test = next((folder / part for part in ("test", "val") if (folder / part).is_dir()), None)
    if test is None:
        raise InputError(f"{folder} has train/ but neither test/ nor val/")
    if unlabelled_classes:
        splits = (split_without_labels(part) for part in (folder / "train", test))
        return Content(*splits, cluster_names(unlabelled_classes))
    names, test_names = class_folders(folder / "train"), class_folders(test)
    if names != test_names:
        odd = sorted(set(names) ^ set(test_names))
        raise InputError(f"{folder}: train/ and {test.name}/ differ in the classes {', '.join(odd[:5])}")
    return Content(split_of_folder(folder / "train", names), split_of_folder(test, names), names)


def _split_by_seed(folder: Path, seed: int, unlabelled_classes: int | None) -> Content:
    if unlabelled_classes:
        names, whole = cluster_names(unlabelled_classes), split_without_labels(folder)
    else:
        names = class_folders(folder)
        whole = split_of_folder(folder, names)
    generator = torch.Generator().manual_seed(seed)
    parts = ([], [])
    for label in whole.labels.unique():
        members = (whole.labels == label).nonzero().flatten()
        if len(members) < 2:
            where = folder if unlabelled_classes else folder / names[label]
            raise InputError(f"{where} holds one image: a class needs two, to train and to test")
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = max(1, round(TEST_SHARE * len(members)))
        for part, chosen in zip(parts, (members[held_out:], members[:held_out]), strict=True):
            part.append(chosen.sort().values)
    train, test = (whole.select(torch.cat(part)) for part in parts)
    return Content(train, test, names)


# ---------------------------------------------------------------------------------- embedded data
def _embedded_reader(file: str, class_names: tuple[str, ...]) -> Callable[[], Content]:
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
IMAGENET_FOLDERS = (
    "imagenet/train/ and imagenet/val/ with a folder for each class (image-net.org, after registering)"
)
IDX_FILES = "the four *-ubyte.gz files under {}/raw/"

DATASETS = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            "MNIST",
            _idx_reader("MNIST", DIGITS),
            IDX_FILES.format("MNIST"),
            grey=True,
            embedded=_embedded_reader("mnist5k.npz", DIGITS),
        ),
        DatasetEntry("KMNIST", _idx_reader("KMNIST", KUZUSHIJI), IDX_FILES.format("KMNIST"), grey=True),
        DatasetEntry(
            "FMNIST",
            _read_fashion_mnist,
            IDX_FILES.format("FashionMNIST") + " or install Debian's dataset-fashion-mnist",
            grey=True,
            embedded=_embedded_reader("fmnist10k.npz", CLOTHES),
        ),
        DatasetEntry(
            "USPS", _read_usps, "usps_28x28.pkl (or torchvision's usps.bz2 and usps.t.bz2)", grey=True
        ),
        DatasetEntry("EMNIST", _read_emnist, "gzip.zip under EMNIST/raw/", grey=True, as_target=False),
        DatasetEntry("cifar10", _cifar_reader("CIFAR10"), "cifar-10-batches-py/"),
        DatasetEntry("cifar100", _cifar_reader("CIFAR100"), "cifar-100-python/"),
        DatasetEntry("cifar100_small", _cifar_reader("CIFAR100", 25), "cifar-100-python/"),
        DatasetEntry("cifar100_medium", _cifar_reader("CIFAR100", 50), "cifar-100-python/"),
        DatasetEntry(
            "pets",
            _files_reader("OxfordIIITPet", ("trainval",), "test"),
            "oxford-iiit-pet/ with the contents of images.tar.gz and annotations.tar.gz",
        ),
        DatasetEntry(
            "dtd",
            _files_reader("DTD", ("train", "val"), "test"),
            "dtd/ with the contents of dtd-r1.0.1.tar.gz",
        ),
        DatasetEntry(
            "aircraft",
            _files_reader("FGVCAircraft", ("trainval",), "test"),
            "fgvc-aircraft-2013b/, the contents of fgvc-aircraft-2013b.tar.gz",
        ),
        DatasetEntry("imagenet", _read_imagenet, IMAGENET_FOLDERS, as_target=False, downloads=False),
        DatasetEntry(
            "imagenet_small", _read_imagenet_small, IMAGENET_FOLDERS, as_target=False, downloads=False
        ),
    )
}
