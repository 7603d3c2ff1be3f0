"""The small scale's settings for a LeNet, the large one's for other models."""

from large_scale import settings as large_scale
from small_scale import settings as small_scale
from utils.backbones import is_grey_model
from utils.settings import ScaleSettings


def settings_for(
    procedure: str, model: str, source: str | None = None, target: str | None = None
) -> ScaleSettings:
    """A procedure's settings for a model and a pair of tasks."""
    if is_grey_model(model):
        return small_scale.settings_for(procedure, source, target)
    return large_scale.settings_for(procedure, model, target)
