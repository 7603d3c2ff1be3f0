"""What is loaded, and what importing a module changes."""

import json
import subprocess
import sys

import pytest

from utils.names import PRETRAINED_NAMES, REPOSITORY

SCRIPTS = (
    "train_source_model",
    "finetune_source_model_on_target_task",
    "transfer_source_to_target",
    "sweep",
    "rank_models",
    "report",
)
# What takes a tenth of a second or more to import.
HEAVY = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "jinja2")
LOADED = "print(json.dumps([name for name in {names!r} if name in sys.modules]))"


def python(code: str, *argv: str, **options) -> str:
    """What a fresh process prints last."""
    command = [
        sys.executable,
        "-c",
        f"import json, sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n{code}",
    ]
    done = subprocess.run([*command, *argv], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_a_bad_flag_load_no_heavy_library(script):
    code = f"""
import {script} as script
for argv in (["--help"], ["--NO_SUCH_FLAG", "1"]):
    try:
        script.main(argv)
    except SystemExit as end:
        assert end.code == (0 if argv == ["--help"] else 2), end.code
{LOADED.format(names=HEAVY)}
"""
    assert json.loads(python(code)) == []


def test_a_stored_result_draws_and_clusters_nothing(trained):
    """Of the libraries only what its data and its record need are loaded."""
    names = ("sklearn", "matplotlib", "scipy.stats", "jinja2", "timm", "ot")
    script, argv = trained
    code = f"import {script} as script\nscript.main(sys.argv[1:])\n{LOADED.format(names=names)}"
    assert json.loads(python(code, *argv)) == []


@pytest.fixture
def trained(tmp_path) -> tuple[str, list[str]]:
    """A command whose result is there."""
    import train_source_model

    places = [
        "--CHECKPOINT_DIR",
        str(tmp_path / "checkpoints"),
        "--RESULTS_DIR",
        str(tmp_path / "results"),
    ]
    argv = ["--SRC", "MNIST", "--DATA", "embedded", "--EPOCHS", "1", *places]
    train_source_model.main(argv)
    return "train_source_model", argv


def test_importing_every_module_changes_nothing_in_the_process():
    """Warnings, the environment, signals and the settings of libraries stay as they are."""
    code = """
import importlib, locale, os, pkgutil, signal, warnings
import matplotlib, numpy, torch, torchvision, sklearn, timm, PIL.Image, PIL.ImageFile
from scipy import stats
import sklearn.cluster
import utils

def state():
    return {
        "warnings": [str(one) for one in warnings.filters],
        "shown by": repr(warnings.showwarning),
        "environment": dict(os.environ),
        "signals": [repr(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM)],
        "locale": locale.setlocale(locale.LC_ALL),
        "matplotlib": [
            matplotlib.get_backend(auto_select=False),  # which to ask for would choose one
            {name: str(matplotlib.rcParams[name]) for name in matplotlib.rcParams if name != "backend"},
        ],
        "numpy": [numpy.geterr(), numpy.get_printoptions()],
        "torch": [
            str(torch.get_default_dtype()), torch.get_num_threads(), torch.is_grad_enabled(),
            torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(), torch.initial_seed(),
        ],
        "pillow": [PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES],
        "recursion": sys.getrecursionlimit(),
    }

before = state()
names = [found.name for found in pkgutil.walk_packages(utils.__path__, "utils.")]
for name in names:
    importlib.import_module(name)
after = state()
print(json.dumps([len(names), [key for key in before if before[key] != after[key]]]))
"""
    count, changed = json.loads(python(code))
    assert count > 60 and changed == []


def test_the_names_that_flags_offer_are_those_that_there_are():
    from utils.backbones.registry import PRETRAINED

    assert tuple(PRETRAINED) == PRETRAINED_NAMES
