"""Which procedure's settings a run has."""

from utils.procedures.choice import settings_for
