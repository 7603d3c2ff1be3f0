"""The network whose features a run analyses, found by the name of its source.

Stages 2 and 3 both start here. A `features:` source has no network: its features were made elsewhere.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from utils.backbones import Backbone, load_backbone
from utils.errors import InputError
from utils.features import Task, is_feature_file, task_label, task_of_feature_file
from utils.storage import REPOSITORY, find_network


@dataclass(frozen=True)
class SourceNetwork:
    """`model` names it in paths and results; `origin` is that of the data it was trained on; a
    target must have `feature_dim` features too.
    """

    model: str
    backbone: Backbone | None
    origin: str
    feature_dim: int
    weights_digest: str | None


def load_source_network(
    source: str,
    model: str,
    *,
    checkpoints: Path,
    origin: str,
    procedure: str,
    seed: int,
    device: torch.device,
) -> SourceNetwork:
    """Loads what stage 1 left. Raises InputError with the command that trains a missing network."""
    if is_feature_file(source):
        return SourceNetwork("features", None, origin, task_of_feature_file(source).feature_dim, None)
    found = find_network(checkpoints, model, source, origin, procedure, seed)
    if found is None:
        command = f"python3 train_source_model.py --SRC {source}"
        for flag, value, default in (
            ("DATA", origin, "auto"), ("PROCEDURE", procedure, "improved"), ("SEED", seed, 0),
            ("CHECKPOINT_DIR", checkpoints, REPOSITORY / "checkpoints"),
        ):  # fmt: skip
            command += f" --{flag} {value}" if value != default else ""
        raise InputError(
            f"no {procedure} {model} trained on {source} (seed {seed}, data {origin}) in "
            f"{checkpoints / 'networks'}: train it with `{command}`"
        )
    path, trained_on = found
    backbone = load_backbone(model, path, device)
    return SourceNetwork(model, backbone, trained_on, backbone.feature_dim, backbone.weights_digest)


def check_feature_dim(source: str, network: SourceNetwork, target: Task) -> None:
    """Raises InputError unless the target's features can come from the source's backbone."""
    if network.feature_dim != target.feature_dim:
        raise InputError(
            f"{task_label(source)} has {network.feature_dim} features and {target.name} "
            f"{target.feature_dim}: both must come from the same backbone"
        )
