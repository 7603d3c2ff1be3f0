"""The data sets: `load_dataset(name, …)` → `Dataset`; a registry, one entry a data set.

A data set is had in full (torchvision's files, downloaded when absent) or, for two of them, as the
small real sample committed in data/embedded. Images stay uint8 (n, 1, 28, 28); scaling them is the
backbone's preprocessing.
"""

import contextlib
import gzip
import pickle
import socket
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import InputError
from utils.storage import digest, require_writable

EMBEDDED_DIR = Path(__file__).resolve().parent.parent / "data" / "embedded"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
ORIGINS = ("auto", "full", "embedded")
DOWNLOAD_TIMEOUT = 30  # seconds without an answer before a download is given up


@dataclass(frozen=True)
class Split:
    """images (n, channels, height, width) uint8, labels (n,) int64."""

    images: Tensor
    labels: Tensor


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
    name: str, origin: str = "auto", data_dir: Path = Path("data"), role: str = "target", seed: int = 0
) -> Dataset:
    """Loads a data set by its registered name.

    `origin`: `full` (files in data_dir, else a download), `embedded` (the committed sample) or
    `auto` (full where it can be had, otherwise embedded with a warning). `role` (`source` or
    `target`) and `seed` decide the draws that belong to a role: EMNIST's classes, USPS's training
    sample. Raises InputError when the data cannot be had or a class has no samples.
    """
    if origin not in ORIGINS:
        raise ValueError(f"origin must be one of {', '.join(ORIGINS)}, not {origin!r}")
    entry = DATASETS[check_dataset_name(name, role)]
    train, test, origin = _load_splits(entry, origin, Path(data_dir))
    dataset = Dataset(entry.name, train, test, len(entry.class_names), entry.class_names, {})
    if entry.select:
        dataset = entry.select(dataset, role, torch.Generator().manual_seed(seed))
    for split_name, split in (("training", dataset.train), ("test", dataset.test)):
        counts = torch.bincount(split.labels, minlength=dataset.num_classes)
        if counts.min() == 0 or len(counts) > dataset.num_classes:
            raise InputError(
                f"{name} ({origin}): the {split_name} labels do not cover "
                f"0..{dataset.num_classes - 1}: samples per class {counts.tolist()}"
            )
    provenance = {
        "origin": origin,
        "train": len(dataset.train.labels),
        "test": len(dataset.test.labels),
        "sha256": digest(
            *(part for s in (dataset.train, dataset.test) for part in (s.images, s.labels))
        ),
    }
    return replace(dataset, provenance=provenance)


def check_dataset_name(name: str, role: str) -> str:
    """The registered spelling of `name`. Raises InputError with the choices for this role."""
    choices = [entry.name for entry in DATASETS.values() if role == "source" or entry.as_target]
    for choice in choices:
        if choice.lower() == name.lower():
            return choice
    kind = "data set" if name.upper() not in DATASETS else f"{role} data set"
    raise InputError(f"{name} is not a {kind}; choose from {', '.join(choices)}, features:PATH.npz")


# -------------------------------------------------------------------------------------- full data
@dataclass(frozen=True)
class DatasetEntry:
    """`read(data_dir, download)` → (train, test); FileNotFoundError or RuntimeError if absent."""

    name: str
    class_names: tuple[str, ...]
    read: Callable[[Path, bool], tuple[Split, Split]]
    where: str  # what to put into the data folder when it cannot be downloaded
    embedded: str | None = None
    as_target: bool = True
    select: Callable[[Dataset, str, torch.Generator], Dataset] | None = None


def _load_splits(entry: DatasetEntry, origin: str, data_dir: Path) -> tuple[Split, Split, str]:
    problem = None
    if origin != "embedded":
        try:
            return *_read_full(entry, data_dir), "full"
        except (OSError, RuntimeError) as error:
            problem = str(error).strip().replace("\n", " ")
    if origin != "full" and entry.embedded:
        if origin == "auto":
            warnings.warn(
                f"{entry.name}: the full data set is neither in {data_dir} nor can it be downloaded; "
                "using the embedded sample",
                stacklevel=2,
            )
        return *_read_embedded(EMBEDDED_DIR / entry.embedded), "embedded"
    if origin == "embedded":
        with_sample = [e.name for e in DATASETS.values() if e.embedded]
        raise InputError(
            f"{entry.name} has no embedded sample in {EMBEDDED_DIR} (only {', '.join(with_sample)} "
            f"have one): use --DATA full and put {entry.where} into --DATA_DIR {data_dir}"
        )
    raise InputError(
        f"{entry.name} is not in {data_dir} and cannot be downloaded: put {entry.where} there "
        f"({problem[:200]})"
    )


