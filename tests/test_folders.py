"""What a folder of images may look like, and what is made of it: a test for each row of docs/data.md."""

import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

import finetune_source_model_on_target_task
import rank_models
import train_source_model
import transfer_source_to_target
from utils.backbones import GREY
from utils.datasets import Dataset, ImageFiles, Split, load_dataset, rgb_image
from utils.errors import InputError
from utils.features import decoded_split

ROOT_READS_ALL = os.geteuid() == 0


def image_bytes(name: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, name)
    return buffer.getvalue()


PNG = image_bytes()


def tree(root: Path, *names: str, content: bytes = PNG) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def pair(*folders: str, each: int = 2) -> list[str]:
    """Images of the two classes h and v in each of the folders."""
    return [f"{folder}/{name}/{k}.png" for folder in folders for name in "hv" for k in range(each)]


def load(root: Path, **options) -> Dataset:
    return load_dataset(f"folder:{root}", **options)


def files(data: Dataset) -> dict[str, str]:
    """Every image below the folder that was read, with its class."""
    return {
        name: data.class_names[label]
        for split in (data.train, data.test)
        for name, label in zip(split.images.names, split.labels.tolist(), strict=True)
    }


def parts(data: Dataset) -> tuple[str, str]:
    return data.train.images.root.name, data.test.images.root.name


# ------------------------------------------------------------------------------------------- splits
@pytest.mark.parametrize(
    "train, test",
    [
        ("train", "test"),
        ("Training", "Testing"),
        ("TRAIN", "TEST"),
        ("train_set", "test-set"),
        ("seg_train", "seg_test"),
        ("train_images", "val_images"),
        ("Trainingsdaten", "Testdaten"),
        ("train2017", "val2017"),
        ("trn", "tst"),
        ("entraînement", "validation"),
        ("训练集", "测试集"),
        ("treino", "teste"),
        ("training", "dev"),
        ("Train", "valid"),
        ("train", "holdout"),
    ],
)
def test_splits_by_their_usual_names(tmp_path, train, test):
    data = load(tree(tmp_path, *pair(train, each=3), *pair(test)))
    assert parts(data) == (train, test) and data.class_names == ("h", "v")
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.found == f"{tmp_path.name}: 2 classes, 6 + 4 images ({train}/ + {test}/)"


def test_validation_is_left_aside_where_there_is_a_test_folder(tmp_path):
    data = load(tree(tmp_path, *pair("train", "validation", "Test"), "sample.png", "pred/1.png"))
    assert parts(data) == ("train", "Test") and len(data.test) == 4
    assert data.found.endswith("left out: 1 beside the folders; left aside: pred/, validation/")


def test_a_test_folder_without_classes_gives_way_to_validation(tmp_path):
    data = load(tree(tmp_path, *pair("train", "val"), "test/1.png", "test/2.png"))
    assert parts(data) == ("train", "val") and data.found.endswith("left aside: test/")


@pytest.mark.parametrize(
    "names, complaint",
    [
        (pair("train", "Training", "test"), "of Training/, test/, train/ several are the same split"),
        (pair("train", "val", "valid"), "several are the same split"),
        (pair("train"), r"has train/ but neither test/ nor val/: add one, or give folder:.*/train"),
        ([*pair("train"), "test/1.png"], "neither test/ nor val/ with class folders"),
        (["train/1.png", "train/2.png", "test/1.png"], "hold images but no class folders"),
        (pair("Teil1", "Teil2"), r"Teil1/, Teil2/ hold the same folders, h/, v/: if they are splits"),
        (pair("A/A", "B/B"), "A/, B/ hold the same folders"),
        ([*pair("A", "B"), "A/x/1.png"], "A/, B/ hold the same folders"),
        (["cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"], "splits outside"),
        ([*pair("train", "test"), "test/w/1.png"], r"differ in the classes w \(only in test/\)"),
    ],
)
def test_folders_that_may_be_this_or_that_are_refused(tmp_path, names, complaint):
    with pytest.raises(InputError, match=complaint) as refused:
        load(tree(tmp_path, *names))
    assert "\n" not in str(refused.value)


def test_classes_may_be_called_as_splits_are(tmp_path):
    names = [f"{name}/{k}.png" for name in ("train", "car", "bus", "val") for k in range(5)]
    assert load(tree(tmp_path / "vehicles", *names)).class_names == ("bus", "car", "train", "val")
    names = [f"{name}/{k}.png" for name in ("valid", "invalid") for k in range(5)]
    assert load(tree(tmp_path / "checks", *names)).class_names == ("invalid", "valid")
    names = [f"{name}/{k}.png" for name in ("train station", "test tube") for k in range(5)]
    assert load(tree(tmp_path / "things", *names)).class_names == ("test tube", "train station")


def test_many_classes_may_hold_folders_of_the_same_names(tmp_path):
    names = [f"{kind}/{side}/{k}.png" for kind in range(11) for side in "lr" for k in range(2)]
    assert len(load(tree(tmp_path, *names)).class_names) == 11


