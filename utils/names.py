"""What flags may name, and where the repository lies. Nothing here takes long to import: `--help` and a
bad flag need no more than this.
"""

import re
from pathlib import Path

from utils.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------------------- networks
LENET, RANDOM_LENET = "lenet", "random:lenet"
TIMM = "timm:"
ROBUST_PREFIX = "robust_"
PRETRAINED_NAMES = (
    "resnet18",
    "resnet50",
    "robust_resnet18",
    "robust_resnet50",
    "simclr",
    "moco",
    "swav",
    "clip",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
)
ALIASES = {"robust": "robust_resnet18"}
MODELS = (
    LENET,
    *PRETRAINED_NAMES,
    *ALIASES,
    f"{TIMM}NAME",
    "open_clip:ARCHITECTURE/WEIGHTS",
    RANDOM_LENET,
    "random:TIMM_NAME",
)
MOST_PIXELS = 4096  # of an image's side
DECODERS = AUTO, PIL = ("auto", "pil")
DEVICES = ("auto", "cpu", "cuda")


def is_grey_model(name: str) -> bool:
    """Tell whether a model sees 28×28 grey images."""
    return name in (LENET, RANDOM_LENET)


# ---------------------------------------------------------------------------------------------- tasks
ORIGINS = ("auto", "full", "embedded")
HEAD = "head"  # in the place of a source: the network's own classifier
SOURCE_CHOICES = ALL, RANDOM, SIMILAR = ("all", "random", "similar")
TARGET_LABELS = GIVEN, PSEUDO = ("given", "pseudo")
MOST_CLASSES = 1_000_000  # as many as no set of labels has
LEVEL_PREFIX = "level:"


def checked_grouping(text: str) -> str:
    """Return the text, if it is a grouping. Raises InputError for one that cannot be read."""
    if text.startswith(LEVEL_PREFIX):
        level_of(text)
        return text
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{text!r} is no regular expression: {error}") from error
    return text


def level_of(text: str) -> int:
    """Read N of `level:N`. Raises InputError where it is none."""
    number = text.removeprefix(LEVEL_PREFIX)
    if not re.fullmatch("[1-9][0-9]?", number):
        raise InputError(f"{text!r} names no level of folders: {LEVEL_PREFIX}1 is the first")
    return int(number)


# ------------------------------------------------------------------------------------------- rankings
ACCURACY, BALANCED = METRICS = ("accuracy", "balanced")  # by which the pick is made
LINEAR, FULL = FINE_TUNINGS = ("linear", "full")
