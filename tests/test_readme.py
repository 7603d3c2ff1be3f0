"""Every command of the README runs, on a small budget and in a temporary folder."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

import finetune_source_model_on_target_task
import rank_models
import scales
import sweep
import train_source_model
import transfer_source_to_target
from tests.conftest import places
from utils.names import REPOSITORY
from utils.ranking import PREDICTED
from utils.report import HOW_WELL_ROWS, RELATION_ROWS
from utils.sweep import plan_jobs

README = (REPOSITORY / "README.md").read_text()
STAGES = {
    "train_source_model.py": (train_source_model, ["--EPOCHS", "1"]),
    "finetune_source_model_on_target_task.py": (finetune_source_model_on_target_task, []),
    "transfer_source_to_target.py": (
        transfer_source_to_target,
        ["--ITERATIONS", "3", "--CERTIFICATE_STEPS", "3", "--MATCHINGS", "1"],
    ),
}
BLOCKS = re.findall(r"```\w*\n(.*?)```", README, flags=re.DOTALL)
STAGE_COMMANDS = [
    shlex.split(line) for block in BLOCKS for line in block.splitlines() if line.startswith("python3 ")
]


def test_the_commands_of_the_stages(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("A", "B"):
        x, y = rng.normal(size=(600, 5)), np.arange(600) % 3
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:60], y_test=y[:60])
    assert len(STAGE_COMMANDS) >= 5
    # Those of pre-trained models need other data: tests/test_large_scale.py runs them.
    run = [words for words in STAGE_COMMANDS if words[1] in STAGES and "--model" not in words]
    assert {words[1] for words in run} == set(STAGES)
    for _, script, *argv in run:
        stage, budget = STAGES[script]
        argv = [word.replace("features:", f"features:{tmp_path}/") for word in argv]
        stage.main([*argv, "--DATA", "embedded", *budget, *places(tmp_path)])
        assert "result" in capsys.readouterr().out or script == "train_source_model.py"
    lines = (tmp_path / "results" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(run)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z-]+)", README)) - {"it"}))
def test_make_knows_its_targets(target):
    subprocess.run(["make", "-n", target], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def test_make_run_runs_the_readmes_commands():
    recipe = subprocess.run(
        ["make", "-n", "-o", ".venv/requirements.stamp", "run"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for words in [words for words in STAGE_COMMANDS if "--model" not in words][:3]:
        assert " ".join(words[1:]) in recipe


def test_the_page_of_settings_is_what_the_fields_say():
    """`python3 scales.py > docs/settings.md` makes it anew."""
    assert (REPOSITORY / "docs" / "settings.md").read_text() == scales.settings_page()


PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@each_page
def test_links_lead_somewhere(page):
    for path, _, heading in re.findall(r"\]\(([^)#]*)(#([^)]+))?\)", page.read_text()):
        if not path.startswith("https://"):  # there is no network in tests
            target = page.parent / path if path else page
            assert target.exists(), path
            if heading:
                headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
                assert heading in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


@each_page
def test_the_commands_of_the_pages_are_understood(page):
    scripts = {
        f"{script.__name__}.py": script for script in (*sweep.STAGES.values(), sweep, rank_models)
    }
    for line in re.findall(r"^(?:    )?python3 (\w+\.py .+)$", page.read_text(), flags=re.MULTILINE):
        name, *argv = shlex.split(line, comments=True)
        if name in scripts:
            scripts[name].parse_options(argv)


def test_the_readme_is_short():
    assert len(README.split()) < 1500


def test_what_the_readme_shows_is_what_is_printed():
    """Names and explanations of the rows of stage 3, the columns of a ranking."""
    stage_3, ranking = (block for block in BLOCKS if "python3" not in block)
    rows = [line.split(maxsplit=1) for line in stage_3.splitlines() if "  " in line.strip()]
    meanings = {**HOW_WELL_ROWS, **RELATION_ROWS}
    rows = [(name, rest) for name, rest in rows if name in meanings]
    assert len(rows) >= 4 and all(rest.endswith(meanings[name]) for name, rest in rows)
    assert ranking.startswith("take ") and PREDICTED in ranking and "best in" in ranking


@pytest.mark.parametrize("script", ["sweep.py", "rank_models.py"])
def test_the_commands_over_many_runs_are_understood(script):
    """They take minutes: their own tests run them on tiny tasks. Here every stage reads its flags."""
    commands = [words for words in STAGE_COMMANDS if words[1] == script]
    assert commands
    for _, _, *argv in commands:
        options = {"sweep.py": sweep, "rank_models.py": rank_models}[script].parse_options(argv)
        if script == "sweep.py":
            assert len(plan_jobs(options, sweep.STAGES)) >= 17
        else:
            assert len(rank_models.comparison_of(options).entries) > 5


def design_page() -> str:
    return (REPOSITORY / "docs" / "design.md").read_text()


def layers() -> dict[str, list[str]]:
    """Packages and single modules of utils, each with its modules, in the order of docs/design.md."""
    lines = design_page().splitlines()
    rows = [line.split("|")[1:3] for line in lines if line.startswith("| `")]
    return {re.findall(r"`(\w+)`", name)[0]: re.findall(r"`(\w+)`", modules) for name, modules in rows}


def imported_modules(path: Path) -> set[tuple[str, ...]]:
    """What a file of utils imports of utils, wherever it does: (package, module) or (module,)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{name.name}" for name in node.names]
            names = inside if node.module == "utils" else [node.module]
        else:
            continue
        found |= {tuple(name.split(".")[1:]) for name in names if name.startswith("utils.")}
    return found


