"""The data sets: `load_dataset(name, …)` → `Dataset`; a registry, one entry a data set.

A data set is had in full (torchvision's files, downloaded when absent; ImageNet's and the user's own
folders) or, for two of them, as the small real sample committed in data/embedded. Small images stay
uint8 tensors, others files; scaling and decoding them is the backbone's preprocessing.
"""

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from utils.datasets.colour import cifar_reader, files_reader, read_imagenet, read_imagenet_small
from utils.datasets.content import Content, DatasetEntry, Request, read_full
from utils.datasets.copies import copies_of, warn_of_copies
from utils.datasets.folders import FOLDER_PREFIX, folder_path, is_image_folder, read_image_folder
from utils.datasets.grey import (
    CLOTHES,
    DIGITS,
    EMBEDDED_DIR,
    KUZUSHIJI,
    embedded_reader,
    idx_reader,
    read_emnist,
    read_fashion_mnist,
)
from utils.datasets.groups import Grouping, grouped_splits
from utils.datasets.images import ImageFiles, Split, describe_split, is_labelled, read_alike
from utils.datasets.usps import read_usps
from utils.errors import InputError
from utils.names import ORIGINS
from utils.storage import PATH, digest


@dataclass(frozen=True)
class Dataset:
    """One data set, training and test split, with where it came from for the record. `found`: what a
    folder of the user's own was taken for, in one line; None of registered data sets. `copies`: what
    `copies_of` found.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    provenance: dict
    found: str | None = None
    copies: dict | None = None


def load_dataset(
    name: str,
    origin: str = "auto",
    data_dir: Path = Path("data"),
    role: str = "target",
    seed: int = 0,
    *,
    classes_to_draw: int | None = None,
    unlabelled_classes: int | None = None,
    labels: Path | None = None,
    index_dir: Path | None = None,
    max_pixels: int | None = None,
    grouping: Grouping | None = None,
) -> Dataset:
    """Load a data set by its registered name, or the user's own images by `folder:PATH`.

    Args:
        name: one of `DATASETS`, in any case, or `folder:PATH`.
        origin: `full` (files in data_dir, else a download), `embedded` (the committed sample) or `auto`
            (full where it can be had, otherwise embedded with a warning).
        data_dir: where the full data sets lie or are downloaded to.
        role: `source` or `target`. A source is drawn from where the data set is large.
        seed: of the draws that belong to a role: EMNIST's classes, USPS's training sample, the classes
            and images of imagenet_small, the test fifth of a folder that has no splits.
        classes_to_draw: how many of ImageNet's classes imagenet_small has.
        unlabelled_classes: how many classes a folder has whose images have no labels.
        labels: of a folder's images, a table of files and their labels, as FILE or FILE:COLUMN; a list
            that lies in the folder is found without.
        index_dir: a folder that keeps what was learned of image files: their digests, which are their
            identity, need not be computed again. None: they are.
        max_pixels: of image files, from how many pixels on Pillow suspects an attack (it refuses twice
            as many). None: from its own limit on.
        grouping: which images belong together, by their names; they are held out together.

    Returns:
        Both splits with labels 0..K−1, the names of the classes, and where the data came from.

    Raises:
        InputError: the data cannot be had or is damaged, a class has no samples, the name is unknown, or
            images have no groups.

    Source: the data sets of arXiv:2307.00823, as torchvision and ImageNet publish them.

    Example:
        >>> data = load_dataset("MNIST", "embedded")
        >>> data.train.images.shape, data.num_classes
        (torch.Size([4000, 1, 28, 28]), 10)
    """
    if origin not in ORIGINS:
        raise ValueError(f"origin must be one of {', '.join(ORIGINS)}, not {origin!r}")
    name = check_dataset_name(name, role)
    request = Request(Path(data_dir), False, role, seed, classes_to_draw)
    if labels:
        require_folder(name, unlabelled_classes)
    found = None
    if is_image_folder(name):
        content, found = read_image_folder(folder_path(name), seed, unlabelled_classes, labels, grouping)
        origin = "folder"
    elif unlabelled_classes:
        raise InputError(
            f"{name} has labels: --TARGET_CLASSES is for targets without, {FOLDER_PREFIX}PATH or "
            "features:PATH.npz"
        )
    else:
        content, origin = _load_content(DATASETS[name], origin, request)
    train, test, class_names = content
    train, test = grouped_splits(grouping, name, (train, test), class_names)
    if len(class_names) < 2:
        raise InputError(f"{name} has one class: there is nothing to tell apart")
    for which, split in (("training", train), ("test", test)):
        if is_labelled(split.labels):
            _require_classes(f"{name} ({origin}): the {which} labels", split.labels, len(class_names))
    train, test = read_alike((train, test), index_dir, max_pixels)
    provenance = {
        "origin": origin,
        "train": len(train.labels),
        "test": len(test.labels),
        "sha256": digest(*describe_split(train), *describe_split(test)),
        **({"unlabelled_classes": unlabelled_classes} if unlabelled_classes else {}),
    }
    if isinstance(train.images, ImageFiles):
        provenance["pixels"] = train.images.reading.about
        for text in train.images.reading.remarks:
            warnings.warn(f"{name}: {text}", stacklevel=2)
    if is_image_folder(name):
        provenance["classes"] = about_classes(class_names)
        provenance[PATH] = str(folder_path(name).resolve())
    if train.groups is not None:
        provenance["groups"] = about_groups(grouping.text, train.groups, test.groups)
    copies = copies_of(train, test)
    warn_of_copies(name, copies, len(train), len(test))
    return Dataset(
        name=dataset_slug(name),
        train=train,
        test=test,
        num_classes=len(class_names),
        class_names=class_names,
        provenance=provenance,
        found=found,
        copies=asdict(copies),
    )


def _require_classes(what: str, labels: torch.Tensor, num_classes: int) -> None:
    """Raise InputError unless the labels are 0..K−1 and each class has samples."""
    if labels.min() < 0:
        raise InputError(f"{what} hold {int(labels.min())}")
    counts = torch.bincount(labels, minlength=num_classes)
    if counts.min() == 0 or len(counts) > num_classes:
        absent = (counts == 0).nonzero().flatten().tolist()
        raise InputError(
            f"{what} do not cover 0..{num_classes - 1}: none of {absent[:5]}, largest label "
            f"{int(labels.max())}"
        )


def require_folder(name: str, unlabelled_classes: int | None = None) -> None:
    """Raise InputError for a task that a list of labels cannot be for."""
    if not is_image_folder(name):
        raise InputError(f"--LABELS is for {FOLDER_PREFIX}PATH: {name} has labels of its own")
    if unlabelled_classes:
        raise InputError("--TARGET_CLASSES is for targets without labels: give it or --LABELS")


def about_classes(names: Sequence[str]) -> str:
    """Digest the names that people gave: results show them. Those of registered data sets are fixed."""
    return digest(list(names))


def about_groups(how: str, train: torch.Tensor | None, test: torch.Tensor | None) -> dict:
    """Return what a result says of the groups of its data, which decide about folds."""
    counts = (None if part is None else len(part.unique()) for part in (train, test))
    about = dict(zip(("train", "test"), counts, strict=True))
    given = [part for part in (train, test) if part is not None]
    return {"by": how, **about, "sha256": digest(*given)}


def check_dataset_name(name: str, role: str, grey_only: bool = False, also: str | None = None) -> str:
    """Return the registered spelling of `name`. Raises InputError with the choices for this role, and
    `also` what else the caller takes; `grey_only`: among those that a LeNet can see.
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


