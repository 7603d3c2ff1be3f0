"""Files that are never half there: atomic writes, locks, checksums, JSON that tells whether it is whole.

Everything is written under a temporary name in the same folder and renamed, so a reader sees the
old file or the new one and never half of either, also after a power cut.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from utils.errors import InputError


# ---------------------------------------------------------------------------------- atomic writes
@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_once(path.parent)
    temporary = _temporary_beside(path)
    try:
        with named(path):
            yield temporary
            _to_disk(temporary)
            os.replace(temporary, path)
            _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_files(folder: Path) -> Iterator[Path]:
    """Yield an empty folder. If the block succeeds, the files written there take the place of those in
    `folder`, the record that tells of the others last, and PRODUCTS of before that have no successor go;
    if it fails, nothing has changed. The record is written as `staged(new / NAME)`: a search for NAME
    finds finished results alone. A process killed during the exchange leaves a record whose checksums do
    not fit the files beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    new = _temporary_beside(folder / "new")
    new.mkdir()
    try:
        yield new
        files = sorted(new.iterdir(), key=lambda path: (path.suffix == STAGED, path.name))
        names = [path.name.removesuffix(STAGED) for path in files]
        with only_one(folder.with_name(f"{folder.name}.exchange")):
            for path, name in zip(files, names, strict=True):
                os.replace(path, folder / name)
            for path in folder.iterdir():
                if path.suffix in PRODUCTS and path.name not in names:
                    path.unlink()
            _to_disk(folder)
    except OSError as error:  # its user knows the folder, not the temporary one
        if error.filename:
            error.filename = str(error.filename).replace(str(new), str(folder))
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def staged(path: Path) -> Path:
    """Tell where a result's record stands until `replace_files` has put its other files in place."""
    return path.with_name(path.name + STAGED)


STAGED = ".new"
PRODUCTS = {".safetensors", ".png", ".pdf", ".csv"}  # of a run's or a ranking's folder
# Whose it is: machine, process, and what tells two processes of one number apart.
TEMPORARY = re.compile(r"\..+\.([^.]*)-(\d{1,9})-([0-9a-f]{8})[0-9a-f]{8}\.tmp")
PROCESS = uuid.uuid4().hex[:8]
A_DAY = 24 * 3600
_CLEARED: set[Path] = set()


def _temporary_beside(path: Path) -> Path:
    """Name a temporary file by its owner, so that it can be cleared when that process is gone."""
    owner = f"{_host()}-{os.getpid()}-{PROCESS}{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{path.name}.{owner}.tmp")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", platform.node())[:32]


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed: of this machine's that are gone, and of
    others' after a day.
    """
    with suppress(OSError):  # a folder that is absent or is another's
        for path in folder.glob(".*.tmp"):
            owner = TEMPORARY.fullmatch(path.name)
            if owner and _is_left_over(path, *owner.groups()):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _clear_once(folder: Path) -> None:
    """Clear leftovers once in a process: a folder of many files is slow to list."""
    if folder not in _CLEARED:
        clear_leftovers(folder)
        _CLEARED.add(folder)


def _is_left_over(path: Path, host: str, pid: str, process: str) -> bool:
    if host != _host():
        return time.time() - path.stat().st_mtime > A_DAY
    if int(pid) == os.getpid():
        return process != PROCESS
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return False


def _to_disk(path: Path) -> None:
    """Have the system write a file's content, or a folder's names, now: a power cut after a rename must
    not leave an empty file.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a file system without
            raise
    finally:
        os.close(descriptor)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an error name its file: a full disk does not say which one it is about."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write text; what UTF-8 cannot hold, as of a file name that is not UTF-8, as an escape."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def only_one(path: Path, busy: str | None = None) -> Iterator[None]:
    """Let one process at a time into the block for `path`. The others wait, or with `busy` raise
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


def require_regular(path: Path) -> None:
    """Raise InputError for what is there and is no file: reading from a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "pipe or device"
        raise InputError(f"{path} is a {kind}, no file")


def read_text(path: Path) -> str:
    """Read text as editors and spreadsheets save it: UTF-8, with a mark in front or without, or UTF-16.
    Raises InputError for what is no file, or no such text.
    """
    require_regular(path)
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from error


def require_writable(folder: Path, flag: str) -> None:
    """Raise InputError unless files can be made in `folder` or in its nearest existing parent."""
    if not is_writable(folder):
        place = _nearest_existing(folder)
        raise InputError(f"{flag} {folder}: cannot be written ({place} is not a writable folder)")


def is_writable(folder: Path) -> bool:
    """Tell whether files can be made in `folder`, or in its nearest parent where it is absent."""
    existing = _nearest_existing(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _nearest_existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


# -------------------------------------------------------------------------------------- checksums
def digest(*parts) -> str:
    """Compute SHA-256 (16 hex digits) over tensors, arrays, bytes and JSON-like values, in order."""
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


def file_digest(path: Path) -> str:
    return digest(path.read_bytes())


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Digest a state dict, names included, independent of the order of its entries."""
    return digest(*(part for name in sorted(state) for part in (name, state[name])))


# -------------------------------------------------------------------------------------- sealed JSON
def write_json(path: Path, content: Mapping) -> None:
    """Write JSON with a checksum of the content."""
    write_text(path, json.dumps(sealed(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """Read what `write_json` wrote. Raises InputError that names the file unless it is whole."""
    require_regular(path)
    try:
        return opened(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except UNREADABLE_JSON as error:
        raise InputError(f"{path} is damaged ({short_reason(error)})") from error


# What json and the checks of a record raise for what is none.
UNREADABLE_JSON = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def sealed(content: Mapping) -> dict:
    """Add the digest of what a reader will find."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    return {**plain, CHECKSUM: digest(plain)}


def opened(text: bytes) -> dict:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise TypeError("it is no JSON object")
    if content.pop(CHECKSUM) != digest(content):
        raise ValueError("its checksum does not fit: it was changed, or written by an earlier version")
    return content


def short_reason(error: Exception) -> str:
    if isinstance(error, KeyError) and error.args == (CHECKSUM,):
        return "it has no checksum: it was written by an earlier version"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


CHECKSUM = "sha256"
