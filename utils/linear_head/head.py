"""Linear heads h(x) = softmax(Wx + c): what they are, how steep their loss is, and how well they do.

∇_x ℓ(h(x), y) = Wᵀ(p − e_y) with p = softmax(Wx + c). Since p − e_y lies in the convex hull of
{e_j − e_y}, the exact Lipschitz constant over all x and y is
    L(W) = max_{i≠j} ‖w_i − w_j‖₂.                                                             (1)
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from utils.datasets import select_groups
from utils.features import Features, Standardiser
from utils.grouped import balanced_accuracy, share_interval
from utils.statistics import majority_share


@dataclass(frozen=True)
class Logits:
    """values (n, K) of samples with labels y (n,), numbered from 0 on; groups as in Features."""

    values: Tensor
    y: Tensor
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def select(self, index: Tensor) -> "Logits":
        """Return those of the samples `index`, or of a mask."""
        return Logits(self.values[index], self.y[index], select_groups(self.groups, index))


@dataclass(frozen=True)
class LinearHead:
    """weight (K, d), bias (K,): logits Wx + c of a softmax classifier.

    `optimality_gap`: by how much its training loss may exceed the constrained optimum (nats); None
    where no such bound is known. `fit_seconds`: what fitting it took, here or where it was fitted.
    `weight_decay`, `held_out_loss`, `held_out` (m,) and `held_out_logits` (m, K), of training samples by
    heads that did not see them, belong to a head of validated strength (ridge.py).
    """

    weight: Tensor
    bias: Tensor
    optimality_gap: float | None = None
    fit_seconds: float = 0.0
    weight_decay: float | None = None
    held_out_loss: float | None = None
    held_out: Tensor | None = None
    held_out_logits: Tensor | None = None

    @property
    def num_classes(self) -> int:
        return self.weight.shape[0]

    def logits(self, x: Tensor) -> Tensor:
        """Map x (n, d) to logits (n, K)."""
        return functional.linear(x, self.weight, self.bias)

    def held_out_side(self, side: Features) -> Logits:
        """Return the held-out logits of `side`, the samples that the head was fitted on."""
        groups = select_groups(side.groups, self.held_out)
        return Logits(self.held_out_logits, side.y[self.held_out], groups)

    def to(self, target: torch.device | torch.dtype) -> "LinearHead":
        moved = {"weight": self.weight.to(target), "bias": self.bias.to(target)}
        if isinstance(target, torch.device) and self.held_out is not None:
            moved |= {name: getattr(self, name).to(target) for name in ("held_out", "held_out_logits")}
        return replace(self, **moved)


def on_standardised(weight: Tensor, bias: Tensor, scaler: Standardiser) -> LinearHead:
    """Return the head with these logits on standardised features: W x + c = W (scale · z + mean) + c."""
    return LinearHead(weight * scaler.scale, bias + weight @ scaler.mean)


# ------------------------------------------------------------------------------ Lipschitz constants
def lipschitz_constant(weight: Tensor) -> float:
    """Return L(W) of equation (1), in float64 from the differences themselves (no cancellation)."""
    if weight.shape[0] < 2:
        return 0.0
    return torch.pdist(weight.detach().double().cpu()).max().item()


def loss_gradient_norms(head: LinearHead, x: Tensor) -> Tensor:
    """Return ‖Wᵀ(p − e_y)‖₂ for every row of x (n, d) and every label y: (n, K), float64.

    Expanded as pᵀGp − 2 (Gp)_y + G_yy with G = WWᵀ (K, K), so no (n, K, d) array is made. The
    rows of W are centred first, which changes no difference and removes most cancellation. Where a norm
    is 0 its gradient is taken as 0, the least of the subgradients there.
    """
    weight = head.weight.double()
    weight = weight - weight.mean(0)  # p − e_y sums to zero: what the rows have in common drops out
    gram = weight @ weight.T
    p = torch.softmax(head.logits(x).double(), dim=1)
    gp = p @ gram
    squared = (p * gp).sum(1, keepdim=True) - 2 * gp + gram.diagonal()
    positive = squared > 0  # the square root's slope is infinite at 0, and infinite times 0 is no number
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)


def label_gradient_norms(head: LinearHead, x: Tensor, y: Tensor) -> Tensor:
    """Return ‖∇ℓ(x, y)‖₂ = ‖Wᵀ(p − e_y)‖₂ for each row: (n,), differentiable."""
    direction = torch.softmax(head.logits(x), dim=1) - functional.one_hot(y, head.num_classes)
    return torch.linalg.vector_norm(direction @ head.weight, dim=1)


def summed_gradient_norms(head: LinearHead, x: Tensor, y: Tensor, y_other: Tensor) -> Tensor:
    """Return ‖∇ℓ(x, y) + ∇ℓ(x, y')‖₂ = ‖Wᵀ(2p − e_y − e_y')‖₂ for each row: (n,), differentiable.

    The small-scale released code penalises and reports this sum (equation 3 of penalty.py).
    """
    direction = 2 * torch.softmax(head.logits(x), dim=1)
    direction = direction - functional.one_hot(y, head.num_classes)
    direction = direction - functional.one_hot(y_other, head.num_classes)
    return torch.linalg.vector_norm(direction @ head.weight, dim=1)


@torch.no_grad()
def evaluate_head(head: LinearHead, train: Features, test: Features) -> dict[str, float]:
    """Measure loss (nats) and accuracy on both splits, and how steep the loss is: `tau_measured`, the
    largest ‖∇ℓ‖ over test samples and labels, and `tau_certified`, the constant of (1). Beside the test
    accuracy stand `balanced_accuracy`, the mean over classes, and `majority_share`, what always saying
    the most frequent class is right of.
    """
    logits = {name: head.logits(split.x) for name, split in (("train", train), ("test", test))}
    right = logits["test"].argmax(1) == test.y
    balanced, balanced_interval = balanced_accuracy(right, test.y, test.groups)
    return {
        "test_accuracy": int(right.sum()) / len(test),
        "balanced_accuracy": balanced,
        "majority_share": majority_share(test.y),
        "test_loss": functional.cross_entropy(logits["test"].double(), test.y).item(),
        "train_loss": functional.cross_entropy(logits["train"].double(), train.y).item(),
        "tau_measured": loss_gradient_norms(head, test.x).max().item(),
        "tau_certified": lipschitz_constant(head.weight),
        "optimality_gap": head.optimality_gap,
        "weight_decay": head.weight_decay,
        "held_out_loss": head.held_out_loss,
        "intervals": {
            "test_accuracy": share_interval(right, test.groups),
            "balanced_accuracy": balanced_interval,
        },
    }
