"""Bad inputs: what a flag cannot take, and files that are not what they should be.

Each must end with status 2 and one line that names what is wrong, and leave no result.
"""

import argparse
import contextlib
import gzip
import importlib
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from tests.faults.kills import Trial
from tests.faults.tasks import FEATURES, arrays, picture, places, run_here
from utils.options import StageParser

STAGES = {
    "train_source_model": "--SRC MNIST",
    "finetune_source_model_on_target_task": FEATURES,
    "transfer_source_to_target": FEATURES,
    "sweep": FEATURES,
    "rank_models": "--TRG features:{data}/b.npz",
}
# No flag that takes a number, a choice or a truth value takes one of these.
NO_VALUES = (
    "",
    " ",
    "-1",
    "-0.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e300",
    "0x10",
    "1_0",
    "٣",
    "１",
    "9" * 25,
    "text",
    "None",
    "1,5",
    "1;2",
    "\udcff",
    "½",
    "[1]",
    "0.1.2",
)


@dataclass(frozen=True)
class Case:
    """`expected` stands in the one line; `make` writes what the arguments name into {made}."""

    script: str
    arguments: str
    expected: str
    make: Callable[[Path], None] = lambda folder: None
    words: tuple[str, ...] = ()


def inputs(data: Path, work: Path, count: int, seed: int) -> Iterator[Trial]:
    """All files and combinations, and of the flags' values as many as `count` leaves."""
    rng = random.Random(seed)
    values = list(bad_values())
    rng.shuffle(values)
    cases = bad_files() + bad_combinations()
    for case in [*cases, *values[: max(0, count - len(cases))]]:
        shutil.rmtree(work / "input", ignore_errors=True)
        made, place = work / "input" / "made", work / "input" / "place"
        made.mkdir(parents=True)
        case.make(made)
        argv = [word.format(data=data, made=made) for word in case.arguments.split()]
        argv = [*(places(place) if case.script != "report" else []), *argv, *case.words]
        problem = _what_fell(case, run_here(case.script, argv), place, made)
        value = f" {case.words[1]!a}" if case.words else ""
        yield Trial("bad input", f"{case.script}: {case.expected}{value}", problem)


def _what_fell(case: Case, ended, place: Path, made: Path) -> str:
    if ended.status != 2:
        return f"status {ended.status}: {ended.err.strip()[-300:]}"
    if case.expected not in ended.line:
        return f"expected {case.expected!r} in one line: {ended.err.strip()[-300:]}"
    if (made / "proof").exists():
        return "code in a file was run"
    left = [p for p in place.rglob("*") if p.suffix in (".json", ".jsonl", ".tmp")]
    # What is known of image files may stay: it is true of them, whatever became of the run.
    left = [p for p in left if p.parent != place / "checkpoints" / "features" / "files"]
    return f"left {left}" if left else ""


# ------------------------------------------------------------------------------------------- values
def bad_values() -> Iterator[Case]:
    for script, given in STAGES.items():
        for flag in typed_flags(script, given):
            for value in NO_VALUES:
                if flag == "--OVERWRITE" and value == "-inf":
                    continue  # it needs no value: this is taken for a flag, which is refused too
                yield Case(script, given, f"argument {flag}", words=(flag, value))


def typed_flags(script: str, given: str) -> list[str]:
    """The flags whose values are checked when they are read."""
    parsers: list[StageParser] = []

    def note(parser: StageParser, *_) -> None:
        parsers.append(parser)
        raise StopIteration

    with mock.patch.object(StageParser, "parse_args", note), contextlib.suppress(StopIteration):
        importlib.import_module(script).parse_options(given.split())
    free = ("FLAGS", "GROUPS")  # a line of flags, a pattern of names
    anything = [a.type for a in parsers[0]._actions if any(text in a.dest for text in free)]
    anything += [None, str, Path]
    checked = [a for a in parsers[0]._actions if a.type not in anything]
    return [a.option_strings[0] for a in checked if not isinstance(a, argparse._HelpAction)]


