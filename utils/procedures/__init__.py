"""Procedures: what the published and the improved one fix, at either scale."""

from utils.procedures.choice import PROCEDURE_NAMES, procedures, settings_for
from utils.procedures.settings import (
    HEAD_METHODS,
    LEARNED,
    LEARNED_ALL,
    NOTHING_LEARNED,
    PENALISED,
    SCHEDULES,
    START_BETTER,
    START_LABEL_MAP,
    START_RANDOM,
    CertificateSettings,
    HeadSettings,
    RelationSettings,
    ScaleSettings,
    TrainingSettings,
    TransformSettings,
)
from utils.procedures.tables import settings_tables
