"""Engines: where jobs run (this process, processes of this machine, a Ray cluster), and the schedule.

An engine takes a job and gives a future of its Outcome. `run_jobs` keeps it busy, in the order of the
jobs' needs, and tries again what was lost with its worker.
"""

import importlib.util
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from utils.errors import InputError
from utils.names import REPOSITORY
from utils.sweep.jobs import FAILED, Job, Outcome, run_job

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
    started: Callable[[Job], None] = lambda job: None,
) -> dict[Job, Outcome]:
    """Run jobs in the order of their needs and keep an engine busy.

    Args:
        jobs: from `plan_jobs`.
        engine: from `choose_engine`.
        retries: how often a job is run again whose worker was lost, or that failed for no known reason.
        done: told of each job that ended, and how.
        started: told of each job that begins.

    Returns:
        Every job's outcome; one that needs a failed job has failed, too.

    Raises:
        ValueError: a job waits for one that is not among these.

    Source: none; `Engine` says what an engine of one's own must offer.

    Example:
        >>> run_jobs([], InProcess(threads=1), retries=2)
        {}
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
                started(job)
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
    """Tell whether all that it waits for has ended."""
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
    """Several processes of this machine; each imports PyTorch once and then runs job after job. Each has
    a pool of its own: one that dies takes no other's job with it.
    """

    def __init__(self, count: int, threads: int):
        self.capacity, self.threads = count, threads
        self.pools = [self._start() for _ in range(count)]
        self.running: list[Future | None] = [None] * count

    def _start(self) -> ProcessPoolExecutor:
        # Not forked: a fork inherits PyTorch's threads in a state that can lock up.
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare_worker)

    def submit(self, job: Job) -> Future[Outcome]:
        idle = next(k for k, future in enumerate(self.running) if future is None or future.done())
        try:
            future = self.pools[idle].submit(run_job, job, self.threads)
        except BrokenProcessPool:  # its process died
            self.pools[idle].shutdown(wait=False)
            self.pools[idle] = self._start()
            future = self.pools[idle].submit(run_job, job, self.threads)
        self.running[idle] = future
        return future

    def close(self, at_once: bool) -> None:
        for pool in self.pools:
            pool.shutdown(wait=not at_once, cancel_futures=True)
        if at_once:
            for process in multiprocessing.active_children():
                process.terminate()


def _prepare_worker() -> None:
    """Have a worker ignore Ctrl-C, which reaches the whole group of processes: the main one says what
    happens. A worker ends with it, however it ends: another sweep may be allowed into the folder then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # tqdm's own lock is a semaphore, which a worker that is ended leaves behind.
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


class Ray:
    """Tasks on a Ray cluster: an existing one, or one started on this machine. All its machines must
    see the repository and the folders of data, checkpoints and results under the same paths.
    """

    def __init__(self, address: str | None, cpus: int, gpus: float):
        if importlib.util.find_spec("ray") is None:
            raise InputError("--ENGINE ray needs the package ray: pip install -r requirements-ray.txt")
        if address:
            _require_answer(address)  # before Ray is loaded, which looks at its environment only then
        import ray

        self.ray, self.cpus = ray, cpus
        _connect(ray, address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fitting = [_tasks_that_fit(node, cpus, gpus) for node in nodes]
        if not sum(fitting):
            have = [{name: node.get(name, 0) for name in ("CPU", "GPU")} for node in nodes]
            self.close(at_once=True)
            raise InputError(f"no machine of the Ray cluster has {cpus} CPUs and {gpus:g} GPUs: {have}")
        # Ray queues what does not fit yet; a few more than fit keep every worker busy.
        self.capacity = 2 * sum(fitting)
        # Retries are the schedule's business.
        self.remote = ray.remote(run_job).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)

    def submit(self, job: Job) -> Future[Outcome]:
        return self.remote.remote(job, self.cpus).future()

    def close(self, at_once: bool) -> None:
        self.ray.shutdown()


def _tasks_that_fit(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Return how many tasks a machine with these resources runs at a time."""
    fitting = int(node.get("CPU", 0) // cpus)
    return min(fitting, int(node.get("GPU", 0) // gpus)) if gpus else fitting


def _connect(ray, address: str | None) -> None:
    """Join the cluster, or start one here, whose tasks are as urgent as other processes: Ray's own would
    wait for ever on a machine that is busy.
    """
    own = {"include_dashboard": False, "_system_config": {"worker_niceness": 0}}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": {"PYTHONPATH": str(REPOSITORY)}},
            **({} if address else own),
        )
    except Exception as error:  # Ray raises half a dozen types
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"Ray at {address or 'this machine'} cannot be used: {reason}") from error


def _require_answer(address: str) -> None:
    """Raise InputError for an address that does not answer: Ray itself would end the whole process after
    a minute.
    """
    hint = "give HOST:PORT of a running cluster (`ray start --head` prints it), auto, or none"
    check = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    if address != "auto":  # which a running cluster has left word of
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except (OSError, ValueError, OverflowError) as error:
            raise InputError(f"--RAY_ADDRESS {address} does not answer ({error}): {hint}") from error
        check += ["--address", address]
    problem = _health_problem(check)
    token = Path.home() / ".ray" / "auth_token"
    if problem and "RAY_AUTH_MODE" not in os.environ and token.exists():
        # A cluster started beside such a token asks for it; Ray sends it only if it is told to.
        os.environ["RAY_AUTH_MODE"] = "token"
        problem = _health_problem(check)
    if problem:
        raise InputError(f"no Ray cluster answers at --RAY_ADDRESS {address} ({problem}): {hint}")


def _health_problem(check: Sequence[str]) -> str | None:
    """Say what Ray's health check complains of, in one line; None if the cluster is well."""
    try:
        done = subprocess.run(check, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return None if done.returncode == 0 else (said[-1][:200] if said else "no answer")


def choose_engine(
    name: str, *, jobs: int | None, cpus: int | None, gpus: float | None, address: str | None
) -> Engine:
    """Choose what runs the jobs. `local`: in this process, or in `jobs` processes; `ray`. `cpus`:
    threads of each job. Raises InputError for what has no effect on the engine.
    """
    idle = {"JOBS": jobs} if name == "ray" else {"GPUS": gpus, "RAY_ADDRESS": address}
    for flag, value in idle.items():
        if value is not None:
            raise InputError(f"--{flag} has no effect on --ENGINE {name}")
    if gpus and gpus > 1 and gpus != int(gpus):
        raise InputError(f"--GPUS {gpus:g}: a task takes a fraction of one GPU, or whole ones")
    if name == "ray":
        return Ray(address, cpus or 1, gpus or 0.0)
    if (jobs or 1) == 1:
        return InProcess(cpus)
    return Processes(jobs, cpus or max(1, (os.cpu_count() or 1) // jobs))
