"""Jobs: the stages that the cells of a table need, each once, and running one in this process.

A cell is (source, target, model, setting, seed). Its jobs are stage 1 for a LeNet, stage 2 and stage
3; cells that need the same network or target head share the job. Whether a result that is there still
holds, the stage itself decides: it compares settings and data.
"""

import argparse
import contextlib
import importlib
import io
import itertools
import shlex
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from utils.backbones import LENET, ROBUST_PREFIX, backbone_label, is_grey_model
from utils.datasets import is_image_folder
from utils.errors import InputError
from utils.features import is_feature_file, task_label
from utils.options import PLACE_FLAGS
from utils.stage import variant_label
from utils.storage import run_folder, write_text

# By name, since the scripts stand above this package; a worker process imports the one that it runs.
SCRIPTS = {
    "train": "train_source_model",
    "finetune": "finetune_source_model_on_target_task",
    "transfer": "transfer_source_to_target",
}
# What a job is planned by, beside its places.
OWN_FLAGS = (
    "SRC", "TRG", "MODEL", "ROBUST", "EPS", "SETTING", "SEED", "PROCEDURE", "DATA", "ANALYSIS",
)  # fmt: skip
COMPUTED, REUSED, FAILED = "computed", "reused", "failed"


@dataclass(frozen=True)
class Job:
    """One stage of one cell: its script's arguments and the folder in which it leaves its result.

    It runs after the jobs of `needs`, and not at all if one of them fails; after those of `follows` as
    they come.
    """

    stage: str
    source: str
    target: str | None
    model: str
    setting: str | None
    seed: int
    argv: tuple[str, ...] = field(repr=False)
    folder: Path = field(repr=False)
    needs: tuple["Job", ...] = field(default=(), repr=False)
    follows: tuple["Job", ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        pair = task_label(self.source) + (f" → {task_label(self.target)}" if self.target else "")
        return " ".join(
            part for part in (self.stage, pair, self.model, self.setting, f"seed {self.seed}") if part
        )

    @property
    def command(self) -> str:
        return shlex.join(["python3", f"{SCRIPTS[self.stage]}.py", *self.argv])


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `computed`, `reused` (its result was there) or `failed`, for a `reason` of one
    line; `again`: whether another try may end otherwise; `warnings`: what the stage warned of.
    """

    state: str
    seconds: float = 0.0
    reason: str = ""
    again: bool = False
    warnings: tuple[str, ...] = ()


def distinct_warnings(outcomes: Iterable[Outcome]) -> list[str]:
    return list(dict.fromkeys(text for outcome in outcomes for text in outcome.warnings))


# -------------------------------------------------------------------------------------------- planning
def plan_jobs(options: argparse.Namespace) -> list[Job]:
    """The jobs of the product SRC × TRG × MODEL × SETTING × SEED, each after those it needs. A task is
    paired with itself only if there is nothing else.
    """
    pairs = list(itertools.product(options.SRC, options.TRG))
    pairs = [(source, target) for source, target in pairs if source != target] or pairs
    jobs: dict[Job, None] = {}
    for (source, target), model, seed in itertools.product(pairs, options.MODEL, options.SEED):
        shared = _Shared(options, source, model, seed)
        trained = (shared.job("train"),) if shared.model == LENET else ()
        # No head can be fitted on a target without labels.
        unlabelled = stage_options(shared.job("transfer", target)).TARGET_CLASSES
        fine_tuned = () if unlabelled else (shared.job("finetune", target, needs=trained),)
        transferred = [
            shared.job("transfer", target, setting, needs=trained, follows=fine_tuned)
            for setting in options.SETTING
        ]
        jobs |= dict.fromkeys([*trained, *fine_tuned, *transferred])
    _require_folders_of_their_own(jobs)
    return list(jobs)


def training_jobs(options: argparse.Namespace) -> list[Job]:
    """Stage 1 of every source, where a LeNet is among the models."""
    sources = [source for source in options.SRC if not is_feature_file(source)]
    jobs = [_Shared(options, source, LENET, options.SEED).job("train") for source in sources]
    return jobs if LENET in options.MODEL else []


def _require_folders_of_their_own(jobs: Iterable[Job]) -> None:
    """Tasks are named in paths by their file alone: two of one name would overwrite each other."""
    owners: dict[Path, Job] = {}
    for job in jobs:
        other = owners.setdefault(job.folder, job)
        if other is not job:
            if other.argv != job.argv and (other.source, other.target) == (job.source, job.target):
                raise InputError(f"{job.source} has no network, whichever it is: give one --model")
            names = sorted({other.source, job.source, other.target or "", job.target or ""} - {""})
            raise InputError(f"two of {', '.join(names)} have one name in the results: rename a file")


@dataclass(frozen=True)
class _Shared:
    """What the jobs of a source, model and seed have in common."""

    options: argparse.Namespace
    source: str
    name: str
    seed: int

    @property
    def model(self) -> str:
        """As it stands in paths and results."""
        if is_feature_file(self.source):
            return "features"
        robust = self.name.startswith(ROBUST_PREFIX)
        return backbone_label(self.name, self.options.EPS if robust else None)

    def job(
        self,
        stage: str,
        target: str | None = None,
        setting: str | None = None,
        needs: tuple[Job, ...] = (),
        follows: tuple[Job, ...] = (),
    ) -> Job:
        options = self.options
        names = (task_label(self.source), target and task_label(target), self.model, setting, self.seed)
        folder = run_folder(options.RESULTS_DIR, stage, *names, options.PROCEDURE)
        argv = ("--SRC", self.source, *(("--TRG", target) if target else ()))
        argv += ("--SEED", str(self.seed), "--PROCEDURE", options.PROCEDURE, *self._places())
        argv += self._given(("CPUS",))
        argv += self._decoding_flags() if stage == "train" else self._image_flags()
        if setting:
            argv += ("--SETTING", setting, "--ANALYSIS", options.ANALYSIS)
        argv = _with_flags(stage, argv, getattr(options, f"{stage.upper()}_FLAGS"))
        if setting:
            variant = variant_label(_script_options(stage, argv))
            folder = run_folder(options.RESULTS_DIR, stage, *names, options.PROCEDURE, variant)
        return Job(
            stage, self.source, target, self.model, setting, self.seed, argv, folder, needs, follows
        )

    def _places(self) -> tuple[str, ...]:
        flags = ("DATA", "DATA_DIR", "CHECKPOINT_DIR", "RESULTS_DIR", "DEVICE", "OVERWRITE")
        return tuple(
            itertools.chain(*((f"--{flag}", str(getattr(self.options, flag))) for flag in flags))
        )

    def _decoding_flags(self) -> tuple[str, ...]:
        return self._given(("WORKERS", "MAX_CORRUPT")) if is_image_folder(self.source) else ()

    def _given(self, flags: Iterable[str]) -> tuple[str, ...]:
        given = {flag: getattr(self.options, flag) for flag in flags}
        words = [(f"--{flag}", str(value)) for flag, value in given.items() if value is not None]
        return tuple(itertools.chain(*words))

    def _image_flags(self) -> tuple[str, ...]:
        flags = ["TRUST_CHECKPOINT", "AUTOCAST", "WORKERS", "MAX_CORRUPT"]
        without_images = is_grey_model(self.name) or is_feature_file(self.source)
        flags += [] if without_images else ["IMAGE_SIZE"]
        flags += ["EPS"] if self.name.startswith(ROBUST_PREFIX) else []
        return ("--MODEL", self.name, *self._given(flags))


def _with_flags(stage: str, argv: tuple[str, ...], flags: Sequence[str]) -> tuple[str, ...]:
    """The arguments with a stage's further flags. Raises InputError for one that would make it another
    job.
    """
    whole = (*argv, *flags)
    if flags:
        if {"-h", "--help"} & {*flags}:
            raise InputError(f"for help ask the script itself: python3 {SCRIPTS[stage]}.py --help")
        ours, theirs = (vars(_script_options(stage, words)) for words in (argv, whole))
        for name in (*OWN_FLAGS, *PLACE_FLAGS):
            if name in ours and ours[name] != theirs[name]:
                raise InputError(f"--{name} is one of the table's own: not for --{stage.upper()}_FLAGS")
    return whole


def check_stage_flags(jobs: Sequence[Job]) -> None:
    """Lets each stage read its flags. Raises the InputError that it would raise."""
    first = {job.stage: job for job in reversed(jobs)}
    for job in first.values():
        stage_options(job)


def stage_options(job: Job) -> argparse.Namespace:
    """The job's arguments as its script reads them."""
    return _script_options(job.stage, job.argv)


def _script_options(stage: str, argv: Sequence[str]) -> argparse.Namespace:
    return importlib.import_module(SCRIPTS[stage]).parse_options(list(argv))


# --------------------------------------------------------------------------------------------- running
def run_job(job: Job, threads: int | None = None) -> Outcome:
    """Runs the stage in this process, on `threads` threads (None: as many as there are). What it prints
    is kept in failed.log beside its result if it fails.
    """
    start, before = time.perf_counter(), _last_change(job.folder)
    said, log, problem = io.StringIO(), job.folder / "failed.log", None
    with threadpool_limits(threads), warnings.catch_warnings(record=True) as caught:
        if threads:
            torch.set_num_threads(threads)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                script = importlib.import_module(SCRIPTS[job.stage])
                script.main.__wrapped__(list(job.argv))
        except Exception as error:  # a cell that fails must not end the others
            problem = error
            trace = traceback.format_exc()
    texts = tuple(dict.fromkeys(" ".join(str(one.message).split()) for one in caught))
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
