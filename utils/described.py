"""Fields of settings that say what they are: their help text, where their value was published."""

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, get_args

RELEASED, OURS = "released code", "here"


def described(
    default: Any,
    text: str,
    source: str = RELEASED,
    *,
    needs: Mapping[str, Any] | None = None,
    **limits: Any,
) -> Any:
    """Make a dataclass field with what flags, --help and docs/settings.md show. `source`: who chose the
    published procedure's value. `needs`: values of other fields without which it has no effect.
    `limits`: `choices`, or `most` of a whole number.
    """
    metadata = {"help": text, "source": source, "needs": needs or {}, **limits}
    return field(default=default, metadata=metadata)


def has_effect(settings: Any, name: str) -> bool:
    """Tell whether a field of these settings has an effect."""
    _, metadata = kind_of(type(settings), name)
    return all(getattr(settings, other) == value for other, value in metadata["needs"].items())


def kind_of(settings: type, name: str) -> tuple[type, Mapping[str, Any]]:
    """Return (type, metadata) of a field; None in a union is left aside."""
    found = {one.name: one for one in fields(settings)}[name]
    types = [kind for kind in get_args(found.type) or (found.type,) if kind is not type(None)]
    return types[0], found.metadata
