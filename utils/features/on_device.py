"""Frames made where the network computes, in a thread beside its pass: arrays travel as bytes and are
resized there, JPEG files are read by threads and decoded there. An image that is no plain JPEG file, or
that the decoder refuses, comes from PIL, as it would without all this.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.backbones import TENSORS, Backbone
from utils.datasets import JPEG_SUFFIXES, ImageFiles, JpegSize, pixel_limit, plain_jpeg
from utils.device import InFittingParts
from utils.features.decoding import Part, PilFrames, part_of_frames

T = TypeVar("T")
AHEAD = 2  # batches of frames that wait for the network, and of files that wait for the decoder
FILES = 16  # that a thread reads at a time
DECODED = 256  # files at a time
PIXELS = 2**26  # of pictures that are decoded at a time; a larger one is left to PIL
RESIZED = 2**24  # pixels at a time, as float32 and several times over
# What the memory holds that pictures are decoded into, and no picture's last row throughout: NVIDIA's
# decoder has been seen to skip pictures without a word.
UNWRITTEN = 165


def made_on_device(backbone: Backbone, images: Tensor | ImageFiles) -> bool:
    """Tell whether frames of some of these images can be made where the network computes."""
    if backbone.decoder != TENSORS:
        return False
    if isinstance(images, ImageFiles):
        return any(map(_is_jpeg_by_name, images.names))
    return _is_affordable(backbone, *images.shape[-2:])


def frames_on_device(
    backbone: Backbone, images: Tensor | ImageFiles, batches: Sequence[Tensor], workers: int
) -> Iterator[Part]:
    """Decode uint8 frames of each batch of indices, on the network's device."""
    device = backbone.device
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if isinstance(images, ImageFiles):
        parts = _parts_of_files(backbone, images, batches, workers)
    else:
        parts = _parts_of_arrays(backbone, images, batches)
    for part in _ahead(_on_stream(parts, stream), AHEAD):
        if stream is not None:  # its memory is another stream's
            part.x.record_stream(torch.cuda.current_stream(device))
        yield part


def _is_jpeg_by_name(name: str) -> bool:
    return name.lower().endswith(JPEG_SUFFIXES)


def _is_affordable(backbone: Backbone, height: int, width: int, most: int | None = None) -> bool:
    """Tell whether a picture may be decoded. `most`: pixels that a picture may have."""
    return height * width <= (most or PIXELS) and _pixels_of_resizing(backbone, height, width) <= PIXELS


def _pixels_of_resizing(backbone: Backbone, height: int, width: int) -> int:
    """Count the pixels that a picture, what it is resized to and what lies between have at most."""
    tall, wide = backbone.preprocess.on_tensors.resized(height, width)
    return max(height, tall) * max(width, wide)


# -------------------------------------------------------------------------------------- beside the pass
def _ahead(parts: Iterator[T], count: int) -> Iterator[T]:
    """Return what an iterator gives, of which a thread makes the next `count` meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, parts, None) for _ in range(count))
        try:
            while (part := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, parts, None))
                yield part
        finally:
            thread.shutdown(cancel_futures=True)
            parts.close()


def _on_stream(parts: Iterator[Part], stream: torch.cuda.Stream | None) -> Iterator[Part]:
    """Make each part on a stream of its own; it is there when it is given away."""
    with contextlib.closing(parts):
        while True:
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                part = next(parts, None)
            if part is None:
                return
            if stream is not None:
                stream.synchronize()
            yield part


# ---------------------------------------------------------------------------------------------- arrays
def _parts_of_arrays(backbone: Backbone, images: Tensor, batches: Sequence[Tensor]) -> Iterator[Part]:
    in_fitting_parts = InFittingParts("--IMAGE_BATCH")
    for index in batches:
        stored = images[index].to(backbone.device)
        if stored.shape[1] != 3:  # the channels of grey are equal, and resized once
            stored = stored[:, :1]
        frames = in_fitting_parts(backbone.preprocess.on_tensors, stored)
        yield part_of_frames(frames.expand(-1, 3, -1, -1), index, [])


# ----------------------------------------------------------------------------------------------- files
class _File(NamedTuple):
    """A plain JPEG file's content and size, or what PIL makes of it: a frame, or why there is none."""

    row: int
    content: Tensor | None = None
    size: JpegSize | None = None
    by_pil: Tensor | str | None = None


