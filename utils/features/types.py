"""What the analysis works on: features with labels, and a task of two splits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.datasets import is_labelled, select_groups
from utils.errors import InputError


@dataclass(frozen=True)
class Features:
    """x (n, d) float32 and labels y (n,) int64 in 0..K−1. `groups` (n,) int64: samples of one number
    belong together; None where they are independent.
    """

    x: Tensor
    y: Tensor
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "Features":
        groups = None if self.groups is None else self.groups.to(device)
        return Features(self.x.to(device), self.y.to(device), groups)

    def select(self, index: Tensor) -> "Features":
        """Return the samples `index`, or those of a mask."""
        return Features(self.x[index], self.y[index], select_groups(self.groups, index))


@dataclass(frozen=True)
class Task:
    """A classification task as the analysis sees it: features of both splits and their classes."""

    name: str
    train: Features
    test: Features
    num_classes: int
    class_names: tuple[str, ...]
    provenance: dict

    @property
    def labelled(self) -> bool:
        """Otherwise every label is NO_LABEL."""
        return is_labelled(self.train.y)

    @property
    def feature_dim(self) -> int:
        return self.train.x.shape[1]


def require_finite_features(what: str, split_name: str, x: Tensor) -> None:
    bad = ~torch.isfinite(x).all(1)
    if bad.any():
        kind = {"train": "training"}.get(split_name, split_name)
        raise InputError(
            f"{what}: {int(bad.sum())} of {len(x)} {kind} samples have NaN or infinite features "
            f"(first: sample {int(bad.nonzero()[0])})"
        )
