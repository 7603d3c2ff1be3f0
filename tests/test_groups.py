import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

import finetune_source_model_on_target_task as stage2
import rank_models
import transfer_source_to_target as stage3
from tests.faults.tasks import places
from tests.tiny_data import write_image
from utils.backbones import load_backbone
from utils.datasets import Grouping, load_dataset
from utils.datasets.copies import copies_of, warn_of_copies
from utils.errors import InputError
from utils.features import (
    Features,
    TaskRequest,
    cached_features,
    find_data,
    require_same_labels,
    select_classes,
    standardise,
    task_of_feature_file,
)
from utils.grouped import (
    design_effect,
    effective_count,
    effective_new,
    least_share_right,
    share_interval,
)
from utils.learning_curve import learning_curve, nested_parts
from utils.linear_head import fit_validated_ridge
from utils.names import checked_grouping
from utils.ranking import Prediction, decide, k_nearest, predict_accuracy
from utils.sampling import held_out_part, held_out_share, stratified_folds
from utils.statistics import Resamples, least_share, wilson_interval
from utils.storage import read_json


def scenes(count: int, copies: int, classes: int, dim: int, generator, separation=0.5) -> Features:
    """So many scenes, each seen so often with a little noise; the numbers of the scenes are groups."""
    centres = separation * torch.randn(classes, dim, generator=generator)
    return pictures(centres, count, copies, generator)


def pictures(centres: torch.Tensor, count: int, copies: int, generator) -> Features:
    y = torch.arange(count) % len(centres)
    seen = centres[y] + torch.randn(count, centres.shape[1], generator=generator)
    groups = torch.arange(count).repeat_interleave(copies)
    x = seen[groups]
    return Features(x + 0.1 * torch.randn(x.shape, generator=generator), y[groups], groups)


# ------------------------------------------------------------------------------------------- folds
def folds_of_each_group(fold, groups) -> list[set[int]]:
    return [set(fold[groups == g].tolist()) for g in groups.unique()]


