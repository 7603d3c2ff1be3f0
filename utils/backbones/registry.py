"""Backbones: `load_backbone(name, …)` → `Backbone(network, feature_dim, preprocess)`; a registry."""

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.backbones.image_transform import GREY, ImageTransform
from utils.backbones.lenet import load_lenet, new_lenet
from utils.backbones.libraries import (
    check_open_clip_name,
    check_random_name,
    check_timm_name,
    efficientnet_lite,
    efficientnet_lite_classifier,
    open_clip_model,
    random_model,
    timm_classifier,
    timm_model,
    timm_names,
)
from utils.backbones.pretrained import (
    MOCO,
    SWAV,
    clip,
    robust_classifier,
    robust_resnet,
    self_supervised_resnet50,
    simclr_resnet50,
    torchvision_classifier,
    torchvision_resnet,
)
from utils.backbones.spec import TENSORS, Built, Classifier, NetworkSpec
from utils.errors import InputError
from utils.names import ALIASES, AUTO, LENET, MODELS, MOST_PIXELS, PIL, RANDOM_LENET, TIMM, is_grey_model
from utils.storage import digest, read_if_whole, state_digest


@dataclass(frozen=True)
class Backbone:
    """A frozen network in eval mode: preprocess(uint8 images) → network → features (n, d).

    `weights_digest` identifies the weights, `about` all that determines an image's features: it keys
    their cache. `autocast`: the precision in which the network computes, None for float32 throughout.
    `decoder`: who makes frames of stored images, PIL or TENSORS. `image_batch`: `NetworkSpec` says it.
    """

    name: str
    network: nn.Module
    feature_dim: int
    preprocess: ImageTransform
    weights_digest: str
    autocast: torch.dtype | None = None
    decoder: str = PIL
    image_batch: int | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def about(self) -> dict:
        """What determines the features of an image, for the record."""
        about = {
            "weights": self.weights_digest,
            "preprocess": dict(self.preprocess.about),
            "precision": str(self.autocast or torch.float32).removeprefix("torch."),
        }
        if self.decoder != PIL:  # which goes without saying: features of earlier versions are found
            about["decoder"] = self.decoder
        return json.loads(json.dumps(about))  # as it is read back from a result

    @property
    def digest(self) -> str:
        return digest(self.about)

    def features(self, images: Tensor) -> Tensor:
        """Map a uint8 batch on the network's device to features (n, d), float32 there."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return self.network(self.preprocess(images)).float()


# ------------------------------------------------------------------------------------------ the registry
PRETRAINED: dict[str, Callable[[NetworkSpec], Built]] = {
    "resnet18": partial(torchvision_resnet, depth=18),
    "resnet50": partial(torchvision_resnet, depth=50),
    "robust_resnet18": partial(robust_resnet, depth=18),
    "robust_resnet50": partial(robust_resnet, depth=50),
    "simclr": simclr_resnet50,
    "moco": partial(self_supervised_resnet50, file_format=MOCO),
    "swav": partial(self_supervised_resnet50, file_format=SWAV),
    "clip": clip,
    **{f"efficientnet_lite{k}": partial(efficientnet_lite, number=k) for k in range(3)},
}
# Those whose file holds the classifier that they were trained with.
CLASSIFIERS: dict[str, Callable[[NetworkSpec], Classifier]] = {
    "resnet18": partial(torchvision_classifier, depth=18),
    "resnet50": partial(torchvision_classifier, depth=50),
    "robust_resnet18": partial(robust_classifier, depth=18),
    "robust_resnet50": partial(robust_classifier, depth=50),
    **{f"efficientnet_lite{k}": partial(efficientnet_lite_classifier, number=k) for k in range(3)},
}
LIBRARIES: dict[str, tuple[Callable, Callable]] = {
    "random:": (check_random_name, random_model),
    TIMM: (check_timm_name, timm_model),
    "open_clip:": (check_open_clip_name, open_clip_model),
}


def split_pixels(text: str) -> tuple[str, int | None]:
    """NAME@PIXELS as (NAME, PIXELS); None where no size of images is asked for."""
    name, mark, pixels = text.rpartition("@")
    if not mark:
        return text, None
    if not name or not re.fullmatch("[0-9]{1,4}", pixels) or not 1 <= int(pixels) <= MOST_PIXELS:
        raise InputError(
            f"{text}: write NAME@PIXELS, the side of the square that the model sees, 1 to {MOST_PIXELS}"
        )
    return name, int(pixels)


def expand_pattern(text: str, most: int) -> list[str]:
    """List what timm:PATTERN (with *, ? or [) and timm:PATTERN@PIXELS stand for: the models that timm
    has weights for. Any other name stands for itself. Raises InputError for no match and for more than
    `most`.
    """
    if not text.startswith(TIMM) or not any(mark in text for mark in "*?["):
        return [text]
    pattern, pixels = split_pixels(text)
    names = timm_names(pattern.removeprefix(TIMM))
    if len(names) > most:
        raise InputError(
            f"{text} stands for {len(names)} models, more than --MOST_MODELS {most}: {names[0]}, "
            f"{names[1]} … {names[-1]}; give a narrower pattern or a larger limit"
        )
    return [f"{TIMM}{name}" + (f"@{pixels}" if pixels else "") for name in names]


def check_backbone_name(name: str) -> str:
    """Return the registered spelling. Raises InputError with the choices or the nearest names."""
    if name.lower() == RANDOM_LENET:
        return RANDOM_LENET
    for prefix, (check, _) in LIBRARIES.items():
        if name.startswith(prefix):
            check(name.removeprefix(prefix))
            return name
    known = (LENET, *PRETRAINED, *ALIASES)
    if name.lower() in known:
        return ALIASES.get(name.lower(), name.lower())
    close = difflib.get_close_matches(name.lower(), known, 1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    raise InputError(f"unknown model {name}{meant}; choose from {', '.join(MODELS)}")


def backbone_slug(name: str, eps: float | None = None) -> str:
    """Return a model's name as it stands in paths and results: no separators of files, ε said where
    there is one.
    """
    label = name.replace(":", "-").replace("/", "-")
    return label if eps is None else f"{label}_eps{eps:g}"


def load_backbone(
    network: NetworkSpec | str, device: torch.device | str = "cpu", **options: Any
) -> Backbone:
    """Load a frozen network, cut off behind its penultimate layer, with its own preprocessing.

    Args:
        network: a specification, or a registered name, timm:NAME or open_clip:ARCHITECTURE/WEIGHTS.
        device: where it computes.
        options: fields of `NetworkSpec` that are to be others. LeNet's `weights` are the file that
            stage 1 left.

    Returns:
        The network in eval mode; `features` maps uint8 images (n, c, h, w) to (n, d) float32.

    Raises:
        InputError: the model is unknown, its weights are missing (where they are had is named), damaged
            or of another network, or it does not take images of the size asked for.

    Source: each model's own publication; docs/models.md names the files.

    Example:
        >>> backbone = load_backbone("random:lenet", seed=1)
        >>> backbone.features(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 200])
    """
    spec = network if isinstance(network, NetworkSpec) else NetworkSpec(network)
    spec = replace(spec, **options)
    name, device = check_backbone_name(spec.name), torch.device(device)
    library = next((prefix for prefix in LIBRARIES if name.startswith(prefix)), None)
    if grey := is_grey_model(name):
        whole, preprocess = load_lenet(spec.weights) if name == LENET else new_lenet(spec.seed), GREY
    elif library:
        whole, preprocess = LIBRARIES[library][1](spec, name.removeprefix(library))
    else:
        whole, preprocess = PRETRAINED[name](spec)
    label = backbone_slug(name, None if grey else spec.eps)
    built = whole.penultimate if grey else whole
    built = built.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    in_bfloat16 = spec.autocast and device.type == "cuda" and not grey
    return Backbone(
        name=label,
        feature_dim=_feature_dim(label, built, preprocess),
        weights_digest=state_digest(whole.state_dict()),
        network=built.to(device),
        preprocess=preprocess,
        autocast=torch.bfloat16 if in_bfloat16 else None,
        decoder=_decoder(spec.decoder, device, preprocess),
        image_batch=spec.image_batch,
    )


def _decoder(asked: str, device: torch.device, preprocess: ImageTransform) -> str:
    if asked not in (AUTO, PIL, TENSORS):
        raise InputError(f"decoder must be {AUTO}, {PIL} or {TENSORS}, not {asked!r}")
    if preprocess.on_tensors is None or asked == PIL:
        return PIL
    return TENSORS if asked == TENSORS or device.type == "cuda" else PIL


def own_classifier(network: NetworkSpec | str, **options: Any) -> Classifier:
    """Read the classifier that a pre-trained network brings: its last layer, which `load_backbone` cuts
    off.

    Args:
        network: a specification, or a registered name or timm:NAME.
        options: fields of `NetworkSpec` that are to be others.

    Returns:
        weight (K, d), bias (K,) and the names of the K classes: features of `Backbone.features` times
        weightᵀ plus bias are the network's logits. 1,000 classes are taken for ImageNet's, in the usual
        order; where no names are known, classes are called 0..K−1.

    Raises:
        InputError: the model is unknown or has no classifier of its own; its weights are missing,
            damaged or of another network; the classifier is not in the file, does not fit the features
            or holds values that are no finite numbers.

    Source: each model's own publication; docs/models.md says which have one.

    Example:
        >>> classifier = own_classifier("efficientnet_lite0")
        >>> classifier.weight.shape, classifier.class_names[985]
        (torch.Size([1000, 1280]), 'daisy')
    """
    spec = network if isinstance(network, NetworkSpec) else NetworkSpec(network)
    spec = replace(spec, **options)
    name = check_backbone_name(spec.name)
    if name.startswith(TIMM):
        return timm_classifier(spec, name.removeprefix(TIMM))
    if name in CLASSIFIERS:
        return CLASSIFIERS[name](spec)
    reason = "it was trained without classes"
    if name == LENET:
        reason = "it was trained on a data set of its own"
    elif name.startswith("random:"):
        reason = "it was never trained"
    raise InputError(f"{name} has no classifier of its own: {reason}; give a data set as --SRC")


def _feature_dim(name: str, network: nn.Module, preprocess: ImageTransform) -> int:
    """Read off the network: what one grey image of its input size becomes."""
    from PIL import Image

    try:
        image = preprocess.frame(Image.new("RGB", (32, 32), "grey"))
        with torch.inference_mode():
            features = network(preprocess(image[None]))
    except Exception as error:  # what a network raises for a size that it was not built for
        size = "×".join(map(str, preprocess.size))
        raise InputError(f"{name} does not take images of {size}: {str(error)[:200]}") from error
    if getattr(features, "ndim", None) != 2:
        raise InputError(f"{name} gives no vector of features: {getattr(features, 'shape', features)}")
    return features.shape[1]


def holds_network(checkpoint: Path, weights_digest: str) -> bool:
    """Tell whether the file is there, whole, and holds the LeNet of this digest."""
    network = read_if_whole(checkpoint, load_lenet, "the network is trained again")
    return network is not None and state_digest(network.state_dict()) == weights_digest
