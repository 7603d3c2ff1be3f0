"""One page of everything in results/: bounds and losses, settings, rankings, commands, provenance.

    python3 report.py
    python3 report.py --RESULTS_DIR results --OUT somewhere

Writes index.html (self-contained: opens from disk, fetches nothing) and its figures as PNG and PDF into
RESULTS_DIR/report/. What counts is the result.json in each run's folder. One that cannot be read, such a
ranking, and a line of results.jsonl whose run has no such result are named and left out.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import utils
from utils.entry import stage_entry
from utils.errors import InputError
from utils.names import REPOSITORY
from utils.options import StageParser, add_flag

STAGES = ("train", "finetune", "transfer")
NUMBERS_OF_RUNS = (
    "label_map_accuracy",
    "label_map_loss",
    "source_contribution",
    "source_contribution_p",
    "bound_published",
    "bound_certified",
    "balanced_accuracy",
    "majority_share",
)
RELATION_CAPTION = """For each pair and model: how often the source's classifier, its labels renamed, is
right on the target (labels alone), the same with its classes mixed at random (the control), and linear
fine-tuning. The contribution is the share of the loss gap between the control and fine-tuning that the
source's classes close; p says how often mixed classes do as well. Where p is above 0.05 no relation to
the target's classes is found."""
TERMS_CAPTION = """For each run: the certificate by its two terms, above the loss that it bounds and
the loss of a fine-tuned head; then the published bound by its terms, above the loss of its own
transformed classifier. The dotted line is ln K of the target: the loss of a constant prediction."""
AGREEMENT_CAPTION = """Each bound against the target loss of the same classifier, every run of every
seed. A certified bound lies on the right of the dashed line; a bound that predicts the loss lies
along it."""
AGREEMENT_NOTE = """Intervals (95 %) draw groups of seeds, and need six. Where nothing is learned
(FixedAll) bound and loss are both large, which alone makes a high correlation over all settings."""
PSEUDO_NOTE = """Clusters took the place of the target's labels: losses and bounds of these runs are
against clusters. Where the labels are known, the same run with them says how far off the estimate is."""
DECISION_CAPTION = """For each candidate the predicted accuracy of a linear probe on new images with its
95 % interval, and in how many resamples of the training images it is the best."""
RANKING_NOTE = """How well each score orders the models: correlations with fine-tuned accuracy (1 is
best), what the pick loses in accuracy (regret), and its seconds a model."""
RUNS_NOTE = """Accuracy and loss of a transfer are those of the source's classifier with its labels
renamed, its balanced accuracy (the mean over classes) is that of linear fine-tuning. A LeNet's transfer
or fine-tuning needs its training first. A command whose result is there only shows it; --OVERWRITE
computes it again. Losses of pseudo-labels are against clusters."""


def parse_options(argv: Sequence[str] | None):
    parser = StageParser(__doc__, "report.py")
    add_flag(
        parser,
        "--RESULTS_DIR",
        type=Path,
        default=REPOSITORY / "results",
        metavar="DIR",
        help="where the results are (default: results/ of the repository)",
    )
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
    results = options.RESULTS_DIR
    folder = options.OUT or results / "report"
    utils.storage.require_writable(folder, "--OUT")
    rankings = sorted((results / "rank").glob("*/ranking.json"))
    finished, damaged = utils.storage.finished_results(results)
    records = list(finished.values())
    if not records and not rankings:
        found = f" ({'; '.join(damaged)})" if damaged else ""
        raise InputError(f"{results} holds no result{found}: run a stage first")
    groups = utils.figures.group_runs(records)

    # --------------------------------------------------------------------------- figures, sections
    sections = sections_of_transfers(groups, folder) if groups else []
    for path in rankings:
        try:
            sections.append(section_of_ranking(path, folder))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            damaged.append(f"{path} is no ranking ({type(error).__name__}: {error})")
    if records:
        sections.append(("Every run", table_of_runs(records)))
        sections.append(("Where the numbers come from", provenance(records)))
    if damaged:
        sections.insert(0, ("Left out", [utils.figures.Paragraph("; ".join(damaged), warning=True)]))
    for problem in damaged:
        print(f"warning: {problem}; it is left out", file=sys.stderr)

    # ---------------------------------------------------------------------------------------- write
    pairs = {(record["source"], record["target"]) for record in records if record["target"]}
    introduction = (
        f"Runs: {len(records)}; pairs of source and target: {len(pairs)}; rankings: {len(rankings)}. "
        "Losses in nats; black lines span the standard deviation over seeds."
    )
    utils.storage.write_text(
        folder / "index.html",
        utils.figures.render_page("Task transfer analysis", introduction, sections),
    )
    print(f"page: {os.path.relpath(folder)}/index.html ({len(records)} runs; beside it the figures)")


