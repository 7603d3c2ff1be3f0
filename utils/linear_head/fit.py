"""Fitting a linear head, by the method that is asked for."""

import numpy as np
import torch

from utils.errors import InputError
from utils.features import Features
from utils.linear_head.head import METHODS, PENALISED, HeadSettings, LinearHead
from utils.linear_head.lipschitz import fit_lipschitz
from utils.linear_head.penalty import fit_penalty
from utils.linear_head.ridge import fit_validated_ridge
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
    """Fits a softmax head to standardised features, by `ridge` (τ is not used) or under the Lipschitz
    constant τ.

    `ridge` chooses its strength by validation and is deterministic; `lipschitz` meets L(W) ≤ τ exactly
    and is deterministic; `penalty` follows the released procedure, which meets it only as far as its
    penalty was minimised. `settings` holds what `penalty` needs beside τ.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
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
        fitted = fit_validated_ridge(features.x, features.y, num_classes, progress)
        return LinearHead(**vars(fitted))
    if method == "lipschitz":
        return fit_lipschitz(features, num_classes, tau, progress)
    return fit_penalty(features, num_classes, tau, settings or HeadSettings(), seed, resume, progress)


def _check_tau(tau: float) -> None:
    if not tau > 0 or not np.isfinite(tau):
        raise ValueError(f"tau must be positive and finite, not {tau}")
    if np.float32(tau) ** 2 == 0:
        raise InputError(f"tau = {tau} is too small: in single precision the head would be constant")
