"""The user's own images, `folder:PATH`: a folder for each class, a list of labels, or no labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from utils.datasets.content import Content
from utils.datasets.groups import Grouping
from utils.datasets.images import NO_LABEL, ImageFiles, Split, cluster_names, require_utf8
from utils.datasets.lists import (
    content_of_found_tables,
    content_of_tables,
    lists_beside,
    part_named,
    tables_not_used,
)
from utils.datasets.notes import Notes
from utils.datasets.roles import TRAINING, role_of, same_name
from utils.datasets.splits import Draw, Splits, refuse_unknown_splits, split_by_seed, splits_of
from utils.datasets.tree import (
    Folder,
    describe_left_out,
    describe_names,
    images_below,
    open_folder,
    unpacked,
)
from utils.errors import InputError

# ------------------------------------------------------------------------------------------- its name
FOLDER_PREFIX = "folder:"


def is_image_folder(name: str) -> bool:
    return name.startswith(FOLDER_PREFIX)


def folder_path(name: str) -> Path:
    return path_of(name, FOLDER_PREFIX)


def path_of(name: str, prefix: str) -> Path:
    """Return the path in `prefix:PATH`, ~ replaced. Raises InputError for none, or ~name of nobody."""
    text = name.removeprefix(prefix)
    if not text:
        raise InputError(f"{name} names no path: give {prefix}PATH")
    require_utf8(text)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: {error}") from error


# ------------------------------------------------------------------------------------- a folder a class
# By name: where two folders have one name, in two Unicode forms, there are two.
Classes = Mapping[str, Sequence[Folder]]


def _classes_of(folder: Folder) -> Classes:
    classes: dict[str, list[Folder]] = {}
    for name, below in folder.folders.items():
        require_utf8(name)
        classes.setdefault(same_name(name), []).append(below)
    if not classes:
        raise InputError(
            f"{folder.path} holds no class folders: give each class a folder of its images, or list "
            "them with their labels (--LABELS FILE)"
        )
    return {name: classes[name] for name in sorted(classes)}


def class_folders(folder: Path) -> tuple[str, ...]:
    """List the names of the classes in `folder`, sorted; hidden and system folders are none."""
    return tuple(_classes_of(open_folder(folder)))


def split_of_folder(folder: Path, class_names: Sequence[str]) -> Split:
    """Read all images below folder/CLASS/, ordered by class and name. Refuses a class without images."""
    return _split_of_classes(open_folder(folder), class_names, Notes())


def _split_of_classes(folder: Folder, class_names: Sequence[str], notes: Notes) -> Split:
    classes, names, labels = _classes_of(folder), [], []
    for label, class_name in enumerate(class_names):
        folders = classes[class_name]
        if len(folders) > 1:
            notes.read.append(f"{class_name}/ in {len(folders)} Unicode forms, one class")
        found = _images_of(folder, folders, "add some or remove the class", notes)
        names += found
        labels += [label] * len(found)
    images = ImageFiles(folder.path, tuple(names), in_class_folders=True)
    return Split(images, torch.tensor(labels))


def _split_without_labels(folder: Folder, notes: Notes) -> Split:
    """Read all images below folder, whatever folders they lie in."""
    names = _images_of(folder, [folder], "add some", notes)
    return Split(ImageFiles(folder.path, tuple(names)), torch.full((len(names),), NO_LABEL))


def _images_of(root: Folder, folders: Sequence[Folder], what_to_do: str, notes: Notes) -> list[str]:
    """List their names relative to `root`, sorted. Raises InputError if there are none."""
    names, left_out = [], Counter()
    for folder in folders:
        prefix = "" if folder is root else f"{folder.name}/"
        below, aside = images_below(folder)
        names += [prefix + name for name in below]
        left_out.update(aside)
    if not names:
        others = f" (left out: {describe_left_out(left_out)})" if left_out else ""
        raise InputError(f"{folders[0].path} holds no images{others}: {what_to_do}")
    notes.left_out.update(left_out)
    return sorted(names)


# ------------------------------------------------------------------------------ the user's own folder
def read_image_folder(
    folder: Path,
    seed: int,
    unlabelled_classes: int | None = None,
    labels: Path | None = None,
    grouping: Grouping | None = None,
) -> tuple[Content, str]:
    """Read a folder; return its images, and in one line what it was taken for.

    Class folders in folders of splits, as train/CLASS/* and test/CLASS/* (or val); class folders, of
    which a fifth of each class, drawn from the seed, becomes the test split; or images with a list of
    their labels, `labels` or one that lies there. With `unlabelled_classes` folders and lists mean
    nothing: no image has a label. A drawn split holds whole groups of `grouping`.
    """
    top, notes, draw = open_folder(folder), Notes(), Draw(seed, grouping)
    if labels:
        content = content_of_tables(top, [part_named(labels, top)], draw, notes)
    else:
        levels = _meant(top)
        for level in levels[:-1]:
            notes.left_out.update(level.left_out)
        if len(levels) > 1:
            notes.read.append(levels[-1].below(top))
        if unlabelled_classes:
            content = _content_without_labels(levels[-1], draw, unlabelled_classes, notes)
        else:
            content = _content_with_labels(levels, draw, notes)
    return content, notes.line(folder, content, not unlabelled_classes)


def _meant(top: Folder) -> list[Folder]:
    """Go down as `unpacked` does, but not into a training folder, which alone is refused."""
    levels = unpacked(top)
    ends = (k for k, level in enumerate(levels) if k and role_of(level.name) == TRAINING)
    return levels[: next(ends, None)]


def _content_without_labels(root: Folder, draw: Draw, num_classes: int, notes: Notes) -> Content:
    splits, names = splits_of(root, labelled=False), cluster_names(num_classes)
    if splits is None:
        whole = _split_without_labels(root, notes)
        return split_by_seed(whole, names, [root.path] * num_classes, draw, notes)
    splits.note(notes)
    return Content(*(_split_without_labels(part, notes) for part in (splits.train, splits.test)), names)


def _content_with_labels(levels: Sequence[Folder], draw: Draw, notes: Notes) -> Content:
    """Take a list of labels first where the folders say nothing, or something else."""
    root = levels[-1]
    splits = splits_of(root, labelled=True)
    parts = (splits.train, splits.test) if splits else (root,)
    folders = [*levels, *parts] if splits else levels
    silent = len(root.folders) < 2 or (splits and (splits.flat or len(splits.train.folders) < 2))
    if silent or lists_beside(folders, parts, bool(splits), notes):
        content = content_of_found_tables(levels, splits, draw, notes)
        if content is not None:
            return content
    _require_classes(folders, parts)
    return _content_of_splits(splits, notes) if splits else _content_of_classes(root, draw, notes)


def _require_classes(levels: Sequence[Folder], parts: Sequence[Folder]) -> None:
    """Raise InputError, which says why no table helps, where there are no two class folders."""
    part = parts[0]
    below = list(part.folders.values())
    if len(below) > 1 or (len(parts) > 1 and {*part.folders} != {*parts[1].folders}):
        return
    to_do = "give each class a folder of its images, or list them with their labels (--LABELS FILE)"
    if not below and len(parts) == 1:
        what = f"{part.path} holds no class folders: {to_do}"
    elif not below:
        return
    else:
        inner = unpacked(below[0])[-1]
        if len(inner.folders) > 1:
            to_do = f"if its folders are the classes, give folder:{inner.path}"
        what = (
            f"{part.path}: {below[0].name}/ is the only folder in it and would be the one class, where "
            f"there is nothing to tell apart: {to_do}"
        )
    raise InputError(what + tables_not_used(levels))


def _content_of_classes(root: Folder, draw: Draw, notes: Notes) -> Content:
    if not (draw.grouping and draw.grouping.names_folders):  # then CLASS/PATIENT/ is what is meant
        refuse_unknown_splits(root)
    classes = _classes_of(root)
    names = tuple(classes)
    whole = _split_of_classes(root, names, notes)
    notes.loose(root)
    return split_by_seed(whole, names, [classes[name][0].path for name in names], draw, notes)


def _content_of_splits(splits: Splits, notes: Notes) -> Content:
    root, parts = splits.root, (splits.train, splits.test)
    which = f"{root.path}: {splits.train.name}/ and {splits.test.name}/"
    if splits.flat:
        raise InputError(
            f"{which} hold images but no class folders: give each class a folder, or list the images "
            f"with their labels (--LABELS FILE){tables_not_used((root, *parts))}"
        )
    splits.note(notes)
    names, test_names = (tuple(_classes_of(part)) for part in parts)
    if names != test_names:
        only = {name: part for part, of in zip(parts, (names, test_names), strict=True) for name in of}
        odd = sorted(set(names) ^ set(test_names))
        where = describe_names(f"{name} (only in {only[name].below(root)})" for name in odd)
        raise InputError(f"{which} differ in the classes {where}")
    train, test = (_split_of_classes(part, names, notes) for part in parts)
    for part in parts:
        notes.loose(part)
    return Content(train, test, names)
