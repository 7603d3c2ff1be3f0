"""The small scale's settings for a LeNet, the large one's for other models."""

from utils.names import is_grey_model
from utils.procedures.large import settings_for as settings_at_large_scale
from utils.procedures.settings import ScaleSettings
from utils.procedures.small import settings_for as settings_at_small_scale

PROCEDURE_NAMES = ("improved", "published")


def settings_for(
    procedure: str, model: str, source: str | None = None, target: str | None = None
) -> ScaleSettings:
    """Choose a procedure's settings for a model and a pair of tasks."""
    if is_grey_model(model):
        return settings_at_small_scale(procedure, source, target)
    return settings_at_large_scale(procedure, model, target)


def procedures(model: str | None) -> dict[str, ScaleSettings]:
    """Map each procedure to its settings for a model, whatever its tasks: what --help shows."""
    return {name: settings_for(name, (model or "").lower()) for name in PROCEDURE_NAMES}
