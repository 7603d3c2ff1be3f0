"""The transform of the certificate: what makes a classifier of the target task from the source head."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from utils.features import Features
from utils.linear_head import LinearHead, log_class_probabilities

SHARPNESS = 6.0  # B's first logit of the class stood for: with ten classes a probability of 0.98


@dataclass(frozen=True)
class CertificateTransform:
    """U, V (K, d), e, c (K,) and B (K_T, K) of the K source classes that stand for a target class: their
    numbers in the source task, `source_classes` (K,), and the target classes they stand for,
    `stands_for` (K,). `weight_decay`: of U, as chosen. `start` and `end`: the certificate on the same
    training points before and after learning.
    """

    U: Tensor
    V: Tensor
    e: Tensor
    c: Tensor
    B: Tensor
    source_classes: Tensor
    stands_for: Tensor
    weight_decay: float | None = None
    start: float | None = None
    end: float | None = None

    @property
    def improved(self) -> bool:
        """Whether learning found something better than the start."""
        return self.end is not None and self.end < self.start

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name, as they are saved."""
        names = ("U", "V", "e", "c", "B", "source_classes", "stands_for")
        return {name: getattr(self, name) for name in names}

    def double(self) -> "CertificateTransform":
        parts = {name: getattr(self, name).double() for name in ("U", "V", "e", "c", "B")}
        return replace(self, **parts)

    def source_logits(self, x: Tensor) -> Tensor:
        """Return U x + c: (n, K)."""
        return functional.linear(x, self.U, self.c)

    def target_logits(self, z: Tensor) -> Tensor:
        """Return V z − e + c: (n, K)."""
        return functional.linear(z, self.V, self.c - self.e)

    def log_probabilities(self, z: Tensor) -> Tensor:
        """Return log h(z) of target points: (n, K_T)."""
        return log_class_probabilities(self.target_logits(z), self.B)

    def keep(self, source: Features) -> Features:
        """Return the source points of the classes that stand for one, labelled 0..K−1."""
        highest = max(int(source.y.max()), int(self.source_classes.max()))
        number = torch.full((highest + 1,), -1).to(source.y)
        number[self.source_classes] = torch.arange(len(self.source_classes)).to(source.y)
        labels = number[source.y]
        return replace(source, y=labels).select(labels >= 0)

    def feature_maps(self, head: LinearHead) -> tuple[Tensor, Tensor, Tensor]:
        """Return (A, b, Ā) of the smallest change from A = Ā = I, b = 0 with these logits, float64:
            Ā = I + W⁺(V − W),   A = I + V⁺(U − V),   b = V⁺e.
        They have them exactly (softmax ignores a common shift) where W and V reach every centred logit:
        d ≥ K − 1 and no two classes alike.
        """
        kept = head.weight.double()[self.source_classes]
        weight, U, V, e = (part - part.mean(0) for part in (kept, self.U, self.V, self.e))
        U, V, e = U.double(), V.double(), e.double()
        eye = torch.eye(U.shape[1]).to(U)
        inverse = torch.linalg.pinv(V)
        return eye + inverse @ (U - V), inverse @ e, eye + torch.linalg.pinv(weight) @ (V - weight)


def start_transform(
    head: LinearHead, matching: Tensor, targets: int, *, soft: bool
) -> CertificateTransform:
    """Return A = Ā = I, b = 0: both sides have the source head's logits of the classes of `matching`.

    B is the identity, or where it is `soft`, so that it can be learned, near it.
    """
    B = torch.eye(targets).to(head.weight)
    if soft:
        B = torch.softmax(SHARPNESS * B, dim=0)
    weight, bias = head.weight[matching], head.bias[matching]
    return CertificateTransform(
        U=weight,
        V=weight.clone(),
        e=torch.zeros_like(bias),
        c=bias,
        B=B,
        source_classes=matching,
        stands_for=torch.arange(targets).to(matching),
    )


def impossible(sources: int, targets: int) -> str | None:
    """Say why there is no certificate between so many classes; None if there is one."""
    if sources >= targets:
        return None
    return (
        f"no certificate: {sources} source classes cannot stand for {targets} target classes, each of "
        "which needs source points of its own to be compared with; take a source with as many classes"
    )