UTILS = REPOSITORY / "utils"


def test_the_table_of_modules_is_complete():
    packages = {path.name for path in UTILS.iterdir() if (path / "__init__.py").exists()}
    modules = {path.stem for path in UTILS.glob("[a-z]*.py")}
    assert sorted(layers()) == sorted(packages | modules)
    for package in packages:
        of_package = [path.stem for path in (UTILS / package).glob("[a-z]*.py")]
        assert sorted(layers()[package]) == sorted(of_package), package


@pytest.mark.parametrize("path", sorted(UTILS.rglob("[a-z]*.py")), ids=lambda path: path.stem)
def test_nothing_imports_upwards(path):
    order, (layer, *module) = list(layers()), path.relative_to(UTILS).with_suffix("").parts
    for other, *other_module in imported_modules(path):
        if other != layer:
            assert order.index(other) < order.index(layer), f"{path}: {other}"
            assert not other_module, (
                f"{path} imports {other_module} of {other}, which {other} does not name for others"
            )
        else:
            modules = layers()[layer]
            assert other_module and modules.index(other_module[0]) < modules.index(module[0]), path


def test_the_diffs_of_the_design_apply():
    """Each hunk's unchanged and removed lines stand in the file as they are, once."""
    blocks = re.findall(r"```diff\n--- a/(\S+)\n(.*?)```", design_page(), re.DOTALL)
    assert len(blocks) == 3
    for name, block in blocks:
        text = (REPOSITORY / name).read_text()
        _, *hunks = re.split(r"^@@ -\d+,(\d+) \+\d+,(\d+) @@.*\n", block, flags=re.MULTILINE)
        for old, new, hunk in zip(hunks[::3], hunks[1::3], hunks[2::3], strict=True):
            lines = hunk.splitlines(True)
            before = [line[1:] for line in lines if line[0] in " -"]
            after = [line[1:] for line in lines if line[0] in " +"]
            assert (len(before), len(after)) == (int(old), int(new)), f"{name}:\n{hunk}"
            assert text.count("".join(before)) == 1, f"{name}:\n{hunk}"


def test_nothing_below_knows_the_scripts():
    """Neither by import nor by a name that is imported at run time."""
    scripts = {path.stem for path in REPOSITORY.glob("*.py")}
    for path in UTILS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {name.name for name in node.names} | {getattr(node, "module", None)}
                assert not names & scripts, path
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in scripts, f"{path}: {node.value}"


@pytest.mark.parametrize("init", sorted(UTILS.glob("*/__init__.py")), ids=lambda init: init.parent.name)
def test_an_init_only_names_what_others_may_use(init):
    """A package's __init__ re-exports names of its own modules and does nothing else."""
    about, *imports = ast.parse(init.read_text()).body
    assert isinstance(about, ast.Expr)
    for node in imports:
        assert isinstance(node, ast.ImportFrom) and node.module.startswith(f"utils.{init.parent.name}.")
        assert not [name.name for name in node.names if name.name.startswith("_")]
