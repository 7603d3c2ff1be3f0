"""Which file is this? Told by its content, and remembered: a digest, and what its pixels need.

What was learned of the files below a folder is kept in one index file. An entry is believed as long as
device, inode, size and both times of the file are what they were, and if the file had been left alone
for a while when it was read: what changes within a clock's tick leaves no trace in them.
"""

import contextlib
import os
import stat
import time
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from utils.datasets.pixels import HEAD, VERSION, Pixels, is_plain, look_at, pixel_limit
from utils.errors import InputError
from utils.progress import progress_bar
from utils.storage import digest, read_if_whole, read_json, write_json

SMALL = 2**16  # bytes: below, threads cost more than they save
CHUNK = 2**20
THREADS = 4
RACY = 2 * 10**9  # ns: the coarsest times that file systems keep
UNREADABLE = "unreadable: "  # how the identity of a file begins that cannot be read


class FileFacts(NamedTuple):
    """`digest` of the content; `pixels`: what bears on how its data set is read."""

    digest: str
    pixels: Pixels | None = None


def identify_files(
    root: Path, names: Sequence[str], index_dir: Path | None = None, max_pixels: int | None = None
) -> tuple[FileFacts, ...]:
    """Tell who the files root/name are. What is known of them is looked up in a file in `index_dir` and
    added to it where that can be written; None: they are all read. A file that cannot be read gets an
    identity that says so.
    """
    index = _Index.read(root, index_dir)
    top = f"{root}{os.sep}"  # strings: paths as objects would cost more than all else
    facts = [index.look_up(name, top + name) for name in names]
    unknown = [place for place, known in enumerate(facts) if known is None]
    if unknown:
        with pixel_limit(max_pixels):
            learned = _learn([top + names[place] for place in unknown])
        for place, one in zip(unknown, learned, strict=True):
            facts[place] = one.facts(names[place])
            index.add(names[place], one)
        index.write(top, set(names))
    return tuple(facts)


# --------------------------------------------------------------------------------------- reading files
class _Learned(NamedTuple):
    """`digest` is None for a `problem` of reading; `lasting`: whether the next run may believe it."""

    stamp: str
    digest: str | None
    pixels: Pixels | None = None
    lasting: bool = False
    problem: str = ""

    def facts(self, name: str) -> FileFacts:
        return FileFacts(self.digest or f"{UNREADABLE}{name}: {self.problem}", self.pixels)


def _learn(paths: Sequence[str]) -> list[_Learned]:
    """Read small files of ordinary pictures one after the other, the rest by threads."""
    learned = list(map(_read_small, paths))
    left = [place for place, one in enumerate(learned) if one is None]
    pool = ThreadPoolExecutor(THREADS)
    try:
        read = pool.map(_read, [paths[place] for place in left])
        bar = progress_bar(read, "reading files", len(left), unit="file", delay=1)
        for place, one in zip(left, bar, strict=True):
            learned[place] = one
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted run does not wait for the rest
    return learned


def _read_small(path: str) -> _Learned | None:
    """Read a file at once; None for one that is large, or whose pixels must be looked at."""
    before = time.time_ns()
    try:
        descriptor = os.open(path, OPEN)
        try:
            status = os.fstat(descriptor)
            if status.st_size >= SMALL or not stat.S_ISREG(status.st_mode):
                return None
            content = os.read(descriptor, status.st_size + 1)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    if len(content) != status.st_size or not is_plain(content[:HEAD]):
        return None
    return _Learned(_stamp(status), _digest(content), None, _has_settled(status, before))


def _read(path: str) -> _Learned:
    before = time.time_ns()
    try:
        with open(os.open(path, OPEN), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return _Learned("", None, problem="it is no file")
            total, head = blake2b(digest_size=DIGEST), b""
            while chunk := file.read(CHUNK):
                head = head or chunk[:HEAD]
                total.update(chunk)
    except OSError as error:
        return _Learned("", None, problem=error.strerror or str(error))
    lasting, pixels = _has_settled(status, before), None
    if not is_plain(head):
        try:
            pixels = look_at(path)
        except Exception:  # PIL's decoders raise half a dozen types; it may be readable another time
            lasting = False
    return _Learned(_stamp(status), total.hexdigest(), pixels, lasting)


# A pipe does not make it wait.
OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
DIGEST = 16  # bytes


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=DIGEST).hexdigest()


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _has_settled(status: os.stat_result, now: int) -> bool:
    """Tell whether a change after `now` would show in the file's times. Of the time of the last change
    of content, which anyone can set, only one near `now` makes it doubtful.
    """
    return status.st_ctime_ns < now - RACY and abs(status.st_mtime_ns - now) > RACY


# -------------------------------------------------------------------------------------------- the index
@dataclass
class _Index:
    """`files`: of each name stamp and digest, a space between; `pixels`: what was found, by digest."""

    path: Path | None
    files: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, list] = field(default_factory=dict)
    changed: bool = False

    @staticmethod
    def read(root: Path, folder: Path | None) -> "_Index":
        """Read a folder's index; an empty one where there is none that is whole and of this version."""
        if folder is None:
            return _Index(None)
        where = os.path.realpath(root)
        path = Path(folder) / f"{digest(where)}.json"
        found = None
        with contextlib.suppress(OSError):
            found = read_if_whole(path, _read_index, "its files are read again")
        if not found or (found.get("version"), found.get("folder")) != (VERSION, where):
            return _Index(path)
        return _Index(path, found["files"], found["pixels"])

    def look_up(self, name: str, path: str) -> FileFacts | None:
        known = self.files.get(name)
        if known is None:
            return None
        try:
            stamp, _, of_content = known.rpartition(" ")
            if stamp != _stamp(os.stat(path)):
                return None
        except OSError:
            return None
        pixels = self.pixels.get(of_content)
        return FileFacts(of_content, pixels and Pixels(*pixels))

    def add(self, name: str, learned: _Learned) -> None:
        if learned.lasting:
            self.files[name] = f"{learned.stamp} {learned.digest}"
            if learned.pixels:
                self.pixels[learned.digest] = list(learned.pixels)
            self.changed = True

    def write(self, top: str, asked: Set[str]) -> None:
        """Write the index, with the names that were `asked` for and those of others that are still
        there. A folder that cannot be written to keeps nothing.
        """
        if self.path is None or not self.changed:
            return
        files = {
            name: known
            for name, known in self.files.items()
            if name in asked or os.path.exists(top + name)
        }
        digests = {known.rpartition(" ")[2] for known in files.values()}
        pixels = {one: found for one, found in self.pixels.items() if one in digests}
        where = os.path.realpath(top)
        content = {"version": VERSION, "folder": where, "files": files, "pixels": pixels}
        with contextlib.suppress(OSError):
            write_json(self.path, content)


def _read_index(path: Path) -> dict:
    """Read an index. Raise InputError for one that is damaged."""
    found = read_json(path)
    if not all(isinstance(found.get(name), dict) for name in ("files", "pixels")):
        raise InputError(f"{path} is no index of files")
    return found
