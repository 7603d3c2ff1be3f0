import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from utils.errors import InputError
from utils.features import (
    Features,
    Standardiser,
    Task,
    TaskRequest,
    absolute_name,
    classifier_of_feature_file,
    load_task,
    same_images,
    standardise,
    task_of_feature_file,
    task_slug,
)

CPU = torch.device("cpu")


def test_standardising_equals_scikit_learn(generator):
    x = 5 + 3 * torch.randn(200, 6, generator=generator)
    x[:, 2] = 0.1  # no variance: centred and left unscaled
    expected = StandardScaler().fit(x.double().numpy()).transform(x.double().numpy())
    np.testing.assert_allclose(Standardiser.fit(x)(x).numpy(), expected, atol=1e-5)


def test_a_floor_leaves_nearly_constant_coordinates_unscaled(generator):
    x = torch.randn(1000, 5, generator=generator)
    x[:, 3] = 0
    x[0, 3] = 1e-3  # a unit that fires once: deviation 3e-5
    plain, floored = Standardiser.fit(x), Standardiser.fit(x, floor=0.01)
    assert plain(x)[:, 3].abs().max() > 30
    assert floored(x)[:, 3].abs().max() < 0.01
    others = [0, 1, 2, 4]
    assert torch.equal(plain(x)[:, others], floored(x)[:, others])
    assert torch.isfinite(Standardiser.fit(torch.ones(4, 2), floor=0.01)(torch.ones(4, 2))).all()


def test_each_task_is_standardised_by_its_own_training_split(generator):
    train = Features(2 + torch.randn(50, 3, generator=generator), torch.zeros(50, dtype=torch.long))
    test = Features(torch.randn(20, 3, generator=generator), torch.zeros(20, dtype=torch.long))
    task = Task("t", train, test, 1, ("a",), {})
    scaled_train, scaled_test = standardise(task, CPU)
    assert scaled_train.x.mean(0).abs().max() < 1e-5
    deviation = train.x.std(0, correction=0)
    torch.testing.assert_close(scaled_test.x, (test.x - train.x.mean(0)) / deviation)


def test_a_feature_file_becomes_a_task(feature_files):
    task = task_of_feature_file(feature_files[0])
    assert (task.num_classes, task.feature_dim, len(task.train), len(task.test)) == (3, 5, 90, 45)
    assert task.name == task_slug(feature_files[0]) == "features-source"
    assert task.train.x.dtype == torch.float32 and task.train.y.dtype == torch.int64
    assert task.provenance["origin"] == "features"


GOOD = {
    "x_train": np.random.default_rng(0).normal(size=(6, 2)),
    "y_train": np.arange(6) % 3,
    "x_test": np.random.default_rng(1).normal(size=(3, 2)),
    "y_test": np.arange(3),
}


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"y_test": None}, "y_test are missing"),
        ({"x_train": np.zeros((5, 2))}, "x_train must be"),
        ({"x_test": np.zeros((3, 4))}, "x_train has 2 features and x_test 4"),
        ({"y_train": np.array(list("abcabc"))}, "y_train must be integers"),
        ({"y_train": np.arange(6) % 3 - 1}, "y_train must be integers from 0 on"),
        ({"y_train": np.array([0, 2, 0, 2, 0, 2])}, "y_train must hold every class"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 10**12])}, "holds the label 1000000000000"),
        ({"y_test": np.array([0, 1, 3])}, "y_test must hold every class"),
        ({"x_test": np.array([[0, 1], [np.nan, 0], [0, 0]])}, "1 of 3 test samples have NaN"),
        ({"x_train": np.full((6, 2), np.inf)}, "6 of 6 training samples have NaN or infinite"),
        ({"x_train": np.array([["a", "b"]] * 6)}, "x_train must be numbers"),
        ({"x_train": np.array([[{}, {}]] * 6, dtype=object)}, "not a readable"),
    ],
)
def test_unusable_feature_files_are_named(tmp_path, change, complaint):
    arrays = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=rf"bad\.npz.*{complaint}"):
        task_of_feature_file(f"features:{tmp_path / 'bad.npz'}")


HEAD = {
    "weight": np.random.default_rng(2).normal(size=(4, 2)),  # of other classes than y_train's
    "bias": np.arange(4),
    "class_names": np.array(["ant", "bee", "cat", "ünï"]),
}


