"""The user's own images: `folder:PATH`, a folder for each class or, without labels, none."""

from collections.abc import Sequence
from pathlib import Path

import torch

from utils.datasets.content import Content
from utils.datasets.groups import Grouping, draw_test_split, grouped_splits
from utils.datasets.images import EXTENSIONS, NO_LABEL, ImageFiles, Split, cluster_names, require_utf8
from utils.errors import InputError


# ------------------------------------------------------------------------------- a folder a class
def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the class folders in `folder`, sorted; hidden ones are none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of class folders")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    for name in names:
        require_utf8(name)
    if not names:
        raise InputError(f"{folder} holds no class folders: give each class a folder of its images")
    return tuple(names)


def split_of_folder(folder: Path, class_names: Sequence[str]) -> Split:
    """All images below folder/CLASS/, ordered by class and name. Refuses a class without images."""
    names, labels = [], []
    for label, class_name in enumerate(class_names):
        found = _images_below(folder, folder / class_name, "add some or remove the class")
        names += found
        labels += [label] * len(found)
    return Split(ImageFiles(folder, tuple(names)), torch.tensor(labels))


def split_without_labels(folder: Path) -> Split:
    """All images below folder, whatever folders they lie in."""
    names = _images_below(folder, folder, "add some")
    return Split(ImageFiles(folder, tuple(names)), torch.full((len(names),), NO_LABEL))


def _images_below(root: Path, folder: Path, what_to_do: str) -> list[str]:
    """Names relative to `root`, sorted; InputError if there are none."""
    found = sorted(
        str(path.relative_to(root))
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and path.name[0] != "." and path.is_file()
    )
    if not found:
        raise InputError(f"{folder} holds no images ({', '.join(sorted(EXTENSIONS))}): {what_to_do}")
    return found


FOLDER_PREFIX = "folder:"


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


# ------------------------------------------------------------------------------- the user's own folder
TEST_SHARE = 0.2


def read_image_folder(
    folder: Path,
    seed: int,
    unlabelled_classes: int | None = None,
    grouping: Grouping | None = None,
) -> Content:
    """folder/train/CLASS/* with folder/test/CLASS/* (or val), or folder/CLASS/*, of which a fifth of
    each class, drawn from the seed, becomes the test split. With `unlabelled_classes` the folders
    below mean nothing: no image has a label. A drawn split holds whole groups of `grouping`.
    """
    if not (folder / "train").is_dir():
        return _split_by_seed(folder, seed, unlabelled_classes, grouping)
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


def _split_by_seed(
    folder: Path, seed: int, unlabelled_classes: int | None, grouping: Grouping | None
) -> Content:
    if unlabelled_classes:
        names, whole = cluster_names(unlabelled_classes), split_without_labels(folder)
    else:
        names = class_folders(folder)
        whole = split_of_folder(folder, names)
    for label in whole.labels.unique():
        if (whole.labels == label).sum() < 2:
            where = folder if unlabelled_classes else folder / names[label]
            raise InputError(f"{where} holds one image: a class needs two, to train and to test")
    (whole,) = grouped_splits(grouping, f"{FOLDER_PREFIX}{folder}", [whole], names)
    generator = torch.Generator().manual_seed(seed)
    return Content(*draw_test_split(whole, TEST_SHARE, generator, folder, names), names)
