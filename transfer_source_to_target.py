"""Stage 3: how well a source transfers to a target, and why: the certificate and the published bound.

    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --BATCH_SIZE 500 --TAU 0.2
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --SETTING LearnedA
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --PROCEDURE published
    python3 transfer_source_to_target.py --SRC imagenet_small --TRG cifar10 --model resnet18
    python3 transfer_source_to_target.py --SRC features:A.npz --TRG features:B.npz
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --TARGET_LABELS pseudo
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --SOURCE_CLASSES 5
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --DATA embedded --ANALYSIS certificate

A LeNet (the default model) comes from stage 1; other models come pre-trained; feature files need none.
The certificate takes seconds and is shown first; the published form (its transform learned for the
published objective) follows. Stage 2 need not have run.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from scales import procedures, settings_for
from utils import distributed
from utils.backbones import LENET
from utils.bound import transfer_bound
from utils.certificate import certify, impossible, learn_certificate
from utils.device import choose_device
from utils.entry import stage_entry
from utils.errors import InputError, check_batch_size, require_finite
from utils.features import (
    ALL,
    EQUAL,
    FREE,
    GIVEN,
    PSEUDO,
    Features,
    Task,
    choose_source_classes,
    cluster,
    clustering_accuracy,
    standardise,
    with_clusters,
)
from utils.linear_head import HeadSettings, LinearHead, shared_linear_head
from utils.options import (
    CERTIFICATE_FLAGS,
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
from utils.report import (
    draw_certificate,
    draw_published,
    draw_published_bound,
    is_fine_tuning_of,
    print_certificate,
    print_heading,
    print_pseudo_labels,
    print_published,
    print_where,
)
from utils.settings import ScaleSettings
from utils.stage import (
    check_options,
    count_classes,
    find_source,
    find_target,
    open_network,
    open_task,
    timed,
    variant_slug,
    warn_of_few_classes,
)
from utils.storage import (
    ResumePoint,
    Run,
    digest,
    environment,
    read_result,
    replace_files,
    reusable_result,
    save_tensors,
    write_result,
)
from utils.task_transform import (
    LEARNED,
    TaskTransform,
    check_learned,
    final_objective,
    learn_task_transform,
)

ROLES = ("source", "target")


def parse_options(
    argv: Sequence[str] | None = None,
    given: Mapping[str, Any] | None = None,
    model: str | None = LENET,
) -> argparse.Namespace:
    """`model`: the default of --model; None: it is required."""
    parser = stage_parser(__doc__, "transfer_source_to_target.py", with_target=True)
    add_model_flags(parser, model)
    group = parser.add_argument_group("what is learned")
    add_flag(
        group, "--SETTING", type=one_of(LEARNED), default="LearnedAll", metavar="NAME",
        help="LearnedAll (default): A, b, its inverse, B, D; LearnedA: B a random permutation; "
        "FixedAll: B a random permutation and nothing learned",
    )  # fmt: skip
    add_flag(
        group, "--SOURCE_CLASSES", type=class_choice, default=ALL, metavar="CHOICE",
        help="of the source: all (default), random or similar (as many as the target has), or N random "
        "ones",
    )  # fmt: skip
    add_flag(
        group, "--TARGET_LABELS", type=one_of((GIVEN, PSEUDO)), default=GIVEN, metavar="HOW",
        help="given (default), or pseudo: clusters of the target's features, its own labels unused",
    )  # fmt: skip
    add_flag(
        group, "--TARGET_CLASSES", type=class_count, metavar="K",
        help="classes of a target that has no labels: a features: file without y_train and y_test, or a "
        "folder: of images in no class folders (default: the target's labels say it)",
    )  # fmt: skip
    add_flag(
        group, "--PSEUDO_SIZES", type=one_of((EQUAL, FREE)), default=EQUAL, metavar="HOW",
        help="clusters of equal size (default), as the classes of most data sets are, or free",
    )  # fmt: skip
    add_analysis_flag(group, "both")
    add_flag(
        group, "--BOOTSTRAP", type=whole(0, 10_000), default=200, metavar="N",
        help="resamples of the test samples for 95 %% intervals (default 200); 0: no intervals",
    )  # fmt: skip
    add_flag(
        group, "--SHOW_CLASSES", type=whole(0), default=10, metavar="N",
        help="target classes in the table of where the loss comes from (default 10); 0: all of them",
    )  # fmt: skip
    settings = procedures(parser.peek("MODEL", argv)).items()
    for title, flags, defaults in (
        (
            "published form: source head",
            SOURCE_HEAD_FLAGS,
            {name: scale.source_head for name, scale in settings},
        ),
        (
            "published form: transform",
            TRANSFORM_FLAGS,
            {name: scale.transform for name, scale in settings},
        ),
        ("certificate", CERTIFICATE_FLAGS, {name: scale.certificate for name, scale in settings}),
    ):
        add_setting_flags(parser, f"{title} [default of each procedure]", flags, defaults)
    return parser.parse_args(argv, given)


def run(options: argparse.Namespace) -> dict | None:
    """The record of the result; None in torchrun's other processes."""
    # ------------------------------------------------------------------------------------- options
    options = check_options(options)
    settings = chosen_settings(options)
    certified, published = parts_of(options)
    pseudo = options.TARGET_LABELS == PSEUDO
    if options.TARGET_CLASSES and not pseudo:
        raise InputError("--TARGET_CLASSES is for a target without labels: add --TARGET_LABELS pseudo")
    device = choose_device(options.DEVICE, options.CPUS)

    # ------------------------------------------------------------------ backbone, features of both tasks
    with distributed.process_group(device, options.CPUS):
        network = open_network(options, device)
        target_data = find_target(options, options.TARGET_CLASSES)
        source_data = find_source(options, network, target_data)
        num_classes = count_classes(options, source_data, target_data)
        check_learned(options.SETTING, *num_classes)
        warn_of_few_classes(*num_classes)
        if published and options.SETTING != "FixedAll":  # which draws no batch
            smaller = min(len(source_data.train), len(target_data.train))
            check_batch_size(settings.transform.batch_size, max(num_classes), smaller)
        source, target = (open_task(data, options, network) for data in (source_data, target_data))
    if distributed.rank() > 0:  # extraction is shared between processes, the rest is not
        return None

    # ------------------------------------------------------------------------ a result that is there?
    config = configuration(options, settings, network.about)
    data = {"source": source.provenance, "target": target.provenance}
    this = Run(
        "transfer", source.name, target.name, network.model, options.SETTING, options.SEED,
        options.PROCEDURE, variant_slug(options),
    )  # fmt: skip
    folder = this.folder(options.RESULTS_DIR)
    fine_tuned, labelled = neighbours(this, options, config, data)
    if stored := reusable_result(folder, config, data, options.OVERWRITE):
        show_again(stored, fine_tuned, labelled, folder, options)
        return stored

    # ----------------------------------------------------------------- standardised features, clusters
    seconds: dict[str, float] = {}
    record = {
        **this.names,
        "command": options.command,
        "certificate": None,
        "no_certificate": impossible(*num_classes) if certified else None,
        "published": None,
        "pseudo_labels": None,
        "config": config,
        "data": data,
        "environment": environment(device),
        "seconds": seconds,
    }
    target_splits = standardise(target, device, settings.deviation_floor)
    if pseudo:
        with timed(seconds, "clusters"):
            target, target_splits, record["pseudo_labels"] = cluster_target(
                target, target_splits, options
            )
    source = choose_source_classes(source, target, options.SOURCE_CLASSES, options.SEED)
    if options.SOURCE_CLASSES != ALL:
        record["source_classes"] = list(source.class_names)
    source_splits = standardise(source, device, settings.deviation_floor)
    train, test = zip(source_splits, target_splits, strict=True)
    pair = Pair(train, test, (source.class_names, target.class_names))

    # ---------------------------------------------------------------------- learn, bound, show, save
    tensors = {}
    print_heading(record)
    if certified and record["no_certificate"] is None:
        record["certificate"], tensors["certificate"] = certificate_of(pair, options, settings, seconds)
    if certified:
        print_certificate(record, options.SHOW_CLASSES)
    if published:
        resume = ResumePoint(folder / "resume_transform.pt", digest(config, data, options.SEED))
        record["published"], tensors["transform"], transform = published_form_of(
            pair, options, settings, seconds, resume
        )
        print_published(record, fine_tuned)
    with replace_files(folder) as new:
        for name, content in tensors.items():
            tasks = {"source": options.SRC, "target": options.TRG}
            save_tensors(new / f"{name}.safetensors", content, tasks)
        if record["certificate"]:
            draw_certificate(record, new)
        if published:
            draw_published(record, fine_tuned, transform, *pair.test, pair.class_names, new)
        write_result(new, options.RESULTS_DIR, record)
    if published:
        resume.clear()
    print_where(record, folder)
    if pseudo:
        print_pseudo_labels(record, labelled)
    return record


