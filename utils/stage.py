"""How stages and rankings begin: from parsed options to the network of the source and the tasks."""

import argparse
import contextlib
import glob
import os
import shlex
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from utils.backbones import (
    LENET,
    ROBUST_PREFIX,
    Backbone,
    Classifier,
    NetworkSpec,
    check_backbone_name,
    is_grey_model,
    load_backbone,
    own_classifier,
)
from utils.datasets import Dataset, Grouping, folder_path, is_image_folder, require_folder
from utils.distributed import main_process_first, rank
from utils.errors import InputError, Remark
from utils.features import (
    ALL,
    HEAD,
    PSEUDO,
    PSEUDO_VARIANT,
    SIMILAR,
    Task,
    TaskRequest,
    check_task_name,
    classifier_of_feature_file,
    find_data,
    is_feature_file,
    needs_backbone,
    number_of_classes,
    task_of_dataset,
    task_of_feature_file,
    task_slug,
    too_few_classes,
)
from utils.storage import REPOSITORY, find_network, network_path, networks_like, require_writable

MOST_WORKERS = 8


def check_options(options: argparse.Namespace) -> argparse.Namespace:
    """A copy with the registered spelling in the place of names. Raises InputError for what cannot go
    together or be written to.
    """
    options = argparse.Namespace(**vars(options))
    options.MODEL = chosen_model(options)
    grey_only = is_grey_model(options.MODEL)
    if options.SRC is not None:
        options.SRC = check_task_name(options.SRC, "source", grey_only)
    options.TRG = check_task_name(options.TRG, "target", grey_only)
    if options.LABELS:
        require_folder(options.TRG)
    if grey_only:
        for name in filter(None, (options.SRC, options.TRG)):
            warn_of_grey(name)
    if options.SRC == HEAD and grey_only and not is_feature_file(options.TRG):
        raise InputError(
            f"--SRC {HEAD} is the classifier that a pre-trained network brings: give a --model ({LENET} "
            "is trained on a source)"
        )
    if options.SRC is not None and has_no_network(options):
        given = [flag for flag in ("WEIGHTS", "IMAGE_SIZE") if getattr(options, flag) is not None]
        if given:
            raise InputError(f"--{given[0]} has no effect on features: files, which have no network")
        if not is_feature_file(options.TRG):
            raise needs_backbone(options.TRG)
    require_places(options)
    return options


def has_no_network(options: argparse.Namespace) -> bool:
    """Whether features come from files."""
    return is_feature_file(options.TRG if options.SRC in (None, HEAD) else options.SRC)


def require_places(options: argparse.Namespace) -> None:
    """Raises InputError for a folder that cannot be written to."""
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


# ----------------------------------------------------------------------------------------- the network
@dataclass(frozen=True)
class SourceNetwork:
    """The network of a run. Where features were made elsewhere, `backbone` is None. `source`: what was
    read of it already, a task of features or the folder that a LeNet was trained on. `model` names the
    network in paths and results; `origin` is that of the source's data.
    """

    model: str
    backbone: Backbone | None
    origin: str
    source: Dataset | Task | None = None

    @property
    def about(self) -> dict | None:
        """What determines its features."""
        return self.backbone and self.backbone.about


def network_spec(options: argparse.Namespace) -> NetworkSpec:
    return NetworkSpec(
        options.MODEL, options.CHECKPOINT_DIR, options.WEIGHTS, options.TRUST_CHECKPOINT, options.EPS,
        options.IMAGE_SIZE, options.AUTOCAST, options.SEED, options.DECODER,
        options.IMAGE_BATCH,
    )  # fmt: skip


def open_network(options: argparse.Namespace, device: torch.device) -> SourceNetwork:
    """A pre-trained model, or the LeNet that stage 1 trained on the source. Raises InputError with the
    command that trains a missing one.
    """
    spec, origin, source = network_spec(options), options.DATA, None
    if has_no_network(options):
        read = task_of_feature_file(options.SRC) if is_feature_file(options.SRC or "") else None
        return SourceNetwork("features", None, origin, read)
    if spec.name == LENET:
        if is_image_folder(options.SRC or ""):
            path, source = _trained_on_folder(options)
        else:
            path, origin = _trained_network(options)
        spec = replace(spec, weights=path)
    backbone = main_process_first(lambda: load_backbone(spec, device))
    return SourceNetwork(backbone.name, backbone, origin, source)


