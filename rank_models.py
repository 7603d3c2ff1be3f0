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

import argparse
import contextlib
import itertools
import math
import os
import sys
import time
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import train_source_model
from scales import settings_for
from utils import distributed
from utils.backbones import LENET, ROBUST_PREFIX, backbone_slug, expand_pattern
from utils.device import choose_device, use_threads
from utils.entry import stage_entry, tell_once
from utils.errors import InputError
from utils.features import (
    HEAD,
    check_task_name,
    feature_path,
    is_feature_file,
    require_same_labels,
    same_images,
    task_slug,
)
from utils.learning_curve import LearningCurve, learning_curve
from utils.linear_head import ValidatedRidge
from utils.near_copies import report_near_copies, warn_of_near_copies
from utils.options import (
    StageParser,
    add_flag,
    add_flags_of_stage,
    add_labels_flag,
    add_many_models_flags,
    add_place_flags,
    add_procedure_flag,
    add_threads_flag,
    one_of,
    seed_number,
    whole,
)
from utils.ranking import (
    ACCURACY,
    BALANCED,
    ELSEWHERE,
    METRICS,
    PREDICTED_BY,
    Candidate,
    Decision,
    Entry,
    Facts,
    Prediction,
    Score,
    Scored,
    Truth,
    agreement_table,
    candidate_table,
    compare,
    consensus,
    consensus_of,
    decide,
    draw_decision,
    draw_ranking,
    files_of_target,
    folder_of_files,
    mean_rank_elsewhere,
    measure_full,
    more_or_another,
    open_candidate,
    published_agreement,
    read_scores,
    read_truth,
    score_candidate,
    score_table,
)
from utils.relation import SIGNIFICANT
from utils.report import QUANTITIES, csv_table, markdown_table
from utils.stage import require_places
from utils.statistics import BY_ACCURACY, BY_BOTH
from utils.storage import (
    environment,
    named_data,
    only_one,
    read_json,
    replace_files,
    require_writable,
    staged,
    write_json,
    write_text,
)
from utils.sweep import (
    FAILED,
    InProcess,
    Job,
    Outcome,
    distinct_warnings,
    run_jobs,
    training_jobs,
)

TRUTHS = ("linear", "full")
SOURCE_P, MAP_LOSS = QUANTITIES["source_contribution_p"], QUANTITIES["label_map_loss"]
EVERYONE, WITHOUT_CONTROLS = "all candidates", "without random controls"


def parse_options(argv: Sequence[str] | None):
    parser = StageParser(__doc__, "rank_models.py")
    group = parser.add_argument_group("what is ranked")
    add_flag(
        group, "--TRG", nargs="+", default=[], metavar="NAME",
        help="target data set; or its features, a features:FILE.npz for each network: several of them, "
        "'features:PATTERN' or features:FOLDER",
    )  # fmt: skip
    add_labels_flag(group, "target")
    add_flag(
        group, "--MODEL", nargs="+", metavar="NAME",
        help="models: NAME or NAME@PIXELS; timm:PATTERN for all that timm has weights for; random:lenet "
        "and random:TIMM_NAME are controls (default with a source: lenet)",
    )  # fmt: skip
    add_flag(
        group, "--SRC", nargs="+", default=[], metavar="NAME",
        help="source data sets, for the relation, the certificate, LEEP and NCE, and to train LeNets on",
    )  # fmt: skip
    add_flag(
        group, "--MOST_MODELS", type=whole(1, 10_000), default=20, metavar="N",
        help="how many models a pattern may stand for (default 20)",
    )  # fmt: skip
    add_flag(group, "--SEED", type=seed_number, default=0, metavar="N", help="of every draw (default 0)")
    add_procedure_flag(group)
    add_flags_of_stage(group, "train")
    data = parser.add_argument_group("what the scores see")
    add_flag(
        data, "--SHOTS", type=whole(2), metavar="N",
        help="only N training images of each class, at least 2",
    )  # fmt: skip
    add_flag(
        data, "--SAMPLES", type=whole(), default=10_000, metavar="N",
        help="at most about N training images, of each class its share (default 10000)",
    )  # fmt: skip
    add_flag(
        data, "--RESAMPLES", type=whole(1, 100_000), default=2000, metavar="N",
        help="draws of the images that say how sure the choice is (default 2000)",
    )  # fmt: skip
    add_flag(
        data, "--METRIC", type=one_of(METRICS), default=ACCURACY, metavar="NAME",
        help="by which the pick is made: accuracy (default), or balanced: the mean over classes of the "
        "share right, every class alike",
    )  # fmt: skip
    truth = parser.add_argument_group("accuracies to compare with")
    add_flag(
        truth, "--TRUTH", type=Path, metavar="FILE",
        help="CSV: model, accuracy and, if need be, source and target",
    )  # fmt: skip
    add_flag(
        truth, "--FINETUNE", type=one_of(TRUTHS), metavar="HOW",
        help="measure them on the test split: linear (the probe) or full (all weights, --EPOCHS)",
    )  # fmt: skip
    add_flag(
        truth, "--EPOCHS", type=whole(), default=3, metavar="N",
        help="of --FINETUNE full (default 3)",
    )  # fmt: skip
    add_flag(
        truth, "--SCORES", type=Path, metavar="FILE",
        help="compare scores that others computed with --TRUTH: CSV with model, target and a column for "
        "each score, larger better; nothing else is computed",
    )  # fmt: skip
    add_many_models_flags(parser)
    add_place_flags(parser)
    add_threads_flag(parser)
    options = parser.parse_args(argv)
    options.TARGETS = list(dict.fromkeys(options.TRG))
    options.TRG = options.TARGETS[0] if len(options.TARGETS) == 1 else None
    return options


