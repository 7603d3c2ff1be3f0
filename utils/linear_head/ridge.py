"""Linear heads as a user means them: logistic regression whose strength is chosen by validation.

    min over W, c of  mean ℓ(softmax(Wx + c), y) + λ/2 ‖W‖²                                     (1)

is what scikit-learn's LogisticRegression(C=1/(λ n)) solves. λ is the one of a geometric grid with the
least loss on a held-out fifth of the training samples; of few samples, on each fifth in turn. The head
is then fitted to all of them, and once more without each fifth, until ENOUGH_HELD_OUT samples have
logits from a head that did not see them. These are spread as a new sample's are, where the head's own
are too sure of themselves. No such fit begins at a head that saw the fifth: where there are more
dimensions than samples and λ is small, it would end where it begins.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from utils.linear_head.head import LinearHead
from utils.linear_head.lbfgs import minimise
from utils.progress import progress_bar
from utils.sampling import FOLDS, share_of_each_class, stratified_folds

STEP = math.sqrt(10)  # between neighbours of the grid of λ
EXPONENTS = range(-12, 5)  # λ = STEP^k: from 1e-6 to 100
FIRST_EXPONENT = -3  # 0.03, where the search begins
INDISTINCT = 1e-3  # nats: of weights whose held-out losses are closer than this the strongest is taken
SEARCHED_ON = 10_000  # samples among which λ is searched; for more, n λ stays what it was for those
JUDGED_ON = 1000  # held-out samples that choose λ, if there are as many
ENOUGH_HELD_OUT = 10_000
SEARCHED, FINISHED = 1e-5, 1e-6  # relative progress at which L-BFGS ends
MOST_STEPS = 1000
CHUNK = 2**24  # logits held at a time


Head = tuple[Tensor, Tensor]  # W (K, d) and c (K,)


def fit_validated_ridge(
    x: Tensor, y: Tensor, num_classes: int, progress: str, groups: Tensor | None = None
) -> LinearHead:
    """Choose λ, the `weight_decay`, and fit (1) to x (n, d) and y (n,), float32. Deterministic. Samples
    of one of `groups` (n,) are held out together. A class's only sample, which cannot be spared, is
    among the `held_out` with the logits of the head of all. `held_out_loss` (nats): of the first fifth
    at the chosen λ; None where no class has two samples.
    """
    fold = stratified_folds(y, groups)
    with progress_bar(desc=progress, unit="fit") as bar:
        decay, starts = _choose_weight_decay(x, y, num_classes, fold, bar)
        whole = fit_ridge(x, y, num_classes, decay, starts.get(0))
        held_out = [(fold < 0).nonzero().flatten()]
        logits, loss = [functional.linear(x[held_out[0]], *whole)], None
        for k in range(FOLDS):
            out = fold == k
            if sum(map(len, held_out)) >= ENOUGH_HELD_OUT:
                break
            if not out.any():
                continue
            part = fit_ridge(
                x=x[~out],
                y=y[~out],
                num_classes=num_classes,
                weight_decay=decay,
                start=starts.get(k),
                tolerance=SEARCHED,
            )
            held_out.append(out.nonzero().flatten())
            logits.append(functional.linear(x[out], *part))
            if loss is None:
                loss = functional.cross_entropy(logits[-1].double(), y[out]).item()
            bar.update()
    judged = {"held_out": torch.cat(held_out), "held_out_logits": torch.cat(logits)}
    return LinearHead(*whole, weight_decay=decay, held_out_loss=loss, **judged)


def _choose_weight_decay(
    x: Tensor, y: Tensor, num_classes: int, fold: Tensor, bar: tqdm
) -> tuple[float, dict[int, Head]]:
    """Return (λ, heads to start from, by the fifth that each has not seen): downhill from
    FIRST_EXPONENT, by the loss on the first fifth, or on as many as hold JUDGED_ON samples.
    """
    if not (fold == 0).any():
        return STEP**FIRST_EXPONENT, {}
    share = min(1.0, SEARCHED_ON / len(y))
    used = share_of_each_class(y, fold, share)
    sizes = torch.bincount(fold[used][fold[used] >= 0], minlength=FOLDS)
    judged = [k for k in range(FOLDS) if sizes[k] > 0 and sizes[:k].sum() < JUDGED_ON]
    parts = {}
    for k in judged:
        train, out = used[fold[used] != k], used[fold[used] == k]
        parts[k] = x[train], y[train], x[out], y[out]
    found: dict[int, tuple[float, dict[int, Head]]] = {}

    def loss(exponent: int, start: int | None = None) -> float:
        if exponent not in found:
            total, heads = 0.0, {}
            for k, (x_train, y_train, x_out, y_out) in parts.items():
                before = None if start is None else found[start][1][k]
                heads[k] = fit_ridge(
                    x=x_train,
                    y=y_train,
                    num_classes=num_classes,
                    weight_decay=STEP**exponent,
                    start=before,
                    tolerance=SEARCHED,
                )
                logits = functional.linear(x_out, *heads[k]).double()
                total += functional.cross_entropy(logits, y_out, reduction="sum").item()
                bar.update()
            found[exponent] = total / int(sizes[judged].sum()), heads
        return found[exponent][0]

    for direction in (1, -1):  # stronger first: those fits are quick
        at = FIRST_EXPONENT
        loss(at)
        while at + direction in EXPONENTS and loss(at + direction, at) < loss(at) - INDISTINCT:
            at += direction
    # What is within INDISTINCT of the least is as good: of these the strongest, which is the safest.
    least = min(value for value, _ in found.values())
    best = max(k for k, (value, _) in found.items() if value <= least + INDISTINCT)
    # λ weighs against a mean: for 1/share times as many samples the same prior is share times as strong.
    return STEP**best * share, found[best][1]


def fit_ridge(
    x: Tensor,
    y: Tensor,
    num_classes: int,
    weight_decay: float,
    start: Head | None = None,
    tolerance: float = FINISHED,
) -> Head:
    """Fit (W (K, d), c (K,)) of (1) at one λ, by L-BFGS from `start` (default: zero)."""
    dim = x.shape[1]
    shape = (num_classes, dim + 1)
    flat = torch.zeros(shape, dtype=torch.float64, device=x.device)
    if start is not None:
        flat = torch.cat([start[0], start[1][:, None]], dim=1).double()

    def split(values: Tensor) -> Head:
        both = values.to(x).view(shape)
        return both[:, :dim].contiguous(), both[:, dim].contiguous()

    def objective(values: Tensor) -> tuple[float, Tensor]:
        weight, bias = split(values)
        means = mean_loss(x, y, weight, bias)
        w = weight.double()
        gradient = means.gradient_weight + weight_decay * w
        value = means.loss + weight_decay / 2 * float(w.square().sum())
        return value, torch.cat([gradient, means.gradient_bias[:, None]], dim=1).flatten()

    return split(
        minimise(objective, flat.flatten(), tolerance=tolerance, most_steps=MOST_STEPS).variables
    )


@dataclass(frozen=True)
class Means:
    """Over all samples: loss and entropy of the predictions (nats; the latter where it was asked for),
    the loss's gradients (K, d) and (K,), float64.
    """

    loss: float
    entropy: float
    gradient_weight: Tensor
    gradient_bias: Tensor


def mean_loss(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, with_entropy: bool = False) -> Means:
    """Return mean cross-entropy of softmax(Wx + c) and its gradient, CHUNK logits at a time."""
    loss = entropy = 0.0
    gradient_weight = torch.zeros(weight.shape, dtype=torch.float64, device=x.device)
    gradient_bias = torch.zeros(bias.shape, dtype=torch.float64, device=x.device)
    rows = max(1, CHUNK // len(bias))
    for x_part, y_part in zip(x.split(rows), y.split(rows), strict=True):
        log_p = torch.log_softmax(functional.linear(x_part, weight, bias), dim=1)
        loss -= log_p.gather(1, y_part[:, None]).sum(dtype=torch.float64).item()
        if with_entropy:
            entropy -= (log_p.exp() * log_p).sum(dtype=torch.float64).item()
        # ∂ℓ/∂logits = p − e_y, so that the gradients are (p − e_y)ᵀ x and the sum of p − e_y.
        p = log_p.exp_()
        p[torch.arange(len(y_part), device=x.device), y_part] -= 1
        gradient_weight += p.T @ x_part
        gradient_bias += p.sum(0)
    count = len(y)
    return Means(loss / count, entropy / count, gradient_weight / count, gradient_bias / count)
