"""Shared by the tests: no network, no Debian data, one source network trained for a second."""

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

import train_source_model
import transfer_source_to_target
from tests.faults.tasks import arrays, places
from utils.datasets import grey

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


@pytest.fixture
def sketches(request, monkeypatch):
    """For tests that are not about figures: they are composed, and their files written, but the pixels,
    half of the time that short runs take, are left out. Where a whole file asks for it, a test marked
    `figures` has them whole.
    """
    if request.node.get_closest_marker("figures"):
        return

    def write(figure, path, **_):
        Path(path).write_text("not drawn")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", write)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Gives the folder of a name, which a function has filled in this process or in another one of this
    run of the tests; copy it before writing.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, full = shared / name, shared / f"{name}.full"
        with FileLock(shared / f"{name}.lock"):
            if not full.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                full.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def trained(made_once) -> Path:
    """A folder in which stage 1 has been run on MNIST for one epoch, with the features of both
    embedded data sets and the heads of MNIST → FMNIST in its caches; copy it before writing.
    """
    return made_once("trained", train)


def train(folder: Path) -> None:
    train_source_model.main(["--SRC", "MNIST", "--DATA", "embedded", "--EPOCHS", "1", *places(folder)])
    pair = ["--SRC", "MNIST", "--TRG", "FMNIST", "--DATA", "embedded", *places(folder)]
    aside = ["--RESULTS_DIR", str(folder / "aside")]
    parts = ["--ANALYSIS", "relation", "published", "--CONTROLS", "1", "--ITERATIONS", "1"]
    transfer_source_to_target.main([*pair, *parts, *aside])
    shutil.rmtree(folder / "aside")


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
