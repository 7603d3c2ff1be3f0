"""The flags that several scripts share, each once.

Flags are upper case as in the published commands; lower case is accepted too. Flags that override
a setting default to what the procedure says, and `--help` shows that value for each procedure.
"""

import argparse
import itertools
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from utils.described import has_effect, kind_of
from utils.errors import InputError
from utils.names import (
    DECODERS,
    DEVICES,
    MODELS,
    MOST_CLASSES,
    MOST_PIXELS,
    ORIGINS,
    REPOSITORY,
    SOURCE_CHOICES,
    checked_grouping,
)
from utils.procedures import (
    CertificateSettings,
    HeadSettings,
    RelationSettings,
    TrainingSettings,
    TransformSettings,
)

PROCEDURE_NAMES = ("improved", "published")
ANALYSES = RELATION, PUBLISHED, CERTIFICATE = ("relation", "published", "certificate")
PLACE_FLAGS = (
    "DATA_DIR",
    "CHECKPOINT_DIR",
    "RESULTS_DIR",
    "DEVICE",
    "OVERWRITE",
    "WORKERS",
    "IMAGE_BATCH",
)


# ---------------------------------------------------------------------------------- values of flags
# Beyond these no setting means anything, and arithmetic overflows.
SMALLEST, LARGEST = 1e-12, 1e9
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def positive_number(text: str) -> float:
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not SMALLEST <= value <= LARGEST:
        raise argparse.ArgumentTypeError(
            f"must be a positive number from {SMALLEST:g} to {LARGEST:g}, not {text!r}"
        )
    return value


def not_negative(text: str) -> float:
    return 0.0 if NUMBER.fullmatch(text) and float(text) == 0 else positive_number(text)


def whole(least: int = 1, most: int = 10**9) -> Callable[[str], int]:
    """Make a reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) < 20
        if not digits or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {least} to {most}, not {text!r}"
            )
        return int(text)

    read.metavar = "N"
    return read


seed_number = whole(0, 2**31 - 1)
class_count = whole(2, MOST_CLASSES)
number_of_threads = whole(1, 1024)
number_of_processes = whole(0, 256)
image_side = whole(1, MOST_PIXELS)


def truth_value(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")
    return values[text.lower()]


truth_value.metavar = "BOOL"


def class_choice(text: str) -> str:
    """Read `all`, `random`, `similar`, or a number of classes as text."""
    if text.lower() in SOURCE_CHOICES:
        return text.lower()
    try:
        return str(class_count(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"must be {', '.join(SOURCE_CHOICES)} or a number of classes from 2 on, not {text!r}"
        ) from None


def grouping(text: str) -> str:
    try:
        return checked_grouping(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Make a reader of names, in any case, that gives the registered spelling."""

    def read(text: str) -> str:
        for choice in choices:
            if choice.lower() == text.lower():
                return choice
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(choices)}, not {text!r}")

    read.metavar = "NAME"
    return read


