"""Frames made by tensors, here on the CPU: PIL's, to the last bit; and what is left to PIL."""

import io
import threading
import warnings
from dataclasses import replace

import numpy as np
import open_clip.transform
import pytest
import torch
from PIL import Image
from PIL import __version__ as pillow
from timm.data import create_transform

from tests.conftest import places
from tests.tiny_data import write_class_folders
from utils.backbones import GREY, NetworkSpec, load_backbone
from utils.backbones.image_transform import TensorFrame, resize_and_crop, tensor_frame
from utils.datasets import ImageFiles, Split, plain_jpeg
from utils.datasets.images import read_alike
from utils.device import InFittingParts
from utils.errors import InputError, Remark
from utils.features import cached_features, extract_features, images_per_second, on_device
from utils.features.extraction import frames_for

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*TorchVision are deprecated:DeprecationWarning")


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def levels_apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    assert one.shape == other.shape and one.dtype == other.dtype == torch.uint8
    return (one.int() - other.int()).abs()


# ------------------------------------------------------------------------------------- the two frames
SIZES = [
    (1, 1),
    (1, 300),
    (300, 1),
    (2, 3),
    (17, 3),
    (28, 28),
    (32, 32),
    (33, 65),
    (96, 96),
    (375, 500),
    (500, 375),
    (401, 299),
    (1200, 40),
    (1500, 2000),
]
# (resize, crop): down and up, odd offsets, no crop, and a crop larger than what is resized.
TARGETS = [(256, 224), (35, 32), (73, 64), (64, 64), (40, 33), (30, 45)]


def is_resized_alike(frame: TensorFrame, height: int, width: int) -> bool:
    """Before version 13 Pillow never began with columns, which we do where it saves much."""
    tall, wide = frame.resized(height, width)
    return int(pillow.split(".")[0]) >= 13 or height - tall <= max(0, 2 * (width - wide))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
def test_tensors_give_what_pil_gives(size, interpolation):
    """To the last bit, on noise, whose edges clip bicubic values at every other pixel."""
    for resize, crop in TARGETS:
        transform = resize_and_crop(resize, crop, interpolation)
        for channels in (1, 3):
            pixels = noise(*size, channels)
            by_pil = transform.frame(Image.fromarray(pixels).convert("RGB"))
            tensor = torch.from_numpy(pixels.reshape(*size, channels)).movedim(-1, 0)[None]
            by_tensors = transform.on_tensors(tensor).expand(-1, 3, -1, -1)[0]
            if is_resized_alike(transform.on_tensors, *size):
                assert torch.equal(by_pil, by_tensors), (resize, crop, channels)


def test_a_batch_is_resized_as_its_pictures_are():
    frame = resize_and_crop(40, 33, "bicubic").on_tensors
    batch = torch.from_numpy(np.stack([noise(37, 90, seed=k) for k in range(5)])).movedim(-1, 1)
    assert torch.equal(frame(batch), torch.cat([frame(picture[None]) for picture in batch]))


@pytest.mark.parametrize("size", [(28, 28), (375, 500), (500, 333), (5, 9)])
def test_the_frames_of_other_packages(size):
    """Whatever transforms timm and open_clip compose; both sides resized, too."""
    image = Image.fromarray(noise(*size))
    tensor = torch.from_numpy(np.array(image)).movedim(-1, 0)[None]
    common = {"input_size": (3, 64, 64), "is_training": False, "normalize": False, "crop_pct": 0.9}
    config = open_clip.transform.PreprocessCfg(size=64)
    composed = [
        create_transform(**common, crop_mode="center", interpolation="bicubic"),
        create_transform(**common, crop_mode="squash", interpolation="bilinear"),
    ]
    for mode in ("shortest", "squash"):
        whole = open_clip.transform.image_transform_v2(replace(config, resize_mode=mode), False)
        composed.append(type(whole)(whole.transforms[:-2]))
    for transform in composed:
        frame = tensor_frame(transform.transforms, (64, 64))
        by_pil = transform(image)
        by_pil = by_pil if isinstance(by_pil, torch.Tensor) else torch.from_numpy(np.array(by_pil))
        by_pil = by_pil if by_pil.shape[0] == 3 else by_pil.movedim(-1, 0)
        assert torch.equal(by_pil, frame(tensor)[0])


