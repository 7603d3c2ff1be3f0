from dataclasses import asdict

import matplotlib.image
import pytest
import torch

from tests.random_tasks import random_features, random_head
from utils.certificate import certify, learn_certificate
from utils.features import Features
from utils.figures import draw_certificate, draw_published, draw_relation
from utils.linear_head import fit_linear_head
from utils.procedures import CertificateSettings, RelationSettings, TransformSettings
from utils.published import learn_task_transform, transfer_bound
from utils.relation import relate
from utils.report import (
    CERTIFICATE_ROWS,
    HOW_WELL_ROWS,
    PUBLISHED_ROWS,
    RELATION_ROWS,
    print_certificate,
    print_heading,
    print_published,
    print_relation,
    print_where,
)

pytestmark = pytest.mark.figures
NAMES = (tuple("0123"), ("a rather long name", "b", "c", "d"))


@pytest.fixture
def run(generator):
    """(record, transform, source, target) of a small LearnedAll run with all three parts."""
    source, target = random_features(60, 3, 4, generator), random_features(60, 3, 4, generator)
    source = Features(source.x + 2 * torch.randn(4, 3, generator=generator)[source.y], source.y)
    head = random_head(4, 3, 0.5, generator)
    settings = TransformSettings(iterations=40, batch_size=30, learning_rate=0.2)
    transform = learn_task_transform(source, target, head, settings)
    heads = [fit_linear_head(side, 4, None, "ridge") for side in (source, target)]
    learned = learn_certificate(source, target, *heads, CertificateSettings(steps=30, matchings=1))
    pair = (source, target)
    few = RelationSettings(controls=19)
    relation, _ = relate(*heads, target, target, NAMES, few, bootstrap=20)
    record = {
        "source": "MNIST",
        "target": "FMNIST",
        "model": "lenet",
        "setting": "LearnedAll",
        "seed": 0,
        "relation": {**asdict(relation), "source_contribution": 0.25, "no_contribution": None},
        "certificate": asdict(certify(learned, heads[1], pair, pair, NAMES, bootstrap=20)),
        "no_certificate": None,
        "published": {
            **asdict(transfer_bound(transform, head, source, target, bootstrap=20)),
            "start": "label_map",
        },
        "config": {
            "procedure": "improved",
            "head": {"tau": 0.2},
            "transform": {"learned": "LearnedAll"},
        },
        "data": {"source": {"origin": "embedded"}, "target": {"origin": "full"}},
    }
    return record, transform, source, target


FINE_TUNED = {"test_loss": 1.5, "test_accuracy": 0.65, "config": {"head": {"tau": None}}}


def check_rows(lines, rows, values) -> None:
    """Each quantity by its name, its value and its meaning, aligned."""
    starts = set()
    for name, meaning in rows.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.endswith(meaning)
        if name in values:
            assert float(line.split()[1]) == pytest.approx(values[name], abs=5e-5)
        starts.add(line.index(meaning))
    assert len(starts) == 1


def test_the_certificate_shows_every_quantity_with_its_meaning(run, capsys):
    record = run[0]
    print_certificate(record, 10)
    lines = capsys.readouterr().out.splitlines()
    check_rows(lines, CERTIFICATE_ROWS, record["certificate"])
    low, high = record["certificate"]["intervals"]["target_accuracy"]
    assert any(f"[{low:.3f}, {high:.3f}]" in line for line in lines)


def test_the_relation_shows_every_quantity_with_its_meaning(run, capsys):
    record = run[0]
    print_heading(record)
    print_relation(record, 10)
    lines = capsys.readouterr().out.splitlines()
    assert "data: source embedded, target full" in lines[0]
    found = record["relation"]
    control = {f"control_{name}": found["mixed_classes"][name] for name in ("accuracy", "loss")}
    check_rows(lines, HOW_WELL_ROWS, found)
    check_rows(lines, RELATION_ROWS, {**found, **control})
    low, high = found["intervals"]["label_map_accuracy"]
    assert any(f"[{low:.3f}, {high:.3f}]" in line for line in lines)
    rows = [line for line in lines if line.strip().startswith(tuple(NAMES[1])) and "%" in line]
    assert len(rows) == 4
    worst = min(found["classes"], key=lambda one: one["fine_tuned_accuracy"])
    assert rows[0].strip().startswith(worst["target_class"])
    assert f"{worst['called'][0][0]} {worst['called'][0][1]:.0%}" in rows[0]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"related": True, "source_contribution_p": 0.05}, "are related to FMNIST's: they close 25%"),
        (
            {"related": False, "source_contribution_p": 0.4},
            "no relation is found: on FMNIST the classes of MNIST cannot",
        ),
        (
            {"related": False, "source_contribution_p": 0.05, "source_contribution": 0.02},
            "the classes of MNIST are hardly related to FMNIST's: they close 2% of the loss",
        ),
        (
            {"source_contribution": None, "no_contribution": "it is hardly better"},
            "it is hardly better.",
        ),
        ({"control": "random directions"}, "as many random directions of the features: the weaker"),
        ({"shared_images": True}, "source and target are the same images"),
    ],
)
def test_what_the_relation_says_in_words(run, capsys, changed, said):
    record = run[0]
    print_relation({**record, "relation": {**record["relation"], **changed}}, 2)
    shown = capsys.readouterr().out
    assert said in shown and "and 2 better ones (--SHOW_CLASSES 0 for all)" in shown


