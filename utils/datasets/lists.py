"""Images with a list of their labels: which list is meant, and what it makes of a folder."""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.datasets.classes import alike, sorted_classes
from utils.datasets.content import Content
from utils.datasets.images import ImageFiles, Split
from utils.datasets.notes import Notes
from utils.datasets.roles import TEST, TRAINING, VALIDATION, role_of, same_name
from utils.datasets.sheets import SHEETS
from utils.datasets.splits import Draw, Splits, split_by_seed
from utils.datasets.table_search import role_of_table, table_about, tables_in
from utils.datasets.tables import AGREES, DIFFERS, REPLACES, Labelled, LabelTable
from utils.datasets.tree import Folder, describe_names
from utils.errors import InputError


@dataclass(frozen=True)
class Part:
    """A list of labels, the split that it is of (None: it says so itself, or there are none) and where
    its images lie below the folder that is read.
    """

    table: LabelTable
    role: str | None = None
    prefix: str = ""


def part_named(named: Path, top: Folder) -> Part:
    """Find FILE, or FILE:COLUMN with the column of the labels; where it is not, in the folder itself."""
    file, _, column = str(named).rpartition(":")
    for text, of_labels in ((str(named), None), (file, column)):
        for path in (Path(text), top.path / text):
            if text and path.exists():
                return _part(table_about(path, top, {}, of_labels), top)
    raise InputError(f"--LABELS {named}: there is no such file, here or in {top.path}")


def _part(table: LabelTable, top: Folder, role: str | None = None) -> Part:
    about = table.index.folder
    return Part(table, role, "" if about is top else about.below(top))


def content_of_found_tables(
    levels: Sequence[Folder], splits: Splits | None, draw: Draw, notes: Notes
) -> Content | None:
    """Read a folder by the one list that lies there, or one for each split; None where there is none."""
    if splits:
        of_splits = (splits.train, TRAINING), (splits.test, TEST)
        found = [(_lists_of_split(folder, levels[-1]), role) for folder, role in of_splits]
        if all(len(lists) == 1 for lists, _ in found):
            parts = [_part(lists[0], levels[-1], role) for lists, role in found]
            splits.note(notes)
            return content_of_tables(levels[-1], parts, draw, notes)
    for level in levels:
        if parts := _parts_of(tables_in(level).lists, level):
            return content_of_tables(level, parts, draw, notes)
    return None


def _lists_of_split(split: Folder, root: Folder) -> list[LabelTable]:
    """Find those beside the images, or in a folder around them: train/metadata.csv and train/images/."""
    folder, lists = split, []
    while not lists and folder and folder is not root:
        lists, folder = tables_in(folder).lists, folder.parent
    return lists


def tables_not_used(folders: Iterable[Folder]) -> str:
    """Say for an error why the tables that lie there, if any, are not used."""
    unused: dict[str, str] = {}
    for folder in folders:
        unused |= tables_in(folder).unused
    return "".join(f"; {name} is not used: {why}" for name, why in list(unused.items())[:3])


def _parts_of(tables: Sequence[LabelTable], level: Folder) -> list[Part]:
    if len(tables) < 2:
        return [_part(table, level) for table in tables]
    parts = [_part(table, level, role_of_table(table.path)) for table in tables]
    roles = [part.role for part in parts]
    if TRAINING in roles and None not in roles and len(set(roles)) == len(roles):
        return parts
    names = describe_names(table.path.name for table in tables)
    raise InputError(
        f"{tables[0].path.parent} holds several lists of labels, {names}: say which with --LABELS FILE"
    )


def content_of_tables(top: Folder, parts: Sequence[Part], draw: Draw, notes: Notes) -> Content:
    images = _labelled_images(parts)
    roles = {image.role for image in images}
    # Validation stands in where there is no test.
    tested = next((role for role in (TEST, VALIDATION) if role in roles), None)
    used = [image for image in images if image.role in (TRAINING, tested)]
    if roles != {None} and not (tested and TRAINING in roles):
        alone = describe_names(sorted(filter(None, roles)))
        raise InputError(
            f"{parts[0].table.path} names images for {alone} alone: name some to train and some to "
            "test on, or no splits, and a fifth is held out"
        )
    _note_tables(top, parts, images, used, notes)
    names, number = _numbered_classes(parts[0].table, used)
    used.sort(key=lambda image: (number[image.label], image.name))

    def split(role: str | None) -> Split:
        chosen = [image for image in used if image.role == role]
        labels = torch.tensor([number[image.label] for image in chosen])
        if missing := [names[k] for k in sorted({*range(len(names))} - {*labels.tolist()})]:
            raise InputError(
                f"{parts[0].table.path}: no {role} image of the class {describe_names(missing)}"
            )
        return Split(ImageFiles(top.path, tuple(image.name for image in chosen)), labels)

    if tested:
        notes.splits = notes.splits or f"{TRAINING} + {tested}"
        return Content(split(TRAINING), split(tested), names)
    places = [f"{parts[0].table.path}: class {name}" for name in names]
    return split_by_seed(split(None), names, places, draw, notes)


