"""Extraction: every image passes a frozen backbone once, and its features stay on disk.

The cache is a folder a backbone (weights, preprocessing and precision), in it shards of SHARD images,
each named by what identifies its images. A shard is written when it is complete, so an interrupted
extraction goes on at the first one that is missing; a damaged one is made again.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from utils import distributed
from utils.backbones import Backbone
from utils.errors import InputError
from utils.images import ImageFiles, Split, content_digest, image_name, rgb_image
from utils.preprocess import Preprocess
from utils.storage import load_tensors, only_one, read_if_whole, save_tensors

SHARD = 1024  # images: what an interrupted extraction loses at most
# Of one batch. More is slower on a CPU: the activations of a few images still fit into its caches.
PIXELS = {"cpu": 2**19, "cuda": 2**24}
AHEAD = 4  # batches that each worker prepares


SPEED_SECONDS = 1.0  # for which a network's speed is measured


@dataclass(frozen=True)
class Features:
    """x (n, d) float32 and labels y (n,) int64 in 0..K−1."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "Features":
        return Features(self.x.to(device), self.y.to(device))


def extract_features(backbone: Backbone, split: Split, workers: int = 0) -> Features:
    """One pass of every image through the frozen backbone, in memory. The result lies on the CPU.
    Raises InputError that names an image that cannot be decoded.
    """
    batches = torch.arange(len(split.labels)).split(batch_size(backbone))
    results = list(_forward(backbone, split.images, batches, workers))
    _refuse_unreadable([name for batch in results for name in batch.unreadable], 0)
    return Features(torch.cat([batch.x for batch in results]), split.labels)


def cached_features(
    backbone: Backbone,
    split: Split,
    folder: Path,
    name: str,
    *,
    workers: int = 0,
    max_corrupt: int = 0,
) -> tuple[Features, list[str]]:
    """A split's features, of which those that `folder` does not hold are extracted, in `workers`
    processes that decode (0: in this one), and the names of the images that could not be decoded: they
    are left out, and more than `max_corrupt` are refused.

    Under torchrun the missing shards are dealt out in turn; all processes must see the same folder.
    """
    folder = folder / f"{backbone.name}_{backbone.digest}"
    shards = _shards(backbone, split, folder, name)
    # torchrun's processes share the shards; others would all extract the same ones.
    alone = only_one(folder / name) if distributed.world_size() == 1 else contextlib.nullcontext()
    with alone:
        return _read_or_extract(backbone, split, shards, name, workers, max_corrupt)


def _read_or_extract(
    backbone: Backbone,
    split: Split,
    shards: Sequence["Shard"],
    name: str,
    workers: int,
    max_corrupt: int,
) -> tuple[Features, list[str]]:
    found = {}
    if distributed.rank() == 0:
        parts = ((number, _whole_part(shard, split.images)) for number, shard in enumerate(shards))
        found = {number: part for number, part in parts if part}
    absent = distributed.from_main_process([k for k in range(len(shards)) if k not in found])
    absent = [shards[k] for k in absent[distributed.rank() :: distributed.world_size()]]
    problem = None
    try:
        _extract_shards(backbone, split.images, absent, name, workers, max_corrupt)
    except Exception as error:  # a full disk, a lost worker: the other processes must hear of it
        problem = error
    distributed.agree(problem)

    x = torch.empty(len(split.labels), backbone.feature_dim)
    rows: list[Tensor] = []
    unreadable: list[str] = []
    filled = 0
    for number, shard in enumerate(shards):
        part = found.pop(number, None) or shard.read()
        if part is None:
            raise InputError(f"{shard.path} is missing or damaged: all processes must see one folder")
        x[filled : filled + len(part.x)] = part.x
        filled += len(part.x)
        rows.append(part.rows + shard.start)
        unreadable += part.unreadable
    distributed.agree(_too_many_unreadable(unreadable, max_corrupt))
    return Features(x[:filled], split.labels[torch.cat(rows)]), unreadable


