"""Checkpoints and tensors on disk, each with a checksum of its content.

Checkpoints are read with `weights_only=True`: a file can hold tensors, numbers, strings and containers
of them, and runs no code.
"""

import io
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load, load_file, save

from utils.errors import InputError
from utils.storage.files import CHECKSUM, atomic_write, digest, require_regular, state_digest


def save_checkpoint(path: Path, state: Mapping) -> None:
    with atomic_write(path) as temporary:
        write_checkpoint(temporary, state)


def write_checkpoint(path: Path, state: Mapping) -> None:
    """Write it with a checksum of the content."""
    buffer = io.BytesIO()  # PyTorch's own writer makes another error of a full disk
    torch.save({**state, CHECKSUM: digest(*_leaves(state))}, buffer)
    path.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path, trust: bool | None = None) -> dict:
    """Read a checkpoint without running code in it, unless `trust` (None: nobody can say so). Raises
    InputError that names it, also where its checksum, if it has one, does not fit.
    """
    require_regular(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=not trust)
    except ImportError as error:
        raise InputError(f"{path} needs the package {error.name}, which is not installed") from error
    except Exception as error:  # torch raises half a dozen types for a damaged or foreign file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            hint = ": if you trust where it comes from, give --TRUST_CHECKPOINT True"
            raise InputError(
                f"{path} holds more than tensors, numbers and text ({wanted[1]}) and could run code"
                + ("" if trust is None else hint)
            ) from error
        raise InputError(f"{path} is truncated or is not a checkpoint: {reason[:200]}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    checksum = state.pop(CHECKSUM, None)
    if checksum is not None and checksum != digest(*_leaves(state)):
        raise InputError(f"{path} is damaged: its checksum does not fit")
    return state


def _leaves(value: object) -> Iterator[object]:
    """Yield what a checkpoint holds, part by part, with the names and lengths of its containers."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield repr(name)
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        yield len(value)
        for part in value:
            yield from _leaves(part)
    else:
        yield value


T = TypeVar("T")
SAVE_EVERY = 5.0  # seconds
LAYOUT = 2  # of the states: raised when a learner keeps other things in its state


@dataclass
class ResumePoint:
    """Where a long computation leaves its state so that the next run goes on from there.

    `fingerprint` identifies the computation (settings and inputs): a state left by another one, or by
    a version that keeps other things in its states, is ignored. States are saved at most every
    `seconds`; 0 saves each time.
    """

    path: Path
    fingerprint: str
    seconds: float = field(default_factory=lambda: SAVE_EVERY)
    _last_save: float = field(default_factory=time.monotonic)

    def load(self) -> dict | None:
        """Return the saved state of this computation, or None where there is none that can be used."""
        instead = "what it was to resume begins anew"
        saved = read_if_whole(self.path, load_checkpoint, instead) or {}
        return saved.get("state") if self._mark.items() <= saved.items() else None

    def due(self) -> bool:
        """Tell whether it is time to save again: asked first, since building a state costs copies."""
        return time.monotonic() - self._last_save >= self.seconds

    def save(self, **state: object) -> None:
        save_checkpoint(self.path, {**self._mark, "state": state})
        self._last_save = time.monotonic()

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    @property
    def _mark(self) -> dict:
        """What a state must carry to be gone on from here."""
        return {"fingerprint": self.fingerprint, "layout": LAYOUT}


def warn_of_damage(error: InputError, instead: str) -> None:
    warnings.warn(f"{error}; {instead}", stacklevel=2)


def read_if_whole(path: Path, read: Callable[[Path], T], instead: str) -> T | None:
    """Return what `read` makes of the file; None where it is absent or, with a warning that says what
    happens `instead`, damaged.
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except InputError as error:
        warn_of_damage(error, instead)
        return None


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping) -> None:
    """Write tensors as safetensors (no pickle) with JSON about them, and a checksum of both."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    plain = json.loads(json.dumps(about))
    sealed = {**plain, CHECKSUM: digest(plain, state_digest(contiguous))}
    # In one entry: the library writes several in no fixed order, and equal tensors are equal files.
    content = save(contiguous, metadata={"about": json.dumps(sealed)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return (tensors, what was said about them) as `save_tensors` wrote them. Raises InputError that
    names a file that is damaged or was changed.
    """
    require_regular(path)
    try:
        content = path.read_bytes()
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
    except Exception as error:
        raise InputError(f"{path} is truncated or is not a safetensors file: {error}") from error
    try:
        about = json.loads(header["__metadata__"]["about"])
        intact = about.pop(CHECKSUM) == digest(about, state_digest(tensors))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} has no checksum: it was written by an earlier version") from error
    if not intact:
        raise InputError(f"{path} is damaged: its checksum does not fit")
    return tensors, about


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of any safetensors file. Raises InputError that names it when it is damaged."""
    require_regular(path)
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"{path} is truncated or is not a safetensors file: {error}") from error


# ------------------------------------------------------------------------------- trained networks
def network_path(
    checkpoints: Path, model: str, source: str, origin: str, procedure: str, seed: int
) -> Path:
    """Tell where stage 1 leaves a network trained on `source` data of this origin: full, embedded, or
    what identifies the data of a folder.
    """
    return checkpoints / "networks" / f"{model}_{source}_{origin}_{procedure}_seed{seed}.pt"


def find_network(
    checkpoints: Path, model: str, source: str, origin: str, procedure: str, seed: int
) -> tuple[Path, str] | None:
    """Return (path, origin of its training data) of a trained network; `auto` prefers full data."""
    for candidate in ("full", "embedded") if origin == "auto" else (origin,):
        path = network_path(checkpoints, model, source, candidate, procedure, seed)
        if path.exists():
            return path, candidate
    return None


def networks_like(pattern: Path) -> list[Path]:
    """List trained networks: a `network_path` in which * stands for anything."""
    return sorted(pattern.parent.glob(pattern.name))
