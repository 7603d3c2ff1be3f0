"""Decoding: images become the uint8 frames that a network takes, in worker processes."""

import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from utils.backbones import Backbone, ImageTransform
from utils.datasets import ImageFiles, Split, image_name, rgb_image, select_groups
from utils.errors import InputError, Remark

MOST_IMAGES = 1024  # of one batch
AHEAD = 4  # batches that each worker prepares


def too_many_unreadable(names: Sequence[str], max_corrupt: int) -> InputError | None:
    if len(names) <= max_corrupt:
        return None
    return InputError(
        f"images that cannot be decoded: {', '.join(names[:3])}{' …' if len(names) > 3 else ''} "
        f"({len(names)} so far); mend or delete them, or skip some with --MAX_CORRUPT N"
    )


def refuse_unreadable(names: Sequence[str], max_corrupt: int) -> None:
    if problem := too_many_unreadable(names, max_corrupt):
        raise problem


def left_out_line(data: str, split_name: str, names: Sequence[str], count: int) -> str | None:
    """Say that these images of a split of `count` are left out; None for none."""
    if not names:
        return None
    which = "training" if split_name == "train" else split_name
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    left_out = "is left out" if len(names) == 1 else "are left out"
    return f"{data}: {len(names)} of {count} {which} images {left_out}, not decodable: {shown}"


def without_root(images: Tensor | ImageFiles, names: Sequence[str]) -> list[str]:
    """Return what is said of images, in words that are the same wherever these lie."""
    if not isinstance(images, ImageFiles):
        return list(names)
    return [name.replace(f"{images.root}{os.sep}", "") for name in names]


class Part(NamedTuple):
    """Features x (m, d), or frames before the forward pass, of the images `rows` (m,) of a batch or
    shard; `unreadable` names those that could not be decoded, `one_colour` are those of `rows` whose
    frame is of one single colour, and `by_pil` of those that another decoder was to decode PIL did.
    """

    x: Tensor
    rows: Tensor
    unreadable: list[str]
    one_colour: Tensor
    by_pil: int = 0


def part_of_frames(frames: Tensor, rows: Tensor, unreadable: list[str], by_pil: int = 0) -> Part:
    first = frames[..., :1, :1]
    found = (frames[..., ::7, ::7] == first).flatten(1).all(1)  # in most frames these pixels differ
    for k in found.nonzero().flatten():
        found[k] = (frames[k] == first[k]).all()
    return Part(frames, rows, unreadable, rows[found.cpu()], by_pil)


def warn_of_one_colour(images: Tensor | ImageFiles, rows: Sequence[int]) -> None:
    """Say so where many of the images, by the indices `rows`, are of one single colour."""
    if len(rows) < 2 or len(rows) <= MANY * len(images):
        return
    shown = ", ".join(image_name(images, row) for row in rows[:3])
    text = f"{len(rows)} of {len(images)} images are of one single colour to the network: {shown}"
    warnings.warn(text + (" …" if len(rows) > 3 else ""), stacklevel=2)


MANY = 0.05  # of the images of a split


def warn_of_pil(count: int, total: int) -> None:
    """Say how many of the images that passed here were left to PIL."""
    if count:
        warnings.warn(
            f"{count} of {total} images were decoded by PIL: they are no plain JPEG files, or the GPU's "
            "decoder refused them",
            Remark,
            stacklevel=2,
        )


def why_unreadable(images: Tensor | ImageFiles, index: int) -> str | None:
    """Return the name of an image and why it cannot be decoded; None if it can be."""
    try:
        rgb_image(images, index)
    except Exception as error:  # PIL's decoders raise half a dozen types
        return f"{image_name(images, index)} ({error})"
    return None


def prepared_frames(
    backbone: Backbone, split: Split, batches: Sequence[Tensor], workers: int, max_corrupt: int
) -> Iterator[Part]:
    """Decode uint8 frames of each batch of indices. Raises InputError for more than `max_corrupt` images
    that cannot be decoded.
    """
    unreadable: list[str] = []
    for part in frames_of(backbone.preprocess, split.images, batches, workers, pins(backbone)):
        unreadable += part.unreadable
        refuse_unreadable(unreadable, max_corrupt)
        yield part


class PilFrames(TorchDataset):
    """Each image's frame, or the reason why it cannot be decoded: an exception would end the worker."""

    def __init__(self, images: Tensor | ImageFiles, preprocess: ImageTransform):
        self.images, self.frame = images, preprocess.frame
        if isinstance(images, ImageFiles):  # chosen here, else by each worker
            _ = images.reading

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, self.frame(rgb_image(self.images, index))
        except Exception as error:  # PIL's decoders raise half a dozen types
            return index, f"{image_name(self.images, index)} ({error})"


def _collate(samples: list[tuple[int, Tensor | str]]) -> Part:
    good = [(index, frame) for index, frame in samples if isinstance(frame, Tensor)]
    unreadable = [reason for _, reason in samples if isinstance(reason, str)]
    if not good:
        none = torch.empty(0, dtype=torch.int64)
        return Part(torch.empty(0), none, unreadable, none)
    rows = torch.tensor([index for index, _ in good])
    return part_of_frames(torch.stack([frame for _, frame in good]), rows, unreadable)


def decoded_split(
    split: Split, preprocess: ImageTransform, workers: int = 0, max_corrupt: int = 0
) -> tuple[Split, list[str]]:
    """Decode all frames of a split into memory, and the names of the images that could not be decoded:
    they are left out; more than `max_corrupt` raise InputError.
    """
    if preprocess.takes_as_stored(split.images):
        return split, []
    batches = torch.arange(len(split)).split(MOST_IMAGES)
    parts = list(frames_of(preprocess, split.images, batches, workers, False))
    unreadable = [name for part in parts for name in part.unreadable]
    refuse_unreadable(unreadable, max_corrupt)
    warn_of_one_colour(split.images, torch.cat([part.one_colour for part in parts]).tolist())
    rows = torch.cat([part.rows for part in parts])
    frames = [part.x for part in parts if len(part.rows)]
    groups = select_groups(split.groups, rows)
    x = torch.cat(frames) if frames else torch.empty(0)
    return Split(x, split.labels[rows], groups), unreadable


def _leave_signals_to_the_main_process(_: int) -> None:
    """Leave Ctrl-C to the main process, which ends the workers and says what happened."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def pins(backbone: Backbone) -> bool:
    """Tell whether batches are kept in memory that the device copies from by itself."""
    return backbone.device.type == "cuda"


def frames_of(
    preprocess: ImageTransform,
    images: Tensor | ImageFiles,
    batches: Sequence[Tensor],
    workers: int,
    pin_memory: bool,
) -> Iterator[Part]:
    """Decode uint8 frames of each batch of indices."""
    if preprocess.takes_as_stored(images):
        yield from (part_of_frames(images[index], index, []) for index in batches)
        return
    yield from DataLoader(
        PilFrames(images, preprocess),
        batch_sampler=[index.tolist() for index in batches],
        collate_fn=_collate,
        num_workers=min(workers, len(batches)),
        prefetch_factor=AHEAD if workers and batches else None,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_main_process,
    )
