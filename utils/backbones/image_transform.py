"""What stands between a stored image and a network: its frame (resize, crop) and its scale."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNIT = ((0.0,) * 3, (1.0,) * 3)  # mean and standard deviation that leave [0, 1] as it is


@dataclass(frozen=True)
class ImageTransform:
    """`frame`: an RGB image → uint8 (channels, h, w), one by one on the CPU; it is spared where images
    are stored in memory as the network sees them. Calling it: a uint8 batch → float32
    (x / 255 − mean) / std on its device.

    `size` is the height and width that the network sees. `about` says all that in values that JSON can
    hold: it keys the feature cache.
    """

    frame: Callable[[Image.Image], Tensor]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: Mapping

    def takes_as_stored(self, images: object) -> bool:
        """Grey images of the size that a grey network sees."""
        return len(self.mean) == 1 and isinstance(images, Tensor) and images.shape[1:] == (1, *self.size)

    def __call__(self, images: Tensor) -> Tensor:
        images = images.float() / 255
        shape = (1, -1, 1, 1)
        mean, std = (images.new_tensor(v).reshape(shape) for v in (self.mean, self.std))
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def grey_to_unit(images: Tensor) -> Tensor:
    """uint8 (n, 1, 28, 28) → float32 in [0, 1], laid out as the network's weights are."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def grey_frame(image: Image.Image) -> Tensor:
    """(1, 28, 28): the square in the middle, as grey."""
    whole = ImageOps.fit(image.convert("L"), (28, 28), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(whole))[None]


GREY = ImageTransform(grey_frame, (28, 28), (0.0,), (1.0,), {"input": "28×28 grey in [0, 1]"})


def resize_and_crop(
    resize: int,
    crop: int,
    interpolation: str,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> ImageTransform:
    """The shorter side to `resize`, the square of `crop` in the middle, by torchvision's transforms."""
    from torchvision import transforms  # two seconds, spared to every run without images

    mode = transforms.InterpolationMode(interpolation)
    steps = [transforms.Resize(resize, mode), transforms.CenterCrop(crop), transforms.PILToTensor()]
    about = {
        "resize": resize, "crop": crop, "interpolation": interpolation, "mean": mean, "std": std,
    }  # fmt: skip
    return ImageTransform(transforms.Compose(steps), (crop, crop), mean, std, about)
