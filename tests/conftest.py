"""Shared by the tests: no network, no Debian data, one source network trained for a second."""

import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import train_source_model
from tests.faults.tasks import arrays, places
from utils.backbones import load_backbone
from utils.datasets import grey, load_dataset
from utils.features import TaskRequest, task_of_dataset

# Seconds for what takes a few, on a machine that may be busy: only what hangs takes so long.
PATIENCE = 1200


@contextmanager
def within_patience(process: subprocess.Popen) -> Iterator[None]:
    net = threading.Timer(PATIENCE, process.kill)
    net.start()
    try:
        yield
    finally:
        net.cancel()


def lines_until(process: subprocess.Popen, start: str, count: int) -> list[str]:
    """What a process says on stderr up to the `count`-th line that starts so: it is told what has
    happened, where a look at the files sees what is about to.
    """
    said = []
    with within_patience(process):
        while sum(line.startswith(start) for line in said) < count:
            line = process.stderr.readline()
            assert line, f"it ended before: {said}"
            said.append(line)
    return said


def the_rest(process: subprocess.Popen) -> tuple[str, str]:
    """(stdout, what is left of stderr) once it and all that it started have ended."""
    with within_patience(process):
        told = process.stderr.read()
        shown = process.stdout.read()
        process.wait()
    return shown, told


requires_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="compares the GPU's results with the CPU's: no GPU here"
)


@pytest.fixture(autouse=True)
def isolated(monkeypatch):
    """Downloads fail at once, and what this machine has installed is not seen."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(grey, "DEBIAN_FASHION_MNIST", Path("/nonexistent"))
    monkeypatch.setenv("TORCH_HOME", "/nonexistent")
    for module in ("caches", "pretrained"):
        monkeypatch.setattr(f"utils.backbones.{module}.CLIP_CACHE", Path("/nonexistent"))


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
        np.savez(tmp_path / f"{name}.npz", **arrays(rng, shift))
        names.append(f"features:{tmp_path / f'{name}.npz'}")
    return tuple(names)