def open_classifier(options: argparse.Namespace) -> Classifier:
    """The classifier that --SRC head stands for: the network's own, or the one in the target's file.

    Raises:
        InputError: there is none.
    """
    if is_feature_file(options.TRG):
        return classifier_of_feature_file(options.TRG)
    return main_process_first(lambda: own_classifier(network_spec(options)))


def _trained_network(options: argparse.Namespace) -> tuple[Path, str]:
    """The file that stage 1 left, and the origin of the data it was trained on."""
    source, origin, procedure, seed = options.SRC, options.DATA, options.PROCEDURE, options.SEED
    if source is None:
        raise InputError(f"{LENET} has no weights until stage 1 trains it on a source: give --SRC")
    found = find_network(options.CHECKPOINT_DIR, LENET, task_slug(source), origin, procedure, seed)
    if found is None:
        raise _no_network(options, f"data {origin}")
    return found


def _trained_on_folder(options: argparse.Namespace) -> tuple[Path, Dataset]:
    """The file that stage 1 left, and the folder. By the data alone: it may have had another name. Of
    other data that had its name, as other labels or another split, there may be networks, too.
    """
    slug, of = task_slug(options.SRC), (options.PROCEDURE, options.SEED)
    source = _read_source(options, options.DATA)
    wanted = network_origin(options.SRC, source.provenance)
    path = network_path(options.CHECKPOINT_DIR, LENET, slug, wanted, *of)
    there = (
        [path]
        if path.exists()
        else networks_like(options.CHECKPOINT_DIR, LENET, "folder-*", wanted, *of)
    )
    if not there:
        others = networks_like(options.CHECKPOINT_DIR, LENET, glob.escape(slug), f"{OF_FOLDERS}*", *of)
        text = "; there is one of other images, labels or another split" if others else ""
        raise _no_network(options, f"its images, labels and split as they are now{text}")
    return there[0], source


def _no_network(options: argparse.Namespace, which: str) -> InputError:
    return InputError(
        f"no {options.PROCEDURE} {LENET} trained on {options.SRC} (seed {options.SEED}, {which}) in "
        f"{options.CHECKPOINT_DIR / 'networks'}: train it with `{_training_command(options)}`"
    )


def _training_command(options: argparse.Namespace) -> str:
    """Of stage 1, for the source of these options."""
    command = f"python3 train_source_model.py --SRC {shlex.quote(options.SRC)}"
    flags = [
        ("DATA", "auto"), ("PROCEDURE", "improved"), ("SEED", 0),
        ("CHECKPOINT_DIR", REPOSITORY / "checkpoints"),
    ]  # fmt: skip
    if is_image_folder(options.SRC):
        flags += [("GROUPS", None), ("MAX_CORRUPT", 0), ("MAX_PIXELS", None)]
        flags += [("LABELS", None)] if labels_of_source(options) else []
    for flag, default in flags:
        value = getattr(options, flag)
        command += f" --{flag} {shlex.quote(str(value))}" if value != default else ""
    return command


OF_FOLDERS = "data-"  # how the origin of a network begins that was trained on a folder of images


def network_origin(source: str, provenance: Mapping) -> str:
    """Of the training data, as it stands in the name of a network's file. Folders are who they are by
    their images, labels and splits.
    """
    if not is_image_folder(source):
        return provenance["origin"]
    return f"{OF_FOLDERS}{provenance['sha256']}"


def labels_of_source(options: argparse.Namespace) -> Path | None:
    """--LABELS is the target's list, and the source's if both are one folder."""
    folders = [name for name in (options.SRC, options.TRG) if is_image_folder(name)]
    same = len({folder_path(name).resolve() for name in folders}) == 1 and len(folders) == 2
    return options.LABELS if same else None


