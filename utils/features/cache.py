"""The cache: every image passes a frozen backbone once, and its features stay on disk.

The cache is a folder a backbone (weights, preprocessing and precision), in it shards of SHARD images,
each named by what identifies its images. A shard is written when it is complete, so an interrupted
extraction goes on at the first one that is missing; a damaged one is made again.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils import distributed
from utils.backbones import Backbone
from utils.datasets import ImageFiles, Split, content_digest, select_groups
from utils.errors import InputError
from utils.features.decoding import (
    Part,
    refuse_unreadable,
    too_many_unreadable,
    warn_of_one_colour,
    warn_of_pil,
    why_unreadable,
)
from utils.features.extraction import batch_size, forward
from utils.features.types import Features
from utils.progress import progress_bar
from utils.storage import load_tensors, only_one, read_if_whole, save_tensors

SHARD = 1024  # images: what an interrupted extraction loses at most


def cached_features(
    backbone: Backbone, split: Split, folder: Path, name: str, *, workers: int = 0, max_corrupt: int = 0
) -> tuple[Features, list[str]]:
    """Read a split's features, of which those that `folder` does not hold are extracted, in `workers`
    processes that decode (0: in this one), and the names of the images that could not be decoded: they
    are left out, and more than `max_corrupt` are refused.

    Under torchrun the missing shards are dealt out in turn; all processes must see the same folder.
    """
    folder = folder / f"{backbone.name}_{backbone.digest}"
    shards = _shards(backbone, split, folder, name)
    # torchrun's processes share the shards; others would all extract the same ones.
    alone = only_one(folder / name) if distributed.world_size() == 1 else contextlib.nullcontext()
    with alone:
        return _read_or_extract(
            backbone=backbone,
            split=split,
            shards=shards,
            name=name,
            workers=workers,
            max_corrupt=max_corrupt,
        )


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
        _extract_shards(
            backbone=backbone,
            images=split.images,
            shards=absent,
            name=name,
            workers=workers,
            max_corrupt=max_corrupt,
        )
    except Exception as error:  # a full disk, a lost worker: the other processes must hear of it
        problem = error
    distributed.agree(problem)

    x = torch.empty(len(split.labels), backbone.feature_dim)
    rows: list[Tensor] = []
    unreadable: list[str] = []
    one_colour: list[int] = []
    filled = 0
    for number, shard in enumerate(shards):
        part = found.pop(number, None) or shard.read()
        if part is None:
            raise InputError(f"{shard.path} is missing or damaged: all processes must see one folder")
        x[filled : filled + len(part.x)] = part.x
        filled += len(part.x)
        rows.append(part.rows + shard.start)
        unreadable += part.unreadable
        one_colour += (part.one_colour + shard.start).tolist()
    distributed.agree(too_many_unreadable(unreadable, max_corrupt))
    if distributed.rank() == 0:
        warn_of_one_colour(split.images, one_colour)
    read = torch.cat(rows)
    return Features(x[:filled], split.labels[read], select_groups(split.groups, read)), unreadable


@dataclass(frozen=True)
class Shard:
    """Images start … stop − 1 of a split, what identifies them, and the file of their features."""

    start: int
    stop: int
    images: str
    path: Path

    @property
    def identity(self) -> dict[str, str]:
        """Of its content: a file may have been copied to another's place."""
        return {"backbone": self.path.parent.name, "images": self.images}

    def write(self, part: Part) -> None:
        """Write a part of a shard. `rows` and `one_colour` count from the shard's first image."""
        tensors = {"x": part.x, "rows": part.rows, "one_colour": part.one_colour}
        save_tensors(self.path, tensors, {**self.identity, "unreadable": part.unreadable})

    def read(self) -> Part | None:
        """Read the file; return None where it is absent or, with a warning, damaged."""
        return read_if_whole(self.path, self._read, "its images are extracted again")

    def _read(self, path: Path) -> Part:
        tensors, about = load_tensors(path)
        # Earlier versions put the data set's name before the digest, and knew no images of one colour.
        known = {**about, "images": str(about.get("images")).rpartition("_")[2]}
        if not self.identity.items() <= known.items():
            raise InputError(f"{path} holds the features of other images")
        one_colour = tensors.get("one_colour", torch.empty(0, dtype=torch.int64))
        return Part(tensors["x"], tensors["rows"], about["unreadable"], one_colour)


def _whole_part(shard: Shard, images: Tensor | ImageFiles) -> Part | None:
    """Read what the shard holds; None also if an image that could not be decoded now can be. The others
    are named anew: their folder may have been moved.
    """
    part = shard.read()
    if part and part.unreadable:
        left_out = sorted(set(range(shard.stop - shard.start)) - set(part.rows.tolist()))
        reasons = [why_unreadable(images, shard.start + row) for row in left_out]
        return part._replace(unreadable=reasons) if all(reasons) else None
    return part


def _shards(backbone: Backbone, split: Split, folder: Path, name: str) -> list[Shard]:
    """Pair each shard with the file that holds these images' features, if there is one, whatever the
    data set was called then; else with the one that is to be written.
    """
    there = {path.stem.rpartition("_")[2]: path for path in sorted(folder.glob("*_*.safetensors"))}
    shards = []
    for number, start in enumerate(range(0, len(split.labels), SHARD)):
        stop = min(start + SHARD, len(split.labels))
        content = content_digest(split.images, start, stop)
        path = folder / f"{name}_{number:05d}_{content}.safetensors"
        if not path.exists():
            path = there.get(content, path)
        shards.append(Shard(start, stop, content, path))
    return shards


def _extract_shards(
    backbone: Backbone,
    images: Tensor | ImageFiles,
    shards: Sequence[Shard],
    name: str,
    workers: int,
    max_corrupt: int,
) -> None:
    """Extract and write shard after shard; the workers never wait for one to end."""
    size = batch_size(backbone)
    batches = [torch.arange(shard.start, shard.stop).split(size) for shard in shards]
    results = forward(backbone, images, [batch for part in batches for batch in part], workers)
    unreadable: list[str] = []
    by_pil = 0
    with progress_bar(
        total=sum(shard.stop - shard.start for shard in shards),
        desc=f"{backbone.name}: {name}",
        unit="image",
        smoothing=0.05,
        disable=None if shards and distributed.rank() == 0 else True,
    ) as bar:
        for shard, part in zip(shards, batches, strict=True):
            done = []
            for batch in part:
                done.append(next(results))
                unreadable += done[-1].unreadable
                by_pil += done[-1].by_pil
                refuse_unreadable(unreadable, max_corrupt)
                bar.update(len(batch))
            rows = torch.cat([result.rows for result in done]) - shard.start
            names = [name for result in done for name in result.unreadable]
            x = torch.cat([result.x for result in done])
            one_colour = torch.cat([result.one_colour for result in done]) - shard.start
            shard.write(Part(x, rows, names, one_colour))
    warn_of_pil(by_pil, sum(shard.stop - shard.start for shard in shards))
