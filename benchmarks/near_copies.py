"""Near copies: where none are, how near to an alarm; where some are, what is found of them.

    python3 -m benchmarks.near_copies --FOLDERS photos/cifar10 photos/flowers

The first tables: ordinary data, whole and in parts. `share`: of the training images the share whose
nearest neighbour lies so near as one in a thousand does by chance, the largest over scales; `alarm` from
a tenth on. The others: SCENES photographs of each class, each of which stands for a scene that is seen
several times. `crop` cuts up to an eighth away and changes brightness and quality; `pan` is a window
that moves over the picture, as frames do; `jpeg` changes the quality alone; `part` is `crop` for a
quarter of the scenes. `having`: the share of training images that have a near copy; `found` of them at
least; `size` of a group; `right`: of pairs that are put together those of one scene, `all`: of pairs of
one scene those that are put together. Accuracies in percent of a linear probe: `predicted` in the
ordinary way, `new scenes` with the copies that are found held out whole, `told` with the groups by
--GROUPS, and `measured` on other photographs. `held`: whether the intervals of the three hold it.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import Table
from utils.backbones import Backbone, load_backbone
from utils.datasets import FOLDER_PREFIX, Grouping
from utils.entry import stage_entry
from utils.features import Features, Standardiser, Task, TaskRequest, load_task
from utils.linear_head import fit_validated_ridge
from utils.near_copies import ALARM, largest_share, near_copies, report_near_copies
from utils.procedures import settings_for
from utils.ranking import predict_accuracy

PARTS = (None, 1000, 300)
KINDS = {
    "crop": (10, 1),
    "crop of 3": (3, 1),
    "crop of 2": (2, 1),
    "part": (10, 0.25),
    "pan": (10, 1),
    "jpeg": (5, 1),
}  # copies, and of what share of the scenes
SCENE = "([^/]+/scene[0-9]+)_|.*"  # as --GROUPS takes it
COLUMNS = (
    "having",
    "found",
    "size",
    "right",
    "all",
    "predicted",
    "new scenes",
    "told",
    "measured",
    "held",
)


# --------------------------------------------------------------------------------- pictures of one scene
def picture(scene: Image.Image, kind: str, place: float, rng: np.random.Generator) -> Image.Image:
    """One of the scene's; `place`, 0..1, on the way of a camera."""
    width, height = scene.size
    if kind == "jpeg":
        return scene
    share = 0.8 if kind == "pan" else rng.uniform(0.88, 1)
    size = (int(width * share), int(height * share))
    left, top = width - size[0], height - size[1]
    at = (place, 0.5) if kind == "pan" else rng.uniform(0, 1, 2)
    corner = (int(left * at[0]), int(top * at[1]))
    cut = scene.crop((*corner, corner[0] + size[0], corner[1] + size[1])).resize(scene.size)
    return cut if kind == "pan" else ImageEnhance.Brightness(cut).enhance(rng.uniform(0.85, 1.15))


def write_scenes(folder: Path, out: Path, kind: str, scenes: int, most_new: int) -> None:
    """out/train/CLASS/scene3_0.jpg … of so many scenes a class, out/test/CLASS of other photographs."""
    (copies, share), rng = KINDS[kind], np.random.default_rng(0)
    way = kind.split()[0].replace("part", "crop")
    for of_class in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(of_class.iterdir())
        order = rng.permutation(len(files))
        for split in ("train", "test"):
            (out / split / of_class.name).mkdir(parents=True)
        for k, chosen in enumerate(order[:scenes]):
            scene = Image.open(files[chosen]).convert("RGB")
            for j in range(copies if k < share * scenes else 1):
                path = out / "train" / of_class.name / f"scene{k}_{j}.jpg"
                taken = picture(scene, way, j / max(1, copies - 1), rng)
                taken.save(path, quality=int(rng.integers(55, 95)))
        for chosen in order[scenes : scenes + most_new]:
            (out / "test" / of_class.name / files[chosen].name).symlink_to(files[chosen].absolute())


# ------------------------------------------------------------------------------------------------ tables
def scaled(features: Features, floor: float) -> Features:
    return replace(features, x=Standardiser.fit(features.x, floor)(features.x))


def parts_of(features: Features) -> Iterator[tuple[str, Features]]:
    """The whole, and parts of so many images, drawn."""
    generator = torch.Generator().manual_seed(0)
    for count in PARTS:
        if count is None or count < len(features):
            drawn = torch.randperm(len(features), generator=generator)[:count]
            yield f"{len(drawn)} images", features.select(drawn)


