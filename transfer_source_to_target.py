"""Stage 3: how well a network transfers to a target, and what the source has to do with it.

    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --BATCH_SIZE 500 --TAU 0.2
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --SETTING LearnedA
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --PROCEDURE published
    python3 transfer_source_to_target.py --SRC imagenet_small --TRG cifar10 --model resnet18
    python3 transfer_source_to_target.py --SRC features:A.npz --TRG features:B.npz
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --TARGET_LABELS pseudo
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --SOURCE_CLASSES 5
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --DATA embedded --ANALYSIS relation
    python3 transfer_source_to_target.py --SRC head --TRG folder:photos --model efficientnet_lite0

A LeNet (the default model) comes from stage 1; other models come pre-trained; feature files need none.
Three parts, shown in this order: the relation (does the source's classifier, its labels renamed, tell
the target's classes apart better than with its classes mixed?), the published form (the paper's
transform and bound), and the certificate. --SRC head is the network's own classifier: it needs no source
images, and the relation is the whole answer. Stage 2 need not have run.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import utils
from utils.entry import stage_entry
from utils.errors import InputError, check_batch_size, require_finite
from utils.names import ALL, GIVEN, HEAD, LENET, PSEUDO, TARGET_LABELS
from utils.options import (
    ANALYSES,
    CERTIFICATE,
    CERTIFICATE_FLAGS,
    PUBLISHED,
    RELATION,
    RELATION_FLAGS,
    SOURCE_HEAD_FLAGS,
    TRANSFORM_FLAGS,
    add_analysis_flag,
    add_flag,
    add_model_flags,
    add_setting_flags,
    class_choice,
    class_count,
    one_of,
    override,
    stage_parser,
    whole,
)
from utils.procedures import LEARNED, HeadSettings, ScaleSettings, procedures, settings_for

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROLES = ("source", "target")


def parse_options(
    argv: Sequence[str] | None = None, given: Mapping[str, Any] | None = None, model: str | None = LENET
) -> argparse.Namespace:
    """Parse the flags. `model`: the default of --model; None: it is required."""
    parser = stage_parser(__doc__, "transfer_source_to_target.py", with_target=True)
    add_model_flags(parser, model)
    group = parser.add_argument_group("what is learned")
    add_flag(
        group,
        "--SETTING",
        type=one_of(LEARNED),
        default="LearnedAll",
        help="LearnedAll (default): A, b, its inverse, B, D; LearnedA: B a random permutation; "
        "FixedAll: B a random permutation and nothing learned",
    )
    add_flag(
        group,
        "--SOURCE_CLASSES",
        type=class_choice,
        default=ALL,
        metavar="CHOICE",
        help="of the source: all (default), random or similar (as many as the target has), or N random "
        "ones",
    )
    add_flag(
        group,
        "--TARGET_LABELS",
        type=one_of(TARGET_LABELS),
        default=GIVEN,
        metavar="HOW",
        help="given (default), or pseudo: clusters of the target's features, equally large, its labels "
        "unused",
    )
    add_flag(
        group,
        "--TARGET_CLASSES",
        type=class_count,
        metavar="K",
        help="classes of a target that has no labels: a features: file without y_train and y_test, or a "
        "folder: of images in no class folders (default: the target's labels say it)",
    )
    add_analysis_flag(group, ANALYSES)
    add_flag(
        group,
        "--BOOTSTRAP",
        type=whole(0, 10_000),
        default=200,
        help="resamples of the test samples for 95 %% intervals (default 200); 0: no intervals",
    )
    add_flag(
        group,
        "--SHOW_CLASSES",
        type=whole(0),
        default=10,
        help="target classes in the table of where the loss comes from (default 10); 0: all of them",
    )
    settings = procedures(parser.peek("MODEL", argv))
    add_setting_flags(parser, "relation", RELATION_FLAGS, settings, "relation")
    head, form = "published form: source head", "published form: transform"
    add_setting_flags(parser, head, SOURCE_HEAD_FLAGS, settings, "source_head")
    add_setting_flags(parser, form, TRANSFORM_FLAGS, settings, "transform")
    add_setting_flags(parser, "certificate", CERTIFICATE_FLAGS, settings, "certificate")
    return parser.parse_args(argv, given)


def run(options: argparse.Namespace) -> dict | None:
    """Return the record of the result; None in torchrun's other processes."""
    # ------------------------------------------------------------------------------------- options
    options = utils.stage.check_options(options)
    asked = utils.stage.pair_request(options)
    settings = chosen_settings(options)
    wanted = parts_of(options)
    pseudo = options.TARGET_LABELS == PSEUDO
    if options.TARGET_CLASSES and not pseudo:
        raise InputError("--TARGET_CLASSES is for a target without labels: add --TARGET_LABELS pseudo")
    device = utils.device.choose_device(options.DEVICE, options.CPUS)

    # ------------------------------------------------------------------ backbone, features of both tasks
    with utils.distributed.process_group(device, options.CPUS):
        network = utils.stage.open_network(asked, device)
        target_data = utils.stage.find_target(asked, options.TARGET_CLASSES)
        if options.SRC == HEAD:
            classifier, source = utils.stage.open_classifier(asked), None
            num_classes = (len(classifier.bias), target_data.num_classes)
            utils.stage.require_samples(target_data)
        else:
            classifier, source_data = None, utils.stage.find_source(asked, network, target_data)
            num_classes = utils.stage.count_classes(options.SOURCE_CLASSES, source_data, target_data)
            check_before_learning(
                options=options,
                settings=settings,
                wanted=wanted,
                num_classes=num_classes,
                source=source_data,
                target=target_data,
            )
            source = utils.stage.open_task(source_data, asked.tasks, network)
        target = utils.stage.open_task(target_data, asked.tasks, network)
    if utils.distributed.rank() > 0:  # extraction is shared between processes, the rest is not
        return None

    # ------------------------------------------------------------------------ a result that is there?
    config = configuration(options, settings, network.about)
    data = {"source": source.provenance} if source else {}
    data["target"] = target.provenance
    source_name = utils.features.task_slug(options.SRC)
    this = utils.storage.Run(
        stage="transfer",
        source=source_name,
        target=target.name,
        model=network.model,
        setting=options.SETTING,
        seed=options.SEED,
        procedure=options.PROCEDURE,
        variant=utils.stage.variant_slug(options.SOURCE_CLASSES, options.TARGET_LABELS),
    )
    folder = this.folder(options.RESULTS_DIR)
    fine_tuned, labelled = neighbours(this, options, config, data)
    if stored := utils.storage.reusable_result(folder, config, data, options.OVERWRITE):
        show_again(stored, fine_tuned, labelled, folder, options)
        return stored

    # ----------------------------------------------------------------- standardised features, clusters
    seconds: dict[str, float] = {}
    record = {
        **this.names,
        "command": options.command,
        "relation": None,
        "published": None,
        "certificate": None,
        "no_certificate": utils.certificate.impossible(*num_classes) if CERTIFICATE in wanted else None,
        "pseudo_labels": None,
        "near_copies": None,
        "copies": getattr(target_data, "copies", None),
        "config": config,
        "data": data,
        "environment": utils.storage.environment(device),
        "seconds": seconds,
    }
    target_splits = utils.features.standardise(target, device, settings.deviation_floor)
    if pseudo:
        with utils.stage.timed(seconds, "clusters"):
            target, target_splits, record["pseudo_labels"] = cluster_target(
                target, target_splits, options
            )
    if source:
        source = utils.features.choose_source_classes(
            source, target, options.SOURCE_CLASSES, options.SEED
        )
        if options.SOURCE_CLASSES != ALL:
            record["source_classes"] = list(source.class_names)
    pair = scaled_pair(source or classifier, target, target_splits, settings.deviation_floor, device)

    # ---------------------------------------------------------------------- learn, bound, show, save
    tensors, transform = {}, None
    utils.report.print_heading(record)
    if RELATION in wanted:
        record["relation"], tensors["relation"] = relation_of(pair, options, settings, data, seconds)
        utils.report.print_relation(record, options.SHOW_CLASSES, fine_tuned)
        record["doubts"] = [] if pseudo else doubts_of(pair, options, seconds)
        utils.doubts.warn_of_doubts(record)
    with utils.stage.timed(seconds, "near_copies"):
        train, test = pair.target
        record["near_copies"] = utils.near_copies.report_near_copies(train, target.num_classes, test)
    utils.near_copies.warn_of_near_copies(record["near_copies"])
    if PUBLISHED in wanted:
        resume = utils.storage.ResumePoint(
            folder / "resume_transform.pt",
            utils.storage.digest(config, utils.storage.without_paths(data), options.SEED),
        )
        record["published"], tensors["transform"], transform = published_form_of(
            pair, options, settings, seconds, resume
        )
        utils.report.print_published(record, fine_tuned)
    if CERTIFICATE in wanted and record["no_certificate"] is None:
        record["certificate"], tensors["certificate"] = certificate_of(pair, options, settings, seconds)
    if CERTIFICATE in wanted:
        utils.report.print_certificate(record, options.SHOW_CLASSES)
    with utils.storage.replace_files(folder) as new:
        draw(record, pair, transform, fine_tuned, new)
        save(record, tensors, options, new)
    if record["published"]:
        resume.clear()
    utils.report.print_where(record, folder)
    if pseudo:
        utils.report.print_pseudo_labels(record, labelled)
    return record