def test_folders_below_classes_are_of_the_class(tmp_path):
    data = load(tree(tmp_path, "a/2020/1.png", "a/2021/x/1.png", "a/2.png", "b/1.png", "b/2.png"))
    assert files(data) == {
        "a/2.png": "a",
        "a/2020/1.png": "a",
        "a/2021/x/1.png": "a",
        "b/1.png": "b",
        "b/2.png": "b",
    }


def test_a_folder_inside_a_folder(tmp_path):
    tree(tmp_path, *pair("in/in/train", "in/in/test"), "in/__MACOSX/in/._1.png", "in/README.md")
    data = load(tmp_path)
    assert data.train.images.root == tmp_path / "in" / "in" / "train"
    assert "read: in/in/" in data.found and "1 .md, 1 hidden or system" in data.found
    # As Kaggle packs it: each split once more in itself, and images to predict.
    twice = tree(tmp_path / "k", *pair("seg_train/seg_train", "seg_test/seg_test"), "seg_pred/1.png")
    data = load(twice)
    assert data.class_names == ("h", "v") and len(data.train) == len(data.test) == 4
    assert data.found == (
        "k: 2 classes, 4 + 4 images (seg_train/seg_train/ + seg_test/seg_test/); left aside: seg_pred/"
    )


def test_folders_without_labels_keep_to_the_same_rules(tmp_path):
    tree(tmp_path, *(f"Training/{k}.png" for k in range(5)), "Testing/x/1.png", "Testing/.t/1.png")
    data = load(tmp_path, unlabelled_classes=2)
    assert parts(data) == ("Training", "Testing")
    assert data.test.images.names == ("x/1.png",) and set(data.train.labels.tolist()) == {-1}
    assert "no labels, 5 + 1 images (Training/ + Testing/); left out: 1 hidden" in data.found


# ------------------------------------------------------------------------------------------- images
HIDDEN = (
    ".ipynb_checkpoints/1.png",
    "@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg",
    "a/.ipynb_checkpoints/1.png",
    "a/__MACOSX/1.png",
    "a/.Trash-1000/files/1.png",
    "a/deep/.thumbnails/1.png",
    "a/._1.png",
    "b/$RECYCLE.BIN/1.png",
    "b/#recycle/1.png",
    "b/.hidden.png",
)


def test_hidden_and_system_things_are_skipped_at_every_depth(tmp_path):
    shown = [f"{name}/{k}.png" for name in "ab" for k in range(5)]
    data = load(tree(tmp_path, *shown, *HIDDEN, "a/.DS_Store", "b/Thumbs.db"))
    assert set(files(data)) == set(shown)
    assert data.found.endswith("left out: 10 hidden or system")


@pytest.mark.parametrize("ending", ["jfif", "JPE", "gif", "PNG", "tga", "dib", "webp", "jp2", "pbm"])
def test_every_ending_of_an_image(tmp_path, ending):
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "dib": "BMP", "jp2": "JPEG2000", "pbm": "PPM"}
    kind = kinds.get(ending.lower(), ending.upper())
    names = [f"{name}/{k}.{ending}" for name in "ab" for k in range(2)]
    data = load(tree(tmp_path, *names, content=image_bytes(kind)))
    assert set(files(data)) == set(names) and rgb_image(data.train.images, 0).size == (8, 8)


