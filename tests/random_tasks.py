"""Random tasks, heads and transforms for the property tests."""

import torch
from torch import Tensor

from utils.features import Features
from utils.linear_head import LinearHead
from utils.published import TaskTransform


def random_features(count: int, dim: int, num_classes: int, generator: torch.Generator) -> Features:
    """Gaussian features; every class has at least one sample."""
    y = torch.cat(
        [
            torch.arange(num_classes),
            torch.randint(num_classes, (count - num_classes,), generator=generator),
        ]
    )
    return Features(torch.randn(count, dim, generator=generator), y)


def random_head(num_classes: int, dim: int, scale: float, generator: torch.Generator) -> LinearHead:
    return LinearHead(
        scale * torch.randn(num_classes, dim, generator=generator),
        torch.randn(num_classes, generator=generator),
    )


def random_transform(
    dim: int, num_sources: int, num_targets: int, sharpness: float, generator: torch.Generator
) -> TaskTransform:
    """Nothing in it is consistent: A, A_inverse and b are unrelated; every target class is reached."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    logits = noise(num_targets, num_sources).double()
    logits[torch.arange(num_sources) % num_targets, torch.arange(num_sources)] += sharpness
    return TaskTransform(
        A=noise(dim, dim),
        b=noise(dim),
        A_inverse=noise(dim, dim),
        B=torch.softmax(logits, 0),
        D=torch.softmax(noise(num_sources).double(), 0),
        history={},
    )
