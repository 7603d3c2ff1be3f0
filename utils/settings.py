"""What a procedure fixes for the stages of a scale."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from utils.backbones import TrainingSettings
from utils.certificate import CertificateSettings
from utils.described import has_effect
from utils.linear_head import HeadSettings
from utils.relation import RelationSettings
from utils.task_transform import TransformSettings


@dataclass(frozen=True)
class ScaleSettings:
    """Everything a procedure fixes; `training` is None where the networks come pre-trained.

    `target_head` is stage 2's, `source_head` that of the published form; the two heads of the relation
    and of the certificate have validated strength (linear_head/ridge.py). `tau_measure` says how
    tau_measured is taken (bound.py), `deviation_floor` belongs to standardising (features.Standardiser).
    """

    training: TrainingSettings | None
    target_head: HeadSettings
    source_head: HeadSettings
    transform: TransformSettings
    certificate: CertificateSettings
    tau_measure: str
    deviation_floor: float
    relation: RelationSettings = field(default_factory=RelationSettings)


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
    """(head, rows) of each part: a row a setting with what it is, who chose its published value, and its
    value in each of the procedures (—: it has no effect there, or is not set).
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
