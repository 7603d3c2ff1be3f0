"""What `benchmarks.relation` looks at: images, LeNets trained on them, features, and sources that mean
nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional
from torchvision.transforms.functional import InterpolationMode, rotate

from utils.backbones import GREY, Backbone, LeNet, load_backbone, own_classifier, train_network
from utils.datasets import FOLDER_PREFIX, Split, load_dataset
from utils.features import (
    Features,
    Standardiser,
    TaskRequest,
    cached_features,
    decoded_split,
    extract_features,
    load_task,
)
from utils.linear_head import LinearHead, fit_linear_head, on_standardised
from utils.procedures import RelationSettings
from utils.procedures.small import IMPROVED
from utils.relation import Relation, relate
from utils.storage import ResumePoint

DIGITS = "8x8 digits"  # scikit-learn's
DIGITS_IN_TRAINING = 900
COLOUR_MODEL, COLOUR_PIXELS = "efficientnet_lite0", 96


# --------------------------------------------------------------------------------------------- images
@dataclass(frozen=True)
class Images:
    """Training and test images, uint8 (n, 1, 28, 28), with labels 0..K−1."""

    train: Split
    test: Split

    @property
    def num_classes(self) -> int:
        return int(self.train.labels.max()) + 1

    def each(self, change: Callable[[Split], Split]) -> "Images":
        return Images(change(self.train), change(self.test))


def embedded(name: str) -> Images:
    data = load_dataset(name, "embedded")
    return Images(data.train, data.test)


def grey_folder(path: Path) -> Images:
    """A folder of images, in grey, 28×28, as a LeNet sees it."""
    data = load_dataset(FOLDER_PREFIX + str(path))
    return Images(*(decoded_split(split, GREY, 0, 0)[0] for split in (data.train, data.test)))


def eight_by_eight(side: int = 28) -> Images:
    """scikit-learn's 8×8 digits, enlarged: 900 training and 897 test images."""
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) * (255 / 16)
    images = functional.interpolate(images, (side, side), mode="bilinear").round().to(torch.uint8)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    whole = Split(images, torch.tensor(y))
    return Images(*map(whole.select, (order[:DIGITS_IN_TRAINING], order[DIGITS_IN_TRAINING:])))


def halves(images: Images, seed: int) -> tuple[Images, Images]:
    """Two tasks of different images: each split is cut in two at random."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for split in (images.train, images.test):
        order = torch.randperm(len(split), generator=generator)
        parts.append([split.select(part) for part in order.tensor_split(2)])
    one, other = zip(*parts, strict=True)
    return Images(*one), Images(*other)


def source_and_target(images: Images, most: int, seed: int) -> tuple[Images, Images]:
    """(`most` images to train a source on; of the others one half for training and one for testing).

    The source's test images are the target's: nothing is fitted to them.
    """
    whole = Split(
        torch.cat([images.train.images, images.test.images]),
        torch.cat([images.train.labels, images.test.labels]),
    )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    own, rest = order[:most], order[most:][: 2 * MOST_TARGET_IMAGES]
    train, test = map(whole.select, rest.tensor_split(2))
    return Images(whole.select(own), test), Images(train, test)


MOST_TARGET_IMAGES = 2000  # of each split


def turned(images: Images, degrees: float) -> Images:
    """Anticlockwise, about the middle."""
    if degrees == 0:
        return images
    return images.each(
        lambda split: Split(rotate(split.images, degrees, InterpolationMode.BILINEAR), split.labels)
    )


def shuffled(images: Images, seed: int) -> Images:
    """Labels that say nothing of the images."""
    generator = torch.Generator().manual_seed(seed)
    return images.each(lambda split: Split(split.images, _permuted(split.labels, generator)))


def _permuted(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return labels[torch.randperm(len(labels), generator=generator)]


def partitioned(images: Images, seed: int) -> Images:
    """Labels that say which of K random linear functions of the pixels is the largest."""
    pixels = images.train.images.flatten(1).float()
    middle = pixels.mean(0)
    directions = torch.randn(
        pixels.shape[1], images.num_classes, generator=torch.Generator().manual_seed(seed)
    )
    spread = ((pixels - middle) @ directions).std(0)  # else the widest function takes most images

    def cut(split: Split) -> Split:
        values = (split.images.flatten(1).float() - middle) @ directions / spread
        return Split(split.images, values.argmax(1))

    return images.each(cut)


# ------------------------------------------------------------------------------------------- networks
def train_lenet(images: Images, seed: int) -> Backbone:
    """A LeNet trained as stage 1 does by `improved`, cut off behind its features."""
    training = IMPROVED.training.for_images(len(images.train))
    never = ResumePoint(Path("never saved"), "", math.inf)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LeNet(images.num_classes, training.convolution_dropout)
        train_network(network, images.train, training, seed, never)
    frozen = network.penultimate.eval().requires_grad_(False)
    return Backbone(
        name="lenet", network=frozen, feature_dim=LeNet.FEATURE_DIM, preprocess=GREY, weights_digest=""
    )


# ------------------------------------------------------------------------------- tasks as one sees them
@dataclass(frozen=True)
class View:
    """A task through a network: both splits, each coordinate scaled by the training split."""

    train: Features
    test: Features
    num_classes: int

    @cached_property
    def head(self) -> LinearHead:
        return fit_linear_head(self.train, self.num_classes, None, "ridge")

    @property
    def accuracy(self) -> float:
        """Of the head, on the test split."""
        return accuracy(self.head, self.test)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.num_classes)))

    def shuffled(self, seed: int) -> "View":
        """The same features; labels that say nothing."""
        generator = torch.Generator().manual_seed(seed)
        return View(
            *(Features(part.x, _permuted(part.y, generator)) for part in (self.train, self.test)),
            self.num_classes,
        )


def accuracy(head: LinearHead, split: Features) -> float:
    return (head.logits(split.x).argmax(1) == split.y).double().mean().item()


def scaled(train: Features, test: Features, num_classes: int) -> View:
    scaler = Standardiser.fit(train.x, IMPROVED.deviation_floor)
    return View(scaler.scaled(train), scaler.scaled(test), num_classes)


def view(backbone: Backbone, images: Images) -> View:
    parts = (extract_features(backbone, split) for split in (images.train, images.test))
    return scaled(*parts, images.num_classes)


def clouds(like: View, distance: float, seed: int) -> View:
    """Gaussian clouds in the features of `like`, as many points and classes: their centres lie at a
    distance from the origin in random directions, their spread is one.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(like.num_classes, like.train.x.shape[1], generator=generator)
    centres *= distance / centres.norm(dim=1, keepdim=True)
    parts = []
    for split in (like.train, like.test):
        y = torch.arange(len(split)) % like.num_classes
        noise = torch.randn(len(split), centres.shape[1], generator=generator)
        parts.append(Features(centres[y] + noise, y))
    return scaled(*parts, like.num_classes)