def _too_many_unreadable(names: Sequence[str], max_corrupt: int) -> InputError | None:
    if len(names) <= max_corrupt:
        return None
    return InputError(
        f"images that cannot be decoded: {', '.join(names[:3])}{' …' if len(names) > 3 else ''} "
        f"({len(names)} so far); mend or delete them, or skip some with --MAX_CORRUPT N"
    )


def _refuse_unreadable(names: Sequence[str], max_corrupt: int) -> None:
    if problem := _too_many_unreadable(names, max_corrupt):
        raise problem


def images_per_second(backbone: Backbone, split: Split, workers: int = 0) -> float:
    """How fast the backbone sees a split's images here, decoding included, after the first batch."""
    batches = torch.arange(len(split.labels)).split(batch_size(backbone))
    batches = batches if len(batches) > 1 else 2 * batches
    results = _forward(backbone, split.images, batches, workers)
    next(results)  # it starts the workers
    seen, start = 0, time.perf_counter()
    for part in results:
        seen += len(part.rows)
        now = time.perf_counter()
        if now - start > SPEED_SECONDS:
            break
    return seen / max(now - start, 1e-9)


# -------------------------------------------------------------------------------------- the shards
class Part(NamedTuple):
    """Features x (m, d), or frames before the forward pass, of the images `rows` (m,) of a batch or
    shard; `unreadable` names those that could not be decoded.
    """

    x: Tensor
    rows: Tensor
    unreadable: list[str]


@dataclass(frozen=True)
class Shard:
    """Images start … stop − 1 of a split and the file of their features."""

    start: int
    stop: int
    path: Path

    @property
    def identity(self) -> dict[str, str]:
        """Of its content: a file may have been copied to another's place."""
        return {"backbone": self.path.parent.name, "images": self.path.stem}

    def write(self, part: Part) -> None:
        tensors = {"x": part.x, "rows": part.rows}
        save_tensors(self.path, tensors, {**self.identity, "unreadable": part.unreadable})

    def read(self) -> Part | None:
        """None where the file is absent or, with a warning, damaged."""
        return read_if_whole(self.path, self._read, "its images are extracted again")

    def _read(self, path: Path) -> Part:
        tensors, about = load_tensors(path)
        if not self.identity.items() <= about.items():
            raise InputError(f"{path} holds the features of other images")
        return Part(tensors["x"], tensors["rows"], about["unreadable"])


def _whole_part(shard: Shard, images: Tensor | ImageFiles) -> Part | None:
    """What the shard holds; None also if an image that could not be decoded now can be."""
    part = shard.read()
    if part and part.unreadable:
        left_out = set(range(shard.stop - shard.start)) - set(part.rows.tolist())
        if any(_decodes(images, shard.start + row) for row in left_out):
            return None
    return part


def _decodes(images: Tensor | ImageFiles, index: int) -> bool:
    try:
        rgb_image(images, index)
    except Exception:  # PIL's decoders raise half a dozen types
        return False
    return True


def _shards(backbone: Backbone, split: Split, folder: Path, name: str) -> list[Shard]:
    shards = []
    for number, start in enumerate(range(0, len(split.labels), SHARD)):
        stop = min(start + SHARD, len(split.labels))
        content = content_digest(split.images, start, stop)
        path = folder / f"{name}_{number:05d}_{content}.safetensors"
        shards.append(Shard(start, stop, path))
    return shards


def _extract_shards(
    backbone: Backbone,
    images: Tensor | ImageFiles,
    shards: Sequence[Shard],
    name: str,
    workers: int,
    max_corrupt: int,
) -> None:
    """Extracts and writes shard after shard; the workers never wait for one to end."""
    size = batch_size(backbone)
    batches = [torch.arange(shard.start, shard.stop).split(size) for shard in shards]
    results = _forward(backbone, images, [batch for part in batches for batch in part], workers)
    unreadable: list[str] = []
    with tqdm(
        total=sum(shard.stop - shard.start for shard in shards), desc=f"{backbone.name}: {name}",
        unit="image", smoothing=0.05, leave=False,
        disable=None if shards and distributed.rank() == 0 else True,
    ) as bar:  # fmt: skip
        for shard, part in zip(shards, batches, strict=True):
            done = []
            for batch in part:
                done.append(next(results))
                unreadable += done[-1].unreadable
                _refuse_unreadable(unreadable, max_corrupt)
                bar.update(len(batch))
            rows = torch.cat([result.rows for result in done]) - shard.start
            names = [name for result in done for name in result.unreadable]
            shard.write(Part(torch.cat([result.x for result in done]), rows, names))