def _read_source(
    options: argparse.Namespace, origin: str, classes_to_draw: int | None = None
) -> Dataset | Task:
    """--GROUPS is the target's, and that of a source whose names it fits."""
    request = task_request(options, origin)
    if request.grouping:
        request = replace(request, grouping=replace(request.grouping, where_it_fits=True))
    return find_data(
        options.SRC, request, role="source", classes_to_draw=classes_to_draw,
        labels=labels_of_source(options),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- the tasks
def find_target(
    options: argparse.Namespace, unlabelled_classes: int | None = None, needs_test: bool = True
) -> Dataset | Task:
    """`unlabelled_classes`: of a target without labels. `needs_test`: whether a feature file must hold
    a test split.
    """
    data = find_data(
        options.TRG, task_request(options), role="target", unlabelled_classes=unlabelled_classes,
        labels=options.LABELS, needs_test=needs_test,
    )  # fmt: skip
    return told(data)


def told(data: Dataset | Task) -> Dataset | Task:
    """Says what a folder was taken for."""
    if isinstance(data, Dataset) and data.found and rank() == 0:
        warnings.warn(f"found {data.found}", Remark, stacklevel=2)
    return data


def find_source(
    options: argparse.Namespace, network: SourceNetwork, target: Dataset | Task
) -> Dataset | Task:
    """A source of which classes are drawn offers as many as are asked for, or as the target has. Raises
    InputError for features that do not come from the target's network.
    """
    if options.SOURCE_CLASSES == SIMILAR and options.SRC == "imagenet_small":
        raise InputError(
            "--SOURCE_CLASSES similar chooses among all classes, and imagenet_small is drawn: give "
            "--SRC imagenet"
        )
    count = number_of_classes(options.SOURCE_CLASSES, target.num_classes) or target.num_classes
    require_same_features(options, network, target)
    return told(network.source or _read_source(options, network.origin, count))


def require_same_features(
    options: argparse.Namespace, network: SourceNetwork, target: Dataset | Task
) -> None:
    """Raises InputError unless a target of features can come from the source's network."""
    known = network.backbone or network.source
    dim = known.feature_dim if known else target.feature_dim
    if isinstance(target, Task) and target.feature_dim != dim:
        raise InputError(
            f"{task_slug(options.SRC)} has {dim} features and {target.name} {target.feature_dim}: both "
            "must come from the same backbone"
        )


def count_classes(
    options: argparse.Namespace, source: Dataset | Task, target: Dataset | Task
) -> tuple[int, int]:
    """(of the source, as many as are chosen of it; of the target). Raises InputError for more than there
    are, or than there are samples.
    """
    chosen = number_of_classes(options.SOURCE_CLASSES, target.num_classes)
    if chosen and chosen > source.num_classes:
        raise too_few_classes(options.SOURCE_CLASSES, chosen, source.name, source.num_classes)
    require_samples(target)
    return chosen or source.num_classes, target.num_classes


def require_samples(target: Dataset | Task) -> None:
    """Raises InputError for a target with fewer samples in a split than classes."""
    least = min(len(target.train), len(target.test))
    if target.num_classes > least:
        raise InputError(
            f"--TARGET_CLASSES {target.num_classes}: a split of {target.name} has {least} samples, "
            "fewer than classes"
        )


def warn_of_few_classes(sources: int, targets: int) -> None:
    if sources < targets:
        warnings.warn(
            f"{sources} source classes stand for at most {sources} of the target's {targets}: the "
            "bounds are undefined",
            stacklevel=2,
        )


def variant_slug(options: argparse.Namespace, target_labels: str | None = None) -> str | None:
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
    grouping = Grouping(options.GROUPS) if options.GROUPS else None
    return TaskRequest(
        options.DATA_DIR, cache, origin, options.SEED, workers, options.MAX_CORRUPT,
        options.MAX_PIXELS, grouping,
    )  # fmt: skip


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long its block takes."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
