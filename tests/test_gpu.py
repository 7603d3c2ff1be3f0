"""What needs a GPU: `make test-gpu` runs it."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import places, requires_cuda
from tests.test_on_device import OTHERS, PLAIN, SIZES, TARGETS, all_frames, files_of, noise
from tests.tiny_data import write_class_folders, write_image
from utils.backbones import NetworkSpec, load_backbone
from utils.backbones.image_transform import resize_and_crop
from utils.datasets import ImageFiles, Split
from utils.features import extract_features, on_device

pytestmark = [pytest.mark.gpu, requires_cuda]


@pytest.fixture(scope="module")
def networks():
    """The same network on the CPU, its frames by PIL, and on CUDA, in float32 both."""
    spec = NetworkSpec("random:resnet18", image_size=64, autocast=False)
    return load_backbone(spec, "cpu"), load_backbone(spec, "cuda")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_gives_the_cpus_bytes(interpolation):
    for size in SIZES:
        picture = torch.from_numpy(noise(*size)).movedim(-1, 0)[None]
        for resize, crop in TARGETS:
            frame = resize_and_crop(resize, crop, interpolation).on_tensors
            assert torch.equal(frame(picture), frame(picture.cuda()).cpu()), (size, resize, crop)


def test_auto_is_tensors_on_cuda(networks):
    by_pil, on_cuda = networks
    assert (by_pil.decoder, on_cuda.decoder) == ("pil", "tensors")
    assert load_backbone(NetworkSpec("random:resnet18", decoder="pil"), "cuda").decoder == "pil"


@pytest.mark.parametrize("shape", [(600, 1, 28, 28), (600, 3, 32, 32)])
def test_features_of_arrays_are_the_cpus(networks, generator, shape):
    """The frames to the last bit; what the network makes of them to 1 % (cuDNN convolves in TF32)."""
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    frames = [all_frames(backbone, images, 256) for backbone in networks]
    assert torch.equal(frames[0][0], frames[1][0].cpu())
    split = Split(images, torch.arange(len(images)) % 2)
    on_cpu, on_cuda = (extract_features(backbone, split).x for backbone in networks)
    assert (on_cpu - on_cuda).norm(dim=1).max() < 0.01 * on_cpu.norm(dim=1).min()


def test_jpeg_files_differ_by_their_decoder_alone(networks, tmp_path):
    """Smooth pictures of many sizes: by a level in the mean, by some where colours change."""
    sizes = [(40 + 7 * (k % 23), 30 + 11 * (k % 17)) for k in range(300)]
    for k, size in enumerate(sizes):
        write_image(tmp_path / f"{k:03d}.jpg", k, size)
    images = ImageFiles(tmp_path, tuple(f"{k:03d}.jpg" for k in range(300)))
    by_pil, on_cuda = (all_frames(backbone, images, 256) for backbone in networks)
    assert by_pil[1:] == on_cuda[1:]  # none of them is left to PIL
    apart = (by_pil[0].int() - on_cuda[0].cpu().int()).abs().float()
    assert apart.mean() < 1.5 and apart.max() <= 25
    again = all_frames(networks[1], images, 256)
    assert torch.equal(on_cuda[0], again[0])


def test_what_the_gpu_must_not_decode_comes_from_pil(networks, tmp_path):
    """Beside plain files, which no refused or broken one spoils."""
    images = files_of(tmp_path, {**PLAIN, **OTHERS, **{f"{name} again": PLAIN[name] for name in PLAIN}})
    by_pil, on_cuda = (all_frames(backbone, images) for backbone in networks)
    assert by_pil[1:4] == on_cuda[1:4]
    names = [images.names[row][3:-4] for row in by_pil[1]]
    for name, one, other in zip(names, by_pil[0], on_cuda[0].cpu(), strict=True):
        if name in OTHERS:
            assert torch.equal(one, other), name
        else:  # noise, where decoders differ most
            assert (one.int() - other.int()).abs().float().mean() < 12, name
    assert on_cuda[4] >= sum(name in OTHERS for name in names)


def test_a_file_that_is_broken_inside_spoils_no_other(networks, tmp_path):
    """Its header is in order: the decoder may refuse it or make something of it, as PIL does."""
    whole = PLAIN["colour"]
    middle = len(whole) * 2 // 3
    broken = whole[:middle] + bytes(40) + whole[middle + 40 :]
    images = files_of(tmp_path, {"a": whole, "broken": broken, "b": whole, "c": whole})
    frames, rows, *_ = all_frames(networks[1], images)
    frames = dict(zip(rows, frames, strict=True))
    assert {0, 2, 3} <= set(rows)
    assert torch.equal(frames[0], frames[2]) and torch.equal(frames[0], frames[3])
    alone = all_frames(networks[1], files_of(tmp_path, {"a": whole}))
    assert torch.equal(frames[0], alone[0][0])


def test_decoding_does_not_touch_memory_that_is_still_read():
    """What was queued before reads it, though it is freed, before pictures are decoded into it."""
    content = torch.frombuffer(bytearray(PLAIN["colour"]), dtype=torch.uint8)
    device = torch.device("cuda")
    on_device.decode_jpegs([content] * 8, device)
    busy = torch.randn(4096, 4096, device=device)
    for value in range(1, 20):
        held = [torch.full((3, 40, 52), value, dtype=torch.uint8, device=device) for _ in range(8)]
        torch.cuda.synchronize()
        for _ in range(10):
            busy = (busy @ busy).clamp_(-1, 1)
        sums = [one.sum(dtype=torch.int64) for one in held]
        del held
        on_device.decode_jpegs([content] * 8, device)
        assert {int(one) for one in sums} == {value * 3 * 40 * 52}


class Hungry(torch.nn.Module):
    """Takes a gibibyte an image."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1, device="cuda"), requires_grad=False)
        self.seen: list[int] = []

    def forward(self, images):
        self.seen.append(len(images))
        room = torch.empty(len(images), 2**28, device="cuda")
        room[:, :4] = images.flatten(1)[:, :4] * self.scale
        return room[:, :4].clone()


