"""What a procedure fixes: for each part a dataclass whose fields say what they are, their default, and
who published it.
"""

from dataclasses import dataclass, field, replace

from utils.described import OURS, described

SCHEDULES = ("inverse_time", "one_cycle")
HEAD_METHODS = ("ridge", "lipschitz", "penalty")
PENALISED = ("sum", "separate")
BY_PENALTY = {"method": "penalty"}
BY_ADAM, BY_SGD = ({**BY_PENALTY, "penalised": how} for how in PENALISED)
LEARNED = ("LearnedAll", "LearnedA", "FixedAll")
LEARNED_ALL, NOTHING_LEARNED = LEARNED[0], LEARNED[2]
STARTS = ("random", "label_map", "better")
START_RANDOM, START_LABEL_MAP, START_BETTER = STARTS
MANY_CLASSES = 100  # of the source; with more there are fewer controls, each costs more


@dataclass(frozen=True)
class TrainingSettings:
    """Adam on cross-entropy; the defaults are the released values.

    `inverse_time` divides the rate by 1 + decay · step; `one_cycle` rises to `learning_rate` and falls
    to nearly zero over the whole run. Where `max_steps` would be exceeded, `for_images` gives fewer
    epochs and no shift, which pays only where every image is seen often.
    """

    epochs: int = described(31, "passes over the images (unasked: fewer if images are many)")
    batch_size: int = described(256, "images a step")
    learning_rate: float = described(1e-3, "of Adam")
    beta1: float = described(0.5, "Adam's first decay")
    decay: float = described(5e-4, "of the inverse_time schedule", needs={"schedule": "inverse_time"})
    schedule: str = described("inverse_time", "of the learning rate", choices=SCHEDULES)
    weight_decay: float = described(0.0, "decoupled, as AdamW's", OURS)
    shift: int = described(0, "pixels that an image moves each way, anew in each epoch", OURS)
    convolution_dropout: float = described(0.5, "behind the convolutions")
    max_steps: int | None = described(None, "steps that a run should not exceed", OURS)

    def for_images(self, count: int) -> "TrainingSettings":
        """Return these settings where there are `count` training images: whole epochs, at least one."""
        steps_per_epoch = -(-count // self.batch_size)
        if self.max_steps is None or self.epochs * steps_per_epoch <= self.max_steps:
            return self
        return replace(self, epochs=max(1, self.max_steps // steps_per_epoch), shift=0)


@dataclass(frozen=True)
class HeadSettings:
    """How a head is fitted: `ridge` needs nothing, its strength is chosen by validation; `lipschitz`
    needs τ alone; the rest belongs to `penalty`. `penalised` `sum`: the norms of the true and a random
    label's gradient summed (small scale), by Adam; `separate`: each by itself (large scale), by SGD.
    """

    method: str = described("lipschitz", "how it is fitted", OURS, choices=HEAD_METHODS)
    tau: float | None = described(0.2, "Lipschitz constant of the head's loss")
    epochs: int = described(501, "passes over the features", needs={**BY_PENALTY, "steps": None})
    batch_size: int = described(500, "features a step", needs=BY_PENALTY)
    learning_rate: float = described(1e-4, "of Adam or SGD", needs=BY_PENALTY)
    beta1: float = described(0.5, "Adam's first decay", needs=BY_ADAM)
    penalty_weight: float = described(1e5, "weight of the gradient penalty", needs=BY_PENALTY)
    penalised: str = described(
        "sum", "which gradient norms are penalised", choices=PENALISED, needs=BY_PENALTY
    )
    momentum: float = described(0.9, "of SGD", needs=BY_SGD)
    weight_decay: float = described(0.0, "of SGD", needs=BY_SGD)
    steps: int | None = described(None, "steps in all, in the place of epochs", needs=BY_PENALTY)


@dataclass(frozen=True)
class RelationSettings:
    """How many controls the source's classifier is compared with: p is at least 1 / (controls + 1)."""

    controls: int | None = described(
        None, "of each kind; unset 99, with more than 100 source classes 19", OURS, most=9999
    )

    def count(self, num_sources: int) -> int:
        return self.controls or (99 if num_sources <= MANY_CLASSES else 19)


@dataclass(frozen=True)
class TransformSettings:
    """How a transform is learned; the defaults are the released small-scale values."""

    learned: str = described(
        LEARNED_ALL, "LearnedAll, LearnedA or FixedAll (--SETTING)", "paper", choices=LEARNED
    )
    iterations: int = described(1001, "steps of Adam")
    batch_size: int = described(500, "N, points of each task an iteration")
    learning_rate: float = described(1e-2, "of A, b and A's inverse")
    label_learning_rate: float = described(1e-2, "of B")
    prior_learning_rate: float = described(1e-4, "of D")
    start: str = described(
        START_RANDOM,
        "where B begins: random, label_map, or better: the lower objective after a trial",
        OURS,
        choices=STARTS,
    )
    trial_iterations: int = described(80, "steps of the trial of each start", OURS)
    schedule: str = described(
        "constant", "of the three rates: cosine lets them fall to zero", choices=("constant", "cosine")
    )
    sampler: str = described(
        "exact",
        "exact: N points a side, by largest remainder; truncated: int(N·prior) a class",
        choices=("exact", "truncated"),
    )
    source_loss: str = described(
        "split",
        "where term 1 is estimated: class means of the whole split, or a batch",
        choices=("split", "batch"),
    )
    label_weight: float = described(1e8, "Λ, of label against feature cost")
    wasserstein_weight: float = described(2.0, "λ_WD, of the distribution mismatch")
    prior_weight: float = described(1.0, "λ_PM, of the prior mismatch")
    inverse_weight: float = described(1.0, "λ_IC, of the inverse mismatch")


IMPROVED_TRANSFORM = {  # what the improved procedure changes, at either scale
    "iterations": 501,
    "learning_rate": 5e-2,
    "label_learning_rate": 0.15,
    "start": START_BETTER,
    "schedule": "cosine",
    "sampler": "exact",
    "source_loss": "split",
}


@dataclass(frozen=True)
class CertificateSettings:
    """How the certificate's transform is learned. Adam's rates fall along a cosine over the steps; U's
    own rate is `learning_rate` / √d: a step moves a logit as far whatever the number of features.
    """

    steps: int = described(300, "steps of Adam", OURS)
    points_per_class: int = described(70, "of each class and side in a batch, at most", OURS)
    learning_rate: float = described(0.1, "how far a step of U moves a logit", OURS)
    combination_rate: float = described(5e-3, "of M", OURS)
    offset_rate: float = described(0.05, "of c and e", OURS)
    label_rate: float = described(0.1, "of B's logits", OURS)
    matchings: int = described(4, "ways to pair the classes that are tried", OURS, most=1000)
    trial_steps: int = described(80, "steps of each trial, of a pairing or of a weight of U", OURS)

    @property
    def steps_of_a_trial(self) -> int:
        """A trial takes no more than the learning that it is for."""
        return min(self.trial_steps, self.steps)


@dataclass(frozen=True)
class ScaleSettings:
    """Everything a procedure fixes; `training` is None where the networks come pre-trained.

    `target_head` is stage 2's, `source_head` that of the published form; the two heads of the relation
    and of the certificate have validated strength (linear_head/ridge.py). `tau_measure` says how
    tau_measured is taken (published/bound.py), `deviation_floor` belongs to standardising
    (features.Standardiser).
    """

    training: TrainingSettings | None
    target_head: HeadSettings
    source_head: HeadSettings
    transform: TransformSettings
    certificate: CertificateSettings
    tau_measure: str
    deviation_floor: float
    relation: RelationSettings = field(default_factory=RelationSettings)