@stage_entry("stage 3 (transfer)")
def main(argv: Sequence[str] | None = None, model: str | None = LENET) -> None:
    run(parse_options(argv, model=model))


# ------------------------------------------------------------------------------- what a run is made of
def chosen_settings(options: argparse.Namespace) -> ScaleSettings:
    """The procedure's, with what the flags say in its place."""
    scale = settings_for(options.PROCEDURE, options.MODEL, options.SRC, options.TRG)
    transform = override(scale.transform, TRANSFORM_FLAGS, options)
    return replace(
        scale,
        source_head=override(scale.source_head, SOURCE_HEAD_FLAGS, options),
        transform=replace(transform, learned=options.SETTING),
        certificate=override(scale.certificate, CERTIFICATE_FLAGS, options),
    )


def parts_of(options: argparse.Namespace) -> tuple[bool, bool]:
    """Whether the certificate and the published form are wanted."""
    return options.ANALYSIS != "published", options.ANALYSIS != "certificate"


def configuration(options: argparse.Namespace, settings: ScaleSettings, network: Mapping | None) -> dict:
    """All that determines the numbers beside the data and the seed."""
    certified, published = parts_of(options)
    config = {
        "procedure": options.PROCEDURE,
        "certificate": asdict(settings.certificate) if certified else None,
        "head": asdict(settings.source_head) if published else None,
        "transform": asdict(settings.transform) if published else None,
        "tau_measure": settings.tau_measure if published else None,
        "deviation_floor": settings.deviation_floor,
        "bootstrap": options.BOOTSTRAP,
        "network": network,
    }
    if options.TARGET_LABELS == PSEUDO:
        config["pseudo_sizes"] = options.PSEUDO_SIZES
    if options.SOURCE_CLASSES != ALL:
        config["source_classes"] = options.SOURCE_CLASSES
    return config


