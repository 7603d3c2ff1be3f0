"""How stored pixels become 8-bit RGB, whatever a file holds: deep greys, floats, alpha, turned pictures.

Where a scale or a background has to be chosen it is one for a whole data set, both splits together:
`look_at` says what of a file bears on the choice, `choose_rules` chooses, `rgb` reads by the rules.
"""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from utils.datasets.deep import DEEP_KINDS, FLOAT, Deep, deep_values, is_deep, open_image

VERSION = 1  # of the reading: features of files that were read otherwise are not found again
DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits that instruments fill
BLACK, WHITE = 0, 255
# Of floats: what interpolation adds to 0..1 on both sides; the least that 0..255 are taken to reach.
OVERSHOOT, BRIGHT = 0.1, 64


class Pixels(NamedTuple):
    """What of a picture bears on how its data set is read: of deep values their kind and range; `light`:
    the mean luminance of what is visible of a picture that is transparent in places.
    """

    kind: str | None = None
    low: float = 0
    high: float = 0
    light: float | None = None


# --------------------------------------------------------------------------------------- the rules
@dataclass(frozen=True)
class Scale:
    """low … high become 0 … 255, or with `bits` the upper eight of so many bits are taken."""

    low: float
    high: float
    bits: int | None = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if self.bits is not None:
            return (values >> (self.bits - 8)).clip(0, 255).astype(np.uint8)
        stretched = (values.astype(np.float64) - self.low) * (255 / (self.high - self.low or 1.0))
        return stretched.round().clip(0, 255).astype(np.uint8)

    def __str__(self) -> str:
        if self.bits:
            return f"as {self.bits}-bit values"
        return f"with {self.low:g} as black and {self.high:g} as white"


@dataclass(frozen=True)
class PixelRules:
    """How the deep and the transparent pictures of a data set are read; `seen`: how many of each kind
    there are, with the range of their values.
    """

    scales: Mapping[str, Scale] = field(default_factory=dict)
    background: int | None = None
    seen: Mapping[str, tuple[int, float, float]] = field(default_factory=dict, compare=False)
    transparent: int = field(default=0, compare=False)

    @property
    def about(self) -> dict:
        """In values that JSON can hold: it identifies features that were made by these rules."""
        scales = {kind: [one.low, one.high, one.bits] for kind, one in self.scales.items()}
        return {"version": VERSION, "scale": scales, "background": self.background}

    @property
    def remarks(self) -> list[str]:
        """What was chosen, for a person."""
        texts = [
            f"{_images(count)} of {kind} values from {low:g} to {high:g}, read {self.scales[kind]}"
            for kind, (count, low, high) in self.seen.items()
        ]
        if self.transparent:
            colour = "white" if self.background == WHITE else "black"
            texts.append(f"{_images(self.transparent)} with transparent parts, laid on {colour}")
        return texts


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def choose_rules(pictures: Iterable[Pixels | None]) -> PixelRules:
    """Choose one scale for each kind of deep values and one background, from what the pictures of a data
    set hold (None: nothing that bears on it).

    Whole numbers are taken to have as many bits as the largest needs, of DEPTHS; floats to be of 0..1,
    which they may exceed a little, or of 0..255 if the largest comes near it; other values, as negative
    ones, are stretched from the least to the largest. The background is white or black, whichever
    differs more from what is visible.
    """
    pictures = [picture for picture in pictures if picture is not None]
    scales, seen = {}, {}
    for kind in DEEP_KINDS:
        ranges = [(picture.low, picture.high) for picture in pictures if picture.kind == kind]
        if ranges:
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
            scales[kind], seen[kind] = _choose_scale(kind, low, high), (len(ranges), low, high)
    lights = [picture.light for picture in pictures if picture.light is not None]
    background = None
    if lights:
        background = WHITE if sum(lights) / len(lights) < 127.5 else BLACK
    return PixelRules(scales, background, seen, len(lights))


def _choose_scale(kind: str, low: float, high: float) -> Scale:
    if kind == FLOAT:
        below = OVERSHOOT if high > 0.5 else 0  # else it is a range of its own
        if low >= -below and high <= 1 + OVERSHOOT:
            return Scale(0, 1)
        return Scale(0, 255) if low >= 0 and BRIGHT < high <= 255 else Scale(low, high)
    if low < 0:
        return Scale(low, high)
    return Scale(0, high, next(bits for bits in DEPTHS if high < 2**bits))