@stage_entry("rank_models")
def main(argv: Sequence[str] | None = None) -> None:
    # ------------------------------------------------------------------------------------- options
    options = parse_options(argv)
    if distributed.rank() > 0:  # one process ranks
        return
    if options.CPUS:
        use_threads(options.CPUS)
    if options.SCORES:
        return compare_published(options)
    entries = list_entries(options)
    if options.TRUTH and options.METRIC == BALANCED:
        text = f"{options.TRUTH} is compared as it is; the pick is made by balanced accuracy"
        warnings.warn(text, stacklevel=2)
    table = read_truth(options.TRUTH) if options.TRUTH else None
    if table:
        keys = [truth_key(entry, options) for entry in entries.values()]
        table.require(task_slug(options.TRG), keys)
    require_places(options)
    print(f"{len(entries)} candidates: {', '.join(entries)}", file=sys.stderr)

    # -------------------------------------------------------------------------------------- scores
    folder = options.RESULTS_DIR / "rank" / task_slug(options.TRG)
    busy = f"another run is writing to {folder}: wait for it, or give another --RESULTS_DIR"
    found = Ranking(metric=options.METRIC)
    with only_one(folder, busy):
        found.failed |= train_lenets(entries, options)
        for name, entry in entries.items():
            if name in found.failed:
                continue
            try:
                score(found, name, entry, options)
            except Exception as error:  # one that fails must not end the others
                kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
                found.failed[name] = kind + " ".join(str(error).split())
        if not found.scores:
            reasons = [f"{name}: {reason}" for name, reason in found.failed.items()]
            raise InputError(f"no candidate is left: {'; '.join(reasons)}")
        add_nulls_and_truth(found, entries, table, options)
        found.sort()
        predictions = {name: found.predictions[name] for name in found.scores}
        decision = decide(predictions, found.views, options.RESAMPLES, options.SEED, found.metric)

        # ------------------------------------------------------------------------ report and save
        line, curve = headline(decision, found), curve_of_leader(found, options.SEED)
        more = more_or_another(curve, decision, predictions, found.metric)
        agreement = agreements(found, entries, options.SEED)
        record = as_record(options, found, decision, line, agreement)
        record["more_labels"] = {"line": more, **curve.record}
        record["near_copies"] = near_copies_of_leader(found)
        facts = candidate_table(
            found.scores, found.truth, decision.odds, found.facts,
            predictions[decision.pick].majority, found.truth_column,
        )  # fmt: skip
        say_doubts(decision.pick, found)
        print(f"{line}\n{more}\n\n{markdown_table(*facts)}", end="")
        warn_of_near_copies(record["near_copies"])
        warn_of_another(folder, record)
        with replace_files(folder) as new:
            write_json(staged(new / "ranking.json"), record)
            write_text(new / "scores.csv", csv_table(*score_table(found.scores, found.truth)))
            draw_decision(task_slug(options.TRG), record, new / "decision")
            for title, (names, of_group) in agreement.items():
                shown = agreement_table({name: found.scores[name] for name in names}, of_group)
                write_text(new / f"agreement_{title.replace(' ', '_')}.csv", csv_table(*shown))
                print(
                    f"\norder against {truth_name(options)}, {title}\n\n{markdown_table(*shown)}", end=""
                )
            if agreement:
                draw_ranking(task_slug(options.TRG), found.scores, found.truth, new / "ranking")
    if found.truth and not agreement:
        print("fewer than three candidates have no correlation: give more models or sources")
    if found.costs:
        mean = sum(found.costs.values()) / len(found.costs)
        print(f"fine-tuning ({options.FINETUNE}): {mean:.1f} s a model in the mean")
    print(f"result: {os.path.relpath(folder)}/ranking.json (beside it tables and figures)")
    for name, reason in found.failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if found.failed:
        raise SystemExit(1)