@stage_entry("stage 3 (transfer)")
def main(argv: Sequence[str] | None = None, model: str | None = LENET) -> None:
    run(parse_options(argv, model=model))


# ------------------------------------------------------------------------------- what a run is made of
def chosen_settings(options: argparse.Namespace) -> ScaleSettings:
    """Return the procedure's settings, with what the flags say in their place."""
    scale = settings_for(options.PROCEDURE, options.MODEL, options.SRC, options.TRG)
    transform = override(scale.transform, TRANSFORM_FLAGS, options)
    return replace(
        scale,
        source_head=override(scale.source_head, SOURCE_HEAD_FLAGS, options),
        transform=replace(transform, learned=options.SETTING),
        relation=override(scale.relation, RELATION_FLAGS, options),
        certificate=override(scale.certificate, CERTIFICATE_FLAGS, options),
    )


def parts_of(options: argparse.Namespace) -> tuple[str, ...]:
    """Choose those of ANALYSES that are wanted. Raises InputError where none of them can be had."""
    wanted = tuple(part for part in ANALYSES if part in options.ANALYSIS)
    if options.SRC != HEAD:
        return wanted
    for flag, usual in (("SOURCE_CLASSES", ALL), ("SETTING", LEARNED[0])):
        if getattr(options, flag) != usual:
            raise InputError(f"--{flag} has no effect on --SRC {HEAD}, which has no source images")
    if RELATION not in wanted:
        raise InputError(
            f"--SRC {HEAD} has no source images, which {' and '.join(wanted)} need: give --ANALYSIS "
            f"{RELATION}, or a data set as --SRC"
        )
    return (RELATION,)