# ------------------------------------------------------------------------------------- a single file
@contextlib.contextmanager
def pixel_limit(most: int | None) -> Iterator[None]:
    """Let Pillow suspect an attack in the block from `most` pixels on; None: from its own limit on. It
    warns from once the limit on, which is not shown: what it refuses, from twice on, is said in words of
    ours.
    """
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = most or before
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def rgb(source: str | bytes, rules: PixelRules) -> Image.Image:
    """Read a file, by its path or content, as 8-bit RGB: of several frames the first, the right way up.
    Raises whatever PIL does for one that it cannot decode.
    """
    with open_image(source) as image:
        picture = _eight_bits(image, source, rules)
        turn = TURNS.get(_orientation(image))
        return _opaque(picture.transpose(turn) if turn is not None else picture, rules)


def look_at(source: str | bytes) -> Pixels | None:
    """Tell what bears on how the file's data set is read; None: nothing. Decodes it only if need be.
    Raises whatever PIL does for a file that it cannot read.
    """
    with open_image(source) as image:
        if not (is_deep(image) or _has_alpha(image)):
            return None
        deep = deep_values(image, source)
        found = Pixels()
        if deep:
            colours = deep.colours
            found = Pixels(deep.kind, colours.min().item(), colours.max().item())
        light = _light(_eight_bits(image, source, choose_rules([found]), deep))
        return found._replace(light=light) if deep or light is not None else None


def is_plain(head: bytes) -> bool:
    """Tell whether its first bytes say that nothing of a file bears on how its data set is read."""
    if head[:3] == b"\xff\xd8\xff":  # JPEG
        return True
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        depth, colours = head[24:25], head[25:26]
        data = head.find(b"IDAT")
        plain = depth < b"\x10" and colours in (b"\x00", b"\x02", b"\x03")
        return plain and data > 0 and b"tRNS" not in head[:data]
    return head[:2] == b"BM" and int.from_bytes(head[28:30], "little") <= 24


HEAD = 4096  # bytes of a file that `is_plain` is to be shown


# ----------------------------------------------------------------------------- eight bits a channel
def _eight_bits(
    image: Image.Image, source: str | bytes, rules: PixelRules, deep: Deep | None = None
) -> Image.Image:
    """Turn it into an image of a mode of eight bits a channel, or fewer."""
    deep = deep or deep_values(image, source)
    if deep is None:
        image.load()
        return image
    colours, scale = deep.colours, rules.scales.get(deep.kind)
    if scale is None:  # it could not be read when the rules were chosen
        scale = _choose_scale(deep.kind, colours.min().item(), colours.max().item())
    eight = scale(colours)
    if colours is not deep.values:
        alpha = deep.values[..., -1:]
        alpha = alpha if alpha.max() <= 255 else alpha >> 8
        eight = np.concatenate([eight, alpha.astype(np.uint8)], -1)
    size = eight.shape[1::-1]
    picture = Image.frombytes(deep.mode, size, np.ascontiguousarray(eight).tobytes())
    see_through = image.info.get("transparency")  # the value that a PNG without alpha names so
    if see_through is not None and deep.mode in ("L", "RGB"):
        visible = (deep.values.reshape(*size[::-1], -1) != see_through).any(-1)
        picture.putalpha(Image.fromarray(visible.astype(np.uint8) * 255))
    return picture


# -------------------------------------------------------------------------------- alpha, turned pictures
def _has_alpha(image: Image.Image) -> bool:
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return True
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _straight(image: Image.Image) -> Image.Image | None:
    """Convert to RGBA with straight alpha; None for a picture that is opaque, or has an alpha of 0
    throughout, as 32-bit pictures do whose fourth channel means nothing.
    """
    if not _has_alpha(image):
        return None
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
    least, most = image.getchannel("A").getextrema()
    return None if least == 255 or most == 0 else image


def _light(image: Image.Image) -> float | None:
    """Return the mean luminance of what is visible; None for a picture without transparent parts."""
    straight = _straight(image)
    if straight is None:
        return None
    return float(np.average(straight.convert("L"), weights=np.asarray(straight.getchannel("A"))))


def _opaque(image: Image.Image, rules: PixelRules) -> Image.Image:
    straight = _straight(image)
    if straight is not None:
        background = rules.background
        if background is None:  # it could not be read when the rules were chosen
            background = choose_rules([Pixels(light=_light(image))]).background
        under = Image.new("RGBA", image.size, (background,) * 3 + (255,))
        return Image.alpha_composite(under, straight).convert("RGB")
    if image.mode == "LAB":
        profiles = (ImageCms.createProfile(name) for name in ("LAB", "sRGB"))
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    return image.convert("RGB")


# What EXIF's numbers ask for, as PIL's exif_transpose has it; that one fails on EXIF data that it cannot
# write again.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112


def _orientation(image: Image.Image) -> int | None:
    """Read it of a file that was decoded: PIL turns TIFF itself, and forgets the number."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # of damaged EXIF data PIL raises half a dozen types; the picture may be whole
        return None
