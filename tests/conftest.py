"""Shared by the tests: no network, no Debian data, one source network trained for a second."""

import gc
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

import train_source_model
import transfer_source_to_target
from tests.faults.tasks import arrays, places
from utils.datasets import grey
from utils.procedures import CertificateSettings, settings_for

requires_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="compares the GPU's results with the CPU's: no GPU here"
)


def pytest_collection_modifyitems(items):
    """The long ones first, so that processes which share the tests end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """The million objects of imported libraries stay: no garbage collection looks at them again."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(autouse=True)
def sketches(request, monkeypatch):
    """Figures are composed and their files written, but in tests that are not about them, those that are
    not marked `figures`, without pixels: these are half of the time that short runs take.
    """
    if not request.node.get_closest_marker("figures"):
        sketch_figures(monkeypatch)


def sketch_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(figure, path, **_):
        Path(path).write_text("not drawn")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", write)


@pytest.fixture
def quick_certificates(monkeypatch):
    """A ranking learns five of them a candidate; how good they are, test_certificate.py asks."""
    quick = CertificateSettings(steps=20, matchings=1, trial_steps=5, points_per_class=30)
    monkeypatch.setattr(
        "utils.ranking.candidates.settings_for",
        lambda *names: replace(settings_for(*names), certificate=quick),
    )


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Gives the folder of a name, which a function has filled in this process or in another one of this
    run of the tests, with sketches of figures; copy it before writing.
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
                with pytest.MonkeyPatch.context() as patched:
                    sketch_figures(patched)
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
    return write_feature_files(tmp_path)


def write_feature_files(folder: Path) -> tuple[str, str]:
    """Two feature files of three well separated classes in five dimensions, as `features:` names."""
    rng = np.random.default_rng(0)
    names = []
    for name, shift in (("source", 0.0), ("target", 1.0)):
        np.savez(folder / f"{name}.npz", **arrays(rng, shift))
        names.append(f"features:{folder / f'{name}.npz'}")
    return tuple(names)
