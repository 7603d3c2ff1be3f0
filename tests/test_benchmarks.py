import runpy
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import (
    certificate,
    few_images,
    heads,
    learners,
    learning_curve,
    pipeline,
    pseudo_labels,
    rankings,
    recipes,
    relation,
    relation_sources,
    source_classes,
    transport,
)
from benchmarks import features as benchmark_features
from benchmarks import identity as benchmark_identity
from benchmarks import transform as benchmark_transform
from benchmarks.measure import table_file
from tests.faults.inputs import STAGES
from tests.random_tasks import random_features, random_transform
from tests.tiny_data import write_class_folders
from utils.backbones import load_backbone
from utils.datasets import identity, load_dataset
from utils.features import Features, Task, TaskRequest, task_of_dataset
from utils.procedures.small import IMPROVED
from utils.published import distribution_mismatch


def write_features(folder) -> str:
    """A pair of small tasks as feature files, as `--PAIRS` takes it."""
    rng = np.random.default_rng(0)
    for name in ("A", "B"):
        x, y = rng.normal(size=(800, 3)), np.arange(800) % 2
        x[:, 0] += 4 * y
        np.savez(folder / f"{name}.npz", x_train=x, y_train=y, x_test=x[:60], y_test=y[:60])
    return f"features:{folder}/A.npz,features:{folder}/B.npz"


def test_recipes_prints_a_table_for_each_pair(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recipes, "PUBLISHED_RECIPE", ["--ITERATIONS", "20"])
    pair = write_features(tmp_path)
    recipes.main(["--PAIRS", pair, "--SEEDS", "1", "--RECIPE", "--ITERATIONS", "20"])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.endswith("/1")]
    assert names == list(recipes.QUANTITIES)


def values(folder, name: str) -> dict[str, list[str]]:
    """The rows of a table by their label."""
    lines = (folder / table_file(name)).read_text().splitlines()
    return {line[:34].strip(): line[34:].split() for line in lines if line[34:].strip()}


def test_rankings_says_what_few_labels_cost(tmp_path):
    write_class_folders(tmp_path / "photos", ("a", "b", "c"), 25)
    argv = ["--TRG", f"folder:{tmp_path / 'photos'}", "--SHOTS", "5", "0", "--DRAWS", "2"]
    argv += ["--MODEL", "random:lenet", "random:resnet18@32", "--RESULTS", str(tmp_path)]
    rankings.main(argv)
    rows = values(tmp_path, "rankings")
    assert len(rows["odds"]) == 2 and 0 < float(rows["odds"][0]) <= 1
    assert all(0 <= float(cell) <= 1 for name in ("covered", "right") for cell in rows[name])
    for name in ("predicted accuracy", "LogME"):  # of the last table: of two candidates
        assert set(rows[name]) <= {"-1.00", "0.00", "1.00", "nan"}, name


def test_learning_curve_counts_what_its_intervals_hold(tmp_path):
    write_class_folders(tmp_path / "photos", ("a", "b", "c"), 90)
    argv = ["--FOLDERS", str(tmp_path / "photos"), "--EMBEDDED", "--PAIRS", "--MODEL", "random:resnet18"]
    learning_curve.main([*argv, "--IMAGE_SIZE", "32", "--DRAWS", "2", "--RESULTS", str(tmp_path)])
    rows = values(tmp_path, "learning_curve")  # of all data sets, which is the one
    for factor in learning_curve.FACTORS:
        _, predicted, measured, width, held, of, count, error, *_ = rows[f"1/{factor} of them"]
        assert 0 <= int(held) <= int(count) == 2 and of == "of" and float(width) > 0
        assert abs(float(predicted) - float(measured)) <= float(error) + 0.11
    assert rows["all"][6] == "6"
    assert (
        f"photos, random:resnet18 at 32 px: {3 * 72} + {3 * 18} images"
        in (tmp_path / table_file("learning_curve")).read_text()
    )