def check_before_learning(
    options: argparse.Namespace,
    settings: ScaleSettings,
    wanted: Sequence[str],
    num_classes: tuple[int, int],
    source: utils.datasets.Dataset | utils.features.Task,
    target: utils.datasets.Dataset | utils.features.Task,
) -> None:
    """Raise InputError for what cannot be learned, before any image is looked at."""
    utils.published.check_learned(options.SETTING, *num_classes)
    if {PUBLISHED, CERTIFICATE} & {*wanted}:
        utils.stage.warn_of_few_classes(*num_classes)
    if PUBLISHED in wanted and options.SETTING != "FixedAll":  # which draws no batch
        smaller = min(len(source.train), len(target.train))
        check_batch_size(settings.transform.batch_size, max(num_classes), smaller)


def configuration(options: argparse.Namespace, settings: ScaleSettings, network: Mapping | None) -> dict:
    """Return all that determines the numbers beside the data and the seed."""
    wanted = parts_of(options)
    certified, published = CERTIFICATE in wanted, PUBLISHED in wanted
    config = {
        "procedure": options.PROCEDURE,
        "relation": asdict(settings.relation) if RELATION in wanted else None,
        "certificate": asdict(settings.certificate) if certified else None,
        "head": asdict(settings.source_head) if published else None,
        "transform": asdict(settings.transform) if published else None,
        "tau_measure": settings.tau_measure if published else None,
        "deviation_floor": settings.deviation_floor,
        "bootstrap": options.BOOTSTRAP,
        "network": network,
    }
    if options.SOURCE_CLASSES != ALL:
        config["source_classes"] = options.SOURCE_CLASSES
    return config


def neighbours(
    this: utils.storage.Run, options: argparse.Namespace, config: Mapping, data: Mapping
) -> tuple[dict | None, dict | None]:
    """Find the results that this one is shown beside: stage 2's of the same features, and, for a run on
    clusters, that on the target's own labels.
    """
    if options.TARGET_LABELS == PSEUDO:  # a head that was fitted to labels says nothing of it
        labelled = replace(this, variant=utils.stage.variant_slug(options.SOURCE_CLASSES, GIVEN))
        return None, utils.storage.read_result(labelled.folder(options.RESULTS_DIR))
    fine_tuned = replace(this, stage="finetune", setting=None, variant=None)
    record = utils.storage.read_result(fine_tuned.folder(options.RESULTS_DIR))
    return (record if record and utils.report.is_fine_tuning_of(record, config, data) else None), None