def test_what_more_labels_would_bring_stands_beside_how_well(run, capsys):
    more = {"sizes": [], "accuracies": [], "intervals": [], "twice": None, "unsaid": "too few images"}
    print_relation(run[0], 10, {**FINE_TUNED, "more_labels": more})
    assert "more labels: " in capsys.readouterr().out
    print_relation(run[0], 10, FINE_TUNED)
    assert "more labels: " not in capsys.readouterr().out


def test_the_classes_stand_by_their_share(run, capsys):
    record = run[0]
    print_certificate(record, 0)
    whole = capsys.readouterr().out
    place = {one["target_class"]: one["share"] for one in record["certificate"]["classes"]}
    rows = [line for line in whole.splitlines() if line.strip().startswith(tuple(place)) and "%" in line]
    shown = [next(name for name in place if line.strip().startswith(name)) for line in rows]
    assert shown == sorted(place, key=place.get, reverse=True)
    print_certificate(record, 2)
    some = capsys.readouterr().out
    assert "and 2 classes of smaller share (--SHOW_CLASSES 0 for all)" in some


def test_a_start_that_was_kept_and_a_missing_certificate_are_said(run, capsys):
    record = run[0]
    kept = {**record["certificate"], "improved": False}
    print_certificate({**record, "certificate": kept}, 10)
    assert "nothing better than its start" in capsys.readouterr().out
    fixed = {**kept, "start": None, "end": None}
    print_certificate({**record, "certificate": fixed}, 10)
    assert "nothing better than its start" not in capsys.readouterr().out
    print_certificate({**record, "certificate": None, "no_certificate": "no certificate: why"}, 10)
    assert capsys.readouterr().out == "no certificate: why\n"


def test_the_published_form_shows_every_quantity(run, capsys):
    record = run[0]
    print_published(record, FINE_TUNED)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "published form, τ = 0.2:"
    rows = dict(PUBLISHED_ROWS)
    rows["fine_tuned_loss"] = (
        "head fine-tuned directly on the target (stage 2, validated strength; nats)"
    )
    check_rows(lines, rows, record["published"])
    assert any("1.5000" in line and "fine_tuned_loss" in line for line in lines)
    assert any(line.startswith("one seed, B began at the label map; sweep.py") for line in lines)


def test_undefined_quantities_are_explained(tmp_path, run, capsys):
    undefined = [
        *("wasserstein_distance", "distribution_mismatch", "bound_published", "bound_transformed"),
        "bound_certified",
    ]
    published = {**run[0]["published"], **dict.fromkeys(undefined), "unreached_classes": (1, 3)}
    record = {**run[0], "published": published}
    print_published(record, None)
    shown = capsys.readouterr().out
    assert "no source class is mapped to target class 1, 3" in shown
    assert "fine_tuned" not in shown
    draw_published(
        record=record,
        fine_tuned=None,
        transform=run[1],
        tests=run[2:],
        class_names=NAMES,
        folder=tmp_path,
    )
    assert (tmp_path / "bound.png").exists()


def test_figures_are_named_and_drawn(tmp_path, run, capsys):
    record, transform, source, target = run
    print_where(record, tmp_path)
    shown = capsys.readouterr().out
    draw_relation(record, tmp_path)
    draw_certificate(record, tmp_path)
    draw_published(
        record=record,
        fine_tuned=FINE_TUNED,
        transform=transform,
        tests=(source, target),
        class_names=NAMES,
        folder=tmp_path,
    )
    names = ["bound", "certificate", "curves", "features", "label_map", "relation"]
    assert sorted(path.stem for path in tmp_path.iterdir()) == names
    assert all(name in shown for name in names) and "Wilson" in shown
    for path in tmp_path.iterdir():
        pixels = torch.from_numpy(matplotlib.image.imread(path))[..., :3]
        assert min(pixels.shape[:2]) >= 400
        ink = (pixels < 0.97).any(2)
        assert 0.005 < ink.float().mean() < 0.95
        # Nothing is cut off: the outermost pixels are paper.
        for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
            assert not edge.any(), path


def test_the_same_run_draws_the_same_figures(tmp_path, run):
    for folder in ("one", "two"):
        draw_relation(run[0], tmp_path / folder)
        draw_certificate(run[0], tmp_path / folder)
        draw_published(run[0], FINE_TUNED, run[1], run[2:], NAMES, tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
