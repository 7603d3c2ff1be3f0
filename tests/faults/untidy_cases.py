"""The cases of untidy data: folders, files, pixels, labels, tables and feature files."""

import csv
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.tasks import CLASSES, arrays, picture

EACH = {"train": 12, "test": 6}  # images of each class
STAGE_2 = "finetune_source_model_on_target_task"
OF_FOLDER = "--SRC folder:{tidy} --TRG folder:{made}/own --MODEL random:lenet --WORKERS 0"
OF_FEATURES = "--SRC features:{features} --TRG features:{made}/x.npz"

Name = Callable[[str, str, int], str]  # (train or test, class, number) → a file's name
Save = Callable[[Image.Image, Path], None]


@dataclass(frozen=True)
class Untidy:
    """`make` writes the task into {made}. `right`: the command must find what it finds in the tidy task
    (`tidy`), may find something else (`found`), or must end with status 2 (`refused`). `says`: what
    stands in its lines. `values`: what the record must hold besides. `first`: what lies there
    when the same command runs before, and is then removed.
    """

    kind: str
    what: str
    make: Callable[[Path], None]
    right: str = "tidy"
    says: tuple[str, ...] = ()
    arguments: str = OF_FOLDER
    script: str = STAGE_2
    values: Mapping[str, float] | None = None
    first: Callable[[Path], None] | None = None


# ------------------------------------------------------------------------------------ the known task
def pictures() -> dict[tuple[str, str, int], Image.Image]:
    """Every image of the task by split, class and number, the same at each call."""
    rng = np.random.default_rng(4)
    return {
        (split, name, k): picture(rng, number)
        for split, count in EACH.items()
        for number, name in enumerate(CLASSES)
        for k in range(count)
    }


def tidy_name(split: str, name: str, number: int) -> str:
    return f"{split}/{name}/{number:02d}.png"


