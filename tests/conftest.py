"""Shared by the tests: no network, no Debian data, one source network trained for a second."""

import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

import train_source_model
from utils import datasets
from utils.backbones import load_backbone
from utils.datasets import load_dataset
from utils.features import TaskRequest, task_of_dataset

requires_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="compares the GPU's results with the CPU's: no GPU here"
)


@pytest.fixture(autouse=True)
def isolated(monkeypatch):
    """Downloads fail at once, and what this machine has installed is not seen."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", Path("/nonexistent"))


def places(folder: Path) -> list[str]:
    """Flags that keep a run inside a folder; no data lies there."""
    return [
        *("--DATA_DIR", str(folder / "data")),
        *("--CHECKPOINT_DIR", str(folder / "checkpoints")),
        *("--RESULTS_DIR", str(folder / "results")),
        *("--DEVICE", "cpu"),
    ]


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder in which stage 1 has been run on MNIST for one epoch, with the features of both
    embedded data sets in its cache; copy it before writing.
    """
    folder = tmp_path_factory.mktemp("trained")
    argv = ["--SRC", "MNIST", "--DATA", "embedded", "--EPOCHS", "1", *places(folder)]
    train_source_model.main(argv)
    (network,) = (folder / "checkpoints" / "networks").iterdir()
    backbone = load_backbone("lenet", torch.device("cpu"), weights=network)
    request = TaskRequest(folder / "data", folder / "checkpoints" / "features")
    for name in ("MNIST", "FMNIST"):
        task_of_dataset(load_dataset(name, "embedded"), backbone, request)
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def feature_files(tmp_path) -> tuple[str, str]:
    """Two feature files of three well separated classes in five dimensions, as `features:` names."""
    rng = np.random.default_rng(0)
    names = []
    for name, shift in (("source", 0.0), ("target", 1.0)):
        arrays = {}
        for split, count in (("train", 90), ("test", 45)):
            labels = np.arange(count) % 3
            centres = 4 * np.eye(5)[:3] + shift
            arrays[f"x_{split}"] = centres[labels] + rng.normal(size=(count, 5))
            arrays[f"y_{split}"] = labels
        np.savez(tmp_path / f"{name}.npz", **arrays)
        names.append(f"features:{tmp_path / f'{name}.npz'}")
    return tuple(names)