def dataset_slug(name: str) -> str:
    """Spell a name as it stands in paths and results: `folder:some/BIRDS` → folder-BIRDS."""
    return f"folder-{folder_path(name).resolve().name}" if is_image_folder(name) else name


def _load_content(entry: DatasetEntry, origin: str, request: Request) -> tuple[Content, str]:
    problem = None
    if origin != "embedded":
        try:
            return read_full(entry, request), "full"
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


IMAGENET_FOLDERS = (
    "imagenet/train/ and imagenet/val/ with a folder for each class (image-net.org, after registering)"
)
IDX_FILES = "the four *-ubyte.gz files under {}/raw/"

DATASETS = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            "MNIST",
            idx_reader("MNIST", DIGITS),
            IDX_FILES.format("MNIST"),
            grey=True,
            embedded=embedded_reader("mnist5k.npz", DIGITS),
        ),
        DatasetEntry("KMNIST", idx_reader("KMNIST", KUZUSHIJI), IDX_FILES.format("KMNIST"), grey=True),
        DatasetEntry(
            "FMNIST",
            read_fashion_mnist,
            IDX_FILES.format("FashionMNIST") + " or install Debian's dataset-fashion-mnist",
            grey=True,
            embedded=embedded_reader("fmnist10k.npz", CLOTHES),
        ),
        DatasetEntry(
            "USPS", read_usps, "usps_28x28.pkl (or torchvision's usps.bz2 and usps.t.bz2)", grey=True
        ),
        DatasetEntry("EMNIST", read_emnist, "gzip.zip under EMNIST/raw/", grey=True, as_target=False),
        DatasetEntry("cifar10", cifar_reader("CIFAR10"), "cifar-10-batches-py/"),
        DatasetEntry("cifar100", cifar_reader("CIFAR100"), "cifar-100-python/"),
        DatasetEntry("cifar100_small", cifar_reader("CIFAR100", 25), "cifar-100-python/"),
        DatasetEntry("cifar100_medium", cifar_reader("CIFAR100", 50), "cifar-100-python/"),
        DatasetEntry(
            "pets",
            files_reader("OxfordIIITPet", ("trainval",), "test"),
            "oxford-iiit-pet/ with the contents of images.tar.gz and annotations.tar.gz",
        ),
        DatasetEntry(
            "dtd",
            files_reader("DTD", ("train", "val"), "test"),
            "dtd/ with the contents of dtd-r1.0.1.tar.gz",
        ),
        DatasetEntry(
            "aircraft",
            files_reader("FGVCAircraft", ("trainval",), "test"),
            "fgvc-aircraft-2013b/, the contents of fgvc-aircraft-2013b.tar.gz",
        ),
        DatasetEntry("imagenet", read_imagenet, IMAGENET_FOLDERS, as_target=False, downloads=False),
        DatasetEntry(
            "imagenet_small", read_imagenet_small, IMAGENET_FOLDERS, as_target=False, downloads=False
        ),
    )
}
