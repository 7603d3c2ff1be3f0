"""Images as they are stored: arrays of equal size in memory, or files that are decoded one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from PIL import Image
from torch import Tensor

from utils.datasets.identity import FileFacts, identify_files
from utils.datasets.pixels import PixelRules, choose_rules, pixel_limit, rgb
from utils.errors import InputError
from utils.storage import digest

NO_LABEL = -1  # of every sample of a task without labels


@dataclass(frozen=True)
class ImageFiles:
    """Image files, named relative to `root`.

    `index_dir`: where it is kept what was learned of them, if anywhere; `max_pixels`: from how many on
    Pillow suspects an attack, if not from its own limit on; `rules`: how their pixels are read, where
    that was chosen for more files than these (`read_alike`); `known`: their facts, if they are;
    `in_class_folders`: each name begins with the folder of its class.
    """

    root: Path
    names: tuple[str, ...]
    index_dir: Path | None = None
    max_pixels: int | None = None
    rules: PixelRules | None = None
    known: tuple[FileFacts, ...] | None = field(default=None, repr=False, compare=False)
    in_class_folders: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def select(self, index: Sequence[int]) -> "ImageFiles":
        known = self.known and tuple(self.known[i] for i in index)
        return replace(self, names=tuple(self.names[i] for i in index), known=known)

    @cached_property
    def facts(self) -> tuple[FileFacts, ...]:
        return self.known or identify_files(self.root, self.names, self.index_dir, self.max_pixels)

    @property
    def digests(self) -> tuple[str, ...]:
        """What identifies each file: equal ones are copies."""
        return tuple(one.digest for one in self.facts)

    @cached_property
    def reading(self) -> PixelRules:
        return self.rules or choose_rules(one.pixels for one in self.facts)


def read_alike(
    splits: Sequence["Split"], index_dir: Path | None = None, max_pixels: int | None = None
) -> list["Split"]:
    """Read splits of files as one data set: scales and backgrounds are chosen for all of them together.
    Of arrays they are returned as they are.
    """
    if not all(isinstance(split.images, ImageFiles) for split in splits):
        return list(splits)
    names: dict[Path, list[str]] = {}  # those of one folder are looked up in its index at once
    for split in splits:
        names.setdefault(split.images.root, []).extend(split.images.names)
    known = {root: iter(identify_files(root, own, index_dir, max_pixels)) for root, own in names.items()}
    facts = [tuple(islice(known[split.images.root], len(split))) for split in splits]
    rules = choose_rules(one.pixels for of_split in facts for one in of_split)
    return [
        replace(
            split,
            images=replace(
                split.images, index_dir=index_dir, max_pixels=max_pixels, rules=rules, known=of_split
            ),
        )
        for split, of_split in zip(splits, facts, strict=True)
    ]


@dataclass(frozen=True)
class Split:
    """images: uint8 (n, channels, height, width) or files; labels (n,) int64. `groups` (n,) int64:
    images of one number belong together (a patient, a scene); None where they are independent.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor) -> "Split":
        images = self.images
        chosen = images.select(index.tolist()) if isinstance(images, ImageFiles) else images[index]
        return Split(chosen, self.labels[index], select_groups(self.groups, index))


def select_groups(groups: Tensor | None, index: Tensor) -> Tensor | None:
    """Return those of the samples `index` (or of a mask), where there are groups."""
    return None if groups is None else groups[index]


def rgb_image(images: Tensor | ImageFiles, index: int) -> Image.Image:
    """Read one image in RGB. Raises whatever PIL does for a file that it cannot decode."""
    if isinstance(images, ImageFiles):
        with pixel_limit(images.max_pixels):
            return rgb(str(images.root / images.names[index]), images.reading)
    channels_last = images[index].movedim(0, -1).numpy()
    image = Image.fromarray(channels_last if channels_last.shape[2] == 3 else channels_last[:, :, 0])
    return image.convert("RGB")


def image_name(images: Tensor | ImageFiles, index: int) -> str:
    if isinstance(images, ImageFiles):
        return str(images.root / images.names[index])
    return f"image {index}"


def content_digest(images: Tensor | ImageFiles, start: int, stop: int) -> str:
    """Identify images start … stop − 1 as they are seen: arrays by their values, files by their content
    and, where these bear on it, the rules by which their pixels are read.
    """
    if not isinstance(images, ImageFiles):
        return digest(images[start:stop])
    facts = images.facts[start:stop]
    rules = images.reading.about if any(one.pixels for one in facts) else PixelRules().about
    return digest([one.digest for one in facts], rules)


def require_utf8(name: str) -> None:
    """Raise InputError for a name that results, tables and figures could not show."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the name {name!r} is not UTF-8: rename it") from error


def is_labelled(labels: Tensor) -> bool:
    return not (labels == NO_LABEL).all()


def cluster_names(num_classes: int) -> tuple[str, ...]:
    """Name the classes of a target without labels."""
    return tuple(f"cluster {k}" for k in range(num_classes))


def describe_split(split: Split) -> list:
    """Return what identifies a split in a result, for `digest`."""
    images = split.images
    return [list(images.digests) if isinstance(images, ImageFiles) else images, split.labels]
