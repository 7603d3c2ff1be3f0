"""Fitting a linear head, by the method that is asked for."""

import numpy as np
import torch

from utils.errors import InputError
from utils.features import Features
from utils.linear_head.head import LinearHead
from utils.linear_head.lipschitz import fit_lipschitz
from utils.linear_head.penalty import fit_penalty
from utils.linear_head.ridge import fit_validated_ridge
from utils.procedures import HEAD_METHODS, PENALISED, HeadSettings
from utils.storage import ResumePoint


# ------------------------------------------------------------------------------------------ fitting
def fit_linear_head(
    features: Features,
    num_classes: int,
    tau: float | None,
    method: str = "lipschitz",
    *,
    settings: HeadSettings | None = None,
    seed: int = 0,
    resume: ResumePoint | None = None,
    progress: str = "head",
) -> LinearHead:
    """Fit a softmax head to standardised features.

    Args:
        features: x (n, d) float32 with labels y (n,) in 0..K−1, of every class at least one.
        num_classes: K.
        tau: Lipschitz constant of the loss in the features, per unit of x; `ridge` does not use it.
        method: `ridge`, logistic regression whose strength validation chooses; `lipschitz`, the best
            head with L(W) ≤ τ exactly; `penalty`, the released procedure, which meets τ only as far as
            its penalty was minimised. The first two draw nothing.
        settings: what `penalty` needs beside τ.
        seed: of the batches of `penalty`.
        resume: where `penalty` saves its state.
        progress: what the progress bar and errors call the head.

    Returns:
        weight (K, d) and bias (K,); `optimality_gap` (nats) where a bound on it is known.

    Raises:
        InputError: a class has no sample, or the fit diverged.
        ValueError: the method or τ is none.

    Source: arXiv:2307.00823, section 4.2 (Lipschitz heads); docs/method.md for the exact constraint.

    Example:
        >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
        >>> head = fit_linear_head(Features(x, (x[:, 0] > 0).long()), 2, tau=0.5)
        >>> head.weight.shape, head.optimality_gap < 1e-3
        (torch.Size([2, 3]), True)
    """
    if method not in HEAD_METHODS:
        raise ValueError(f"method must be one of {', '.join(HEAD_METHODS)}, not {method!r}")
    if method != "ridge":
        _check_tau(tau)
    counts = torch.bincount(features.y, minlength=num_classes)
    if len(counts) > num_classes or counts.min() == 0:
        raise InputError(
            f"the {progress} cannot be fitted: classes without training samples: "
            f"{(counts[:num_classes] == 0).nonzero().flatten().tolist()}, labels up to "
            f"{len(counts) - 1}, {num_classes} classes"
        )
    if settings and settings.penalised not in PENALISED:
        raise ValueError(f"penalised must be one of {', '.join(PENALISED)}, not {settings.penalised!r}")
    if method == "ridge":
        x, y = features.x, features.y
        return fit_validated_ridge(x, y, num_classes, progress, features.groups)
    if method == "lipschitz":
        return fit_lipschitz(features, num_classes, tau, progress)
    return fit_penalty(
        features=features,
        num_classes=num_classes,
        tau=tau,
        settings=settings or HeadSettings(),
        seed=seed,
        resume=resume,
        progress=progress,
    )


def _check_tau(tau: float) -> None:
    if not tau > 0 or not np.isfinite(tau):
        raise ValueError(f"tau must be positive and finite, not {tau}")
    if np.float32(tau) ** 2 == 0:
        raise InputError(f"tau = {tau} is too small: in single precision the head would be constant")