def _parts_of_files(
    backbone: Backbone, images: ImageFiles, batches: Sequence[Tensor], workers: int
) -> Iterator[Part]:
    """Have a pool of threads read the next batches, and do what is left to PIL."""
    reader = _Reader(backbone, images)
    # For all threads at once: each picture's own limit would be lifted while others are read.
    with pixel_limit(images.max_pixels), ThreadPoolExecutor(max(1, workers)) as threads:
        waiting: deque[list[Future]] = deque()
        try:
            for index in [*batches, *[None] * AHEAD]:
                if index is not None:
                    chunks = index.split(FILES)
                    waiting.append([threads.submit(reader.read, chunk.tolist()) for chunk in chunks])
                if len(waiting) > AHEAD or (index is None and waiting):
                    files = [file for chunk in waiting.popleft() for file in chunk.result()]
                    yield _part_of_files(backbone, reader, files, threads)
        finally:
            threads.shutdown(cancel_futures=True)


class _Reader:
    """Reads files in any thread."""

    def __init__(self, backbone: Backbone, images: ImageFiles):
        self.backbone, self.images = backbone, images
        self.pil = PilFrames(images, backbone.preprocess)
        self.decodes = _decodes(backbone.device)

    def read(self, rows: Sequence[int]) -> list[_File]:
        return [self._read_plain(row) or self.read_by_pil(row) for row in rows]

    def read_by_pil(self, row: int) -> _File:
        return _File(row, by_pil=self.pil[row][1])

    def _read_plain(self, row: int) -> _File | None:
        """Read a file; return None for what is left to PIL, a file that cannot be read included: it says
        why.
        """
        name = self.images.names[row]
        if not self.decodes or not _is_jpeg_by_name(name):
            return None
        try:
            content = Path(self.images.root / name).read_bytes()
        except OSError:
            return None
        size = plain_jpeg(content)
        if size is None or not _is_affordable(self.backbone, *size, self.images.max_pixels):
            return None
        return _File(row, torch.frombuffer(bytearray(content), dtype=torch.uint8), size)


def _part_of_files(
    backbone: Backbone, reader: _Reader, files: list[_File], threads: ThreadPoolExecutor
) -> Part:
    made = _frames_of_plain(backbone, [file for file in files if file.by_pil is None])
    left = [file.row for file in files if file.by_pil is None and made[file.row] is None]
    files = {file.row: file for file in [*files, *threads.map(reader.read_by_pil, left)]}
    from_pil = {row: file.by_pil for row, file in files.items() if isinstance(file.by_pil, Tensor)}
    if from_pil:
        frames = torch.stack(list(from_pil.values())).to(backbone.device)
        made |= dict(zip(from_pil, frames, strict=True))
    unreadable = [file.by_pil for file in files.values() if isinstance(file.by_pil, str)]
    rows = [row for row in files if made.get(row) is not None]
    frames = torch.stack([made[row] for row in rows]) if rows else torch.empty(0, device=backbone.device)
    if not rows:
        none = torch.empty(0, dtype=torch.int64)
        return Part(frames, none, unreadable, none)
    return part_of_frames(frames, torch.tensor(rows), unreadable, len(from_pil))


