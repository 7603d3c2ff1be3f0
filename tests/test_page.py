"""The report over many runs: what is grouped, what the page holds, and that it needs nothing else."""

import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import rank_models
import report
import sweep
import transfer_source_to_target as stage_3
from tests.conftest import places, write_feature_files
from utils.figures import (
    GROUPS_A_FIGURE,
    Paragraph,
    Table,
    agreement_of_bounds,
    draw_terms,
    group_runs,
    render_page,
)
from utils.storage import read_records

SHORT = "--ITERATIONS 5 --BATCH_SIZE 30 --BOOTSTRAP 5 --CERTIFICATE_STEPS 3 --MATCHINGS 1 --CONTROLS 19"
RELATIONS = "What the sources have to do with it"
ALL_PARTS = ("--ANALYSIS", "relation", "published", "certificate")


@pytest.fixture
def swept(made_once, tmp_path):
    """A sweep's results of two pairs, two settings, two seeds, to do with as one likes."""
    folder = made_once("swept", run_sweep)
    shutil.copytree(folder / "results", tmp_path / "results")
    return tmp_path / "results"


def run_sweep(folder: Path) -> None:
    files = write_feature_files(folder)
    cells = ["--SRC", *files, "--TRG", *files, "--SEED", "0", "1"]
    settings = ["--SETTING", "FixedAll", "LearnedAll"]
    sweep.main([*cells, *settings, *ALL_PARTS, "--TRANSFER_FLAGS", SHORT, *places(folder)])


