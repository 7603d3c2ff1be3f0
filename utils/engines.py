"""Engines: where jobs run (this process, processes of this machine, a Ray cluster), and the schedule.

An engine takes a job and gives a future of its Outcome. `run_jobs` keeps it busy, in the order of the
jobs' needs, and tries again what was lost with its worker.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

from utils.errors import InputError
from utils.jobs import FAILED, Job, Outcome, run_job
from utils.storage import REPOSITORY

ANSWER_SECONDS = 10  # for a cluster's address to answer


class Engine(Protocol):
    """`capacity`: how many jobs it takes at a time. close(at_once=True) gives up those that run."""

    capacity: int

    def submit(self, job: Job) -> Future[Outcome]: ...

    def close(self, at_once: bool) -> None: ...


# -------------------------------------------------------------------------------------------- schedule
def run_jobs(
    jobs: Sequence[Job],
    engine: Engine,
    retries: int,
    done: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> dict[Job, Outcome]:
    """Every job's outcome; `done` is told each as it ends. A job whose worker was lost, or that failed
    for no known reason, is run `retries` times more.
    """
    waiting, running = list(jobs), {}
    outcomes: dict[Job, Outcome] = {}
    tries: Counter[Job] = Counter()

    def end(job: Job, outcome: Outcome) -> None:
        outcomes[job] = outcome
        done(job, outcome)

    while waiting or running:
        for job in list(waiting):
            broken = next((need for need in job.needs if _failed(outcomes.get(need))), None)
            if broken:
                waiting.remove(job)
                end(job, Outcome(FAILED, reason=f"needs {broken.name}, which failed"))
            elif len(running) < engine.capacity and _ended(job, outcomes):
                waiting.remove(job)
                tries[job] += 1
                running[engine.submit(job)] = job
        if waiting and not running and not any(_ended(job, outcomes) for job in waiting):
            raise ValueError(f"{waiting[0].name} waits for a job that is not among these")
        finished, _ = wait(running, return_when=FIRST_COMPLETED) if running else ((), ())
        for future in finished:
            job = running.pop(future)
            outcome = _outcome(future)
            if outcome.again and tries[job] <= retries:
                waiting.insert(0, job)
            else:
                end(job, outcome)
    return outcomes


def _ended(job: Job, outcomes: Mapping[Job, Outcome]) -> bool:
    """Whether all that it waits for has ended."""
    return outcomes.keys() >= {*job.needs, *job.follows}


def _failed(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.state == FAILED


def _outcome(future: Future) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # each engine has its own kinds for a worker that died
        reason = " ".join(str(error).split())[:200]
        return Outcome(
            FAILED, reason=f"its process was lost ({type(error).__name__}: {reason})", again=True
        )


# --------------------------------------------------------------------------------------------- engines
class InProcess:
    """One job after another, here."""

    capacity = 1

    def __init__(self, threads: int | None):
        self.threads = threads

    def submit(self, job: Job) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(run_job(job, self.threads))
        return future

    def close(self, at_once: bool) -> None:
        pass


class Processes:
    """Several processes of this machine; each imports PyTorch once and then runs job after job."""

    def __init__(self, count: int, threads: int):
        self.capacity, self.threads = count, threads
        self.pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Not forked: a fork inherits PyTorch's threads in a state that can lock up.
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.capacity, spawn, _ignore_interrupts)

    def submit(self, job: Job) -> Future[Outcome]:
        try:
            return self.pool.submit(run_job, job, self.threads)
        except BrokenProcessPool:  # a process died, and the pool with it
            self.pool.shutdown(wait=False)
            self.pool = self._start()
            return self.pool.submit(run_job, job, self.threads)

    def close(self, at_once: bool) -> None:
        self.pool.shutdown(wait=not at_once, cancel_futures=True)
        if at_once:
            for process in multiprocessing.active_children():
                process.terminate()


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the whole group of processes; the main one says what happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Ray:
    """Tasks on a Ray cluster: an existing one, or one started on this machine. All its machines must
    see the repository and the folders of data, checkpoints and results under the same paths.
    """

    def __init__(self, address: str | None, cpus: int, gpus: float):
        try:
            import ray
        except ImportError as error:
            raise InputError(
                f"--ENGINE ray needs the package ray: pip install -r requirements-ray.txt ({error})"
            ) from error
        self.ray, self.cpus = ray, cpus
        _connect(ray, address)
        resources = ray.cluster_resources()
        if resources.get("CPU", 0) < cpus or resources.get("GPU", 0) < gpus:
            have = {name: resources.get(name, 0) for name in ("CPU", "GPU")}
            self.close(at_once=True)
            raise InputError(f"no task of {cpus} CPUs and {gpus:g} GPUs fits the Ray cluster: {have}")
        # Ray queues what does not fit yet; a few more than fit keep every worker busy.
        self.capacity = 2 * int(resources["CPU"] // cpus)
        # Retries are the schedule's business.
        self.remote = ray.remote(run_job).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)

    def submit(self, job: Job) -> Future[Outcome]:
        return self.remote.remote(job, self.cpus).future()

    def close(self, at_once: bool) -> None:
        self.ray.shutdown()


def _connect(ray, address: str | None) -> None:
    """Joins the cluster, or starts one here. An address that does not answer is refused at once: Ray
    itself would end the whole process after a minute.
    """
    if address:
        _require_answer(address)
    try:
        ray.init(
            address=address or "local", log_to_driver=False, logging_level="ERROR",
            include_dashboard=None if address else False,
            runtime_env={"env_vars": {"PYTHONPATH": str(REPOSITORY)}},
        )  # fmt: skip
    except Exception as error:  # Ray raises half a dozen types
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"Ray at {address or 'this machine'} cannot be used: {reason}") from error


def _require_answer(address: str) -> None:
    hint = "give HOST:PORT of a running cluster (`ray start --head` prints it), auto, or none"
    check = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    if address != "auto":  # which a running cluster has left word of
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except (OSError, ValueError, OverflowError) as error:
            raise InputError(f"--RAY_ADDRESS {address} does not answer ({error}): {hint}") from error
        check += ["--address", address]
    try:
        subprocess.run(check, check=True, capture_output=True, timeout=ANSWER_SECONDS + 5)
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"no Ray cluster answers at --RAY_ADDRESS {address}: {hint}") from error


def choose_engine(
    name: str, *, jobs: int | None, cpus: int | None, gpus: float | None, address: str | None
) -> Engine:
    """`local`: in this process, or in `jobs` processes; `ray`. `cpus`: threads of each job. Raises
    InputError for what has no effect on the engine.
    """
    idle = {"JOBS": jobs} if name == "ray" else {"GPUS": gpus, "RAY_ADDRESS": address}
    for flag, value in idle.items():
        if value is not None:
            raise InputError(f"--{flag} has no effect on --ENGINE {name}")
    if name == "ray":
        return Ray(address, cpus or 1, gpus or 0.0)
    if (jobs or 1) == 1:
        return InProcess(cpus)
    return Processes(jobs, cpus or max(1, (os.cpu_count() or 1) // jobs))
