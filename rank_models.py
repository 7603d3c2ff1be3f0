"""Which model to take for a target: one line to act on, and every score of each candidate.

    python3 rank_models.py --TRG folder:photos --model efficientnet_lite0@96 efficientnet_lite2@128
    python3 rank_models.py --TRG folder:photos --model 'timm:resnet*.tv_in1k' clip --SHOTS 10
    python3 rank_models.py --TRG pets --model resnet18 resnet50 clip --SRC imagenet_small
    python3 rank_models.py --TRG FMNIST --model lenet random:lenet --SRC MNIST --FINETUNE linear
    python3 rank_models.py --TRG folder:photos --model resnet18 clip --TRUTH accuracies.csv
    python3 rank_models.py --TRG 'features:features_of_pets/*.npz'
    python3 rank_models.py --SCORES scores.csv --TRUTH accuracies.csv

The target's training images decide: how well a linear probe does on those that it was not fitted to,
the same ones for all candidates. A source adds the certificate, LEEP and NCE. The test images serve
only to measure accuracies (--FINETUNE) that the scores are compared with; those of an earlier
experiment come from a table (--TRUTH: CSV with model, accuracy and, if need be, source and target).
Results: RESULTS_DIR/rank/TRG/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import train_source_model
import utils
from utils.entry import print_once, stage_entry
from utils.errors import InputError
from utils.names import ACCURACY, FINE_TUNINGS, LENET, METRICS
from utils.options import (
    StageParser,
    add_flag,
    add_labels_flag,
    add_many_models_flags,
    add_place_flags,
    add_procedure_flag,
    add_stage_flags,
    add_threads_flag,
    one_of,
    seed_number,
    whole,
)


def parse_options(argv: Sequence[str] | None):
    parser = StageParser(__doc__, "rank_models.py")
    group = parser.add_argument_group("what is ranked")
    add_flag(
        group,
        "--TRG",
        nargs="+",
        default=[],
        metavar="NAME",
        help="target data set; or its features, a features:FILE.npz for each network: several of them, "
        "'features:PATTERN' or features:FOLDER",
    )
    add_labels_flag(group, "target")
    add_flag(
        group,
        "--MODEL",
        nargs="+",
        metavar="NAME",
        help="models: NAME or NAME@PIXELS; timm:PATTERN for all that timm has weights for; random:lenet "
        "and random:TIMM_NAME are controls (default with a source: lenet)",
    )
    add_flag(
        group,
        "--SRC",
        nargs="+",
        default=[],
        metavar="NAME",
        help="source data sets, for the relation, the certificate, LEEP and NCE, and to train LeNets on",
    )
    add_flag(
        group,
        "--MOST_MODELS",
        type=whole(1, 10_000),
        default=20,
        help="how many models a pattern may stand for (default 20)",
    )
    add_flag(group, "--SEED", type=seed_number, default=0, help="of every draw (default 0)")
    add_procedure_flag(group)
    add_stage_flags(group, ["train"])
    data = parser.add_argument_group("what the scores see")
    shots = "only N training images of each class, at least 2"
    add_flag(data, "--SHOTS", type=whole(2), help=shots)
    add_flag(
        data,
        "--SAMPLES",
        type=whole(),
        default=10_000,
        help="at most about N training images, of each class its share (default 10000)",
    )
    add_flag(
        data,
        "--RESAMPLES",
        type=whole(1, 100_000),
        default=2000,
        help="draws of the images that say how sure the choice is (default 2000)",
    )
    add_flag(
        data,
        "--METRIC",
        type=one_of(METRICS),
        default=ACCURACY,
        help="by which the pick is made: accuracy (default), or balanced: the mean over classes of the "
        "share right, every class alike",
    )
    add_truth_flags(parser)
    add_many_models_flags(parser)
    add_place_flags(parser)
    add_threads_flag(parser)
    return parser.parse_args(argv)


def add_truth_flags(parser: StageParser) -> None:
    truth = parser.add_argument_group("accuracies to compare with")
    add_flag(
        truth,
        "--TRUTH",
        type=Path,
        metavar="FILE",
        help="CSV: model, accuracy and, if need be, source and target",
    )
    add_flag(
        truth,
        "--FINETUNE",
        type=one_of(FINE_TUNINGS),
        metavar="HOW",
        help="measure them on the test split: linear (the probe) or full (all weights, --EPOCHS)",
    )
    epochs = "of --FINETUNE full (default 3)"
    add_flag(truth, "--EPOCHS", type=whole(), default=3, help=epochs)
    add_flag(
        truth,
        "--SCORES",
        type=Path,
        metavar="FILE",
        help="compare scores that others computed with --TRUTH: CSV with model, target and a column for "
        "each score, larger better; nothing else is computed",
    )


@stage_entry("rank_models")
def main(argv: Sequence[str] | None = None) -> None:
    # ------------------------------------------------------------------------------------- options
    options = parse_options(argv)
    if utils.distributed.rank() > 0:  # one process ranks
        return
    if options.CPUS:
        utils.device.use_threads(options.CPUS)
    if options.SCORES:
        return compare_published(options)
    comparison = comparison_of(options)
    utils.stage.require_places(options)
    print(f"{len(comparison.entries)} candidates: {', '.join(comparison.entries)}", file=sys.stderr)

    # -------------------------------------------------------------------- scores, decision, report, save
    folder = options.RESULTS_DIR / "rank" / comparison.slug
    busy = f"another run is writing to {folder}: wait for it, or give another --RESULTS_DIR"
    with utils.storage.only_one(folder, busy):
        ranking = utils.ranking.rank_entries(comparison, failed=train_lenets(comparison, options))
        ranking = replace(ranking, command=options.command)
        table = ranking.table()
        print(f"{ranking.line}\n{ranking.more_line}\n\n{utils.report.markdown_table(*table)}", end="")
        utils.near_copies.warn_of_near_copies(ranking.near_copies)
        utils.ranking.warn_of_another(folder, ranking)
        save(ranking, folder, options)
    print(f"result: {os.path.relpath(folder)}/ranking.json (beside it tables and figures)")
    for name, reason in ranking.failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if ranking.failed:
        raise SystemExit(1)


def comparison_of(options: argparse.Namespace) -> utils.ranking.Comparison:
    """Read what the options ask for, checked."""
    same = ("SHOTS", "SAMPLES", "RESAMPLES", "METRIC", "SEED", "EPOCHS", "OVERWRITE", "TRUTH")
    same += ("MOST_MODELS", "LABELS", "PROCEDURE", "DEVICE")
    settings = utils.ranking.RankingSettings(
        **{name.lower(): getattr(options, name) for name in same},
        fine_tuning=options.FINETUNE,
        network=utils.stage.network_spec(options, LENET),
        tasks=utils.stage.task_request(options),
    )
    return utils.ranking.Comparison.of(options.TRG, options.MODEL or (), options.SRC, settings)


def train_lenets(comparison: utils.ranking.Comparison, options: argparse.Namespace) -> dict[str, str]:
    """Run stage 1 where a LeNet is a candidate, and say why those failed whose network is missing."""
    lenets = {
        name: entry.source
        for name, entry in comparison.entries.items()
        if entry.model == LENET and entry.source and not utils.features.is_feature_file(entry.source)
    }
    jobs = utils.sweep.training_jobs(options, list(dict.fromkeys(lenets.values())), train_source_model)
    outcomes = utils.sweep.run_jobs(
        jobs,
        utils.sweep.InProcess(None),
        0,
        lambda job, outcome: print(f"{outcome.state} {job.name}", file=sys.stderr),
    )
    for line in utils.sweep.distinct_warnings(outcomes.values()):
        print_once(line)
    failed = {
        job.source: outcomes[job].reason for job in jobs if outcomes[job].state == utils.sweep.FAILED
    }
    return {name: failed[source] for name, source in lenets.items() if source in failed}


# ------------------------------------------------------------------------------------- report and save
def save(ranking: utils.ranking.Ranking, folder: Path, options: argparse.Namespace) -> None:
    """Write the folder of a ranking, and print how well each score orders the candidates."""
    truth = f"accuracy after {options.FINETUNE} fine-tuning"
    if options.TRUTH:
        truth = f"the accuracies of {options.TRUTH.name}"
    with utils.storage.replace_files(folder) as new:
        utils.ranking.write_ranking(new, ranking)
        utils.storage.write_text(
            new / "scores.csv",
            utils.report.csv_table(*utils.ranking.score_table(ranking.scores, ranking.accuracies)),
        )
        utils.ranking.draw_decision(ranking, new / "decision")
        for title in ranking.agreement:
            table = ranking.agreement_table(title)
            utils.storage.write_text(
                new / f"agreement_{title.replace(' ', '_')}.csv", utils.report.csv_table(*table)
            )
            print(f"\norder against {truth}, {title}\n\n{utils.report.markdown_table(*table)}", end="")
        if ranking.agreement:
            utils.ranking.draw_ranking(ranking, new / "ranking")
    if ranking.accuracies and not ranking.agreement:
        print("fewer than three candidates have no correlation: give more models or sources")
    if options.FINETUNE:
        mean = statistics.fmean(one.fine_tuning_seconds for one in ranking.standings.values())
        print(f"fine-tuning ({options.FINETUNE}): {mean:.1f} s a model in the mean")


# ------------------------------------------------------------------------- scores that others computed
def compare_published(options: argparse.Namespace) -> None:
    """Print the weighted Kendall correlations of a table of scores with a table of accuracies, in both
    of the conventions that papers use.
    """
    if not options.TRUTH:
        raise InputError("--SCORES are compared with accuracies: give --TRUTH")
    scores = utils.ranking.read_scores(options.SCORES)
    accuracies = utils.ranking.read_truth(options.TRUTH, for_order=True).by_target()
    common = [table.get(t, {}).keys() & accuracies[t] for table in scores.values() for t in accuracies]
    if not any(len(models) > 2 for models in common):
        raise InputError(
            f"{options.SCORES} and {options.TRUTH} have no three models of one target in common"
        )
    folder = options.RESULTS_DIR / "rank" / "published"
    utils.storage.require_writable(folder, "--RESULTS_DIR")
    for measure in (utils.agreement.BY_BOTH, utils.agreement.BY_ACCURACY):
        table = utils.ranking.published_agreement(scores, accuracies, measure)
        utils.storage.write_text(
            folder / f"{measure.replace(' ', '_')}.csv", utils.report.csv_table(*table)
        )
        print(f"{utils.report.markdown_table(*table)}")
    print(f"result: {os.path.relpath(folder)}/")


if __name__ == "__main__":
    main()