@pytest.fixture
def few_lenet_features(trained, monkeypatch):
    """Of each task the first images alone, and no network is trained."""
    (network,) = (trained / "checkpoints" / "networks").iterdir()
    backbone = load_backbone("lenet", torch.device("cpu"), weights=network)
    request = TaskRequest(trained / "data", trained / "checkpoints" / "features", "embedded")

    def tasks(pair: str, seed: int, folder) -> list[Task]:
        found = []
        for name in pair.split(","):
            task = task_of_dataset(load_dataset(name, "embedded"), backbone, request)
            few = [Features(part.x[:800], part.y[:800]) for part in (task.train, task.test)]
            found.append(replace(task, train=few[0], test=few[1]))
        return found

    for module in (pseudo_labels, source_classes):
        monkeypatch.setattr(module, "lenet_tasks", tasks)


@pytest.mark.slow
def test_pseudo_labels_compares_ways_of_clustering(tmp_path, few_lenet_features):
    short = ["--ITERATIONS", "5", "--CERTIFICATE_STEPS", "3", "--MATCHINGS", "1", "--BATCH_SIZE", "100"]
    short += ["--CONTROLS", "19"]
    pseudo_labels.main(
        ["--PAIRS", "MNIST,FMNIST", "--SEEDS", "1", "--RESULTS", str(tmp_path), "--FLAGS", *short]
    )
    text = (tmp_path / table_file("pseudo_labels")).read_text()
    assert text.count("MNIST -> FMNIST, target") == 2
    for method in pseudo_labels.METHODS:
        assert text.count(f"\n{method}  ") == 2
    rows = values(tmp_path, "pseudo_labels")  # of the second target
    assert rows["given labels"][0] == "—" and 0.2 < float(rows["equal sizes"][0]) < 0.8


@pytest.mark.slow
def test_source_classes_compares_choices(tmp_path, few_lenet_features):
    short = ["--ITERATIONS", "5", "--CERTIFICATE_STEPS", "3", "--MATCHINGS", "1", "--BATCH_SIZE", "100"]
    short += ["--CONTROLS", "19"]
    source_classes.main(
        ["--PAIRS", "MNIST,FMNIST", "--SEEDS", "1", "--RESULTS", str(tmp_path), "--FLAGS", *short]
    )
    rows = values(tmp_path, "source_classes")
    for choice in source_classes.CHOICES:
        assert float(rows[choice][0]) > 0 and len(rows[choice]) == len(source_classes.COLUMNS)


def test_few_images_compares_predicted_with_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(few_images, "UNEQUAL", {"20 + 4": (20, 4)})
    few = ["--CLASSES", "10", "--IMAGES", "2", "--REPEATS", "3", "--RESULTS", str(tmp_path)]
    few_images.main(["--PARTS", "gaussian", "unequal", *few])
    row = values(tmp_path, "few_images_gaussian")["10 classes, 2 images each"]
    held_out, predicted, measured = map(float, row[:3])
    assert held_out < predicted and 10 < measured < 100 and row[5:7] == ["of", "9"]
    rows = values(tmp_path, "few_images_unequal")
    assert float(rows["20 + 4: accuracy"][2]) > float(rows["20 + 4: balanced"][2])


def test_transport_is_compared_with_emd(tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "SIZES", ((60, 5, 4),))
    transport.main(["--REPEATS", "1", "--SIZES", "0", "--RESULTS", str(tmp_path)])
    rows = values(tmp_path, "transport")
    for shape in transport.SHARPNESS:
        for priors in ("equal", "unequal"):
            assert abs(float(rows[f"{shape}, {priors}"][5])) < 1e-9


