"""The colour data sets of the large scale."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from utils.datasets.content import Content, Request, keep_classes, torchvision_class, torchvision_parts
from utils.datasets.folders import class_folders, split_of_folder
from utils.datasets.images import ImageFiles, Split
from utils.errors import InputError


# ------------------------------------------------------------------------------------ colour images
def cifar_reader(name: str, first_classes: int | None = None) -> Callable[[Request], Content]:
    """Read torchvision's CIFAR-10 or -100; of the latter, `first_classes` if given."""

    def read(request: Request) -> Content:
        parts = torchvision_parts(name, request)
        images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
        splits = (Split(x, torch.tensor(part.targets)) for x, part in zip(images, parts, strict=True))
        content = Content(*splits, tuple(parts[0].classes))
        return keep_classes(content, torch.arange(first_classes)) if first_classes else content

    return read


def files_reader(name: str, train: Sequence[str], test: str, **options) -> Callable[[Request], Content]:
    """Read one of torchvision's data sets of image files; the parts named by `train` together.

    Torchvision keeps names and labels in attributes of its own: asking it for a label by its public
    interface would decode the image.
    """

    def read(request: Request) -> Content:
        def part(split: str) -> tuple[list[str], list[int], tuple[str, ...]]:
            raw = torchvision_class(name)(
                request.data_dir, split=split, download=request.download, **options
            )
            files = raw._images if hasattr(raw, "_images") else raw._image_files
            names = [os.path.relpath(file, request.data_dir) for file in files]
            return names, list(raw._labels), tuple(raw.classes)

        parts = [part(split) for split in train]
        names, labels = ([x for p in parts for x in p[k]] for k in (0, 1))
        test_names, test_labels, class_names = part(test)
        if any(p[2] != class_names for p in parts):
            raise InputError(f"{name}: the splits in {request.data_dir} name different classes")
        return Content(
            Split(ImageFiles(request.data_dir, tuple(names)), torch.tensor(labels)),
            Split(ImageFiles(request.data_dir, tuple(test_names)), torch.tensor(test_labels)),
            class_names,
        )

    return read


IMAGENET_SMALL_IMAGES = 50 * 200  # training images: the released code's batches


def _imagenet_classes(request: Request) -> tuple[Path, tuple[str, ...]]:
    folder = request.data_dir / "imagenet"
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder / part} is missing")
    return folder, class_folders(folder / "train")


def read_imagenet(request: Request) -> Content:
    folder, names = _imagenet_classes(request)
    return Content(*(split_of_folder(folder / part, names) for part in ("train", "val")), names)


def read_imagenet_small(request: Request) -> Content:
    """Read as many random classes as the target has: 10,000 of their training images, all their
    validation images. Only these classes' folders are listed.
    """
    folder, names = _imagenet_classes(request)
    if request.classes_to_draw is None or request.classes_to_draw > len(names):
        raise InputError(
            f"imagenet_small: {request.classes_to_draw} classes asked for, as many as the target has, "
            f"and {folder / 'train'} has {len(names)}"
        )
    generator = request.generator
    chosen = torch.randperm(len(names), generator=generator)[: request.classes_to_draw].sort().values
    names = tuple(names[k] for k in chosen.tolist())
    train, test = (split_of_folder(folder / part, names) for part in ("train", "val"))
    drawn = torch.randperm(len(train.labels), generator=generator)[:IMAGENET_SMALL_IMAGES]
    return Content(train.select(drawn.sort().values), test, names)
