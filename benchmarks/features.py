"""Extraction against the bare forward pass, and how long a second run takes to find its features.

    python3 -m benchmarks.features
    python3 -m benchmarks.features --MODELS resnet18 --IMAGES 128

The bare pass sees frames that lie ready on the device, in batches as large as the extraction's;
extraction starts from stored images. Networks that have no weight file here get random weights.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
import torchvision

from benchmarks.measure import Table
from utils.backbones import Backbone, load_backbone
from utils.datasets import load_dataset
from utils.device import choose_device
from utils.extraction import SHARD, batch_size, cached_features, extract_features
from utils.images import Split, rgb_image
from utils.options import stage_entry
from utils.preprocess import GREY

CACHED = (70_000, 512)


def backbone_of(name: str, device: torch.device) -> Backbone:
    if not name.startswith("resnet"):
        return load_backbone(name, device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(getattr(torchvision.models, name)().state_dict(), path)
        return load_backbone(name, device, weights=path)


def bare_seconds(backbone: Backbone, split: Split) -> float:
    frames = [backbone.preprocess.frame(rgb_image(split.images, k)) for k in range(len(split))]
    size = batch_size(backbone)
    batches = [part.to(backbone.device) for part in torch.stack(frames).split(size)]
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
    parser.add_argument("--IMAGES", type=int, default=256)
    parser.add_argument("--WORKERS", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--REPEATS", type=int, default=3)
    parser.add_argument("--CACHED", type=int, nargs=2, default=CACHED, metavar=("N", "D"))
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)

    device = choose_device("auto")
    workers = options.WORKERS
    table = Table("features", ["bare", "extraction", "share"], argv)
    table.heading(f"images/s, {options.IMAGES} images of FMNIST, {workers} workers, best of repeats")
    split = load_dataset("FMNIST", "embedded").train.select(torch.arange(options.IMAGES))
    for name in options.MODELS:
        backbone = backbone_of(name, device)
        extract_features(backbone, split.select(torch.arange(min(32, options.IMAGES))))
        # Bare and extraction take turns, so that the machine's moods meet both.
        pairs = [
            (
                bare_seconds(backbone, split),
                seconds_of(lambda backbone=backbone: extract_features(backbone, split, workers)),
            )
            for _ in range(options.REPEATS)
        ]
        bare, whole = (options.IMAGES / min(times) for times in zip(*pairs, strict=True))
        table.row(name, f"{bare:.1f}", f"{whole:.1f}", f"{whole / bare:.0%}")

    count, dim = options.CACHED
    images = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, dim)).to(device)
    network.requires_grad_(False)
    backbone = Backbone("linear", network, dim, GREY, "benchmark")
    with tempfile.TemporaryDirectory() as folder:
        split = Split(images, torch.arange(count) % 10)
        cached_features(backbone, split, Path(folder), "images")
        seconds = seconds_of(lambda: cached_features(backbone, split, Path(folder), "images"))
    table.say(
        f"\n{count} x {dim} found in the cache (shards of {SHARD}, checksums tested): {seconds:.2f} s"
    )
    table.write(options.RESULTS)


if __name__ == "__main__":
    main()
