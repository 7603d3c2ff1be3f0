"""Images with a list of their labels: which list is meant, and what it makes of a folder."""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.datasets.content import Content
from utils.datasets.images import ImageFiles, Split
from utils.datasets.notes import Notes
from utils.datasets.roles import TEST, TRAINING, VALIDATION
from utils.datasets.splits import Draw, Splits, split_by_seed
from utils.datasets.tables import (
    Index,
    Labelled,
    LabelTable,
    alike,
    may_hold_tables,
    role_of_table,
    sorted_classes,
    tables_in,
    test_role,
    with_roles,
)
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


def named_table(named: Path, index: Index) -> LabelTable:
    """FILE, or FILE:COLUMN with the column of the labels; where it is not, in the folder itself."""
    file, _, column = str(named).rpartition(":")
    for text, of_labels in ((str(named), None), (file, column)):
        for path in (Path(text), index.folder.path / text):
            if text and path.exists():
                return LabelTable(path, index, of_labels)
    raise InputError(f"--LABELS {named}: there is no such file, here or in {index.folder.path}")


def content_of_found_tables(
    levels: Sequence[Folder], splits: Splits | None, draw: Draw, notes: Notes
) -> Content | None:
    """By the one list that lies there, or one for each split; None where there is none."""
    if splits:
        of_splits = (splits.train, TRAINING), (splits.test, TEST)
        found = [(tables_in(folder, Index(folder)), folder, role) for folder, role in of_splits]
        if all(len(tables) == 1 for tables, _, _ in found):
            root = levels[-1]
            parts = [Part(tables[0], role, folder.below(root)) for tables, folder, role in found]
            splits.note(notes)
            return content_of_tables(root, parts, draw, notes)
    for level in filter(may_hold_tables, levels):
        tables = tables_in(level, Index(level))
        if parts := _parts_of(tables):
            return content_of_tables(level, parts, draw, notes)
    return None


def _parts_of(tables: Sequence[LabelTable]) -> list[Part]:
    if len(tables) < 2:
        return [Part(table) for table in tables]
    parts = [Part(table, role_of_table(table.path)) for table in tables]
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
    tested = test_role(roles)
    used = [image for image in images if image.role in (TRAINING, tested)]
    if roles != {None} and not (tested and TRAINING in roles):
        alone = describe_names(sorted(filter(None, roles)))
        raise InputError(
            f"{parts[0].table.path} names images for {alone} alone: name some to train and some to "
            "test on, or no splits, and a fifth is held out"
        )
    _note_tables(parts, images, used, notes)
    names, class_of = sorted_classes(image.label for image in used)
    table = parts[0].table
    if double := alike(names):
        warnings.warn(
            f"{table.path}: classes differ in their spelling alone ({describe_names(double)}): if they are "
            "one, write them alike",
            stacklevel=2,
        )
    if len(names) < 2:
        raise InputError(
            f"{table.path}: every label in the column {table.label_column} is {names[0]}: with one class "
            "there is nothing to tell apart"
        )
    number = {name: k for k, name in enumerate(names)}
    used.sort(key=lambda image: (number[class_of[image.label]], image.name))

    def split(role: str | None) -> Split:
        chosen = [image for image in used if image.role == role]
        labels = torch.tensor([number[class_of[image.label]] for image in chosen])
        if missing := [names[k] for k in sorted({*range(len(names))} - {*labels.tolist()})]:
            raise InputError(
                f"{parts[0].table.path}: no {role} image of the class {describe_names(missing)}"
            )
        return Split(ImageFiles(top.path, tuple(image.name for image in chosen)), labels)

    if tested:
        notes.splits = notes.splits or f"{TRAINING} + {tested}"
        return Content(split(TRAINING), split(tested), tuple(names))
    places = [f"{parts[0].table.path}: class {name}" for name in names]
    return split_by_seed(split(None), tuple(names), places, draw, notes)


def _labelled_images(parts: Sequence[Part]) -> list[Labelled]:
    """Those of all lists, with the split of each. Raises InputError for an image in two lists."""
    found: dict[str, tuple[Labelled, Path]] = {}
    for part in parts:
        for image in part.table.labelled():
            name, role = part.prefix + image.name, part.role or image.role
            if name in found:
                raise InputError(
                    f"{part.table.path}, row {image.row}: {name} stands in {found[name][1]}, too: an "
                    "image is of one split"
                )
            found[name] = Labelled(name, image.label, role, image.row), part.table.path
    images = [image for image, _ in found.values()]
    return list(with_roles(images)) if len(parts) == 1 else images


def _note_tables(
    parts: Sequence[Part], images: Sequence[Labelled], used: Sequence[Labelled], notes: Notes
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
    if len(used) < len(images):
        notes.aside.append(f"{len(images) - len(used)} images for {VALIDATION}")


def compare_with_tables(
    levels: Iterable[Folder],
    splits: Sequence[Split],
    class_names: Sequence[str],
    has_splits: bool,
    notes: Notes,
) -> None:
    """Raises InputError for a list of labels beside class folders that says something else."""
    for level in filter(may_hold_tables, levels):
        tables = tables_in(level, Index(level))
        class_of = {}
        for split in splits if tables else ():
            below = os.path.relpath(split.images.root, level.path)
            prefix = "" if below == "." else f"{below}/"
            for name, label in zip(split.images.names, split.labels.tolist(), strict=True):
                class_of[prefix + name] = class_names[label]
        for table in tables:
            if not table.agrees_with(class_of):
                raise InputError(
                    f"{table.path} and the class folders beside it name different classes: give "
                    f"--LABELS {table.path}, or take the list away"
                )
            if table.split_column and not has_splits:
                raise InputError(
                    f"{table.path} has a column {table.split_column} and the class folders have no "
                    f"splits: give --LABELS {table.path}, or take the list away"
                )
            notes.aside.append(f"{table.path.name}, which agrees")
