"""One page of everything in results.jsonl: bounds and losses, settings, rankings, commands, provenance.

    python3 report.py
    python3 report.py --RESULTS_DIR results --OUT somewhere

Writes index.html (self-contained: opens from disk, fetches nothing) and its figures as PNG and PDF into
RESULTS_DIR/report/. Of a run that was repeated the last line counts; a line that is no result is named
and left out.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.options import StageParser, add_flag, stage_entry
from utils.overview import agreement_of_bounds, draw_agreement, draw_settings, draw_terms, group_runs
from utils.page import figure, folded, page, paragraph, table
from utils.ranking import Score, agreement_table, score_table
from utils.report import draw_ranking
from utils.storage import REPOSITORY, read_records, require_writable
from utils.summary import UNDEFINED, write_text


def parse_options(argv: Sequence[str] | None):
    parser = StageParser(__doc__)
    add_flag(
        parser, "--RESULTS_DIR", type=Path, default=REPOSITORY / "results", metavar="DIR",
        help="where the results are (default: results/ of the repository)",
    )  # fmt: skip
    add_flag(
        parser,
        "--OUT",
        type=Path,
        metavar="DIR",
        help="folder of the page (default: RESULTS_DIR/report)",
    )
    return parser.parse_args(argv)


@stage_entry("report")
def main(argv: Sequence[str] | None = None) -> None:
    # ----------------------------------------------------------------------------- options, results
    options = parse_options(argv)
    folder = options.OUT or options.RESULTS_DIR / "report"
    require_writable(folder, "--OUT")
    records, damaged = read_records(options.RESULTS_DIR / "results.jsonl")
    for problem in damaged:
        print(f"warning: {problem}; it is left out", file=sys.stderr)
    groups = group_runs(records)

    # --------------------------------------------------------------------------- figures, sections
    sections = []
    if damaged:
        lines = "; ".join(damaged)
        sections.append(("Left out", paragraph(f"Lines that are no results: {lines}", "warning")))
    if groups:
        sections += sections_of_transfers(groups, folder)
    for path in sorted((options.RESULTS_DIR / "rank").glob("*/ranking.json")):
        sections.append(section_of_ranking(json.loads(path.read_text()), folder))
    sections.append(("Every run", table_of_runs(records)))
    sections.append(("Where the numbers come from", provenance(records)))

    # ---------------------------------------------------------------------------------------- write
    pairs = {(record["source"], record["target"]) for record in records if record["target"]}
    introduction = (
        f"{len(records)} runs, {len(pairs)} pairs of source and target. Losses in nats; lines and ± are "
        "the standard deviation over seeds."
    )
    write_text(folder / "index.html", page("Task transfer analysis", introduction, sections))
    print(f"page: {os.path.relpath(folder)}/index.html ({len(records)} runs; beside it the figures)")


def sections_of_transfers(groups: Sequence[Mapping], folder: Path) -> list[tuple[str, str]]:
    draw_terms(groups, folder)
    caption = (
        "The published bound as stacked terms, the certified bound (and that of the refined copy), and "
        "the losses that they bound. The dotted line is ln K of the target: the loss of a constant "
        "prediction."
    )
    sections = [("Bounds and losses", figure(folder / "terms.png", caption))]
    if len(groups) > 2:
        draw_agreement(groups, folder)
        caption = "Each bound against the target loss of the same classifier, all runs of all seeds."
        head, rows = agreement_of_bounds(groups)
        content = figure(folder / "agreement.png", caption) + table(head, rows)
        sections.append(("Does the bound tell the loss?", content))
    if len({group["setting"] for group in groups}) > 1:
        draw_settings(groups, folder)
        caption = "What is gained by learning more of the transform; lines span the seeds' deviation."
        sections.append(("Settings compared", figure(folder / "settings.png", caption)))
    return sections


def section_of_ranking(ranking: Mapping, folder: Path) -> tuple[str, str]:
    candidates = ranking["candidates"]
    scores = {
        name: {metric: Score(**score) for metric, score in about["scores"].items()}
        for name, about in candidates.items()
    }
    truth = {
        name: about["accuracy"] for name, about in candidates.items() if about["accuracy"] is not None
    }
    content = ""
    if len(truth) > 2:
        name = f"ranking_{ranking['target']}.png"
        draw_ranking(ranking["target"], scores, truth, folder / name)
        content += figure(
            folder / name, "Each score, with its 95 % interval, against fine-tuned accuracy."
        )
        found = {
            metric: {
                name: (float("nan") if cell["value"] is None else cell["value"], cell["interval"])
                for name, cell in of_one.items()
            }
            for metric, of_one in ranking["agreement"].items()
        }
        content += table(*agreement_table(scores, found))
    content += table(*score_table(scores, truth))
    return f"Models ranked for {ranking['target']}", content


def table_of_runs(records: Sequence[Mapping]) -> str:
    names = ["stage", "source", "target", "model", "setting", "seed"]
    head = ["row", *names, "accuracy", "loss", "published bound", "certified bound"]
    rows, commands = [], []
    for record in sorted(records, key=lambda r: [str(r.get(name)) for name in names]):
        setting = " ".join(filter(None, (record["setting"], record.get("variant"))))
        numbers = (
            record.get("target_accuracy", record.get("test_accuracy")),
            record.get("target_loss", record.get("test_loss")),
            record.get("bound_published"),
            record.get("bound_certified"),
        )
        cells = [UNDEFINED if value is None else f"{value:.3f}" for value in numbers]
        what = [record[name] or "" for name in names[:4]]
        rows.append([len(rows) + 1, *what, setting, str(record["seed"]), *cells])
        commands.append(f"{len(rows)}: {record.get('command', UNDEFINED)}")
    return table(head, rows, left=6) + folded("The command that makes each row again", commands)


def provenance(records: Sequence[Mapping]) -> str:
    """Data sets with their checksums, and the environments that the runs were made in."""
    data = {}
    for record in records:
        for role, about in record["data"].items():
            name = record["source" if role == "source" else "target"]
            key = (name, about.get("origin"), about.get("sha256"))
            data[key] = (about.get("train"), about.get("test"))
    rows = [[*map(str, key), *map(str, sizes)] for key, sizes in sorted(data.items(), key=str)]
    content = table(["data", "origin", "sha256", "training", "test"], rows, left=3)
    environments = {}
    for record in records:
        about = ", ".join(f"{name} {value}" for name, value in record["environment"].items())
        environments.setdefault(about, []).append(record)
    rows = [[about, len(members)] for about, members in environments.items()]
    seeds = sorted({record["seed"] for record in records})
    return (
        content
        + paragraph(f"Seeds: {', '.join(map(str, seeds))}.")
        + folded("Versions and machines", [f"{count} runs: {about}" for about, count in rows])
    )


if __name__ == "__main__":
    main()
