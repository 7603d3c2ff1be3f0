"""Untidy data: folders, files, tables, labels and features as real projects have them.

Each case is a known task in another dress. What the command finds must equal what it finds in the tidy
task, or one line must say what is wrong: the right answer is known by construction.
"""

import math
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tests.faults.kills import Trial
from tests.faults.tasks import Ended, arrays, places, run_here
from tests.faults.untidy_cases import OF_FEATURES, OF_FOLDER, STAGE_2, Untidy, all_cases, write_folder
from utils.storage import finished_results, read_json

COMPARED = ("train_loss", "test_loss", "test_accuracy")
CLOSE = 1e-5  # of losses whose sums have another order


def untidy(data: Path, work: Path, count: int, seed: int) -> Iterator[Trial]:
    """At most `count` of the cases, in an order that the seed draws."""
    shutil.rmtree(work, ignore_errors=True)
    write_folder(work / "tidy")
    np.savez(work / "features.npz", **arrays(np.random.default_rng(3)))
    of_itself = {"made}/own": "tidy}", "made}/x.npz": "features}"}
    twins = {}
    for arguments in (OF_FOLDER, OF_FEATURES):
        shutil.rmtree(work / "place", ignore_errors=True)
        own = arguments
        for text, instead in of_itself.items():
            own = own.replace(text, instead)
        ended = _run(STAGE_2, own, work, work)
        twins[arguments] = _record(work)
        if ended.status or not twins[arguments]:
            raise RuntimeError(f"the tidy task fails: {ended.err}")
    cases = all_cases()
    random.Random(seed).shuffle(cases)
    for case in cases[:count]:
        made = work / "made"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        shutil.rmtree(work / "place", ignore_errors=True)
        if case.first:
            case.first(made)
            _run(case.script, case.arguments, work, made)
            shutil.rmtree(made)
            made.mkdir()
        case.make(made)
        twin = next((t for start, t in twins.items() if case.arguments.startswith(start)), None)
        ended = _run(case.script, case.arguments, work, made)
        problem = _what_fell(case, ended, work, twin)
        yield Trial(f"untidy {case.kind}", case.what, problem)


def _run(script: str, arguments: str, work: Path, made: Path) -> Ended:
    about = {"tidy": work / "tidy", "features": work / "features.npz", "made": made}
    return run_here(
        script, [*places(work / "place"), *(word.format(**about) for word in arguments.split())]
    )


def _record(work: Path) -> dict | None:
    """Of the one result, or the ranking, that a command left."""
    for path in (work / "place" / "results").rglob("ranking.json"):
        return read_json(path)
    records, _ = finished_results(work / "place" / "results")
    return next(iter(records.values()), None)


def _what_fell(case: Untidy, ended: Ended, work: Path, twin: Mapping | None) -> str:
    said = " ".join(f"{ended.err} {ended.out}".split())
    if absent := [text for text in case.says if text.lower() not in said.lower()]:
        return f"does not say {absent}: {said[-600:]}"
    record = _record(work)
    if case.right == "refused":
        held = ended.status == 2 and ended.line and record is None
        return "" if held else f"status {ended.status}: {said[-600:]}"
    if ended.status != 0 or record is None:
        return f"status {ended.status}: {said[-600:]}"
    wanted = dict(case.values or {})
    if case.right == "tidy":
        wanted |= {name: twin[name] for name in COMPARED}
        for split in ("train", "test"):
            count = record["data"]["target"][split]
            if count != twin["data"]["target"][split]:
                return f"{count} {split} images; {said[-600:]}"
    for name, value in wanted.items():
        if _at(record, name) is None or not math.isclose(
            _at(record, name), value, rel_tol=CLOSE, abs_tol=CLOSE
        ):
            return f"{name} is {_at(record, name)}, not {value}; {said[-600:]}"
    return ""


def _at(record: Mapping, name: str) -> float | None:
    """The number behind a/b/c; None where there is none."""
    for part in name.split("/"):
        record = (record or {}).get(part)
    return record