def _numbered_classes(
    table: LabelTable, images: Sequence[Labelled]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the classes and the number of each label. Warns of classes that may be one."""
    names, class_of = sorted_classes(image.label for image in images)
    if double := alike(names):
        warnings.warn(
            f"{table.path}: classes differ in their spelling alone ({describe_names(double)}): if "
            "they are one, write them alike",
            stacklevel=2,
        )
    if len(names) < 2:
        raise InputError(
            f"{table.path}: every label in the column {table.label_column} is {names[0]}: with one "
            "class there is nothing to tell apart"
        )
    number = {name: k for k, name in enumerate(names)}
    return tuple(names), {label: number[name] for label, name in class_of.items()}


def _labelled_images(parts: Sequence[Part]) -> list[Labelled]:
    """Return those of all lists, with the split of each. Raises InputError for an image in two lists."""
    images, listed = [], {}
    for part in parts:
        for image in part.table.labelled():
            name = part.prefix + image.name
            if name in listed:
                raise InputError(
                    f"{part.table.path}, row {image.row}: {name} stands in {listed[name]}, too: an "
                    "image is of one split"
                )
            listed[name] = part.table.path
            images.append(image._replace(name=name, role=part.role or image.role))
    return _with_roles_of_folders(images) if len(parts) == 1 else images


def _with_roles_of_folders(images: list[Labelled]) -> list[Labelled]:
    """Let the folders say what is for what, as photos/train/1.jpg does, where the table does not: if
    every image lies in one of a split, and some are to train and some are not.
    """
    if any(image.role for image in images):
        return images
    folders = (image.name.split("/")[:-1] for image in images)
    roles = [next(filter(None, map(role_of, parts)), None) for parts in folders]
    if None in roles or TRAINING not in roles or len(set(roles)) == 1:
        return images
    return [image._replace(role=role) for image, role in zip(images, roles, strict=True)]


def _note_tables(
    top: Folder,
    parts: Sequence[Part],
    images: Sequence[Labelled],
    used: Sequence[Labelled],
    notes: Notes,
) -> None:
    indices = {id(part.table.index): part.table.index for part in parts}.values()
    for index in indices:
        notes.left_out.update(index.left_out)
    for part in parts:
        table = part.table
        notes.read.append(f"{table.path.name} ({table.file_column}, {table.label_column})")
        if table.path.parent == table.index.folder.path:  # it was counted as a file that is no image
            notes.left_out.subtract([table.path.suffix.lower()])
    notes.left_out["image without a row"] += sum(len(index.names) for index in indices) - len(images)
    places = [part.prefix.partition("/")[0] for part in parts]
    if "" not in places:  # what lies outside the folders of all lists
        others = (f"{name}/" for name in top.folders if name not in places)
        notes.aside += (name for name in others if name not in notes.aside)
    if len(used) < len(images):
        notes.aside.append(f"{len(images) - len(used)} images for {VALIDATION}")


def lists_beside(
    levels: Iterable[Folder], split_folders: Sequence[Folder], has_splits: bool, notes: Notes
) -> bool:
    """Tell whether a list of labels is meant and the class folders in `split_folders` are none. Raises
    InputError for one that labels the same classes otherwise, and notes others.
    """
    aside = []
    for level in levels:
        tables = tables_in(level)
        aside += [
            f"{name} ({tables.unused[name]})"
            for name in tables.unread
            if Path(name).suffix.lower() in SHEETS
        ]
        for table in tables.lists:
            what = table.beside(_folders_of(table, split_folders))
            if what == REPLACES:
                folders = dict.fromkeys(name for part in split_folders for name in part.folders)
                notes.aside.append(f"the names of {len(folders)} folders ({describe_names(folders, 2)})")
                return True
            if what == DIFFERS:
                raise InputError(
                    f"{table.path} and the class folders beside it name different classes: give "
                    f"--LABELS {table.path}, or take the list away"
                )
            if what == AGREES and table.split_column and not has_splits:
                raise InputError(
                    f"{table.path} has a column {table.split_column} and the class folders have no "
                    f"splits: give --LABELS {table.path}, or take the list away"
                )
            name = table.path.name
            aside.append(f"{name}, which agrees" if what == AGREES else f"{name}, of other labels")
    notes.aside += aside
    return False


def _folders_of(table: LabelTable, split_folders: Sequence[Folder]) -> dict[str, str]:
    """Return the class folder of each image that the table is about and that lies in one."""
    above = f"{table.index.folder.path}{os.sep}"
    starts = [f"{folder.path}{os.sep}" for folder in split_folders]
    found = {}
    for name in table.index.names:
        path = above + name
        for start in starts:
            if path.startswith(start) and (inside := path[len(start) :].partition("/"))[1]:
                found[name] = same_name(inside[0])
    return found
