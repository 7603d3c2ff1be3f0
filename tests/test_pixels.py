"""Whatever a file holds becomes the RGB picture that it stands for."""

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.processes import run as python
from tests.tiny_data import write_class_folders
from utils.backbones import GREY, load_backbone
from utils.datasets import ImageFiles, identity, load_dataset, rgb_image
from utils.errors import InputError
from utils.features import cache as feature_cache
from utils.features import cached_features, decoded_split, decoding

RNG = np.random.default_rng(0)
CLASSES = ("circle", "square")
EACH = 5


@pytest.fixture(scope="module")
def lite():
    return load_backbone("efficientnet_lite0", torch.device("cpu"), image_size=32)


def pictures(shape: tuple[int, ...] = (6, 9)) -> list[np.ndarray]:
    return [RNG.integers(0, 256, shape, dtype=np.uint8) for _ in range(len(CLASSES) * EACH)]


def write_folder(folder: Path, files: list[bytes], suffix: str) -> str:
    """Class folders with the files, as a data set's name."""
    for k, content in enumerate(files):
        path = folder / CLASSES[k // EACH] / f"{k:02d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return f"folder:{folder}"


def load(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is said is tested on its own
        return load_dataset(name)


def seen(name: str) -> dict[str, np.ndarray]:
    """By its name without ending, each image as a network's transform gets it."""
    data = load(name)
    return {
        Path(file).stem: np.asarray(rgb_image(split.images, k))
        for split in (data.train, data.test)
        for k, file in enumerate(split.images.names)
    }


def read(content: bytes, folder: Path) -> np.ndarray:
    """The pixels of a file that is a data set of its own."""
    (folder / "file").write_bytes(content)
    return np.asarray(rgb_image(ImageFiles(folder, ("file",)), 0))


def as_file(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()


def deep_png(values: np.ndarray) -> bytes:
    """16 bits a channel, as PIL cannot write it; (h, w, channels)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    height, width, channels = values.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def tiff(values: np.ndarray, order: str, sample_format: int, deflated: bool = False) -> bytes:
    """One strip of (h, w, channels) values, in the byte order < or >."""
    height, width, channels = values.shape
    strip = values.astype(values.dtype.newbyteorder(order)).tobytes()
    strip = zlib.compress(strip) if deflated else strip
    tags = {
        256: [width],
        257: [height],
        258: [8 * values.dtype.itemsize] * channels,
        259: [8 if deflated else 1],
        262: [2 if channels > 1 else 1],
        273: [0],
        277: [channels],
        278: [height],
        279: [len(strip)],
        339: [sample_format] * channels,
    }
    start = 8 + 2 + 12 * len(tags) + 4
    lists, entries = b"", b""
    tags[273] = [start + sum(2 * len(v) for v in tags.values() if len(v) > 2)]
    for tag, numbers in tags.items():
        kind = "I" if tag in (273, 279) else "H"
        packed = struct.pack(order + kind * len(numbers), *numbers)
        if len(packed) > 4:
            lists, packed = lists + packed, struct.pack(order + "I", start + len(lists))
        code = {"H": 3, "I": 4}[kind]
        entries += struct.pack(order + "HHI", tag, code, len(numbers)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + lists + strip


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, 2)


# ------------------------------------------------------------------------------------------ deep values
@pytest.mark.parametrize(
    "write, suffix, kind",
    [
        (lambda p: as_file(p.astype(np.uint16)), ".png", "16-bit"),
        (lambda p: as_file(p.astype(np.uint16), "TIFF"), ".tif", "16-bit"),
        (lambda p: as_file(p.astype(np.uint16), "TIFF", compression="tiff_lzw"), ".tif", "16-bit"),
        (lambda p: as_file(p.astype(np.int32), "TIFF"), ".tif", "integer"),
        (lambda p: tiff(p[:, :, None].astype(np.uint32), "<", 1), ".tif", "integer"),
        (lambda p: tiff(p[:, :, None].astype(np.int16), ">", 2), ".tif", "integer"),
        (lambda p: as_file((p / 255).astype(np.float32), "TIFF"), ".tif", "float"),
        (lambda p: as_file(p.astype(np.float32), "TIFF"), ".tif", "float"),
        (lambda p: b"P5 9 6 65535\n" + p.astype(">u2").tobytes(), ".pgm", "integer"),
        (lambda p: b"P5 9 6 1020\n" + (p.astype(">u2") * 4).astype(">u2").tobytes(), ".pgm", "integer"),
    ],
)
def test_eight_bit_greys_in_a_deeper_file_are_seen_as_they_are(tmp_path, write, suffix, kind):
    plain = pictures()
    name = write_folder(tmp_path / "deep", [write(picture) for picture in plain], suffix)
    data = load(name)
    assert list(data.train.images.reading.scales) == [kind]
    found = seen(name)
    for k, picture in enumerate(plain):
        np.testing.assert_array_equal(found[f"{k:02d}"], grey(picture))


@pytest.mark.parametrize(
    "write, suffix",
    [
        (deep_png, ".png"),
        (lambda values: tiff(values, "<", 1), ".tif"),
        (lambda values: tiff(values, ">", 1), ".tif"),
        (lambda values: tiff(values, "<", 1, deflated=True), ".tif"),
        (lambda values: tiff(values, ">", 1, deflated=True), ".tif"),
        (lambda values: b"P6 9 6 65535\n" + values.astype(">u2").tobytes(), ".ppm"),
    ],
)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_sixteen_bit_colour(tmp_path, write, suffix, bits):
    """PIL keeps the upper byte of each value: 8-bit colours would all be black."""
    deep = [RNG.integers(0, 2**bits, (6, 9, 3), dtype=np.uint16) for _ in range(2 * EACH)]
    deep[0][0, 0] = 2**bits - 1
    found = seen(write_folder(tmp_path / "deep", [write(values) for values in deep], suffix))
    for k, values in enumerate(deep):
        np.testing.assert_array_equal(found[f"{k:02d}"], values >> (bits - 8))


@pytest.mark.parametrize("channels", [2, 4])
def test_sixteen_bit_colour_with_alpha(tmp_path, channels):
    values = RNG.integers(0, 256, (6, 9, channels), dtype=np.uint16)
    values[..., -1] = 65535
    expected = grey(values[..., 0]) if channels == 2 else values[..., :3]
    np.testing.assert_array_equal(read(deep_png(values), tmp_path), expected)
    values[0, 0, -1] = 0
    values[..., :-1] //= 4  # dark, so that it lies on white
    expected = (grey(values[..., 0]) if channels == 2 else values[..., :3]).copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(read(deep_png(values), tmp_path), expected)


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0, 1023, 512]], np.uint16), [0, 255, 128]),  # 10 bits
        (np.array([[0, 4095, 2048]], np.uint16), [0, 255, 128]),
        (np.array([[0, 16383, 8192]], np.uint16), [0, 255, 128]),
        (np.array([[0, 65535, 32768]], np.uint16), [0, 255, 128]),
        (np.array([[0, 2**24 - 1, 2**23]], np.int32), [0, 255, 128]),
        (np.array([[0, 2**31 - 1, 2**30]], np.int32), [0, 127, 64]),
        (np.array([[-100, 100, -20]], np.int32), [0, 255, 102]),
        (np.array([[-1.0, 1.0, -0.2]], np.float32), [0, 255, 102]),
        (np.array([[0.0, 3000.0, 600.0]], np.float32), [0, 255, 51]),
        (np.zeros((1, 3), np.float32), [0, 0, 0]),
        (np.full((1, 3), 700, np.float32), [0, 0, 0]),
        (np.array([[0.0, 1.02, 0.2]], np.float32), [0, 255, 51]),
        (np.array([[-0.04, 1.08, 0.2]], np.float32), [0, 255, 51]),  # as interpolation leaves 0..1
        (np.array([[-0.05, 0.05, -0.03]], np.float32), [0, 255, 51]),
        (np.array([[0.0, 4.0, 0.8]], np.float32), [0, 255, 51]),
        (np.array([[0.0, 50.0, 10.0]], np.float32), [0, 255, 51]),
        (np.array([[0.0, 200.0, 51.0]], np.float32), [0, 200, 51]),  # of 0..255
    ],
)
def test_the_scale_that_values_have(tmp_path, values, expected):
    assert read(as_file(values, "TIFF"), tmp_path)[0, :, 0].tolist() == expected


def test_unsigned_numbers_of_32_bits(tmp_path):
    values = np.array([[[0], [2**32 - 1], [2**31]]], np.uint32)
    assert read(tiff(values, "<", 1), tmp_path)[0, :, 0].tolist() == [0, 255, 128]


@pytest.mark.parametrize("brightest", [0, 2 * EACH - 1])
def test_one_scale_for_a_data_set(tmp_path, brightest):
    """A dark image stays darker than a bright one, in whichever split the brightest lies."""
    deep = [np.full((6, 9), 100 * k, np.uint16) for k in range(2 * EACH)]
    deep[brightest][0, 0] = 65535
    name = write_folder(tmp_path / "deep", [as_file(values) for values in deep], ".png")
    for k in range(2 * EACH):
        assert seen(name)[f"{k:02d}"][5, 5, 0] == 100 * k >> 8
    with pytest.warns(
        UserWarning, match=r"deep: 10 images of 16-bit values from 0 to 65535, read as 16-"
    ):
        load_dataset(name)


def test_nothing_is_said_of_ordinary_files(tmp_path):
    write_class_folders(tmp_path / "jpeg", CLASSES, 4)
    write_class_folders(tmp_path / "png", CLASSES, 4, ".png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("jpeg", "png"):
            about = load_dataset(f"folder:{tmp_path / kind}").provenance["pixels"]
            assert about["scale"] == {} and about["background"] is None


def test_ordinary_files_are_not_decoded_to_know_them(tmp_path, monkeypatch):
    write_class_folders(tmp_path / "jpeg", CLASSES, 4)
    write_class_folders(tmp_path / "png", CLASSES, 4, ".png")
    write_class_folders(tmp_path / "bmp", CLASSES, 4, ".bmp")
    monkeypatch.setattr(identity, "look_at", lambda _: pytest.fail("it was opened"))
    for kind in ("jpeg", "png", "bmp"):
        load_dataset(f"folder:{tmp_path / kind}")


def test_values_that_are_no_numbers(tmp_path, lite):
    images = [np.full((6, 9), k / 10, np.float32) for k in range(2 * EACH)]
    images[3][2, 2] = np.nan
    data = load(write_folder(tmp_path / "float", [as_file(v, "TIFF") for v in images], ".tif"))
    split = data.train if any("03.tif" in name for name in data.train.images.names) else data.test
    with pytest.raises(InputError, match=r"03\.tif \(some pixels are NaN or infinite\)"):
        cached_features(lite, split, tmp_path / "features", "float")
    assert data.train.images.reading.scales["float"].high == 1  # of the others


def test_a_lenet_sees_deep_files_as_shallow_ones(tmp_path):
    plain = pictures((28, 28))
    names = [
        write_folder(tmp_path / "plain", [as_file(p) for p in plain], ".png"),
        write_folder(tmp_path / "deep", [as_file(p.astype(np.uint16)) for p in plain], ".png"),
    ]
    one, other = (decoded_split(load(name).train, GREY)[0] for name in names)
    assert torch.equal(one.images, other.images) and one.images.shape[1:] == (1, 28, 28)


# ----------------------------------------------------------------------------------------- orientation
UPRIGHT = {  # what EXIF's numbers say of stored rows and columns
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize(
    "kind, options", [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})]
)
def test_pictures_are_seen_the_right_way_up(tmp_path, number, kind, options):
    stored = Image.fromarray(RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = number
    content = as_file(stored, kind, **options)
    pixels = np.asarray(Image.open(BytesIO(content)))
    turned = as_file(stored, kind, exif=exif, **options)
    np.testing.assert_array_equal(read(turned, tmp_path), UPRIGHT[number](pixels))


@pytest.mark.parametrize("number", UPRIGHT)
def test_tiff_that_pillow_would_map_is_turned_whole(tmp_path, number):
    """Greys, deep greys and palettes, stored raw: mapped, their rows had the length of their columns."""
    stored = RNG.integers(0, 256, (28, 40), dtype=np.uint8)
    palette = Image.fromarray(stored, "P")
    palette.putpalette([k for value in range(256) for k in (value, 255 - value, 7)])
    exif = Image.Exif()
    exif[0x0112] = number
    for picture in (stored, stored.astype(np.uint16), palette):
        expected = np.asarray(palette.convert("RGB")) if picture is palette else grey(stored)
        turned = as_file(picture, "TIFF", exif=exif)
        np.testing.assert_array_equal(read(turned, tmp_path), UPRIGHT[number](expected))


def test_damaged_exif_data_cost_no_picture(tmp_path):
    stored = Image.fromarray(RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    for exif in (
        b"Exif\0\0nonsense",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(read(as_file(stored, exif=exif), tmp_path), np.asarray(stored))


# ------------------------------------------------------------------------------------------------ alpha
def with_alpha(colour: int, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([np.full((*alpha.shape, 3), colour, np.uint8), alpha]))


@pytest.mark.parametrize("colour, background", [(0, 255), (255, 0), (40, 255), (200, 0)])
@pytest.mark.parametrize("kind, suffix", [("PNG", ".png"), ("TIFF", ".tif"), ("WEBP", ".webp")])
def test_what_the_alpha_channel_draws_is_seen(tmp_path, colour, background, kind, suffix):
    shapes = [np.where(picture > 127, 255, 0).astype(np.uint8) for picture in pictures()]
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    files = [as_file(with_alpha(colour, shape), kind, **options) for shape in shapes]
    name = write_folder(tmp_path / "shapes", files, suffix)
    found = seen(name)
    for k, shape in enumerate(shapes):
        expected = np.where(shape == 255, colour, background)
        np.testing.assert_array_equal(found[f"{k:02d}"], grey(expected))
    said = "white" if background == 255 else "black"
    with pytest.warns(UserWarning, match=f"10 images with transparent parts, laid on {said}"):
        load_dataset(name)


def test_parts_that_are_half_transparent(tmp_path):
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = grey(255 - alpha.astype(int))  # black of the opacity alpha over white
    np.testing.assert_array_equal(read(as_file(with_alpha(0, alpha)), tmp_path), expected)


def test_one_background_for_a_data_set(tmp_path):
    """Of nine dark shapes and a bright one the background is white, for all of them."""
    shape = np.eye(6, dtype=np.uint8) * 255
    files = [as_file(with_alpha(255 if k == 4 else 10, shape)) for k in range(2 * EACH)]
    found = seen(write_folder(tmp_path / "shapes", files, ".png"))
    assert all(image[0, 5].tolist() == [255] * 3 for image in found.values())


def test_transparent_colours_of_a_palette(tmp_path):
    drawn = Image.new("P", (9, 6), 1)
    drawn.putpalette([255, 0, 0, 10, 20, 30])
    drawn.putpixel((0, 0), 0)
    for kind in ("PNG", "GIF"):
        pixels = read(as_file(drawn, kind, transparency=0), tmp_path)
        assert pixels[0, 0].tolist() == [255] * 3 and pixels[1, 1].tolist() == [10, 20, 30]
        pixels = read(as_file(drawn, kind), tmp_path)
        assert pixels[0, 0].tolist() == [255, 0, 0] and pixels[1, 1].tolist() == [10, 20, 30]
    half = as_file(drawn, transparency=bytes([128, 255]))
    assert read(half, tmp_path)[0, 0].tolist() == pytest.approx([255, 127, 127], abs=1)


@pytest.mark.parametrize("deep", [False, True])
def test_a_grey_or_a_colour_that_stands_for_transparent(tmp_path, deep):
    values = np.full((6, 9), 30, np.uint16 if deep else np.uint8)
    values[0, 0] = 200
    pixels = read(as_file(values, transparency=200), tmp_path)
    assert pixels[0, 0].tolist() == [255] * 3 and pixels[1, 1].tolist() == [30] * 3
    colours = np.dstack([values.astype(np.uint8), np.zeros((6, 9, 2), np.uint8)])
    pixels = read(as_file(colours, transparency=(200, 0, 0)), tmp_path)
    assert pixels[0, 0].tolist() == [255] * 3 and pixels[1, 1].tolist() == [30, 0, 0]


@pytest.mark.parametrize("alpha", [0, 255])
def test_an_alpha_that_says_nothing_changes_nothing(tmp_path, alpha):
    """Of opaque pictures, and of those whose fourth channel was never written."""
    colours = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(np.dstack([colours, np.full((6, 9), alpha, np.uint8)]))
    np.testing.assert_array_equal(read(as_file(picture), tmp_path), colours)


# ------------------------------------------------------------------------------------------ other modes
def test_other_kinds_of_pictures(tmp_path):
    bits = Image.fromarray(RNG.integers(0, 2, (6, 9), dtype=np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(read(as_file(bits), tmp_path), grey(np.asarray(bits) * 255))
    values = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
    two = Image.merge("LA", [Image.fromarray(values), Image.new("L", (9, 6), 255)])
    np.testing.assert_array_equal(read(as_file(two), tmp_path), grey(values))

    cyan = Image.new("CMYK", (9, 6), (255, 0, 0, 0))
    for kind in ("TIFF", "JPEG"):
        assert read(as_file(cyan, kind), tmp_path)[3, 3].tolist() == pytest.approx([0, 255, 255], abs=2)
    red = as_file(Image.new("RGB", (9, 6), (255, 0, 0)).convert("YCbCr"), "TIFF")
    assert read(red, tmp_path)[3, 3].tolist() == pytest.approx([255, 0, 0], abs=2)
    # CIELAB (53.2, 80.1, 67.2) is the red of sRGB, to the white of D65.
    lab = as_file(Image.new("LAB", (9, 6), (136, 128 + 80, 128 + 67)), "TIFF")
    assert read(lab, tmp_path)[3, 3].tolist() == pytest.approx([255, 0, 0], abs=25)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_of_several_frames_is_seen(tmp_path, kind):
    frames = [Image.new("RGB", (9, 6), (value,) * 3) for value in (50, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = as_file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(read(content, tmp_path), np.full((6, 9, 3), 50))


# -------------------------------------------------------------------------------------- what is said
def test_images_of_one_single_colour_are_said(tmp_path, lite):
    write_class_folders(tmp_path / "photos", CLASSES, 10, ".png")
    split = load(f"folder:{tmp_path / 'photos'}").train
    blank = [split.images.root / split.images.names[k] for k in (2, 9)]
    Image.new("RGB", (40, 32), (7, 8, 9)).save(blank[0])
    with warnings.catch_warnings():  # one of sixteen
        warnings.simplefilter("error")
        split = load(f"folder:{tmp_path / 'photos'}").train
        cached_features(lite, split, tmp_path / "one", "photos")
    Image.new("RGB", (40, 32), (99, 8, 9)).save(blank[1])
    split = load(f"folder:{tmp_path / 'photos'}").train
    said = rf"2 of 16 images are of one single colour to the network: {blank[0]}, {blank[1]}$"
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match=said):
            cached_features(lite, split, tmp_path / "two", "photos")
    with pytest.warns(UserWarning, match=said):
        decoded_split(split, GREY, workers=2)


def test_ordinary_data_are_not_said_to_be_of_one_colour():
    for name in ("MNIST", "FMNIST"):
        images = load_dataset(name, "embedded").train.images
        part = decoding.part_of_frames(images, torch.arange(len(images)), [])
        assert len(part.one_colour) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_very_large_images(tmp_path, lite, monkeypatch, workers):
    write_class_folders(tmp_path / "photos", CLASSES, 5, ".png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)  # of 40×32 = 1,280; twice as many are refused
    name = f"folder:{tmp_path / 'photos'}"
    problem = r"_\d\.png \(it has more than 1,200 pixels, .* --MAX_PIXELS N larger than 600\)"
    with pytest.raises(InputError, match=problem):
        cached_features(lite, load(name).train, tmp_path / "features", "photos", workers=workers)
    split = load_dataset(name, max_pixels=700).train  # of which Pillow warns
    features, _ = cached_features(lite, split, tmp_path / "features", "photos", workers=workers)
    assert len(features) == 8 and Image.MAX_IMAGE_PIXELS == 600


def test_pillow_says_nothing_of_large_images_in_its_own_words(tmp_path):
    """In a process of its own: pytest lets every warning through."""
    write_class_folders(tmp_path / "photos", CLASSES, 5, ".tif")
    code = (
        "from utils.datasets import load_dataset, rgb_image\n"
        f"images = load_dataset({f'folder:{tmp_path}/photos'!r}, max_pixels=700).train.images\n"
        "rgb_image(images, 0)"
    )
    ran = python("-c", code)
    assert (ran.returncode, ran.stderr) == (0, "")


# ------------------------------------------------------------------------------------- the cache's key
def test_a_data_set_whose_scale_changes_is_extracted_again(tmp_path, lite, monkeypatch):
    deep = [as_file(p.astype(np.uint16)) for p in pictures()]
    name = write_folder(tmp_path / "deep", deep, ".png")
    before = load(name)
    first, _ = cached_features(lite, before.train, tmp_path / "features", "deep")
    brightest = before.test.images.root / before.test.images.names[0]
    brightest.write_bytes(as_file(np.full((6, 9), 65535, np.uint16)))
    after = load(name)
    assert after.train.images.digests == before.train.images.digests
    second, _ = cached_features(lite, after.train, tmp_path / "features", "deep")
    assert not torch.equal(first.x, second.x)

    monkeypatch.setattr(feature_cache, "forward", lambda *_: iter(()))  # fails if it must give features
    again, _ = cached_features(lite, after.train, tmp_path / "features", "deep")
    assert torch.equal(again.x, second.x)


def test_files_that_have_no_scale_do_not_depend_on_it(tmp_path, lite, monkeypatch):
    write_class_folders(tmp_path / "mixed" / "train", CLASSES, 4)
    write_class_folders(tmp_path / "mixed" / "test", CLASSES, 2)
    name = f"folder:{tmp_path / 'mixed'}"
    first, _ = cached_features(lite, load(name).train, tmp_path / "features", "mixed")
    (tmp_path / "mixed" / "test" / CLASSES[0] / "x-ray.png").write_bytes(
        as_file(np.full((6, 9), 4095, np.uint16))
    )
    monkeypatch.setattr(feature_cache, "forward", lambda *_: iter(()))  # fails if it must give features
    again, _ = cached_features(lite, load(name).train, tmp_path / "features", "mixed")
    assert torch.equal(first.x, again.x)