def pairs_agree(found: Tensor, true: Tensor) -> tuple[float, float]:
    """(of the pairs of one found group the share of one true group, of these the share found)."""
    linked, same = (groups[:, None] == groups for groups in (found, true))
    pairs = [int(both.sum()) - len(true) for both in (linked & same, linked, same)]
    return pairs[0] / max(1, pairs[1]), pairs[0] / max(1, pairs[2])


def row_of_scenes(task: Task, floor: float) -> Sequence[str]:
    """COLUMNS, of a task whose training images have their scenes as groups."""
    scaler, classes = Standardiser.fit(task.train.x, floor), task.num_classes
    told, test = scaler.scaled(task.train), scaler.scaled(task.test)
    plain, test = replace(told, groups=None), replace(test, groups=None)
    found = near_copies(plain)
    having = (torch.bincount(told.groups)[told.groups] > 1).double().mean().item()
    predictions = []
    for train in (plain, told):
        fitted = fit_validated_ridge(train.x, train.y, classes, "linear probe", train.groups)
        predictions.append(predict_accuracy(fitted, train.y, len(test), train.groups))
    logits = functional.linear(test.x, fitted.weight, fitted.bias)
    measured = (logits.argmax(1) == test.y).double().mean().item()
    new = (report_near_copies(plain, classes) or {}).get("new_scenes")
    right, every = (0.0, 0.0) if found is None else pairs_agree(found.groups, told.groups)
    predicted, of_groups = predictions
    intervals = (predicted.interval, new and new["interval"], of_groups.interval)
    held = [
        "–" if limits is None else "yn"[not limits[0] <= measured <= limits[1]] for limits in intervals
    ]
    return (
        f"{having:.2f}",
        f"{found.share:.2f}" if found else "none",
        str(found.size) if found else "–",
        f"{right:.3f}",
        f"{every:.2f}",
        f"{100 * predicted.accuracy:.1f}",
        f"{100 * new['accuracy']:.1f}" if new else "–",
        f"{100 * of_groups.accuracy:.1f}",
        f"{100 * measured:.1f}",
        "/".join(held),
    )


def networks(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Backbone]]:
    for size in options.IMAGE_SIZE:
        yield (f"{options.MODEL}@{size}", load_backbone(options.MODEL, folder=folder, image_size=size))
    yield "random:lenet", load_backbone("random:lenet")


@stage_entry("benchmarks.near_copies")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--FOLDERS", nargs="*", default=[], help="folders of images")
    parser.add_argument("--EMBEDDED", nargs="*", default=["MNIST", "FMNIST"])
    parser.add_argument("--MODEL", default="efficientnet_lite0")
    parser.add_argument("--IMAGE_SIZE", nargs="*", type=int, default=[64, 96])
    parser.add_argument("--KINDS", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--SCENES", type=int, default=40, help="photographs of each class")
    parser.add_argument("--NEW", type=int, default=200, help="other photographs of each class")
    parser.add_argument("--CHECKPOINT_DIR", type=Path, help="where features are kept (default: nowhere)")
    parser.add_argument("--RESULTS", type=Path, help="folder of the table (default benchmarks/results)")
    options = parser.parse_args(argv)
    floor = settings_for("improved", options.MODEL).deviation_floor
    table = Table("near_copies", ("share", "alarm"), argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.CHECKPOINT_DIR or Path(temporary)
        request = TaskRequest(folder / "data", folder / "features", "embedded")
        for network, backbone in networks(options, folder):
            for name in [FOLDER_PREFIX + path for path in options.FOLDERS] + options.EMBEDDED:
                task = load_task(name, backbone, request, role="target")
                table.heading(f"ordinary: {Path(name).name}, {network}")
                for title, part in parts_of(task.train):
                    share = largest_share(scaled(part, floor))
                    table.row(title, f"{share:.3f}", "yes" if share >= ALARM else "no")
        table.columns = COLUMNS
        grouped = replace(request, grouping=Grouping(SCENE))
        for path in options.FOLDERS:
            photos = Path(path)
            photos = photos / "train" if (photos / "train").is_dir() else photos
            made = {
                kind: Path(temporary) / f"{photos.parent.name}_{kind.replace(' ', '_')}"
                for kind in options.KINDS
            }
            for kind, out in made.items():
                write_scenes(photos, out, kind, options.SCENES, options.NEW)
            for network, backbone in networks(options, folder):
                table.heading(f"scenes: {Path(path).name}, {network}")
                for kind, out in made.items():
                    task = load_task(f"{FOLDER_PREFIX}{out}", backbone, grouped, role="target")
                    table.row(kind, *row_of_scenes(task, floor))
    table.write(options.RESULTS)


if __name__ == "__main__":
    main()