KINDS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM"]
KINDS += ["AVIF"] if features.check("avif") else []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["", ".image", ".0"])
def test_images_without_an_ending_are_told_by_their_first_bytes(tmp_path, kind, ending):
    names = [f"{name}/{k}{ending}" for name in "ab" for k in range(2)]
    tree(tmp_path, *names, content=image_bytes(kind))
    tree(tmp_path, "a/LICENSE", content=b"P2P is BM of II* words")
    tree(tmp_path, "a/empty", content=b"")
    data = load(tmp_path)
    assert set(files(data)) == set(names) and rgb_image(data.train.images, 0).size == (8, 8)
    assert data.found.endswith("left out: 2 without ending")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_image_without_an_ending_is_not_left_out(tmp_path, kind):
    """It is listed, so that extraction names it as an image that cannot be decoded."""
    tree(tmp_path, "a/1", "a/2", "b/1", "b/2", content=image_bytes(kind))
    whole = (tmp_path / "a" / "1").read_bytes()
    (tmp_path / "a" / "1").write_bytes(whole[: len(whole) // 2])
    data = load(tmp_path)
    assert set(files(data)) == {"a/1", "a/2", "b/1", "b/2"}
    for split in (data.train, data.test):
        for number, name in enumerate(split.images.names):
            if name == "a/1":
                with pytest.raises((OSError, ValueError, SyntaxError)):
                    rgb_image(split.images, number)
            else:
                assert rgb_image(split.images, number).size == (8, 8)


def test_what_is_no_image_is_counted(tmp_path):
    tree(
        tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png", "a/1.txt", "a/3.HEIC", "b/4.heic", "x.png"
    )
    tree(tmp_path, "a/1.png~", "b/1.png.bak", "b/1.nef")
    data = load(tmp_path)
    assert len(files(data)) == 4
    said = "2 .heic, 1 .bak, 1 .nef, 1 .png~, 1 .txt, 1 beside the folders"
    assert data.found == f"{tmp_path.name}: 2 classes, 2 + 2 images (drawn to test on); left out: {said}"
    tree(tmp_path, "c/1.heic", "c/2.heic")
    with pytest.raises(InputError, match=r"c holds no images \(left out: 2 \.heic\): add some"):
        load(tmp_path)


def test_links_are_followed(tmp_path):
    tree(tmp_path / "far", "x/1.png", "x/2.png", "3.png")
    tree(tmp_path / "own", "a/1.png", "a/2.png", "b/1.png")
    (tmp_path / "own" / "b" / "more").symlink_to(tmp_path / "far" / "x")
    (tmp_path / "own" / "b" / "3.png").symlink_to(tmp_path / "far" / "3.png")
    (tmp_path / "own" / "c").symlink_to(tmp_path / "far")
    data = load(tmp_path / "own")
    assert files(data) == {
        "a/1.png": "a",
        "a/2.png": "a",
        "b/1.png": "b",
        "b/3.png": "b",
        "b/more/1.png": "b",
        "b/more/2.png": "b",
        "c/3.png": "c",
        "c/x/1.png": "c",
        "c/x/2.png": "c",
    }


def test_links_that_lead_back_end(tmp_path):
    own = tree(tmp_path / "own", "a/1.png", "a/z/2.png", "b/1.png", "b/2.png")
    for name, goal in (("a/0", "a/z"), ("a/up", "."), ("a/z/me", "a/z"), ("all", "."), ("b/top", "..")):
        (own / name).symlink_to((own / goal).resolve())
    (own / "a" / "z" / "other").symlink_to(own / "b")
    (own / "b" / "other").symlink_to(own / "a")
    data = load(own)
    assert {name: label for name, label in files(data).items() if "other" not in name} == {
        "a/1.png": "a",
        "a/z/2.png": "a",
        "b/1.png": "b",
        "b/2.png": "b",
    }
    assert "links back" in data.found


def test_a_link_to_nothing_is_named(tmp_path):
    tree(tmp_path, *(f"{name}/{k}.png" for name in "ab" for k in range(3)))
    (tmp_path / "c").symlink_to(tmp_path / "gone")
    assert load(tmp_path).found.endswith("left out: broken link c")
    (tmp_path / "a" / "lost.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "a" / "self.png").symlink_to(tmp_path / "a" / "self.png")
    data = load(tmp_path)
    assert {"a/lost.png", "a/self.png"} < files(data).keys()
    whole = Split(ImageFiles(tmp_path, tuple(files(data))), torch.zeros(len(files(data))))
    with pytest.raises(InputError, match=r"a/lost\.png.*a/self\.png.*2 so far.*--MAX_CORRUPT"):
        decoded_split(whole, GREY)
    frames, left_out = decoded_split(whole, GREY, max_corrupt=2)
    assert len(frames) == len(files(data)) - 2 and len(left_out) == 2


def test_pipes_are_not_read(tmp_path):
    tree(tmp_path, *(f"{name}/{k}.png" for name in "ab" for k in range(3)))
    os.mkfifo(tmp_path / "a" / "pipe.png")
    os.mkfifo(tmp_path / "a" / "pipe")
    assert load(tmp_path).found.endswith("left out: 2 pipes or devices")


@pytest.mark.skipif(ROOT_READS_ALL, reason="the superuser reads every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    tree(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a").chmod(0)
    with pytest.raises(InputError, match="a cannot be read"):
        load(tmp_path)
    (tmp_path / "a").chmod(0o700)


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    if len({*tree(tmp_path, f"{nfc}.png", f"{nfd}.png").iterdir()}) == 1:
        pytest.skip("this file system knows one form")
    tree(tmp_path / "s", f"train/{nfc}/1.png", "train/tea/1.png", f"test/{nfd}/1.png", "test/tea/1.png")
    data = load(tmp_path / "s")
    assert data.class_names == (nfc, "tea") and data.test.labels.tolist() == [0, 1]
    assert rgb_image(data.test.images, 0).size == (8, 8)
    tree(tmp_path / "m", f"{nfc}/1.png", f"{nfd}/1.png", f"{nfd}/2.png", "tea/1.png", "tea/2.png")
    data = load(tmp_path / "m")
    assert data.class_names == (nfc, "tea") and list(files(data).values()).count(nfc) == 3
    assert f"{nfc}/ in 2 Unicode forms, one class" in data.found


# ------------------------------------------------------------------------------------ lists of labels
ROWS = [("1.png", "cat"), ("2.png", "dog"), ("3.png", "cat"), ("4.png", "dog")]
WANTED = {f"images/{file}": label for file, label in ROWS}


def listed(root: Path, name: str, text: str | bytes, *names: str) -> Path:
    tree(root, *(names or WANTED))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def table(*rows: tuple, head: str = "file_name,label", sign: str = ",") -> str:
    return "\n".join([head.replace(",", sign), *(sign.join(map(str, row)) for row in rows)]) + "\n"


CSV = table(*ROWS)
OBJECTS = [{"file_name": file, "label": label} for file, label in ROWS]
TABLES = {
    "metadata.csv": CSV,
    "labels.csv": table(*ROWS, head="ID,Breed"),
    "with a mark.csv": "\ufeff" + CSV,
    "semicolons.csv": table(*ROWS, head="Image;Class Name", sign=";"),
    "tabs.tsv": table(*ROWS, sign="\t"),
    "utf16.csv": table(*ROWS, sign="\t").encode("utf-16"),
    "windows.csv": table(*((f"images\\{a}", b) for a, b in ROWS)).replace("\n", "\r\n"),
    "elsewhere.csv": table(*((f"/content/drive/{a}", b) for a, b in WANTED.items())),
    "no endings.csv": table(*((a[:1], b) for a, b in ROWS)),
    "capitals.csv": table(*((a.upper(), b) for a, b in ROWS)),
    "more.csv": table(*((k, *row, k * 7) for k, row in enumerate(ROWS)), head=",file,label,width"),
    "numbered.csv": table(*((*row, row[1] == "dog") for row in ROWS), head="image,class_name,class_id"),
    "twice.csv": table(*ROWS, *ROWS),
    "metadata.jsonl": "\n".join(map(json.dumps, OBJECTS)),
    "list.json": json.dumps(OBJECTS),
    "map.json": json.dumps(dict(ROWS)),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_list_of_labels_is_found(tmp_path, name):
    data = load(listed(tmp_path, name, TABLES[name]))
    assert files(data) == WANTED and data.class_names == ("cat", "dog")
    assert (
        data.found.startswith(f"{tmp_path.name}: 2 classes, 2 + 2 images (drawn to test on)")
        and name in data.found
    )
    assert "left out" not in data.found


@pytest.mark.parametrize(
    "name, text",
    [
        ("plain.txt", "\n".join(f"{a} {b}" for a, b in ROWS)),
        ("headless.csv", "\n".join(f"{a},{b}" for a, b in ROWS)),
        ("unknown.csv", table(*ROWS, head="Foto,Art")),
    ],
)
def test_a_list_that_says_less_can_be_named(tmp_path, name, text):
    listed(tmp_path / "photos", "notes.txt", "nothing")
    (tmp_path / name).write_text(text)
    assert files(load(tmp_path / "photos", labels=tmp_path / name)) == WANTED
    (tmp_path / name).rename(tmp_path / "photos" / name)  # found there, too
    assert files(load(tmp_path / "photos", labels=Path(name))) == WANTED


def test_images_beside_their_list(tmp_path):
    data = load(listed(tmp_path, "metadata.csv", CSV, *(file for file, _ in ROWS), "5.png"))
    assert files(data) == dict(ROWS) and data.found.endswith("left out: 1 image without a row")


def test_numbers_are_sorted_as_numbers(tmp_path):
    rows = [(f"{k}.png", f"{k % 12}.0") for k in range(24)]
    data = load(listed(tmp_path, "labels.csv", table(*rows), *(f"images/{file}" for file, _ in rows)))
    assert data.class_names == tuple(map(str, range(12)))
    assert files(data)["images/23.png"] == "11"


def test_splits_of_a_list(tmp_path):
    parts_of = ["Train", "training", "TEST", "test", "val"]
    rows = [(f"{k}.png", "ab"[k % 2], part) for k, part in enumerate(parts_of)]
    text = table(*rows, head="file,label,split")
    data = load(listed(tmp_path, "labels.csv", text, *(f"images/{row[0]}" for row in rows)))
    assert data.train.images.names == ("images/0.png", "images/1.png")
    assert data.test.images.names == ("images/2.png", "images/3.png")
    assert data.found.endswith("left aside: 1 images for validation")


def test_splits_of_a_list_by_the_folders(tmp_path):
    names = [f"{part}/{k}.png" for part in ("train", "test") for k in range(4)]
    text = table(*((name, "ab"[k % 2]) for k, name in enumerate(names)))
    data = load(listed(tmp_path, "labels.csv", text, *names))
    assert {name[:5] for name in data.train.images.names} == {"train"} and len(data.test) == 4


def test_hugging_faces_folders(tmp_path):
    for part in ("train", "test"):
        listed(tmp_path / part, "metadata.csv", CSV, *(file for file, _ in ROWS))
    data = load(tmp_path)
    assert data.train.images.names == ("train/1.png", "train/3.png", "train/2.png", "train/4.png")
    assert len(data.test) == 4 and data.test.labels.tolist() == [0, 0, 1, 1]
    assert "(train/ + test/)" in data.found


def test_a_list_for_each_split(tmp_path):
    listed(tmp_path, "train.csv", table(*ROWS))
    listed(
        tmp_path, "test.csv", table(("5.png", "dog"), ("6.png", "cat")), "images/5.png", "images/6.png"
    )
    data = load(tmp_path)
    assert len(data.train) == 4 and data.test.images.names == ("images/6.png", "images/5.png")
    # As competitions have it: nothing is told of the test images.
    (tmp_path / "test.csv").write_text(table(("5.png",), ("6.png",), head="id"))
    tree(tmp_path, "sample_submission.csv", content=table(("5.png", "cat"), head="id,label").encode())
    assert files(load(tmp_path)) == WANTED


@pytest.mark.parametrize(
    "text, complaint",
    [
        (table(*ROWS, ("9.png", "cat")), r"row 6, column file_name: no image 9\.png below"),
        (table(("1.png", "")), r"row 2, column label: the label is empty"),
        (table(("", "cat")), r"row 2, column file_name: no file is named"),
        (table(*ROWS, ("1.png", "dog")), r"row 6: .*1\.png has the label dog here and cat in row 2"),
        (table(*((*row, "x") for row in ROWS)), r"row 2: 3 cells under 2 names"),
        (
            table(*((*row, k) for k, row in enumerate(ROWS)), head="file,label,target"),
            r"which column holds the labels, label, target\? .*--LABELS .*labels\.csv:label",
        ),
        (
            table(*((*row, "x") for row in ROWS), head="file,one,two"),
            "which column holds the labels, one, two",
        ),
        (table(("1.png", "['cat']")), "is a list: an image has one label"),
        (table(*((*row, "x") for row in ROWS), head="file,label,split"), "column split: x is no split"),
        (table(*((*row, "train") for row in ROWS), head="file,label,split"), "for training alone"),
        (
            table(*((*ROWS[k], ["train", "test"][k > 2]) for k in range(4)), head="file,label,split"),
            "no test image of the class cat",
        ),
        (table(*ROWS[:3]), "class dog holds one image"),
        (table(*((row[0],) for row in ROWS), head="file"), "no column of labels beside file"),
        (table(head="file,label"), "has no rows"),
        ("", "has no rows"),
        ("file,label,label\n1.png,a,b\n", "two columns label"),
        (b"file,label\n1.png,caf\xe9\n", "is not UTF-8 text"),
        (table(*((f"nowhere/{a}", b) for a, b in ROWS)), r"no image nowhere/1\.png .*4 of 4 rows"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(tmp_path, text, complaint):
    listed(tmp_path, "labels.csv", text)
    with pytest.raises(InputError, match=complaint) as refused:
        load(tmp_path, labels=tmp_path / "labels.csv")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ('{"file_name": "1.png", "label": ["a", "b"]}', "row 1, column label: .* is a list"),
        ('{"file_name": "1.png", "label": null}', "the label is empty"),
        ('{"file_name": "1.png"', "row 1: no JSON"),
        ("[1]", "row 1: no object"),
        ("[" * 100_000, "labels.jsonl"),
    ],
)
def test_json_that_cannot_be_meant_is_refused(tmp_path, text, complaint):
    listed(tmp_path, "labels.jsonl", text)
    with pytest.raises(InputError, match=complaint):
        load(tmp_path, labels=tmp_path / "labels.jsonl")


def test_the_column_of_labels_can_be_named(tmp_path):
    rows = [(*row, "xy"[k // 2]) for k, row in enumerate(ROWS)]
    listed(tmp_path, "labels.csv", table(*rows, head="file,label,target"))
    with pytest.raises(InputError, match="which column holds the labels"):
        load(tmp_path)
    data = load(tmp_path, labels=Path(f"{tmp_path / 'labels.csv'}:target"))
    assert data.class_names == ("x", "y")
    with pytest.raises(InputError, match="has no column other; it has file, label, target"):
        load(tmp_path, labels=Path(f"{tmp_path / 'labels.csv'}:other"))
    with pytest.raises(InputError, match=r"--LABELS .*nothing\.csv: there is no such file"):
        load(tmp_path, labels=tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="is a folder, no file"):
        load(tmp_path, labels=tmp_path / "images")


@pytest.mark.parametrize(
    "column", ["picture", "photo", "img_file", "filename_original", "Image Index", "Foto", "scan"]
)
def test_names_of_files_outrank_numbers_of_rows(tmp_path, column):
    rows = [(k, f"{39 - k}.png", "ab"[k % 2]) for k in range(40)]
    text = table(*rows, head=f"id,{column},label")
    data = load(listed(tmp_path, "l.csv", text, *(row[1] for row in rows)))
    assert files(data) == {file: label for _, file, label in rows}
    assert f"read: l.csv ({column}, label)" in data.found


def test_two_columns_of_files_that_differ_are_refused(tmp_path):
    rows = [(f"{k}.png", f"{39 - k}.png", k, 39 - k, "ab"[k % 2]) for k in range(40)]
    names = [row[0] for row in rows]
    for a, b in ((0, 1), (2, 3)):
        head = ",".join([("file", "scan", "id", "image id")[k] for k in (a, b)] + ["label"])
        listed(tmp_path, "l.csv", table(*((r[a], r[b], r[4]) for r in rows), head=head), *names)
        one, other = head.split(",")[:2]
        with pytest.raises(InputError, match=f"names the files, ({one} or {other}|{other} or {one})"):
            load(tmp_path, labels=tmp_path / "l.csv")
    # Numbers of classes are names of images, too, but of few.
    (tmp_path / "l.csv").write_text("".join(f"{k % 2},{k}\n" for k in range(40)))
    assert files(load(tmp_path, labels=tmp_path / "l.csv")) == {
        f"{k}.png": f"{k % 2}" for k in range(40)
    }
    # Files that are not there are named, not found by their numbers.
    listed(tmp_path, "l.csv", table(*((k, f"{39 - k}.jpg", "a") for k in range(40)), head="id,a,label"))
    with pytest.raises(InputError, match=r"row 2, column a: no image 39\.jpg below"):
        load(tmp_path, labels=tmp_path / "l.csv")


@pytest.mark.parametrize("word", ["NaN", "nan", "null", "None", "<NA>"])
def test_labels_that_stand_for_none_are_refused(tmp_path, word):
    listed(tmp_path, "labels.csv", table(*ROWS[:3], ("4.png", word)))
    with pytest.raises(InputError, match=f"row 5, column label: {word} stands for no label"):
        load(tmp_path, labels=tmp_path / "labels.csv")


def test_minus_one_beside_other_numbers_is_refused(tmp_path):
    rows = [(f"{k}.png", k % 3 - 1) for k in range(12)]
    names = [f"images/{row[0]}" for row in rows]
    listed(tmp_path, "labels.csv", table(*rows), *names)
    with pytest.raises(InputError, match=r"row 2, column label: -1 beside 0, 1: where -1 means"):
        load(tmp_path, labels=tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text(
        table(*((file, k % 2 * 2 - 1) for k, (file, _) in enumerate(rows)))
    )
    assert load(tmp_path).class_names == ("-1", "1")


@pytest.mark.parametrize("names", [("Cat", "cat", "dog"), ("01", "1", "2"), ("a b", "A_b", "c")])
def test_labels_that_differ_in_spelling_alone_are_said(tmp_path, names):
    rows = [(f"{k}.png", names[k % 3]) for k in range(12)]
    listed(tmp_path, "labels.csv", table(*rows), *(f"images/{row[0]}" for row in rows))
    with pytest.warns(UserWarning, match="differ in their spelling alone") as told:
        assert load(tmp_path).class_names == tuple(sorted(names))
    assert sum("spelling" in str(one.message) for one in told) == 1


@pytest.mark.parametrize(
    "head, cells",
    [
        ("is_train", (1, 0)),
        ("train", ("True", "False")),
        ("is_test", (0, 1)),
        ("is_valid", ("false", "true")),
        ("is_training_image", (1, 0)),
        ("train,test", ("1,0", "0,1")),
        ("train,val,test", ("1,0,0", "0,0,1")),
    ],
)
def test_splits_as_yes_and_no(tmp_path, head, cells):
    rows = [(f"{k}.png", "ab"[k % 2], cells[k // 6]) for k in range(8)]
    text = table(*rows, head=f"file,art,{head}")
    data = load(listed(tmp_path, "l.csv", text, *(f"i/{r[0]}" for r in rows)), labels=tmp_path / "l.csv")
    assert (len(data.train), data.test.images.names) == (6, ("i/6.png", "i/7.png"))
    # Alone it is the label.
    (tmp_path / "l.csv").write_text(
        table(*((a, k % 2) for k, (a, *_) in enumerate(rows)), head="file,train")
    )
    assert load(tmp_path, labels=tmp_path / "l.csv").class_names == ("0", "1")


def test_a_name_that_may_be_two_images_is_refused(tmp_path):
    listed(tmp_path, "labels.csv", CSV, *WANTED, "other/1.png")
    with pytest.raises(InputError, match=r"row 2, .*1\.png may be several images: name their folders"):
        load(tmp_path, labels=tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text(table(*WANTED.items()))
    assert files(load(tmp_path, labels=tmp_path / "labels.csv")) == WANTED


def test_a_list_beside_class_folders_must_agree(tmp_path):
    names = ["cat/1.png", "cat/3.png", "dog/2.png", "dog/4.png"]
    listed(tmp_path, "labels.csv", CSV, *names)
    data = load(tmp_path)
    assert files(data) == {name: name[:3] for name in names}
    assert data.found.endswith("left aside: labels.csv, which agrees")
    names = ["cat/1.png", "cat/3.png", "dog/2.png", "dog/4.png", "dog/5.png"]
    other = table(*ROWS[:3], ("4.png", "cat"), ("5.png", "dog"))
    listed(tmp_path, "labels.csv", other, *names)
    with pytest.raises(InputError, match=r"labels\.csv and the class folders beside it name different"):
        load(tmp_path)
    assert files(load(tmp_path, labels=tmp_path / "labels.csv"))["dog/4.png"] == "cat"
    rows = [(*row, ["train", "test"][k > 1]) for k, row in enumerate(ROWS)]
    (tmp_path / "labels.csv").write_text(table(*rows, head="file,label,split"))
    with pytest.raises(InputError, match="has a column split and the class folders have no splits"):
        load(tmp_path)
    # Tables of other things are none of these.
    (tmp_path / "labels.csv").write_text(table(*ROWS, head="file,photographer"))
    assert len(files(load(tmp_path))) == 5


PATIENTS = [(f"p{p}/{k}.png", ["ill", "well"][p // 2 % 2]) for p in range(8) for k in range(2)]


@pytest.mark.parametrize("folder", ["p", "ward "])
def test_a_list_of_all_images_replaces_folders_that_are_no_classes(tmp_path, folder):
    """Patients' folders, and one called by a word, with the labels in a list."""
    rows = [(name.replace("p", folder, 1).replace("8", "x"), label) for name, label in PATIENTS]
    data = load(listed(tmp_path, "labels.csv", table(*rows), *(name for name, _ in rows)))
    assert files(data) == dict(rows) and data.class_names == ("ill", "well")
    assert "read: labels.csv (file_name, label); left aside: the names of 8 folders" in data.found
    # Numbers as names: that a label is called as a folder says nothing.
    rows = [(name[1:], k % 2) for k, (name, _) in enumerate(PATIENTS)]
    data = load(listed(tmp_path / "n", "list.csv", table(*rows, head="id,y"), *(n for n, _ in rows)))
    assert files(data) == {name: str(label) for name, label in rows}


def test_tables_of_other_things_beside_class_folders_are_left_aside(tmp_path):
    names = [f"{name}/{name}{k}.png" for name in ("cat", "dog") for k in range(6)]
    tree(tmp_path, *names)
    wanted = {name: name[:3] for name in names}
    (tmp_path / "predictions.csv").write_text(table(*((n, "cat") for n in names), head="file,class"))
    (tmp_path / "metadata.csv").write_text(
        table(
            *((n, "in" if k % 3 else "out", k) for k, n in enumerate(names)), head="file_name,category,q"
        )
    )
    (tmp_path / "photographers.csv").write_text(table((names[0], "pro"), head="file,class"))
    data = load(tmp_path)
    assert files(data) == wanted
    assert "metadata.csv, of other labels, photographers.csv, of other labels" in data.found
    # Most images are labelled as the folders say, by number: then one of the two is wrong.
    numbered = [(n, int(n[:3] == "dog")) for n in names]
    (tmp_path / "labels.csv").write_text(table(*numbered[:-1], (names[-1], 0)))
    with pytest.raises(InputError, match=r"labels\.csv and the class folders beside it name different"):
        load(tmp_path)


def test_images_in_a_folder_of_each_split_beside_its_list(tmp_path):
    for part in ("train", "validation"):
        rows = [(f"images/{a}", b) for a, b in ROWS]
        listed(tmp_path / part, "metadata.csv", table(*rows), *(name for name, _ in rows))
    data = load(tmp_path)
    assert data.train.images.names[0] == "train/images/1.png" and len(data.test) == 4
    assert "(train/ + validation/)" in data.found and files(data)["validation/images/2.png"] == "dog"
    data = load(tmp_path, labels=tmp_path / "train" / "metadata.csv")
    assert files(data) == {f"train/images/{a}": b for a, b in ROWS}
    assert data.found.endswith("left aside: validation/")


@pytest.mark.parametrize("name", ["train.csv", "trainLabels.csv", "train_labels.csv"])
def test_a_list_is_of_the_folder_that_it_is_called_after(tmp_path, name):
    """Competitions number the images of train/ and of test/ alike."""
    tree(tmp_path, *(f"{part}/{file}" for part in ("train", "test") for file, _ in ROWS))
    (tmp_path / name).write_text(table(*((a[:1], b) for a, b in ROWS), head="id,label"))
    (tmp_path / "sample_submission.csv").write_text(table(("1", "cat"), head="id,label"))
    for labels in (None, tmp_path / name):
        data = load(tmp_path, labels=labels)
        assert files(data) == {f"train/{a}": b for a, b in ROWS}
        assert data.found.endswith("left aside: test/")
    (tmp_path / "test.csv").write_text(table(*((a, "dog" if b == "cat" else "cat") for a, b in ROWS)))
    data = load(tmp_path)
    assert len(data.train) == len(data.test) == 4 and files(data)["test/1.png"] == "dog"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("file,label\n1.png,café\n".encode("latin-1"), r"labels\.csv is not UTF-8 text"),
        (b"file,cat,dog\n1.png,1,0\n2.png,0,1\n", "it has a column for each class"),
        (b"file,height\n1.png,1\n", "of its columns file, height none is called label or class"),
        (b"file,label\n9.png,a\n", "its column file names none of the images"),
    ],
)
@pytest.mark.parametrize("names", [("1.png", "2.png"), WANTED, ("train/1.png", "test/2.png")])
def test_a_list_that_is_not_used_is_named(tmp_path, text, reason, names):
    listed(tmp_path, "labels.csv", text, *names)
    with pytest.raises(InputError, match=rf"--LABELS FILE\); labels\.csv is not used: {reason}"):
        load(tmp_path)


def test_a_list_beside_class_folders_that_cannot_be_read_is_said(tmp_path):
    listed(tmp_path, "labels.csv", "file,label\n1.png,é\n".encode("latin-1"), *pair("."))
    assert "left aside: labels.csv (labels.csv is not UTF-8 text" in load(tmp_path).found


@pytest.mark.parametrize(
    "names, complaint",
    [
        ([*pair("flowers"), "preview.png"], r"flowers/ is the only folder .* give folder:.*/flowers$"),
        (["images/1.png", "images/2.png"], r"images/ is the only folder in it .*--LABELS FILE"),
        (["train/a/1.png", "test/a/1.png"], r"train: a/ is the only folder in it"),
    ],
)
def test_one_class_is_refused_by_its_name(tmp_path, names, complaint):
    with pytest.raises(InputError, match=complaint):
        load(tree(tmp_path, *names))
    (tmp_path / "l.csv").write_text(table((names[0], "a"), (names[1], "a")))
    with pytest.raises(InputError, match="every label in the column label is a"):
        load(tmp_path, labels=tmp_path / "l.csv")


def test_a_list_of_the_classes_is_no_list_of_labels(tmp_path):
    names = [f"{name}/{k}.png" for name in ("cat", "dog") for k in range(name == "dog", 40, 2)]
    tree(tmp_path, *names)
    (tmp_path / "classes.json").write_text('{"0": "cat", "1": "dog", "2": "emu"}')
    (tmp_path / "classes.csv").write_text("id,class\n0,cat\n1,dog\n2,emu\n")
    assert load(tmp_path).found.endswith("left out: 1 .csv, 1 .json")


def test_an_image_may_be_called_as_a_column(tmp_path):
    listed(tmp_path, "labels.csv", table(*ROWS, ("label.png", "cat")), *WANTED, "images/label.png")
    assert files(load(tmp_path)) == WANTED | {"images/label.png": "cat"}


def test_two_lists_are_refused_and_one_can_be_named(tmp_path):
    listed(tmp_path, "a.csv", CSV)
    listed(tmp_path, "b.csv", CSV)
    with pytest.raises(InputError, match=r"several lists of labels, a\.csv, b\.csv: say which"):
        load(tmp_path)
    assert files(load(tmp_path, labels=tmp_path / "b.csv")) == WANTED


def test_a_list_is_for_folders_with_labels(tmp_path):
    listed(tmp_path, "labels.csv", CSV)
    with pytest.raises(InputError, match="--LABELS is for folder:PATH: MNIST has labels"):
        load_dataset("MNIST", "embedded", labels=tmp_path / "labels.csv")
    with pytest.raises(InputError, match="give it or --LABELS"):
        load(tmp_path, labels=tmp_path / "labels.csv", unlabelled_classes=2)


# ---------------------------------------------------------------------------------------- the commands
def places(root: Path) -> list[str]:
    return [f"--{name}_DIR={root / name.lower()}" for name in ("DATA", "CHECKPOINT", "RESULTS")]


def test_every_run_says_once_what_it_found(tmp_path, capsys):
    photos = tree(tmp_path / "photos", *pair("Training", "Testing"), "Training/h/x.txt")
    argv = ["--SRC", f"folder:{photos}", "--EPOCHS", "1", "--WORKERS", "0", *places(tmp_path)]
    for _ in range(2):
        train_source_model.main(argv)
        told = capsys.readouterr().err
        line = "remark: found photos: 2 classes, 4 + 4 images (Training/ + Testing/); left out: 1 .txt\n"
        assert told.count("found") == 1 and line in told


def test_a_ranking_reads_the_list_that_is_named(tmp_path, capsys):
    """Two candidates look at one folder: it is said once."""
    rows = [(f"{k}.png", "ab"[k % 2], "xy"[k // 20]) for k in range(40)]
    listed(tmp_path / "photos", "notes.txt", "nothing", *(row[0] for row in rows))
    (tmp_path / "list.csv").write_text(table(*rows, head="file,label,target"))
    argv = ["--TRG", f"folder:{tmp_path / 'photos'}", "--MODEL", "random:lenet", "random:resnet10t@32"]
    argv += ["--WORKERS", "0", "--RESAMPLES", "10", *places(tmp_path)]
    rank_models.main([*argv, "--LABELS", f"{tmp_path / 'list.csv'}:target"])
    told = capsys.readouterr().err
    assert told.count("remark: found photos: 2 classes, 32 + 8 images") == 1
    assert "read: list.csv (file, target)" in told
    record = json.loads((tmp_path / "results/rank/folder-photos/ranking.json").read_text())
    assert f"--LABELS {tmp_path / 'list.csv'}:target" in record["command"]


@pytest.mark.parametrize(
    "script, argv",
    [
        (train_source_model, ["--SRC", "MNIST"]),
        (rank_models, ["--MODEL", "random:lenet", "--TRG", "MNIST"]),
        (finetune_source_model_on_target_task, ["--SRC", "MNIST", "--TRG", "features:a.npz"]),
        (transfer_source_to_target, ["--SRC", "MNIST", "--TRG", "MNIST"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_list_of_labels_for_no_folder_is_refused(tmp_path, capsys, script, argv):
    with pytest.raises(SystemExit) as stop:
        script.main([*argv, "--LABELS", "a.csv", *places(tmp_path)])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1
    assert f"--LABELS is for folder:PATH: {argv[-1]} has labels of its own" in told
