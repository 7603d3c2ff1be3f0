"""Messages name flags that the script at hand has."""

import ast
import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests.test_startup import SCRIPTS
from utils.names import REPOSITORY
from utils.options import StageParser

TRAIN, FINETUNE, TRANSFER, SWEEP, RANK, REPORT = SCRIPTS
STAGES_2_AND_3 = (FINETUNE, TRANSFER)
# A sweep hands a stage's flags on (--TRANSFER_FLAGS), and its messages with them.
COMMON = (TRAIN, FINETUNE, TRANSFER, RANK)
# Who can say it, where a module is not used, or a message is not reached, by all of COMMON.
SAID_BY = {
    ("utils/errors.py", "--BATCH_SIZE"): (TRAIN, FINETUNE, TRANSFER),
    ("utils/backbones/libraries.py", "--SRC"): (TRANSFER,),  # of --SRC head
    ("utils/backbones/weights.py", "--SRC"): (TRANSFER,),
    ("utils/backbones/registry.py", "--SRC"): (TRANSFER,),
    ("utils/backbones/registry.py", "--MOST_MODELS"): (RANK,),
    ("utils/backbones/pretrained.py", "--EPS"): (FINETUNE, TRANSFER, SWEEP, RANK),
    ("utils/datasets/registry.py", "--TARGET_CLASSES"): (TRANSFER,),
    ("utils/features/source_classes.py", "--SOURCE_CLASSES"): (TRANSFER,),
    ("utils/linear_head/penalty.py", "--PENALTY"): STAGES_2_AND_3,
    ("utils/options.py", "--PROCEDURE"): (TRAIN, FINETUNE, TRANSFER),
    ("utils/published/transform.py", None): (TRANSFER,),
    ("utils/procedures/settings.py", "--SETTING"): (TRANSFER,),
    ("utils/report/tables.py", None): (TRANSFER,),
    **{
        (f"utils/ranking/{module}.py", None): (RANK,)
        for module in ("advice", "candidates", "entries", "fine_tuning", "truth")
    },
    ("utils/sweep/engines.py", None): (SWEEP,),
    ("utils/stage.py", "--SRC"): (FINETUNE, TRANSFER, RANK),
    ("utils/stage.py", "--ROBUST"): STAGES_2_AND_3,
    ("utils/stage.py", "--EPS"): (FINETUNE, TRANSFER, RANK),
    ("utils/stage.py", "--SOURCE_CLASSES"): (TRANSFER,),
    ("utils/stage.py", "--TARGET_CLASSES"): (TRANSFER,),
    ("utils/storage/checkpoints.py", "--TRUST_CHECKPOINT"): (FINETUNE, TRANSFER, RANK),  # of weights
    ("report.py", "--OVERWRITE"): (TRAIN, FINETUNE, TRANSFER),  # of the commands that it lists
    # By words: values that are wrong were given with the flag; examples of other scripts' flags.
    ("utils/backbones/libraries.py", "--WEIGHTS has no effect"): STAGES_2_AND_3,
    ("utils/options.py", "--EPOCHS 5"): (TRAIN,),
    ("utils/options.py", "--BATCH_SIZE 500 --TAU 0.2"): (TRANSFER,),
    ("utils/options.py", "--TAU 0.2"): (FINETUNE,),
}
# Words that say which scripts are meant.
NAMED = {"stages 2 and 3": STAGES_2_AND_3, **{f"{name}.py": (name,) for name in SCRIPTS}}


def flags_of(script: str) -> set[str]:
    """The flags of a script's parser, in upper case."""
    parsers: list[StageParser] = []

    def note(parser: StageParser, *_) -> None:
        parsers.append(parser)
        raise StopIteration

    module = importlib.import_module(script)
    with mock.patch.object(StageParser, "parse_args", note), contextlib.suppress(StopIteration):
        module.parse_options(["--SRC", "x", "--TRG", "x"])
    return {flag for flag in parsers[0]._option_string_actions if flag.isupper()}


FLAGS = {script: flags_of(script) for script in SCRIPTS}


def texts(path: Path) -> Iterator[str]:
    """Each string of a module as one piece, values left out: no docstrings, and no flag's own help."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            aside.add(id(node.value))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").startswith(("add_", "flags_of")):
            aside |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.JoinedStr) and id(node) not in aside:
            yield "".join(part.value for part in node.values if isinstance(part, ast.Constant))
            aside |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in aside:
            yield node.value


def said(path: Path) -> Iterator[tuple[str, str]]:
    """(message, flag that it names)."""
    for text in texts(path):
        if " " in text:  # else it is a name, not a message
            for flag in re.findall(r"--[A-Z][A-Z_]+", text):
                yield text, flag


def who_says(module: str, text: str, flag: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    named = tuple(script for words, scripts in NAMED.items() if words in text for script in scripts)
    by_text = [
        scripts
        for (name, words), scripts in SAID_BY.items()
        if name == module and words and " " in words and words in text
    ]
    listed = SAID_BY.get((module, flag)) or SAID_BY.get((module, None))
    return named or next(iter(by_text), None) or listed or otherwise


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_scripts_own_messages(script):
    for text, flag in said(REPOSITORY / f"{script}.py"):
        names = who_says(f"{script}.py", text, flag, (script,))
        lacking = [name for name in names if flag not in FLAGS[name]]
        assert not lacking, f"{lacking} has no {flag}: {text}"


def test_messages_of_shared_modules():
    problems, seen = [], 0
    for path in sorted((REPOSITORY / "utils").rglob("*.py")):
        module = path.relative_to(REPOSITORY).as_posix()
        for text, flag in said(path):
            seen += 1
            lacking = [name for name in who_says(module, text, flag, COMMON) if flag not in FLAGS[name]]
            problems += [f"{module}: {', '.join(lacking)} has no {flag}: {text}"] if lacking else []
    assert seen > 30 and not problems, "\n".join(problems)
