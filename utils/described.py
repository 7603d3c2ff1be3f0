"""Fields of settings that say what they are: their help text, where their value was published."""

from dataclasses import MISSING, field, fields
from typing import Any, get_args

RELEASED, OURS = "released code", "here"


def described(default: Any, text: str, source: str = RELEASED, **limits: Any) -> Any:
    """A dataclass field with what flags, --help and docs/settings.md show. `source`: who chose the
    published procedure's value. `limits`: `choices`, or `most` of a whole number.
    """
    assert limits.keys() <= {"choices", "most"}
    return field(default=default, metadata={"help": text, "source": source, **limits})


def kind_of(settings: type, name: str) -> tuple[type, dict]:
    """(type, metadata) of a field; None in a union is left aside."""
    found = {one.name: one for one in fields(settings)}[name]
    types = [kind for kind in get_args(found.type) or (found.type,) if kind is not type(None)]
    assert found.default is not MISSING
    return types[0], dict(found.metadata)