def neighbours(
    this: Run, options: argparse.Namespace, config: Mapping, data: Mapping
) -> tuple[dict | None, dict | None]:
    """Results that this one is shown beside: stage 2's of the same features, and, for a run on clusters,
    that on the target's own labels.
    """
    if options.TARGET_LABELS == PSEUDO:  # a head that was fitted to labels says nothing of it
        labelled = replace(this, variant=variant_slug(options, target_labels=GIVEN))
        return None, read_result(labelled.folder(options.RESULTS_DIR))
    fine_tuned = replace(this, stage="finetune", setting=None, variant=None)
    record = read_result(fine_tuned.folder(options.RESULTS_DIR))
    return (record if record and is_fine_tuning_of(record, config, data) else None), None


@dataclass(frozen=True)
class Pair:
    """Standardised features of (source, target), on the device, and the names of their classes."""

    train: tuple[Features, Features]
    test: tuple[Features, Features]
    class_names: tuple[tuple[str, ...], tuple[str, ...]]

    def head(
        self, which: int, settings: HeadSettings, options: argparse.Namespace, progress: str
    ) -> LinearHead:
        """Of the source (0) or the target (1); one that was fitted before is read."""
        return shared_linear_head(
            options.CHECKPOINT_DIR / "heads", self.train[which], len(self.class_names[which]), settings,
            seed=options.SEED, overwrite=options.OVERWRITE, progress=progress,
        )  # fmt: skip