class Page(HTMLParser):
    """Headings, addresses and the rows of tables; elements must be closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.headings, self.addresses, self.rows = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_runs_are_grouped_by_all_but_their_seed(swept):
    records, _ = read_records(swept / "results.jsonl")
    groups = group_runs(records)
    assert [group["setting"] for group in groups] == ["LearnedAll", "FixedAll"] * 2
    for group in groups:
        members = [
            record
            for record in records
            if record["stage"] == "transfer"
            and all(record[name] == group[name] for name in ("source", "target", "setting"))
        ]
        for name, part in (("target_loss", "certificate"), ("published_target_loss", "published")):
            assert sorted(group["values"][name]) == sorted(r[part]["target_loss"] for r in members)
        tuned = [r for r in records if r["stage"] == "finetune" and r["target"] == group["target"]]
        assert sorted(group["values"]["fine_tuned_loss"]) == sorted(r["test_loss"] for r in tuned)
        assert group["seeds"] == [0, 1] and group["label"].endswith("\n2 seeds")
    _, rows = agreement_of_bounds(groups)
    numbers = {(title, bound): int(number) for title, bound, *_, number in rows}
    for bound, names in (
        ("certificate", ("bound_certified", "target_loss")),
        ("published bound", ("bound_published", "published_target_loss")),
    ):
        assert numbers["all", bound] == 8
        assert numbers["all but FixedAll", bound] == 4
        assert numbers["features-source → features-target, features", bound] == 4
        bounds, losses = zip(
            *(point for group in groups for point in _points(group, *names)), strict=True
        )
        (row,) = [row for row in rows if row[:2] == ["all", bound]]
        assert row[2] == f"{np.corrcoef(bounds, losses)[0, 1]:.2f}"  # four groups: no interval


def _points(group, bound, loss):
    return zip(group["values"][bound], group["values"][loss], strict=True)


def test_runs_with_other_settings_are_no_seeds_of_one_group(swept):
    records, _ = read_records(swept / "results.jsonl")
    (changed, *_) = [r for r in records if r["stage"] == "transfer" and r["seed"] == 1]
    changed["config"]["transform"]["iterations"] = 7
    head = next(r for r in records if r["stage"] == "finetune" and r["target"] == changed["target"])
    head["test_loss"], head["config"]["head"]["tau"] = 99.0, 9.0  # of a strength of its own
    groups = group_runs(records)
    assert len(groups) == 5
    labels = [group["label"] for group in groups if len(group["seeds"]) == 1]
    assert sorted(label.rpartition("\n")[2] for label in labels) == [
        "iterations 5, seed 0",
        "iterations 7, seed 1",
    ]
    assert _fine_tuned_losses(groups).count(99.0) == 2
    # One fitted to other data is not the loss that these bounds are beside: the certificate's head is.
    head["data"]["target"]["sha256"] = "0" * 64
    losses = _fine_tuned_losses(group_runs(records))
    transfers = [r for r in records if r["stage"] == "transfer" and r["target"] == head["target"]]
    assert 99.0 not in losses and len(losses) == 8
    assert {r["relation"]["fine_tuned_loss"] for r in transfers} <= set(losses)
    for record in transfers:
        record["certificate"] = record["relation"] = None
    assert _fine_tuned_losses(group_runs(records)).count(None) == 2


def _fine_tuned_losses(groups):
    return [value for group in groups for value in group["values"]["fine_tuned_loss"]]


def test_runs_with_pseudo_labels_stand_apart(tmp_path, feature_files):
    base = ["--SRC", feature_files[0], "--TRG", feature_files[1], *SHORT.split(), *places(tmp_path)]
    stage_3.main(base)
    stage_3.main([*base, "--TARGET_LABELS", "pseudo"])
    stage_3.main([*base, "--TARGET_LABELS", "pseudo", "--SOURCE_CLASSES", "2"])
    report.main(["--RESULTS_DIR", str(tmp_path / "results")])
    page = Page((tmp_path / "results" / "report" / "index.html").read_text())
    assert page.headings[:3] == [RELATIONS, "Bounds and losses", "Targets without labels"]
    records, _ = read_records(tmp_path / "results" / "results.jsonl")
    of_variant = {record["variant"]: record for record in records}
    for title, part, name in (
        ("certificate", "certificate", "bound_certified"),
        ("published bound", "published", "bound_published"),
    ):
        rows = [row for row in page.rows if row[2:3] == [title]]
        given, other = (f"{of_variant[v][part][name]:.3f}" for v in (None, "pseudo-labels"))
        assert sorted(row[1] for row in rows) == ["100%", "100%"]
        compared = [row for row in rows if row[4] != "—"]  # the run on two classes has no labelled twin
        assert [row[3:5] for row in compared] == [[other, given]]
    (two_classes,) = [row for row in page.rows if row[2:3] == ["certificate"] and row[4] == "—"]
    assert two_classes[3] == "—"  # two source classes cannot stand for three clusters


@pytest.mark.figures
@pytest.mark.usefixtures("quick_certificates")
def test_the_page_holds_everything_and_fetches_nothing(swept, tmp_path, feature_files, capsys):
    target = ["--TRG", feature_files[1], "--RESAMPLES", "30"]
    rank_models.main(["--SRC", feature_files[0], *target, *places(tmp_path)])
    with (swept / "results.jsonl").open("a") as file:
        file.write('{"stage": "trai\n')
    capsys.readouterr()
    report.main(["--RESULTS_DIR", str(swept)])
    shown = capsys.readouterr()
    assert "line 13 is no result" in shown.err and "12 runs" in shown.out
    folder = swept / "report"
    text = (folder / "index.html").read_text()
    page = Page(text)
    assert page.headings == [
        "Left out",
        RELATIONS,
        "Bounds and losses",
        "Does the bound tell the loss?",
        "Settings compared",
        "Models ranked for features-target",
        "Every run",
        "Where the numbers come from",
    ]
    assert {address[:22] for address in page.addresses} == {"data:image/png;base64,"}
    assert not re.search(r"https?://|<script|@import|url\(", text)
    for name in ("relations", "terms", "agreement", "settings"):
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (folder / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
    records, _ = read_records(swept / "results.jsonl")
    transfers = [r for r in records if r["stage"] == "transfer"]
    for column, part, name in (
        (8, "relation", "label_map_accuracy"),
        (11, "relation", "source_contribution_p"),
        (12, "published", "bound_published"),
        (13, "certificate", "bound_certified"),
    ):
        shown = {row[column] for row in page.rows if row[0] == "transfer"}
        assert {f"{r[part][name]:.3f}" for r in transfers} <= shown

    # The same results make the same page.
    report.main(["--RESULTS_DIR", str(swept), "--OUT", str(tmp_path / "again")])
    assert (tmp_path / "again" / "index.html").read_text() == text
    assert (tmp_path / "again" / "terms.pdf").read_bytes() == (folder / "terms.pdf").read_bytes()


def test_the_command_of_a_row_makes_it_again(swept, tmp_path):
    records, _ = read_records(swept / "results.jsonl")
    record = next(r for r in records if r["stage"] == "transfer" and r["setting"] == "LearnedAll")
    python, script, *argv = shlex.split(record["command"])
    assert (python, script) == ("python3", "transfer_source_to_target.py")
    stage_3.main([*argv, *places(tmp_path / "again")])
    lines = (tmp_path / "again" / "results" / "results.jsonl").read_text().splitlines()
    (again,) = map(json.loads, lines)
    for found in (record, again):
        del found["seconds"], found["environment"]
        found.pop("sha256", None)  # read_records checks and drops it
    assert again == record


def test_names_cannot_break_the_page():
    cells = [["<b>", "&"], ["</td><script>", '"']]
    shown = Page(
        render_page("<i>", "<p>", [("</h2>", [Table(cells[0], cells[1:]), Paragraph("<script>")])])
    )
    assert shown.rows == cells and shown.headings == ["</h2>"]


def test_no_results_is_said_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(["--RESULTS_DIR", str(tmp_path)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} holds no result: run a stage first" in line
    assert not (tmp_path / "report").exists()
    (tmp_path / "results.jsonl").write_text('{"stage": "tr')
    with pytest.raises(SystemExit) as stop:
        report.main(["--RESULTS_DIR", str(tmp_path)])
    assert stop.value.code == 2
    assert "holds no result (" in (told := capsys.readouterr().err) and "line 1 is no result" in told


def test_what_is_no_result_is_named_and_left_out(swept, capsys):
    """Records and rankings of another version, or edited by hand."""
    path = swept / "results.jsonl"
    good = path.read_text().splitlines()
    record = json.loads(good[-1])
    bad = [{**record, "seed": "0"}, {**record, "data": {"x": {}}}]
    for part, name in (("published", "bound_published"), ("certificate", "certified_transport")):
        bad.append({**record, part: {**record[part], name: "high"}})
    for part, name in (("published", "distribution_mismatch"), ("certificate", "bound_certified")):
        bad.append({**record, part: {k: v for k, v in record[part].items() if k != name}})
    bad += [{k: v for k, v in record.items() if k != name} for name in ("certificate", "data")]
    path.write_text("\n".join([*good, *map(json.dumps, bad)]) + "\n")
    for name, text in (("a", "{"), ("b", "{}"), ("c", "[]")):
        (swept / "rank" / name).mkdir(parents=True)
        (swept / "rank" / name / "ranking.json").write_text(text)
    report.main(["--RESULTS_DIR", str(swept)])
    shown = capsys.readouterr()
    assert "12 runs" in shown.out
    assert shown.err.count("is no result") == 8 and shown.err.count("is no ranking") == 3
    unknown = {**record, "setting": "LearnedNothing", "variant": "of my own"}
    path.write_text("\n".join([*good, json.dumps(unknown)]) + "\n")
    report.main(["--RESULTS_DIR", str(swept)])


def test_many_groups_take_several_figures(swept):
    records, _ = read_records(swept / "results.jsonl")
    template = next(record for record in records if record["stage"] == "transfer")
    many = [{**template, "source": f"S{k}"} for k in range(GROUPS_A_FIGURE + 1)]
    paths = draw_terms(group_runs(many), swept)
    assert [path.name for path in paths] == ["terms.png", "terms_2.png"]
