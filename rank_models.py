"""Which model, or which source, to transfer from: scores of each for one target, with intervals.

    python3 rank_models.py --SRC MNIST --TRG FMNIST --model lenet clip --TAU 0.2 --FINETUNE linear
    python3 rank_models.py --SRC MNIST --TRG FMNIST --model lenet clip --TAU 0.2 --TRUTH table.csv
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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scales import settings_for
from utils.backbones import LENET, check_backbone_name
from utils.candidates import measure_full, open_candidate, score_candidate
from utils.engines import InProcess, run_jobs
from utils.errors import InputError
from utils.features import check_task_name, is_feature_file, task_label
from utils.jobs import (
    FAILED,
    Job,
    Outcome,
    check_stage_flags,
    distinct_warnings,
    plan_jobs,
    stage_options,
)
from utils.options import (
    HEAD_FLAGS,
    SOURCE_HEAD_FLAGS,
    StageParser,
    add_analysis_flag,
    add_flag,
    add_many_models_flags,
    add_place_flags,
    add_procedure_flag,
    add_stage_flags,
    one_of,
    override,
    positive_integer,
    positive_number,
    seed_number,
    stage_entry,
    whole_number,
)
from utils.overview import draw_ranking
from utils.pseudo_labels import PSEUDO
from utils.ranking import agreement_table, check_truth, compare, look_up, read_truth, score_table
from utils.stage import check_options, chosen_model
from utils.storage import only_one, read_result, require_writable, write_json
from utils.summary import csv_table, markdown_table, write_text

TRUTHS = ("linear", "full")
TAU_STAGES = ("FINETUNE", "TRANSFER")
SHOWN = (
    "certificate", "loss of h", "published bound", "LogME", "LEEP", "H-score", "k-NN", "linear probe",
)  # fmt: skip


def number_of_halves(text: str) -> int:
    if (count := whole_number(text)) == 1:
        raise argparse.ArgumentTypeError("must be 0 or at least 2: one half has no spread")
    return count


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
        group, "--TAU", type=positive_number, metavar="X",
        help="Lipschitz constant of the fine-tuned heads and of the published form's (default: strength "
        "by validation, and the models' own, if it is one)",
    )  # fmt: skip
    add_analysis_flag(group, "certificate")
    add_flag(
        group, "--SAMPLES", type=positive_integer, default=2000, metavar="N",
        help="training samples of the target that the metrics see (default 2000)",
    )  # fmt: skip
    add_flag(
        group, "--RESAMPLES", type=number_of_halves, default=20, metavar="N",
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
    add_many_models_flags(parser)
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
    if options.FINETUNE == "full" and any(is_feature_file(name) for name in (*options.SRC, options.TRG)):
        raise InputError("--FINETUNE full needs images and networks: features files have neither")
    table = read_truth(options.TRUTH) if options.TRUTH else {}
    for flag in ("CHECKPOINT_DIR", "RESULTS_DIR"):
        require_writable(getattr(options, flag), f"--{flag}")

    # -------------------------------------------------------------------------------------- stages
    folder = ranking_folder(options)
    jobs = plan(options)
    check_stage_flags(jobs)
    check_comparable(jobs)
    transfers = [job for job in jobs if job.stage == "transfer"]
    if options.TRUTH:
        check_truth(table, [(job.model, task_label(job.source)) for job in transfers], options.TRUTH)
    busy = f"another run is writing to {folder}: wait for it, or give another --RESULTS_DIR"
    with only_one(folder, busy):
        outcomes = run_jobs(jobs, InProcess(None), 0, _say)

        # ---------------------------------------------------------------------------------- scores
        scores, truth, costs, networks = {}, {}, {}, {}
        failed = failures(transfers, outcomes, options.FINETUNE)
        for job in transfers:
            if job in failed:
                continue
            of_job = stage_options(job)
            check_options(of_job)
            scale = settings_for(of_job.PROCEDURE, of_job.MODEL, of_job.SRC, of_job.TRG)
            candidate = open_candidate(job, of_job, scale.deviation_floor, options.SAMPLES)
            name = candidate.name
            if options.FINETUNE == "full":
                try:
                    truth[name], costs[name] = measure_full(of_job, options.EPOCHS)
                except (InputError, OSError, RuntimeError) as error:  # images, disk, memory
                    failed[job] = f"fine-tuning: {error}"
                    continue
            elif options.FINETUNE == "linear":
                truth[name] = candidate.fine_tuned["test_accuracy"]
                costs[name] = candidate.fine_tuned["seconds"]["head"]
            elif options.TRUTH:
                truth[name] = look_up(table, candidate.model, candidate.source)
            networks[name] = candidate.network
            start = time.perf_counter()
            scores[name] = score_candidate(candidate, options.RESAMPLES, options.SEED)
            print(f"scored {name}, {time.perf_counter() - start:.1f} s", file=sys.stderr)
        for text in distinct_warnings(outcomes.values()):
            print(f"warning: {text}", file=sys.stderr)
        if not scores:
            raise InputError(f"no candidate is left: {next(iter(failed.values()))}")

        # ------------------------------------------------------------------------ report and save
        found = compare(scores, truth, options.SEED, networks) if len(truth) > 2 else {}
        records = [read_result(job.folder) for job in transfers if job not in failed]
        write_json(folder / "ranking.json", as_record(options, scores, truth, costs, found, records))
        write_text(folder / "scores.csv", csv_table(*score_table(scores, truth)))
        shown = [name for name in SHOWN if any(name in of_one for of_one in scores.values())]
        print(markdown_table(*score_table(scores, truth, shown)), end="")
        if found:
            write_text(folder / "agreement.csv", csv_table(*agreement_table(scores, found)))
            print("\n" + markdown_table(*agreement_table(scores, found)), end="")
            draw_ranking(task_label(options.TRG), scores, truth, folder / "ranking")
    if truth and not found:
        print("fewer than three candidates have no correlation: give more models or sources")
    if costs:
        mean = sum(costs.values()) / len(costs)
        print(f"fine-tuning ({options.FINETUNE}): {mean:.1f} s a model in the mean")
    print(f"result: {os.path.relpath(folder)}/ranking.json (beside it tables, with accuracies figures)")
    for job, reason in failed.items():
        print(f"failed: {job.name}: {reason}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def _say(job: Job, outcome: Outcome) -> None:
    print(f"{outcome.state} {job.name}", file=sys.stderr)


def ranking_folder(options: argparse.Namespace) -> Path:
    return options.RESULTS_DIR / "rank" / task_label(options.TRG)


def plan(options: argparse.Namespace) -> list[Job]:
    """LearnedAll for every model and source, below the ranking's own folder: runs with other flags may
    stand in results/.
    """
    own = {"TRG": [options.TRG], "SETTING": ["LearnedAll"], "SEED": [options.SEED]}
    own["RESULTS_DIR"] = ranking_folder(options)
    if options.TAU is not None:
        tau = ["--TAU", str(options.TAU)]
        own |= {f"{stage}_FLAGS": [*getattr(options, f"{stage}_FLAGS"), *tau] for stage in TAU_STAGES}
    return plan_jobs(argparse.Namespace(**{**vars(options), **own}))


def check_comparable(jobs: Sequence[Job]) -> None:
    """Raises InputError unless the published forms have one τ, the fine-tuned heads one τ or none, and
    scores may use the target's labels.
    """
    found: dict[str, dict[float | None, Job]] = {"finetune": {}, "transfer": {}}
    for job in jobs:
        if job.stage == "train":
            continue
        options = stage_options(job)
        scale = settings_for(options.PROCEDURE, chosen_model(options), options.SRC, options.TRG)
        if job.stage == "transfer":
            if options.TARGET_LABELS == PSEUDO:
                raise InputError("a ranking scores with the target's labels: no --TARGET_LABELS pseudo")
            if options.ANALYSIS == "certificate":
                continue
            settings = override(scale.source_head, SOURCE_HEAD_FLAGS, options)
        else:
            settings = override(scale.target_head, HEAD_FLAGS, options)
        found[job.stage].setdefault(settings.tau, job)
    for stage, taus in found.items():
        if len(taus) > 1:
            values = ", ".join(f"{tau} ({stage}, {job.model})" for tau, job in taus.items())
            raise InputError(
                f"heads of different τ cannot be compared: {values}; give one --TAU for all"
            )


def failures(
    transfers: Sequence[Job], outcomes: Mapping[Job, Outcome], fine_tuning: str | None
) -> dict[Job, str]:
    """Why candidates are left out: stage 3 failed, or stage 2 where its accuracy is asked for."""
    failed = {}
    for job in transfers:
        needed = (job, *(job.follows if fine_tuning == "linear" else ()))
        reasons = [outcomes[need].reason for need in needed if outcomes[need].state == FAILED]
        if reasons:
            failed[job] = reasons[0]
    return failed


def as_record(
    options: argparse.Namespace,
    scores: Mapping,
    truth: Mapping,
    costs: Mapping,
    found: Mapping,
    records: Sequence[Mapping],
) -> dict:
    """What ranking.json holds; data and environment are those of the stage-3 `records`."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    data = {record[role]: record["data"][role] for record in records for role in ("source", "target")}
    return {
        "target": task_label(options.TRG),
        "seed": options.SEED,
        "command": f"python3 rank_models.py {options.command}",
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
        "data": data,
        "environment": records[0]["environment"],
    }


if __name__ == "__main__":
    main()
