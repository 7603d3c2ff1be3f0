"""The form of the published paper: its learned transform and its bounds."""

from utils.published.bound import TAU_MEASURES, TransferBound, transfer_bound
from utils.published.transform import (
    OBJECTIVE_TERMS,
    TaskTransform,
    check_learned,
    distribution_mismatch,
    final_objective,
    learn_task_transform,
)
