"""The small scale's network, as stage 1 trains it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from utils.backbones.weights import fit_weights
from utils.errors import InputError
from utils.storage import load_checkpoint


class LeNet(nn.Module):
    """The released code's small network: two 5×5 convolutions, 200 features, K logits.

    Pooling stands before ReLU: the two commute, and a quarter of the values is left to rectify.
    """

    FEATURE_DIM = 200

    def __init__(self, num_classes: int, convolution_dropout: float = 0.5):
        super().__init__()
        self.penultimate = nn.Sequential(
            nn.Conv2d(1, 20, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Dropout(convolution_dropout),
            nn.Flatten(),
            nn.Linear(50 * 4 * 4, self.FEATURE_DIM),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(self.FEATURE_DIM, num_classes)
        for module in self.modules():  # the initial values of the released code's framework
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)  # half the time of the default on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 1, 28, 28) to logits (n, K)."""
        return self.head(self.dropout(self.penultimate(images)))


def new_lenet(seed: int, num_classes: int = 10, convolution_dropout: float = 0.5) -> LeNet:
    """Draw the weights with which training begins, and which are a control by themselves."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LeNet(num_classes, convolution_dropout)


def load_lenet(checkpoint: Path) -> LeNet:
    """Load the network that train_source_model.py left. Raises InputError that names the file."""
    content = load_checkpoint(checkpoint)
    weights, about = content.get("network"), content.get("result")
    if isinstance(about, dict) and f"_{about.get('source')}_" not in checkpoint.name:
        raise InputError(f"{checkpoint} holds the network of {about.get('source')}: it was renamed")
    if not isinstance(weights, dict) or getattr(weights.get("head.weight"), "ndim", None) != 2:
        raise InputError(f"{checkpoint} is not a network trained by train_source_model.py")
    network = LeNet(len(weights["head.weight"]))
    fit_weights(network, weights, checkpoint)
    return network