@dataclass
class Ranking:
    """What is known of each candidate by its name; `failed`: why others are left out. Of the best one so
    far, the `leader`, features and probe are kept: (its place, the candidate, the probe).
    """

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    predictions: dict[str, Prediction] = field(default_factory=dict)
    networks: dict[str, Hashable] = field(default_factory=dict)
    views: dict[str, Hashable] = field(default_factory=dict)
    of_views: dict[Hashable, Scored] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    truth: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    data: dict[str, dict] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    images: str | None = None
    metric: str = ACCURACY
    measured: dict[str, dict[str, float]] = field(default_factory=dict)
    doubts: dict[str, list[str]] = field(default_factory=dict)
    leader: tuple[tuple[float, bool, float], Candidate, ValidatedRidge | None] | None = None

    def add(self, candidate: Candidate, scored: Scored) -> None:
        name, self.images = candidate.name, candidate.images
        self.scores[name], self.predictions[name] = scored.scores, scored.prediction
        self.networks[name], self.views[name] = candidate.network, candidate.view
        self.facts[name] = candidate.facts
        # Of held-out logits there are as many as of features: they are not kept for every network.
        self.of_views.setdefault(candidate.view, replace(scored, fitted=None))
        self.data |= candidate.provenance
        place = self.place(name)
        if self.leader is None or place < self.leader[0]:
            self.leader = place, candidate, scored.fitted

    def place(self, name: str) -> tuple[float, bool, float]:
        """The less, the better: the best prediction first; of one network's sources those whose classes
        say something of the target's, and of these the least label map's loss.
        """
        scores = self.scores[name]
        p, loss = (
            scores[score].value if score in scores else math.inf for score in (SOURCE_P, MAP_LOSS)
        )
        return -scores[PREDICTED_BY[self.metric]].value, p > SIGNIFICANT, loss

    @property
    def truth_column(self) -> str:
        """What measured accuracies are called in tables."""
        return "balanced" if self.metric == BALANCED and self.measured else "accuracy"

    def sort(self) -> None:
        self.scores = {name: self.scores[name] for name in sorted(self.scores, key=self.place)}


