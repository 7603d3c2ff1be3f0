"""Results: a folder for each run, a record of each result, and what a record must hold."""

import contextlib
import glob
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from utils.device import describe_device
from utils.errors import InputError
from utils.names import REPOSITORY
from utils.storage.checkpoints import read_if_whole, warn_of_damage
from utils.storage.files import (
    UNREADABLE_JSON,
    clear_leftovers,
    file_digest,
    named,
    only_one,
    opened,
    read_json,
    require_regular,
    sealed,
    short_reason,
    staged,
    write_json,
)

# The numbers that a record of each stage holds (None where undefined). Of stage 3 they stand in two
# parts, of which one may be missing.
RECORDED = {"train": ("test_accuracy", "test_loss"), "finetune": ("test_accuracy", "test_loss")}
PARTS = {
    "relation": (
        "fine_tuned_accuracy",
        "fine_tuned_loss",
        "label_map_accuracy",
        "label_map_loss",
        "source_contribution",
        "source_contribution_p",
        "constant_prediction_loss",
    ),
    "certificate": (
        "fine_tuned_accuracy",
        "fine_tuned_loss",
        "target_accuracy",
        "target_loss",
        "bound_certified",
        "certified_source_loss",
        "certified_transport",
        "constant_prediction_loss",
    ),
    "published": (
        "target_accuracy",
        "target_loss",
        "constant_prediction_loss",
        "weighted_source_loss",
        "label_mismatch",
        "distribution_mismatch",
        "bound_published",
        "bound_certified",
    ),
}


# ------------------------------------------------------------------------- run folders and results
@dataclass(frozen=True)
class Run:
    """What a run is called: source and target as they stand in paths. Stage 1 has neither target nor
    setting, stage 2 no setting; `variant` says how a stage-3 run differs from the usual one.
    """

    stage: str
    source: str
    target: str | None
    model: str
    setting: str | None
    seed: int
    procedure: str
    variant: str | None = None

    def folder(self, results: Path) -> Path:
        """Return results/{stage}/{SRC}_to_{TRG}/{model}_{setting}_{variant}_seed{seed}, `_published`
        behind it for that procedure. What a run does not have falls away.
        """
        pair = self.source if self.target is None else f"{self.source}_to_{self.target}"
        procedure = "published" if self.procedure == "published" else None
        parts = [self.model, self.setting, self.variant, f"seed{self.seed}", procedure]
        return results / self.stage / pair / "_".join(part for part in parts if part)

    @property
    def names(self) -> dict:
        """As they stand in its record, whose configuration holds the procedure."""
        names = asdict(self)
        del names["procedure"]
        if self.stage != "transfer":
            del names["variant"]
        return names


def run_of(record: Mapping) -> Run:
    """Return the run that left a record. Raises LookupError for what is none."""
    names = (record[name] for name in ("stage", "source", "target", "model", "setting", "seed"))
    return Run(*names, record["config"]["procedure"], record.get("variant"))


def append_record(path: Path, record: Mapping) -> None:
    """Append one JSON line. Concurrent runs take turns: on a network's disk their writes would mix."""
    line = json.dumps(sealed(record), allow_nan=False) + "\n"
    with named(path), only_one(path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":  # a write that was cut off
            line = "\n" + line
        rest = line.encode()
        try:
            while rest:  # a disk that is nearly full takes a part
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def read_records(path: Path) -> tuple[list[dict], list[str]]:
    """Return (the records of a results.jsonl, what is wrong with the lines that are none). A run that
    was repeated has several lines: the last counts. Raises InputError where there is no such file.
    """
    try:
        require_regular(path)
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): run a stage first") from error
    records, damaged = {}, []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = opened(line)
            identity = _identity(record)
        except UNREADABLE_JSON as error:
            damaged.append(f"{path}, line {number} is no result ({short_reason(error)})")
            continue
        records.pop(identity, None)
        records[identity] = record
    return list(records.values()), damaged


def _identity(record: Mapping) -> Run:
    """Return what a run is named by. Raises LookupError, TypeError or AttributeError for what is no
    record of this version.
    """
    for about in record["data"].values():
        about["origin"]
    record["environment"].items()
    if not isinstance(record["seed"], int):
        raise TypeError("its seed is no number")
    if record["stage"] == "transfer":
        found = {part: record.get(part) for part in PARTS}  # earlier versions knew no relation
        parts = [(found[part], names) for part, names in PARTS.items() if found[part] is not None]
    else:
        parts = [(record, RECORDED[record["stage"]])]
    for part, names in parts:
        for name in names:
            if not isinstance(part[name], float | None):
                raise TypeError(f"{name} is no number")
    return run_of(record)


def read_result(folder: Path) -> dict | None:
    """Read the result.json of a run folder, or None where there is none that is whole."""
    return read_if_whole(folder / RESULT, _read_record, "it is left out")


def _read_record(path: Path) -> dict:
    """Read a record. Raise InputError for one that is damaged."""
    record = read_json(path)
    try:
        _identity(record)
    except UNREADABLE_JSON as error:
        raise InputError(f"{path} is no result ({short_reason(error)})") from error
    return record


def reusable_result(folder: Path, config: Mapping, data: Mapping, overwrite: bool) -> dict | None:
    """Return the result of a run folder if it is one of these settings and data and its files are whole.
    A damaged one is named in a warning. `overwrite`: it is not wanted.
    """
    clear_leftovers(folder)
    if overwrite:
        return None
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        record = _read_record(path)
        if changed_settings(record, config, data):
            return None
        _require_own_folder(record, path)
        for name, checksum in record["files"].items():
            if not (folder / name).is_file() or file_digest(folder / name) != checksum:
                raise InputError(f"{folder / name} is missing, damaged or of another run")
    except InputError as error:
        warn_of_damage(error, "it is made again")
        return None
    return record