def cluster_target(
    target: Task, splits: tuple[Features, Features], options: argparse.Namespace
) -> tuple[Task, tuple[Features, Features], dict]:
    """(the target, its standardised splits) with clusters for labels, and how well they agree with its
    own, which are used for nothing else.
    """
    clusters = cluster(splits[0].x, target.num_classes, options.SEED, options.PSEUDO_SIZES)
    train, test = (clusters.relabel(split) for split in splits)
    agreement = clustering_accuracy(test.y.cpu(), target.test.y) if target.labelled else None
    return with_clusters(target, train.y, test.y), (train, test), {"agreement": agreement}


# ------------------------------------------------------------------------------------- its two parts
def certificate_of(
    pair: Pair, options: argparse.Namespace, settings: ScaleSettings, seconds: dict[str, float]
) -> tuple[dict, dict[str, Tensor]]:
    """(what the record says of the certificate, the learned tensors)."""
    validated = HeadSettings(method="ridge", tau=None)
    heads = [pair.head(which, validated, options, f"{role} head") for which, role in enumerate(ROLES)]
    seconds["heads"] = sum(head.fit_seconds for head in heads)
    with timed(seconds, "certificate"):
        learned = learn_certificate(
            *pair.train, *heads, settings.certificate, learned=options.SETTING, seed=options.SEED
        )
    with timed(seconds, "certificate_bound"):
        certificate = certify(
            learned, heads[1], pair.train, pair.test, pair.class_names,
            bootstrap=options.BOOTSTRAP, seed=options.SEED,
        )  # fmt: skip
    quantities = certificate.quantities()
    require_finite("the certificate", quantities)
    weight_decay = {role: head.weight_decay for role, head in zip(ROLES, heads, strict=True)}
    weight_decay["U"] = learned.weight_decay
    return {**quantities, "weight_decay": weight_decay}, learned.tensors()


def published_form_of(
    pair: Pair,
    options: argparse.Namespace,
    settings: ScaleSettings,
    seconds: dict[str, float],
    resume: ResumePoint,
) -> tuple[dict, dict[str, Tensor], TaskTransform]:
    """(what the record says of the published form, its tensors, the transform with its history)."""
    head = pair.head(0, settings.source_head, options, "source head")
    seconds["source_head"] = head.fit_seconds
    with timed(seconds, "transform"):
        transform = learn_task_transform(
            *pair.train, head, settings.transform, seed=options.SEED, resume=resume
        )
    with timed(seconds, "bound"):
        bound = transfer_bound(
            transform, head, *pair.test,
            tau_measure=settings.tau_measure, bootstrap=options.BOOTSTRAP, seed=options.SEED,
        )  # fmt: skip
    quantities = bound.quantities()
    require_finite("transfer", quantities)
    quantities |= {
        "source_head_optimality_gap": head.optimality_gap,
        "iterations": transform.iterations,
        "final_objective": final_objective(transform, settings.transform),
    }
    return quantities, {**transform.tensors(), "weight": head.weight, "bias": head.bias}, transform


def show_again(
    stored: Mapping,
    fine_tuned: Mapping | None,
    labelled: Mapping | None,
    folder: Path,
    options: argparse.Namespace,
) -> None:
    """What the run showed when it was computed."""
    certified, published = parts_of(options)
    print_heading(stored, reused=True)
    if certified:
        print_certificate(stored, options.SHOW_CLASSES)
    if published:
        draw_published_bound(stored, fine_tuned, folder)  # stage 2 may have run meanwhile
        print_published(stored, fine_tuned)
    print_where(stored, folder)
    if stored["pseudo_labels"]:
        print_pseudo_labels(stored, labelled)


if __name__ == "__main__":
    main()