# --------------------------------------------------------------------------------------- the candidates
def list_entries(options: argparse.Namespace) -> dict[str, Entry]:
    """Every model with every source, by the name that it has in tables; options are checked."""
    if options.TRUTH and options.FINETUNE:
        raise InputError("--TRUTH gives the accuracies that --FINETUNE would measure: give one of them")
    if not options.TARGETS:
        raise InputError("give the target with --TRG")
    files = options.FILES = files_of_target(options.TARGETS)
    if files:
        options.TRG = folder_of_files(files.values())
        if options.SRC:
            raise InputError(
                "--SRC is seen by one network, and the files of --TRG are of several: rank them without "
                "--SRC, or each alone with its network's source"
            )
        require_same_labels(list(files.values()))
    if options.MODEL is None and not options.SRC and not is_feature_file(options.TRG):
        raise InputError("give the candidates with --model, or --SRC, whose LeNet is one")
    options.SRC = list(dict.fromkeys(check_task_name(name, "source") for name in options.SRC))
    if HEAD in options.SRC:
        raise InputError(
            f"--SRC {HEAD} is for transfer_source_to_target.py: scores of a source need its images here"
        )
    options.TRG = check_task_name(options.TRG, "target")
    options.MODEL = [
        name for text in options.MODEL or [LENET] for name in expand_pattern(text, options.MOST_MODELS)
    ]
    if options.FINETUNE == "full" and any(is_feature_file(name) for name in (*options.SRC, options.TRG)):
        raise InputError("--FINETUNE full needs images and networks: features files have neither")
    entries: dict[str, Entry] = {}
    several = len(options.SRC) > 1
    for text in options.MODEL:
        for source, file in itertools.product(options.SRC or [None], files.items() or [None]):
            entry = Entry.of(text, source, options, file)
            name = entry.model_name + (f" ({entry.source_slug})" if several else "")
            if entries.setdefault(name, entry) != entry:
                raise InputError(f"two candidates are called {name}: rename a file or give one --model")
    options.MODEL = [entry.model for entry in entries.values()]
    return entries


def train_lenets(entries: Mapping[str, Entry], options: argparse.Namespace) -> dict[str, str]:
    """Runs stage 1 where a LeNet is a candidate; why those failed whose network is missing."""
    jobs = training_jobs(options, train_source_model)
    outcomes = run_jobs(jobs, InProcess(None), 0, _say)
    for line in distinct_warnings(outcomes.values()):
        tell_once(line)
    failed = {job.source: outcomes[job].reason for job in jobs if outcomes[job].state == FAILED}
    return {
        name: failed[entry.source]
        for name, entry in entries.items()
        if entry.model == LENET and entry.source in failed
    }


def _say(job: Job, outcome: Outcome) -> None:
    print(f"{outcome.state} {job.name}", file=sys.stderr)


def score(found: Ranking, name: str, entry: Entry, options: argparse.Namespace) -> None:
    """Opens one candidate and adds all that is known of it, or nothing if it fails."""
    start = time.perf_counter()
    scale = settings_for(options.PROCEDURE, entry.model, entry.source, options.TRG)
    linear = options.FINETUNE == "linear"
    candidate = open_candidate(name, entry, scale.deviation_floor, with_test=linear)
    if found.images not in (None, candidate.images):
        raise InputError("it could not read the same training images as the others")
    opened = time.perf_counter()
    scored = score_candidate(candidate, options.SEED, found.of_views.get(candidate.view))
    ready = time.perf_counter()
    if options.FINETUNE == "full":
        found.truth[name], found.costs[name] = measure_full(entry.options, options.EPOCHS)
    elif linear:
        accuracies = scored.linear_accuracy, scored.linear_balanced
        found.measured[name] = dict(zip(("accuracy", "balanced_accuracy"), accuracies, strict=True))
        found.truth[name] = accuracies[METRICS.index(found.metric)]
        found.costs[name] = scored.seconds
        if scored.doubts:
            found.doubts[name] = list(scored.doubts)
    found.add(candidate, scored)
    times = f"features {opened - start:.1f} s, scores {ready - opened:.1f} s"
    print(f"scored {name}: {times}", file=sys.stderr)


def truth_key(entry: Entry, options: argparse.Namespace) -> tuple[str, str]:
    """(model, source) as a table of accuracies has them."""
    eps = options.EPS if entry.model.startswith(ROBUST_PREFIX) else None
    same_size = entry.image_size == options.IMAGE_SIZE  # of all: a table need not repeat it
    name = entry.model if same_size and not entry.of_features else entry.model_name
    return backbone_slug(name, eps), entry.source_slug