@dataclass(frozen=True)
class Pair:
    """Standardised (training, test) features of both tasks, on the device, and the names of their
    classes, (source, target). A source that is a classifier without data, `own_head`, has no features.
    """

    source: tuple[utils.features.Features | None, utils.features.Features | None]
    target: tuple[utils.features.Features, utils.features.Features]
    class_names: tuple[tuple[str, ...], tuple[str, ...]]
    own_head: utils.linear_head.LinearHead | None = None

    @property
    def train(self) -> tuple[utils.features.Features, utils.features.Features]:
        """Of (source, target)."""
        return self.source[0], self.target[0]

    @property
    def test(self) -> tuple[utils.features.Features, utils.features.Features]:
        return self.source[1], self.target[1]

    def head(
        self, which: int, settings: HeadSettings, options: argparse.Namespace, progress: str
    ) -> utils.linear_head.LinearHead:
        """Fit the head of the source (0) or the target (1), or read the one that was fitted before."""
        if which == 0 and self.own_head:
            return self.own_head
        return utils.linear_head.shared_linear_head(
            options.CHECKPOINT_DIR / "heads",
            self.train[which],
            len(self.class_names[which]),
            settings,
            seed=options.SEED,
            overwrite=options.OVERWRITE,
            progress=progress,
        )

    def validated_heads(
        self, options: argparse.Namespace, seconds: dict[str, float]
    ) -> list[utils.linear_head.LinearHead]:
        """Return the heads of validated strength, of source and target."""
        validated = HeadSettings(method="ridge", tau=None)
        heads = [self.head(k, validated, options, f"{role} head") for k, role in enumerate(ROLES)]
        seconds["heads"] = sum(head.fit_seconds for head in heads)
        return heads


def scaled_pair(
    source: utils.features.Task | utils.backbones.Classifier,
    target: utils.features.Task,
    target_splits: tuple[utils.features.Features, utils.features.Features],
    deviation_floor: float,
    device: torch.device,
) -> Pair:
    """Standardise the source's features by its own training split, or put a classifier that is the
    source on the scale of the target's features.
    """
    if isinstance(source, utils.features.Task):
        splits = utils.features.standardise(source, device, deviation_floor)
        return Pair(splits, target_splits, (source.class_names, target.class_names))
    scaler = utils.features.Standardiser.fit(target.train.x, deviation_floor)
    own_head = utils.linear_head.on_standardised(source.weight, source.bias, scaler).to(device)
    return Pair((None, None), target_splits, (source.class_names, target.class_names), own_head)


def cluster_target(
    target: utils.features.Task,
    splits: tuple[utils.features.Features, utils.features.Features],
    options: argparse.Namespace,
) -> tuple[utils.features.Task, tuple[utils.features.Features, utils.features.Features], dict]:
    """Return (the target, its standardised splits) with clusters for labels, and how well they agree
    with its own, which are used for nothing else.
    """
    clusters = utils.features.cluster(splits[0].x, target.num_classes, options.SEED)
    train, test = (clusters.relabel(split) for split in splits)
    agreement = (
        utils.features.clustering_accuracy(test.y.cpu(), target.test.y) if target.labelled else None
    )
    return utils.features.with_clusters(target, train.y, test.y), (train, test), {"agreement": agreement}


# ----------------------------------------------------------------------------------- its three parts
def relation_of(
    pair: Pair,
    options: argparse.Namespace,
    settings: ScaleSettings,
    data: Mapping,
    seconds: dict[str, float],
) -> tuple[dict, dict[str, Tensor]]:
    """Return (what the record says of the relation, the classifier and the label map)."""
    heads = pair.validated_heads(options, seconds)
    same = "source" in data and utils.features.same_images(data["source"], data["target"])
    if same and options.SOURCE_CLASSES != ALL:
        warnings.warn(
            "source and target share images: some of the target's were seen by the source's classifier, "
            "and the relation is too favourable",
            stacklevel=2,
        )
    with utils.stage.timed(seconds, "relation"):
        relation, label_map = utils.relation.relate(
            *heads,
            *pair.target,
            pair.class_names,
            settings.relation,
            shared_images=same and options.SOURCE_CLASSES == ALL,
            bootstrap=options.BOOTSTRAP,
            seed=options.SEED,
        )
    quantities = asdict(relation)
    require_finite("the relation", quantities)
    tensors = {"B": label_map.B, "weight": heads[0].weight, "bias": heads[0].bias}
    return quantities, tensors


def doubts_of(pair: Pair, options: argparse.Namespace, seconds: dict[str, float]) -> list[str]:
    """Say what is odd about the accuracy of linear fine-tuning, beside what held-out images predict."""
    _, head = pair.validated_heads(options, seconds)
    train, test = pair.target
    found = utils.held_out.accuracy_on_new_images(head, train, test)
    predicted = found and (found.accuracy, found.interval)
    return utils.doubts.doubts_of_accuracy(
        head.logits(test.x).argmax(1), test.y, pair.class_names[1], predicted
    )


