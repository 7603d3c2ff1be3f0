import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from utils import features as rooms
from utils.backbones import LeNet, load_backbone
from utils.datasets import Split, load_dataset
from utils.errors import InputError
from utils.features import (
    Features,
    Standardiser,
    Task,
    extract_features,
    load_task,
    standardise,
    task_label,
    task_of_dataset,
    task_of_feature_file,
)
from utils.storage import save_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "lenet.pt", {"network": LeNet(10).state_dict()})
    return load_backbone("lenet", tmp_path / "lenet.pt", CPU)


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


def test_extraction_in_batches_equals_one_pass(backbone, generator):
    images = torch.randint(256, (23, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(23) % 10)
    features = extract_features(backbone, split, batch_size=5)
    whole = backbone.network(backbone.preprocess(images))
    torch.testing.assert_close(features.x, whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(features.y, split.labels)


def test_the_cache_is_hit_missed_and_mended(tmp_path, backbone, monkeypatch):
    dataset = load_dataset("MNIST", "embedded")
    cache = tmp_path / "features"
    calls = []
    real = rooms.extract_features
    monkeypatch.setattr(rooms, "extract_features", lambda *a: calls.append(1) or real(*a))
    first = task_of_dataset(dataset, backbone, cache)
    again = task_of_dataset(dataset, backbone, cache)
    assert len(calls) == 2  # both splits, once
    assert torch.equal(first.test.x, again.test.x) and torch.equal(first.train.y, again.train.y)

    save_checkpoint(tmp_path / "other.pt", {"network": LeNet(10).state_dict()})
    task_of_dataset(dataset, load_backbone("lenet", tmp_path / "other.pt", CPU), cache)
    assert len(calls) == 4 and len(list(cache.iterdir())) == 2

    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    mended = task_of_dataset(dataset, backbone, cache)
    assert len(calls) == 6
    assert torch.equal(first.train.x, mended.train.x)


def test_a_feature_file_becomes_a_task(feature_files):
    task = task_of_feature_file(feature_files[0])
    assert (task.num_classes, task.feature_dim, len(task.train), len(task.test)) == (3, 5, 90, 45)
    assert task.name == task_label(feature_files[0]) == "features-source"
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


def test_feature_files_that_are_none(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    for name in ("text.npz", "absent.npz"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            task_of_feature_file(f"features:{tmp_path / name}")


def test_nan_features_of_a_network_are_named(tmp_path, backbone):
    for parameter in backbone.network.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(
        InputError, match="features of MNIST through lenet: 4000 of 4000 training samples"
    ):
        task_of_dataset(load_dataset("MNIST", "embedded"), backbone, tmp_path)


def test_a_data_set_needs_a_backbone(tmp_path):
    where = {"data_dir": tmp_path, "cache_dir": tmp_path, "role": "target", "seed": 0}
    with pytest.raises(InputError, match="give the target as features:PATH"):
        load_task("MNIST", None, origin="embedded", **where)
