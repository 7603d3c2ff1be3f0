"""Jobs: the stages that the cells of a table need, each once, and running one in this process.

A cell is (source, target, model, setting, seed). Its jobs are stage 1 for a LeNet, stage 2 and stage
3; cells that need the same network or target head share the job. Whether a result that is there still
holds, the stage itself decides: it compares settings and data.
"""

import argparse
import contextlib
import io
import itertools
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from threadpoolctl import threadpool_limits

from utils.backbones import backbone_slug
from utils.datasets import is_image_folder
from utils.entry import warning_line
from utils.errors import InputError
from utils.features import is_feature_file, task_slug
from utils.names import HEAD, LENET, ROBUST_PREFIX, is_grey_model
from utils.stage import variant_slug
from utils.storage import Run, write_text

COMPUTED, REUSED, FAILED = "computed", "reused", "failed"


class Stage(Protocol):
    """What a stage's script offers. `given`: values of flags that are known, by their names; `run`
    takes options and returns the record of the result.
    """

    __name__: str

    def parse_options(self, argv: Sequence[str], given: Mapping[str, Any]) -> argparse.Namespace: ...

    def run(self, options: argparse.Namespace) -> Mapping | None: ...


@dataclass(frozen=True)
class Job:
    """One stage of one cell: what it is called, what it runs and with which options; `command` would do
    the same.

    It runs after the jobs of `needs`, and not at all if one of them fails; after those of `follows` as
    they come.
    """

    names: Run
    run: Callable[[argparse.Namespace], Any] = field(repr=False)
    options: argparse.Namespace = field(repr=False, compare=False)
    command: str = field(repr=False)
    needs: tuple["Job", ...] = field(default=(), repr=False)
    follows: tuple["Job", ...] = field(default=(), repr=False)

    @property
    def stage(self) -> str:
        return self.names.stage

    @property
    def source(self) -> str:
        """As it was asked for; `names` has it as it stands in paths."""
        return self.options.SRC

    @property
    def target(self) -> str | None:
        return getattr(self.options, "TRG", None)

    @property
    def folder(self) -> Path:
        return self.names.folder(self.options.RESULTS_DIR)

    @property
    def name(self) -> str:
        """For a person."""
        of = self.names
        pair = of.source + (f" → {of.target}" if of.target else "")
        return " ".join(
            part for part in (of.stage, pair, of.model, of.setting, f"seed {of.seed}") if part
        )


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `computed`, `reused` (its result was there) or `failed`, for a `reason` of one
    line; `again`: whether another try may end otherwise; `warnings`: the lines in which the stage warns
    and remarks.
    """

    state: str
    seconds: float = 0.0
    reason: str = ""
    again: bool = False
    warnings: tuple[str, ...] = ()


def distinct_warnings(outcomes: Iterable[Outcome]) -> list[str]:
    return list(dict.fromkeys(text for outcome in outcomes for text in outcome.warnings))


# -------------------------------------------------------------------------------------------- planning
PLACES = ("DATA", "DATA_DIR", "CHECKPOINT_DIR", "RESULTS_DIR", "DEVICE", "OVERWRITE", "CPUS")
SEEING = ("TRUST_CHECKPOINT", "AUTOCAST", "DECODER", "IMAGE_BATCH")
DECODING = ("WORKERS", "MAX_CORRUPT", "MAX_PIXELS", "GROUPS")
# All else that a stage is given makes it the job that was planned: no further flag may change it.
FREE = {"CPUS", "TRUST_CHECKPOINT", "AUTOCAST", "DECODER", "MAX_CORRUPT", "MAX_PIXELS", "IMAGE_SIZE"}


def plan_jobs(options: argparse.Namespace, stages: Mapping[str, Stage]) -> list[Job]:
    """List the jobs of the product SRC × TRG × MODEL × SETTING × SEED, each after those it needs. A task
    is paired with itself only if there is nothing else. Raises InputError for what a stage cannot read.
    """
    pairs = list(itertools.product(options.SRC, options.TRG))
    pairs = [(source, target) for source, target in pairs if source != target] or pairs
    jobs: dict[Job, None] = {}
    for (source, target), model, seed in itertools.product(pairs, options.MODEL, options.SEED):
        shared = _Shared(options, stages, source, model, seed)
        trained = (shared.train(),) if shared.model == LENET and source != HEAD else ()
        transfers = [shared.transfer(target, setting, trained) for setting in options.SETTING]
        if transfers[0].options.TARGET_CLASSES is None:  # a target without labels has no head of its own
            fine_tuned = shared.fine_tune(target, trained)
            jobs |= dict.fromkeys([*trained, fine_tuned])
            transfers = [replace(job, follows=(fine_tuned,)) for job in transfers]
        jobs |= dict.fromkeys([*trained, *transfers])
    _require_folders_of_their_own(jobs)
    return list(jobs)


def training_jobs(options: argparse.Namespace, sources: Sequence[str], stage: Stage) -> list[Job]:
    """List the jobs of stage 1, one a source."""
    stages = {"train": stage}
    return [_Shared(options, stages, source, LENET, options.SEED).train() for source in sources]


def _require_folders_of_their_own(jobs: Iterable[Job]) -> None:
    """Raise InputError for two tasks of one name: they are named in paths by their file alone, and would
    overwrite each other.
    """
    owners: dict[Path, Job] = {}
    for job in jobs:
        other = owners.setdefault(job.folder, job)
        if other is not job:
            if (other.source, other.target) == (job.source, job.target):
                raise InputError(f"{job.source} has no network, whichever it is: give one --model")
            names = sorted({other.source, job.source, other.target or "", job.target or ""} - {""})
            raise InputError(f"two of {', '.join(names)} have one name in the results: rename a file")


@dataclass(frozen=True)
class _Shared:
    """What the jobs of a source, model and seed have in common."""

    options: argparse.Namespace
    stages: Mapping[str, Stage]
    source: str
    name: str
    seed: int

    @property
    def model(self) -> str:
        """As it stands in paths and results."""
        if is_feature_file(self.source):
            return "features"
        robust = self.name.startswith(ROBUST_PREFIX)
        return backbone_slug(self.name, self.options.EPS if robust else None)

    def train(self) -> Job:
        flags = DECODING if is_image_folder(self.source) else ()
        return self._job("train", {name: getattr(self.options, name) for name in flags})

    def fine_tune(self, target: str, needs: tuple[Job, ...]) -> Job:
        return self._job("finetune", {"TRG": target, **self._model_flags()}, needs)

    def transfer(self, target: str, setting: str, needs: tuple[Job, ...]) -> Job:
        own = {"TRG": target, "SETTING": setting, "ANALYSIS": self.options.ANALYSIS}
        return self._job("transfer", {**own, **self._model_flags()}, needs)

    def _model_flags(self) -> dict[str, Any]:
        """Return the flags of the model and of how it sees images, as far as they have an effect."""
        options = self.options
        without_images = is_grey_model(self.name) or is_feature_file(self.source)
        own = {name: getattr(options, name) for name in (*SEEING, *DECODING)}
        return {
            **own,
            "MODEL": self.name,
            "ROBUST": False,
            "EPS": options.EPS if self.name.startswith(ROBUST_PREFIX) else None,
            "IMAGE_SIZE": None if without_images else options.IMAGE_SIZE,
        }

    def _job(self, stage: str, own: Mapping[str, Any], needs: tuple[Job, ...] = ()) -> Job:
        """Make the job of a stage. `own`: what a stage is given beside what all stages of the table have
        in common. Raises InputError for a further flag that would make it another job.
        """
        given = {name: getattr(self.options, name) for name in ("PROCEDURE", *PLACES)}
        given |= {"SRC": self.source, "SEED": self.seed, **own}
        flags = getattr(self.options, f"{stage.upper()}_FLAGS")
        script = self.stages[stage]
        if {"-h", "--help"} & {*flags}:
            raise InputError(f"for help ask the script itself: python3 {script.__name__}.py --help")
        options = script.parse_options(flags, given)
        for flag in given.keys() - FREE:
            if getattr(options, flag) != given[flag]:
                raise InputError(f"--{flag} is one of the table's own: not for --{stage.upper()}_FLAGS")
        target, setting = (given.get(name) for name in ("TRG", "SETTING"))
        of_files = self.source == HEAD and is_feature_file(target or "")
        names = Run(
            stage=stage,
            source=task_slug(self.source),
            target=target and task_slug(target),
            model="features" if of_files else self.model,
            setting=setting,
            seed=self.seed,
            procedure=options.PROCEDURE,
            variant=variant_slug(options.SOURCE_CLASSES, options.TARGET_LABELS) if setting else None,
        )
        return Job(names, script.run, options, options.command_with_places, needs)


# --------------------------------------------------------------------------------------------- running
def run_job(job: Job, threads: int | None = None) -> Outcome:
    """Run the stage in this process, on `threads` threads (None: as many as there are). What it prints
    is kept in failed.log beside its result if it fails.
    """
    start, before = time.perf_counter(), _last_change(job.folder)
    said, log, problem = io.StringIO(), job.folder / "failed.log", None
    with threadpool_limits(threads), warnings.catch_warnings(record=True) as caught:
        if threads:
            torch.set_num_threads(threads)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                job.run(job.options)
        except Exception as error:  # a cell that fails must not end the others
            problem = error
            trace = traceback.format_exc()
    texts = tuple(dict.fromkeys(warning_line(one.message, one.category) for one in caught))
    seconds = time.perf_counter() - start
    if problem is None:
        with contextlib.suppress(OSError):
            log.unlink()
        state = REUSED if _last_change(job.folder) == before else COMPUTED
        return Outcome(state, seconds, warnings=texts)
    reason = " ".join(str(problem).split()) or type(problem).__name__
    expected = isinstance(problem, InputError | OSError)
    if not expected:
        reason = f"{type(problem).__name__}: {reason}"
        with contextlib.suppress(OSError):
            write_text(log, f"{job.command}\n\n{said.getvalue()}\n{trace}")
            reason += f" (see {log})"
    return Outcome(FAILED, seconds, reason, again=not expected, warnings=texts)


def _last_change(folder: Path) -> int | None:
    try:
        return (folder / "result.json").stat().st_mtime_ns
    except OSError:  # absent, or a folder that is none
        return None
