"""Values of more than eight bits, of which Pillow's decoders may keep one byte."""

import sys
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

DEEP_KINDS = SIXTEEN, INTEGER, FLOAT = ("16-bit", "integer", "float")


def open_image(source: str | bytes) -> Image.Image:
    """Open a file, by its path or content, without decoding it. Raises whatever PIL does for others."""
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


@dataclass(frozen=True)
class Deep:
    """(h, w) or (h, w, channels) values of more than eight bits; `mode` is PIL's for 8-bit ones."""

    kind: str
    values: np.ndarray
    mode: str

    @property
    def colours(self) -> np.ndarray:
        return self.values[..., :-1] if self.mode in ("LA", "RGBA", "RGBa") else self.values


# How PIL's decoders name 16-bit colour: of each value they keep one byte, the upper one.
DEEP_COLOURS = ("RGB", "RGBX", "RGBA", "RGBa", "CMYK")
OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


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


def is_deep(image: Image.Image) -> bool:
    """Tell whether an opened file has values of more than eight bits."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return True
    return _is_deep_colour(_raw_mode(image)) or _deep_ppm(image) is not None


def deep_values(image: Image.Image, source: str | bytes) -> Deep | None:
    """Decode the values of an opened file if they have more than eight bits."""
    raw_mode, ppm = _raw_mode(image), _deep_ppm(image)
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("some pixels are NaN or infinite")
        return Deep(FLOAT, values, "L")
    if image.mode.startswith("I;16"):
        return Deep(SIXTEEN, np.asarray(image), "L")
    if image.mode == "I":
        unsigned = image.format == "TIFF" and image.tag_v2.get(SAMPLE_FORMAT, (1,))[0] == 1
        values = np.asarray(image)
        return Deep(INTEGER, values.view(np.uint32) if unsigned else values, "L")
    if ppm is not None:
        return Deep(SIXTEEN, _ppm_values(image, source, ppm), "RGB")
    if raw_mode == "LA;16B":
        upper_and_lower = np.asarray(_decoded_as(source, "RGBA")).astype(np.uint16)
        return Deep(SIXTEEN, upper_and_lower[..., ::2] << 8 | upper_and_lower[..., 1::2], "LA")
    if _is_deep_colour(raw_mode):
        lower = _decoded_as(source, raw_mode[:-1] + OTHER_BYTE[raw_mode[-1]])
        upper = np.asarray(image).astype(np.uint16)
        return Deep(SIXTEEN, upper << 8 | np.asarray(lower), image.mode)
    return None


SAMPLE_FORMAT = 339  # TIFF's: 1 for unsigned whole numbers, which PIL reads as signed ones


def _decoded_as(source: str | bytes, raw_mode: str) -> Image.Image:
    """Decode the file's pixels as if it stored them in another way."""
    with open_image(source) as image:
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
