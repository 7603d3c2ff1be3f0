"""Standardising: each coordinate centred and scaled by its training split."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from utils.errors import InputError
from utils.features.types import Features, Task

FARTHEST = 1e9  # standard deviations from the mean at which losses still have a meaning


@dataclass(frozen=True)
class Standardiser:
    """x ↦ (x − mean) / scale per coordinate, fitted on a training split.

    A coordinate without variance is centred and left unscaled. With `floor` > 0 so is one whose
    deviation is at most `floor` times the median deviation: a ReLU unit that fires on one training
    sample in 60,000 would otherwise turn a single test sample into an outlier of thousands.
    """

    mean: Tensor
    scale: Tensor

    @staticmethod
    def fit(x: Tensor, floor: float = 0.0) -> "Standardiser":
        deviation, mean = torch.std_mean(x.double(), dim=0, correction=0)
        # A constant float32 coordinate has a deviation of rounding size, not exactly zero.
        unscaled = deviation <= 1e-7 * mean.abs()
        if not unscaled.all():
            unscaled |= deviation <= floor * deviation[~unscaled].median()
        deviation[unscaled] = 1.0
        return Standardiser(mean.float(), deviation.float())

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale

    def scaled(self, split: Features) -> Features:
        return replace(split, x=self(split.x))


def standardise(task: Task, device: torch.device, floor: float = 0.0) -> tuple[Features, Features]:
    """Standardise (train, test) of a task by its own training split, on the device."""
    scaler = Standardiser.fit(task.train.x, floor)
    train, test = (scaler.scaled(split).to(device) for split in (task.train, task.test))
    reach = test.x.abs().max().item()
    if not reach < FARTHEST:
        raise InputError(
            f"{task.name}: a test sample lies {reach:.0e} standard deviations from the training ones: "
            "the two splits are not of one network"
        )
    return train, test