def write_folder(folder: Path, name: Name = tidy_name, save: Save | None = None) -> None:
    """The whole task; `save` writes one image, PNG unless told otherwise."""
    for key, image in pictures().items():
        path = folder / name(*key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if save:
            save(image, path)
        else:
            image.save(path, format="PNG")


# ------------------------------------------------------------------------------------ the cases
RANK = "--MODEL random:lenet --WORKERS 0 --RESAMPLES 50"


def all_cases() -> list[Untidy]:
    parts = (
        split_names,
        split_readings,
        strangers,
        endings,
        links,
        nesting,
        pixels,
        turned,
        transparent,
        plain,
        class_names,
        tables,
        table_refusals,
        labels,
        label_refusals,
        rankings,
        accuracy_tables,
        copies,
        groups,
        unequal,
        surprises,
        other_images,
        large,
    )
    return [case for part in parts for case in part()]


def in_own(write: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: write(folder / "own")


def beside(*more: Callable[[Path], None]) -> Callable[[Path], None]:
    """The tidy folder, and what is added to it."""

    def make(folder: Path) -> None:
        write_folder(folder / "own")
        for add in more:
            add(folder / "own")

    return make


def rubbish(*names: str) -> Callable[[Path], None]:
    """Images that belong to no class, under these names."""

    def add(folder: Path) -> None:
        rng = np.random.default_rng(5)
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(path, format="PNG")

    return add


# ------------------------------------------------------------------------------------ splits, classes
TRAINING = (
    "Train",
    "TRAIN",
    "training",
    "Training",
    "train_set",
    "trainset",
    "train-images",
    "seg_train",
)
TESTING = ("Test", "testing", "Testing", "TEST", "test_set", "testset", "test-images", "seg_test")
VALIDATION = ("val", "valid", "Validation", "dev")


def renamed_splits(train: str, test: str) -> Callable[[Path], None]:
    names = {"train": train, "test": test}
    return in_own(lambda folder: write_folder(folder, lambda s, c, k: f"{names[s]}/{c}/{k:02d}.png"))


def split_names() -> Iterable[Untidy]:
    pairs = [*zip(TRAINING, TESTING, strict=True), *product(("train",), VALIDATION)]
    for train, test in pairs:
        yield Untidy("splits", f"{train}, {test}", renamed_splits(train, test), says=("3 classes",))
    for validation in VALIDATION:
        extra = rubbish(*(f"{validation}/{name}/0.png" for name in CLASSES))
        yield Untidy("splits", f"and {validation}", beside(extra), says=(validation, "left aside"))
    extra = rubbish("masks/0.png", "masks/1.png")
    yield Untidy("splits", "and masks", beside(extra), says=("masks", "left aside"))


def split_readings() -> Iterable[Untidy]:
    for one, other in (("a", "b"), ("2023", "2024"), ("left", "right"), ("test", "val")):
        yield Untidy(
            "splits",
            f"{one} and {other} hold the same folders",
            renamed_splits(one, other),
            "refused",
            says=(one, other),
        )
    yield Untidy("splits", "train alone", _train_alone, "refused", says=("neither test/ nor val/",))
    twice = rubbish(*(f"Training/{name}/0.png" for name in CLASSES))
    yield Untidy("splits", "train and Training", beside(twice), "refused", says=("Training",))
    for words in (
        ("train", "bus", "car"),
        ("valid", "invalid", "unclear"),
        ("test", "control", "blind"),
    ):
        yield Untidy("splits", f"classes {', '.join(words)}", _classes_called(words), says=(words[0],))


def _train_alone(folder: Path) -> None:
    write_folder(folder / "own", lambda s, c, k: f"train/{c}/{s}{k}.png")


def _classes_called(words: tuple[str, ...]) -> Callable[[Path], None]:
    """Renamed in their order: labels are those of the sorted names."""
    renamed = dict(zip(CLASSES, sorted(words), strict=True))
    return in_own(lambda folder: write_folder(folder, lambda s, c, k: f"{s}/{renamed[c]}/{k:02d}.png"))


# ------------------------------------------------------------------------------- what counts as an image
STRANGERS = (
    ".ipynb_checkpoints/0-checkpoint.png",
    ".Trash-1000/files/1.png",
    ".thumbnails/2.png",
    "@eaDir/3.png",
    "__MACOSX/4.png",
    "$RECYCLE.BIN/5.png",
    "lost+found/6.png",
    "._00.png",
    ".hidden.png",
)


def strangers() -> Iterable[Untidy]:
    for name in STRANGERS:
        inside = rubbish(f"train/{CLASSES[1]}/{name}", f"test/{CLASSES[0]}/deeper/{name}")
        yield Untidy("strangers", f"{name} in a class", beside(inside))
        if "/" in name:
            tops = rubbish(name, f"train/{name}")
            yield Untidy("strangers", f"{name} beside classes", beside(tops))
    for name in ("notes.txt", "photo.heic", "video.mp4"):
        text = _text(f"train/{CLASSES[0]}/{name}")
        ending = name.rpartition(".")[2]
        yield Untidy("strangers", name, beside(text), says=("left out", ending))
    for name in ("Thumbs.db", "desktop.ini"):  # of every folder that a file manager has seen
        yield Untidy("strangers", name, beside(_text(f"test/{CLASSES[0]}/{name}")))
    yield Untidy("strangers", "loose images", beside(rubbish("train/loose.png")), says=("left out",))


def _text(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"text and no image")


# Pillow's format by the ending under which a file lies; each keeps grey values as they are.
ENDINGS = {
    ".PNG": "PNG",
    ".gif": "GIF",
    ".tga": "TGA",
    ".bmp": "BMP",
    ".dib": "DIB",
    ".tif": "TIFF",
    ".TIFF": "TIFF",
    ".pgm": "PPM",
    ".pnm": "PPM",
    ".jfif": "PNG",
    ".jpe": "PNG",
    ".jpg": "PNG",
    ".apng": "PNG",
    "": "PNG",
    ".part1": "PNG",
    "_no_ending": "BMP",
    ".dat": "TIFF",
}


def endings() -> Iterable[Untidy]:
    for ending, kind in ENDINGS.items():

        def write(folder: Path, ending: str = ending, kind: str = kind, step: int = 1) -> None:
            """Each image, or every `step`-th, under this ending."""

            def name(split: str, of_class: str, k: int) -> str:
                return f"{split}/{of_class}/{k:02d}{ending if k % step == 0 else '.png'}"

            def save(image: Image.Image, path: Path) -> None:
                image.save(path, format="PNG" if path.suffix == ".png" else kind)

            write_folder(folder / "own", name, save)

        yield Untidy("endings", f"{kind} under {ending or 'no ending'}", write)
        yield Untidy("endings", f"every third {kind} under {ending}", lambda f, w=write: w(f, step=3))


def links() -> Iterable[Untidy]:
    yield Untidy("links", "files", _linked(lambda store, own: _link_files(store, own)))
    yield Untidy("links", "class folders", _linked(_link_classes))
    yield Untidy("links", "folders inside a class", _linked(_link_inside_classes))
    yield Untidy("links", "the whole folder", _linked(lambda store, own: own.symlink_to(store)))
    for target in ("..", "../..", "../../.."):
        loop = _link(f"train/{CLASSES[0]}/loop", target)
        yield Untidy("links", f"a cycle to {target}", beside(loop))
    for split in EACH:
        broken = _link(f"{split}/{CLASSES[0]}/99.png", "nowhere.png")
        yield Untidy("links", f"a broken one in {split}", beside(broken), "refused", says=("99.png",))
        skipped = OF_FOLDER + " --MAX_CORRUPT 1"
        yield Untidy(
            "links", f"a broken one in {split}, skipped", beside(broken), "found", arguments=skipped
        )


def _linked(link: Callable[[Path, Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_folder(folder / "store")
        link(folder / "store", folder / "own")

    return make


def _link_files(store: Path, own: Path) -> None:
    for path in store.rglob("*.png"):
        new = own / path.relative_to(store)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.symlink_to(path)


def _link_classes(store: Path, own: Path) -> None:
    for path in store.glob("*/*"):
        new = own / path.relative_to(store)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.symlink_to(path)


def _link_inside_classes(store: Path, own: Path) -> None:
    for path in store.glob("*/*"):
        new = own / path.relative_to(store)
        new.mkdir(parents=True)
        (new / "all").symlink_to(path)


def _link(name: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(target)


def nesting() -> Iterable[Untidy]:
    for depth in (1, 2, 3):
        inner = "/".join(["own"] * depth)
        yield Untidy(
            "nesting", f"{depth} deep", in_own(lambda f, i=inner: write_folder(f / i)), says=(inner,)
        )
    mac = rubbish("__MACOSX/own/train/circles/._00.png")
    yield Untidy("nesting", "with __MACOSX", lambda f: (write_folder(f / "own/own"), mac(f / "own")))
    deeper = in_own(lambda folder: write_folder(folder, lambda s, c, k: f"{s}/{c}/{k // 5}/{k % 5}.png"))
    yield Untidy("nesting", "folders inside a class", deeper)


# ------------------------------------------------------------------------------------------- pixels
def saved(save: Callable[[np.ndarray, Path], None], ending: str = ".png") -> Callable[[Path], None]:
    """Each image by what is done with its grey values."""

    def make(folder: Path) -> None:
        write_folder(
            folder / "own",
            lambda split, name, k: f"{split}/{name}/{k:02d}{ending}",
            lambda image, path: save(np.asarray(image), path),
        )

    return make


def as_type(dtype: str, factor: float = 1.0) -> Callable[[np.ndarray, Path], None]:
    return lambda values, path: Image.fromarray((values.astype(float) * factor).astype(dtype)).save(path)


def pixels() -> Iterable[Untidy]:
    for what, make in {
        "16-bit PNG of 8-bit values": saved(as_type("uint16")),
        "16-bit PNG": saved(as_type("uint16", 257)),
        "12-bit values in 16-bit PNG": saved(as_type("uint16", 16)),
        "16-bit TIFF of 8-bit values": saved(as_type("uint16"), ".tif"),
        "32-bit integer TIFF of 8-bit values": saved(as_type("int32"), ".tif"),
        "32-bit integer TIFF of 16-bit values": saved(as_type("int32", 257), ".tif"),
        "float TIFF from 0 to 255": saved(as_type("float32"), ".tif"),
        "float TIFF from 0 to 1": saved(as_type("float32", 1 / 255), ".tif"),
        "16-bit PGM of 8-bit values": saved(as_type("uint16"), ".pgm"),
    }.items():
        yield Untidy("pixels", what, make)
    for mode in ("RGB", "P", "CMYK"):
        ending = ".tif" if mode == "CMYK" else ".png"

        def convert(values: np.ndarray, path: Path, mode: str = mode) -> None:
            image = Image.fromarray(values)
            (image.convert("RGB") if mode == "CMYK" else image).convert(mode).save(path)

        yield Untidy("pixels", f"mode {mode}", saved(convert, ending))


UPRIGHT = {  # what undoes the orientation that EXIF gives by this number
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned() -> Iterable[Untidy]:
    for number, how in UPRIGHT.items():
        for step in (1, 2):

            def save(image: Image.Image, path: Path, number=number, how=how, step=step) -> None:
                if int(path.stem) % step:
                    image.save(path)
                    return
                exif = Image.Exif()
                exif[0x0112] = number
                image.transpose(how).save(path, exif=exif)

            what = f"EXIF orientation {number}, {'all' if step == 1 else 'every second'}"
            yield Untidy("pixels", what, in_own(lambda f, s=save: write_folder(f, save=s)))


def transparent() -> Iterable[Untidy]:
    """The content is the alpha channel of one colour; on the other background it is the picture, or its
    negative.
    """

    def opaque(values: np.ndarray, path: Path) -> None:
        Image.fromarray(np.stack([values] * 3 + [0 * values + 255], axis=2)).save(path)

    yield Untidy("pixels", "RGBA without transparency", saved(opaque))

    def white_on_black(values: np.ndarray, path: Path) -> None:
        Image.fromarray(np.stack([0 * values + 255] * 3 + [values], axis=2)).save(path)

    def black_on_white(values: np.ndarray, path: Path) -> None:
        Image.fromarray(np.stack([0 * values] * 3 + [255 - values], axis=2)).save(path)

    def grey_and_alpha(values: np.ndarray, path: Path) -> None:
        Image.fromarray(np.stack([0 * values + 255, values], axis=2), mode="LA").save(path)

    for save in (white_on_black, black_on_white, grey_and_alpha):
        yield Untidy("pixels", f"content in alpha, {save.__name__}", saved(save))


def plain() -> Iterable[Untidy]:
    for shade, kind in product((0, 128, 255), EACH):

        def save(image: Image.Image, path: Path, shade=shade, kind=kind) -> None:
            empty = kind in path.parts and int(path.stem) % 3 == 0
            (Image.new("L", (28, 28), shade) if empty else image).save(path)

        make = in_own(lambda folder, save=save: write_folder(folder, save=save))
        what = f"a third of {kind} of shade {shade}"
        yield Untidy("pixels", what, make, "found", says=("one single colour",))


# -------------------------------------------------------------------------------------- names, tables
def class_names() -> Iterable[Untidy]:
    forms = {"NFC": "NFC", "NFD": "NFD"}
    for train, test in (("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")):

        def name(split: str, of_class: str, k: int, train=train, test=test) -> str:
            form = forms[train if split == "train" else test]
            return f"{split}/{unicodedata.normalize(form, 'é' + of_class)}/{k:02d}.png"

        yield Untidy("names", f"{train} and {test}", in_own(lambda f, n=name: write_folder(f, n)))

    def both(split: str, of_class: str, k: int) -> str:
        return f"{split}/{unicodedata.normalize(('NFC', 'NFD')[k % 2], 'ü' + of_class)}/{k:02d}.png"

    yield Untidy(
        "names",
        "two forms in one split",
        in_own(lambda f: write_folder(f, both)),
        "found",
        says=("3 classes",),
        values={"data/target/train": 3 * EACH["train"]},
    )
    for name in ("with space", "a,b", "per cent %", "quote'", "[brackets]", "ümlaut", "日本"):
        renamed = {"circles": f"a {name}", "crosses": f"b {name}", "waves": f"c {name}"}
        write = in_own(lambda f, r=renamed: write_folder(f, lambda s, c, k: f"{s}/{r[c]}/{k:02d}.png"))
        yield Untidy("names", f"classes with {name}", write)


def rows_of(folder: Path, name: Callable[[str, str, int], str]) -> list[dict[str, str]]:
    return [
        {"file": name(split, of_class, k), "label": of_class, "split": split}
        for split, of_class, k in pictures()
    ]


def in_one_folder(split: str, of_class: str, k: int) -> str:
    return f"images/{of_class[:2]}{split}{k:02d}.png"


def with_table(
    file: str,
    head: tuple[str, str, str] = ("file_name", "label", "split"),
    delimiter: str = ",",
    cell: Callable[[str], str] = str,
    start: bytes = b"",
) -> Callable[[Path], None]:
    """Images in one folder and a table of their labels and splits."""

    def make(folder: Path) -> None:
        own = folder / "own"
        write_folder(own, in_one_folder)
        rows = rows_of(own, in_one_folder)
        path = own / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            lines = [dict(zip(head, row.values(), strict=True)) for row in rows]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            return
        with path.open("wb") as raw:
            raw.write(start)
        with path.open("a", newline="") as text:
            writer = csv.writer(text, delimiter=delimiter)
            writer.writerow(head)
            writer.writerows([cell(row["file"]), row["label"], row["split"]] for row in rows)

    return make


LABELS = OF_FOLDER + " --LABELS {made}/own/"


def tables() -> Iterable[Untidy]:
    for delimiter in (",", ";", "\t"):
        make = with_table("labels.csv", delimiter=delimiter)
        yield Untidy("tables", f"CSV with {delimiter!r}", make)
        yield Untidy("tables", f"CSV with {delimiter!r}, named", make, arguments=LABELS + "labels.csv")
    for head in (
        ("filename", "class", "split"),
        ("image", "category", "set"),
        ("Image_Path", "Label", "Split"),
        ("path", "target", "partition"),
        ("id", "breed", "split"),
    ):
        yield Untidy(
            "tables",
            f"columns {', '.join(head)}",
            with_table("labels.csv", head),
            arguments=LABELS + "labels.csv",
        )
    yield Untidy("tables", "metadata.csv", with_table("metadata.csv"))
    yield Untidy("tables", "metadata.jsonl", with_table("metadata.jsonl"))
    yield Untidy("tables", "with a byte order mark", with_table("labels.csv", start=b"\xef\xbb\xbf"))
    stem = with_table("labels.csv", cell=lambda file: Path(file).stem)
    yield Untidy("tables", "names without ending and folder", stem, arguments=LABELS + "labels.csv")
    bare = with_table("labels.csv", cell=lambda file: Path(file).name)
    yield Untidy("tables", "names without folder", bare, arguments=LABELS + "labels.csv")
    for table in ("{}/metadata.csv", "{}/metadata.jsonl", "{}.csv"):
        for inside in ("", "images/"):
            what = f"{table.format('train')} of {inside or 'its folder'}"
            yield Untidy("tables", what, _of_each_split(table, inside))
    yield Untidy("tables", "numbers of rows beside names", _numbered_rows)


def _of_each_split(table: str, inside: str) -> Callable[[Path], None]:
    """As Hugging Face has it, or Kaggle."""

    def make(folder: Path) -> None:
        own = folder / "own"
        write_folder(own, lambda split, name, k: f"{split}/{inside}{name[:2]}{k:02d}.png")
        for split in EACH:
            rows = [
                {"file_name": f"{inside}{name[:2]}{k:02d}.png", "label": name}
                for of_split, name, k in pictures()
                if of_split == split
            ]
            if table.endswith(".jsonl"):
                text = "".join(json.dumps(row) + "\n" for row in rows)
            else:
                text = "\n".join(["file_name,label", *(",".join(row.values()) for row in rows)]) + "\n"
            (own / table.format(split)).write_text(text)

    return make


def _numbered_rows(folder: Path) -> None:
    """Files that are called by numbers, and a column of other numbers in front of their names."""
    own, number = folder / "own", {key: k for k, key in enumerate(pictures())}
    write_folder(own, lambda *key: f"images/{number[key]}.png")
    rows = [f"{len(number) - k},{k}.png,{name},{split}" for (split, name, _), k in number.items()]
    (own / "labels.csv").write_text("\n".join(["id,picture,label,split", *rows]) + "\n")


def changed_table(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with_table("labels.csv")(folder)
        path = folder / "own" / "labels.csv"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return make


def table_refusals() -> Iterable[Untidy]:
    for what, says, change in (
        ("a file that is not there", "gone.png", lambda rows: [*rows, "images/gone.png,waves,train"]),
        ("one file twice", "has the label", lambda rows: [*rows, rows[1].replace("circles", "waves")]),
        ("an empty label", "label", lambda rows: [rows[0], rows[1].replace("circles", ""), *rows[2:]]),
        ("no column of labels", "label", lambda rows: [row.partition(",")[0] for row in rows]),
        ("no rows", "labels.csv", lambda rows: rows[:1]),
    ):
        make = changed_table(change)
        yield Untidy("tables", what, make, "refused", (says,), LABELS + "labels.csv")
    yield Untidy(
        "tables", "none", in_own(write_folder), "refused", ("labels.csv",), LABELS + "labels.csv"
    )


# ----------------------------------------------------------------------------------- feature files
def with_labels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """The tidy feature file with other labels, or with other features."""

    def make(folder: Path) -> None:
        content = arrays(np.random.default_rng(3))
        for name in content:
            if name.startswith("y"):
                content[name] = change(content[name])
        np.savez(folder / "x.npz", **content)

    return make


def labels() -> Iterable[Untidy]:
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64", "float32", "float64"):
        yield Untidy("labels", dtype, with_labels(lambda y, d=dtype: y.astype(d)), arguments=OF_FEATURES)
    names = np.array(["ape", "bee", "cow"])
    for what, change in {
        "names": lambda y: names[y],
        "names as bytes": lambda y: names[y].astype("S"),
        "from 1 on": lambda y: y + 1,
        "with gaps": lambda y: 10 * y,
        "negative ones": lambda y: y - 5,
        "large ones": lambda y: y + 10**7,
        "one-hot": lambda y: np.eye(3)[y],
        "one-hot integers": lambda y: np.eye(3, dtype=int)[y],
        "one-hot truth values": lambda y: np.eye(3, dtype=bool)[y],
        "a column": lambda y: y[:, None],
        "big-endian": lambda y: y.astype(">i4"),
    }.items():
        yield Untidy("labels", what, with_labels(change), arguments=OF_FEATURES)


def label_refusals() -> Iterable[Untidy]:
    for what, says, change in (
        ("halves", "0.5", lambda y: y + 0.5),
        ("objects", "x.npz", lambda y: y.astype(object)),
        ("not a number", "y_train", lambda y: np.where(y == 1, np.nan, y)),
        ("two ones a row", "y_train", lambda y: np.minimum(np.eye(3)[y] + np.eye(3)[0], 1)),
        ("one class", "one class", lambda y: 0 * y + 7),
        ("complex", "y_train", lambda y: y + 0j),
    ):
        yield Untidy("labels", what, with_labels(change), "refused", (says,), OF_FEATURES)


# --------------------------------------------------------------------------------------- rankings
def several_files(change: Callable[[int, np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Three networks' features of the same images: their own directions, more and more noise."""

    def make(folder: Path) -> None:
        content = arrays(np.random.default_rng(3))
        for number, name in enumerate("abc"):
            rng = np.random.default_rng(number)
            new = {k: change(number, v) if k.startswith("y") else v for k, v in content.items()}
            for key in ("x_train", "x_test"):
                new[key] = new[key] @ rng.normal(size=(5, 8)) + 4 * number * rng.normal(
                    size=(len(new[key]), 8)
                )
            np.savez(folder / f"{name}.npz", **new)

    return make


FILES = "--TRG features:{made}/a.npz features:{made}/b.npz features:{made}/c.npz --RESAMPLES 50"


def rankings() -> Iterable[Untidy]:
    def same(number: int, y: np.ndarray) -> np.ndarray:
        return y

    def other_types(number: int, y: np.ndarray) -> np.ndarray:
        return (y, y.astype("uint8"), y.astype("float64"))[number]

    def shorter(number: int, y: np.ndarray) -> np.ndarray:
        return y if number < 2 else y[::-1]

    about = {"script": "rank_models", "arguments": FILES}
    for what, change in (("as they are", same), ("labels of other types", other_types)):
        yield Untidy("rankings", what, several_files(change), "found", ("take a",), **about)
        pattern = {**about, "arguments": "--TRG features:{made}/*.npz --RESAMPLES 50"}
        yield Untidy(
            "rankings", f"{what}, by a pattern", several_files(change), "found", ("take a",), **pattern
        )
    yield Untidy("rankings", "other labels", several_files(shorter), "refused", ("c.npz",), **about)


def accuracy_tables() -> Iterable[Untidy]:
    head = f"--TRG folder:{{tidy}} {RANK} --TRUTH {{made}}/t.csv"
    about = {"script": "rank_models", "arguments": head}
    for what, text in {
        "a semicolon": "model;accuracy\nrandom:lenet;0.912\n",
        "a comma in the number": "model;accuracy\nrandom:lenet;0,912\n",
        "per cent": "model,accuracy\nrandom:lenet,91.2 %\n",
        "per cent without space": "model,accuracy\nrandom:lenet,91.2%\n",
        "per cent, semicolon and comma": "model;accuracy\nrandom:lenet;91,2 %\n",
        "a tab": "model\taccuracy\nrandom:lenet\t91.2\n",
        "a byte order mark": "\ufeffmodel,accuracy\nrandom:lenet,91.2\n",
        "capitals and spaces": "Model , Accuracy \n random:lenet , 91.2 \n",
    }.items():

        def make(folder: Path, text: str = text) -> None:
            (folder / "t.csv").write_text(text)

        yield Untidy(
            "accuracies",
            what,
            make,
            "found",
            values={"candidates/random:lenet/accuracy": 0.912},
            **about,
        )


# ------------------------------------------------------------------- copies, unequal classes, surprises
def copies() -> Iterable[Untidy]:
    def copied(source: str, target: str) -> Callable[[Path], None]:
        def add(folder: Path) -> None:
            for path in sorted((folder / source).rglob("*.png")):
                new = folder / target / path.parent.name / f"9{path.name}"
                new.write_bytes(path.read_bytes())

        return beside(add)

    across = "test images are in the training split, too"
    for source, target, says in (
        ("train", "train", "copies of others"),
        ("test", "train", across),
        ("train", "test", across),
    ):
        make = copied(source, target)
        yield Untidy("copies", f"{source} images in {target}", make, "found", (says,))


def groups() -> Iterable[Untidy]:
    """Four images of each patient, by their names or their folders; the split is drawn."""

    def by_name(split: str, name: str, k: int) -> str:
        return f"{name}/{name[:2]}-{split}-patient{k // 4}_{k % 4}.png"

    def by_folder(split: str, name: str, k: int) -> str:
        return f"{name}/{name[:2]}-{split}-patient{k // 4}/{k % 4}.png"

    for name, pattern in ((by_name, "(.*)_"), (by_folder, "level:1"), (by_folder, "(.*)/")):
        make = in_own(lambda folder, name=name: write_folder(folder, name))
        yield Untidy(
            "groups",
            f"{pattern} of names as {name('train', 'waves', 0)}",
            make,
            "found",
            arguments=f"{OF_FOLDER} --GROUPS {pattern}",
            values={"data/target/groups/test": 3},
        )
    make = in_own(lambda folder: write_folder(folder, by_name))
    for what, pattern, says in (
        ("that fits none", "clinic", "matches none"),
        ("that fits some", "(train-.*)_", "matches"),
        ("that is none", "(", "no regular expression"),
        ("of no level", "level:0", "level"),
    ):
        arguments = f"{OF_FOLDER} --GROUPS {pattern}"
        yield Untidy("groups", f"a pattern {what}", make, "refused", (says,), arguments)


def unequal() -> Iterable[Untidy]:
    """Of the first class all, of the others a few: the majority's share is known."""
    for few in (2, 3, 4):

        def make(folder: Path, few: int = few) -> None:
            for key, image in pictures().items():
                if key[1] == CLASSES[0] or key[2] < few:
                    path = folder / "own" / f"{key[0]}/{key[1]}/{key[2]:02d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image.save(path)

        share = EACH["test"] / (EACH["test"] + 2 * few)
        yield Untidy(
            "unequal",
            f"{few} of the others",
            make,
            "found",
            ("majority",),
            values={"majority_share": share},
        )


def surprises() -> Iterable[Untidy]:
    """The test split's classes in another order: measured 0 where 1 is predicted."""
    for turn in (1, 2):
        renamed = {name: CLASSES[(k + turn) % len(CLASSES)] for k, name in enumerate(CLASSES)}

        def name(split: str, of_class: str, k: int, renamed=renamed) -> str:
            return f"{split}/{of_class if split == 'train' else renamed[of_class]}/{k:02d}.png"

        make = in_own(lambda folder, name=name: write_folder(folder, name))
        for script, more in ((STAGE_2, ""), ("transfer_source_to_target", " --ANALYSIS relation")):
            what = f"{script}: test classes turned by {turn}"
            yield Untidy("surprises", what, make, "found", ("order",), OF_FOLDER + more, script)


# ----------------------------------------------------------------------------- which images were these?
def at_one_time(image: Image.Image, path: Path) -> None:
    """Equal sizes, equal times."""
    image.save(path, format="BMP")
    os.utime(path, (1_600_000_000, 1_600_000_000))


def other_images() -> Iterable[Untidy]:
    for turn, split in product((1, 2), EACH):
        renamed = {name: CLASSES[(k + turn) % len(CLASSES)] for k, name in enumerate(CLASSES)}

        def decoy(of_split: str, name: str, k: int, renamed=renamed, split=split) -> str:
            return f"{of_split}/{renamed[name] if of_split == split else name}/{k:02d}.png"

        yield Untidy(
            "identity",
            f"{split} images exchanged by {turn}, same names, sizes and times",
            in_own(lambda folder: write_folder(folder, save=at_one_time)),
            first=in_own(lambda folder, decoy=decoy: write_folder(folder, decoy, at_one_time)),
        )


def large() -> Iterable[Untidy]:
    """Beyond the number of pixels that Pillow decodes unasked: twice 2^26 · 4/3."""

    def add(folder: Path) -> None:
        Image.new("1", (20_000, 10_000)).save(folder / f"train/{CLASSES[0]}/large.png")

    yield Untidy("large", "an image", beside(add), "refused", says=("--MAX_PIXELS",))
    given = OF_FOLDER + " --MAX_PIXELS 200000000"
    yield Untidy("large", "an image, admitted", beside(add), "found", arguments=given)