def _read_full(entry: DatasetEntry, data_dir: Path) -> tuple[Split, Split]:
    """From the files that are there, or after a download (progress and checksum: torchvision)."""
    try:
        return entry.read(data_dir, False)
    except (OSError, RuntimeError):
        require_writable(data_dir, "--DATA_DIR")
    except InputError:
        raise
    except (ValueError, EOFError, zlib.error) as error:
        raise InputError(f"{entry.name}: damaged files in {data_dir}: {error}; delete them") from error
    before = set(data_dir.iterdir()) if data_dir.exists() else None
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        return entry.read(data_dir, True)
    except (OSError, RuntimeError):
        _remove_empty_folders(data_dir, before)
        raise
    finally:
        socket.setdefaulttimeout(timeout)


def _remove_empty_folders(folder: Path, before: set[Path] | None) -> None:
    """Removes the empty folders that a failed download made, `folder` too if it was new."""
    for made in set(folder.iterdir()) - (before or set()):
        for path in [*sorted(made.rglob("*"), reverse=True), made]:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    if before is None and not any(folder.iterdir()):
        folder.rmdir()


def _torchvision_class(name: str) -> type:
    import torchvision  # two seconds, spared to every run that needs none of its files

    return getattr(torchvision.datasets, name)


def _torchvision_reader(name: str, **options) -> Callable[[Path, bool], tuple[Split, Split]]:
    """Reads both splits of one of torchvision's MNIST-like classes."""

    def read(data_dir: Path, download: bool) -> tuple[Split, Split]:
        splits = []
        for train in (True, False):
            raw = _torchvision_class(name)(data_dir, train=train, download=download, **options)
            splits.append(Split(raw.data.unsqueeze(1), raw.targets.long()))
        return splits[0], splits[1]

    return read


def _read_fashion_mnist(data_dir: Path, download: bool) -> tuple[Split, Split]:
    """Torchvision's files in data_dir, else those of Debian's dataset-fashion-mnist, else download."""
    torchvision_files = _torchvision_reader("FashionMNIST")
    if (data_dir / "FashionMNIST").exists():
        with contextlib.suppress(RuntimeError):  # what torchvision raises for absent files
            return torchvision_files(data_dir, False)
    if DEBIAN_FASHION_MNIST.is_dir():
        return tuple(read_idx_split(DEBIAN_FASHION_MNIST, prefix) for prefix in ("train", "t10k"))
    return torchvision_files(data_dir, download)


def read_idx_split(folder: Path, prefix: str) -> Split:
    """A gzipped pair of idx files (the MNIST format): {prefix}-images-…, {prefix}-labels-…."""
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return Split(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)))


def _read_emnist(data_dir: Path, download: bool) -> tuple[Split, Split]:
    """The letters split; its labels 1..26 become 0..25. Orientation as torchvision delivers it."""
    splits = _torchvision_reader("EMNIST", split="letters")(data_dir, download)
    return tuple(Split(split.images, split.labels - 1) for split in splits)


def _read_usps(data_dir: Path, download: bool) -> tuple[Split, Split]:
    """usps_28x28.pkl (gzip) when it lies in data_dir, else torchvision's USPS resized to 28×28."""
    pickled = data_dir / "usps_28x28.pkl"
    if pickled.exists():
        return _read_usps_pickle(pickled)
    splits = []
    for train in (True, False):
        raw = _torchvision_class("USPS")(data_dir, train=train, download=download)
        images = torch.from_numpy(raw.data).float().unsqueeze(1)
        images = torch.nn.functional.interpolate(
            images, size=(28, 28), mode="bilinear", align_corners=False
        )
        splits.append(Split(images.round().clamp(0, 255).byte(), torch.tensor(raw.targets)))
    return splits[0], splits[1]


