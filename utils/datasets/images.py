"""Images as they are stored: arrays of equal size in memory, or files that are decoded one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from utils.errors import InputError
from utils.storage import digest

NO_LABEL = -1  # of every sample of a task without labels
# What torchvision's folders of images admit.
EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class ImageFiles:
    """Image files, named relative to `root`."""

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, index: Sequence[int]) -> "ImageFiles":
        return ImageFiles(self.root, tuple(self.names[i] for i in index))

    @cached_property
    def stamps(self) -> tuple[tuple[str, int, int], ...]:
        """(name, bytes, time of the last change in ns): what tells one version of a file from another
        without reading it. Raises InputError that names a missing file.
        """
        stamps = []
        for name in self.names:
            try:
                status = (self.root / name).stat()
            except OSError as error:
                raise InputError(f"{self.root / name} cannot be read: {error.strerror}") from error
            stamps.append((name, status.st_size, status.st_mtime_ns))
        return tuple(stamps)


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
    """Of the samples `index` (or of a mask), where there are groups."""
    return None if groups is None else groups[index]


def rgb_image(images: Tensor | ImageFiles, index: int) -> Image.Image:
    """One image in RGB; whatever PIL raises for a file that it cannot decode."""
    if isinstance(images, ImageFiles):
        with Image.open(images.root / images.names[index]) as image:
            return _eight_bits(image).convert("RGB")
    channels_last = images[index].movedim(0, -1).numpy()
    image = Image.fromarray(channels_last if channels_last.shape[2] == 3 else channels_last[:, :, 0])
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8 bits, of which PIL's own conversion would make white."""
    if not image.mode.startswith("I;16") and image.mode != "I":
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"grey values from {values.min()} to {values.max()} are not 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def image_name(images: Tensor | ImageFiles, index: int) -> str:
    if isinstance(images, ImageFiles):
        return str(images.root / images.names[index])
    return f"image {index}"


def content_digest(images: Tensor | ImageFiles, start: int, stop: int) -> str:
    """Identifies images start … stop − 1: arrays by their values, files by their stamps."""
    if isinstance(images, ImageFiles):
        return digest(images.stamps[start:stop])
    return digest(images[start:stop])


def require_utf8(name: str) -> None:
    """A name that goes into results, tables and figures must be one that they can show."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the name {name!r} is not UTF-8: rename it") from error


def is_labelled(labels: Tensor) -> bool:
    return not (labels == NO_LABEL).all()


def cluster_names(num_classes: int) -> tuple[str, ...]:
    """What the classes of a target without labels are called."""
    return tuple(f"cluster {k}" for k in range(num_classes))


def describe_split(split: Split) -> list:
    """What identifies a split in a result, for `digest`: values of arrays; names and sizes of files."""
    if isinstance(split.images, ImageFiles):
        return [[stamp[:2] for stamp in split.images.stamps], split.labels]
    return [split.images, split.labels]
