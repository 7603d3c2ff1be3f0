"""Heads that were fitted before: kept by the content of their features and settings."""

import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from utils.errors import InputError
from utils.features import Features
from utils.linear_head.fit import fit_linear_head
from utils.linear_head.head import LinearHead
from utils.procedures import HeadSettings
from utils.storage import ResumePoint, digest, load_tensors, only_one, read_if_whole, save_tensors


def shared_linear_head(
    folder: Path,
    features: Features,
    num_classes: int,
    settings: HeadSettings,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: str = "head",
) -> LinearHead:
    """Call `fit_linear_head`, or read the head that another run fitted to the same features and left in
    `folder`: a source has one head for all its targets, a target one for all its sources. Of several
    processes that want it one fits it; `overwrite` fits it anew, once in each process.
    """
    drawn = seed if settings.method == "penalty" else None  # the exact fit draws nothing
    device = features.x.device
    about = (num_classes, asdict(settings), drawn, device.type, FITS)
    about += () if features.groups is None else (features.groups,)
    key = digest(features.x, features.y, *about)
    path = folder / f"{key}.safetensors"
    with only_one(path):
        if path in _FITTED_HERE or not overwrite:
            stored = read_if_whole(path, _stored_head, "the head is fitted again")
            if stored:
                return stored.to(device)
        resume, start = ResumePoint(path.with_suffix(".resume.pt"), key), time.perf_counter()
        head = fit_linear_head(
            features,
            num_classes,
            settings.tau,
            settings.method,
            settings=settings,
            seed=seed,
            resume=resume,
            progress=progress,
        )
        head = replace(head, fit_seconds=time.perf_counter() - start)
        if torch.isfinite(head.weight).all():  # a head that diverged is of no use to anyone
            about = {"key": key} | {name: getattr(head, name) for name in HEAD_FIGURES}
            tensors = {name: getattr(head, name) for name in HEAD_TENSORS}
            save_tensors(path, {name: t for name, t in tensors.items() if t is not None}, about)
        resume.clear()
    _FITTED_HERE.add(path)
    return head


_FITTED_HERE: set[Path] = set()  # --OVERWRITE is for each of a sweep's cells, and they share heads


FITS = 3  # counts the ways in which heads have been fitted: another version's are not used
HEAD_TENSORS = ("weight", "bias", "held_out", "held_out_logits")
HEAD_FIGURES = ("optimality_gap", "fit_seconds", "weight_decay", "held_out_loss")


def _stored_head(path: Path) -> LinearHead:
    tensors, about = load_tensors(path)
    if about.get("key") != path.stem:
        raise InputError(f"{path} holds another head")
    figures = {name: about[name] for name in HEAD_FIGURES}
    return LinearHead(**tensors, **figures)
