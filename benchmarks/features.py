"""Extraction against the bare forward pass, and how long a second run takes to find its features.

    python3 -m benchmarks.features
    python3 -m benchmarks.features --MODELS resnet18 --IMAGES 128

The bare pass sees frames that lie ready on the device, in batches as large as the extraction's;
extraction starts from stored images, grey arrays of 28×28, arrays of 32×32 in colour or JPEG files of
500×375 pixels, and ends with shards on the disk. In brackets its share of the bare pass. On CUDA
each network has a second row, in which PIL decodes. Networks that have no weight file here get random
weights.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch.nn import functional

from benchmarks.measure import Table
from utils.backbones import GREY, Backbone, load_backbone
from utils.datasets import ImageFiles, Split, load_dataset, rgb_image
from utils.device import choose_device
from utils.entry import stage_entry
from utils.features import SHARD, batch_size, cached_features, extract_features
from utils.names import DECODERS, PIL

CACHED = (70_000, 512)
IMAGES = {"cpu": 256, "cuda": 8192}
DISTINCT = 1024  # of which more are made by repeating them


def backbone_of(name: str, device: torch.device, decoder: str) -> Backbone:
    if not name.startswith("resnet"):
        return load_backbone(name, device, decoder=decoder)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(getattr(torchvision.models, name)().state_dict(), path)
        return load_backbone(name, device, weights=path, decoder=decoder)


def frames_on_device(backbone: Backbone, split: Split) -> list[torch.Tensor]:
    frames = [
        backbone.preprocess.frame(rgb_image(split.images, k)) for k in range(min(DISTINCT, len(split)))
    ]
    frames = torch.stack(frames)[torch.arange(len(split)) % DISTINCT]
    return [part.to(backbone.device) for part in frames.split(batch_size(backbone))]


def bare_seconds(backbone: Backbone, batches: list[torch.Tensor]) -> float:
    return seconds_of(lambda: [backbone.features(part).cpu() for part in batches])


@torch.inference_mode()
def seconds_of(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@stage_entry("benchmarks.features")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--MODELS", nargs="+", default=["efficientnet_lite0", "resnet18", "resnet50"])
    parser.add_argument("--IMAGES", type=int, help="256, on CUDA 8,192")
    parser.add_argument("--WORKERS", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--REPEATS", type=int, default=3)
    parser.add_argument("--CACHED", type=int, nargs=2, default=CACHED, metavar=("N", "D"))
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)

    device = choose_device("auto")
    options.IMAGES = options.IMAGES or IMAGES[device.type]
    table = Table("features", ["bare", "28×28 grey", "32×32 colour", "JPEG files"], argv)
    table.heading(
        f"images/s, {options.IMAGES} images of FMNIST, {options.WORKERS} workers, best of repeats"
    )
    split = load_dataset("FMNIST", "embedded").train
    split = split.select(torch.arange(options.IMAGES) % min(DISTINCT, len(split)))
    with tempfile.TemporaryDirectory() as folder:
        forms = [split, in_colour(split), write_photographs(Path(folder), split)]
        measure_models(options, table, device, forms)
    measure_cache(options, table, device)
    table.write(options.RESULTS)


def in_colour(split: Split) -> Split:
    """As CIFAR's images are stored."""
    return Split(functional.pad(split.images, (2,) * 4).repeat(1, 3, 1, 1), split.labels)


def write_photographs(folder: Path, split: Split) -> Split:
    """The images as JPEG files of the median size of ImageNet's."""
    names = [f"{k % DISTINCT}.jpg" for k in range(len(split))]
    for k, name in enumerate(names[:DISTINCT]):
        image = rgb_image(split.images, k).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / name, quality=90)
    return Split(ImageFiles(folder, tuple(names)), split.labels)


def extraction_seconds(backbone: Backbone, split: Split, workers: int) -> float:
    with tempfile.TemporaryDirectory() as cache:
        return seconds_of(
            lambda: cached_features(backbone, split, Path(cache), "images", workers=workers)
        )


def measure_models(
    options: argparse.Namespace, table: Table, device: torch.device, forms: list[Split]
) -> None:
    for name in options.MODELS:
        for decoder in DECODERS if device.type == "cuda" else [PIL]:
            backbone = backbone_of(name, device, decoder)
            batches = frames_on_device(backbone, forms[0])
            for split in forms:  # kernels are chosen and tables of weights made
                extract_features(backbone, split.select(torch.arange(min(32, options.IMAGES))))
            # They take turns, so that the machine's moods meet all.
            times = [
                [bare_seconds(backbone, batches)]
                + [extraction_seconds(backbone, split, options.WORKERS) for split in forms]
                for _ in range(options.REPEATS)
            ]
            bare, *rates = (options.IMAGES / min(column) for column in zip(*times, strict=True))
            shares = (f"{rate:.1f} ({rate / bare:.0%})" for rate in rates)
            label = name if decoder != PIL or device.type == "cpu" else f"{name}, --DECODER pil"
            table.row(label, f"{bare:.1f}", *shares)


def measure_cache(options: argparse.Namespace, table: Table, device: torch.device) -> None:
    count, dim = options.CACHED
    images = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, dim)).to(device)
    network.requires_grad_(False)
    backbone = Backbone(
        name="linear", network=network, feature_dim=dim, preprocess=GREY, weights_digest="benchmark"
    )
    with tempfile.TemporaryDirectory() as folder:
        split = Split(images, torch.arange(count) % 10)
        cached_features(backbone, split, Path(folder), "images")
        seconds = seconds_of(lambda: cached_features(backbone, split, Path(folder), "images"))
    table.say(
        f"\n{count} x {dim} found in the cache (shards of {SHARD}, checksums tested): {seconds:.2f} s"
    )


if __name__ == "__main__":
    main()
