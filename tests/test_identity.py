"""Files are who they are by their content, wherever they lie; what is known of them is remembered."""

import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import finetune_source_model_on_target_task as stage_2
import rank_models
import train_source_model as stage_1
import transfer_source_to_target as stage_3
from tests.conftest import places
from tests.tiny_data import write_class_folders, write_image
from utils.backbones import load_backbone
from utils.datasets import ImageFiles, identity, load_dataset
from utils.errors import InputError
from utils.features import TaskRequest, cached_features, load_task
from utils.features import cache as feature_cache

BIRDS = ("emu", "owl")


@pytest.fixture(scope="module")
def lenet():
    return load_backbone("random:lenet", torch.device("cpu"))


@pytest.fixture
def settled(monkeypatch):
    """Files that were made in this moment count as old: what is read of them may be remembered."""
    monkeypatch.setattr(identity, "_has_settled", lambda *_: True)


@pytest.fixture
def read(monkeypatch):
    """The names of the files whose content was read."""
    names = []
    for function in ("_read_small", "_read"):
        real = getattr(identity, function)

        def reading(path, real=real):
            found = real(path)
            names.extend([Path(path).name] if found else [])
            return found

        monkeypatch.setattr(identity, function, reading)
    return names


@pytest.fixture
def twins(tmp_path) -> list[Path]:
    """Two folders of equal names, sizes and times, and of other pictures."""
    folders = [tmp_path / place / "birds" for place in "ab"]
    for k, folder in enumerate(folders):
        for number in range(16):
            path = folder / BIRDS[number % 2] / f"{number}.bmp"
            write_image(path, 100 * k + number)
            os.utime(path, (10**9, 10**9))
    one, other = (
        [(p.relative_to(folder), p.stat().st_size) for p in sorted(folder.rglob("*.bmp"))]
        for folder in folders
    )
    assert one == other
    return folders


@pytest.fixture
def birds(tmp_path) -> Path:
    write_class_folders(tmp_path / "birds", BIRDS, 4)
    return tmp_path / "birds"


def files(folder: Path, index: Path | None = None) -> ImageFiles:
    names = tuple(str(path.relative_to(folder)) for path in sorted(folder.rglob("*.*")))
    return ImageFiles(folder, names, index)


# ------------------------------------------------------------------------------------ content alone
def test_digests_tell_contents_apart_and_find_copies(birds):
    shutil.copy(birds / "emu" / "emu_0.jpg", birds / "owl" / "copy.jpg")
    digests = dict(zip(files(birds).names, files(birds).digests, strict=True))
    assert digests["emu/emu_0.jpg"] == digests["owl/copy.jpg"]
    assert len(set(digests.values())) == 8


