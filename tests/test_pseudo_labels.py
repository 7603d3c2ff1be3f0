import json

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import transfer_source_to_target as stage_3
from tests.conftest import places
from tests.tiny_data import write_class_folders
from utils.datasets import is_labelled, load_dataset
from utils.errors import InputError
from utils.features import Features, cluster, clustering_accuracy, pseudo_labels
from utils.features.pseudo_labels import _directions

SHORT = [
    "--BATCH_SIZE",
    "30",
    "--ITERATIONS",
    "5",
    "--BOOTSTRAP",
    "0",
    "--CERTIFICATE_STEPS",
    "3",
    "--MATCHINGS",
    "1",
]
PARTS = ("certificate", "published")


def blobs(counts: tuple[int, ...], seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])
    return Features(6 * torch.eye(8)[y] + torch.randn(len(y), 8, generator=generator), y)


def test_separated_classes_are_found():
    train, test = blobs((40, 40, 40)), blobs((10, 10, 10), seed=1)
    clusters = cluster(train.x, 3, 0)
    assert clustering_accuracy(clusters.labels(train.x), train.y) == 1.0
    assert clustering_accuracy(clusters.relabel(test).y, test.y) == 1.0
    assert torch.equal(clusters.relabel(test).x, test.x)
    again = cluster(train.x, 3, 0)
    assert torch.equal(again.labels(test.x), clusters.labels(test.x))
    with pytest.raises(InputError, match=r"no sample of a split is in cluster .* for 3 classes"):
        clusters.relabel(Features(test.x[:15], test.y[:15]))


def test_equal_sizes():
    """As many points in each cluster, and of all such partitions with these centres the cheapest."""
    train = blobs((60, 40, 20))
    clusters = cluster(train.x, 3, seed=0)
    labels = clusters.labels(train.x).numpy()
    assert np.bincount(labels).tolist() == [40, 40, 40]
    z = _directions(train.x, clusters.mean, clusters.axes)
    costs = cdist(z, np.repeat(clusters.centres, 40, axis=0), "sqeuclidean")
    rows, columns = linear_sum_assignment(costs)  # each centre as 40 seats
    own = ((z - clusters.centres[labels]) ** 2).sum()
    assert own == pytest.approx(costs[rows, columns].sum(), rel=1e-9)
    for k in range(3):
        assert np.allclose(clusters.centres[k], z[labels == k].mean(0))


def test_many_points_are_balanced_on_some(monkeypatch):
    train = blobs((300, 200, 100))
    monkeypatch.setattr(pseudo_labels, "MOST_COSTS", 600)  # every third point
    sizes = np.bincount(cluster(train.x, 3, seed=0).labels(train.x))
    assert all(180 <= size <= 220 for size in sizes)