def view_halves(train: Features, test: Features, num_classes: int, seed: int) -> tuple[View, View]:
    """As `halves`, of features."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for split in (train, test):
        order = torch.randperm(len(split), generator=generator)
        parts.append([Features(split.x[part], split.y[part]) for part in order.tensor_split(2)])
    one, other = zip(*parts, strict=True)
    return scaled(*one, num_classes), scaled(*other, num_classes)


def related(
    source: View | LinearHead, target: View, controls: int | None, seed: int, shared: bool = False
) -> Relation:
    """A source that is a head alone has no images."""
    head = source.head if isinstance(source, View) else source
    names = tuple(map(str, range(head.num_classes)))
    found, _ = relate(
        head,
        target.head,
        target.train,
        target.test,
        (names, target.names),
        RelationSettings(controls),
        shared_images=shared,
        seed=seed,
    )
    return found


# ------------------------------------------------------------------------------------- colour networks
class Colour:
    """Tasks through COLOUR_MODEL, whose features are kept in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.backbone = load_backbone(COLOUR_MODEL, folder=folder, image_size=COLOUR_PIXELS)

    def parts(self, name: str) -> tuple[Features, Features, int]:
        """(training and test features, classes) of a data set or folder, or of the 8×8 digits."""
        where = self.folder / "features"
        if name == DIGITS:
            images = eight_by_eight(8)  # the network enlarges them itself
            splits = {"digits_train": images.train, "digits_test": images.test}
            both = (cached_features(self.backbone, s, where, n)[0] for n, s in splits.items())
            return (*both, images.num_classes)
        request = TaskRequest(self.folder / "data", where, "embedded")
        task = load_task(name, self.backbone, request, role="target")
        return task.train, task.test, task.num_classes

    def view(self, name: str) -> View:
        return scaled(*self.parts(name))

    def own_head(self, name: str) -> LinearHead:
        """ImageNet's classifier, as it reads the scaled features of a task."""
        classifier = own_classifier(COLOUR_MODEL, folder=self.folder)
        scaler = Standardiser.fit(self.parts(name)[0].x, IMPROVED.deviation_floor)
        return on_standardised(classifier.weight, classifier.bias, scaler)


def few(target: View, per_class: int, seed: int) -> View:
    """The same task with `per_class` training images of each class."""
    order = torch.randperm(len(target.train), generator=torch.Generator().manual_seed(seed))
    index = []
    for label in range(target.num_classes):
        index.append(order[target.train.y[order] == label][:per_class])
    index = torch.cat(index)
    return replace(target, train=Features(target.train.x[index], target.train.y[index]))