def test_large_files_have_digests_of_the_same_kind(tmp_path, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    (small,) = files(tmp_path).digests
    monkeypatch.setattr(identity, "SMALL", 100)
    monkeypatch.setattr(identity, "CHUNK", 1000)
    assert files(tmp_path).digests == (small,)


def test_folders_of_equal_names_sizes_and_times_share_nothing(tmp_path, twins, lenet):
    request = TaskRequest(tmp_path, tmp_path / "features")
    one, other = (load_task(f"folder:{folder}", lenet, request, role="target") for folder in twins)
    assert one.name == other.name and one.provenance["sha256"] != other.provenance["sha256"]
    assert not torch.equal(one.train.x, other.train.x)
    alone = TaskRequest(tmp_path, tmp_path / "alone")
    assert torch.equal(
        other.train.x, load_task(f"folder:{twins[1]}", lenet, alone, role="target").train.x
    )


def test_a_moved_and_renamed_folder_finds_its_features(tmp_path, birds, lenet, monkeypatch):
    request = TaskRequest(tmp_path, tmp_path / "features")
    first = load_task(f"folder:{birds}", lenet, request, role="target")
    (tmp_path / "elsewhere").mkdir()
    moved = birds.rename(tmp_path / "elsewhere" / "fowl")
    copied = tmp_path / "copy"
    shutil.copytree(moved, copied, copy_function=shutil.copyfile)  # without their times
    monkeypatch.setattr(feature_cache, "forward", lambda *_: iter(()))  # fails if it must give features
    for folder in (moved, copied):
        again = load_task(f"folder:{folder}", lenet, request, role="target")
        assert torch.equal(first.train.x, again.train.x) and torch.equal(first.test.x, again.test.x)
        assert again.provenance["sha256"] == first.provenance["sha256"]
        assert again.provenance["path"] == str(folder)


def test_results_of_another_folder_are_said_and_of_a_moved_one_found(tmp_path, twins, capsys):
    def run(folder: Path, *flags: str) -> str:
        name = f"folder:{folder}"
        stage_2.main(
            ["--SRC", name, "--TRG", name, "--MODEL", "random:lenet", *flags, *places(tmp_path)]
        )
        said = capsys.readouterr()
        return said.out + "".join(line for line in said.err.splitlines() if "replaces" in line)

    assert "replaces" not in run(twins[0]) and "the result was there" in run(twins[0])
    assert "replaces" not in run(twins[0], "--OVERWRITE")
    said = run(twins[1])
    assert f"replaces the result of folder-birds → folder:{twins[0]} (other data)" in said
    assert "the result was there" not in said
    said = run(twins[1], "--TAU", "0.3")
    assert f"folder:{twins[1]} (other settings: head)" in said
    (tmp_path / "c").mkdir()
    moved = twins[1].rename(tmp_path / "c" / "birds")
    assert "the result was there" in run(moved, "--TAU", "0.3")
    write_image(moved / "emu" / "0.bmp", 999)
    assert "(other data; other settings: head)" in run(moved)  # the record has the former path
    write_image(moved / "emu" / "0.bmp", 1000)
    assert f"folder:{moved} (other images or labels)" in run(moved)
    assert f"folder:{moved} (other groups)" in run(moved, "--GROUPS", r"(\d)\.")
    (moved / "owl").rename(moved / "owlet")
    said = run(moved, "--GROUPS", r"(\d)\.")
    assert f"folder:{moved} (other names of classes)" in said and "the result was there" not in said


def test_a_network_is_that_of_the_images_and_labels_it_was_trained_on(tmp_path, capsys):
    folder, run = tmp_path / "my birds", [*places(tmp_path), "--WORKERS", "0"]
    write_class_folders(folder, BIRDS, 10)
    stage_1.main(["--SRC", f"folder:{folder}", "--EPOCHS", "1", *run])

    def refused(stage, *flags: str) -> str:
        with pytest.raises(SystemExit):
            stage.main(["--SRC", f"folder:{folder}", "--TRG", f"folder:{folder}", *run, *flags])
        return capsys.readouterr().err.splitlines()[-1]

    stage_2.main(["--SRC", f"folder:{folder}", "--TRG", f"folder:{folder}", *run])
    moved = folder.rename(tmp_path / "fowl")
    stage_2.main(["--SRC", f"folder:{moved}", "--TRG", f"folder:{moved}", *run])
    moved.rename(folder)
    (folder / "emu" / "emu_3.jpg").rename(folder / "owl" / "emu_3.jpg")
    for stage in (stage_2, stage_3):
        said = refused(stage)
        assert "there is one of other images, labels or another split" in said
        assert f"train it with `python3 train_source_model.py --SRC 'folder:{folder}' --CHECK" in said
    (folder / "owl" / "emu_3.jpg").rename(folder / "emu" / "emu_3.jpg")
    pairs = r"_(\d)\.|_[05]\."
    assert f"--GROUPS '{pairs}'" in refused(stage_3, "--GROUPS", pairs)
    assert "trained on" in refused(stage_2, "--SEED", "1")


def test_images_that_are_left_out_are_said_with_stored_results_too(tmp_path, birds, capsys):
    write_class_folders(birds, BIRDS, 10)
    for k in (0, 4):
        (birds / "emu" / f"emu_{k}.jpg").write_text("no image")
    name, run = f"folder:{birds}", [*places(tmp_path), "--WORKERS", "0", "--MAX_CORRUPT", "2"]
    for stage, argv in (
        (stage_1, ["--SRC", name, "--EPOCHS", "1", *run]),
        (stage_2, ["--SRC", name, "--TRG", name, *run]),
        (stage_3, ["--SRC", name, "--TRG", name, "--ANALYSIS", "relation", *run]),
    ):
        for again in (False, True):
            stage.main(argv)
            said = capsys.readouterr()
            assert ("was there" in said.out) == again
            lines = [line for line in said.err.splitlines() if "left out, not decodable" in line]
            assert lines and all(line.startswith("warning: folder-birds: ") for line in lines)
            assert sum(line.count(".jpg (") for line in lines) == 2


def test_a_list_of_labels_is_that_of_a_source_in_the_same_folder(tmp_path, capsys):
    run = [*places(tmp_path), "--WORKERS", "0", "--LABELS", str(tmp_path / "list.csv")]
    rows = ["file_name,label"]
    for k in range(20):
        write_image(tmp_path / "photos" / f"{k}.jpg", k)
        rows.append(f"{k}.jpg,{BIRDS[k % 2]}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    name = f"folder:{tmp_path / 'photos'}"
    stage_1.main(["--SRC", name, "--EPOCHS", "1", *run])
    stage_3.main(["--SRC", name, "--TRG", name, "--ANALYSIS", "relation", *run])
    (tmp_path / "list.csv").write_text("\n".join(rows).replace("0.jpg,emu", "0.jpg,owl"))
    with pytest.raises(SystemExit):
        stage_2.main(["--SRC", name, "--TRG", name, *run])
    assert f"--LABELS {tmp_path / 'list.csv'}`" in capsys.readouterr().err


def test_whose_ranking_is_replaced_is_said(tmp_path, twins, capsys):
    for folder, said in ((twins[0], False), (twins[0], False), (twins[1], True)):
        rank_models.main(["--TRG", f"folder:{folder}", "--MODEL", "random:lenet", *places(tmp_path)])
        line = f"warning: replaces the ranking for folder:{twins[0]} (other data)"
        assert (line in capsys.readouterr().err) == said


# -------------------------------------------------------------------------------------------- the index
def test_files_that_are_known_are_not_read_again(tmp_path, birds, settled, read):
    first = files(birds, tmp_path / "index").digests
    assert len(read) == 8
    assert files(birds, tmp_path / "index").digests == first and len(read) == 8
    assert files(birds).digests == first and len(read) == 16  # without an index


def test_a_changed_file_is_noticed(tmp_path, birds, settled, read):
    path = birds / "emu" / "emu_1.jpg"
    before, status = files(birds, tmp_path / "index").digests, path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the time of the last change it had
    read.clear()
    after = files(birds, tmp_path / "index").digests
    assert read == ["emu_1.jpg"]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False] + 6 * [True]


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, birds, read):
    """A change in the same tick of the clock would leave its size and times as they are."""
    assert files(birds, tmp_path / "index").digests == files(birds, tmp_path / "index").digests
    assert len(read) == 16 and not (tmp_path / "index").exists()


