"""What a procedure fixes for the stages of a scale."""

from dataclasses import dataclass

from utils.backbones import TrainingSettings
from utils.certificate import CertificateSettings
from utils.linear_head import HeadSettings
from utils.task_transform import TransformSettings


@dataclass(frozen=True)
class ScaleSettings:
    """Everything a procedure fixes; `training` is None where the networks come pre-trained.

    `target_head` is stage 2's, `source_head` that of the published form; the certificate's two heads
    have validated strength (ridge_head.py). `tau_measure` says how tau_measured is taken (bound.py),
    `deviation_floor` belongs to standardising (features.Standardiser).
    """

    training: TrainingSettings | None
    target_head: HeadSettings
    source_head: HeadSettings
    transform: TransformSettings
    certificate: CertificateSettings
    tau_measure: str
    deviation_floor: float
