"""Which network, with which weights, and how it sees images; what its builders give."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.backbones.image_transform import ImageTransform
from utils.errors import InputError
from utils.names import AUTO

TENSORS = "tensors"


@dataclass(frozen=True)
class NetworkSpec:
    """Which network, with which weights, and how it sees images. `folder` holds the published files and
    the downloads; `weights`, a local file, stands in the place of those, and may run code if `trust`
    says so. `eps` belongs to robust models; `image_size` replaces the side in pixels of the square that
    the network sees; `autocast` lets CUDA compute in bfloat16; `seed` draws a random control's weights.
    `decoder` makes frames of stored images: PIL on the CPU, TENSORS on the network's device as far as it
    can, AUTO the latter on CUDA. `image_batch`: how many images pass the network at once, at most.
    """

    name: str
    folder: Path = Path("checkpoints")
    weights: Path | None = None
    trust: bool = False
    eps: float | None = None
    image_size: int | None = None
    autocast: bool = True
    seed: int = 0
    decoder: str = AUTO
    image_batch: int | None = None


Built = tuple[nn.Module, ImageTransform]


@dataclass(frozen=True)
class Classifier:
    """The last layer of a network: features x (n, d) ↦ logits x weightᵀ + bias (n, K).

    `weight` (K, d) and `bias` (K,) are float32 on the CPU, `class_names` K names, which need not differ.
    """

    weight: Tensor
    bias: Tensor
    class_names: tuple[str, ...]


def checked_classifier(
    what: str, weight: object, bias: object, dim: int, class_names: Sequence[str] | None = None
) -> Classifier:
    """Check a classifier of features in `dim` dimensions; its classes are named 0..K−1 where no names
    are given. Raises InputError that begins with `what` for other shapes, fewer than two classes, and
    values that are no finite numbers.
    """
    if not is_plain(weight) or not is_plain(bias):
        raise InputError(f"{what}: the classifier's weight and bias must be arrays of real numbers")
    if weight.ndim != 2 or weight.shape[1] != dim or bias.shape != weight.shape[:1]:
        raise InputError(
            f"{what}: of {dim} features the classifier's weight must be (K, {dim}) and its bias (K,), "
            f"not {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if len(weight) < 2:
        raise InputError(f"{what}: the classifier has {len(weight)} class: nothing is told apart")
    # Copies: of a large file the rest can be freed, and what float32 cannot hold is infinite.
    weight, bias = (value.detach().to("cpu", torch.float32, copy=True) for value in (weight, bias))
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise InputError(f"{what}: the classifier's weight or bias holds NaN or infinite values")
    names = tuple(map(str, range(len(weight)))) if class_names is None else tuple(class_names)
    if len(names) != len(weight):
        raise InputError(f"{what}: there are {len(names)} class names for {len(weight)} classes")
    return Classifier(weight, bias, names)


def is_plain(value: object) -> bool:
    """Tell whether a value is a dense tensor of real numbers that are there."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_complex()
        and value.device.type != "meta"
    )