@pytest.mark.parametrize("age, lasting", [(0, False), (1, False), (3, True)])
def test_how_long_a_file_must_have_been_left_alone(tmp_path, age, lasting):
    (tmp_path / "a").write_text("")
    status = (tmp_path / "a").stat()
    assert identity._has_settled(status, status.st_ctime_ns + age * 10**9) == lasting


def test_what_was_found_of_pixels_is_remembered(tmp_path, settled, monkeypatch):
    Image.fromarray(np.full((6, 9), 300, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (9, 6), (9, 9, 9, 70)).save(tmp_path / "clear.png")
    images = ImageFiles(tmp_path, ("clear.png", "deep.png"), tmp_path / "index")
    rules = images.reading
    assert rules.scales["16-bit"].bits == 10 and rules.background == 255
    monkeypatch.setattr(identity, "look_at", lambda _: pytest.fail("it was looked at again"))
    again = ImageFiles(tmp_path, ("clear.png", "deep.png"), tmp_path / "index")
    assert again.facts == images.facts and again.reading == rules


def test_an_index_that_is_damaged_costs_time_alone(tmp_path, birds, settled, read):
    first = files(birds, tmp_path / "index").digests
    (index,) = (tmp_path / "index").glob("*.json")
    for damage in (lambda text: text[:-9], lambda text: text.replace("emu_1", "emu_2"), lambda _: "[]"):
        index.write_text(damage(index.read_text()))
        read.clear()
        with pytest.warns(UserWarning, match="its files are read again"):
            assert files(birds, tmp_path / "index").digests == first
        assert len(read) == 8
        assert files(birds, tmp_path / "index").digests == first and len(read) == 8


def test_a_place_that_cannot_hold_the_index(tmp_path, birds, settled):
    (tmp_path / "file").write_text("")
    assert files(birds, tmp_path / "file" / "index").digests == files(birds).digests


def test_names_of_another_part_of_the_folder_are_kept_and_those_of_lost_files_go(
    tmp_path, birds, settled, read
):
    index = tmp_path / "index"
    whole = files(birds)
    first, second = ImageFiles(birds, whole.names[:4], index), ImageFiles(birds, whole.names[4:], index)
    assert first.digests + second.digests == whole.digests
    read.clear()
    assert files(birds, index).digests == whole.digests and not read
    (birds / whole.names[0]).unlink()
    write_image(birds / "emu" / "new.jpg", 77)
    assert len(files(birds, index).digests) == 8
    (path,) = index.glob("*.json")
    assert "emu_0" not in path.read_text() and "new.jpg" in path.read_text()


def test_several_at_once(tmp_path, birds, settled):
    expected, found = files(birds).digests, []

    def look() -> None:
        found.append(files(birds, tmp_path / "index").digests)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


# ----------------------------------------------------------------------------- files that cannot be read
def test_a_file_that_cannot_be_read_is_named_when_it_is_decoded(tmp_path, birds, lenet):
    (birds / "emu" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (birds / "emu" / "also.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(birds / "owl" / "pipe.jpg")
    images = files(birds)
    odd = [one for one in images.digests if one.startswith("unreadable: ")]
    assert odd == [
        "unreadable: emu/also.jpg: No such file or directory",
        "unreadable: emu/gone.jpg: No such file or directory",
        "unreadable: owl/pipe.jpg: it is no file",
    ]
    (birds / "owl" / "pipe.jpg").unlink()
    images, cache = files(birds), tmp_path / "features"
    split = load_dataset(f"folder:{birds}").train.select(torch.arange(3))
    split = type(split)(images, torch.zeros(len(images), dtype=torch.int64))
    with pytest.raises(InputError, match=r"emu/also\.jpg .*No such file.*--MAX_CORRUPT N"):
        cached_features(lenet, split, cache, "birds")
    features, left_out = cached_features(lenet, split, cache, "birds", max_corrupt=2)
    assert len(features) == 8 and len(left_out) == 2
    write_image(tmp_path / "nowhere.jpg", 3)
    split = type(split)(files(birds), split.labels)
    features, left_out = cached_features(lenet, split, cache, "birds")
    assert len(features) == 10 and not left_out


def test_images_left_out_of_a_moved_folder_are_named_where_they_are(tmp_path, birds, lenet):
    (birds / "emu" / "emu_2.jpg").write_text("no image")
    moved = tmp_path / "moved"
    request = TaskRequest(tmp_path, tmp_path / "features", max_corrupt=1)
    tasks = []
    for folder in (birds, moved):
        with pytest.warns(UserWarning) as said:  # the second time from the cache
            tasks.append(load_task(f"folder:{folder}", lenet, request, role="target"))
        (text,) = (str(one.message) for one in said)
        assert re.search(
            rf"^folder-{folder.name}: 1 of \d (training|test) images is left out, .*: ", text
        )
        assert "decodable: emu/emu_2.jpg (cannot identify" in text
        if folder is birds:
            shutil.copytree(birds, moved)
    one, other = (task.provenance for task in tasks)
    assert one.pop("path") != other.pop("path") and one == other
    assert one["unreadable"][0].startswith("emu/emu_2.jpg (cannot identify")
    load = load_dataset(f"folder:{moved}")
    split = next(s for s in (load.train, load.test) if "emu/emu_2.jpg" in s.images.names)
    _, left_out = cached_features(lenet, split, tmp_path / "features", "x", max_corrupt=1)
    assert left_out[0].startswith(f"{moved}/emu/emu_2.jpg (")
