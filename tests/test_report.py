import matplotlib.image
import pytest
import torch

from tests.random_tasks import random_features, random_head
from utils.bound import transfer_bound
from utils.report import EXPLANATIONS, draw_figures, print_transfer
from utils.task_transform import TransformSettings, learn_task_transform


@pytest.fixture
def run(generator):
    """(record, transform, source, target) of a small LearnedAll run."""
    source, target = random_features(60, 3, 4, generator), random_features(60, 3, 4, generator)
    head = random_head(4, 3, 0.5, generator)
    settings = TransformSettings(iterations=40, batch_size=30, learning_rate=0.2)
    transform = learn_task_transform(source, target, head, settings)
    record = {
        "source": "MNIST",
        "target": "FMNIST",
        "model": "lenet",
        "setting": "LearnedAll",
        "seed": 0,
        **transfer_bound(transform, head, source, target).quantities(),
        "bound_certified_train": 1.25,
        "refined": None,
        "config": {"procedure": "improved"},
        "data": {"source": {"origin": "embedded"}, "target": {"origin": "full"}},
    }
    return record, transform, source, target


FINE_TUNED = {"test_loss": 1.5, "test_accuracy": 0.65}


def test_the_table_shows_every_quantity_with_its_meaning(tmp_path, run, capsys):
    record = run[0]
    print_transfer(record, FINE_TUNED, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    for name, meaning in EXPLANATIONS.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.endswith(meaning)
        if name in record:
            assert float(line.split()[1]) == pytest.approx(record[name], abs=5e-5)
    assert "data: source embedded, target full" in lines[0]
    starts = {line.index(EXPLANATIONS[line.split()[0]]) for line in lines[1 : 1 + len(EXPLANATIONS)]}
    assert len(starts) == 1  # aligned
    assert any("1.5000" in line and "fine_tuned_loss" in line for line in lines)


def test_the_refined_transform_has_a_column_of_its_own(tmp_path, run, capsys):
    names = set(run[0]) & set(EXPLANATIONS)
    record = {**run[0], "refined": {name: run[0][name] + 1 for name in names}}
    print_transfer(record, FINE_TUNED, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["as", "published", "refined"]
    for name in names:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert float(line.split()[2]) == pytest.approx(record[name] + 1, abs=5e-5)


def test_undefined_quantities_are_explained(tmp_path, run, capsys):
    undefined = [
        *("wasserstein_distance", "distribution_mismatch", "bound_published", "bound_transformed"),
        "bound_certified",
    ]
    record = {**run[0], **dict.fromkeys(undefined), "unreached_classes": (1, 3)}
    print_transfer(record, None, tmp_path)
    shown = capsys.readouterr().out
    assert "no source class is mapped to target class 1, 3" in shown
    assert "stage 2 has not been run" in shown
    names = (tuple("0123"), tuple("abcd"))
    draw_figures(record, None, run[1], run[2], run[3], names, tmp_path)
    assert (tmp_path / "bound.png").exists()


def test_figures_are_drawn(tmp_path, run):
    record, transform, source, target = run
    names = (tuple("0123"), ("a rather long name", "b", "c", "d"))
    draw_figures(record, FINE_TUNED, transform, source, target, names, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bound.png",
        "curves.png",
        "features.png",
        "label_map.png",
    ]
    for path in tmp_path.iterdir():
        pixels = torch.from_numpy(matplotlib.image.imread(path))[..., :3]
        assert min(pixels.shape[:2]) >= 400
        ink = (pixels < 0.97).any(2)
        assert 0.005 < ink.float().mean() < 0.95
        # Nothing is cut off: the outermost pixels are paper.
        for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
            assert not edge.any()


def test_the_same_run_draws_the_same_figures(tmp_path, run):
    names = (tuple("0123"), tuple("abcd"))
    for folder in ("one", "two"):
        draw_figures(run[0], FINE_TUNED, *run[1:], names, tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