def test_folds_hold_whole_groups_and_the_same_share_of_each_class():
    y = torch.arange(2000) % 10
    for groups in (torch.arange(2000) // 10 % 40 * 10 + y, torch.arange(2000) // 20):
        fold = stratified_folds(y, groups)
        assert all(len(found) == 1 for found in folds_of_each_group(fold, groups))
        for label in range(10):
            assert torch.bincount(fold[y == label]).tolist() == [40] * 5
    assert torch.equal(fold, stratified_folds(y, groups))  # deterministic


def test_folds_of_unequal_groups_are_spread_as_far_as_they_go(generator):
    y = torch.tensor([0] * 60 + [1] * 60 + [2] * 30)
    groups = torch.cat(
        [
            torch.arange(60) // 30,
            10 + torch.randint(12, (60,), generator=generator),
            torch.full((30,), 99),
        ]
    )
    fold = stratified_folds(y, groups)
    assert len(fold[y == 0].unique()) == 2  # two groups, two fifths
    assert sorted(fold[y == 1].unique().tolist()) == list(range(5))
    assert (fold[y == 2] == -1).all()  # a single group, as a single sample without groups
    assert (fold[y < 2] >= 0).all()


def test_groups_of_single_samples_are_folds_of_the_same_sizes():
    y = torch.arange(103) % 3
    alone, single = stratified_folds(y), stratified_folds(y, torch.arange(103))
    for label in range(3):
        sizes = [torch.bincount(fold[y == label]).sort().values for fold in (alone, single)]
        assert torch.equal(*sizes)


def test_a_share_is_held_out_in_whole_groups(generator):
    y = torch.arange(600) % 3
    groups = torch.arange(600) // 12  # each holds every class
    left, out = held_out_share(y, groups, 0.2, generator)
    assert torch.equal(torch.cat([left, out]).sort().values, torch.arange(600))
    assert not set(groups[left].tolist()) & set(groups[out].tolist())
    assert torch.bincount(y[out]).tolist() == [40] * 3


def test_a_class_of_two_large_groups_keeps_one_on_each_side(generator):
    y, groups = torch.tensor([0] * 20 + [1] * 20), torch.arange(40) // 10
    for _ in range(10):
        left, out = held_out_share(y, groups, 0.2, generator)
        assert torch.bincount(y[left]).tolist() == torch.bincount(y[out]).tolist() == [10, 10]


def test_groups_that_cannot_be_divided_are_an_error(generator):
    # Each class has two of three groups: whichever is held out, a class is missing on one side.
    y, groups = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    with pytest.raises(ValueError, match="can be held out"):
        held_out_share(y, groups, 0.2, generator)


def test_without_groups_the_share_is_that_of_each_class_in_the_order_drawn():
    y = torch.tensor([0] * 10 + [1] * 5)
    drawn = torch.Generator().manual_seed(7)
    first, second = torch.randperm(10, generator=drawn), torch.randperm(5, generator=drawn)
    left, out = held_out_share(y, None, 0.2, torch.Generator().manual_seed(7))
    assert out.tolist() == sorted(first[:2].tolist()) + (10 + second[:1]).tolist()
    assert len(left) == 12


# --------------------------------------------------------------------------------------- intervals
def test_one_sample_a_group_is_no_group():
    right = torch.arange(200) % 4 > 0
    groups = torch.arange(200)
    assert design_effect(right, groups) == pytest.approx(1.0)
    assert effective_count(right, None) == 200
    assert share_interval(right, None) == wilson_interval(150, 200)
    assert least_share_right(right, None) == least_share(150, 200)
    assert share_interval(right, groups) == pytest.approx(wilson_interval(150, 200), abs=1e-3)
    assert least_share_right(right, groups) == pytest.approx(least_share(150, 200), abs=2e-3)


def test_groups_that_agree_count_once():
    right, groups = (torch.arange(100) % 4 > 0).repeat_interleave(10), torch.arange(1000) // 10
    assert effective_count(right, groups) == pytest.approx(100)
    assert share_interval(right, groups) == pytest.approx(wilson_interval(75, 100), abs=4e-3)
    exact = binomtest(75, 100, alternative="greater").proportion_ci(0.95, method="exact").low
    assert least_share_right(right, groups) == pytest.approx(exact, abs=4e-3)
    assert effective_new(500, torch.arange(500) // 10, right, groups) == pytest.approx(50)
    assert effective_new(500, None, right, groups) == 500


def test_groups_that_say_nothing_count_as_their_samples(generator):
    right, groups = torch.rand(10_000, generator=generator) < 0.75, torch.arange(10_000) // 10
    assert effective_count(right, groups) > 8500


def test_a_share_that_is_always_right_is_not_taken_to_be_known():
    right, groups = torch.ones(100, dtype=torch.bool), torch.arange(100) // 20
    low, high = share_interval(right, groups)
    assert low < 0.5 and high == 1.0


def test_intervals_of_test_accuracies_hold_the_chance_behind_them():
    """30 groups of 10 whose chances differ: the intervals hold the mean chance, Wilson's do not."""
    rng, held, ordinary = np.random.default_rng(0), 0, 0
    groups = torch.arange(300) // 10
    for _ in range(300):
        chance = rng.beta(2, 1, size=30).repeat(10)  # mean 2/3
        right = torch.from_numpy(rng.random(300) < chance)
        low, high = share_interval(right, groups)
        held += low <= 2 / 3 <= high
        low, high = wilson_interval(int(right.sum()), 300)
        ordinary += low <= 2 / 3 <= high
    assert held >= 0.92 * 300 and ordinary < 0.85 * 300


@pytest.mark.slow
def test_predicted_intervals_hold_the_accuracy_on_new_scenes():
    """And those of a probe that does not know of scenes do not."""
    held, ordinary = 0, 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        centres = 0.5 * torch.randn(3, 15, generator=generator)
        train, new = pictures(centres, 30, 6, generator), pictures(centres, 1000, 1, generator)
        fitted = fit_validated_ridge(train.x, train.y, 3, "test", train.groups)
        naive = fit_validated_ridge(train.x, train.y, 3, "test")
        logits = new.x @ fitted.weight.T + fitted.bias
        accuracy = (logits.argmax(1) == new.y).double().mean().item()
        low, high = predict_accuracy(fitted, train.y, 1000, train.groups, new.groups).interval
        held += low <= accuracy <= high
        low, high = predict_accuracy(naive, train.y, 1000).interval
        ordinary += low <= accuracy <= high
    assert held >= 18 and ordinary <= 2


def test_resamples_draw_whole_groups_and_keep_the_classes():
    y, groups = torch.arange(60) % 2, torch.arange(60) // 2 % 10 * 2 + torch.arange(60) % 2
    drawn = Resamples(y, 50, torch.Generator().manual_seed(0), groups).counts
    for g in groups.unique():
        members = drawn[:, groups == g]
        assert torch.allclose(members, members[:, :1].expand_as(members))
    assert torch.allclose(drawn[:, y == 0].sum(1), torch.full((50,), 30.0, dtype=torch.float64))


def test_a_choice_draws_groups():
    """Two candidates that differ in one group of 50 images, among 10: not to be told apart."""
    groups = np.arange(500) // 50
    right = {"a": np.ones(500), "b": np.where(groups == 3, 0.0, 1.0)}
    names = dict(zip(right, right, strict=True))
    with_groups, without = (
        decide({n: Prediction(r.mean(), (0, 1), r, groups=g) for n, r in right.items()}, names, 400, 0)
        for g in (groups, None)
    )
    assert with_groups.rivals == ("b",) and without.rivals == ()
    assert with_groups.odds["a"] == pytest.approx(0.5 + 0.5 * (1 - 0.9**10), abs=0.06)


def test_neighbours_of_ones_own_group_do_not_vote(generator):
    train = scenes(100, 10, 5, 20, generator, separation=0.2)
    own, others = (k_nearest(train.x, train.y, g).double().mean() for g in (None, train.groups))
    assert own == 1.0 and others < 0.6


def test_the_learning_curve_takes_whole_groups(generator):
    train = scenes(80, 10, 4, 20, generator)
    parts = nested_parts(
        y=train.y, allowed=train.y >= 0, shares=[0.25, 0.5], num_classes=4, seed=0, groups=train.groups
    )
    for part, q in zip(parts, (20, 40), strict=True):
        assert len(part) == 10 * q and len(train.groups[part].unique()) == q
    curve = learning_curve(train, 4, new_images=400, new_groups=torch.arange(400) // 10)
    fitted = fit_validated_ridge(train.x, train.y, 4, "test", train.groups)
    found = predict_accuracy(fitted, train.y, 400, train.groups, torch.arange(400) // 10)
    assert curve.accuracies[-1] == found.accuracy
    assert curve.intervals[-1][0] <= found.interval[0] + 1e-9
    naive = learning_curve(Features(train.x, train.y), 4, new_images=400)
    assert naive.accuracies[-1] > curve.accuracies[-1] + 0.1


def test_no_class_with_two_groups_predicts_nothing(generator):
    train = scenes(4, 10, 4, 5, generator)
    fitted = fit_validated_ridge(train.x, train.y, 4, "test", train.groups)
    with pytest.raises(InputError, match="two training groups"):
        predict_accuracy(fitted, train.y, 10, train.groups)
    assert learning_curve(train, 4).unsaid == "no class has two groups of images"


# ------------------------------------------------------------------------------- groups of features
def test_groups_go_where_the_features_go(feature_files):
    task = task_of_feature_file(feature_files[0])
    groups = torch.arange(len(task.train)) // 3
    grouped = Features(task.train.x, task.train.y, groups)
    some = torch.tensor([5, 1, 9])
    assert torch.equal(grouped.select(some).groups, groups[some])
    assert torch.equal(grouped.to(torch.device("cpu")).groups, groups)
    whole = replace(task, train=grouped)
    assert torch.equal(standardise(whole, torch.device("cpu"))[0].groups, groups)
    chosen = select_classes(whole, torch.tensor([1, 0])).train
    assert torch.equal(chosen.groups, groups[task.train.y < 2])


def write_grouped(path, **extra) -> str:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    arrays = {
        "x_train": rng.normal(size=(40, 3)),
        "y_train": y,
        "x_test": rng.normal(size=(20, 3)),
        "y_test": y[:20],
    }
    np.savez(path, **arrays, **extra)
    return f"features:{path}"


def test_a_feature_file_says_its_groups(tmp_path):
    names = np.array([f"scene {k}" for k in np.arange(40) // 4])
    task = task_of_feature_file(write_grouped(tmp_path / "a.npz", groups_train=names))
    assert task.train.groups.tolist() == (np.arange(40) // 4).tolist() and task.test.groups is None
    both = {"groups": np.arange(40) // 4, "groups_test": 50 + np.arange(20) // 4}
    task = task_of_feature_file(write_grouped(tmp_path / "b.npz", **both))
    assert task.provenance["groups"]["train"] == 10 and task.provenance["groups"]["test"] == 5
    plain = task_of_feature_file(write_grouped(tmp_path / "c.npz"))
    assert plain.train.groups is None and "groups" not in plain.provenance


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"groups_train": np.arange(39)}, r"groups_train must be \(40,\) integers or strings"),
        (
            {"groups_train": np.linspace(0, 1, 40)},
            r"groups_train\[1\] = 0\.025641 is no whole number: gr",
        ),
        ({"groups_train": np.full(40, np.nan)}, r"groups_train\[0\] = nan is no group"),
        ({"groups_train": np.array(["a", ""] * 20)}, r"\[1\] is empty: every sample needs a group"),
        ({"groups_train": np.array([{}] * 40, dtype=object)}, "holds Python objects"),
        ({"groups_train": np.zeros(40, int)}, "all of .* is in the group 0"),
        ({"groups": np.zeros(40, int), "groups_train": np.zeros(40, int)}, "which is right"),
        ({"groups": np.arange(40) // 2, "groups_test": np.array(["a"] * 20)}, "both be numbers"),
    ],
)
def test_groups_of_a_file_that_say_nothing_are_refused(tmp_path, extra, said):
    with pytest.raises(InputError, match=said):
        task_of_feature_file(write_grouped(tmp_path / "a.npz", **extra))


@pytest.mark.parametrize(
    "form",
    [
        lambda groups: groups[:, None],
        lambda groups: groups[None],
        lambda groups: groups.astype(float),
        lambda groups: groups.astype("S"),
        lambda groups: groups.astype("U")[:, None],
    ],
)
def test_groups_in_the_forms_that_labels_have(tmp_path, form):
    groups = np.arange(40) // 5
    task = task_of_feature_file(write_grouped(tmp_path / "a.npz", groups_train=form(groups)))
    assert task.train.groups.tolist() == groups.tolist()


def test_groups_on_both_sides_and_classes_of_one_group_are_said(tmp_path):
    shared = {"groups": np.arange(40) // 4, "groups_test": np.arange(20) // 4}
    with pytest.warns(UserWarning, match=r"5 of 5 groups of the test split are in the training split"):
        task_of_feature_file(write_grouped(tmp_path / "a.npz", **shared))
    single = np.where(np.arange(40) % 2, 99, np.arange(40) // 4)
    with pytest.warns(UserWarning, match="all training samples of 1 are of one group"):
        task_of_feature_file(write_grouped(tmp_path / "b.npz", groups=single))
    with pytest.warns(UserWarning, match="no effect"):
        task = task_of_feature_file(write_grouped(tmp_path / "c.npz", groups=np.arange(40)))
    assert task.train.groups is None


# ---------------------------------------------------------------------------------- groups of images
def write_patients(folder, classes=("ill", "well"), patients=5, each=4) -> None:
    """folder/CLASS/p3/patient3_0.png …; a patient has images of one class."""
    for label, name in enumerate(classes):
        for p in range(patients):
            number = label * patients + p
            for k in range(each):
                path = folder / name / f"p{number}" / f"patient{number}_{k}.png"
                write_image(path, 100 * number + k, (8, 8))


@pytest.mark.parametrize("pattern", [r"patient(\d+)", r"patient\d+", "level:1", r"(p\d+)/"])
def test_a_drawn_test_split_holds_whole_patients(tmp_path, pattern):
    write_patients(tmp_path / "scans")
    data = load_dataset(f"folder:{tmp_path / 'scans'}", grouping=Grouping(pattern))
    patients = [{n.split("/")[1] for n in split.images.names} for split in (data.train, data.test)]
    assert len(patients[0]) == 8 and len(patients[1]) == 2 and not patients[0] & patients[1]
    for split in (data.train, data.test):
        of_group: dict[int, set[str]] = {}
        for name, group in zip(split.images.names, split.groups.tolist(), strict=True):
            of_group.setdefault(group, set()).add(name.split("/")[1])
        assert all(len(found) == 1 for found in of_group.values())
    assert data.provenance["groups"]["train"] == 8
    plain = load_dataset(f"folder:{tmp_path / 'scans'}")
    assert plain.train.groups is None and "groups" not in plain.provenance


def test_without_class_folders_the_first_level_is_below_the_data_folder(tmp_path):
    """Patients with studies, and the labels in a list."""
    rows = ["file,label"]
    for patient in range(10):
        for study in range(2):
            name = f"patient{patient}/study{study}/image.png"
            write_image(tmp_path / "scans" / name, 10 * patient + study, (8, 8))
            rows.append(f"{name},{'ill' if patient % 2 else 'well'}")
    (tmp_path / "mura.csv").write_text("\n".join(rows))
    for pattern in ("level:1", r"^patient\d"):
        name, grouping = f"folder:{tmp_path / 'scans'}", Grouping(pattern)
        data = load_dataset(name, grouping=grouping, labels=tmp_path / "mura.csv")
        about = data.provenance["groups"]
        assert about["train"] + about["test"] == 10
        both = [{n.split("/")[0] for n in split.images.names} for split in (data.train, data.test)]
        assert not both[0] & both[1]


def test_groups_stay_with_the_images_that_could_be_read(tmp_path):
    write_patients(tmp_path / "scans")
    (tmp_path / "scans" / "ill" / "p0" / "patient0_0.png").write_bytes(b"nothing")
    data = load_dataset(f"folder:{tmp_path / 'scans'}", grouping=Grouping("level:1"), seed=1)
    split = data.train if any("patient0_0" in n for n in data.train.images.names) else data.test
    backbone = load_backbone("random:lenet")
    features, unreadable = cached_features(backbone, split, tmp_path / "cache", "x", max_corrupt=1)
    assert len(unreadable) == 1 and len(features.groups) == len(features) == len(split) - 1
    kept = [k for k, name in enumerate(split.images.names) if "patient0_0" not in name]
    assert torch.equal(features.groups, split.groups[kept])


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"person(\d+)", "matches none of 40 images of .*, not ill/p0/patient0_0.png"),
        (r"patient[0-4]_", "matches 20 of 40 images"),
        ("level:2", "matches none of 40"),
        ("patient", "all of .* is in the group patient"),
        (r"^(\w+)/", "all images of ill, well are of one group"),
    ],
)
def test_patterns_that_say_nothing_are_refused(tmp_path, pattern, said):
    write_patients(tmp_path / "scans")
    with pytest.raises(InputError, match=said):
        load_dataset(f"folder:{tmp_path / 'scans'}", grouping=Grouping(pattern))


def test_what_is_no_pattern_is_refused():
    for text in ("(", "level:0", "level:x", "level:"):
        with pytest.raises(InputError):
            checked_grouping(text)
    with pytest.raises(InputError, match="one array"):
        load_dataset("MNIST", "embedded", grouping=Grouping("x"))
    assert load_dataset("MNIST", "embedded", grouping=Grouping("x", True)).train.groups is None


def test_images_that_are_all_groups_of_their_own_are_said_to_be(tmp_path):
    write_patients(tmp_path / "scans")
    with pytest.warns(UserWarning, match="no effect"):
        data = load_dataset(f"folder:{tmp_path / 'scans'}", grouping=Grouping(r"patient\d+_\d"))
    plain = load_dataset(f"folder:{tmp_path / 'scans'}")
    assert data.train.images == plain.train.images and data.provenance == plain.provenance


def test_features_have_no_names_for_a_pattern(tmp_path, feature_files):
    request = TaskRequest(tmp_path, tmp_path, grouping=Grouping("x"))
    with pytest.raises(InputError, match="groups_train"):
        find_data(feature_files[0], request, role="target")


# -------------------------------------------------------------------------------------- byte copies
def test_copies_are_counted_and_said(tmp_path):
    for split, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            for k in range(count):
                write_image(tmp_path / "pets" / split / name / f"{k}.png", 50 * label + k, (8, 8))
    # All test images are training images; beside them one copy in training and one of another class.
    content = (tmp_path / "pets" / "train" / "cat" / "7.png").read_bytes()
    (tmp_path / "pets" / "train" / "cat" / "copy.png").write_bytes(content)
    (tmp_path / "pets" / "train" / "dog" / "wrong.png").write_bytes(content)
    with pytest.warns(UserWarning) as said:
        data = load_dataset(f"folder:{tmp_path / 'pets'}")
    assert {name: data.copies[name] for name in ("training", "across", "contradicting")} == {
        "training": 2,
        "across": 8,
        "contradicting": 1,
    }
    (text,) = [str(one.message) for one in said]
    for part in (
        "8 of 8 test images",
        "train/cat/0.png = test/cat/0.png",
        "2 of 18 training images",
        "1 images are copies of one with another label",
        "train/dog/wrong.png",
    ):
        assert part in text


def test_few_copies_among_many_images_are_counted_without_a_word(recwarn):
    data = load_dataset("MNIST", "embedded")
    assert data.copies["training"] == data.copies["across"] == data.copies["contradicting"] == 0
    images = data.train.images.clone()
    images[:30] = images[30:60]
    found = copies_of(replace(data.train, images=images), data.test)
    warn_of_copies("MNIST", found, 4000, 1000)
    assert found.training == 30 and not [w for w in recwarn if "MNIST" in str(w.message)]
    images[:50] = images[50:100]
    found = copies_of(replace(data.train, images=images), data.test)
    with pytest.warns(UserWarning, match="training images are copies"):
        warn_of_copies("MNIST", found, 4000, 1000)


# ----------------------------------------------------------------------------------------- the scripts
def test_the_stages_and_the_ranking_hold_groups_out(tmp_path, capsys):
    write_patients(tmp_path / "scans", patients=12, each=5)
    where = ["--CHECKPOINT_DIR", str(tmp_path / "ck"), "--RESULTS_DIR", str(tmp_path / "results")]
    target = ["--TRG", f"folder:{tmp_path / 'scans'}", "--MODEL", "random:resnet18"]
    target += ["--IMAGE_SIZE", "32", "--GROUPS", "level:1", "--WORKERS", "0", *where]
    record = stage2.run(stage2.parse_options(["--SRC", "MNIST", *target]))
    low, high = record["intervals"]["test_accuracy"]
    count = record["data"]["target"]["test"]
    hits = round(record["test_accuracy"] * count)
    ordinary = wilson_interval(hits, count)
    assert high - low > ordinary[1] - ordinary[0]
    assert record["data"]["target"]["groups"]["by"] == "level:1"
    again = stage2.run(stage2.parse_options(["--SRC", "MNIST", *target]))
    assert again == json.loads(json.dumps(record)) | {"files": again["files"]}
    rank_models.main(target)
    out = capsys.readouterr().out
    assert "predicted accuracy" in out
    with pytest.raises(SystemExit):
        stage2.main(["--SRC", "MNIST", *target, "--GROUPS", "("])
    assert "is no regular expression" in capsys.readouterr().err


def test_few_groups_a_class_have_a_certificate(tmp_path):
    """Two groups of some classes: not every class is in every fifth."""
    write_patients(tmp_path / "few", ("ill", "well", "else"), patients=3, each=4)
    write_patients(tmp_path / "whole", ("ill", "well", "else"), patients=6, each=4)
    given = ["--SRC", f"folder:{tmp_path}/whole", "--TRG", f"folder:{tmp_path}/few", "--WORKERS", "0"]
    given += ["--MODEL", "random:lenet", "--GROUPS", r"patient(\d+)", *places(tmp_path)]
    stage3.main([*given, "--ANALYSIS", "certificate"])
    rank_models.main([*given, "--RESAMPLES", "20"])
    record = read_json(tmp_path / "results" / "rank" / "folder-few" / "ranking.json")
    (found,) = record["candidates"].values()
    assert found["scores"]["certificate"]["value"] > 0


def test_every_class_is_on_both_sides_of_a_part_held_out():
    y, fold = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3]), torch.tensor([0, 0, 1, 2, 3, 0, 4, -1])
    assert held_out_part(y, fold).tolist() == [True, True, False, True, False, True, False, False]


@pytest.mark.parametrize("keys", [("x", "y", "groups"), ("features", "labels", "groups")])
def test_groups_of_files_without_a_test_split_are_ranked(tmp_path, keys):
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    arrays = np.eye(3)[y] + rng.normal(size=(60, 3)), y, np.arange(60) // 4
    np.savez(tmp_path / "a.npz", **dict(zip(keys, arrays, strict=True)))
    rank_models.main(["--TRG", f"features:{tmp_path}/a.npz", "--RESAMPLES", "20", *places(tmp_path)])


@pytest.mark.parametrize(
    "groups, alike",
    [
        ([f"p{k // 4}" for k in range(60)], True),
        (100 - np.arange(60) // 4, True),
        (np.arange(60) // 5, False),
        (None, False),
    ],
)
def test_files_of_a_ranking_say_alike_what_belongs_together(tmp_path, groups, alike):
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    for name, content in (("a", np.arange(60) // 4), ("b", groups)):
        more = {} if content is None else {"groups_train": content}
        np.savez(tmp_path / f"{name}.npz", x_train=rng.normal(size=(60, 3)), y_train=y, **more)
    files = [f"features:{tmp_path}/{name}.npz" for name in "ab"]
    if alike:
        require_same_labels(files)
    else:
        with pytest.raises(InputError, match=r"a\.npz and .*b\.npz do not say alike"):
            require_same_labels(files)
