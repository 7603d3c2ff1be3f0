"""Which model, or which source, to transfer from: scores of each for one target, with intervals.

    python3 rank_models.py --SRC MNIST --TRG FMNIST --model lenet clip random:lenet --FINETUNE linear
    python3 rank_models.py --SRC MNIST --TRG FMNIST --model lenet clip random:lenet --TRUTH table.csv
    python3 rank_models.py --SRC MNIST USPS --TRG FMNIST --FINETUNE full --EPOCHS 3

Runs the stages that each candidate (a model with a source) needs, then the metrics of
utils/transferability.py on the target's training features. With fine-tuned accuracies, measured or from
a table (CSV: model, accuracy and, where a model has several sources, source), it says how well each
score orders the candidates. Results: RESULTS_DIR/rank/TRG/.
"""

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scales import settings_for
from utils.backbones import LENET, check_backbone_name
from utils.candidates import measure_full, open_candidate, score_candidate
from utils.engines import InProcess, run_jobs
from utils.errors import InputError
from utils.features import check_task_name, task_label
from utils.jobs import FAILED, Job, Outcome, check_stage_flags, plan_jobs, stage_options
from utils.options import (
    SOURCE_HEAD_FLAGS,
    StageParser,
    add_flag,
    add_image_flags,
    add_place_flags,
    add_procedure_flag,
    add_stage_flags,
    not_negative,
    one_of,
    override,
    positive_integer,
    seed_number,
    stage_entry,
    whole_number,
)
from utils.ranking import agreement_table, check_truth, compare, look_up, read_truth, score_table
from utils.report import draw_ranking
from utils.stage import check_options
from utils.storage import only_one, require_writable, write_json
from utils.summary import csv_table, markdown_table, write_text

TRUTHS = ("linear", "full")
SHOWN = ("bound_published", "bound_certified", "LogME", "LEEP", "H-score", "k-NN", "linear probe")


def parse_options(argv: Sequence[str] | None):
    parser = StageParser(__doc__)
    group = parser.add_argument_group("what is ranked")
    add_flag(group, "--TRG", required=True, metavar="NAME", help="target data set")
    add_flag(group, "--SRC", nargs="+", required=True, metavar="NAME", help="source data sets")
    add_flag(
        group, "--MODEL", nargs="+", default=[LENET], metavar="NAME",
        help="models (default lenet); random:lenet and random:TIMM_NAME are controls",
    )  # fmt: skip
    add_flag(group, "--SEED", type=seed_number, default=0, metavar="N", help="of every draw (default 0)")
    add_procedure_flag(group)
    add_stage_flags(group)
    add_flag(
        group, "--SAMPLES", type=positive_integer, default=2000, metavar="N",
        help="training samples of the target that the metrics see (default 2000)",
    )  # fmt: skip
    add_flag(
        group, "--RESAMPLES", type=whole_number, default=20, metavar="N",
        help="halves of the samples for each score's interval (default 20); 0 turns intervals off",
    )  # fmt: skip
    truth = parser.add_argument_group("fine-tuned accuracies to compare with")
    add_flag(
        truth, "--TRUTH", type=Path, metavar="FILE", help="CSV: model, accuracy and, if need be, source"
    )
    add_flag(
        truth, "--FINETUNE", type=one_of(TRUTHS), metavar="HOW",
        help="measure them: linear (stage 2) or full (all weights, --EPOCHS)",
    )  # fmt: skip
    add_flag(
        truth, "--EPOCHS", type=positive_integer, default=3, metavar="N",
        help="of --FINETUNE full (default 3)",
    )  # fmt: skip
    images = parser.add_argument_group("images")
    add_image_flags(images)
    add_flag(images, "--EPS", type=not_negative, metavar="X", help="ε of the robust models' training")
    add_place_flags(parser)
    return parser.parse_args(argv)


