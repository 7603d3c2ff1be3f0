"""Extraction: the forward pass of images through a frozen backbone."""

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from utils.backbones import Backbone
from utils.datasets import ImageFiles, Split
from utils.device import InFittingParts
from utils.features.decoding import MOST_IMAGES, Part, frames_of, pins, refuse_unreadable, warn_of_pil
from utils.features.on_device import frames_on_device, made_on_device
from utils.features.types import Features

# Of one batch. More is slower on a CPU: the activations of a few images still fit into its caches.
PIXELS = {"cpu": 2**19, "cuda": 2**24}
SPEED_SECONDS = 1.0  # for which a network's speed is measured


def extract_features(backbone: Backbone, split: Split, workers: int = 0) -> Features:
    """Pass every image once through the frozen backbone; `cached_features` keeps what it gives.

    Args:
        backbone: from `load_backbone`.
        split: n images with their labels, in memory or as files.
        workers: processes that decode images; 0: this one.

    Returns:
        x (n, d) float32 and y (n,) int64, on the CPU.

    Raises:
        InputError: an image cannot be decoded; it is named.

    Source: arXiv:2307.00823, section 4: all that the analysis sees of a network.

    Example:
        >>> from utils.backbones import load_backbone
        >>> from utils.datasets import load_dataset
        >>> data = load_dataset("MNIST", "embedded")
        >>> len(extract_features(load_backbone("random:lenet"), data.test))
        1000
    """
    batches = torch.arange(len(split.labels)).split(batch_size(backbone))
    results = list(forward(backbone, split.images, batches, workers))
    refuse_unreadable([name for batch in results for name in batch.unreadable], 0)
    warn_of_pil(sum(batch.by_pil for batch in results), len(split))
    return Features(torch.cat([batch.x for batch in results]), split.labels, split.groups)


def images_per_second(backbone: Backbone, split: Split, workers: int = 0) -> float:
    """Measure how fast the backbone sees a split's images here, decoding included, after the first
    batch.
    """
    batches = torch.arange(len(split.labels)).split(batch_size(backbone))
    batches = batches if len(batches) > 1 else 2 * batches
    results = forward(backbone, split.images, batches, workers)
    next(results)  # it starts the workers
    seen, start = 0, time.perf_counter()
    for part in results:
        seen += len(part.rows)
        now = time.perf_counter()
        if now - start > SPEED_SECONDS:
            break
    return seen / max(now - start, 1e-9)


# ----------------------------------------------------------------------------------- the forward pass
def batch_size(backbone: Backbone) -> int:
    """Choose a power of two, so that batches fill a shard, unless less is asked for."""
    height, width = backbone.preprocess.size
    fitting = max(1, PIXELS[backbone.device.type] // (height * width))
    return min(MOST_IMAGES, 2 ** (fitting.bit_length() - 1), backbone.image_batch or MOST_IMAGES)


@torch.inference_mode()
def forward(
    backbone: Backbone, images: Tensor | ImageFiles, batches: Sequence[Tensor], workers: int
) -> Iterator[Part]:
    """Extract the features of each batch of indices, in order; the next ones are prepared meanwhile."""
    in_fitting_parts = InFittingParts("--IMAGE_BATCH")
    for frames in frames_for(backbone, images, batches, workers):
        if len(frames.rows):
            on_device = frames.x.to(backbone.device, non_blocking=True)
            x = in_fitting_parts(backbone.features, on_device).cpu()
        else:
            x = torch.empty(0, backbone.feature_dim)
        yield frames._replace(x=x)


def frames_for(
    backbone: Backbone, images: Tensor | ImageFiles, batches: Sequence[Tensor], workers: int
) -> Iterator[Part]:
    """Decode uint8 frames of each batch of indices, on the CPU or where the network computes."""
    if made_on_device(backbone, images):
        return frames_on_device(backbone, images, batches, workers)
    return frames_of(backbone.preprocess, images, batches, workers, pins(backbone))
