"""What a reader of a folder says of it, in one line that every run shows."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from utils.datasets.content import Content
from utils.datasets.tree import Folder, describe_left_out, describe_names


@dataclass
class Notes:
    """What a reader of a folder says of it: where it looked, the splits, what it did not use."""

    left_out: Counter[str] = field(default_factory=Counter)
    aside: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    splits: str = ""

    def loose(self, folder: Folder) -> None:
        """Note what lies beside the folders that are read."""
        self.left_out.update(folder.left_out)
        if folder.images:
            self.left_out["beside the folders"] += len(folder.images)

    def line(self, folder: Path, content: Content, labelled: bool) -> str:
        """Say it as `photos: 3 classes, 48 + 24 images (train/ + test/); left out: 9 .heic`."""
        what = f"{len(content.class_names)} classes" if labelled else "no labels"
        sizes = f"{len(content.train)} + {len(content.test)} images"
        parts = [
            f"{folder.resolve().name}: {what}, {sizes}" + (f" ({self.splits})" if self.splits else "")
        ]
        parts += [f"read: {describe_names(self.read)}"] if self.read else []
        left_out = +self.left_out  # without what was taken back
        parts += [f"left out: {describe_left_out(left_out)}"] if left_out else []
        parts += [f"left aside: {describe_names(self.aside)}"] if self.aside else []
        return "; ".join(parts)
