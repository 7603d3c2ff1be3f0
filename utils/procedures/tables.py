"""Every setting beside its value in each procedure, as docs/settings.md shows it."""

from collections.abc import Mapping
from dataclasses import fields

from utils.described import has_effect
from utils.procedures.settings import ScaleSettings

TABLES = {
    "source network (stage 1)": "training",
    "target head (stage 2)": "target_head",
    "relation (stage 3)": "relation",
    "source head (stage 3, published form)": "source_head",
    "transform (stage 3, published form)": "transform",
    "certificate (stage 3)": "certificate",
}


def settings_tables(
    procedures: Mapping[str, ScaleSettings],
) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Make (head, rows) of each part: a row a setting with what it is, who chose its published value,
    and its value in each of the procedures (—: it has no effect there, or is not set).
    """
    tables = {}
    for title, name in TABLES.items():
        parts = [getattr(scale, name) for scale in procedures.values()]
        kind = next(type(part) for part in parts if part is not None)
        rows = []
        for one in fields(kind):
            values = [_shown(part, one.name) for part in parts]
            rows.append([one.name, one.metadata["help"], one.metadata["source"], *values])
        tables[title] = (["setting", "what it is", "from", *procedures], rows)
    return tables


def _shown(part: object | None, name: str) -> str:
    unused = part is None or not has_effect(part, name)
    value = None if unused else getattr(part, name)
    return "—" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
