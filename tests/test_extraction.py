import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed import TCPStore

from tests.conftest import places
from tests.processes import run as python
from tests.processes import start
from tests.tiny_data import write_class_folders
from utils import distributed
from utils.backbones import LeNet, load_backbone
from utils.datasets import ImageFiles, Split, load_dataset, rgb_image
from utils.datasets import grey as grey_data
from utils.errors import InputError
from utils.features import (
    Features,
    Standardiser,
    TaskRequest,
    cached_features,
    decoding,
    extract_features,
    extraction,
    load_task,
    task_of_dataset,
)
from utils.features import cache as feature_cache
from utils.linear_head import evaluate_head, fit_linear_head
from utils.names import REPOSITORY
from utils.storage import load_tensors, save_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def lenet(tmp_path):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "lenet.pt", {"network": LeNet(10).state_dict()})
    return load_backbone("lenet", CPU, weights=tmp_path / "lenet.pt")


@pytest.fixture(scope="module")
def lite():
    return load_backbone("efficientnet_lite0", CPU, image_size=32)


@pytest.fixture
def grey(generator):
    images = torch.randint(256, (50, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(50) % 10)


@pytest.fixture
def birds(tmp_path):
    write_class_folders(tmp_path / "birds", ("emu", "owl"), 10)
    return load_dataset(f"folder:{tmp_path / 'birds'}")


def shard_files(cache):
    return sorted(path for path in cache.rglob("*.safetensors"))


def test_extraction_in_batches_equals_one_pass(lenet, grey, monkeypatch):
    whole = lenet.network(lenet.preprocess(grey.images))
    monkeypatch.setitem(extraction.PIXELS, "cpu", 8 * 28 * 28)
    features = extract_features(lenet, grey)
    torch.testing.assert_close(features.x, whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(features.y, grey.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_image_files_in_worker_processes(lite, birds, workers):
    split = birds.train
    frames = torch.stack([lite.preprocess.frame(rgb_image(split.images, k)) for k in range(len(split))])
    features = extract_features(lite, split, workers)
    with torch.inference_mode():
        torch.testing.assert_close(features.x, lite.features(frames), atol=1e-5, rtol=1e-5)


def test_grey_images_reach_a_colour_network_as_rgb(lite, grey):
    frame = lite.preprocess.frame(rgb_image(grey.images, 0))
    assert frame.shape == (3, 32, 32)
    assert torch.equal(frame[0], frame[1]) and torch.equal(frame[0], frame[2])
    assert extract_features(lite, grey).x.shape == (50, 1280)


@pytest.fixture
def counted(monkeypatch):
    """How many images pass the network."""
    seen = []
    real = feature_cache.forward

    def count(backbone, images, batches, workers):
        for part in real(backbone, images, batches, workers):
            seen.append(len(part.rows))
            yield part

    monkeypatch.setattr(feature_cache, "forward", count)
    return seen


def test_the_cache_is_hit_and_missed(tmp_path, lenet, grey, counted, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD", 16)
    monkeypatch.setattr(extraction, "MOST_IMAGES", 16)  # the same batches in both
    cache = tmp_path / "features"
    first, _ = cached_features(lenet, grey, cache, "grey")
    assert sum(counted) == 50 and len(shard_files(cache)) == 4
    again, _ = cached_features(lenet, grey, cache, "grey")
    assert sum(counted) == 50
    assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
    assert torch.equal(first.x, extract_features(lenet, grey).x)
    counted.clear()

    # One changed image: its shard alone is made anew. Other labels: none is.
    images = grey.images.clone()
    images[20] = 0
    changed, _ = cached_features(lenet, Split(images, grey.labels.flip(0)), cache, "grey")
    assert sum(counted) == 16
    different = (changed.x != first.x).any(1)
    assert different.nonzero().flatten().tolist() == [20]
    assert torch.equal(changed.y, grey.labels.flip(0))
    counted.clear()

    save_checkpoint(tmp_path / "other.pt", {"network": LeNet(10).state_dict()})
    other = load_backbone("lenet", CPU, weights=tmp_path / "other.pt")
    cached_features(other, grey, cache, "grey")
    assert sum(counted) == 50 and len(list(cache.iterdir())) == 2


def test_preprocessing_and_precision_belong_to_the_key(lite):
    larger = load_backbone("efficientnet_lite0", CPU, image_size=64)
    assert larger.weights_digest == lite.weights_digest and larger.digest != lite.digest
    rounded = type(lite)(**{**vars(lite), "autocast": torch.bfloat16})
    assert rounded.about["precision"] == "bfloat16" and rounded.digest != lite.digest


@pytest.mark.filterwarnings("ignore:.*its images are extracted again")
@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_shard_is_made_again(tmp_path, lenet, grey, counted, monkeypatch, damage):
    monkeypatch.setattr(feature_cache, "SHARD", 16)
    cache = tmp_path / "features"
    first, _ = cached_features(lenet, grey, cache, "grey")
    counted.clear()
    path = shard_files(cache)[1]
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:1000])
    elif damage == "flipped":  # one bit, far behind the header
        path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    elif damage == "foreign":
        path.write_bytes(shard_files(cache)[0].read_bytes())  # a whole shard of other images
    else:
        path.write_bytes(b"")
    mended, _ = cached_features(lenet, grey, cache, "grey")
    assert sum(counted) == 16
    assert torch.equal(first.x, mended.x) and path.read_bytes() == whole


def test_images_that_cannot_be_decoded(tmp_path, lite, birds, counted):
    split = birds.train
    broken = [split.images.root / split.images.names[k] for k in (3, 9)]
    broken[0].write_text("not an image")
    broken[1].write_bytes(broken[1].read_bytes()[:300])
    # Its stamps were read when the folder was listed: list it again, as a new run does.
    split = load_dataset(f"folder:{tmp_path / 'birds'}").train
    cache = tmp_path / "features"
    for limit in (0, 1):
        with pytest.raises(InputError, match=rf"cannot be decoded: {broken[0]}.*--MAX_CORRUPT N"):
            cached_features(lite, split, cache, "birds", max_corrupt=limit)
    assert not shard_files(cache)
    features, unreadable = cached_features(lite, split, cache, "birds", max_corrupt=2, workers=2)
    assert [name.split(" ")[0] for name in unreadable] == [str(path) for path in broken]
    kept = [k for k in range(16) if k not in (3, 9)]
    assert torch.equal(features.y, split.labels[kept])
    readable = split.select(torch.tensor(kept))
    torch.testing.assert_close(features.x, extract_features(lite, readable).x, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="--MAX_CORRUPT"):  # what was tolerated once is not for ever
        cached_features(lite, split, cache, "birds")

    task = load_task(
        f"folder:{tmp_path / 'birds'}", lite, TaskRequest(tmp_path, cache, max_corrupt=2), role="target"
    )
    assert len(task.train) == 14 and len(task.provenance["unreadable"]) == 2


def test_an_image_that_could_not_be_read_is_tried_again(tmp_path, lite, birds, counted, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "denied for a while")

    with monkeypatch.context() as patched:
        patched.setattr(decoding, "rgb_image", denied)
        with pytest.raises(InputError, match="denied for a while"):
            cached_features(lite, birds.train, tmp_path / "features", "birds", max_corrupt=15)
        _, unreadable = cached_features(
            lite, birds.train, tmp_path / "features", "birds", max_corrupt=16
        )
    assert len(unreadable) == 16
    features, unreadable = cached_features(lite, birds.train, tmp_path / "features", "birds")
    assert not unreadable and len(features) == 16


def test_images_larger_than_a_batch_of_one(lite, monkeypatch):
    monkeypatch.setitem(extraction.PIXELS, "cpu", 32 * 32 - 1)
    assert extraction.batch_size(lite) == 1


def test_sixteen_bit_grey_keeps_its_greys(tmp_path):
    values = np.array([[0, 4000], [30000, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x-ray.png")
    image = rgb_image(ImageFiles(tmp_path, ("x-ray.png",)), 0)
    assert np.asarray(image)[:, :, 0].tolist() == [[0, 15], [117, 255]]


def test_a_class_without_readable_images(tmp_path, lite):
    write_class_folders(tmp_path / "birds" / "train", ("emu", "owl"), 3)
    write_class_folders(tmp_path / "birds" / "test", ("emu", "owl"), 3)
    for path in (tmp_path / "birds" / "test" / "owl").iterdir():
        path.write_text("")
    request = TaskRequest(tmp_path, tmp_path / "features", max_corrupt=3)
    with pytest.raises(InputError, match="folder-birds: no readable test image of owl"):
        load_task(f"folder:{tmp_path / 'birds'}", lite, request, role="target")


def test_nan_features_of_a_network_are_named(tmp_path, lenet):
    for parameter in lenet.network.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(
        InputError, match="features of MNIST through lenet: 4000 of 4000 training samples"
    ):
        task_of_dataset(
            load_dataset("MNIST", "embedded"), lenet, TaskRequest(tmp_path, tmp_path / "features")
        )


STAGE_2 = "finetune_source_model_on_target_task.py"
# SAMPLES: a folder of smaller embedded data sets. KILLED_AFTER: so many shards, the whole group of
# processes; 0: never.
SMALL_SHARDS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
import finetune_source_model_on_target_task
from utils.datasets import grey
from utils.features import cache
cache.SHARD, grey.EMBEDDED_DIR = 64, Path(os.environ["SAMPLES"])
left, write = int(os.environ.get("KILLED_AFTER", 0)), cache.Shard.write
def write_and_count(*args):
    global left
    write(*args)
    left -= 1
    if left == 0:
        os.killpg(0, signal.SIGKILL)
cache.Shard.write = write_and_count
finetune_source_model_on_target_task.main(sys.argv[1:])
"""


def stage_2(folder, *flags: str) -> list[str]:
    """Arguments to extract the embedded MNIST images."""
    return [
        "--SRC",
        "FMNIST",
        "--TRG",
        "MNIST",
        "--DATA",
        "embedded",
        "--model",
        "efficientnet_lite0",
        "--IMAGE_SIZE",
        "32",
        *places(folder),
        *flags,
    ]


def few_embedded_images(folder) -> str:
    """640 + 250 images of each data set that has a sample, in the place of 4,000 + 1,000."""
    folder.mkdir()
    for path in grey_data.EMBEDDED_DIR.glob("*.npz"):
        with np.load(path) as arrays:
            few = {name: arrays[name][: 640 if "train" in name else 250] for name in arrays}
        np.savez(folder / path.name, **few)
    return str(folder)


@pytest.mark.slow
def test_a_killed_extraction_goes_on_and_two_processes_equal_one(tmp_path):
    (tmp_path / "driver.py").write_text(SMALL_SHARDS)
    driver = (str(tmp_path / "driver.py"), str(REPOSITORY))
    small = {"SAMPLES": few_embedded_images(tmp_path / "samples")}
    cache = tmp_path / "one" / "checkpoints" / "features"
    command = (*driver, *stage_2(tmp_path / "one"))
    killed = python(*command, new_session=True, KILLED_AFTER="3", **small)
    assert killed.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in shard_files(cache)}
    assert len(before) == 3
    again = python(*command, **small)
    assert again.returncode == 0, again.stderr
    after = {path: path.stat().st_mtime_ns for path in shard_files(cache)}
    assert len(after) == 14 and before.items() <= after.items()

    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = python(*torchrun, *driver, *stage_2(tmp_path / "two"), **small)
    assert done.returncode == 0, done.stderr
    twice = shard_files(tmp_path / "two" / "checkpoints" / "features")
    assert [path.name for path in twice] == [path.name for path in after]
    for one, two in zip(after, twice, strict=True):
        tensors = [load_tensors(path)[0] for path in (one, two)]
        # The forward pass may round differently on another number of threads.
        torch.testing.assert_close(tensors[0]["x"], tensors[1]["x"], atol=1e-5, rtol=1e-5)
    records = []
    for folder in ("one", "two"):
        lines = (tmp_path / folder / "results" / "results.jsonl").read_text().splitlines()
        records += [json.loads(line) for line in lines]
    assert len(records) == 2  # of the two processes one has written
    for record in records:
        # The head's fit ends a little elsewhere on another number of threads; λ is of a coarse grid.
        assert record["optimality_gap"] is None and record["weight_decay"] > 0
        for name in ("seconds", "environment", "files", "sha256"):
            del record[name]
        for name in ("test_loss", "train_loss", "held_out_loss", "tau_measured", "tau_certified"):
            record[name] = pytest.approx(record[name], rel=1e-3, abs=1e-4)
        accuracies, intervals = ("test_accuracy", "balanced_accuracy"), record["intervals"]
        assert set(intervals) == set(accuracies)
        for name in accuracies:
            record[name] = pytest.approx(record[name], abs=0.01)
            intervals[name] = [pytest.approx(end, abs=0.01) for end in intervals[name]]
    assert records[0] == records[1]


def test_an_error_while_workers_wait_ends_them(tmp_path):
    """Else the process would wait for them for ever when it ends."""
    full_disk = """if True:
        import sys
        import finetune_source_model_on_target_task as stage_2
        from utils.features import cache
        def write(self, part):
            raise OSError(28, "No space left on device")
        cache.SHARD, cache.Shard.write = 8, write
        stage_2.main(sys.argv[1:])
    """
    write_class_folders(tmp_path / "photos", ("a", "b"), 400)
    argv = ["--SRC", f"folder:{tmp_path / 'photos'}", "--TRG", f"folder:{tmp_path / 'photos'}"]
    argv += ["--MODEL", "efficientnet_lite0", "--IMAGE_SIZE", "32", "--WORKERS", "2", *places(tmp_path)]
    done = python("-c", full_disk, *argv)
    assert done.returncode == 2 and "No space left on device" in done.stderr, done.stderr


def two_processes(*argv: str) -> tuple[list[int], str]:
    """(exit statuses, what they said on stderr) of two that find each other as torchrun's do; it would
    end the other one when one fails, these must do so themselves.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    place["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    both = [start(*argv, RANK=str(k), LOCAL_RANK=str(k), **place) for k in range(2)]
    said = [process.communicate()[1] for process in both]
    return [process.returncode for process in both], "".join(said)


def test_an_error_of_several_processes_is_said_once(tmp_path):
    status, said = two_processes(STAGE_2, *stage_2(tmp_path, "--WEIGHTS", str(tmp_path / "absent.pth")))
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert status == [2, 2] and len(errors) == 1
    assert "stage 2 (finetune), process 0: there is no weight file" in errors[0]

    # What no one foresaw in one process ends the others as well: here a file where a folder must be.
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "features").write_text("")
    status, said = two_processes(STAGE_2, *stage_2(tmp_path))
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert status == [2, 2] and len(errors) == 1 and "features" in errors[0]
    assert "Connection closed" not in said


def test_rank_counts_under_torchrun_alone(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert distributed.rank() == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.rank() == 1


@pytest.mark.slow
def test_imagenet_features_tell_clothes_apart():
    """FMNIST at 96 px, EfficientNet-Lite0: a linear head does well; a random network's has 0.73."""
    dataset = load_dataset("FMNIST", "embedded")
    backbone = load_backbone("efficientnet_lite0", CPU, image_size=96)
    parts = (dataset.train.select(torch.arange(1500)), dataset.test.select(torch.arange(1000)))
    train, test = (extract_features(backbone, part, workers=1) for part in parts)
    scaler = Standardiser.fit(train.x, 0.01)
    train, test = (Features(scaler(part.x), part.y) for part in (train, test))
    head = fit_linear_head(train, 10, tau=0.5)
    assert evaluate_head(head, train, test)["test_accuracy"] >= 0.82