def add_nulls_and_truth(
    found: Ranking, entries: Mapping[str, Entry], table: Truth | None, options: argparse.Namespace
) -> None:
    """The consensus of some scores, and with a table of accuracies these and, if it has other targets,
    the order that looks at no data.
    """
    if len(found.scores) > 1:
        for name, score_of_one in consensus(found.scores, consensus_of(found.metric)).items():
            found.scores[name]["consensus"] = score_of_one
    if table is None:
        return
    target = task_slug(options.TRG)
    elsewhere = mean_rank_elsewhere(table.by_target(), target)
    for name, of_candidate in found.scores.items():
        model, source = truth_key(entries[name], options)
        found.truth[name] = table.of(target, model, source)
        if model in elsewhere:
            of_candidate[ELSEWHERE] = Score(elsewhere[model], None, 0.0, lower_is_better=True)


# ------------------------------------------------------------------------------------------ the report
def headline(decision: Decision, found: Ranking) -> str:
    """The line to act on; of one network with several sources, which source."""
    text, speed = decision.line, found.facts[decision.pick].images_per_second
    text += f"; {speed:.0f} images/s here" if speed else ""
    if len(decision.odds) == 1 and len(found.scores) > 1:
        text = f"{', '.join(found.scores)} see the same: there is nothing to choose between"
        if SOURCE_P in found.scores[decision.pick]:
            text = headline_of_sources(decision.pick, found)
    if found.metric == BALANCED:
        text += "; by balanced accuracy"
    prediction = found.predictions[decision.pick]
    if prediction.note:
        text += f"; accuracies are {prediction.note}"
    text += nothing_found(prediction, found.metric)
    if found.failed:
        text += f"; {len(found.failed)} failed and are not compared: {', '.join(found.failed)}"
    return text


def nothing_found(prediction: Prediction, metric: str) -> str:
    """That the best probe is not known to be better than none, where it is so."""
    _, (low, _), chance = prediction.found(metric)
    if chance is None or low > chance:
        return ""
    balanced, (low, _), even = prediction.found(BALANCED)
    if metric == ACCURACY and low > even:
        return (
            f"; by accuracy it is not known to be better than always saying one class ({chance:.3f}), "
            f"by balanced accuracy it is ({balanced:.3f}): --METRIC balanced"
        )
    return (
        f"; no candidate is known to tell anything, there is no pick to act on: always saying one class "
        f"is right of {chance:.3f}"
    )


def say_doubts(pick: str, found: Ranking) -> None:
    """One line for all candidates whose measured accuracy is odd: the pick's if it is one of them."""
    if not found.doubts:
        return
    name = pick if pick in found.doubts else next(iter(found.doubts))
    others = len(found.doubts) - 1
    more = f" (and so of {others} other candidates)" if others else ""
    warnings.warn(f"{name}: {found.doubts[name][0]}{more}", stacklevel=2)


def curve_of_leader(found: Ranking, seed: int) -> LearningCurve:
    """What more labels would bring the pick."""
    _, candidate, fitted = found.leader
    return learning_curve(
        candidate.scaled, candidate.num_classes, seed, fitted=fitted,
        new_images=candidate.new_images, new_groups=candidate.new_groups,
    )  # fmt: skip


def near_copies_of_leader(found: Ranking) -> dict | None:
    """Among the training images, as the pick sees them."""
    _, candidate, _ = found.leader
    return report_near_copies(candidate.scaled, candidate.num_classes)


def headline_of_sources(pick: str, found: Ranking) -> str:
    """Of one network with several sources: whose classes say most of the target's."""
    p = {name: scores[SOURCE_P].value for name, scores in found.scores.items()}
    empty = [name for name, value in p.items() if value > SIGNIFICANT]
    said = f"the classes of {', '.join(empty)} say no more of the target's than classes mixed at random"
    if pick in empty:
        return f"one network with several sources: there is nothing to choose between; {said}"
    loss = found.scores[pick][MAP_LOSS].value
    text = (
        f"take {pick}: of one network's sources the one whose classes say most of the target's (p "
        f"{p[pick]:.2f}, {loss:.2f} nats by labels alone)"
    )
    return f"{text}; {said}" if empty else text