PATH = "path"  # in what a record says of its data: where they lay, which does not make them other data


def without_paths(data: Mapping) -> dict:
    """Return what identifies a run's data, by role: the same images elsewhere are the same data."""
    return {
        role: {name: value for name, value in about.items() if name != PATH}
        for role, about in data.items()
    }


def named_data(slug: str, about: Mapping) -> str:
    """Spell a data set's name as a person gives it: with its path, if it has one."""
    prefix = slug.partition("-")[0]  # as folder-BIRDS and features-FILE have it
    return f"{prefix}:{about[PATH]}" if PATH in about else slug


def finished_results(results: Path) -> tuple[dict[Path, dict], list[str]]:
    """Return ({run folder: its record} of all runs below `results` that have ended, what is wrong with
    what else is there).

    What a run at work has written so far is not among them. Named are a result.json that is damaged or
    in another run's folder, a damaged line of results.jsonl, and runs of which there is a line alone:
    they were stopped between the line and the exchange, or their folder was removed or changed.
    """
    lines = results / LINES
    told, problems = read_records(lines) if lines.exists() else ([], [])
    found = {}
    for name in sorted(glob.glob(f"*/*/*/{RESULT}", root_dir=results)):
        try:
            record = _read_record(results / name)
            _require_own_folder(record, results / name)
        except InputError as error:
            problems.append(str(error))
            continue
        found[(results / name).parent] = record
    folders = [run_of(record).folder(results) for record in told]
    alone = [
        str(folder.relative_to(results))
        for folder, record in zip(folders, told, strict=True)
        if found.get(folder) != record
    ]
    if alone:
        shown = ", ".join(alone[:MOST_NAMED]) + (", …" if len(alone) > MOST_NAMED else "")
        problems.append(
            f"{lines} tells of {len(alone)} results that are not in their folders (stopped at the last "
            f"moment, removed or changed): {shown}"
        )
    return found, problems


def _require_own_folder(record: Mapping, path: Path) -> None:
    if run_of(record).folder(Path()).parts != path.parent.parts[-3:]:
        raise InputError(f"{path} is of another run")


RESULT, LINES = "result.json", "results.jsonl"
MOST_NAMED = 3


def write_result(folder: Path, results: Path, record: Mapping) -> None:
    """Write result.json of a folder that `replace_files` gave, with the checksums of the tensor files
    there, and before it the same content as one more line of results.jsonl: no result lacks its line. A
    warning says whose result it replaces, if that was one of other data or settings.
    """
    files = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    record = {**record, "files": files}
    _warn_of_another(run_of(record).folder(results) / RESULT, record)
    write_json(staged(folder / RESULT), record)
    append_record(results / LINES, record)


def _warn_of_another(path: Path, record: Mapping) -> None:
    """Say whose result goes, and what is different."""
    with contextlib.suppress(InputError):  # there is none, or none that is whole
        before = _read_record(path)
        _require_own_folder(before, path)
        changed = changed_settings(before, record["config"], record["data"])
        settings = [name for name in changed if name != "data"]
        differences = [f"other settings: {', '.join(settings)}"] if settings else []
        if "data" in changed:
            differences.insert(0, _other_data(before["data"], record["data"]))
        tasks = [
            named_data(before[role], before["data"].get(role, {}))
            for role in ("source", "target")
            if before[role]
        ]
        if changed:
            text = f"replaces the result of {' → '.join(tasks)} ({'; '.join(differences)})"
            warnings.warn(text, stacklevel=3)


# Of what a record says of its data beside their digest, in words.
DIFFERENCES = {
    "groups": "other groups",
    "unlabelled_classes": "with labels or without",
    "classes": "other names of classes",
    "unreadable": "other images left out",
    "pixels": "other scales of pixels",
}


def _other_data(before: Mapping, now: Mapping) -> str:
    """Say what differs in words: the same folders may hold other files, or be asked for other groups."""
    changed, places = set(), [[about.get(PATH) for about in data.values()] for data in (before, now)]
    for role in before.keys() & now.keys():
        one, other = without_paths(before)[role], without_paths(now)[role]
        changed |= {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    if before.keys() != now.keys() or ("sha256" in changed and places[0] != places[1]):
        return "other data"
    if "sha256" in changed and not any(places[0]):
        return "other data"
    said = [text for name, text in DIFFERENCES.items() if name in changed]
    if "sha256" in changed and not {"groups", "unlabelled_classes"} & changed:
        said.insert(0, "other images or labels")
    return ", ".join(said) or "other data"


def changed_settings(result: Mapping, config: Mapping, data: Mapping) -> list[str]:
    """List the names of the entries in which a stored result differs from a configuration; [] if none.
    The path of data is no difference.
    """
    wanted = json.loads(json.dumps({**config, "data": without_paths(data)}))
    stored = {**result.get("config", {}), "data": without_paths(result.get("data", {}))}
    return sorted(name for name in wanted.keys() | stored.keys() if wanted.get(name) != stored.get(name))


def environment(device: torch.device) -> dict[str, str | int]:
    """Describe versions and machine, for the record of a result. Threads bear on the last digits."""
    packages = ("torch", "torchvision", "numpy", "scipy", "POT", "timm", "open_clip_torch")
    installed = {found.name for found in metadata.distributions()}
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages if name in installed},
        "platform": f"{sys.platform} {platform.machine()}",
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str:
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
