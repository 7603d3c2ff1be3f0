"""What a ranking compares: each network at a size of images, with each source or without."""

import itertools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from utils.backbones import NetworkSpec, backbone_slug, check_backbone_name, expand_pattern, split_pixels
from utils.errors import InputError
from utils.features import (
    FEATURE_FILE_PREFIX,
    TaskRequest,
    check_task_name,
    expand_feature_files,
    feature_path,
    is_feature_file,
    require_same_labels,
    task_slug,
)
from utils.names import (
    ACCURACY,
    BALANCED,
    FINE_TUNINGS,
    FULL,
    HEAD,
    LENET,
    METRICS,
    ROBUST_PREFIX,
    is_grey_model,
)
from utils.ranking.truth import Truth, read_truth
from utils.stage import PairRequest, check_pair


# ------------------------------------------------------------------------------------ what is compared
@dataclass(frozen=True)
class RankingSettings:
    """How candidates are compared, the same for all of them.

    The scores see `shots` training images of each class (None: all), at most about `samples` of them;
    `resamples` draws of these, judged by `metric`, say how sure the choice is; `seed` is of every draw.
    Accuracies to compare with are measured (`fine_tuning`: linear, or full for `epochs`; `overwrite`:
    again) or stand in the table `truth`. A pattern stands for at most `most_models` models. `network`
    says how candidates see images, and where their weights lie: name and weights are their own; `tasks`
    where data come from, `labels` the target's list of labels, `procedure` whose settings are taken.
    """

    shots: int | None = None
    samples: int = 10_000
    resamples: int = 2000
    metric: str = ACCURACY
    seed: int = 0
    fine_tuning: str | None = None
    epochs: int = 3
    overwrite: bool = False
    truth: Path | None = None
    most_models: int = 20
    network: NetworkSpec = field(default_factory=lambda: NetworkSpec(LENET))
    tasks: TaskRequest = field(default_factory=TaskRequest)
    labels: Path | None = None
    procedure: str = "improved"
    device: str = "auto"

    def __post_init__(self):
        for value, choices in ((self.metric, METRICS), (self.fine_tuning, (None, *FINE_TUNINGS))):
            if value not in choices:
                raise InputError(f"{value} is none of {', '.join(filter(None, choices))}")


@dataclass(frozen=True)
class Entry:
    """A model and a source (None: none), with all that opening them takes. `file_name`: of the target's
    feature file, where each candidate has its own.
    """

    asked: PairRequest
    file_name: str | None = None

    @staticmethod
    def of(
        text: str,
        source: str | None,
        target: str,
        settings: RankingSettings,
        file_name: str | None = None,
    ) -> "Entry":
        """Read NAME or NAME@PIXELS. Raises InputError for what cannot go together."""
        common = settings.network
        model, image_size = split_pixels(text)
        model = check_backbone_name(model)
        if not is_grey_model(model) and not is_feature_file(source or target):
            image_size = image_size or common.image_size
        eps = common.eps if model.startswith(ROBUST_PREFIX) else None
        own = {"name": model, "weights": None, "eps": eps, "image_size": image_size}
        network = replace(common, seed=settings.seed, **own)
        tasks = replace(settings.tasks, seed=settings.seed)
        asked = PairRequest(
            source=source,
            target=target,
            network=network,
            tasks=tasks,
            labels=settings.labels,
            procedure=settings.procedure,
        )
        return Entry(check_pair(asked), file_name)

    @property
    def model(self) -> str:
        return self.asked.network.name

    @property
    def image_size(self) -> int | None:
        """The side of the square that the network sees; None: its own."""
        return self.asked.network.image_size

    @property
    def source(self) -> str | None:
        return self.asked.source

    @property
    def of_features(self) -> bool:
        """Whether the features were made elsewhere."""
        return is_feature_file(self.source or self.asked.target)

    @property
    def model_name(self) -> str:
        """NAME@PIXELS; features have no network, whatever the model: their file stands for it."""
        if self.of_features:
            return self.file_name or "features"
        return self.model if self.image_size is None else f"{self.model}@{self.image_size}"

    @property
    def source_slug(self) -> str:
        return task_slug(self.source) if self.source else ""

    @property
    def is_control(self) -> bool:
        return self.model.startswith("random:")


