"""Which folders are the splits, and a split drawn from the seed where there are none."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from utils.datasets.content import Content
from utils.datasets.groups import Grouping, draw_test_split, grouped_splits
from utils.datasets.images import Split
from utils.datasets.notes import Notes
from utils.datasets.roles import TEST, TRAINING, VALIDATION, role_of, same_name
from utils.datasets.tree import Folder, describe_names, holds_images, unpacked
from utils.errors import InputError

TEST_SHARE = 0.2


@dataclass(frozen=True)
class Splits:
    """The folders to train and to test on, as far down as they were unpacked; `others` are visible
    beside them in `root`. `flat`: they hold no class folders.
    """

    root: Folder
    train: Folder
    test: Folder
    others: tuple[str, ...]
    flat: bool

    def note(self, notes: Notes) -> None:
        notes.splits = " + ".join(part.below(self.root) for part in (self.train, self.test))
        notes.aside += self.others
        notes.loose(self.root)


def splits_of(root: Folder, labelled: bool) -> Splits | None:
    """Tell which folders in `root` are its splits; None where they are none. Raises InputError where it
    cannot be told what is to train and what to test on.
    """
    of_role: dict[str, list[Folder]] = {}
    for name, folder in root.folders.items():
        if role := role_of(name):
            of_role.setdefault(role, []).append(folder)
    if TRAINING not in of_role:
        return None
    if labelled and (found := _pair_of(root, of_role, _hold_classes, flat=False)):
        return found
    if not (labelled and any(map(_holds_classes, of_role[TRAINING]))):
        others = (folder for name, folder in root.folders.items() if not role_of(name))
        if labelled and any(map(holds_images, others)):
            return None  # a class may be called train where another is called car
        if found := _pair_of(root, of_role, _hold_images, flat=True):
            return found
        if labelled:
            return None
    train = of_role[TRAINING][0]
    raise InputError(
        f"{root.path} has {train.name}/ but neither test/ nor val/"
        + (" with class folders" if len(of_role) > 1 else "")
        + f": add one, or give folder:{train.path}, of which a fifth becomes the test split"
    )


def _pair_of(
    root: Folder,
    of_role: Mapping[str, Sequence[Folder]],
    fits: Callable[[Folder, Folder], bool],
    flat: bool,
) -> Splits | None:
    """Find the folder to train on and the one to test on, or, where there is none, to validate on."""
    for role in (TEST, VALIDATION):
        pairs = [(a, b) for a in of_role[TRAINING] for b in of_role.get(role, ()) if fits(a, b)]
        if len(pairs) > 1:
            double = sorted({folder.name for folder in (*of_role[TRAINING], *of_role[role])})
            raise InputError(
                f"{root.path}: of {', '.join(f'{name}/' for name in double)} several are the same "
                "split: rename or remove one"
            )
        if pairs:
            others = (f"{name}/" for name, folder in root.folders.items() if folder not in pairs[0])
            train, test = (unpacked(folder)[-1] for folder in pairs[0])
            return Splits(root, train, test, tuple(others), flat)
    return None


def _holds_classes(folder: Folder) -> bool:
    inner = unpacked(folder)[-1]
    return bool(inner.folders) and not inner.images


def _hold_classes(train: Folder, test: Folder) -> bool:
    """Tell whether both hold class folders, beside images only where they have a class in common."""
    if _holds_classes(train) and _holds_classes(test):
        return True
    return bool(_names_in(train) & _names_in(test))


def _hold_images(train: Folder, test: Folder) -> bool:
    return holds_images(train) and holds_images(test)


def _names_in(folder: Folder) -> set[str]:
    return {same_name(name) for name in unpacked(folder)[-1].folders}


MOST_SPLITS = 10  # of more folders that hold the same ones no tool makes splits


def refuse_unknown_splits(root: Folder) -> None:
    """Raise InputError for folders that may be classes or splits: they hold no image themselves, and the
    same folders, as two splits do.
    """
    inside = {name: _names_in(below) for name, below in root.folders.items() if not below.images}
    inside = {name: names for name, names in inside.items() if len(names) > 1}
    turned = [name for name, names in inside.items() if all(map(role_of, names))]
    if len(turned) > 1:
        raise InputError(
            f"{root.path}: {_slashed(turned)} hold the same folders, {_slashed(inside[turned[0]])}: put "
            "the splits outside, train/CLASS and test/CLASS, or list the images with --LABELS FILE"
        )
    for name, names in inside.items() if len(inside) <= MOST_SPLITS else ():
        alike = [other for other in inside if _alike(names, inside[other])]
        if len(alike) > 1 and 2 * len(alike) >= len(root.folders):
            other = next(other for other in alike if other != name)
            shared = _slashed(names & inside[other])
            raise InputError(
                f"{root.path}: {_slashed(alike)} hold the same folders, {shared}: if they are "
                "splits, call them train/ and test/; if they are classes, put their images into them "
                "directly, or list the images with --LABELS FILE"
            )


def _slashed(names: Iterable[str]) -> str:
    return describe_names((f"{name}/" for name in sorted(names)), 3)


def _alike(some: set[str], others: set[str]) -> bool:
    return len(some & others) > 1 and 2 * len(some & others) >= len(some | others)


@dataclass(frozen=True)
class Draw:
    """How a test split is drawn where there is none: from the `seed`, whole groups of `grouping`."""

    seed: int
    grouping: Grouping | None = None


def split_by_seed(
    whole: Split, names: tuple[str, ...], places: Sequence[object], draw: Draw, notes: Notes
) -> Content:
    """Draw a test split. `places`: what each class is called in an error."""
    for label in whole.labels.unique():
        if (whole.labels == label).sum() < 2:
            raise InputError(f"{places[label]} holds one image: a class needs two, to train and to test")
    folder = whole.images.root
    (whole,) = grouped_splits(draw.grouping, str(folder), [whole], names)
    generator = torch.Generator().manual_seed(draw.seed)
    train, test = draw_test_split(whole, TEST_SHARE, generator, folder, names)
    share = len(test) / len(whole)  # whole images, and whole groups, are not always a fifth
    notes.splits = "a fifth drawn to test on" if 0.15 <= share <= 0.25 else "drawn to test on"
    return Content(train, test, names)