# ------------------------------------------------------------------------------------------ the parser
class StageParser(argparse.ArgumentParser):
    """Reports an error in one line; takes each flag in upper and in lower case."""

    def __init__(self, description: str, script: str):
        self.script = script
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        raise InputError(message)

    def parse_args(self, args=None, given: Mapping[str, Any] | None = None):
        """Parse as argparse does, but a flag may lack its dashes, as in some of the published commands,
        and unknown arguments are named together in one line. `given`: values that are known already, by
        the names of their flags; they are not asked for.
        """
        given = given or {}
        for action in self._actions:
            action.required = action.required and action.dest not in given
        words, bare = self.with_dashes(args)
        for flag in bare:
            print(f"remark: {flag} is taken as --{flag}", file=sys.stderr)
        options, unknown = self.parse_known_args(words, argparse.Namespace(**given))
        if unknown:
            self.error(f"unknown arguments: {' '.join(unknown)} (see --help)")
        options.command = self.command(options)
        options.command_with_places = self.command(options, PLACE_FLAGS)
        return options

    def command(self, options: argparse.Namespace, also: Sequence[str] = ()) -> str:
        """Return the script, with the flags that differ from their defaults and bear on the numbers, and
        those of `also`.
        """
        words = []
        for action in self._actions:
            value = getattr(options, action.dest, action.default)
            if (action.dest in also or action.dest not in PLACE_FLAGS) and value != action.default:
                if not isinstance(value, list):
                    words += [f"--{action.dest}", str(value)]
                elif action.nargs:
                    words += [f"--{action.dest}", *map(str, value)]
                else:  # flags of another script, given as one word
                    words.append(f"--{action.dest}={shlex.join(value)}")
        return shlex.join(["python3", self.script, *words])

    def with_dashes(self, args: Sequence[str] | None) -> tuple[list[str], list[str]]:
        """Return (words with a bare `TAU 0.02` as `--TAU 0.02` where a flag is expected, the bare
        flags).
        """
        flags, words, bare = self._option_string_actions, [], []
        takes_value = optional = False  # whether the last flag still waits for a value
        for word in sys.argv[1:] if args is None else args:
            if f"--{word}" in flags and (optional or not takes_value):
                bare.append(word)
                word = f"--{word}"
            words.append(word)
            action = flags.get(word)
            takes_value = action is not None and action.nargs != 0
            optional = takes_value and action.nargs == "?"
        return words, bare

    def peek(self, flag: str, args: Sequence[str] | None) -> str | None:
        """Look up a flag's text, or its default, before the parser is complete; nothing is checked."""
        words, _ = self.with_dashes(args)
        names = (f"--{flag}", f"--{flag.lower()}")
        joined = [word.partition("=") for word in words]
        words = [part for name, sign, value in joined for part in ((name, value) if sign else (name,))]
        given = [value for name, value in itertools.pairwise(words) if name in names]
        return given[-1] if given else self.get_default(flag)


def add_flag(group: argparse._ArgumentGroup, name: str, **options: Any) -> None:
    """Add a flag in both cases; what --help calls its value follows its type, unless it is told."""
    options.setdefault("metavar", getattr(options.get("type"), "metavar", None))
    group.add_argument(name, name.lower(), dest=name.removeprefix("--"), **options)


def stage_parser(description: str, script: str, with_target: bool) -> StageParser:
    """Make a parser with the flags that every stage shares."""
    parser = StageParser(description, script)
    task = parser.add_argument_group("what is analysed")
    add_flag(task, "--SRC", required=True, metavar="NAME", help="source data set")
    if with_target:
        add_flag(task, "--TRG", required=True, metavar="NAME", help="target data set")
    add_labels_flag(task, "target" if with_target else "source")
    add_procedure_flag(task)
    add_flag(task, "--SEED", type=seed_number, default=0, help="of every draw (default 0)")
    add_place_flags(parser)
    add_threads_flag(parser)
    return parser


def add_labels_flag(group: argparse._ArgumentGroup, role: str) -> None:
    add_flag(
        group,
        "--LABELS",
        type=Path,
        metavar="FILE",
        help=f"the {role}'s images and their labels, where folders do not say them: CSV or JSON Lines "
        "with file_name, label and, if need be, split; FILE:COLUMN names that of the labels",
    )


def add_procedure_flag(group: argparse._ArgumentGroup) -> None:
    add_flag(
        group,
        "--PROCEDURE",
        type=one_of(PROCEDURE_NAMES),
        default="improved",
        help="improved (default) or published: the released procedure in every hyper-parameter",
    )


def add_analysis_flag(group: argparse._ArgumentGroup, default: Sequence[str]) -> None:
    add_flag(
        group,
        "--ANALYSIS",
        nargs="+",
        type=one_of(ANALYSES),
        default=list(default),
        metavar="PART",
        help="relation (what the source's classes have to do with the target's; the quickest), "
        "published (the paper's form: its learned transform and bound), certificate (what a transformed "
        f"classifier's loss cannot exceed); default {' '.join(default)}",
    )


STAGE_FLAG_EXAMPLES = {
    "train": "--EPOCHS 5",
    "finetune": "--TAU 0.2",
    "transfer": "--BATCH_SIZE 500 --TAU 0.2",
}


def add_stage_flags(group: argparse._ArgumentGroup, stages: Iterable[str] = STAGE_FLAG_EXAMPLES) -> None:
    """Add what scripts that run the stages hand on to each."""
    for stage in stages:
        add_flag(
            group,
            f"--{stage.upper()}_FLAGS",
            type=shlex.split,
            default=[],
            metavar="'FLAGS'",
            help=f"further flags of the {stage} stage, in one word: '{STAGE_FLAG_EXAMPLES[stage]}'",
        )