@dataclass(frozen=True)
class Comparison:
    """Every model with every source, by the names that they have in tables, on a target; of several
    feature files the `target` is the folder that holds them, `of_files`. `table`: known accuracies.
    """

    target: str
    entries: dict[str, Entry]
    of_files: bool
    settings: RankingSettings
    table: Truth | None = None

    @staticmethod
    def of(
        targets: Sequence[str], models: Sequence[str], sources: Sequence[str], settings: RankingSettings
    ) -> "Comparison":
        """Check everything that can be checked before anything is computed. Raises InputError."""
        if settings.truth and settings.fine_tuning:
            raise InputError(
                "--TRUTH gives the accuracies that --FINETUNE would measure: give one of them"
            )
        files = files_of_target(targets)
        target = _one_target(targets, files, sources)
        if not models and not sources and not is_feature_file(target):
            raise InputError("give the candidates with --model, or --SRC, whose LeNet is one")
        sources = list(dict.fromkeys(check_task_name(name, "source") for name in sources))
        if HEAD in sources:
            raise InputError(
                f"--SRC {HEAD} is for transfer_source_to_target.py: scores of a source need its images "
                "here"
            )
        target = check_task_name(target, "target")
        names = [
            name for text in models or [LENET] for name in expand_pattern(text, settings.most_models)
        ]
        if settings.fine_tuning == FULL and any(is_feature_file(name) for name in (*sources, target)):
            raise InputError("--FINETUNE full needs images and networks: features files have neither")
        targets = files or {None: target}  # by the names of feature files, or one without a name
        entries: dict[str, Entry] = {}
        for text, source, at in itertools.product(names, sources or [None], targets):
            entry = Entry.of(text, source, targets[at], settings, at)
            name = entry.model_name + (f" ({entry.source_slug})" if len(sources) > 1 else "")
            if entries.setdefault(name, entry) != entry:
                raise InputError(f"two candidates are called {name}: rename a file or give one --model")
        found = Comparison(target, entries, bool(files), settings)
        return replace(found, table=found.read_table()) if settings.truth else found

    @property
    def slug(self) -> str:
        """The target's name in paths and results."""
        return task_slug(self.target)

    def read_table(self) -> Truth:
        """Read the known accuracies. Raises InputError that names the candidates without one."""
        if self.settings.metric == BALANCED:
            text = f"{self.settings.truth} is compared as it is; the pick is made by balanced accuracy"
            warnings.warn(text, stacklevel=2)
        table = read_truth(self.settings.truth)
        table.require(self.slug, [self.truth_key(name) for name in self.entries])
        return table

    def truth_key(self, name: str) -> tuple[str, str]:
        """Return (model, source) as a table of accuracies has them."""
        entry = self.entries[name]
        same_size = entry.image_size == self.settings.network.image_size  # a table need not repeat it
        model = entry.model if same_size and not entry.of_features else entry.model_name
        return backbone_slug(model, entry.asked.network.eps), entry.source_slug


def _one_target(targets: Sequence[str], files: dict[str, str], sources: Sequence[str]) -> str:
    """Return the target, or the folder of its feature files, which must be of the same samples."""
    if not targets:
        raise InputError("give the target with --TRG")
    if not files:
        return targets[0]
    if sources:
        raise InputError(
            "--SRC is seen by one network, and the files of --TRG are of several: rank them without "
            "--SRC, or each alone with its network's source"
        )
    require_same_labels(list(files.values()))
    return folder_of_files(files.values())


# ------------------------------------------------------------------ feature files, one of each network
def files_of_target(names: Sequence[str]) -> dict[str, str]:
    """Return targets by what tables call them, where several feature files, one a network, stand for
    one: the names of files without their ending, behind as many folders as tell equal ones apart. Empty
    for a single target. Raises InputError for several targets that are not all feature files.
    """
    expanded = {name: expand_feature_files(name) if is_feature_file(name) else [name] for name in names}
    if len(expanded) == 1 and list(expanded.values()) == [list(expanded)]:
        return {}
    if others := [name for name in expanded if not is_feature_file(name)]:
        raise InputError(
            f"several --TRG must be feature files of the same samples, one a network, and "
            f"{', '.join(others)} is none"
        )
    files: dict[Path, str] = {}
    for name in (name for found in expanded.values() for name in found):
        files.setdefault(Path(os.path.abspath(feature_path(name))), name)
    return dict(zip(_told_apart(list(files)), files.values(), strict=True))


def folder_of_files(names: Sequence[str]) -> str:
    """Return the folder that holds these feature files, as a name of all: features:FOLDER/."""
    folders = [os.path.abspath(feature_path(name).parent) for name in names]
    return f"{FEATURE_FILE_PREFIX}{os.path.commonpath(folders).rstrip('/')}/"


def _told_apart(paths: Sequence[Path]) -> list[str]:
    names = []
    for path in paths:
        same = [other for other in paths if other.stem == path.stem and other != path]
        beside = any(other.parent == path.parent for other in same)  # a.npz and a.NPZ
        folders = [other.parent.parts for other in same if other.parent != path.parent]
        depth, own = 0, path.parent.parts
        while any(other[len(other) - depth :] == own[len(own) - depth :] for other in folders):
            depth += 1
        names.append("/".join([*own[len(own) - depth :], path.name if beside else path.stem]))
    return names
