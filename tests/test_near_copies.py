import json
import time

import numpy as np
import pytest
import torch

import finetune_source_model_on_target_task as stage2
import rank_models
from benchmarks import near_copies as benchmark
from benchmarks.measure import table_file
from tests.random_tasks import random_features
from tests.tiny_data import write_class_folders
from utils.datasets import load_dataset
from utils.features import Features, Standardiser
from utils.linear_head import fit_linear_head
from utils.near_copies import near_copies, report_near_copies, warn_of_near_copies


def scenes(each: int, copies: int, classes: int, dim: int, generator, noise=0.1, share=1.0) -> Features:
    """`each` scenes a class, of which a share is seen `copies` times; groups are the scenes."""
    count = each * classes
    y = torch.arange(count) % classes
    times = torch.where(torch.arange(count) < share * count, copies, 1)
    groups = torch.arange(count).repeat_interleave(times)
    centres = 0.4 * torch.randn(classes, dim, generator=generator)[y]
    x = (centres + torch.randn(count, dim, generator=generator))[groups]
    return Features(x + noise * torch.randn(x.shape, generator=generator), y[groups], groups)


def ungrouped(features: Features) -> Features:
    return Features(features.x, features.y)


# -------------------------------------------------------------------------------------- what is found
@pytest.mark.parametrize(
    ("each", "copies", "share"), [(30, 10, 1), (60, 3, 1), (80, 2, 1), (40, 5, 0.3)]
)
@pytest.mark.parametrize("dim", [8, 64, 600])
def test_near_copies_are_found_and_put_together(each, copies, share, dim, generator):
    features = scenes(each, copies, 4, dim, generator, share=share)
    found = near_copies(ungrouped(features))
    having = (torch.bincount(features.groups)[features.groups] > 1).double().mean().item()
    assert 0.7 * having < found.share <= having + 0.01
    assert found.size == copies
    same, linked = (g[:, None] == g for g in (features.groups, found.groups))
    assert (same & linked).sum() > 0.9 * linked.sum()
    assert (same & linked).sum() > 0.9 * same.sum()


def test_equal_features_are_copies_of_each_other(generator):
    x = torch.randn(60, 20, generator=generator).repeat(4, 1)
    found = near_copies(Features(x, torch.arange(240) % 2))
    assert found.share == 1.0 and found.size == 4


def test_frames_that_follow_each_other_are_found(generator):
    """Walks: each frame lies near the one before, the first and the last are far apart."""
    steps = 0.1 * torch.randn(60, 12, 16, generator=generator)
    steps[:, 0] *= 10
    x = steps.cumsum(1).reshape(-1, 16)
    found = near_copies(Features(x, torch.arange(60).repeat_interleave(12) % 3))
    assert found.share > 0.9


@pytest.mark.parametrize(
    ("classes", "each", "dim"),
    [(2, 50, 2), (2, 2500, 1), (10, 100, 64), (100, 12, 64), (200, 4, 64), (5, 60, 512), (3, 40, 3)],
)
def test_independent_samples_have_no_near_copies(classes, each, dim, generator):
    y = torch.arange(classes * each) % classes
    centres = 2 * torch.randn(classes, dim, generator=generator)
    x = centres[y] + torch.randn(len(y), dim, generator=generator)
    assert near_copies(Features(x, y)) is None


@pytest.mark.parametrize("kind", ["heavy tails", "unequal spread", "sparse", "integers", "constant"])
def test_no_near_copies_in_features_of_odd_forms(kind, generator):
    y, noise = torch.arange(2000) % 5, torch.randn(2000, 32, generator=generator)
    x = {
        "heavy tails": noise / torch.rand(2000, 1, generator=generator),
        "unequal spread": noise * torch.where(y == 0, 0.01, 1.0)[:, None],
        "sparse": torch.relu(noise @ torch.randn(32, 200, generator=generator) - 8),
        "integers": torch.randint(9, (2000, 16), generator=generator).float(),
        "constant": torch.zeros(2000, 4),
    }[kind]
    assert near_copies(Features(x, y)) is None


@pytest.mark.parametrize("name", ["MNIST", "FMNIST"])
@pytest.mark.parametrize("count", [300, 1000, 4000])
def test_no_near_copies_among_real_images(name, count):
    data = load_dataset(name, "embedded").train
    x = data.images[:count].flatten(1).float()
    x = Standardiser.fit(x, 0.01)(x)
    assert near_copies(Features(x, data.labels[:count])) is None
    moved = torch.cat([x, x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))])
    found = near_copies(Features(moved, data.labels[:count].repeat(2)))
    assert found is not None and found.share > 0.5


def test_a_few_copies_among_many_images_are_no_alarm(generator):
    features = scenes(100, 4, 4, 30, generator, share=0.01)
    assert near_copies(ungrouped(features)) is None