def _frames_of_plain(backbone: Backbone, files: list[_File]) -> dict[int, Tensor | None]:
    """Decode plain pictures: frames by row; None for what the decoder refuses."""
    frames: dict[int, Tensor | None] = {file.row: None for file in files}
    for some in _within(files, lambda file: file.size.height * file.size.width, PIXELS):
        pictures = _as_far_as_possible(lambda part: _decode(part, backbone.device), some)
        by_size: dict[JpegSize, list[int]] = {}
        for place, picture in enumerate(pictures):
            if picture is not None:
                by_size.setdefault(some[place].size, []).append(place)
        for size, places in by_size.items():
            area = _pixels_of_resizing(backbone, *size)
            for chunk in _within(places, lambda _, area=area: area, RESIZED):
                made = _as_far_as_possible(
                    lambda part: backbone.preprocess.on_tensors(torch.stack(part)),
                    [pictures[place] for place in chunk],
                )
                frames |= {some[place].row: frame for place, frame in zip(chunk, made, strict=True)}
    return frames


def _within(items: Sequence[T], pixels: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Divide into pieces of at most DECODED items and `most` pixels, or of a single one."""
    piece: list[T] = []
    total = 0
    for item in items:
        if piece and (len(piece) == DECODED or total + pixels(item) > most):
            yield piece
            piece, total = [], 0
        piece.append(item)
        total += pixels(item)
    if piece:
        yield piece


def _as_far_as_possible(
    action: Callable[[list[T]], Sequence[Tensor | None]], items: list[T]
) -> list[Tensor | None]:
    """Call an action on many items and return what it gives for each; where it fails, as for one bad
    item or for lack of memory, it is tried with each half. None for those with which it fails alone.
    """
    with contextlib.suppress(RuntimeError):
        return list(action(items))
    if len(items) == 1:
        return [None]
    half = len(items) // 2
    return [*_as_far_as_possible(action, items[:half]), *_as_far_as_possible(action, items[half:])]


# ------------------------------------------------------------------------------------------ the decoder
def _decode(files: list[_File], device: torch.device) -> list[Tensor | None]:
    """Decode the pictures; None for those of another size than the file says, or that were left out.
    Raises RuntimeError if one of the files is refused.
    """
    if device.type == "cuda":
        shapes = [(3, *file.size) for file in files]
        blank = [torch.full(shape, UNWRITTEN, dtype=torch.uint8, device=device) for shape in shapes]
        del blank  # the decoder is given this memory next
    pictures = decode_jpegs([file.content for file in files], device)
    last_rows = torch.cat([picture[:, -1].flatten() for picture in pictures]) != UNWRITTEN
    lengths = [3 * picture.shape[-1] for picture in pictures]
    written = [bool(row.any()) for row in last_rows.cpu().split(lengths)]
    return [
        picture if picture.shape == (3, *file.size) and is_written else None
        for file, picture, is_written in zip(files, pictures, written, strict=True)
    ]


def decode_jpegs(contents: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decode RGB pictures, uint8 (3, h, w) on the device. Raises RuntimeError if a file is refused."""
    from torchvision.io import ImageReadMode, decode_jpeg

    if device.type == "cuda":
        # The decoder does not wait for what was queued before, and would write into memory that is still
        # read (https://github.com/pytorch/vision/pull/9606).
        torch.cuda.current_stream(device).synchronize()
    return decode_jpeg(contents, ImageReadMode.RGB, device)


def _decodes(device: torch.device) -> bool:
    """Tell whether the decoder works here, and as PIL does: tried on a small picture of two colours."""
    picture = Image.new("RGB", (32, 16), (120, 20, 30))
    picture.paste((150, 200, 250), (16, 0, 32, 16))
    file = BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling=0)
    content = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    try:
        (decoded,) = decode_jpegs([content], device)
    except (ImportError, AttributeError, RuntimeError):  # torchvision without it
        return False
    expected = torch.from_numpy(np.array(picture)).movedim(-1, 0)
    return decoded.shape == expected.shape and bool((decoded.cpu().int() - expected).abs().max() <= 16)
