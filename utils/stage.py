"""How stages 2 and 3 begin: from parsed options to the source network and the tasks."""

import argparse
import os
import warnings

import torch

from utils.backbones import ROBUST_PREFIX, check_backbone_name, is_grey_model
from utils.datasets import Dataset, is_image_folder
from utils.errors import InputError
from utils.features import (
    Task,
    TaskRequest,
    check_task_name,
    find_data,
    is_feature_file,
    needs_backbone,
    task_of_dataset,
)
from utils.pseudo_labels import PSEUDO, PSEUDO_VARIANT
from utils.source_classes import ALL, SIMILAR, number_of_classes, too_few_classes
from utils.source_network import SourceNetwork, check_feature_dim, load_source_network
from utils.storage import require_writable

MOST_WORKERS = 8


def check_options(options: argparse.Namespace) -> None:
    """Puts the registered spelling in the place of names. Raises InputError for what cannot go together
    or be written to.
    """
    options.MODEL = chosen_model(options)
    grey_only = is_grey_model(options.MODEL)
    if options.SRC is not None:
        options.SRC = check_task_name(options.SRC, "source", grey_only)
    options.TRG = check_task_name(options.TRG, "target", grey_only)
    if grey_only:
        for name in filter(None, (options.SRC, options.TRG)):
            warn_of_grey(name)
    if options.SRC is not None and is_feature_file(options.SRC):
        given = [flag for flag in ("WEIGHTS", "IMAGE_SIZE") if getattr(options, flag) is not None]
        if given:
            raise InputError(f"--{given[0]} has no effect on a features: source, which has no network")
        if not is_feature_file(options.TRG):
            raise needs_backbone(options.TRG)
    for flag in ("CHECKPOINT_DIR", "RESULTS_DIR"):
        require_writable(getattr(options, flag), f"--{flag}")


def warn_of_grey(name: str) -> None:
    """Says what a LeNet makes of a folder's images."""
    if is_image_folder(name):
        warnings.warn(f"{name}: its images become 28×28 grey ones for the LeNet", stacklevel=2)


def chosen_model(options: argparse.Namespace) -> str:
    """The registered name that --model and --ROBUST mean together."""
    name = check_backbone_name(options.MODEL)
    if options.ROBUST and name in ("resnet18", "resnet50"):
        name = ROBUST_PREFIX + name
    robust = name.startswith(ROBUST_PREFIX)
    if options.ROBUST and not robust:
        raise InputError(f"--ROBUST True is for resnet18 and resnet50, not for {name}")
    if options.EPS is not None and not robust:
        raise InputError("--EPS has no effect on a model that is not robust: add --ROBUST True")
    given = [flag for flag in ("WEIGHTS", "IMAGE_SIZE") if getattr(options, flag) is not None]
    if is_grey_model(name) and given:
        raise InputError(f"--{given[0]} has no effect on a LeNet, which stage 1 trains: give a --model")
    return name


def open_network(options: argparse.Namespace, device: torch.device) -> SourceNetwork:
    """Of the source; a target of features alone has no network either."""
    alone = options.TRG if is_feature_file(options.TRG) else None
    return load_source_network(
        options.SRC or alone,
        options.MODEL,
        checkpoints=options.CHECKPOINT_DIR,
        origin=options.DATA,
        procedure=options.PROCEDURE,
        seed=options.SEED,
        device=device,
        weights=options.WEIGHTS,
        trust=options.TRUST_CHECKPOINT,
        eps=options.EPS,
        image_size=options.IMAGE_SIZE,
        autocast=options.AUTOCAST,
    )


def find_target(
    options: argparse.Namespace, network: SourceNetwork, unlabelled_classes: int | None = None
) -> Dataset | Task:
    """`unlabelled_classes`: of a target without labels."""
    request = task_request(options, options.DATA)
    target = find_data(options.TRG, request, role="target", num_classes=unlabelled_classes)
    if isinstance(target, Task):
        check_feature_dim(options.SRC, network, target)
    return target


def find_source(options: argparse.Namespace, network: SourceNetwork, num_targets: int) -> Dataset | Task:
    """A source of which classes are drawn offers as many as are asked for, or as the target has."""
    if options.SOURCE_CLASSES == SIMILAR and options.SRC == "imagenet_small":
        raise InputError(
            "--SOURCE_CLASSES similar chooses among all classes, and imagenet_small is drawn: give "
            "--SRC imagenet"
        )
    count = number_of_classes(options.SOURCE_CLASSES, num_targets) or num_targets
    request = task_request(options, network.origin)
    return find_data(options.SRC, request, role="source", num_classes=count)


def count_classes(
    options: argparse.Namespace, source: Dataset | Task, target: Dataset | Task
) -> tuple[int, int]:
    """(of the source, as many as are chosen of it; of the target). Raises InputError for more than there
    are, or than there are samples.
    """
    chosen = number_of_classes(options.SOURCE_CLASSES, target.num_classes)
    if chosen and chosen > source.num_classes:
        raise too_few_classes(options.SOURCE_CLASSES, chosen, source.name, source.num_classes)
    least = min(len(target.train), len(target.test))
    if target.num_classes > least:
        raise InputError(
            f"--TARGET_CLASSES {target.num_classes}: a split of {target.name} has {least} samples, "
            "fewer than classes"
        )
    return chosen or source.num_classes, target.num_classes


def variant_label(options: argparse.Namespace, target_labels: str | None = None) -> str | None:
    """How a stage-3 run differs from the usual one, as it stands in paths and results; None if not.
    `target_labels`: in the place of the run's own.
    """
    parts = []
    if options.SOURCE_CLASSES != ALL:
        parts.append(f"{options.SOURCE_CLASSES}-classes")
    if (target_labels or options.TARGET_LABELS) == PSEUDO:
        parts.append(PSEUDO_VARIANT)
    return "_".join(parts) or None


def open_task(data: Dataset | Task, options: argparse.Namespace, network: SourceNetwork) -> Task:
    """The features, extracted as far as the cache does not hold them."""
    if isinstance(data, Task):
        return data
    return task_of_dataset(data, network.backbone, task_request(options))


def decoding_workers(options: argparse.Namespace) -> int:
    """Unasked one for each core that this process may use."""
    if options.WORKERS is not None:
        return options.WORKERS
    available = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return min(MOST_WORKERS, len(available(0)))


def task_request(options: argparse.Namespace, origin: str | None = None) -> TaskRequest:
    workers = decoding_workers(options)
    cache = options.CHECKPOINT_DIR / "features"
    origin = origin or options.DATA
    return TaskRequest(options.DATA_DIR, cache, origin, options.SEED, workers, options.MAX_CORRUPT)