def test_a_full_memory_halves_the_batch(networks, generator):
    images = torch.randint(256, (1024, 3, 64, 64), generator=generator, dtype=torch.uint8)
    network = Hungry()
    backbone = replace(networks[1], network=network, feature_dim=4, image_batch=1024)
    with pytest.warns(UserWarning, match=r"the memory of cuda .* --IMAGE_BATCH \d+ begins so"):
        features = extract_features(backbone, Split(images, torch.arange(1024) % 2))
    expected = networks[0].preprocess(images).flatten(1)[:, :4]
    torch.testing.assert_close(features.x, expected, atol=1e-5, rtol=1e-5)
    assert network.seen[0] == 1024 and network.seen[-1] == network.seen[-2] < 1024


@pytest.mark.slow
def test_stages_on_cuda_say_nothing_of_the_libraries_own(tmp_path, capsys):
    import finetune_source_model_on_target_task as stage_2
    import transfer_source_to_target as stage_3

    write_class_folders(tmp_path / "photos", ("a", "b", "c"), 40)
    photographs = f"folder:{tmp_path / 'photos'}"
    model = ["--MODEL", "random:resnet18", "--IMAGE_SIZE", "64", "--DEVICE", "cuda", *places(tmp_path)]
    rng = np.random.default_rng(0)
    for name in ("A", "B"):
        x, y = rng.normal(size=(600, 5)), np.arange(600) % 3
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:60], y_test=y[:60])
    files = [f"features:{tmp_path}/{name}.npz" for name in ("A", "B")]
    short = ["--ITERATIONS", "5", "--CERTIFICATE_STEPS", "3", "--MATCHINGS", "1", "--BATCH_SIZE", "100"]
    every = ["--ANALYSIS", "relation", "published", "certificate"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stage_2.main(["--SRC", photographs, "--TRG", photographs, *model])
        stage_3.main(
            ["--SRC", files[0], "--TRG", files[1], "--DEVICE", "cuda", *places(tmp_path), *short, *every]
        )
    said = capsys.readouterr().err
    for words in ("Triggered internally", "eprecat", "sparse", "torch", "invalid escape", "decoded by"):
        assert words not in said, said
