"""How stored pixels become 8-bit RGB, whatever a file holds: deep greys, floats, alpha, turned pictures.

Where a scale or a background has to be chosen it is one for a whole data set, both splits together:
`look_at` says what of a file bears on the choice, `choose_rules` chooses, `rgb` reads by the rules.
"""

import contextlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

VERSION = 1  # of the reading: features of files that were read otherwise are not found again
DEEP_KINDS = SIXTEEN, INTEGER, FLOAT = ("16-bit", "integer", "float")
DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits that instruments fill
BLACK, WHITE = 0, 255
# Of floats: what interpolation adds to 0..1 on both sides; the least that 0..255 are taken to reach.
OVERSHOOT, BRIGHT = 0.1, 64

# From once the limit on; what it refuses, from twice on, is said in words of ours.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


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
    def told(self) -> list[str]:
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
    """Let Pillow suspect an attack in the block from `most` pixels on; None: from its own limit on."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = most or before
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def rgb(source: str | bytes, rules: PixelRules) -> Image.Image:
    """Read a file, by its path or content, as 8-bit RGB: of several frames the first, the right way up.
    Raises whatever PIL does for one that it cannot decode.
    """
    with _open(source) as image:
        picture = _eight_bits(image, source, rules)
        turn = TURNS.get(_orientation(image))
        return _opaque(picture.transpose(turn) if turn is not None else picture, rules)


def look_at(source: str | bytes) -> Pixels | None:
    """Tell what bears on how the file's data set is read; None: nothing. Decodes it only if need be.
    Raises whatever PIL does for a file that it cannot read.
    """
    with _open(source) as image:
        if not (_is_deep(image) or _has_alpha(image)):
            return None
        deep = _deep_values(image, source)
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


def _open(source: str | bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(source) if isinstance(source, bytes) else source)
    except Image.DecompressionBombError as error:
        most = Image.MAX_IMAGE_PIXELS
        raise ValueError(
            f"it has more than {2 * most:,} pixels, twice the limit: read it nevertheless with a "
            f"--MAX_PIXELS N larger than {most}"
        ) from error
    image.filename = ""  # PIL would map what is stored raw, and scramble TIFF that it turns
    return image


# ------------------------------------------------------------------------------------------ deep values
@dataclass(frozen=True)
class _Deep:
    """(h, w) or (h, w, channels) values of more than eight bits; `mode` is PIL's for 8-bit ones."""

    kind: str
    values: np.ndarray
    mode: str

    @property
    def colours(self) -> np.ndarray:
        return self.values[..., :-1] if self.mode in ("LA", "RGBA", "RGBa") else self.values


# How PIL's decoders name 16-bit colour: of each value they keep one byte, the upper one.
DEEP_COLOURS = ("RGB", "RGBX", "RGBA", "RGBa", "CMYK")
OTHER_BYTE = {
    "B": "L",
    "L": "B",
    "N": "B" if sys.byteorder == "little" else "L",
}


def _raw_mode(image: Image.Image) -> str:
    """Tell how the file stores its pixels, known until they are decoded."""
    tiles = getattr(image, "tile", None)
    if not tiles or tiles[0][0] not in ("zip", "raw", "libtiff"):
        return ""
    modes = {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in tiles}
    return modes.pop() if len(modes) == 1 else ""


def _is_deep_colour(raw_mode: str) -> bool:
    name, _, depth = raw_mode.partition(";")
    return raw_mode == "LA;16B" or (name in DEEP_COLOURS and depth in ("16B", "16L", "16N"))


def _deep_ppm(image: Image.Image) -> int | None:
    """Return the largest value that a binary PPM in colour admits, if it needs 16 bits."""
    tile = image.tile[0] if image.format == "PPM" and image.mode == "RGB" and image.tile else None
    return tile[3][1] if tile and tile[0] == "ppm" and tile[3][1] > 255 else None


def _is_deep(image: Image.Image) -> bool:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return True
    return _is_deep_colour(_raw_mode(image)) or _deep_ppm(image) is not None


def _deep_values(image: Image.Image, source: str | bytes) -> _Deep | None:
    raw_mode, ppm = _raw_mode(image), _deep_ppm(image)
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("some pixels are NaN or infinite")
        return _Deep(FLOAT, values, "L")
    if image.mode.startswith("I;16"):
        return _Deep(SIXTEEN, np.asarray(image), "L")
    if image.mode == "I":
        unsigned = image.format == "TIFF" and image.tag_v2.get(SAMPLE_FORMAT, (1,))[0] == 1
        values = np.asarray(image)
        return _Deep(INTEGER, values.view(np.uint32) if unsigned else values, "L")
    if ppm is not None:
        return _Deep(SIXTEEN, _ppm_values(image, source, ppm), "RGB")
    if raw_mode == "LA;16B":
        upper_and_lower = np.asarray(_decoded_as(source, "RGBA")).astype(np.uint16)
        return _Deep(SIXTEEN, upper_and_lower[..., ::2] << 8 | upper_and_lower[..., 1::2], "LA")
    if _is_deep_colour(raw_mode):
        lower = _decoded_as(source, raw_mode[:-1] + OTHER_BYTE[raw_mode[-1]])
        upper = np.asarray(image).astype(np.uint16)
        return _Deep(SIXTEEN, upper << 8 | np.asarray(lower), image.mode)
    return None


SAMPLE_FORMAT = 339  # TIFF's: 1 for unsigned whole numbers, which PIL reads as signed ones


def _decoded_as(source: str | bytes, raw_mode: str) -> Image.Image:
    """Decode the file's pixels as if it stored them in another way."""
    with _open(source) as image:
        image.tile = [_stored_as(raw_mode, tile) for tile in image.tile]
        image.load()
        return image


def _stored_as(raw_mode: str, tile: tuple) -> tuple:
    """Change a part of a file, as PIL describes it: (decoder, place, offset, how pixels are stored)."""
    how = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
    return tile._replace(args=how) if hasattr(tile, "_replace") else (*tile[:3], how)


def _ppm_values(image: Image.Image, source: str | bytes, largest: int) -> np.ndarray:
    """Read the values, scaled to 16 bits, as PIL does it for greys."""
    offset, (width, height) = image.tile[0][2], image.size
    if isinstance(source, str):
        with open(source, "rb") as file:
            source = file.read()
    values = np.frombuffer(source, ">u2", 3 * width * height, offset).reshape(height, width, 3)
    return (values * (65535 / largest)).round().clip(0, 65535).astype(np.uint16)


def _eight_bits(
    image: Image.Image, source: str | bytes, rules: PixelRules, deep: _Deep | None = None
) -> Image.Image:
    """Turn it into an image of a mode of eight bits a channel, or fewer."""
    deep = deep or _deep_values(image, source)
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