# ------------------------------------------------------------------------------------------- files
def changed_features(**changes) -> Callable[[Path], None]:
    """A feature file with some arrays replaced by what a function makes of them; None: absent."""

    def make(folder: Path) -> None:
        content = arrays(np.random.default_rng(1))
        for name, change in changes.items():
            content[name] = None if change is None else change(content[name])
        np.savez(folder / "x.npz", **{k: v for k, v in content.items() if v is not None})

    return make


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)


def set_to(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[3] = value
        return x

    return change


class Proof:
    """Pickled, it writes a file when it is read by a reader that runs code."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return (open, (str(self.folder / "proof"), "w"))


FEATURE_FILES = (
    ("is not a readable .npz", lambda folder: None),
    ("is not a readable .npz", written("x.npz", b"")),
    ("is not a readable .npz", written("x.npz", b"text")),
    ("is not a readable .npz", written("x.npz", b"PK\x03\x04" + bytes(100))),
    ("is a folder", lambda folder: (folder / "x.npz").mkdir()),
    ("is a pipe", lambda folder: os.mkfifo(folder / "x.npz")),
    ("x_train", lambda folder: np.savez(folder / "x.npz", other=np.zeros(3))),
    ("x.npz", lambda folder: np.save((folder / "x.npz").open("wb"), np.zeros(3))),
    ("x.npz", lambda f: np.savez(f / "x.npz", x_train=np.array([Proof(f)], object))),
    ("x.npz", lambda folder: (folder / "x.npz").write_bytes(pickle.dumps(Proof(folder)))),
    ("y_train, y_test are missing", changed_features(y_train=None, y_test=None)),
    ("x_test are missing", changed_features(x_test=None)),
    ("is no whole number", changed_features(y_train=lambda y: y + 0.5)),
    ("= nan is no label", changed_features(y_train=lambda y: set_to(np.nan)(y.astype(float)))),
    ("holds -1 beside 0, 1", changed_features(y_train=lambda y: y - 1)),
    ("is empty", changed_features(y_train=lambda y: np.array(["", "a", "b"])[y])),
    ("must hold the same classes", changed_features(y_train=lambda y: y + 10**7)),
    ("must hold the same classes", changed_features(y_train=lambda y: 2 * y)),
    ("must hold the same classes", changed_features(y_train=lambda y: y.astype(str))),
    ("only y_train has 2", changed_features(y_test=lambda y: y % 2)),
    ("only y_train has 0; only y_test has 3", changed_features(y_test=lambda y: y + 1)),
    ("look like values", changed_features(y_train=lambda y: 3 * np.arange(len(y)))),
    ("row 0 is not one-hot", changed_features(y_train=lambda y: np.full((len(y), 3), 1 / 3))),
    ("Python objects", changed_features(y_train=lambda y: y.astype(object))),
    ("one class", changed_features(y_train=lambda y: 0 * y, y_test=lambda y: 0 * y)),
    ("y_train (n,)", changed_features(y_train=lambda y: y[:-1])),
    ("y_train (n,)", changed_features(y_train=lambda y: y[:, None, None])),
    ("x_train must be (n, d)", changed_features(x_train=lambda x: x[:, 0])),
    ("x_train must be (n, d)", changed_features(x_train=lambda x: x[:, :, None].repeat(2, 2))),
    ("x_train must be (n, d)", changed_features(x_train=lambda x: x[:0], y_train=lambda y: y[:0])),
    ("x_train must be (n, d)", changed_features(x_train=lambda x: x[:, :0])),
    ("must be numbers", changed_features(x_train=lambda x: x + 1j)),
    ("must be numbers", changed_features(x_train=lambda x: x.astype(str))),
    ("must be numbers", changed_features(x_train=lambda x: x > 0)),
    ("NaN or infinite", changed_features(x_train=set_to(np.nan))),
    ("NaN or infinite", changed_features(x_test=set_to(np.inf))),
    ("NaN or infinite", changed_features(x_train=set_to(1e300))),
    ("standard deviations", changed_features(x_test=set_to(1e38))),
    ("features and x_test", changed_features(x_test=lambda x: x[:, :3])),
    (
        "both must come from the same backbone",
        changed_features(x_train=lambda x: x[:, :3], x_test=lambda x: x[:, :3]),
    ),
)


def tree(*files: str, empty: tuple[str, ...] = ()) -> Callable[[Path], None]:
    """A folder `own` of images of these names."""

    def make(folder: Path) -> None:
        rng = np.random.default_rng(2)
        for name in files:
            path = folder / "own" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(rng, 0).save(path)
        for name in empty:
            (folder / "own" / name).mkdir(parents=True, exist_ok=True)

    return make


PAIR = ("a/1.png", "a/2.png", "b/1.png", "b/2.png")


def with_files(name: str, content: bytes) -> Callable[[Path], None]:
    """Six of this content beside a few good images: of each split some."""

    def make(folder: Path) -> None:
        tree(*PAIR)(folder)
        for k in range(3, 9):
            (folder / "own" / name.format(k)).write_bytes(content)

    return make


FOLDERS = (
    ("is not a folder of class folders", lambda folder: None),
    ("is not a folder of class folders", written("own", b"")),
    ("no class folders", tree(empty=(".",))),
    ("holds no images", tree(*PAIR, empty=("c",))),
    ("holds one image", tree(*PAIR, "c/1.png")),
    ("one class", tree("a/1.png", "a/2.png")),
    ("neither test/ nor val/", tree("train/a/1.png", "train/b/1.png")),
    ("differ in the classes", tree("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png")),
    ("cannot be decoded", with_files("a/{}.png", b"")),
    ("cannot be decoded", with_files("a/{}.png", b"no image")),
    ("cannot be decoded", with_files("b/{}.jpg", b"\xff\xd8\xff" + bytes(50))),
    ("is not UTF-8", tree("a/1.png", "a/2.png", "\udcff/1.png", "\udcff/2.png")),
)


def usps(change: Callable[[np.ndarray, np.ndarray], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        images, labels = np.full((40, 1, 28, 28), 0.5), np.arange(40) % 10
        content = [[images, labels], change(images, labels)]
        (folder / "usps_28x28.pkl").write_bytes(gzip.compress(pickle.dumps(content, protocol=2)))

    return make


def idx(damage: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """The four files of MNIST, one of them damaged."""

    def make(folder: Path) -> None:
        raw = folder / "MNIST" / "raw"
        raw.mkdir(parents=True)
        images = b"\0\0\x08\x03" + np.array([20, 28, 28], ">u4").tobytes() + bytes(20 * 784)
        labels = b"\0\0\x08\x01" + np.array([20], ">u4").tobytes() + bytes(k % 10 for k in range(20))
        for split in ("train", "t10k"):
            (raw / f"{split}-images-idx3-ubyte").write_bytes(images)
            (raw / f"{split}-labels-idx1-ubyte").write_bytes(labels)
        path = raw / "t10k-images-idx3-ubyte"
        path.write_bytes(damage(path.read_bytes()))

    return make


DATA_FILES = (
    ("USPS", "is not the USPS pickle", written("usps_28x28.pkl", b"")),
    ("USPS", "is not the USPS pickle", written("usps_28x28.pkl", gzip.compress(b"text"))),
    ("USPS", "no digits 0..9", usps(lambda x, y: (x, y - 1))),
    ("USPS", "40 images have 39 labels", usps(lambda x, y: (x, y[1:]))),
    ("USPS", "NaN", usps(lambda x, y: (np.where(x > 0, np.nan, x), y))),
    ("USPS", "is not the USPS pickle", usps(lambda x, y: (x[:, :, :9], y))),
    ("USPS", "is not the USPS pickle", usps(lambda x, y: None)),
    ("USPS", "do not cover", usps(lambda x, y: (x, 0 * y))),
    ("MNIST", "no whole IDX file", idx(lambda content: content[:-1])),
    ("MNIST", "no whole IDX file", idx(lambda content: content + b"\0")),
    ("MNIST", "no whole IDX file", idx(lambda content: b"")),
    ("MNIST", "no whole IDX file", idx(lambda content: b"\0\0\x0d\x03" + content[4:])),
    ("MNIST", "labels of shape", idx(lambda c: c[:7] + b"\x13" + c[8 : 16 + 19 * 784])),
)


def weights(content: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: torch.save(content(folder), folder / "w.pt")


WEIGHT_FILES = (
    ("there is no weight file", lambda folder: None),
    ("there is no weight file", lambda folder: (folder / "w.pt").mkdir()),
    ("there is no weight file", lambda folder: os.mkfifo(folder / "w.pt")),
    ("w.pt", written("w.pt", b"")),
    ("w.pt", written("w.pt", b"text")),
    ("w.pt", lambda folder: (folder / "w.pt").write_bytes(pickle.dumps(Proof(folder)))),
    ("could run code", weights(lambda folder: {"state_dict": Proof(folder)})),
    ("w.pt", weights(lambda folder: torch.zeros(3))),
    ("w.pt", weights(lambda folder: {})),
    ("another architecture", weights(lambda folder: {"conv1.weight": torch.zeros(3)})),
)
TABLES = (
    ("is not a table", lambda folder: None),
    ("is not a table", written("t.csv", b"")),
    ("is not a table", written("t.csv", b"\xff\xfe\0\0")),
    ("is not a table", written("t.csv", b"name,value\na,1\n")),
    ("is not a table", written("t.csv", b"model,accuracy\nefficientnet_lite0,high\n")),
    ("is not a table", written("t.csv", b"model,accuracy\nefficientnet_lite0,nan\n")),
    ("is not a table", written("t.csv", b"model,accuracy\n,0.5\n")),
    ("is not a table", written("t.csv", b"model,accuracy\nefficientnet_lite0,-3\n")),
    ("is not a table", written("t.csv", b"model,accuracy\na,0.5\nb,72\n")),
    ("efficientnet_lite0", written("t.csv", b"model,accuracy\nresnet18,0.5\n")),
    ("t.csv", lambda folder: os.mkfifo(folder / "t.csv")),
    ("t.csv", lambda folder: (folder / "t.csv").mkdir()),
)


def bad_files() -> list[Case]:
    stage_2, stage_3 = list(STAGES)[1:3]
    cases = []
    for expected, make in FEATURE_FILES:
        for script in (stage_2, stage_3):
            given = "--SRC features:{data}/a.npz --TRG features:{made}/x.npz"
            given += " --BATCH_SIZE 30" if script == stage_3 else ""
            cases.append(Case(script, given, expected, make))
    for expected, make in FOLDERS:
        cases.append(Case("train_source_model", "--SRC folder:{made}/own", expected, make))
        lite = "--model efficientnet_lite0 --IMAGE_SIZE 32 --WORKERS 0"
        cases.append(Case("rank_models", "--TRG folder:{made}/own " + lite, expected, make))
    for name, expected, make in DATA_FILES:
        given = f"--SRC {name} --DATA full --DATA_DIR {{made}}"
        cases.append(Case("train_source_model", given, expected, make))
    for expected, make in WEIGHT_FILES:
        given = (
            "--SRC folder:{data}/signs --TRG folder:{data}/signs --model resnet18 --WEIGHTS {made}/w.pt"
        )
        cases.append(Case(stage_2, given, expected, make))
    for expected, make in TABLES:
        given = "--TRG folder:{data}/signs --model efficientnet_lite0 --TRUTH {made}/t.csv"
        cases.append(Case("rank_models", given, expected, make))
    return cases


def bad_combinations() -> list[Case]:
    train, stage_2, stage_3, sweep, rank = STAGES
    return [
        Case(train, "", "--SRC"),
        Case(train, "--SRC", "expected one argument"),
        Case(train, "--SRC MNIST --NOPE 1", "unknown arguments: --NOPE 1"),
        Case(train, "--SRC MNISTT", "did you mean MNIST"),
        Case(train, "--SRC features:{data}/a.npz", "is not a data set"),
        Case(train, "--SRC cifar10", "no data set of 28×28 grey images"),
        Case(train, "--SRC KMNIST --DATA embedded", "KMNIST has no embedded sample"),
        Case(train, "--SRC folder:", "names no path"),
        Case(train, "--SRC folder:~nobody-here/x", "~nobody-here"),
        Case(train, "--SRC folder:{data}/signs --BATCH_SIZE 91", "number of training samples (90)"),
        Case(train, "--SRC folder:{data}/signs --BATCH_SIZE 2", "number of classes (3)"),
        Case(stage_2, "--SRC MNIST", "--TRG"),
        Case(stage_2, "--SRC MNIST --TRG EMNIST", "is not a target data set"),
        Case(stage_2, "--SRC MNIST --TRG FMNIST --model resnet19", "did you mean resnet18"),
        Case(stage_2, "--SRC folder:{data}/signs --TRG folder:{data}/signs", "train it with"),
        Case(stage_2, "--SRC features:{data}/a.npz --TRG folder:{data}/signs", "needs the network"),
        Case(stage_2, FEATURES + " --WEIGHTS x.pt", "--WEIGHTS has no effect"),
        Case(stage_2, FEATURES + " --EPOCHS 3", "--EPOCHS has no effect"),
        Case(stage_2, FEATURES + " --ROBUST True", "--ROBUST True is for resnet18 and resnet50"),
        Case(stage_2, FEATURES + " --EPS 1", "--EPS has no effect"),
        Case(stage_3, FEATURES + " --BATCH_SIZE 91", "number of training samples (90)"),
        Case(stage_3, FEATURES + " --SOURCE_CLASSES 99", "99 classes asked for"),
        Case(stage_3, FEATURES + " --SOURCE_CLASSES 2 --SETTING FixedAll", "use LearnedAll"),
        Case(stage_3, FEATURES + " --TARGET_CLASSES 3", "add --TARGET_LABELS pseudo"),
        Case(stage_3, FEATURES + " --TARGET_LABELS pseudo --TARGET_CLASSES 91", "fewer than classes"),
        Case(stage_3, "--SRC MNIST --TRG MNIST --TARGET_LABELS pseudo --TARGET_CLASSES 3", "MNIST"),
        Case(sweep, "--SRC features:{data}/a.npz", "--TRG"),
        Case(sweep, FEATURES + " --ENGINE slurm", "must be one of local, ray"),
        Case(sweep, FEATURES + " --GPUS 1", "--GPUS has no effect on --ENGINE local"),
        Case(sweep, FEATURES + " --TRANSFER_FLAGS=--SEED=5", "--SEED is one of the table's own"),
        Case(sweep, FEATURES + " --TRANSFER_FLAGS=--help", "for help ask the script itself"),
        Case(sweep, FEATURES + " --TRANSFER_FLAGS=--TAU=x", "--TAU"),
        Case(rank, "", "--TRG"),
        Case(rank, "--TRG folder:{data}/signs", "give the candidates with --model"),
        Case(rank, "--TRG folder:{data}/signs --model lenet", "give --SRC"),
        Case(rank, "--TRG folder:{data}/signs --model timm:nothing*", "has weights for no model"),
        Case(rank, "--TRG folder:{data}/signs --model timm:vit_*", "more than --MOST_MODELS"),
        Case(rank, "--TRG folder:{data}/signs --model resnet18@0", "write NAME@PIXELS"),
        Case(rank, "--TRG folder:{data}/signs --model resnet18@9999", "write NAME@PIXELS"),
        Case(rank, "--TRG folder:{data}/signs --model resnet18@٣", "write NAME@PIXELS"),
        Case(rank, "--SCORES x.csv", "give --TRUTH"),
        Case(rank, "--TRG features:{data}/b.npz --SHOTS 31", "fewer than --SHOTS 31"),
        Case("report", "--RESULTS_DIR {made}/none", "run a stage first"),
        Case("report", "--RESULTS_DIR {made}", "is a pipe", _pipe("results.jsonl")),
        Case("report", "--RESULTS_DIR {made}", "holds no result", written("results.jsonl", b"{\n[]\n")),
    ]


def _pipe(name: str) -> Callable[[Path], None]:
    return lambda folder: os.mkfifo(folder / name)
