"""Which scale's settings a run has: the small scale's for a LeNet, the large one's for other models."""

from large_scale import settings as large_scale
from small_scale import settings as small_scale
from utils.backbones import is_grey_model
from utils.options import PROCEDURES
from utils.settings import ScaleSettings


def settings_for(
    procedure: str, model: str, source: str | None = None, target: str | None = None
) -> ScaleSettings:
    """A procedure's settings for a model and a pair of tasks."""
    if is_grey_model(model):
        return small_scale.settings_for(procedure, source, target)
    return large_scale.settings_for(procedure, model, target)


def procedures(model: str | None) -> dict[str, ScaleSettings]:
    """Each procedure's settings for a model, whatever its tasks: what --help shows."""
    return {name: settings_for(name, (model or "").lower()) for name in PROCEDURES}
