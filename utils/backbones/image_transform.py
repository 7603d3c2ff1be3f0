"""What stands between a stored image and a network: its frame (resize, crop) and its scale."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from utils.backbones.resizing import FILTERS, resize

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNIT = ((0.0,) * 3, (1.0,) * 3)  # mean and standard deviation that leave [0, 1] as it is


@dataclass(frozen=True)
class TensorFrame:
    """What PIL makes of a picture, made where the pixels lie: uint8 (n, channels, h, w) → uint8
    (n, channels, *crop). The shorter side becomes `resize`, or both do; then the middle is cut out.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    interpolation: str

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the size before the crop."""
        if not isinstance(self.resize, int):
            return self.resize
        if width <= height:
            return int(self.resize * height / width), self.resize
        return self.resize, int(self.resize * width / height)

    def __call__(self, images: Tensor) -> Tensor:
        from torchvision.transforms.functional import center_crop

        height, width = self.resized(*images.shape[-2:])
        return center_crop(resize(images, height, width, self.interpolation), self.crop)


def tensor_frame(steps: Sequence[Callable], size: tuple[int, int]) -> TensorFrame | None:
    """Return the frame that does the same as these transforms of PIL images, by which the network sees
    `size`; None for those that only PIL can do.
    """
    from torchvision import transforms

    first, *others = steps
    if type(first) is not transforms.Resize or first.max_size is not None:
        return None
    interpolation = getattr(first.interpolation, "value", None)
    if interpolation not in FILTERS:
        return None
    sides, size = first.size, tuple(size)
    if not isinstance(sides, int):
        sides = tuple(sides) if len(sides) == 2 else sides[0]
    crops = [step for step in others if type(step) is transforms.CenterCrop]
    if not all(step in crops or _keeps_pixels(step) for step in others):
        return None
    if any(tuple(crop.size) != size for crop in crops) or not (crops or sides == size):
        return None
    return TensorFrame(sides, size, interpolation)


def _keeps_pixels(step: Callable) -> bool:
    """Tell whether a transform leaves the pixels of an RGB image as they are."""
    names = {"PILToTensor", "MaybePILToTensor", "MaybeConvertMode", "_convert_to_rgb"}
    return getattr(step, "__name__", type(step).__name__) in names


@dataclass(frozen=True)
class ImageTransform:
    """`frame`: an RGB image → uint8 (channels, h, w), one by one on the CPU, by PIL; it is spared where
    images are stored in memory as the network sees them. `on_tensors` does it on any device, in batches
    of pictures of one size; None where only PIL can. Calling it: a uint8 batch → float32
    (x / 255 − mean) / std on its device.

    `size` is the height and width that the network sees. `about` says all that in values that JSON can
    hold: it keys the feature cache.
    """

    frame: Callable[[Image.Image], Tensor]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: Mapping
    on_tensors: TensorFrame | None = None

    def takes_as_stored(self, images: object) -> bool:
        """Tell whether images are grey and of the size that a grey network sees."""
        return len(self.mean) == 1 and isinstance(images, Tensor) and images.shape[1:] == (1, *self.size)

    def __call__(self, images: Tensor) -> Tensor:
        images = images.float() / 255
        shape = (1, -1, 1, 1)
        mean, std = (images.new_tensor(v).reshape(shape) for v in (self.mean, self.std))
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def grey_frame(image: Image.Image) -> Tensor:
    """Take the square in the middle as grey: (1, 28, 28)."""
    whole = ImageOps.fit(image.convert("L"), (28, 28), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(whole))[None]


GREY = ImageTransform(
    frame=grey_frame, size=(28, 28), mean=(0.0,), std=(1.0,), about={"input": "28×28 grey in [0, 1]"}
)


def resize_and_crop(
    resize: int,
    crop: int,
    interpolation: str,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> ImageTransform:
    """Resize the shorter side to `resize` and take the square of `crop` in the middle, by torchvision's
    transforms.
    """
    from torchvision import transforms  # two seconds, spared to every run without images

    mode = transforms.InterpolationMode(interpolation)
    steps = [transforms.Resize(resize, mode), transforms.CenterCrop(crop), transforms.PILToTensor()]
    about = {"resize": resize, "crop": crop, "interpolation": interpolation, "mean": mean, "std": std}
    frame, size = transforms.Compose(steps), (crop, crop)
    return ImageTransform(
        frame=frame, size=size, mean=mean, std=std, about=about, on_tensors=tensor_frame(steps, size)
    )
