"""Backbones: `load_backbone(name, …)` → `Backbone(network, feature_dim, preprocess)`; a registry."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import InputError
from utils.storage import load_checkpoint, state_digest


@dataclass(frozen=True)
class Backbone:
    """A frozen network in eval mode: preprocess(uint8 images) → network → features (n, d).

    `weights_digest` identifies the weights: it keys the feature cache and enters every result.
    """

    name: str
    network: nn.Module
    feature_dim: int
    preprocess: Callable[[Tensor], Tensor]
    weights_digest: str


def grey_to_unit(images: Tensor) -> Tensor:
    """uint8 (n, 1, 28, 28) → float32 in [0, 1], laid out as the network's weights are."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


class LeNet(nn.Module):
    """The released code's small network: two 5×5 convolutions, 200 features, K logits.

    Pooling stands before ReLU: the two commute, and a quarter of the values is left to rectify.
    """

    FEATURE_DIM = 200

    def __init__(self, num_classes: int, convolution_dropout: float = 0.5):
        super().__init__()
        self.penultimate = nn.Sequential(
            nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Dropout(convolution_dropout),
            nn.Flatten(), nn.Linear(50 * 4 * 4, self.FEATURE_DIM), nn.ReLU(),
        )  # fmt: skip
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(self.FEATURE_DIM, num_classes)
        for module in self.modules():  # the initial values of the released code's framework
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)  # half the time of the default on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, 28, 28) → logits (n, K)."""
        return self.head(self.dropout(self.penultimate(images)))


def _load_lenet(checkpoint: Path) -> Backbone:
    saved = load_checkpoint(checkpoint)
    weights = saved.get("network")
    named = isinstance(weights, dict) and all(isinstance(value, Tensor) for value in weights.values())
    if not named or getattr(weights.get("head.weight"), "ndim", None) != 2:
        raise InputError(f"{checkpoint} is not a network trained by train_source_model.py")
    network = LeNet(len(weights["head.weight"]))
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"{checkpoint} is of another architecture than LeNet: {' '.join(str(error).split())[:200]}"
        ) from error
    features = network.penultimate.eval().requires_grad_(False)
    return Backbone("lenet", features, LeNet.FEATURE_DIM, grey_to_unit, state_digest(weights))


def holds_network(checkpoint: Path, weights_digest: str) -> bool:
    """Whether the file is there, whole, and holds the weights of this digest."""
    try:
        return checkpoint.exists() and _load_lenet(checkpoint).weights_digest == weights_digest
    except InputError:
        return False


BACKBONES: dict[str, Callable[[Path], Backbone]] = {"lenet": _load_lenet}


def load_backbone(name: str, checkpoint: Path, device: torch.device) -> Backbone:
    """Loads a registered backbone onto the device. Raises InputError that names the checkpoint."""
    if name not in BACKBONES:
        raise InputError(f"unknown backbone {name}; choose from {', '.join(BACKBONES)}")
    backbone = BACKBONES[name](checkpoint)
    backbone.network.to(device)
    return backbone