def add_place_flags(parser: StageParser) -> None:
    """Add the flags of data, files and device."""
    where = parser.add_argument_group("data, files and device")
    add_flag(
        where,
        "--DATA",
        type=one_of(ORIGINS),
        default="auto",
        metavar="ORIGIN",
        help="full, embedded (the committed samples) or auto (default): full where it can be had",
    )
    for flag, folder, what in (
        ("--DATA_DIR", "data", "full data sets"),
        ("--CHECKPOINT_DIR", "checkpoints", "networks and cached features"),
        ("--RESULTS_DIR", "results", "results"),
    ):
        add_flag(
            where,
            flag,
            type=Path,
            default=REPOSITORY / folder,
            metavar="DIR",
            help=f"folder of {what} (default: {folder}/ of the repository)",
        )
    add_flag(
        where,
        "--DEVICE",
        type=one_of(DEVICES),
        default="auto",
        metavar="NAME",
        help="cpu, cuda or auto (default): CUDA where there is one",
    )
    add_flag(
        where,
        "--OVERWRITE",
        type=truth_value,
        nargs="?",
        const=True,
        default=False,
        help="compute again although the result is there (default False)",
    )


def add_threads_flag(parser: StageParser) -> None:
    add_flag(
        parser,
        "--CPUS",
        type=number_of_threads,
        help="threads (default: one a core). The last digits depend on it: 1 gives the same ones on "
        "machines with the same vector instructions and versions",
    )


def add_model_flags(parser: StageParser, default: str | None) -> None:
    """Add the flags of pre-trained models; `default` None: --model is required."""
    group = parser.add_argument_group("model and images")
    add_flag(
        group,
        "--MODEL",
        default=default,
        required=default is None,
        metavar="NAME",
        help=f"{', '.join(MODELS)} (lenet is trained by stage 1); with a features: source it only "
        f"chooses the settings (default {default})",
    )
    add_flag(
        group,
        "--ROBUST",
        type=truth_value,
        default=False,
        help="the adversarially trained version of resnet18 or resnet50 (default False)",
    )
    add_flag(group, "--EPS", type=not_negative, metavar="X", help="ε of the robust model's training")
    add_flag(
        group,
        "--WEIGHTS",
        type=Path,
        metavar="FILE",
        help="the model's weights (default: its published file below --CHECKPOINT_DIR or a download)",
    )
    add_image_flags(group)


def add_many_models_flags(parser: StageParser) -> None:
    """Add the flags of how models see images, for scripts that run the stages for a list of models."""
    group = parser.add_argument_group("images")
    add_image_flags(group)
    add_flag(group, "--EPS", type=not_negative, metavar="X", help="ε of the robust models' training")