def test_a_feature_file_with_a_classifier_of_its_own(tmp_path):
    name = f"features:{tmp_path / 'file.npz'}"
    np.savez(tmp_path / "file.npz", **GOOD, **HEAD)
    found = classifier_of_feature_file(name)
    assert found.weight.dtype == found.bias.dtype == torch.float32
    np.testing.assert_allclose(found.weight, HEAD["weight"], rtol=1e-6)
    assert found.bias.tolist() == [0, 1, 2, 3]
    assert found.class_names == ("ant", "bee", "cat", "ünï")
    assert task_of_feature_file(name).num_classes == 3  # the task is as it is without

    parts = {"x_train": GOOD["x_train"], "weight": HEAD["weight"], "bias": HEAD["bias"]}
    np.savez(tmp_path / "file.npz", **parts)
    assert classifier_of_feature_file(name).class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    "change, complaint",
    [
        (
            {"weight": None, "bias": None},
            r"the arrays weight, bias are missing: a classifier of its own",
        ),
        ({"weight": None}, r"the arrays weight are missing: .*weight \(K, d\) and bias \(K,\)"),
        ({"bias": None}, "the arrays bias are missing"),
        ({"x_train": None}, "the arrays x_train are missing$"),
        ({"weight": np.zeros((4, 3))}, r"of 2 features .*must be \(K, 2\) .*not \(4, 3\) and \(4,\)"),
        ({"weight": np.zeros(4)}, r"must be \(K, 2\) .*not \(4,\)"),
        ({"weight": np.array(4.0)}, r"must be \(K, 2\) .*not \(\)"),
        ({"bias": np.zeros(3)}, r"its bias \(K,\), not \(4, 2\) and \(3,\)"),
        ({"weight": np.full((4, 2), np.nan)}, "NaN or infinite"),
        ({"bias": np.full(4, 1e300)}, "NaN or infinite"),
        ({"weight": np.zeros((1, 2)), "bias": np.zeros(1)}, "has 1 class"),
        ({"weight": np.zeros((0, 2)), "bias": np.zeros(0)}, "has 0 class"),
        ({"weight": np.array([["a", "b"]] * 4)}, "weight must be numbers, not <U1"),
        ({"bias": np.zeros(4, complex)}, "bias must be numbers, not complex128"),
        ({"bias": np.array([{}] * 4, dtype=object)}, "not a readable"),
        ({"class_names": np.array(["a", "b"])}, "there are 2 class names for 4 classes"),
        ({"class_names": np.arange(4)}, r"class_names must be \(K,\) strings, not \(4,\) of int64"),
        ({"class_names": np.array("abcd")}, r"class_names must be \(K,\) strings, not \(\)"),
        ({"x_train": np.zeros(6)}, "x_train must be"),
    ],
)
def test_unusable_classifiers_in_feature_files_are_named(tmp_path, change, complaint):
    arrays = {**GOOD, **HEAD, **change}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=rf"bad\.npz.*{complaint}") as caught:
        classifier_of_feature_file(f"features:{tmp_path / 'bad.npz'}")
    assert "\n" not in str(caught.value)


def test_feature_files_that_are_none(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    for name in ("text.npz", "absent.npz"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            task_of_feature_file(f"features:{tmp_path / name}")


def test_a_data_set_needs_a_backbone(tmp_path):
    with pytest.raises(InputError, match="give the target as features:PATH"):
        load_task("MNIST", None, TaskRequest(tmp_path, tmp_path, "embedded"), role="target")


def test_names_from_any_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_name("features:a/B.npz") == f"features:{tmp_path}/a/B.npz"
    assert absolute_name("folder:birds") == f"folder:{tmp_path}/birds"
    assert absolute_name("MNIST") == "MNIST"


def test_what_makes_two_tasks_the_same_images():
    one = {"origin": "folder", "sha256": "a", "path": "b", "train": 3}
    assert same_images(one, {**one, "train": 4})
    assert not same_images(one, {**one, "sha256": "c"})
    assert same_images(one, {**one, "path": "c"})
    assert same_images({"sha256": "a"}, {"sha256": "a"})
