"""What is found below a folder: its images, and what is left out of it.

One rule for every depth: hidden and system folders are skipped, links are followed, and a folder that
a link leads back to is not read twice.
"""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from PIL import Image

from utils.errors import InputError

# Of the endings that Pillow reads those of pictures; `.pdf`, `.h5` and the like are none.
OF_PICTURES = (
    ".jpg .jpeg .jpe .jfif .jif .mpo .png .apng .gif .bmp .dib .ppm .pgm .pbm .pnm .pfm .tif .tiff "
    ".webp .jp2 .j2k .j2c .jpf .jpx .tga .pcx .qoi .avif"
)
ENDINGS = frozenset(OF_PICTURES.split())
ALSO_JPEG = ".jif"  # which Pillow tells by its first bytes, though not by its ending
# Endings that say that a file is no image to look at: its first bytes are not read. Raw files of cameras
# begin as TIFFs do, and copies that editors and downloads leave begin as the image does.
OF_OTHERS = (
    ".txt .csv .tsv .json .jsonl .ndjson .xml .yaml .yml .md .html .htm .log .py .ipynb .sh .mat .npy "
    ".npz .pkl .pt .pth .h5 .hdf5 .db .zip .tar .gz .tgz .bz2 .xz .7z .rar .pdf .doc .docx .xls .xlsx "
    ".heic .heif .svg .psd .mp4 .mov .avi .mkv .wav .mp3 .nef .cr2 .cr3 .crw .arw .dng .orf .rw2 .raf "
    ".pef .srw .raw .bak .orig .old .tmp .part .crdownload .swp"
)
NO_IMAGES = frozenset(OF_OTHERS.split())
# Of file managers, storage boxes, archives and notebooks, in lower case; names with a dot in front are
# hidden anyway.
SYSTEM = {
    *("__macosx", "$recycle.bin", "system volume information", "@eadir", "#recycle", "#snapshot"),
    *("@recycle", "@recently-snapshot", "@__thumb", "lost+found", "lost.dir", "found.000"),
    *("temporary items", "network trash folder", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    "__pycache__",
}
FIRST_BYTES = 32
LONGEST_ENDING = 12


# ------------------------------------------------------------------------------------------ one folder
@dataclass
class Listing:
    """What a folder holds itself: its visible folders and images by name, other files, and how many
    things of each kind were left out.
    """

    folders: dict[str, "Folder"] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


class Folder:
    """A folder, looked at once and not before it is needed. `parent`: the one that it was found in."""

    def __init__(self, path: Path, parent: "Folder | None" = None, linked: bool = False):
        self.path, self.parent, self.linked = path, parent, linked

    @property
    def name(self) -> str:
        return self.path.name

    def below(self, top: "Folder") -> str:
        """Return its path below `top`, with a slash behind."""
        return f"{self.path.relative_to(top.path)}/"

    @cached_property
    def identity(self) -> tuple[int, int]:
        return _identity(self.path)

    @cached_property
    def above(self) -> frozenset[tuple[int, int]]:
        """Return the identities of all folders that hold this one."""
        if self.parent:
            return self.parent.above | {self.parent.identity}
        return frozenset(_identity(path) for path in self.path.resolve().parents)

    @cached_property
    def _listing(self) -> Listing:
        found = Listing()
        try:
            with os.scandir(self.path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    self._place(entry, found)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from error
        return found

    @property
    def folders(self) -> dict[str, "Folder"]:
        return self._listing.folders

    @property
    def images(self) -> list[str]:
        """The names of the images in it, not of those in folders below."""
        return self._listing.images

    @property
    def others(self) -> list[str]:
        """The names of files that are no images."""
        return self._listing.others

    @property
    def left_out(self) -> Counter[str]:
        return self._listing.left_out

    def _place(self, entry: os.DirEntry, found: Listing) -> None:
        name, ending = entry.name, _ending(entry.name)
        kind = _kind(entry)
        if name[0] == "." or name.lower() in SYSTEM:
            if kind == "folder" or ending in _readable_endings():
                found.left_out["hidden or system"] += 1
        elif kind == "folder":
            below = Folder(self.path / name, self, entry.is_symlink())
            if below.linked and below.identity in below.above:
                found.left_out["link back"] += 1
            else:
                found.folders[name] = below
        elif ending in _readable_endings():
            # A link to nothing stays: whoever decodes the images names it.
            if kind == "special":
                found.left_out["pipe or device"] += 1
            else:
                found.images.append(name)
        elif kind == "file" and ending not in NO_IMAGES and name[-1] != "~" and _begins_as_image(entry):
            found.images.append(name)
        elif kind == "file":
            found.others.append(name)
            found.left_out[ending or "without ending"] += 1
        else:
            found.left_out[f"broken link {name}" if kind == "broken" else "pipe or device"] += 1


def open_folder(path: Path) -> Folder:
    """Open a folder. Raise InputError for what is none."""
    if not path.is_dir():
        raise InputError(f"{path} is not a folder of class folders")
    return Folder(path)


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _ending(name: str) -> str:
    ending = os.path.splitext(name)[1].lower()
    return ending if 1 < len(ending) < LONGEST_ENDING else ""


def _kind(entry: os.DirEntry) -> str:
    """Tell what it is: `folder`, `file`, `broken` (a link to nothing) or `special`, links followed."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "broken" if entry.is_symlink() and not os.path.exists(entry) else "special"
    except OSError:  # a link to itself
        return "broken"


@cache
def _readable_endings() -> frozenset[str]:
    """Return those of `ENDINGS` that this Pillow has a reader for."""
    return ENDINGS & {*Image.registered_extensions(), ALSO_JPEG}


def _begins_as_image(entry: os.DirEntry) -> bool:
    """Tell whether a file whose ending says nothing has the first bytes of an image."""
    try:
        with open(entry, "rb") as file:
            start = file.read(FIRST_BYTES)
    except OSError:
        return False
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")):
        return True
    if start.startswith((b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  \r\n\x87\n")):
        return True
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    if start[:2] == b"BM":  # then a size, four zeros, and, at 14, the length of one of its headers
        return start[6:10] == bytes(4) and start[14:18] in (bytes([n, 0, 0, 0]) for n in BMP_HEADERS)
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace():
        return start[3:4].isdigit() or start[3:4] == b"#"
    return start[4:12] in (b"ftypavif", b"ftypavis") and ".avif" in _readable_endings()


BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


# --------------------------------------------------------------------------------------- all below it
def images_below(folder: Folder) -> tuple[list[str], Counter[str]]:
    """Return the names of all images in `folder` and in the folders below, relative to it and sorted,
    and what was left out. A folder that several links lead to is read once, and where it lies itself if
    that is among them.
    """
    names, left_out = [], Counter()
    for prefix, below in _walk(folder, left_out):
        names += [prefix + name for name in below.images]
        left_out.update(below.left_out)
    return sorted(names), left_out


def holds_images(folder: Folder) -> bool:
    return any(below.images for _, below in _walk(folder, Counter()))


def _walk(top: Folder, left_out: Counter[str]) -> Iterator[tuple[str, Folder]]:
    """Yield (path below `top` with a slash behind, folder) of `top` and of all folders below."""
    seen, waiting, linked = set(), deque([("", top)]), deque()
    while waiting or linked:
        prefix, folder = (waiting or linked).popleft()
        if folder.identity in seen:
            left_out["link back"] += 1
            continue
        seen.add(folder.identity)
        yield prefix, folder
        for name, below in folder.folders.items():
            (linked if below.linked else waiting).append((f"{prefix}{name}/", below))


def unpacked(folder: Folder) -> list[Folder]:
    """Return the folders from `folder` down to the one that is meant: archives unpack to a folder that
    holds nothing but another, which holds the classes.
    """
    levels = [folder]
    while len(levels[-1].folders) == 1 and not levels[-1].images:
        (below,) = levels[-1].folders.values()
        if not below.folders:
            break
        levels.append(below)
    return levels


MOST_KINDS = 6  # that a line names
PLURAL = {
    "link back": "links back",
    "pipe or device": "pipes or devices",
    "image without a row": "images without a row",
}


def describe_left_out(left_out: Counter[str]) -> str:
    """Say it as it stands in a line: `9 .heic, 2 .txt`."""
    parts = []
    for kind, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0])):
        if kind.startswith("broken link "):
            parts.append(kind)
        else:
            parts.append(f"{count} {PLURAL.get(kind, kind) if count > 1 else kind}")
    more = len(parts) - MOST_KINDS
    return ", ".join(parts[:MOST_KINDS] + ([f"{more} other kinds"] if more > 0 else []))


def describe_names(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