def agreements(
    found: Ranking, entries: Mapping[str, Entry], seed: int
) -> dict[str, tuple[list[str], dict]]:
    """Candidates and how well each score orders them: of all, and of those that are no controls."""
    groups = {EVERYONE: list(found.scores)}
    real = [name for name in found.scores if not entries[name].is_control]
    if len(real) < len(found.scores):
        groups[WITHOUT_CONTROLS] = real
    return {
        title: (
            names,
            compare({name: found.scores[name] for name in names}, found.truth, seed, found.networks),
        )
        for title, names in groups.items()
        if found.truth and len(names) > 2
    }


def truth_name(options: argparse.Namespace) -> str:
    if options.TRUTH:
        return f"the accuracies of {options.TRUTH.name}"
    return f"accuracy after {options.FINETUNE} fine-tuning"


def warn_of_another(folder: Path, record: Mapping) -> None:
    """Says so where the folder's ranking is of other data that have the target's name."""
    with contextlib.suppress(InputError):  # there is none, or none that is whole
        before, target = read_json(folder / "ranking.json"), record["target"]
        data, now = before.get("data", {}), record["data"]
        shared = data.keys() & now.keys()
        if data and not (shared and all(same_images(data[name], now[name]) for name in shared)):
            owner = before.get("target_folder") or named_data(target, data.get(target, {}))
            warnings.warn(f"replaces the ranking for {owner} (other data)", stacklevel=2)


def as_record(
    options: argparse.Namespace,
    found: Ranking,
    decision: Decision,
    line: str,
    agreement: Mapping[str, tuple[list[str], Mapping]],
) -> dict:
    """What ranking.json holds."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "target": task_slug(options.TRG),
        **({"target_folder": str(feature_path(options.TRG))} if options.FILES else {}),
        "seed": options.SEED,
        "command": options.command,
        "shots": options.SHOTS,
        "samples": options.SAMPLES,
        "metric": found.metric,
        "majority_share": found.predictions[decision.pick].majority,
        "truth": str(options.TRUTH) if options.TRUTH else options.FINETUNE,
        "decision": {
            "line": line,
            "pick": decision.pick,
            "odds": decision.odds,
            "expected_regret": decision.regret,
            "rivals": list(decision.rivals),
            "failed": found.failed,
        },
        "candidates": {
            name: {
                "accuracy": found.truth.get(name),
                **found.measured.get(name, {}),
                "doubts": found.doubts.get(name, []),
                "note": found.predictions[name].note,
                "fine_tuning_seconds": found.costs.get(name),
                **vars(found.facts[name]),
                "scores": {metric: vars(score) for metric, score in of_candidate.items()},
            }
            for name, of_candidate in found.scores.items()
        },
        "agreement": {
            title: {
                "candidates": names,
                "scores": {
                    metric: {
                        name: {"value": number(value), "interval": limits}
                        for name, (value, limits) in of_candidate.items()
                    }
                    for metric, of_candidate in of_group.items()
                },
            }
            for title, (names, of_group) in agreement.items()
        },
        "data": found.data,
        "environment": environment(choose_device(options.DEVICE)),
    }


# ------------------------------------------------------------------------- scores that others computed
def compare_published(options: argparse.Namespace) -> None:
    """The weighted Kendall correlations of a table of scores with a table of accuracies, in both of the
    conventions that papers use.
    """
    if not options.TRUTH:
        raise InputError("--SCORES are compared with accuracies: give --TRUTH")
    scores = read_scores(options.SCORES)
    accuracies = read_truth(options.TRUTH, for_order=True).by_target()
    if not any(len(_common(table, accuracies, t)) > 2 for table in scores.values() for t in accuracies):
        raise InputError(
            f"{options.SCORES} and {options.TRUTH} have no three models of one target in common"
        )
    folder = options.RESULTS_DIR / "rank" / "published"
    require_writable(folder, "--RESULTS_DIR")
    for measure in (BY_BOTH, BY_ACCURACY):
        table = published_agreement(scores, accuracies, measure)
        write_text(folder / f"{measure.replace(' ', '_')}.csv", csv_table(*table))
        print(f"{markdown_table(*table)}")
    print(f"result: {os.path.relpath(folder)}/")


def _common(scores: Mapping, accuracies: Mapping, target: str) -> set[str]:
    return scores.get(target, {}).keys() & accuracies[target].keys()


if __name__ == "__main__":
    main()