# ---------------------------------------------------------------------------------------- the sections
Section = "tuple[str, list[utils.figures.Block]]"  # its title and what stands in it


def sections_of_transfers(groups: Sequence[Mapping], folder: Path) -> list[Section]:
    labelled = [group for group in groups if not utils.figures.is_pseudo(group)]
    sections: list[Section] = []
    if related := utils.figures.relation_groups(labelled):
        utils.figures.draw_relations(related, folder)
        figure = utils.figures.Figure(folder / "relations.png", RELATION_CAPTION)
        sections.append(
            (
                "What the sources have to do with it",
                [figure, utils.figures.Table(*utils.figures.relation_table(related), left=3)],
            )
        )
    if labelled:
        drawn = [
            utils.figures.Figure(path, TERMS_CAPTION)
            for path in utils.figures.draw_terms(labelled, folder)
        ]
        sections.append(("Bounds and losses", drawn))
    if sum(len(group["seeds"]) for group in labelled) > 2:
        utils.figures.draw_agreement(labelled, folder)
        figure = utils.figures.Figure(folder / "agreement.png", AGREEMENT_CAPTION)
        table = utils.figures.Table(*utils.figures.agreement_of_bounds(labelled), left=2)
        sections.append(
            ("Does the bound tell the loss?", [figure, utils.figures.Paragraph(AGREEMENT_NOTE), table])
        )
    if comparable := utils.figures.comparable_settings(labelled):
        utils.figures.draw_settings(comparable, folder)
        caption = "What is gained by learning more of the transform."
        sections.append(("Settings compared", [utils.figures.Figure(folder / "settings.png", caption)]))
    if len(labelled) < len(groups):
        table = utils.figures.Table(*utils.figures.pseudo_table(groups), left=3)
        sections.append(("Targets without labels", [utils.figures.Paragraph(PSEUDO_NOTE), table]))
    return sections


def section_of_ranking(path: Path, folder: Path) -> Section:
    ranking, name = utils.ranking.read_ranking(path), path.parent.name
    utils.ranking.draw_decision(ranking, folder / f"decision_{name}")
    images = (
        f"{ranking.shots} training images of each class"
        if ranking.shots
        else (f"the target's training images, at most about {ranking.samples}")
    )
    lines = [line for line in (ranking.line, ranking.more_line) if line]  # earlier versions had one
    blocks: list[utils.figures.Block] = [
        *(utils.figures.Paragraph(line[0].upper() + line[1:] + ".") for line in lines),
        utils.figures.Figure(folder / f"decision_{name}.png", DECISION_CAPTION),
        utils.figures.Table(*ranking.table()),
        utils.figures.Paragraph(
            f"Seed {ranking.seed}; scores see {images}. Accuracies: {ranking.truth or 'none'}."
        ),
    ]
    if ranking.agreement:
        utils.ranking.draw_ranking(ranking, folder / f"ranking_{name}")
        caption = "Each score, with its 95 % interval, against fine-tuned accuracy."
        blocks += [
            utils.figures.Figure(folder / f"ranking_{name}.png", caption),
            utils.figures.Paragraph(RANKING_NOTE),
        ]
    for title in ranking.agreement:
        blocks.append(utils.figures.Paragraph(f"Order against accuracy, {title}:"))
        blocks.append(utils.figures.Table(*ranking.agreement_table(title)))
    blocks.append(
        utils.figures.Paragraph("The scores with their 95 % intervals. Losses (nats): lower is better.")
    )
    blocks.append(utils.figures.Table(*utils.ranking.score_table(ranking.scores, ranking.accuracies)))
    data = [
        f"{name}: {source['origin']}, sha256 {source.get('sha256', utils.report.UNDEFINED)}"
        for name, source in ranking.data.items()
    ]
    about = [ranking.command, *data, environment_line(ranking.environment)]
    blocks.append(utils.figures.Folded("Command, data, versions", about))
    return f"Models ranked for {ranking.target}", blocks


