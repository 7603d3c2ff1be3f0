"""What a JPEG file's first bytes say: whether any decoder makes the same picture of it, and its size.

A file that is not plain is left to PIL: CMYK, RGB stored as such, other depths and codings, pictures
that EXIF or XMP turns, several in one file, cut ones, and whatever is no JPEG but by name.
"""

import re
from typing import NamedTuple

from PIL import Image

from utils.datasets.pixels import ORIENTATION

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
START, END = b"\xff\xd8\xff", b"\xff\xd9"
HUFFMAN = {0xC0, 0xC1, 0xC2}  # frames of sequential and progressive coding
OTHER_FRAMES = {0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xDE}
SCAN = 0xDA
EXIF, XMP = b"Exif\x00\x00", b"http://ns.adobe.com/xap/"
XMP_TURN = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')  # as PIL looks for it
COLOURS = b"\x01\x02\x03"  # how YCbCr's channels are called: other names may mean RGB
# How often a block of luminance is sampled where a block of each colour is sampled once: across, down.
SAMPLINGS = {0x11, 0x21, 0x12, 0x22, 0x41}


class JpegSize(NamedTuple):
    height: int
    width: int


def plain_jpeg(content: bytes) -> JpegSize | None:
    """Return the size of a whole, upright 8-bit picture in grey or YCbCr; None for anything else."""
    if content[:3] != START or content[-2:] != END:
        return None
    place, size = 2, None
    try:
        while content[place] == 0xFF:
            code = content[place + 1]
            if code == 0xFF:  # between segments as many as one likes
                place += 1
                continue
            if code == SCAN:
                return size
            length = int.from_bytes(content[place + 2 : place + 4], "big")
            segment = content[place + 4 : place + 2 + length]
            if code in HUFFMAN:
                if size or not (size := _size_of_frame(segment)):
                    return None
            elif code in OTHER_FRAMES or length < 2 or _means_another_picture(code, segment):
                return None
            place += 2 + length
    except IndexError:  # it ends before its pixels
        return None
    return None


def _size_of_frame(segment: bytes) -> JpegSize | None:
    depth, channels = segment[0], segment[5]
    height, width = (int.from_bytes(segment[k : k + 2], "big") for k in (1, 3))
    samplings = segment[7::3]
    if depth != 8 or not height or not width or len(segment) != 6 + 3 * channels:
        return None
    if channels == 1:
        return JpegSize(height, width) if samplings == b"\x11" else None
    if channels != 3 or segment[6::3] != COLOURS or samplings[1:] != b"\x11\x11":
        return None
    return JpegSize(height, width) if samplings[0] in SAMPLINGS else None


def _means_another_picture(code: int, segment: bytes) -> bool:
    if code == 0xE1 and segment.startswith(EXIF):
        return _is_turned(segment)
    if code == 0xE1 and segment.startswith(XMP):
        found = XMP_TURN.search(segment)
        return found is not None and found[1] != b"1"
    if code == 0xE2:
        return segment.startswith(b"MPF\x00")  # several pictures
    if code == 0xEE and segment.startswith(b"Adobe"):
        return segment[11] != 1  # 0 for RGB, 2 for YCCK
    return False


def _is_turned(segment: bytes) -> bool:
    """Tell by EXIF data whether a picture is to be turned; if these cannot be read PIL is to say what it
    makes of them.
    """
    exif = Image.Exif()
    try:
        exif.load(segment)
        return exif.get(ORIENTATION, 1) != 1
    except Exception:  # it raises half a dozen types
        return True
