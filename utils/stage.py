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
from functools import partial
from pathlib import Path

import torch

from utils.backbones import (
    Backbone,
    Classifier,
    NetworkSpec,
    check_backbone_name,
    load_backbone,
    own_classifier,
)
from utils.datasets import Dataset, Grouping, folder_path, is_image_folder, require_folder
from utils.distributed import main_process_first, rank
from utils.errors import InputError, Remark
from utils.features import (
    PSEUDO_VARIANT,
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
from utils.names import ALL, HEAD, LENET, PSEUDO, REPOSITORY, ROBUST_PREFIX, SIMILAR, is_grey_model
from utils.storage import find_network, network_path, networks_like, require_writable

MOST_WORKERS = 8


# ---------------------------------------------------------------------------------- what is asked for
@dataclass(frozen=True)
class PairRequest:
    """A source, a target, and the network that sees both; either task may be None where it is not asked
    for. `labels`: the target's list of labels. `procedure` trained the source's LeNet. `source_classes`
    are chosen as `number_of_classes` explains.
    """

    source: str | None
    target: str | None
    network: NetworkSpec
    tasks: TaskRequest
    labels: Path | None = None
    procedure: str = "improved"
    source_classes: str = ALL

    @property
    def has_no_network(self) -> bool:
        """Whether features come from files."""
        return is_feature_file(self.target if self.source in (None, HEAD) else self.source)


def pair_request(options: argparse.Namespace) -> PairRequest:
    """Read the options of a stage that has a source and a target."""
    classes = getattr(options, "SOURCE_CLASSES", ALL)
    return PairRequest(
        source=options.SRC,
        target=options.TRG,
        network=network_spec(options, options.MODEL),
        tasks=task_request(options),
        labels=options.LABELS,
        procedure=options.PROCEDURE,
        source_classes=classes,
    )


def network_spec(options: argparse.Namespace, model: str) -> NetworkSpec:
    """Read the options that say how a model sees images, and where its weights lie."""
    weights = getattr(options, "WEIGHTS", None)  # of a single model
    return NetworkSpec(
        name=model,
        folder=options.CHECKPOINT_DIR,
        weights=weights,
        trust=options.TRUST_CHECKPOINT,
        eps=options.EPS,
        image_size=options.IMAGE_SIZE,
        autocast=options.AUTOCAST,
        seed=options.SEED,
        decoder=options.DECODER,
        image_batch=options.IMAGE_BATCH,
    )


def task_request(options: argparse.Namespace) -> TaskRequest:
    """Read the options that say where tasks are loaded from."""
    grouping = Grouping(options.GROUPS) if options.GROUPS else None
    return TaskRequest(
        data_dir=options.DATA_DIR,
        cache_dir=options.CHECKPOINT_DIR / "features",
        origin=options.DATA,
        seed=options.SEED,
        workers=decoding_workers(options.WORKERS),
        max_corrupt=options.MAX_CORRUPT,
        max_pixels=options.MAX_PIXELS,
        grouping=grouping,
    )


def decoding_workers(wanted: int | None) -> int:
    """Return how many processes decode: unasked one for each core that this process may use."""
    if wanted is not None:
        return wanted
    available = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return min(MOST_WORKERS, len(available(0)))


def check_options(options: argparse.Namespace) -> argparse.Namespace:
    """Return a copy with the registered spelling in the place of names. Raises InputError for what
    cannot go together or be written to.
    """
    options = argparse.Namespace(**vars(options))
    options.MODEL = chosen_model(options.MODEL, options.ROBUST, options.EPS)
    asked = check_pair(pair_request(options))
    options.SRC, options.TRG = asked.source, asked.target
    require_places(options)
    return options


def require_places(options: argparse.Namespace) -> None:
    """Raise InputError for a folder that cannot be written to."""
    for flag in ("CHECKPOINT_DIR", "RESULTS_DIR"):
        require_writable(getattr(options, flag), f"--{flag}")


def chosen_model(model: str, robust: bool, eps: float | None) -> str:
    """Return the registered name that --model and --ROBUST mean together."""
    name = check_backbone_name(model)
    if robust and name in ("resnet18", "resnet50"):
        name = ROBUST_PREFIX + name
    is_robust = name.startswith(ROBUST_PREFIX)
    if robust and not is_robust:
        raise InputError(f"--ROBUST True is for resnet18 and resnet50, not for {name}")
    if eps is not None and not is_robust:
        raise InputError("--EPS has no effect on a model that is not robust: add --ROBUST True")
    return name


def check_pair(asked: PairRequest) -> PairRequest:
    """Return a copy with the registered spelling in the place of tasks' names. Raises InputError for
    what cannot go together.
    """
    grey_only, source = is_grey_model(asked.network.name), asked.source
    given = {"WEIGHTS": asked.network.weights, "IMAGE_SIZE": asked.network.image_size}
    given = [flag for flag, value in given.items() if value is not None]
    if grey_only and given:
        raise InputError(f"--{given[0]} has no effect on a LeNet, which stage 1 trains: give a --model")
    if source is not None:
        source = check_task_name(source, "source", grey_only)
    asked = replace(asked, source=source, target=check_task_name(asked.target, "target", grey_only))
    if asked.labels:
        require_folder(asked.target)
    if grey_only:
        for name in filter(None, (source, asked.target)):
            warn_of_grey(name)
    if source == HEAD and grey_only and not is_feature_file(asked.target):
        raise InputError(
            f"--SRC {HEAD} is the classifier that a pre-trained network brings: give a --model ({LENET} "
            "is trained on a source)"
        )
    if source is not None and asked.has_no_network:
        if given:
            raise InputError(f"--{given[0]} has no effect on features: files, which have no network")
        if not is_feature_file(asked.target):
            raise needs_backbone(asked.target)
    return asked


def warn_of_grey(name: str) -> None:
    """Say what a LeNet makes of a folder's images."""
    if is_image_folder(name):
        warnings.warn(f"{name}: its images become 28×28 grey ones for the LeNet", stacklevel=2)


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


def open_network(asked: PairRequest, device: torch.device) -> SourceNetwork:
    """Open a pre-trained model, or the LeNet that stage 1 trained on the source. Raises InputError with
    the command that trains a missing one.
    """
    spec, origin, source = asked.network, asked.tasks.origin, None
    if asked.has_no_network:
        read = task_of_feature_file(asked.source) if is_feature_file(asked.source or "") else None
        return SourceNetwork("features", None, origin, read)
    if spec.name == LENET:
        if is_image_folder(asked.source or ""):
            path, source = _trained_on_folder(asked)
        else:
            path, origin = _trained_network(asked)
        spec = replace(spec, weights=path)
    backbone = main_process_first(lambda: load_backbone(spec, device))
    return SourceNetwork(backbone.name, backbone, origin, source)


def open_classifier(asked: PairRequest) -> Classifier:
    """Open the classifier that --SRC head stands for: the network's own, or the one in the target's
    file.

    Raises:
        InputError: there is none.
    """
    if is_feature_file(asked.target):
        return classifier_of_feature_file(asked.target)
    return main_process_first(lambda: own_classifier(asked.network))


def _trained_network(asked: PairRequest) -> tuple[Path, str]:
    """Find the file that stage 1 left, and the origin of the data it was trained on."""
    if asked.source is None:
        raise InputError(f"{LENET} has no weights until stage 1 trains it on a source: give --SRC")
    spec, origin, slug = asked.network, asked.tasks.origin, task_slug(asked.source)
    found = find_network(
        checkpoints=spec.folder,
        model=LENET,
        source=slug,
        origin=origin,
        procedure=asked.procedure,
        seed=spec.seed,
    )
    if found is None:
        raise _no_network(asked, f"data {origin}")
    return found


def _trained_on_folder(asked: PairRequest) -> tuple[Path, Dataset]:
    """Find the file that stage 1 left, and the folder. By the data alone: it may have had another name.
    Of other data that had its name, as other labels or another split, there may be networks, too.
    """
    slug, of = task_slug(asked.source), (asked.procedure, asked.network.seed)
    named = partial(network_path, asked.network.folder, LENET)
    source = _read_source(asked, asked.tasks.origin)
    wanted = network_origin(asked.source, source.provenance)
    path = named(slug, wanted, *of)
    there = [path] if path.exists() else networks_like(named("folder-*", wanted, *of))
    if not there:
        others = networks_like(named(glob.escape(slug), f"{OF_FOLDERS}*", *of))
        text = "; there is one of other images, labels or another split" if others else ""
        raise _no_network(asked, f"its images, labels and split as they are now{text}")
    return there[0], source


def _no_network(asked: PairRequest, which: str) -> InputError:
    spec = asked.network
    return InputError(
        f"no {asked.procedure} {LENET} trained on {asked.source} (seed {spec.seed}, {which}) in "
        f"{spec.folder / 'networks'}: train it with `{_training_command(asked)}`"
    )


def _training_command(asked: PairRequest) -> str:
    """Return the command of stage 1, for the source of this pair."""
    tasks = asked.tasks
    flags = [
        ("DATA", tasks.origin, "auto"),
        ("PROCEDURE", asked.procedure, "improved"),
        ("SEED", asked.network.seed, 0),
        ("CHECKPOINT_DIR", asked.network.folder, REPOSITORY / "checkpoints"),
    ]
    if is_image_folder(asked.source):
        flags += [
            ("GROUPS", tasks.grouping and tasks.grouping.text, None),
            ("MAX_CORRUPT", tasks.max_corrupt, 0),
            ("MAX_PIXELS", tasks.max_pixels, None),
            ("LABELS", labels_of_source(asked), None),
        ]
    given = [f"--{flag} {shlex.quote(str(value))}" for flag, value, usual in flags if value != usual]
    return " ".join([f"python3 train_source_model.py --SRC {shlex.quote(asked.source)}", *given])


OF_FOLDERS = "data-"  # how the origin of a network begins that was trained on a folder of images


def network_origin(source: str, provenance: Mapping) -> str:
    """Name the training data as they stand in the name of a network's file. Folders are who they are by
    their images, labels and splits.
    """
    if not is_image_folder(source):
        return provenance["origin"]
    return f"{OF_FOLDERS}{provenance['sha256']}"


def labels_of_source(asked: PairRequest) -> Path | None:
    """Return the list of labels of the source: --LABELS is the target's, and the source's if both are
    one folder.
    """
    folders = [name for name in (asked.source, asked.target) if is_image_folder(name)]
    same = len({folder_path(name).resolve() for name in folders}) == 1 and len(folders) == 2
    return asked.labels if same else None


def _read_source(asked: PairRequest, origin: str, classes_to_draw: int | None = None) -> Dataset | Task:
    """Read the source. --GROUPS is the target's, and that of a source whose names it fits."""
    request = replace(asked.tasks, origin=origin)
    if request.grouping:
        request = replace(request, grouping=replace(request.grouping, where_it_fits=True))
    return find_data(
        asked.source,
        request,
        role="source",
        classes_to_draw=classes_to_draw,
        labels=labels_of_source(asked),
    )


# ------------------------------------------------------------------------------------------- the tasks
def find_target(
    asked: PairRequest, unlabelled_classes: int | None = None, needs_test: bool = True
) -> Dataset | Task:
    """Find the target. `unlabelled_classes`: of a target without labels. `needs_test`: whether a feature
    file must hold a test split.
    """
    data = find_data(
        asked.target,
        asked.tasks,
        role="target",
        unlabelled_classes=unlabelled_classes,
        labels=asked.labels,
        needs_test=needs_test,
    )
    return report_found(data)


def report_found(data: Dataset | Task) -> Dataset | Task:
    """Say what a folder was taken for."""
    if isinstance(data, Dataset) and data.found and rank() == 0:
        warnings.warn(f"found {data.found}", Remark, stacklevel=2)
    return data


def find_source(asked: PairRequest, network: SourceNetwork, target: Dataset | Task) -> Dataset | Task:
    """Find the source. One of which classes are drawn offers as many as are asked for, or as the target
    has. Raises InputError for features that do not come from the target's network.
    """
    if asked.source_classes == SIMILAR and asked.source == "imagenet_small":
        raise InputError(
            "--SOURCE_CLASSES similar chooses among all classes, and imagenet_small is drawn: give "
            "--SRC imagenet"
        )
    count = number_of_classes(asked.source_classes, target.num_classes) or target.num_classes
    require_same_features(asked, network, target)
    return report_found(network.source or _read_source(asked, network.origin, count))


def require_same_features(asked: PairRequest, network: SourceNetwork, target: Dataset | Task) -> None:
    """Raise InputError unless a target of features can come from the source's network."""
    known = network.backbone or network.source
    dim = known.feature_dim if known else target.feature_dim
    if isinstance(target, Task) and target.feature_dim != dim:
        raise InputError(
            f"{task_slug(asked.source)} has {dim} features and {target.name} {target.feature_dim}: both "
            "must come from the same backbone"
        )


def count_classes(
    source_classes: str, source: Dataset | Task, target: Dataset | Task
) -> tuple[int, int]:
    """Count the classes (of the source, as many as are chosen of it; of the target). Raises InputError
    for more than there are, or than there are samples.
    """
    chosen = number_of_classes(source_classes, target.num_classes)
    if chosen and chosen > source.num_classes:
        raise too_few_classes(source_classes, chosen, source.name, source.num_classes)
    require_samples(target)
    return chosen or source.num_classes, target.num_classes


def require_samples(target: Dataset | Task) -> None:
    """Raise InputError for a target with fewer samples in a split than classes."""
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


def variant_slug(source_classes: str, target_labels: str) -> str | None:
    """Say in paths and results how a stage-3 run differs from the usual one; None if not."""
    parts = []
    if source_classes != ALL:
        parts.append(f"{source_classes}-classes")
    if target_labels == PSEUDO:
        parts.append(PSEUDO_VARIANT)
    return "_".join(parts) or None


def open_task(data: Dataset | Task, tasks: TaskRequest, network: SourceNetwork) -> Task:
    """Open the features, extracted as far as the cache does not hold them."""
    return data if isinstance(data, Task) else task_of_dataset(data, network.backbone, tasks)


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long its block takes."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