class ArrayUnpickler(pickle.Unpickler):
    """Admits what a pickled NumPy array is made of and refuses every other name."""

    ADMITTED = {
        (f"numpy.{core}.multiarray", name): getattr(np._core.multiarray, name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    } | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}

    def find_class(self, module: str, name: str):
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 stores an array's bytes
            return lambda text, _: text.encode("latin1")
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no NumPy array")
        return self.ADMITTED[module, name]


def _read_usps_pickle(path: Path) -> tuple[Split, Split]:
    """[[train images, labels], [test images, labels]], images (n, 1, 28, 28) in [0, 1] or 0..255."""
    try:
        with gzip.open(path) as file:
            content = ArrayUnpickler(file, encoding="latin1").load()
        splits = []
        for images, labels in (content[0][:2], content[1][:2]):
            images = np.asarray(images, dtype=np.float64).reshape(-1, 1, 28, 28)
            scale = 255 if images.max() <= 1 else 1
            splits.append(
                Split(
                    torch.from_numpy((images * scale).round().clip(0, 255).astype(np.uint8)),
                    torch.from_numpy(np.asarray(labels).astype(np.int64).reshape(-1)),
                )
            )
    except (
        pickle.UnpicklingError,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        zlib.error,
    ) as error:
        raise InputError(f"{path} is not the USPS pickle: {error}") from error
    return splits[0], splits[1]


# ---------------------------------------------------------------------------------- embedded data
def _read_embedded(path: Path) -> tuple[Split, Split]:
    """An .npz made by data/make_embedded.py: x_*, y_* for train and test, uint8, no pickle."""
    with np.load(path, allow_pickle=False) as arrays:
        return tuple(
            Split(
                torch.from_numpy(arrays[f"x_{split}"]).unsqueeze(1),
                torch.from_numpy(arrays[f"y_{split}"].astype(np.int64)),
            )
            for split in ("train", "test")
        )


# ------------------------------------------------------------------------- draws that belong to a role
EMNIST_CLASSES = 10
USPS_TRAINING_IMAGES = 1800


def _draw_classes(dataset: Dataset, role: str, generator: torch.Generator) -> Dataset:
    """10 of EMNIST's 26 letters, drawn from the seed and renumbered 0..9."""
    chosen = torch.randperm(dataset.num_classes, generator=generator)[:EMNIST_CLASSES].sort().values
    renumbered = torch.full((dataset.num_classes,), -1)
    renumbered[chosen] = torch.arange(EMNIST_CLASSES)

    def keep(split: Split) -> Split:
        labels = renumbered[split.labels]
        return Split(split.images[labels >= 0], labels[labels >= 0])

    names = tuple(dataset.class_names[k] for k in chosen.tolist())
    return replace(
        dataset,
        train=keep(dataset.train),
        test=keep(dataset.test),
        num_classes=EMNIST_CLASSES,
        class_names=names,
    )


def _draw_training_images(dataset: Dataset, role: str, generator: torch.Generator) -> Dataset:
    """1,800 random training images of USPS as a source, as in the released code."""
    if role != "source":
        return dataset
    index = torch.randperm(len(dataset.train.labels), generator=generator)[:USPS_TRAINING_IMAGES]
    return replace(dataset, train=Split(dataset.train.images[index], dataset.train.labels[index]))


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
IDX_FILES = "the four *-ubyte.gz files under {}/raw/"

DATASETS = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            "MNIST",
            DIGITS,
            _torchvision_reader("MNIST"),
            IDX_FILES.format("MNIST"),
            embedded="mnist5k.npz",
        ),
        DatasetEntry(
            "KMNIST",
            KUZUSHIJI,
            _torchvision_reader("KMNIST"),
            IDX_FILES.format("KMNIST"),
        ),
        DatasetEntry(
            "FMNIST",
            CLOTHES,
            _read_fashion_mnist,
            IDX_FILES.format("FashionMNIST") + " or install Debian's dataset-fashion-mnist",
            embedded="fmnist10k.npz",
        ),
        DatasetEntry(
            "USPS",
            DIGITS,
            _read_usps,
            "usps_28x28.pkl (or torchvision's usps.bz2 and usps.t.bz2)",
            select=_draw_training_images,
        ),
        DatasetEntry(
            "EMNIST",
            LETTERS,
            _read_emnist,
            "gzip.zip under EMNIST/raw/",
            as_target=False,
            select=_draw_classes,
        ),
    )
}