@stage_entry("rank_models")
def main(argv: Sequence[str] | None = None) -> None:
    # ------------------------------------------------------------------------------------- options
    options = parse_options(argv)
    if options.TRUTH and options.FINETUNE:
        raise InputError("--TRUTH gives the accuracies that --FINETUNE would measure: give one of them")
    options.SRC = list(dict.fromkeys(check_task_name(name, "source") for name in options.SRC))
    options.MODEL = list(dict.fromkeys(check_backbone_name(name) for name in options.MODEL))
    options.TRG = check_task_name(options.TRG, "target")
    table = read_truth(options.TRUTH) if options.TRUTH else []
    for flag in ("CHECKPOINT_DIR", "RESULTS_DIR"):
        require_writable(getattr(options, flag), f"--{flag}")

    # -------------------------------------------------------------------------------------- stages
    jobs = plan(options)
    check_stage_flags(jobs)
    if any(not job.follows for job in jobs if job.stage == "transfer"):
        raise InputError("scores need the target's labels: a ranking takes no --TARGET_CLASSES")
    transfers = [job for job in jobs if job.stage == "transfer"]
    if options.TRUTH:
        check_truth(table, [(job.model, task_label(job.source)) for job in transfers], options.TRUTH)
    results = options.RESULTS_DIR
    busy = f"another run is writing to {results}: wait for it, or give another --RESULTS_DIR"
    with only_one(results / "sweep", busy):
        outcomes = run_jobs(jobs, InProcess(None), 0, _say)
    failed = {job for job in transfers if outcomes[job].state == FAILED}
    if len(failed) == len(transfers):
        raise InputError(f"no candidate is left: {outcomes[transfers[0]].reason}")

    # -------------------------------------------------------------------------------------- scores
    scores, truth, costs = {}, {}, {}
    for job in transfers:
        if job in failed:
            continue
        of_job = stage_options(job)
        check_options(of_job)
        scale = settings_for(of_job.PROCEDURE, of_job.MODEL, of_job.SRC, of_job.TRG)
        head_settings = override(scale.source_head, SOURCE_HEAD_FLAGS, of_job)
        candidate = open_candidate(job, of_job, head_settings, scale.deviation_floor, options.SAMPLES)
        name = candidate.name
        scores[name] = score_candidate(candidate, options.RESAMPLES, options.SEED)
        if options.TRUTH:
            truth[name] = look_up(table, candidate.model, candidate.source)
        elif options.FINETUNE == "linear":
            truth[name] = candidate.fine_tuned["test_accuracy"]
            costs[name] = candidate.fine_tuned["seconds"]["head"]
        elif options.FINETUNE == "full":
            truth[name], costs[name] = measure_full(of_job, options.EPOCHS)

    # ---------------------------------------------------------------------------- report and save
    found = compare(scores, truth, options.SEED) if len(truth) > 2 else {}
    folder = results / "rank" / task_label(options.TRG)
    write_json(folder / "ranking.json", as_record(options, scores, truth, costs, found))
    write_text(folder / "scores.csv", csv_table(*score_table(scores, truth)))
    shown = [name for name in SHOWN if any(name in of_one for of_one in scores.values())]
    print(markdown_table(*score_table(scores, truth, shown)), end="")
    if found:
        write_text(folder / "agreement.csv", csv_table(*agreement_table(scores, found)))
        print("\n" + markdown_table(*agreement_table(scores, found)), end="")
        draw_ranking(task_label(options.TRG), scores, truth, folder / "ranking.png")
    elif truth:
        print("fewer than three candidates have no correlation: give more models or sources")
    if costs:
        mean = sum(costs.values()) / len(costs)
        print(f"fine-tuning ({options.FINETUNE}): {mean:.1f} s a model in the mean")
    print(
        f"result: {os.path.relpath(folder)}/ranking.json (beside it .csv tables, with truth ranking.png)"
    )
    if failed:
        raise SystemExit(1)


def _say(job: Job, outcome: Outcome) -> None:
    tail = f": {outcome.reason}" if outcome.reason else ""
    print(f"{outcome.state} {job.name}{tail}", file=sys.stderr)


def plan(options: argparse.Namespace) -> list[Job]:
    """LearnedAll for every model and source."""
    lists = {"TRG": [options.TRG], "SETTING": ["LearnedAll"], "SEED": [options.SEED]}
    return plan_jobs(argparse.Namespace(**{**vars(options), **lists}))


def as_record(
    options: argparse.Namespace, scores: Mapping, truth: Mapping, costs: Mapping, found: Mapping
) -> dict:
    """What ranking.json holds."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "target": task_label(options.TRG),
        "seed": options.SEED,
        "samples": options.SAMPLES,
        "truth": str(options.TRUTH) if options.TRUTH else options.FINETUNE,
        "candidates": {
            candidate: {
                "accuracy": truth.get(candidate),
                "fine_tuning_seconds": costs.get(candidate),
                "scores": {name: vars(score) for name, score in of_one.items()},
            }
            for candidate, of_one in scores.items()
        },
        "agreement": {
            metric: {
                name: {"value": number(value), "interval": limits}
                for name, (value, limits) in of_one.items()
            }
            for metric, of_one in found.items()
        },
    }


if __name__ == "__main__":
    main()
