"""A whole table: every stage of SRC × TRG × model × SETTING × SEED, what cells share computed once.

    python3 sweep.py --SRC MNIST FMNIST --TRG MNIST FMNIST --SETTING LearnedAll LearnedA --SEED 0 1 2
    python3 sweep.py --SRC MNIST FMNIST --TRG MNIST FMNIST --SEED 0 1 2 --DATA embedded --JOBS 2
    python3 sweep.py --SRC imagenet_small --TRG cifar10 pets --model resnet18 clip --ENGINE ray
    python3 sweep.py --SRC MNIST --TRG FMNIST --TRANSFER_FLAGS "--BATCH_SIZE 500 --ITERATIONS 50"

The same command again computes only what is missing or failed. Each cell's result lies where the stage
scripts leave it; the summary over seeds in RESULTS_DIR/sweep/ (CSV, JSON lines, Markdown, LaTeX).
Exit status 1 if a cell failed. A Ray cluster's machines must see this repository and its folders.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

import finetune_source_model_on_target_task
import train_source_model
import transfer_source_to_target
import utils
from utils.entry import print_once, stage_entry
from utils.names import LENET
from utils.options import (
    PUBLISHED,
    RELATION,
    StageParser,
    add_analysis_flag,
    add_flag,
    add_many_models_flags,
    add_place_flags,
    add_procedure_flag,
    add_stage_flags,
    not_negative,
    number_of_threads,
    one_of,
    seed_number,
    whole,
)
from utils.procedures import LEARNED

ENGINES = ("local", "ray")
STAGES = {
    "train": train_source_model,
    "finetune": finetune_source_model_on_target_task,
    "transfer": transfer_source_to_target,
}


def parse_options(argv: Sequence[str] | None):
    parser = StageParser(__doc__, "sweep.py")
    group = parser.add_argument_group("the cells")
    add_flag(group, "--SRC", nargs="+", required=True, metavar="NAME", help="source data sets")
    add_flag(group, "--TRG", nargs="+", required=True, metavar="NAME", help="target data sets")
    add_flag(group, "--MODEL", nargs="+", default=[LENET], metavar="NAME", help="models (default lenet)")
    add_flag(
        group,
        "--SETTING",
        nargs="+",
        type=one_of(LEARNED),
        default=["LearnedAll"],
        help=f"{', '.join(LEARNED)} (default LearnedAll)",
    )
    add_flag(group, "--SEED", nargs="+", type=seed_number, default=[0], help="seeds (default 0)")
    add_procedure_flag(group)
    add_analysis_flag(group, (RELATION, PUBLISHED))
    add_stage_flags(group)

    engine = parser.add_argument_group("where they run")
    add_flag(
        engine,
        "--ENGINE",
        type=one_of(ENGINES),
        default="local",
        help="local (default): on this machine; ray: on a Ray cluster",
    )
    add_flag(engine, "--JOBS", type=whole(1, 256), help="local: processes (default 1: in this one)")
    add_flag(
        engine,
        "--CPUS",
        type=number_of_threads,
        help="threads of a task, reserved on Ray (default: local, its share of the cores; ray, 1)",
    )
    add_flag(
        engine,
        "--GPUS",
        type=not_negative,
        metavar="X",
        help="GPUs that Ray reserves for a task, also a fraction of one (default 0)",
    )
    add_flag(
        engine,
        "--RAY_ADDRESS",
        metavar="HOST:PORT",
        help="of a running cluster, or auto to find one (default: one is started here)",
    )
    add_flag(
        engine,
        "--RETRIES",
        type=whole(0, 1000),
        default=2,
        help="how often a task whose process was lost is run again (default 2)",
    )
    add_many_models_flags(parser)
    add_place_flags(parser)
    return parser.parse_args(argv)


@stage_entry("sweep")
def main(argv: Sequence[str] | None = None) -> None:
    # ------------------------------------------------------------------------------------- options
    options = parse_options(argv)
    options.SRC = _distinct(utils.features.check_task_name(name, "source") for name in options.SRC)
    options.TRG = _distinct(utils.features.check_task_name(name, "target") for name in options.TRG)
    options.MODEL = _distinct(utils.backbones.check_backbone_name(name) for name in options.MODEL)
    options.SETTING, options.SEED = _distinct(options.SETTING), _distinct(options.SEED)
    utils.stage.require_places(options)
    if options.ENGINE == "ray":  # its workers run in a folder of their own
        for flag in ("DATA_DIR", "CHECKPOINT_DIR", "RESULTS_DIR"):
            setattr(options, flag, getattr(options, flag).absolute())
        options.SRC, options.TRG = (
            [utils.features.absolute_name(name) for name in names]
            for names in (options.SRC, options.TRG)
        )
    jobs = utils.sweep.plan_jobs(options, STAGES)

    # ----------------------------------------------------------------------------------------- run
    results = options.RESULTS_DIR
    busy = f"another sweep is writing to {results}: wait for it, or give another --RESULTS_DIR"
    with utils.storage.only_one(results / "sweep", busy):
        engine = utils.sweep.choose_engine(
            options.ENGINE,
            jobs=options.JOBS,
            cpus=options.CPUS,
            gpus=options.GPUS,
            address=options.RAY_ADDRESS,
        )
        start, finished = time.perf_counter(), False
        try:
            outcomes = _run(jobs, engine, options.RETRIES)
            finished = True
        finally:
            engine.close(at_once=not finished)

        # ------------------------------------------------------------------------ report and save
        rows = utils.report.summarise(_results(jobs, outcomes), len(options.SEED))
        failed = {
            job.name: outcome.reason
            for job, outcome in outcomes.items()
            if outcome.state == utils.sweep.FAILED
        }
        print(utils.report.markdown(rows), end="")
        counts = Counter(outcome.state for outcome in outcomes.values())
        shown = ", ".join(f"{count} {state}" for state, count in counts.items())
        print(f"{len(jobs)} tasks: {shown}; {time.perf_counter() - start:.1f} s")
        for line in utils.sweep.distinct_warnings(outcomes.values()):
            print_once(line)
        for name, reason in failed.items():
            print(f"failed: {name}: {reason}", file=sys.stderr)
        utils.report.write_summary(rows, failed, results / "sweep")
    print(f"summary: {os.path.relpath(results / 'sweep')}/summary.csv (beside it .jsonl, .md, .tex)")
    if failed:
        raise SystemExit(1)


def _distinct(names) -> list:
    return list(dict.fromkeys(names))


def _run(
    jobs: Sequence[utils.sweep.Job], engine, retries: int
) -> dict[utils.sweep.Job, utils.sweep.Outcome]:
    """Run them behind a bar; without a terminal, a line for each that ends."""
    counts: Counter[str] = Counter()
    running: set[utils.sweep.Job] = set()
    with tqdm(total=len(jobs), desc="sweep", unit="task", disable=None, smoothing=0) as bar:

        def began(job: utils.sweep.Job) -> None:
            running.add(job)
            bar.set_postfix({**counts, "running": len(running)})

        def ended(job: utils.sweep.Job, outcome: utils.sweep.Outcome) -> None:
            running.discard(job)
            counts[outcome.state] += 1
            bar.set_postfix({**counts, "running": len(running)}, refresh=False)
            bar.update()
            if bar.disable or outcome.state == utils.sweep.FAILED:
                tail = f": {outcome.reason}" if outcome.reason else f", {outcome.seconds:.1f} s"
                tqdm.write(f"{outcome.state} {job.name}{tail}", file=sys.stderr)

        return utils.sweep.run_jobs(jobs, engine, retries, ended, began)


def _results(
    jobs: Sequence[utils.sweep.Job], outcomes: dict[utils.sweep.Job, utils.sweep.Outcome]
) -> list[tuple[dict, dict | None]]:
    """Return (stage-3 record, stage-2 record of the same pair) of each cell that is there."""
    results = []
    for job in jobs:
        if job.stage == "transfer" and outcomes[job].state != utils.sweep.FAILED:
            record = utils.storage.read_result(job.folder)
            if record is None:
                outcomes[job] = utils.sweep.Outcome(
                    utils.sweep.FAILED, reason="its result was damaged meanwhile"
                )
                continue
            heads = [
                utils.storage.read_result(need.folder)
                for need in job.follows
                if outcomes[need].state != utils.sweep.FAILED
            ]
            fitting = [
                h
                for h in heads
                if h and utils.report.is_fine_tuning_of(h, record["config"], record["data"])
            ]
            results.append((record, fitting[0] if fitting else None))
    return results


if __name__ == "__main__":
    main()