def environment_line(environment: Mapping) -> str:
    return ", ".join(f"{name} {value}" for name, value in environment.items())


def table_of_runs(records: Sequence[Mapping]) -> list[utils.figures.Block]:
    head = [
        "stage",
        "source",
        "target",
        "model",
        "setting",
        "procedure",
        "data",
        "seed",
        "accuracy",
        "loss",
        "source contribution",
        "p",
        "published bound",
        "certificate",
        "balanced accuracy",
        "majority class",
        "command that makes the row again",
    ]

    def order(record: Mapping) -> list:
        names = (record.get(name) or "" for name in ("source", "target", "model", "setting", "variant"))
        return [STAGES.index(record["stage"]), *names, record["config"]["procedure"], record["seed"]]

    rows = []
    for record in sorted(records, key=order):
        if record["stage"] == "transfer":
            values = utils.report.quantities_of(record, None)
            numbers = [values[name] for name in NUMBERS_OF_RUNS]
        else:
            numbers = [record["test_accuracy"], record["test_loss"], None, None, None, None]
            numbers += [record.get(name) for name in NUMBERS_OF_RUNS[-2:]]
        cells = [utils.report.UNDEFINED if value is None else f"{value:.3f}" for value in numbers]
        what = [record[name] or "" for name in ("stage", "source", "target", "model")]
        what.append(" ".join(filter(None, (record["setting"], record.get("variant")))))
        origins = "/".join(dict.fromkeys(about["origin"] for about in record["data"].values()))
        what += [record["config"]["procedure"], origins, record["seed"]]
        rows.append([*what, *cells, record.get("command", utils.report.UNDEFINED)])
    return [utils.figures.Paragraph(RUNS_NOTE), utils.figures.Table(head, rows, left=7, code=1)]


def provenance(records: Sequence[Mapping]) -> list[utils.figures.Block]:
    """Return data sets with their checksums, weights, and the environments of the runs."""
    data, weights = {}, set()
    for record in records:
        for role, about in record["data"].items():
            name = record["source" if role == "source" else "target"]
            key = (name, about["origin"], about.get("sha256", utils.report.UNDEFINED))
            data[key] = (
                about.get("train", utils.report.UNDEFINED),
                about.get("test", utils.report.UNDEFINED),
            )
        network = record["config"].get("network") or {}
        weights.add((record["model"], record["source"], network.get("weights", utils.report.UNDEFINED)))
    rows = [[*key, *sizes] for key, sizes in sorted(data.items(), key=str)]
    head = ["data", "origin", "sha256 (first 16 digits)", "training samples", "test samples"]
    environments = Counter(environment_line(record["environment"]) for record in records)
    seeds = sorted({record["seed"] for record in records})
    used = [f"{model}, {source}: {digest}" for model, source, digest in sorted(weights)]
    return [
        utils.figures.Table(head, rows, left=3),
        utils.figures.Paragraph(f"Seeds: {', '.join(map(str, seeds))}."),
        utils.figures.Folded("Networks: digests of their weights", used),
        utils.figures.Folded(
            "Versions and machines", [f"{n} runs: {text}" for text, n in environments.items()]
        ),
    ]


if __name__ == "__main__":
    main()