def certificate_of(
    pair: Pair, options: argparse.Namespace, settings: ScaleSettings, seconds: dict[str, float]
) -> tuple[dict, dict[str, Tensor]]:
    """Return (what the record says of the certificate, the learned tensors)."""
    heads = pair.validated_heads(options, seconds)
    with utils.stage.timed(seconds, "certificate"):
        learned = utils.certificate.learn_certificate(
            *pair.train, *heads, settings.certificate, learned=options.SETTING, seed=options.SEED
        )
    with utils.stage.timed(seconds, "certificate_bound"):
        certificate = utils.certificate.certify(
            learned,
            heads[1],
            pair.train,
            pair.test,
            pair.class_names,
            bootstrap=options.BOOTSTRAP,
            seed=options.SEED,
        )
    quantities = asdict(certificate)
    require_finite("the certificate", quantities)
    weight_decay = {role: head.weight_decay for role, head in zip(ROLES, heads, strict=True)}
    weight_decay["U"] = learned.weight_decay
    return {**quantities, "weight_decay": weight_decay}, learned.tensors()


def published_form_of(
    pair: Pair,
    options: argparse.Namespace,
    settings: ScaleSettings,
    seconds: dict[str, float],
    resume: utils.storage.ResumePoint,
) -> tuple[dict, dict[str, Tensor], utils.published.TaskTransform]:
    """Return (what the record says of the published form, its tensors, the transform)."""
    head = pair.head(0, settings.source_head, options, "source head")
    seconds["source_head"] = head.fit_seconds
    with utils.stage.timed(seconds, "transform"):
        transform = utils.published.learn_task_transform(
            *pair.train, head, settings.transform, seed=options.SEED, resume=resume
        )
    with utils.stage.timed(seconds, "bound"):
        bound = utils.published.transfer_bound(
            transform,
            head,
            *pair.test,
            tau_measure=settings.tau_measure,
            bootstrap=options.BOOTSTRAP,
            seed=options.SEED,
        )
    quantities = asdict(bound)
    require_finite("transfer", quantities)
    quantities |= {
        "source_head_optimality_gap": head.optimality_gap,
        "iterations": transform.iterations,
        "start": transform.start,
        "final_objective": utils.published.final_objective(transform, settings.transform),
    }
    return quantities, {**transform.tensors(), "weight": head.weight, "bias": head.bias}, transform


def draw(
    record: Mapping,
    pair: Pair,
    transform: utils.published.TaskTransform | None,
    fine_tuned: Mapping | None,
    folder: Path,
) -> None:
    """Draw the figures of the parts that the record has."""
    if record["relation"]:
        utils.figures.draw_relation(record, folder)
    if record["published"]:
        utils.figures.draw_published(record, fine_tuned, transform, pair.test, pair.class_names, folder)
    if record["certificate"]:
        utils.figures.draw_certificate(record, folder)


def save(
    record: dict, tensors: Mapping[str, Mapping[str, Tensor]], options: argparse.Namespace, folder: Path
) -> None:
    """Write what was learned, and last the record."""
    for name, content in tensors.items():
        tasks = {"source": options.SRC, "target": options.TRG}
        utils.storage.save_tensors(folder / f"{name}.safetensors", content, tasks)
    utils.storage.write_result(folder, options.RESULTS_DIR, record)


def show_again(
    stored: Mapping,
    fine_tuned: Mapping | None,
    labelled: Mapping | None,
    folder: Path,
    options: argparse.Namespace,
) -> None:
    """Show again what the run showed when it was computed."""
    wanted = parts_of(options)
    utils.report.print_heading(stored, reused=True)
    if RELATION in wanted:
        utils.report.print_relation(stored, options.SHOW_CLASSES, fine_tuned)
        utils.doubts.warn_of_doubts(stored)
    utils.near_copies.warn_of_near_copies(stored.get("near_copies"))
    if PUBLISHED in wanted:
        utils.figures.draw_published_bound(stored, fine_tuned, folder)  # stage 2 may have run meanwhile
        utils.report.print_published(stored, fine_tuned)
    if CERTIFICATE in wanted:
        utils.report.print_certificate(stored, options.SHOW_CLASSES)
    utils.report.print_where(stored, folder)
    if stored["pseudo_labels"]:
        utils.report.print_pseudo_labels(stored, labelled)


if __name__ == "__main__":
    main()
