"""Which images belong together, by their names: pictures of one patient, frames of one scene."""

import re
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import torch
from torch import Tensor

from utils.datasets.images import ImageFiles, Split, is_labelled
from utils.datasets.tree import describe_names
from utils.errors import InputError
from utils.names import LEVEL_PREFIX, level_of
from utils.sampling import held_out_share

MOST_NAMED = 3


@dataclass(frozen=True)
class Grouping:
    """What --GROUPS says. `text`: a regular expression that is searched for in an image's name relative
    to its split, CLASS/…/FILE, or, without class folders, to the data folder, and whose first group, or
    else the whole match, names the image's group; or `level:N`, the Nth folder below the class folder,
    or else below the data folder. `where_it_fits`: data of which it matches no image have no groups,
    which is refused otherwise.
    """

    text: str
    where_it_fits: bool = False

    @property
    def names_folders(self) -> bool:
        return self.text.startswith(LEVEL_PREFIX)

    def group(self, name: str, in_class_folder: bool = True) -> str | None:
        """Name the group of one image; None where the text does not match."""
        if self.names_folders:
            folders = PurePath(name).parts[1 if in_class_folder else 0 : -1]
            level = level_of(self.text)
            return folders[level - 1] if level <= len(folders) else None
        found = re.search(self.text, name)
        if found is None:
            return None
        return found[1] if found.re.groups and found[1] is not None else found[0]


def grouped_splits(
    grouping: Grouping | None, data: str, splits: Sequence[Split], class_names: Sequence[str]
) -> tuple[Split, ...]:
    """Give the splits of one data set the groups of their images, numbered through all splits. Raises
    InputError where images have no names or no group.
    """
    if grouping is None:
        return tuple(splits)
    if not all(isinstance(split.images, ImageFiles) for split in splits):
        if grouping.where_it_fits:
            return tuple(splits)
        raise InputError(f"--GROUPS needs names of image files, and {data} has none: it is one array")
    names = [_names_of_groups(grouping, data, split) for split in splits]
    if None in names:
        return tuple(splits)
    labels = [split.labels for split in splits]
    numbers = numbered_groups(f"--GROUPS {grouping.text}", data, names, labels, class_names)
    return tuple(replace(split, groups=groups) for split, groups in zip(splits, numbers, strict=True))


def _names_of_groups(grouping: Grouping, data: str, split: Split) -> list[str] | None:
    """Name the group of each image; None where there are none of which that is allowed."""
    files, in_folders = split.images.names, split.images.in_class_folders
    names = [grouping.group(PurePath(name).as_posix(), in_folders) for name in files]
    left_out = [name for name, group in zip(files, names, strict=True) if group is None]
    if len(left_out) == len(files) and grouping.where_it_fits:
        return None
    if left_out:
        count = len(files) - len(left_out)
        raise InputError(
            f"--GROUPS {grouping.text} matches {count or 'none'} of {len(files)} images of {data}, not "
            f"{', '.join(left_out[:MOST_NAMED])}"
        )
    return names


def numbered_groups(
    how: str,
    data: str,
    names: Sequence[Sequence[Hashable] | None],
    labels: Sequence[Tensor],
    class_names: Sequence[str],
) -> list[Tensor | None]:
    """Put numbers in the place of the groups' names, for each split (None: it has none). `how`: who says
    what the groups are. Raises InputError for a single group. Warns, and gives none, where each sample
    is a group of its own; warns of groups on both sides of a data set, and of classes of one group.
    """
    given = [part for part in names if part is not None]
    known = {name: k for k, name in enumerate(sorted({name for part in given for name in part}))}
    if len(known) < 2:
        raise InputError(
            f"{how}: all of {data} is in the group {next(iter(known))}: there is nothing to hold out"
        )
    if len(known) == sum(map(len, given)):
        warnings.warn(f"{how}: no effect, each sample of {data} is a group of its own", stacklevel=2)
        return [None] * len(names)
    numbers = [None if p is None else torch.tensor([known[name] for name in p]) for p in names]
    if len(numbers) > 1:
        if len(given) == len(names):
            _warn_of_shared_groups(data, numbers[0], numbers[1], list(known))
        if numbers[0] is not None and is_labelled(labels[0]):
            _warn_of_single_groups(data, labels[0], numbers[0], class_names)
    return numbers


def _warn_of_shared_groups(data: str, train: Tensor, test: Tensor, names: Sequence[Hashable]) -> None:
    shared = sorted({*train.tolist()} & {*test.tolist()})
    if shared:
        named = describe_names((str(names[k]) for k in shared), MOST_NAMED)
        inside = int(torch.isin(test, torch.tensor(shared)).sum())
        warnings.warn(
            f"{data}: {len(shared)} of {len(test.unique())} groups of the test split are in the "
            f"training split, too ({named}): {inside} of {len(test)} test samples are not new, "
            "and the measured accuracy is not that on new groups",
            stacklevel=2,
        )


def _warn_of_single_groups(
    data: str, labels: Tensor, groups: Tensor, class_names: Sequence[str]
) -> None:
    if single := classes_of_one_group(labels, groups):
        named = describe_names((class_names[k] for k in single), MOST_NAMED)
        warnings.warn(
            f"{data}: all training samples of {named} are of one group, which cannot be held out: "
            "what is predicted says nothing of these classes",
            stacklevel=2,
        )


def classes_of_one_group(labels: Tensor, groups: Tensor) -> list[int]:
    pairs = torch.stack([labels, groups]).unique(dim=1)[0]
    return (torch.bincount(pairs) == 1).nonzero().flatten().tolist()


def draw_test_split(
    whole: Split, share: float, generator: torch.Generator, folder: object, class_names: Sequence[str]
) -> tuple[Split, Split]:
    """Draw (training, test split) of a folder that has none: this share of each class, whole groups if
    there are any. Raises InputError where groups leave a class without images on one side.
    """
    if whole.groups is not None and is_labelled(whole.labels):
        single = classes_of_one_group(whole.labels, whole.groups)
        if single:
            named = describe_names((class_names[k] for k in single), MOST_NAMED)
            raise InputError(
                f"{folder}: all images of {named} are of one group: a class needs two, to train and "
                "to test; or give the folder splits, train/ and test/"
            )
    try:
        parts = held_out_share(whole.labels, whole.groups, share, generator)
    except ValueError as error:
        raise InputError(
            f"{folder}: its groups hold images of several classes and cannot be divided so that both "
            "training and test split have every class: give the folder splits, train/ and test/"
        ) from error
    train, test = (whole.select(part) for part in parts)
    return train, test
