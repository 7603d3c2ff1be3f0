"""Tiny data sets in their official layouts, and the weight files that the commands look for."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image

PETS = ("Abyssinian", "american_bulldog", "beagle")
TEXTURES = ("banded", "braided", "bubbly")
VARIANTS = ("707-320", "727-200", "A300B4")


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 32)) -> np.ndarray:
    """A smooth random RGB image in the format of the suffix; its pixels as PIL reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def write_class_folders(folder: Path, classes: tuple[str, ...], each: int, suffix: str = ".jpg") -> None:
    for label, name in enumerate(classes):
        for k in range(each):
            write_image(folder / name / f"{name}_{k}{suffix}", 1000 * label + k)


def write_cifar(folder: Path, monkeypatch, name: str = "CIFAR10", each: int = 6) -> np.ndarray:
    """The pickled batches; torchvision is told their checksums. Returns the training images."""
    tv_class = getattr(torchvision.datasets, name)
    classes, key = (10, "labels") if name == "CIFAR10" else (100, "fine_labels")
    base = folder / tv_class.base_folder
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    training = []

    def write(file: str, content: dict) -> str:
        (base / file).write_bytes(data := pickle.dumps(content))
        return hashlib.md5(data).hexdigest()

    lists = {}
    for attribute in ("train_list", "test_list"):
        lists[attribute] = []
        for file, _ in getattr(tv_class, attribute):
            labels = np.repeat(np.arange(classes), each if name == "CIFAR10" else 2)
            images = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
            lists[attribute].append((file, write(file, {"data": images, key: labels.tolist()})))
            if attribute == "train_list":
                training.append(images)
        monkeypatch.setattr(tv_class, attribute, lists[attribute])
    meta = dict(tv_class.meta)
    names = [f"class{k}" for k in range(classes)]
    meta["md5"] = write(meta["filename"], {meta["key"]: names})
    monkeypatch.setattr(tv_class, "meta", meta)
    return np.concatenate(training).reshape(-1, 3, 32, 32)


def write_pets(folder: Path) -> None:
    base = folder / "oxford-iiit-pet"
    for split, each in (("trainval", 4), ("test", 2)):
        lines = []
        for label, name in enumerate(PETS):
            for k in range(each):
                write_image(base / "images" / f"{name}_{split}{k}.jpg", 100 * label + k)
                lines.append(f"{name}_{split}{k} {label + 1} 1 1")
        (base / "annotations").mkdir(exist_ok=True)
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")


def write_dtd(folder: Path) -> None:
    base = folder / "dtd" / "dtd"
    for split, each in (("train", 3), ("val", 2), ("test", 2)):
        lines = []
        for label, name in enumerate(TEXTURES):
            for k in range(each):
                write_image(base / "images" / name / f"{name}_{split}{k}.jpg", 100 * label + k)
                lines.append(f"{name}/{name}_{split}{k}.jpg")
        (base / "labels").mkdir(exist_ok=True)
        (base / "labels" / f"{split}1.txt").write_text("\n".join(lines) + "\n")


def write_aircraft(folder: Path) -> None:
    base = folder / "fgvc-aircraft-2013b" / "data"
    number = 1000000
    for split, each in (("trainval", 4), ("test", 2)):
        lines = []
        for name in VARIANTS:
            for _ in range(each):
                write_image(base / "images" / f"{number}.jpg", number)
                lines.append(f"{number} {name}")
                number += 1
        (base / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    (base / "variants.txt").write_text("\n".join(VARIANTS) + "\n")


def write_imagenet(folder: Path, classes: int = 12, each: int = 5) -> tuple[str, ...]:
    names = tuple(f"n{1440764 + k:08d}" for k in range(classes))
    write_class_folders(folder / "imagenet" / "train", names, each, ".JPEG")
    write_class_folders(folder / "imagenet" / "val", names, 2, ".JPEG")
    return names
