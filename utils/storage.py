"""Atomic writes, checkpoints, run folders, result records and checksums.

Everything is written under a temporary name in the same folder and renamed, so a reader sees the
old file or the new one and never half of either. Checkpoints are read with `weights_only=True`:
a file can hold tensors, numbers, strings and containers of them, and runs no code.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import load_file, save

from utils.device import describe_device
from utils.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
# The numbers that a record of each stage holds (None where undefined). Of stage 3 they stand in two
# parts, of which one may be missing.
RECORDED = {"train": ("test_accuracy", "test_loss"), "finetune": ("test_accuracy", "test_loss")}
PARTS = {
    "certificate": (
        "fine_tuned_accuracy", "fine_tuned_loss", "target_accuracy", "target_loss", "bound_certified",
        "certified_source_loss", "certified_transport", "constant_prediction_loss",
    ),
    "published": (
        "target_accuracy", "target_loss", "constant_prediction_loss", "weighted_source_loss",
        "label_mismatch", "distribution_mismatch", "bound_published", "bound_certified",
    ),
}  # fmt: skip
# What identifies a record, with its procedure.
RUN = ("stage", "source", "target", "model", "setting", "variant", "seed")


# ---------------------------------------------------------------------------------- atomic writes
@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with _named(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A full disk does not say which file it is about."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, content: Mapping) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def append_record(path: Path, record: Mapping) -> None:
    """Appends one JSON line. Concurrent runs take turns: on a network's disk their writes would mix."""
    line = json.dumps(record, allow_nan=False) + "\n"
    with _named(path), only_one(path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":  # a write that was cut off
            line = "\n" + line
        rest = line.encode()
        while rest:  # a disk that is nearly full takes a part
            rest = rest[file.write(rest) :]


def read_records(path: Path) -> tuple[list[dict], list[str]]:
    """(the records of a results.jsonl, what is wrong with the lines that are none). A run that was
    repeated has several lines: the last counts. Raises InputError where there is no such file.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): run a stage first") from error
    records, damaged = {}, []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            identity = _identity(record)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            damaged.append(f"{path}, line {number} is no result ({type(error).__name__}: {error})")
            continue
        records.pop(identity, None)
        records[identity] = record
    return list(records.values()), damaged


def _identity(record: Mapping) -> tuple:
    """What a run is named by. Raises LookupError, TypeError or AttributeError for what is no record of
    this version.
    """
    for about in record["data"].values():
        about["origin"]
    record["environment"].items()
    if not isinstance(record["seed"], int):
        raise TypeError("its seed is no number")
    if record["stage"] == "transfer":
        parts = [(record[part], names) for part, names in PARTS.items() if record[part] is not None]
    else:
        parts = [(record, RECORDED[record["stage"]])]
    for part, names in parts:
        for name in names:
            if not isinstance(part[name], float | None):
                raise TypeError(f"{name} is no number")
    names = (record.get(name) if name == "variant" else record[name] for name in RUN)
    return (*names, record["config"]["procedure"])


@contextmanager
def only_one(path: Path, busy: str | None = None) -> Iterator[None]:
    """Lets one process at a time into the block for `path`. The others wait, or with `busy` raise
    InputError with that text. The system frees the lock of a process that dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=-1 if busy is None else 0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(busy) from None
    try:
        yield
    finally:
        lock.release()


def require_writable(folder: Path, flag: str) -> None:
    """Raises InputError unless files can be made in `folder` or in its nearest existing parent."""
    if not is_writable(folder):
        place = _nearest_existing(folder)
        raise InputError(f"{flag} {folder}: cannot be written ({place} is not a writable folder)")


def is_writable(folder: Path) -> bool:
    """Whether files can be made in `folder`, or in its nearest existing parent where it is absent."""
    existing = _nearest_existing(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _nearest_existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


# -------------------------------------------------------------------------------------- checksums
def digest(*parts) -> str:
    """SHA-256 (first 16 hex digits) over tensors, arrays, bytes and JSON-like values, in order."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().contiguous().numpy()
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
        elif isinstance(part, bytes):
            total.update(part)
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())
    return total.hexdigest()[:16]


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Digest of a state dict, names included, independent of the order of its entries."""
    return digest(*(part for name in sorted(state) for part in (name, state[name])))


# ------------------------------------------------------------------------------------ checkpoints
def save_checkpoint(path: Path, state: Mapping) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)  # by name, a full disk would look like an error of PyTorch's


def load_checkpoint(path: Path, trust: bool = False) -> dict:
    """Reads a checkpoint without running code in it, unless `trust`. Raises InputError that names it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=not trust)
    except ImportError as error:
        raise InputError(f"{path} needs the package {error.name}, which is not installed") from error
    except Exception as error:  # torch raises half a dozen types for a damaged or foreign file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{path} holds more than tensors, numbers and text ({wanted[1]}) and could run code: if "
                "you trust where it comes from, give --TRUST_CHECKPOINT True"
            ) from error
        raise InputError(f"{path} is truncated or is not a checkpoint: {reason[:200]}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state


@dataclass
class ResumePoint:
    """Where a long computation leaves its state so that the next run goes on from there.

    `fingerprint` identifies the computation (settings and inputs): a state left by another one is
    ignored. States are saved at most every `seconds`; 0 saves each time.
    """

    path: Path
    fingerprint: str
    seconds: float = 5.0
    _last_save: float = field(default_factory=time.monotonic)

    def load(self) -> dict | None:
        """The saved state of this computation, or None where there is none that can be used."""
        try:
            saved = load_checkpoint(self.path) if self.path.exists() else {}
        except InputError:
            return None
        return saved.get("state") if saved.get("fingerprint") == self.fingerprint else None

    def due(self) -> bool:
        """Whether it is time to save again: asked first, since building a state costs copies."""
        return time.monotonic() - self._last_save >= self.seconds

    def save(self, state: Mapping) -> None:
        save_checkpoint(self.path, {"fingerprint": self.fingerprint, "state": dict(state)})
        self._last_save = time.monotonic()

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> None:
    """Writes tensors as safetensors (no pickle) with string metadata."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(contiguous, metadata=dict(about))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads a safetensors file. Raises InputError that names it when it is damaged."""
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"{path} is truncated or is not a safetensors file: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors file. Raises InputError that names it when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except Exception as error:
        raise InputError(f"{path} is truncated or is not a safetensors file: {error}") from error


# ------------------------------------------------------------------------- run folders and results
def run_folder(
    results: Path,
    stage: str,
    source: str,
    target: str | None,
    model: str,
    setting: str | None,
    seed: int,
    procedure: str,
    variant: str | None = None,
) -> Path:
    """results/{stage}/{SRC}_to_{TRG}/{model}_{setting}_seed{seed}; a variant stands behind the setting,
    and `published` adds its name.

    Stage 1 has neither target nor setting, stage 2 no setting: those parts fall away.
    """
    pair = source if target is None else f"{source}_to_{target}"
    parts = [model, setting, variant, f"seed{seed}", "published" if procedure == "published" else None]
    return results / stage / pair / "_".join(part for part in parts if part)


def network_path(
    checkpoints: Path, model: str, source: str, origin: str, procedure: str, seed: int
) -> Path:
    """Where stage 1 leaves a network trained on `source` data of this origin (full, embedded)."""
    return checkpoints / "networks" / f"{model}_{source}_{origin}_{procedure}_seed{seed}.pt"


def find_network(
    checkpoints: Path, model: str, source: str, origin: str, procedure: str, seed: int
) -> tuple[Path, str] | None:
    """(path, origin of its training data) of a trained network; `auto` prefers full data."""
    for candidate in ("full", "embedded") if origin == "auto" else (origin,):
        path = network_path(checkpoints, model, source, candidate, procedure, seed)
        if path.exists():
            return path, candidate
    return None


def read_result(folder: Path) -> dict | None:
    """The result.json of a run folder, or None where there is none or it cannot be read."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None
    complete = isinstance(result, dict) and {"stage", "config", "data", "seconds"} <= result.keys()
    return result if complete else None


def write_result(folder: Path, results: Path, record: Mapping) -> None:
    """One more line of results.jsonl, and the same content as result.json of the run folder: last, since
    a run that has it is not repeated.
    """
    append_record(results / "results.jsonl", record)
    write_json(folder / "result.json", record)


def changed_settings(result: Mapping, config: Mapping, data: Mapping) -> list[str]:
    """Names of the entries in which a stored result differs from a configuration; [] if none."""
    wanted = json.loads(json.dumps({**config, "data": data}))
    stored = {**result.get("config", {}), "data": result.get("data")}
    return sorted(name for name in wanted.keys() | stored.keys() if wanted.get(name) != stored.get(name))


def environment(device: torch.device) -> dict[str, str]:
    """Versions and machine, for the record of a result."""
    packages = ("torch", "torchvision", "numpy", "scipy", "POT", "timm", "open_clip_torch")
    installed = {found.name for found in metadata.distributions()}
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages if name in installed},
        "platform": f"{sys.platform} {platform.machine()}",
        "device": describe_device(device),
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