def test_groups_that_are_known_are_no_near_copies(generator):
    features = scenes(40, 6, 3, 30, generator)
    assert near_copies(features) is None
    halves = Features(features.x, features.y, 2 * features.groups + torch.arange(len(features)) % 2)
    found = near_copies(halves)  # each scene is two of them
    assert found.share > 0.9 and torch.equal(
        found.groups.unique(return_inverse=True)[1], features.groups.unique(return_inverse=True)[1]
    )


def test_copies_across_the_splits_are_told_from_those_inside(generator):
    both = scenes(100, 2, 3, 30, generator)
    first = torch.arange(len(both)) % 2 == 0
    train, test = (ungrouped(both.select(rows)) for rows in (first, ~first))
    across = near_copies(train, test)
    assert across.share == 0.0 and across.test_share > 0.95
    new = random_features(300, 30, 3, generator)
    inside = near_copies(ungrouped(both), new)
    assert inside.share > 0.9 and inside.test_share == 0.0
    assert near_copies(train, new) is None


def test_it_takes_no_second_for_many_features(generator):
    features = random_features(8000, 1280, 10, generator)
    near_copies(features)
    start = time.process_time()
    near_copies(features)
    assert time.process_time() - start < 5  # one on an idle core


# ----------------------------------------------------------------------------------- what is made of it
def test_what_is_predicted_without_copies_holds_on_new_scenes(generator):
    """The issue's example: near copies of each scene, and what a probe reaches on other scenes."""
    whole = scenes(200, 1, 5, 30, generator, noise=0.0)
    known, new = whole.select(slice(0, 100)), whole.select(slice(100, None))
    x = known.x.repeat_interleave(10, 0)
    x = x + 0.1 * torch.randn(x.shape, generator=generator)
    train = Features(x, known.y.repeat_interleave(10))
    found = report_near_copies(train, 5, ungrouped(new))
    low, high = found["new_scenes"]["interval"]
    head = fit_linear_head(train, 5, None, "ridge")
    reached = (head.logits(new.x).argmax(1) == new.y).double().mean().item()
    seen = (head.held_out_logits.argmax(1) == train.y[head.held_out]).double().mean().item()
    assert low <= reached <= high and seen > high
    assert json.loads(json.dumps(found))["size"] == 10


def test_the_warning_says_what_to_do():
    found = {"share": 0.9, "test_share": None, "size": 10, "new_scenes": None}
    with pytest.warns(UserWarning, match="90% of the training images .groups of about 10.*--GROUPS"):
        warn_of_near_copies(found)
    with pytest.warns(UserWarning, match="none of the test images was found to"):
        warn_of_near_copies({**found, "test_share": 0.0})
    with pytest.warns(UserWarning, match=r"about 0.500 \[0.400, 0.600\] .less"):
        warn_of_near_copies(
            {**found, "new_scenes": {"accuracy": 0.5, "interval": [0.4, 0.6]}, "test_share": 0.8}
        )
    warn_of_near_copies(None)


def test_stage_2_and_the_ranking_warn_once_and_again(tmp_path, capsys, generator):
    features = scenes(30, 8, 3, 16, generator)
    test = scenes(30, 2, 3, 16, generator)
    path = tmp_path / "frames.npz"
    arrays = {"x_train": features.x, "y_train": features.y, "x_test": test.x, "y_test": test.y}
    np.savez(path, **{name: value.numpy() for name, value in arrays.items()})
    where = ["--CHECKPOINT_DIR", str(tmp_path / "ck"), "--RESULTS_DIR", str(tmp_path / "results")]
    argv = ["--SRC", f"features:{path}", "--TRG", f"features:{path}", *where]
    for _ in range(2):  # computed, and shown again
        stage2.main(argv)
        err = capsys.readouterr().err
        assert err.count("warning: near copies: at least 100% of the training images") == 1
    rank_models.main(["--TRG", f"features:{path}", *where])
    assert capsys.readouterr().err.count("warning: near copies") == 1
    np.savez(
        path,
        **{name: value.numpy() for name, value in arrays.items()},
        groups_train=features.groups.numpy(),
    )
    rank_models.main(["--TRG", f"features:{path}", *where])
    assert "near copies" not in capsys.readouterr().err


def test_the_benchmark_measures_what_is_found(tmp_path):
    write_class_folders(tmp_path / "photos", ("a", "b", "c"), 30)
    argv = ["--FOLDERS", str(tmp_path / "photos"), "--EMBEDDED", "--MODEL", "random:resnet18"]
    argv += ["--IMAGE_SIZE", "32", "--KINDS", "jpeg", "--SCENES", "20", "--NEW", "10"]
    benchmark.main([*argv, "--RESULTS", str(tmp_path)])
    lines = (tmp_path / table_file("near_copies")).read_text().splitlines()
    rows = [line.split() for line in lines if line.startswith(("72 images", "jpeg"))]
    (ordinary, scenes_seen) = rows[0], rows[-1]
    assert ordinary[-1] == "no" and len(rows) == 4  # by two networks
    having, found, size, right = scenes_seen[1:5]
    assert having == "1.00" and float(found) > 0.9 and size == "5" and float(right) > 0.9
