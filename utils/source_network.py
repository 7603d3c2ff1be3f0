"""The network whose features a run analyses: pre-trained, or the one that stage 1 trained on the source.

Stages 2 and 3 both start here. A `features:` source has no network: its features were made elsewhere.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from utils.backbones import LENET, Backbone, load_backbone
from utils.datasets import folder_path, is_image_folder
from utils.distributed import main_process_first
from utils.errors import InputError
from utils.features import Task, is_feature_file, task_label, task_of_feature_file
from utils.storage import REPOSITORY, digest, find_network


@dataclass(frozen=True)
class SourceNetwork:
    """`model` names it in paths and results, `about` says what determines its features; `origin` is that
    of the source's data; a target must have `feature_dim` features too.
    """

    model: str
    backbone: Backbone | None
    origin: str
    feature_dim: int

    @property
    def about(self) -> dict | None:
        return self.backbone and self.backbone.about


def load_source_network(
    source: str | None,
    model: str,
    *,
    checkpoints: Path,
    origin: str,
    procedure: str,
    seed: int,
    device: torch.device,
    **pretrained,
) -> SourceNetwork:
    """Loads a pre-trained model (`pretrained`: what `load_backbone` takes), or the LeNet that stage 1
    left for this source. `source` None: there is none, and a LeNet cannot be. Raises InputError with the
    command that trains a missing network.
    """
    if source is not None and is_feature_file(source):
        return SourceNetwork("features", None, origin, task_of_feature_file(source).feature_dim)
    if model == LENET and source is None:
        raise InputError(f"{LENET} has no weights until stage 1 trains it on a source: give --SRC")
    if model == LENET:
        pretrained["weights"], origin = _trained_network(source, checkpoints, origin, procedure, seed)
    backbone = main_process_first(
        lambda: load_backbone(model, device, folder=checkpoints, seed=seed, **pretrained)
    )
    return SourceNetwork(backbone.name, backbone, origin, backbone.feature_dim)


def _trained_network(
    source: str, checkpoints: Path, origin: str, procedure: str, seed: int
) -> tuple[Path, str]:
    """The file that stage 1 left, and the origin of the data it was trained on."""
    wanted = network_origin(source, origin)
    found = find_network(checkpoints, LENET, task_label(source), wanted, procedure, seed)
    if found and wanted != origin:
        return found[0], origin
    if found is None:
        command = f"python3 train_source_model.py --SRC {source}"
        for flag, value, default in (
            ("DATA", origin, "auto"), ("PROCEDURE", procedure, "improved"), ("SEED", seed, 0),
            ("CHECKPOINT_DIR", checkpoints, REPOSITORY / "checkpoints"),
        ):  # fmt: skip
            command += f" --{flag} {value}" if value != default else ""
        raise InputError(
            f"no {procedure} {LENET} trained on {source} (seed {seed}, data {origin}) in "
            f"{checkpoints / 'networks'}: train it with `{command}`"
        )
    return found


def network_origin(source: str, origin: str) -> str:
    """Of the training data, as it stands in the name of a network's file. Folders may share a name: the
    whole path tells them apart.
    """
    if not is_image_folder(source):
        return origin
    return f"folder-{digest(str(folder_path(source).resolve()))[:8]}"


def check_feature_dim(source: str, network: SourceNetwork, target: Task) -> None:
    """Raises InputError unless the target's features can come from the source's backbone."""
    if network.feature_dim != target.feature_dim:
        raise InputError(
            f"{task_label(source)} has {network.feature_dim} features and {target.name} "
            f"{target.feature_dim}: both must come from the same backbone"
        )