def test_transforms_that_only_pil_can_do():
    common = {"input_size": (3, 64, 64), "is_training": False, "normalize": False}
    padded = create_transform(**common, crop_mode="border")
    sharp = create_transform(**common, interpolation="lanczos")
    assert tensor_frame(padded.transforms, (64, 64)) is None
    assert tensor_frame(sharp.transforms, (64, 64)) is None
    assert tensor_frame(create_transform(**common).transforms, (48, 48)) is None  # another crop
    assert GREY.on_tensors is None


# -------------------------------------------------------------------------------------------- arrays
@pytest.fixture(scope="module")
def pair():
    """The same network, its frames by PIL and by tensors."""
    spec = NetworkSpec("random:resnet18", image_size=32)
    return [load_backbone(spec, CPU, decoder=decoder) for decoder in ("pil", "tensors")]


def all_frames(backbone, images, size: int = 7, workers: int = 2):
    """(frames, rows, unreadable, of one colour, by PIL) of all batches."""
    batches = torch.arange(len(images)).split(size)
    parts = list(frames_for(backbone, images, batches, workers))
    frames = torch.cat([part.x for part in parts if len(part.rows)])
    unreadable = [name for part in parts for name in part.unreadable]
    rows, flat = (torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "one_colour"))
    return frames, rows.tolist(), unreadable, flat.tolist(), sum(part.by_pil for part in parts)


@pytest.mark.parametrize("shape", [(30, 1, 28, 28), (30, 3, 32, 32), (9, 3, 50, 37), (5, 1, 1, 1)])
def test_arrays_become_the_same_frames(pair, shape, generator):
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    images[3] = 77
    by_pil, by_tensors = (all_frames(backbone, images) for backbone in pair)
    assert torch.equal(by_pil[0], by_tensors[0])
    assert by_pil[1:] == by_tensors[1:]
    assert (3 in by_tensors[3]) and by_tensors[4] == 0