def test_heads_states_gap_and_constant(tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "SIZES", ((300, 5, 3, 0.2, heads.SMALL), (300, 5, 3, 0.1, heads.LARGE)))
    heads.main(["--REPEATS", "1", "--SIZES", "0", "1", "--RESULTS", str(tmp_path)])
    rows = values(tmp_path, "heads")
    for tau in (0.2, 0.1):
        row = rows[f"300 x 5 x 3, {tau}"]
        assert float(row[4]) <= 1e-3 and float(row[5]) <= 1


def test_transform_fits_the_growth_of_the_cost(tmp_path, monkeypatch):
    sizes = ((40, 4, 3), (60, 4, 3), (60, 5, 4), (80, 5, 6))
    monkeypatch.setattr(benchmark_transform, "SIZES", sizes)
    arguments = ["--ITERATIONS", "2", "--REPEATS", "1", "--SIZES", *"0123"]
    benchmark_transform.main([*arguments, "--RESULTS", str(tmp_path)])
    text = (tmp_path / table_file("transform")).read_text()
    assert "seconds an iteration with B a permutation ≈" in text
    assert text.count("fitted") == len(sizes)


def test_the_dense_formulation_is_the_same_objective(generator):
    source, target = random_features(40, 3, 4, generator), random_features(40, 3, 4, generator)
    transform = random_transform(3, 4, 4, 2.0, generator).to(torch.float64)
    tasks = [Features(part.x.double(), part.y) for part in (source, target)]
    dense = benchmark_transform.dense_mismatch(transform, *tasks, 10.0)
    sparse = distribution_mismatch(transform, *tasks, 10.0)
    torch.testing.assert_close(torch.stack(dense), torch.stack(sparse))


def test_certificate_compares_the_variants(tmp_path, monkeypatch):
    few = {"default": certificate.VARIANTS["default"], "nothing learned": {"setting": "FixedAll"}}
    monkeypatch.setattr(certificate, "VARIANTS", few)
    monkeypatch.setattr(certificate, "DEFAULT", replace(certificate.DEFAULT, steps=20))
    pair = write_features(tmp_path)
    certificate.main(["--PAIRS", pair, "--SEEDS", "1", "--RESULTS", str(tmp_path)])
    rows = values(tmp_path, "certificate")
    assert float(rows["default"][0]) < float(rows["nothing learned"][0])
    for name in few:
        certified, loss = map(float, rows[name][:2])
        assert certified >= loss
    certified, loss = map(float, rows["default"][:2])
    assert float(rows["certificate less loss"][0]) == pytest.approx(certified - loss, abs=2e-4)


@pytest.mark.slow
def test_pipeline_runs_both_procedures(tmp_path):
    source, target = write_features(tmp_path).split(",")
    pair = ["--SRC", source, "--TRG", target, "--SEEDS", "1", "--RESULTS", str(tmp_path)]
    short = ["--ITERATIONS", "5", "--CERTIFICATE_STEPS", "3", "--MATCHINGS", "1", "--CONTROLS", "19"]
    pipeline.main([*pair, "--STAGE_FLAGS", *short])
    text = (tmp_path / table_file("pipeline")).read_text()
    assert "all stages: improved" in text and text.count("transfer") == 2
    for part, bound in (("certificate", "bound_certified"), ("published", "bound_published")):
        assert text.count(f"{part}: {bound}") == text.count(f"{part}: target_loss") == 2


def test_features_compares_extraction_with_the_bare_forward_pass(tmp_path):
    sizes = ["--IMAGES", "4", "--REPEATS", "1", "--WORKERS", "0", "--CACHED", "50", "8"]
    benchmark_features.main(["--MODELS", "resnet18", *sizes, "--RESULTS", str(tmp_path)])
    bare, *rates = values(tmp_path, "features")["resnet18"]
    assert len(rates) == 6  # of both arrays and of files, each with its share
    for rate, share in zip(rates[::2], rates[1::2], strict=True):
        assert float(share.strip("(%)")) == pytest.approx(100 * float(rate) / float(bare), abs=1)
    assert "50 x 8 found in the cache" in (tmp_path / table_file("features")).read_text()