def test_the_choice_of_source_classes_uses_no_label_of_the_target(tmp_path, feature_files):
    """`similar` looks at class means: with pseudo-labels at those of the clusters."""
    source, target = (name.removeprefix("features:") for name in feature_files)
    arrays = dict(np.load(source))
    for split in ("train", "test"):  # a fourth class, far from all the target's
        arrays[f"x_{split}"] = np.concatenate([arrays[f"x_{split}"], 50 + arrays[f"x_{split}"][:30]])
        arrays[f"y_{split}"] = np.concatenate([arrays[f"y_{split}"], np.full(30, 3)])
    np.savez(source, **arrays)
    argv = ["--SRC", feature_files[0], "--TRG", feature_files[1], *SHORT, *places(tmp_path)]
    argv += ["--TARGET_LABELS", "pseudo", "--SOURCE_CLASSES", "similar"]
    stage_3.main(argv)
    arrays = dict(np.load(target))
    for split in ("train", "test"):
        arrays[f"y_{split}"] = np.random.default_rng(0).permutation(arrays[f"y_{split}"])
    np.savez(target, **arrays)
    stage_3.main(argv)
    lines = (tmp_path / "results" / "results.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first["source_classes"] == second["source_classes"] == ["0", "1", "2"]
    for part in PARTS:
        assert first[part]["target_loss"] == second[part]["target_loss"]
        assert first[part] == second[part]


def test_a_target_that_has_no_labels(tmp_path, feature_files, capsys):
    """The same numbers as with labels that are not looked at, and no agreement to tell."""
    base = ["--SRC", feature_files[0], *SHORT, *places(tmp_path), "--TARGET_LABELS", "pseudo"]
    stage_3.main([*base, "--TRG", feature_files[1]])
    arrays = np.load(feature_files[1].removeprefix("features:"))
    bare = tmp_path / "bare.npz"
    np.savez(bare, x_train=arrays["x_train"], x_test=arrays["x_test"])
    unlabelled = [*base, "--TRG", f"features:{bare}", "--TARGET_CLASSES", "3"]
    stage_3.main(unlabelled)
    shown = capsys.readouterr().out
    assert "the target has no labels" in shown and "stage 2 has not been run" not in shown
    assert shown.count("are against clusters, not labels") == 2
    path = tmp_path / "results" / "results.jsonl"
    with_labels, without = (json.loads(line) for line in path.read_text().splitlines())
    assert without["pseudo_labels"] == {"agreement": None}
    assert without["data"]["target"]["unlabelled_classes"] == 3
    for part in PARTS:
        assert _numbers(without[part]) == _numbers(with_labels[part])
    stage_3.main(unlabelled)
    assert "the result was there" in capsys.readouterr().out
    stage_3.main([*unlabelled, "--TARGET_CLASSES", "2"])
    assert "the result was there" not in capsys.readouterr().out


def _numbers(part):
    """All but the names of the clusters."""
    classes = [{k: v for k, v in one.items() if isinstance(v, float)} for one in part.get("classes", ())]
    return {**part, "classes": classes}


def test_an_estimate_without_a_certificate_says_so(tmp_path, feature_files, capsys):
    """Neither run has a number to compare, both being of two source classes for three of the target."""
    base = ["--SRC", feature_files[0], "--TRG", feature_files[1], *SHORT, *places(tmp_path)]
    base += ["--SOURCE_CLASSES", "2", "--ANALYSIS", "certificate"]
    stage_3.main(base)
    stage_3.main([*base, "--TARGET_LABELS", "pseudo"])
    shown = capsys.readouterr().out
    assert shown.count("2 source classes cannot stand for 3 target classes") == 2
    assert "as the target's own on 100.0%" in shown and "not run with these settings" not in shown


def test_a_folder_of_images_without_labels(tmp_path):
    write_class_folders(tmp_path / "photos", ("may", "june"), 5)
    data = load_dataset("folder:" + str(tmp_path / "photos"), unlabelled_classes=2)
    assert data.class_names == ("cluster 0", "cluster 1") and len(data.train) == 8 == 4 * len(data.test)
    assert not is_labelled(data.train.labels) and not is_labelled(data.test.labels)
    assert not set(data.train.images.names) & set(data.test.images.names)


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--TARGET_CLASSES", "3"], "add --TARGET_LABELS pseudo"),
        (["--TARGET_CLASSES", "1", "--TARGET_LABELS", "pseudo"], "must be a whole number from 2"),
        ([], "y_train, y_test are missing (a target without labels is for transfer_source_to_target.py"),
    ],
)
def test_bad_input_is_one_line(tmp_path, feature_files, capsys, flags, complaint):
    arrays = np.load(feature_files[1].removeprefix("features:"))
    np.savez(tmp_path / "bare.npz", x_train=arrays["x_train"], x_test=arrays["x_test"])
    base = ["--SRC", feature_files[0], "--TRG", f"features:{tmp_path / 'bare.npz'}"]
    with pytest.raises(SystemExit) as stop:
        stage_3.main([*base, "--BATCH_SIZE", "30", *flags, *places(tmp_path)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line and not (tmp_path / "results").exists()


def test_registered_data_sets_have_labels():
    with pytest.raises(InputError, match="MNIST has labels: --TARGET_CLASSES is for targets without"):
        load_dataset("MNIST", "embedded", unlabelled_classes=10)


def test_agreement_names_clusters_as_well_as_can_be():
    truth = torch.tensor([0, 0, 0, 1, 1, 2])
    assert clustering_accuracy(torch.tensor([2, 2, 2, 0, 0, 1]), truth) == 1.0
    assert clustering_accuracy(torch.tensor([0, 0, 1, 1, 1, 1]), truth) == pytest.approx(4 / 6)


def test_the_script_uses_no_label_of_the_target(tmp_path, feature_files, capsys):
    """Labels that say nothing change only the agreement; the labelled run is set beside it."""
    base = ["--SRC", feature_files[0], "--TRG", feature_files[1], *SHORT, *places(tmp_path)]
    pseudo = [*base, "--TARGET_LABELS", "pseudo"]
    stage_3.main(pseudo)
    assert "not run with these settings" in capsys.readouterr().out
    stage_3.main(base)
    stage_3.main(pseudo)
    shown = capsys.readouterr().out
    assert "the result was there" in shown and "difference" in shown
    path = tmp_path / "results" / "results.jsonl"
    estimate, labelled = (json.loads(line) for line in path.read_text().splitlines())
    assert estimate["variant"] == "pseudo-labels" and labelled["variant"] is None
    assert estimate["pseudo_labels"]["agreement"] == 1.0  # these classes are far apart
    for part in PARTS:
        assert estimate[part]["bound_certified"] >= estimate[part]["target_loss"]
        assert f"{part}: bound_certified" in shown

    file = feature_files[1].removeprefix("features:")
    arrays = dict(np.load(file))
    rng = np.random.default_rng(0)
    for name in ("y_train", "y_test"):
        arrays[name] = rng.permutation(arrays[name])
    np.savez(file, **arrays)
    stage_3.main(pseudo)
    blind = json.loads(path.read_text().splitlines()[-1])
    assert blind["pseudo_labels"]["agreement"] < 0.6
    for part in PARTS:
        assert blind[part] == estimate[part]
