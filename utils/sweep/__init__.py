"""Whole tables: which stages their cells need, and where these run."""

from utils.sweep.engines import InProcess, Processes, choose_engine, run_jobs
from utils.sweep.jobs import (
    COMPUTED,
    FAILED,
    REUSED,
    Job,
    Outcome,
    distinct_warnings,
    plan_jobs,
    training_jobs,
)