def test_identity_times_the_looks_at_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "RACY", 10**8)
    benchmark_identity.main(["--FILES", "200", "--REPEATS", "1", "--RESULTS", str(tmp_path)])
    for row in ("200 x JPEG, 2 to 4 KB", "4 x JPEG, 100 KB", "4 x PNG, 64x64, transparent"):
        cells = values(tmp_path, "identity")[row]
        assert len(cells) == 8 and all(float(cell.strip("()")) >= 0 for cell in cells)


@pytest.mark.figures
def test_relation_tells_a_task_from_turned_and_from_meaningless_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(relation, "ANGLES", (0, 90))
    monkeypatch.setattr(relation, "RUNS", 1)
    one_epoch = replace(IMPROVED, training=replace(IMPROVED.training, epochs=1))
    monkeypatch.setattr(relation_sources, "IMPROVED", one_epoch)
    short = ["--SEEDS", "0", "--CONTROLS", "19", "--RESULTS", str(tmp_path)]
    relation.main(["--PARTS", "turned", "meaningless", "--FIGURE", str(tmp_path / "turned.png"), *short])
    rows = values(tmp_path, "relation_turned")
    upright, turned = rows["turned by 0 degrees"], rows["turned by 90 degrees"]
    assert float(upright[3]) >= 0.9 and upright[-3:] == ["1", "of", "1"]
    assert float(turned[3]) <= 0.1 and turned[-3:] == ["0", "of", "1"]
    rows = values(tmp_path, "relation_meaningless")
    for label in (
        "labels shuffled in the head",
        "labels shuffled in training",
        "random linear partition",
    ):
        assert rows[label][-3:] == ["0", "of", "1"], label
    assert (tmp_path / "turned.png").stat().st_size > 10_000


def test_the_command_above_a_table_names_folders_without_their_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(relation, "DRAWS", 1)
    monkeypatch.setattr(relation, "clouds_targets", lambda options: {})
    relation.main(
        ["--PARTS", "clouds", "--FOLDERS", str(tmp_path / "cifar10"), "--RESULTS", str(tmp_path)]
    )
    first, *_ = (tmp_path / table_file("relation_clouds")).read_text().splitlines()
    assert first == "python3 -m benchmarks.relation --PARTS clouds --FOLDERS cifar10"


def test_the_campaign_notices_what_fell(tmp_path, capsys, monkeypatch):
    """As a user runs it; here a value that some flags do take stands among those that none takes."""
    monkeypatch.setattr("tests.faults.inputs.NO_VALUES", ("0.5",))
    monkeypatch.setattr("tests.faults.inputs.bad_files", list)
    stages = {name: given for name, given in STAGES.items() if name.startswith("finetune")}
    monkeypatch.setattr("tests.faults.inputs.STAGES", stages)
    monkeypatch.setattr("tests.faults.inputs.bad_combinations", list)
    monkeypatch.setattr("sys.argv", ["campaign.py", "--PARTS", "inputs", "--RESULTS", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("benchmarks.campaign", run_name="__main__")
    shown = capsys.readouterr()
    assert stop.value.code == 1 and "fell: bad input" in shown.err
    assert (tmp_path / "campaign.txt").read_text() in shown.out


def test_learners_say_what_each_costs_and_found(tmp_path, monkeypatch):
    monkeypatch.setattr(learners, "SIZES", ((200, 6, 3, 0.3),))
    learners.main(["--RESULTS", str(tmp_path)])
    rows = values(tmp_path, "learners")
    assert float(rows["Lipschitz head"][3]) <= 1e-3  # the proven gap
    assert float(rows["certificate"][2]) <= float(rows["certificate"][3])  # end, start
    assert 0 < float(rows["ridge head, source"][2]) < 1.2 and float(rows["ridge head, target"][0]) > 0
