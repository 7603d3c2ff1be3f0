"""Which network, with which weights, and how it sees images."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from utils.backbones.image_transform import ImageTransform


@dataclass(frozen=True)
class NetworkSpec:
    """Which network, with which weights, and how it sees images. `folder` holds the published files and
    the downloads; `weights`, a local file, stands in the place of those, and may run code if `trust`
    says so. `eps` belongs to robust models; `image_size` replaces the side in pixels of the square that
    the network sees; `autocast` lets CUDA compute in bfloat16; `seed` draws a random control's weights.
    """

    name: str
    folder: Path = Path("checkpoints")
    weights: Path | None = None
    trust: bool = False
    eps: float | None = None
    image_size: int | None = None
    autocast: bool = True
    seed: int = 0


Built = tuple[nn.Module, ImageTransform]