def add_image_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of how models see images, whichever model it is."""
    add_flag(
        group,
        "--TRUST_CHECKPOINT",
        type=truth_value,
        default=False,
        help="read a weight file that may run code (default False)",
    )
    add_flag(
        group,
        "--IMAGE_SIZE",
        type=image_side,
        help="side in pixels of the square that the model sees (default: its own)",
    )
    add_flag(
        group,
        "--AUTOCAST",
        type=truth_value,
        default=True,
        help="extract in bfloat16 on CUDA (default True); the CPU computes in float32",
    )
    add_flag(
        group,
        "--DECODER",
        type=one_of(DECODERS),
        default="auto",
        help="auto (default): on CUDA the GPU resizes images and decodes JPEG files, and features are "
        "cached apart; pil: PIL does, on the CPU, as everywhere without CUDA",
    )
    add_flag(
        group,
        "--IMAGE_BATCH",
        type=whole(),
        help="images that pass the network at once, at most (default: by their size; fewer where the "
        "device's memory does not suffice)",
    )
    add_decoding_flags(group)


def add_decoding_flags(group: argparse._ArgumentGroup) -> None:
    add_flag(
        group,
        "--WORKERS",
        type=number_of_processes,
        help="processes that decode images (default: one a core, at most 8); 0: none",
    )
    add_flag(
        group,
        "--MAX_CORRUPT",
        type=whole(0),
        default=0,
        help="images of a split that may be left out because they cannot be decoded (default 0)",
    )
    add_flag(
        group,
        "--MAX_PIXELS",
        type=whole(),
        help="read images of up to N pixels, and refuse from 2 N on (default: Pillow's limit against "
        "files that are made to fill the memory, 89 million)",
    )
    add_flag(
        group,
        "--GROUPS",
        type=grouping,
        metavar="PATTERN",
        help="images that are not independent, of one patient or scene, are held out together and count "
        "as one: a regular expression whose first group in CLASS/…/FILE names the image's group, as "
        "'(patient\\d+)', or level:N, the Nth folder below the class folder (default: none belong "
        "together). Of the target, and of a source whose names it fits",
    )


# ------------------------------------------------------------------------- flags that override settings
@dataclass(frozen=True)
class SettingFlag:
    """A flag that overrides one field of a settings dataclass."""

    name: str
    field: str
    read: Callable[[str], Any]
    help: str


def flags_of(settings: type, **names: str) -> tuple[SettingFlag, ...]:
    """Return fields by the names of their flags: how each is read and its help stand in the field."""
    flags = []
    for field, name in names.items():
        kind, described = kind_of(settings, field)
        if "choices" in described:
            read = one_of(described["choices"])
        else:
            read = whole(1, described.get("most", 10**9)) if kind is int else positive_number
        flags.append(SettingFlag(name, field, read, described["help"]))
    return tuple(flags)


TRAINING_FLAGS = flags_of(
    TrainingSettings, epochs="--EPOCHS", batch_size="--BATCH_SIZE", learning_rate="--LEARNING_RATE"
)
HEAD_FLAGS = flags_of(
    HeadSettings,
    tau="--TAU",
    epochs="--EPOCHS",
    steps="--STEPS",
    batch_size="--BATCH_SIZE",
    learning_rate="--LEARNING_RATE",
    penalty_weight="--PENALTY",
)
SOURCE_HEAD_FLAGS = flags_of(  # in stage 3, where the transform has flags of those names
    HeadSettings,
    tau="--TAU",
    epochs="--HEAD_EPOCHS",
    steps="--HEAD_STEPS",
    learning_rate="--HEAD_LEARNING_RATE",
    penalty_weight="--PENALTY",
)
TRANSFORM_FLAGS = flags_of(
    TransformSettings,
    **{
        field.name: f"--{field.name.upper()}"
        for field in fields(TransformSettings)
        if field.name != "learned"  # --SETTING, which the certificate has, too
    },
)
RELATION_FLAGS = flags_of(RelationSettings, controls="--CONTROLS")
CERTIFICATE_FLAGS = flags_of(CertificateSettings, steps="--CERTIFICATE_STEPS", matchings="--MATCHINGS")


def add_setting_flags(
    parser: StageParser, title: str, flags: Sequence[SettingFlag], settings: Mapping[str, Any], part: str
) -> None:
    """Add one flag a field of a `part` of each procedure's `settings`, which --help shows."""
    group = parser.add_argument_group(f"{title} [default of each procedure]")
    for flag in flags:
        values = {name: _default(getattr(scale, part), flag) for name, scale in settings.items()}
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        add_flag(group, flag.name, type=flag.read, metavar="X", help=f"{flag.help} [{shown}]")


def _default(settings: Any, flag: SettingFlag) -> str:
    if not has_effect(settings, flag.field):
        return "—"
    value = getattr(settings, flag.field)
    return "by validation" if value is None and flag.field == "tau" else str(value)


def override(settings: Any, flags: Sequence[SettingFlag], options: argparse.Namespace) -> Any:
    """Return the settings with the fields replaced whose flags were given."""
    given = {}
    for flag in flags:
        value = getattr(options, flag.name.removeprefix("--"))
        if value is None:
            continue
        if not has_effect(settings, flag.field):
            instead = (
                "--PROCEDURE published"
                if settings.method in ("ridge", "lipschitz")
                else "the number of steps"
            )
            raise InputError(f"{flag.name} has no effect on this procedure's head; use {instead}")
        given[flag.field] = value
    if "tau" in given and settings.method == "ridge":
        given["method"] = "lipschitz"
    return replace(settings, **given)
