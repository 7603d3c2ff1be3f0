"""The functions by which the project is used from Python: documented, and their examples run."""

import doctest
import inspect
import re
import sys

import pytest

from utils.backbones import load_backbone, own_classifier
from utils.certificate import learn_certificate
from utils.datasets import load_dataset
from utils.features import extract_features
from utils.learning_curve import learning_curve
from utils.linear_head import fit_linear_head
from utils.names import REPOSITORY
from utils.near_copies import near_copies
from utils.published import learn_task_transform, transfer_bound
from utils.ranking import decide, rank
from utils.relation import relate
from utils.sweep import run_jobs
from utils.transport import solve_transport

PUBLIC = (
    load_dataset,
    load_backbone,
    own_classifier,
    extract_features,
    fit_linear_head,
    solve_transport,
    relate,
    learn_task_transform,
    learn_certificate,
    transfer_bound,
    learning_curve,
    near_copies,
    decide,
    rank,
    run_jobs,
)
each_function = pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)


@each_function
def test_parameters_returns_errors_and_sources_are_told(function):
    text = inspect.getdoc(function)
    for part in ("Args:", "Returns:", "Raises:", "Source:", "Example:"):
        assert part in text
    told = text.partition("Args:")[2].partition("Returns:")[0]
    for name in inspect.signature(function).parameters:
        assert f"\n    {name}: " in told


@each_function
def test_the_example_gives_what_it_says(function):
    module = sys.modules[function.__module__]
    (example,) = doctest.DocTestFinder(recurse=False).find(
        function, function.__name__, globs=vars(module)
    )
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.slow
@pytest.mark.figures
def test_the_page_about_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs" / "python.md").read_text()
    names: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), names)
    assert names["ranking"].decision.pick == "efficientnet_lite0@64"
    assert names["found"].target_loss <= names["found"].bound_certified
    assert "published bound" in capsys.readouterr().out and (tmp_path / "shares.png").exists()
