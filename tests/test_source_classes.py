import json

import numpy as np
import pytest
import torch

import transfer_source_to_target as stage_3
from tests.conftest import places
from utils.errors import InputError
from utils.features import Features, Task, choose_source_classes, select_classes


def task(name: str, places_of_classes: list[float], each: int = 20) -> Task:
    """Classes around points on a line in four dimensions."""
    generator = torch.Generator().manual_seed(0)
    splits = []
    for _ in range(2):
        y = torch.arange(each * len(places_of_classes)) % len(places_of_classes)
        x = 0.1 * torch.randn(len(y), 4, generator=generator)
        x[:, 0] += torch.tensor(places_of_classes)[y]
        splits.append(Features(x, y))
    names = tuple(f"{name}{place:g}" for place in places_of_classes)
    return Task(name, *splits, len(names), names, {"origin": "test"})


def test_the_most_similar_classes_are_those_nearby():
    source, target = task("s", [0, 1, 5, 6, 9]), task("t", [5.1, 1.2])
    chosen = choose_source_classes(source, target, "similar", 0)
    assert chosen.class_names == ("s1", "s5") and chosen.num_classes == 2
    assert chosen.provenance == {"origin": "test"}
    for new, old in ((0, 1), (1, 2)):
        assert torch.equal(chosen.train.x[chosen.train.y == new], source.train.x[source.train.y == old])
    # Each target class takes a source class of its own.
    crowded = choose_source_classes(source, task("t", [5.1, 5.2, 5.3]), "similar", 0)
    assert crowded.class_names == ("s5", "s6", "s9")


def test_random_classes_and_numbers_of_them():
    source, target = task("s", [0, 1, 2, 3, 4, 5]), task("t", [0, 1, 2])
    first, again, other = (choose_source_classes(source, target, "random", s) for s in (0, 0, 1))
    assert first.num_classes == 3 and first.class_names == again.class_names != other.class_names
    assert choose_source_classes(source, target, "5", 0).num_classes == 5
    assert choose_source_classes(source, target, "2", 0).num_classes == 2
    assert choose_source_classes(source, target, "all", 0) is source
    assert choose_source_classes(source, target, "6", 0) is source
    with pytest.raises(InputError, match="--SOURCE_CLASSES 7: 7 classes asked for, and s has 6"):
        choose_source_classes(source, target, "7", 0)
    with pytest.raises(InputError, match="3 classes asked for, and t has 2"):
        choose_source_classes(task("t", [0, 1]), target, "similar", 0)


def test_classes_keep_the_order_asked_for():
    chosen = select_classes(task("s", [0, 1, 2]), torch.tensor([2, 0]))
    assert chosen.class_names == ("s2", "s0")
    assert chosen.train.x[chosen.train.y == 0][:, 0].mean() > 1.5


@pytest.mark.parametrize("choice, classes", [("2", 2), ("5", 5), ("random", 3), ("similar", 3)])
def test_learned_all_takes_any_number_of_source_classes(
    tmp_path, feature_files, capsys, choice, classes
):
    rng = np.random.default_rng(0)
    y = np.arange(150) % 6
    x = 3 * np.eye(6, 5)[y] + rng.normal(size=(150, 5))
    np.savez(tmp_path / "six.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    argv = ["--SRC", f"features:{tmp_path / 'six.npz'}", "--TRG", feature_files[1]]
    argv += ["--BATCH_SIZE", "30", "--ITERATIONS", "5", *places(tmp_path)]
    argv += ["--CERTIFICATE_STEPS", "3", "--MATCHINGS", "1"]
    stage_3.main([*argv, "--SOURCE_CLASSES", choice])
    (record,) = map(json.loads, (tmp_path / "results" / "results.jsonl").read_text().splitlines())
    assert len(record["source_classes"]) == classes
    assert record["variant"] == f"{choice}-classes"
    certificate, published = record["certificate"], record["published"]
    if classes < 3:  # a target class that no source class is mapped to
        assert published["bound_certified"] is None and published["unreached_classes"]
        assert certificate is None and "2 source classes cannot stand" in record["no_certificate"]
        assert record["no_certificate"] in capsys.readouterr().out
        stage_3.main([*argv, "--SOURCE_CLASSES", choice])
        again = capsys.readouterr()
        assert "the result was there" in again.out and record["no_certificate"] in again.out
        assert "2 source classes stand for at most 2 of the target's 3" in again.err
    else:
        assert published["bound_certified"] >= published["target_loss"]
        assert certificate["bound_certified"] >= certificate["target_loss"]
        chosen = set(record["source_classes"])
        stand_in = [name for one in certificate["classes"] for name in one["stood_for_by"]]
        assert record["no_certificate"] is None
        assert len(stand_in) == len(set(stand_in)) == 3 and set(stand_in) <= chosen


@pytest.mark.parametrize(
    "argv, complaint",
    [
        (["--SOURCE_CLASSES", "1"], "must be all, random, similar or a number"),
        (["--SOURCE_CLASSES", "some"], "must be all, random, similar or a number"),
        (["--SOURCE_CLASSES", "4"], "4 classes asked for"),
        (["--SOURCE_CLASSES", "2", "--SETTING", "LearnedA"], "as many source as target classes"),
    ],
)
def test_bad_input_is_one_line(tmp_path, feature_files, capsys, argv, complaint):
    base = ["--SRC", feature_files[0], "--TRG", feature_files[1], "--BATCH_SIZE", "30"]
    with pytest.raises(SystemExit) as stop:
        stage_3.main([*base, *argv, *places(tmp_path)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line and not (tmp_path / "results").exists()