def test_features_of_arrays(pair, generator):
    images = torch.randint(256, (40, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(40) % 2)
    by_pil, by_tensors = (extract_features(backbone, split) for backbone in pair)
    assert torch.equal(by_pil.x, by_tensors.x)
    assert images_per_second(pair[1], split) > 0


def test_arrays_too_large_to_resize_are_left_to_pil(pair, monkeypatch):
    images = torch.zeros(3, 3, 40, 40, dtype=torch.uint8)
    assert on_device.made_on_device(pair[1], images)
    monkeypatch.setattr(on_device, "PIXELS", 1599)
    assert not on_device.made_on_device(pair[1], images)


# ---------------------------------------------------------------------------------------- plain JPEG
def jpeg(pixels: np.ndarray, mode: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, "JPEG", **options)
    return file.getvalue()


def with_segment(content: bytes, code: int, segment: bytes) -> bytes:
    head = bytes([0xFF, code]) + (len(segment) + 2).to_bytes(2, "big")
    return content[:2] + head + segment + content[2:]


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def xmp(value: str) -> bytes:
    return b"http://ns.adobe.com/xap/1.0/\x00<x " + value.encode() + b"/>"


PIXELS = noise(40, 52)
PLAIN = {
    "colour": jpeg(PIXELS),
    "444": jpeg(PIXELS, subsampling=0),
    "422": jpeg(PIXELS, subsampling=1),
    "grey": jpeg(noise(40, 52, 1)),
    "progressive": jpeg(PIXELS, progressive=True),
    "upright": jpeg(PIXELS, exif=turned(1)),
    "upright by XMP": with_segment(jpeg(PIXELS), 0xE1, xmp('tiff:Orientation="1"')),
    "restarts": jpeg(PIXELS, restart_marker_blocks=1),
    "comment": jpeg(PIXELS, comment=b"\xff\xd9 in a comment"),
    "filled": jpeg(PIXELS)[:2] + b"\xff\xff" + jpeg(PIXELS)[2:],
    "as Adobe writes YCbCr": with_segment(jpeg(PIXELS), 0xEE, b"Adobe\x00\x64" + bytes(4) + b"\x01"),
}


def mpo() -> bytes:
    file = io.BytesIO()
    pages = [Image.fromarray(noise(40, 52, seed=k)) for k in range(2)]
    pages[0].save(file, "MPO", save_all=True, append_images=pages[1:])
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


def patched(content: bytes, code: int, place: int, value: int) -> bytes:
    """A byte of the segment with this code replaced."""
    start = content.index(bytes([0xFF, code])) + 4 + place
    return content[:start] + bytes([value]) + content[start + 1 :]


OTHERS = {
    "CMYK": jpeg(PIXELS, "CMYK"),
    "RGB": jpeg(PIXELS, keep_rgb=True),
    "turned": jpeg(PIXELS, exif=turned(6)),
    "mirrored": jpeg(PIXELS, exif=turned(2)),
    "turned by XMP": with_segment(jpeg(PIXELS), 0xE1, xmp('tiff:Orientation="8"')),
    "damaged EXIF": with_segment(jpeg(PIXELS), 0xE1, b"Exif\x00\x00" + b"MM" + b"\xff" * 20),
    "two pictures": mpo(),
    "RGB by Adobe": with_segment(jpeg(PIXELS), 0xEE, b"Adobe\x00\x64" + bytes(4) + b"\x00"),
    "short Adobe": with_segment(jpeg(PIXELS), 0xEE, b"Adobe"),
    "other names of channels": patched(jpeg(PIXELS), 0xC0, 6, 0),
    "grey, sampled twice": patched(jpeg(noise(40, 52, 1)), 0xC0, 7, 0x22),
    "colours sampled more": patched(jpeg(PIXELS), 0xC0, 10, 0x22),
    "12 bits": patched(jpeg(PIXELS), 0xC0, 0, 12),
    "no height": patched(patched(jpeg(PIXELS), 0xC0, 1, 0), 0xC0, 2, 0),
    "arithmetic coding": jpeg(PIXELS).replace(b"\xff\xc0", b"\xff\xc9", 1),
    "cut": jpeg(PIXELS)[:900],
    "cut to the start": jpeg(PIXELS)[:2] + b"\xff\xd9",
    "more behind": jpeg(PIXELS) + b"\x00\x00",
    "another format": png(),
    "text": b"not an image",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_jpeg_files_are_known(kind):
    assert plain_jpeg(PLAIN[kind]) == (40, 52)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_left_to_pil(kind):
    assert plain_jpeg(OTHERS[kind]) is None


@pytest.mark.parametrize("kind", PLAIN)
def test_of_a_plain_file_every_cut_is_left_to_pil(kind):
    content = PLAIN[kind]
    for length in range(0, len(content), 7):
        if content[:length][-2:] != b"\xff\xd9":
            assert plain_jpeg(content[:length]) is None


def files_of(folder, contents: dict[str, bytes]) -> ImageFiles:
    names = [f"{k:02d} {name}.jpg" for k, name in enumerate(contents)]
    for name, content in zip(names, contents.values(), strict=True):
        (folder / name).write_bytes(content)
    return ImageFiles(folder, tuple(names))


@pytest.mark.parametrize("workers", [0, 3])
def test_jpeg_files_of_any_size_become_what_pil_makes_of_the_pictures(tmp_path, pair, workers):
    """Both resize the same pictures, decoded by tensors; several have one size."""
    frame = pair[0].preprocess.on_tensors
    sizes = [size for size in [*SIZES[:-1], *SIZES[3:9], (7, 7)] if is_resized_alike(frame, *size)]
    contents = {
        f"{height} by {width}": jpeg(noise(height, width, seed=k), progressive=k % 3 == 0)
        for k, (height, width) in enumerate(sizes)
    }
    images = files_of(tmp_path, contents)
    frames, rows, unreadable, _, by_pil = all_frames(pair[1], images, 20, workers)
    assert rows == list(range(len(images))) and not unreadable and by_pil == 0
    decoded = on_device.decode_jpegs(
        [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents.values()], CPU
    )
    for frame, picture in zip(frames, decoded, strict=True):
        expected = pair[0].preprocess.frame(Image.fromarray(picture.movedim(0, -1).numpy()))
        assert torch.equal(frame, expected)


def test_what_is_no_plain_jpeg_comes_from_pil(tmp_path, pair):
    """Plain files between them, and those that no one can read, which both name."""
    contents = {}
    for (plain, one), (other, two) in zip(PLAIN.items(), OTHERS.items(), strict=False):
        contents |= {plain: one, other: two}
    contents |= OTHERS
    images = files_of(tmp_path, contents)
    by_pil, by_tensors = (all_frames(backbone, images) for backbone in pair)
    assert by_pil[1:4] == by_tensors[1:4]
    assert 3 <= len(by_tensors[2]) < 10  # unreadable
    count = 0
    for row, one, other in zip(by_pil[1], by_pil[0], by_tensors[0], strict=True):
        name = images.names[row][3:-4]
        if name in OTHERS:
            count += 1
            assert torch.equal(one, other), name
    assert by_tensors[4] == count > 10


def test_other_formats_and_their_rules_are_pils(tmp_path, pair):
    """16-bit and transparent pictures beside JPEG files: one scale and one background for all."""
    (tmp_path / "a.jpg").write_bytes(PLAIN["colour"])
    deep = np.linspace(0, 4000, 1600).reshape(40, 40).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    clear = np.dstack([noise(40, 40), noise(40, 40, 1, 3)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(clear).save(tmp_path / "named otherwise.jpg", "PNG")
    names = ("deep.png", "a.jpg", "clear.png", "named otherwise.jpg")
    (split,) = read_alike([Split(ImageFiles(tmp_path, names), torch.zeros(4, dtype=torch.int64))])
    by_pil, by_tensors = (all_frames(backbone, split.images) for backbone in pair)
    assert by_tensors[1] == [0, 1, 2, 3] and by_tensors[4] == 3
    for row in (0, 2, 3):
        assert torch.equal(by_pil[0][row], by_tensors[0][row])
    assert not on_device.made_on_device(pair[1], split.images.select([0, 2]))  # nothing to gain


def test_the_limit_of_pixels_holds_in_both(tmp_path, pair):
    images = files_of(tmp_path, {"small": PLAIN["colour"], "large": jpeg(noise(90, 90))})
    images = replace(images, max_pixels=4000)
    by_pil, by_tensors = (all_frames(backbone, images) for backbone in pair)
    assert by_pil[1:4] == by_tensors[1:4] and by_tensors[1] == [0]
    assert "--MAX_PIXELS" in by_tensors[2][0]


def test_the_limit_holds_between_the_pictures_of_several_threads(tmp_path, pair, monkeypatch):
    """Else one that ends would lift it from those that are still read."""
    real, limits = on_device._Reader.read_by_pil, []

    def read(self, row):
        limits.append(Image.MAX_IMAGE_PIXELS)
        return real(self, row)

    monkeypatch.setattr(on_device._Reader, "read_by_pil", read)
    before = Image.MAX_IMAGE_PIXELS
    images = replace(files_of(tmp_path, {"CMYK": OTHERS["CMYK"], "PNG": png()}), max_pixels=4321)
    all_frames(pair[1], images)
    assert limits == [4321, 4321] and before == Image.MAX_IMAGE_PIXELS


# ------------------------------------------------------------------------------- decoders that refuse
@pytest.fixture
def photographs(tmp_path):
    return files_of(tmp_path, {f"{k}": jpeg(noise(40, 52, seed=k)) for k in range(12)})


def contents_of(images: ImageFiles) -> list[bytes]:
    return [(images.root / name).read_bytes() for name in images.names]


@pytest.mark.parametrize("how", ["refuses", "another size", "skips", "full memory"])
def test_what_the_decoder_does_not_give_comes_from_pil(photographs, pair, monkeypatch, how):
    bad = {contents_of(photographs)[k] for k in (0, 5, 6, 11)}
    real, calls = on_device.decode_jpegs, []

    def decode(contents, device):
        calls.append(len(contents))
        pictures = real(contents, device)
        for k, content in enumerate(contents):
            if content.numpy().tobytes() in bad:
                if how == "refuses":
                    raise RuntimeError("Error while decoding JPEG images")
                if how == "full memory":
                    raise torch.OutOfMemoryError("CUDA out of memory")
                cut = pictures[k][:, :-1]
                pictures[k] = cut if how == "another size" else torch.full_like(pictures[k], 165)
        return pictures

    monkeypatch.setattr(on_device, "decode_jpegs", decode)
    by_pil = all_frames(pair[0], photographs, 12)
    by_tensors = all_frames(pair[1], photographs, 12)
    assert by_tensors[1] == list(range(12)) and by_tensors[4] == 4
    for k in range(12):
        apart = levels_apart(by_pil[0][k], by_tensors[0][k])
        assert apart.max() <= (0 if k in (0, 5, 6, 11) else 3)
    assert len(calls) == 2 if how in ("another size", "skips") else len(calls) > 6


@pytest.mark.parametrize("how", ["absent", "without CUDA", "colours exchanged"])
def test_without_a_decoder_that_works_all_files_come_from_pil(photographs, pair, monkeypatch, how):
    def decode(contents, device):
        if how == "absent":
            raise ImportError("cannot import name 'decode_jpeg'")
        if how == "without CUDA":
            raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")
        return [picture.flip(0) for picture in real(contents, device)]

    real = on_device.decode_jpegs
    monkeypatch.setattr(on_device, "decode_jpegs", decode)
    by_pil, by_tensors = (all_frames(backbone, photographs) for backbone in pair)
    assert torch.equal(by_pil[0], by_tensors[0]) and by_tensors[4] == 12


def test_pictures_that_cannot_be_resized_come_from_pil(photographs, pair, monkeypatch):
    def refuse(self, images):
        raise RuntimeError("CUDA error: invalid configuration argument")

    monkeypatch.setattr(TensorFrame, "__call__", refuse)
    by_pil, by_tensors = (all_frames(backbone, photographs) for backbone in pair)
    assert torch.equal(by_pil[0], by_tensors[0]) and by_tensors[4] == 12


def test_pieces_for_the_decoder_are_small_enough(photographs, pair, monkeypatch):
    whole = all_frames(pair[1], photographs, 12)
    real, seen = on_device.decode_jpegs, []

    def decode(contents, device):
        seen.append(len(contents))
        return real(contents, device)

    monkeypatch.setattr(on_device, "decode_jpegs", decode)
    monkeypatch.setattr(on_device, "PIXELS", 5 * 40 * 52)
    assert torch.equal(whole[0], all_frames(pair[1], photographs, 12)[0])
    assert seen[1:] == [5, 5, 2]  # the first is the trial
    monkeypatch.setattr(on_device, "DECODED", 4)
    assert torch.equal(whole[0], all_frames(pair[1], photographs, 12)[0])
    assert seen[5:] == [4, 4, 4]


def test_what_pil_decoded_is_counted_in_one_line(tmp_path, pair):
    images = files_of(tmp_path, {**PLAIN, "CMYK": OTHERS["CMYK"], "turned": OTHERS["turned"]})
    split = Split(images, torch.arange(len(images)) % 2)
    cache = tmp_path / "features"
    with pytest.warns(Remark, match="^2 of 13 images were decoded by PIL"):
        first, _ = cached_features(pair[1], split, cache, "photographs")
    with pytest.warns(Remark, match="^2 of 13 images were decoded by PIL"):
        extract_features(pair[1], split)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Remark)
        again, _ = cached_features(pair[1], split, cache, "photographs")
        by_pil, _ = cached_features(pair[0], split, cache, "photographs")
    assert torch.equal(first.x, again.x)
    assert (first.x - by_pil.x).norm() < 0.02 * by_pil.x.norm()
    assert len({path.parent.name for path in cache.rglob("*.safetensors")}) == 2  # kept apart


def test_files_that_no_one_can_decode_are_refused_alike(tmp_path, pair):
    images = files_of(tmp_path, {"good": PLAIN["colour"], "cut": OTHERS["cut"]})
    split = Split(images, torch.arange(2))
    for backbone in pair:
        with pytest.raises(InputError, match=r"cannot be decoded: .*01 cut\.jpg \(.*truncated"):
            cached_features(backbone, split, tmp_path / "features", "photographs")


# ------------------------------------------------------------------------------------------ the thread
def test_the_thread_ends_with_its_reader(photographs, pair):
    before = threading.active_count()
    batches = torch.arange(12).split(1)
    parts = frames_for(pair[1], photographs, batches, 2)
    next(parts)
    assert threading.active_count() > before
    parts.close()
    assert threading.active_count() <= before


def test_an_error_of_the_thread_reaches_the_reader(photographs, pair, monkeypatch):
    def fail(*_):
        raise ValueError("no one foresaw it")

    monkeypatch.setattr(on_device, "_part_of_files", fail)
    before = threading.active_count()
    with pytest.raises(ValueError, match="no one foresaw it"):
        all_frames(pair[1], photographs)
    assert threading.active_count() <= before


# ------------------------------------------------------------------------------------ flags, cache key
def test_pil_goes_without_saying_in_the_key(pair):
    by_pil, by_tensors = pair
    assert set(by_pil.about) == {"weights", "preprocess", "precision"}  # as before there was a choice
    assert by_tensors.about == {**by_pil.about, "decoder": "tensors"}
    auto = load_backbone("random:resnet18", CPU, image_size=32)
    assert auto.decoder == "pil" and auto.digest == by_pil.digest != by_tensors.digest
    assert load_backbone("random:lenet", decoder="tensors").decoder == "pil"
    with pytest.raises(InputError, match="decoder must be auto, pil or tensors"):
        load_backbone("random:resnet18", CPU, decoder="gpu")


def test_a_decoder_may_be_asked_for_without_cuda(tmp_path, capsys):
    """On a CPU auto means PIL: the same numbers from the same cache, and no word about it."""
    import finetune_source_model_on_target_task as stage_2

    write_class_folders(tmp_path / "photos", ("a", "b"), 20)
    argv = ["--SRC", "FMNIST", "--TRG", f"folder:{tmp_path / 'photos'}", "--MODEL", "random:resnet18"]
    argv += ["--IMAGE_SIZE", "32", "--WORKERS", "0", "--DEVICE", "cpu", *places(tmp_path)]
    said, losses = [], []
    for flags in ([], ["--DECODER", "auto"], ["--DECODER", "PIL", "--IMAGE_BATCH", "8"]):
        options = stage_2.parse_options([*argv, *flags, "--OVERWRITE"])
        losses.append(stage_2.run(options)["test_loss"])
        said.append(capsys.readouterr().err)
    assert len(set(losses)) == 1
    assert not any("ecod" in text for text in said)
    assert len(list((tmp_path / "checkpoints" / "features").glob("random*"))) == 1
    with pytest.raises(InputError, match="--DECODER/--decoder: must be one of auto, pil, not 'cuda'"):
        stage_2.parse_options([*argv, "--DECODER", "cuda"])


# ------------------------------------------------------------------------------------------ full memory
class Limited(torch.nn.Module):
    """A network for whose activations a memory of so many images suffices."""

    def __init__(self, most: int, error: Exception):
        super().__init__()
        self.most, self.error, self.seen = most, error, []
        self.scale = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, images):
        self.seen.append(len(images))
        if len(images) > self.most:
            raise self.error
        return images.flatten(1)[:, :4] * self.scale


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", FULL, ids=["CUDA", "cuBLAS", "CPU"])
def test_a_full_memory_halves_the_batch(pair, generator, error):
    images = torch.randint(256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(40) % 2)
    networks = [Limited(most, error) for most in (1000, 5)]
    backbones = [
        replace(pair[0], network=network, feature_dim=4, image_batch=16) for network in networks
    ]
    whole = extract_features(backbones[0], split)
    with pytest.warns(UserWarning) as told:
        halved = extract_features(backbones[1], split)
    assert torch.equal(whole.x, halved.x)
    assert networks[1].seen == [16, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]  # and remembered
    lines = [str(one.message) for one in told]
    assert (
        len(lines) == 2 and "16 images at once: going on with 8 (--IMAGE_BATCH 8 begins so)" in lines[0]
    )
    assert "8 images at once: going on with 4 (--IMAGE_BATCH 4" in lines[1]


@pytest.mark.filterwarnings("ignore:the memory of")
def test_a_memory_too_small_for_one_image_is_an_error(pair):
    split = Split(torch.zeros(5, 3, 32, 32, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    network = Limited(0, FULL[0])
    with pytest.raises(InputError, match=r"the memory of cpu .* a single image of this size: free some"):
        extract_features(replace(pair[0], network=network, feature_dim=4), split)
    assert network.seen == [5, 2, 1]


def test_other_errors_are_left_as_they_are():
    def fail(_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        InFittingParts("--IMAGE_BATCH")(fail, torch.zeros(4))


def test_image_batch_sets_how_many_pass_at_once(pair):
    split = Split(torch.zeros(20, 3, 32, 32, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    network = Limited(100, FULL[0])
    extract_features(replace(pair[0], network=network, feature_dim=4, image_batch=6), split)
    assert network.seen == [6, 6, 6, 2]