# ----------------------------------------------------------------------------------- the forward pass
def batch_size(backbone: Backbone) -> int:
    """A power of two, so that batches fill a shard."""
    height, width = backbone.preprocess.size
    fitting = max(1, PIXELS[backbone.device.type] // (height * width))
    return min(SHARD, 2 ** (fitting.bit_length() - 1))


def prepared_frames(
    backbone: Backbone, split: Split, batches: Sequence[Tensor], workers: int, max_corrupt: int
) -> Iterator[Part]:
    """uint8 frames of each batch of indices. Raises InputError for more than `max_corrupt` images that
    cannot be decoded.
    """
    unreadable: list[str] = []
    for part in _prepared(backbone.preprocess, split.images, batches, workers, _pins(backbone)):
        unreadable += part.unreadable
        _refuse_unreadable(unreadable, max_corrupt)
        yield part


class _Frames(TorchDataset):
    """Each image's frame, or the reason why it cannot be decoded: an exception would end the worker."""

    def __init__(self, images: Tensor | ImageFiles, preprocess: Preprocess):
        self.images, self.frame = images, preprocess.frame

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
    frames = torch.stack([frame for _, frame in good]) if good else torch.empty(0)
    return Part(frames, torch.tensor([index for index, _ in good], dtype=torch.int64), unreadable)


@torch.inference_mode()
def _forward(
    backbone: Backbone, images: Tensor | ImageFiles, batches: Sequence[Tensor], workers: int
) -> Iterator[Part]:
    """The features of each batch of indices, in order; the next ones are prepared meanwhile."""
    for frames in _prepared(backbone.preprocess, images, batches, workers, _pins(backbone)):
        on_device = frames.x.to(backbone.device, non_blocking=True)
        x = (
            backbone.features(on_device).cpu()
            if len(frames.rows)
            else torch.empty(0, backbone.feature_dim)
        )
        yield Part(x, frames.rows, frames.unreadable)


def decoded_split(split: Split, preprocess: Preprocess, workers: int = 0, max_corrupt: int = 0) -> Split:
    """All frames of a split in memory. Images that cannot be decoded are left out; more than
    `max_corrupt` raise InputError.
    """
    if preprocess.takes_as_stored(split.images):
        return split
    batches = torch.arange(len(split)).split(SHARD)
    parts = list(_prepared(preprocess, split.images, batches, workers, False))
    _refuse_unreadable([name for part in parts for name in part.unreadable], max_corrupt)
    rows = torch.cat([part.rows for part in parts])
    frames = [part.x for part in parts if len(part.rows)]
    return Split(torch.cat(frames) if frames else torch.empty(0), split.labels[rows])


def _leave_signals_to_the_main_process(_: int) -> None:
    """It ends the workers, by SIGTERM, and alone says what happened: they go without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def _pins(backbone: Backbone) -> bool:
    """Whether batches are kept in memory that the device copies from by itself."""
    return backbone.device.type == "cuda"


def _prepared(
    preprocess: Preprocess,
    images: Tensor | ImageFiles,
    batches: Sequence[Tensor],
    workers: int,
    pin_memory: bool,
) -> Iterator[Part]:
    """uint8 frames of each batch of indices."""
    if preprocess.takes_as_stored(images):
        yield from (Part(images[index], index, []) for index in batches)
        return
    yield from DataLoader(
        _Frames(images, preprocess),
        batch_sampler=[index.tolist() for index in batches],
        collate_fn=_collate,
        num_workers=min(workers, len(batches)),
        prefetch_factor=AHEAD if workers and batches else None,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_main_process,
    )
