"""Settings of the small scale: a LeNet on 28×28 images of ten classes.

PUBLISHED holds the released code's hyper-parameters. IMPROVED reaches the same quantities faster;
docs/results.md lists each deviation with its reason and its measured effect.
"""

from dataclasses import replace

from utils.procedures.settings import (
    CertificateSettings,
    HeadSettings,
    ScaleSettings,
    TrainingSettings,
    TransformSettings,
)

PENALTY_HEAD = HeadSettings(
    method="penalty",
    tau=0.2,
    epochs=501,
    batch_size=500,
    learning_rate=1e-4,
    beta1=0.5,
    penalty_weight=1e5,
)

PUBLISHED = ScaleSettings(
    training=TrainingSettings(
        epochs=31, batch_size=256, learning_rate=1e-3, beta1=0.5, decay=5e-4, schedule="inverse_time"
    ),
    target_head=PENALTY_HEAD,
    source_head=replace(PENALTY_HEAD, penalty_weight=1e10),
    transform=TransformSettings(
        iterations=1001,
        batch_size=500,
        learning_rate=1e-2,
        label_learning_rate=1e-2,
        prior_learning_rate=1e-4,
        schedule="constant",
        label_weight=1e8,
        wasserstein_weight=2.0,
        prior_weight=1.0,
        inverse_weight=1.0,
        sampler="truncated",
        source_loss="batch",
    ),
    certificate=CertificateSettings(),
    tau_measure="summed_pair",
    deviation_floor=0.0,
)

IMPROVED = ScaleSettings(
    training=TrainingSettings(
        epochs=10,
        batch_size=64,
        learning_rate=4e-3,
        beta1=0.7,
        schedule="one_cycle",
        weight_decay=0.02,
        shift=1,
        convolution_dropout=0.0,
        max_steps=4000,  # 4 epochs of 60,000 images
    ),
    target_head=HeadSettings(method="ridge", tau=None),
    source_head=HeadSettings(method="lipschitz", tau=0.2),
    transform=replace(
        PUBLISHED.transform,
        iterations=501,
        learning_rate=5e-2,
        label_learning_rate=0.15,
        start="better",
        schedule="cosine",
        sampler="exact",
        source_loss="split",
    ),
    certificate=CertificateSettings(),
    tau_measure="all_labels",
    deviation_floor=0.01,
)

PROCEDURES = {"improved": IMPROVED, "published": PUBLISHED}


def settings_for(procedure: str, source: str, target: str | None = None) -> ScaleSettings:
    """Return a procedure's settings for a pair of tasks: the released code treats USPS by itself."""
    settings = PROCEDURES[procedure]
    if procedure != "published":
        return settings
    target_head, source_head = settings.target_head, settings.source_head
    if source == "USPS":
        target_head = replace(target_head, learning_rate=1e-3)
        source_head = replace(source_head, learning_rate=5e-3, epochs=2001)
    if target == "USPS":
        target_head = replace(target_head, epochs=1001, batch_size=100)
    return replace(settings, target_head=target_head, source_head=source_head)
