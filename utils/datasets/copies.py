"""Byte-identical images: inside a split, and on both sides of a data set."""

import hashlib
import os
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from utils.datasets.images import ImageFiles, Split, is_labelled

WORTH_SAYING = 0.01  # of a split


@dataclass(frozen=True)
class Copies:
    """`training`: training images that are equal to an earlier one. `across`: test images that are equal
    to a training image. `contradicting`: images of both splits, equal to one of another class. Of each
    kind an example, two names.
    """

    training: int
    across: int
    contradicting: int
    examples: dict[str, tuple[str, str]]


def copies_of(train: Split, test: Split) -> Copies:
    """Find those among the images of a data set."""
    counts = {"training": 0, "across": 0, "contradicting": 0}
    examples: dict[str, tuple[str, str]] = {}
    first: dict[Hashable, tuple[str, int]] = {}
    labelled, names = is_labelled(train.labels), _names(train.images, test.images)

    def count(kind: str, name: str, other: str) -> None:
        counts[kind] += 1
        examples.setdefault(kind, (other, name))

    in_training: set[Hashable] = set()
    for kind, split, called in zip(counts, (train, test), names, strict=False):
        keys = _contents(split.images)
        for key, label, name in zip(keys, split.labels.tolist(), called, strict=True):
            other, other_label = first.setdefault(key, (name, label))
            if key in in_training:
                count(kind, name, other)
            if labelled and label != other_label:
                count("contradicting", name, other)
            if kind == "training":
                in_training.add(key)
    return Copies(**counts, examples=examples)


def _names(*of_splits: Tensor | ImageFiles) -> tuple[Sequence[str], ...]:
    """Name each image; files with the folders in which the splits differ."""
    if not all(isinstance(images, ImageFiles) for images in of_splits):
        kinds = ("training image", "test image")
        return tuple(
            [f"{kind} {k}" for k in range(len(images))]
            for kind, images in zip(kinds, of_splits, strict=True)
        )
    top = os.path.commonpath([images.root for images in of_splits])
    folders = [os.path.relpath(images.root, top) for images in of_splits]
    return tuple(
        [os.path.normpath(f"{folder}/{name}") for name in images.names]
        for folder, images in zip(folders, of_splits, strict=True)
    )


def _contents(images: Tensor | ImageFiles) -> Sequence[Hashable]:
    """Tell the content of each by digests of files and of the values of arrays."""
    if isinstance(images, ImageFiles):
        return images.digests
    rows = images.flatten(1).contiguous().numpy()
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


def warn_of_copies(data: str, found: Copies, training: int, test: int) -> None:
    """Say what bears on the numbers: one in a hundred images or more."""
    said = []
    if found.across >= WORTH_SAYING * test:
        said.append(
            f"{found.across} of {test} test images are in the training split, too"
            f"{_example(found, 'across')}: on these the accuracy is not that on new images"
        )
    if found.training >= WORTH_SAYING * training:
        said.append(
            f"{found.training} of {training} training images are copies of others"
            f"{_example(found, 'training')}"
        )
    if found.contradicting >= WORTH_SAYING * (training + test):
        said.append(
            f"{found.contradicting} images are copies of one with another label"
            f"{_example(found, 'contradicting')}: one of the two is wrong"
        )
    if said:
        warnings.warn(f"{data}: {'; '.join(said)}", stacklevel=2)


def _example(found: Copies, kind: str) -> str:
    one, other = found.examples[kind]
    return f" ({one} = {other})"
