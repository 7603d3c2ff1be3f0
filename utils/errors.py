"""The one error a user is expected to cause, and the checks that several modules share."""

import math
from collections.abc import Mapping


class InputError(ValueError):
    """Input that cannot be used: its message is one line that names what is wrong and what to do.

    Stage scripts print the message on stderr and exit with status 2 (`entry.stage_entry`).
    """


class Remark(UserWarning):
    """What is worth knowing of an ordinary run: shown as one line, `remark: …`."""


def require_finite(what: str, values: Mapping[str, object]) -> None:
    """Raise InputError naming the first quantity that is NaN or infinite; None and text may pass."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(
                f"{what} diverged: {name} is {value}; lower the learning rate, τ or the weights"
            )


def check_batch_size(batch_size: int, num_classes: int, num_samples: int) -> None:
    """Raise InputError for a batch that is larger than the data or smaller than the class count."""
    if not num_classes <= batch_size <= num_samples:
        raise InputError(
            f"the batch size must lie between the number of classes ({num_classes}) and the number "
            f"of training samples ({num_samples}), not {batch_size}: give another --BATCH_SIZE"
        )
