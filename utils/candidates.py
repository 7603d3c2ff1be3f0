"""A candidate of a ranking: a model with its source, and every score of it for one target."""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.datasets import Dataset
from utils.device import choose_device
from utils.errors import InputError
from utils.features import Standardiser, Task, standardise
from utils.fine_tuning import RECIPE, fine_tune
from utils.jobs import Job
from utils.pretrained import imagenet_accuracy
from utils.ranking import Score, half_samples, interval_of
from utils.source_classes import choose_source_classes
from utils.stage import decoding_workers, find_source, find_target, open_network, open_task
from utils.storage import digest, read_result, write_json
from utils.summary import PUBLISHED_NAMES, QUANTITIES, quantities_of
from utils.task_transform import draw_by_counts, index_by_class
from utils.transferability import OF_FEATURES, OF_PROBABILITIES, source_classifier

# Of stage 3's result, each a loss.
OF_RESULT = (
    "bound_certified", "certified_source_loss", "certified_transport", "target_loss",
    "bound_published", "weighted_source_loss", "label_mismatch", "distribution_mismatch",
)  # fmt: skip

# What each part of a stage-3 result takes.
SECONDS = {
    "certificate": ("heads", "certificate", "certificate_bound"),
    "published": ("source_head", "transform", "bound"),
}


@dataclass(frozen=True)
class Candidate:
    """A model with its source, its stage results, and the data that its scores are computed from:
    features x (n, d) and labels y (n,) of the target's training split, a source classifier's
    `probabilities` (n, K_S) and what fitting it took. `network` tells one network from another.
    """

    model: str
    source: str
    network: Hashable
    transfer: Mapping
    fine_tuned: Mapping
    x: np.ndarray
    y: np.ndarray
    probabilities: np.ndarray
    classifier_seconds: float
    size: int | None
    imagenet: float | None

    @property
    def name(self) -> str:
        return f"{self.model} ({self.source})"


def open_candidate(
    job: Job, options: argparse.Namespace, deviation_floor: float, samples: int
) -> Candidate:
    """Reads the results of a stage-3 job and its stage-2 job; features come from where they left them.
    `options` are the job's, checked.
    """
    device = choose_device(options.DEVICE)
    network = open_network(options, device)
    target_data = find_target(options, network)
    target = open_task(target_data, options, network)
    source = open_task(find_source(options, network, target_data.num_classes), options, network)
    source = choose_source_classes(source, target, options.SOURCE_CLASSES, options.SEED)
    index = _some_of_each_class(target.train.y, target.num_classes, samples, options.SEED)
    target_train, _ = standardise(target, device, deviation_floor)
    start = time.perf_counter()
    probabilities = _source_probabilities(
        source, target.train.x[index], deviation_floor, samples, options
    )
    seconds = time.perf_counter() - start
    (fine_tuning,) = job.follows
    size = network.backbone and sum(p.numel() for p in network.backbone.network.parameters())
    return Candidate(
        network.model, source.name, digest(network.about) if network.about else source.name,
        read_result(job.folder), read_result(fine_tuning.folder),
        target_train.x[index.to(device)].double().cpu().numpy(), target.train.y[index].numpy(),
        probabilities, seconds, size, imagenet_accuracy(options.MODEL) if network.backbone else None,
    )  # fmt: skip


def _some_of_each_class(labels: torch.Tensor, num_classes: int, count: int, seed: int) -> torch.Tensor:
    """At most `count` samples, as many of each class as its share, in a mixed order."""
    index = index_by_class(labels, num_classes)
    share = min(1.0, count / len(labels))
    counts = torch.tensor([max(2, round(share * len(members))) for members in index])
    generator = torch.Generator().manual_seed(seed)
    chosen = draw_by_counts(index, counts.clamp_max(torch.tensor([len(m) for m in index])), generator)
    return chosen[torch.randperm(len(chosen), generator=generator).to(chosen.device)]


def _source_probabilities(
    source: Task, x: torch.Tensor, deviation_floor: float, samples: int, options: argparse.Namespace
) -> np.ndarray:
    """What a classifier of the source's classes makes of the target's features x: (n, K_S). It is fitted
    to some of the source's training features without τ, and sees x as it sees them: scaled as the
    source.
    """
    scaler = Standardiser.fit(source.train.x, deviation_floor)
    index = _some_of_each_class(source.train.y, source.num_classes, samples, options.SEED)
    fitted = source_classifier(
        scaler(source.train.x[index]).double().numpy(), source.train.y[index].numpy()
    )
    return fitted.predict_proba(scaler(x).double().numpy())


# ----------------------------------------------------------------------------------------- the scores
def score_candidate(candidate: Candidate, resamples: int, seed: int) -> dict[str, Score]:
    """Every metric of a candidate; its seconds are those of the score itself, without its interval. One
    that these data leave undefined is left out, with a warning.
    """
    scores = _scores_of_result(candidate.transfer)
    halves = half_samples(candidate.y, resamples, seed)
    for metrics, data, before in (
        (OF_FEATURES, candidate.x, 0.0),
        (OF_PROBABILITIES, candidate.probabilities, candidate.classifier_seconds),
    ):
        for name, metric in metrics.items():
            try:
                scores[name] = _timed(metric, data, candidate.y, halves, before)
            except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
                warnings.warn(f"{name} of {candidate.name} is undefined ({error})", stacklevel=2)
    if candidate.size is not None:
        scores["model size (log10)"] = Score(math.log10(candidate.size), None, 0.0)
    if candidate.imagenet is not None:
        scores["ImageNet accuracy"] = Score(candidate.imagenet, None, 0.0)
    return scores


def _scores_of_result(record: Mapping) -> dict[str, Score]:
    values, scores = quantities_of(record, None), {}
    for name in OF_RESULT:
        if values[name] is None:
            continue
        part = "published" if name in PUBLISHED_NAMES else "certificate"
        interval = (record[part]["intervals"] or {}).get(PUBLISHED_NAMES.get(name, name))
        seconds = sum(record["seconds"][step] for step in SECONDS[part])
        scores[QUANTITIES[name]] = Score(
            values[name], interval and tuple(interval), seconds, lower_is_better=True
        )
    return scores


def _timed(
    metric: Callable, data: np.ndarray, labels: np.ndarray, halves: Sequence[np.ndarray], before: float
) -> Score:
    start = time.perf_counter()
    value = metric(data, labels)
    seconds = before + time.perf_counter() - start
    if not math.isfinite(value):
        raise ValueError(f"it is {value}")
    interval = interval_of(lambda half: metric(data[half], labels[half]), value, halves, len(labels))
    return Score(value, interval, seconds)


# ------------------------------------------------------------------------------------ full fine-tuning
def measure_full(options: argparse.Namespace, epochs: int) -> tuple[float, float]:
    """(test accuracy, seconds) of fine-tuning all weights of a stage-3 job's network on its target. They
    are kept beside the checkpoints: models with several sources are fine-tuned once.
    """
    network = open_network(options, choose_device(options.DEVICE))
    if network.backbone is None:
        raise InputError("--FINETUNE full needs images and a network: features have neither")
    data = find_target(options, network)
    what = digest(network.about, data.provenance, epochs, options.SEED, RECIPE)
    path = options.CHECKPOINT_DIR / "fine_tuned" / f"{network.model}_{data.name}_{what}.json"
    stored = None if options.OVERWRITE else _read_measured(path)
    if stored is None:
        stored = _measure(network.backbone, data, options, epochs)
        write_json(path, stored)
    return stored["accuracy"], stored["seconds"]


def _measure(backbone, data: Dataset, options: argparse.Namespace, epochs: int) -> dict[str, float]:
    start = time.perf_counter()
    accuracy = fine_tune(
        backbone, data.train, data.test, data.num_classes, epochs, options.SEED,
        workers=decoding_workers(options), max_corrupt=options.MAX_CORRUPT,
    )  # fmt: skip
    return {"accuracy": accuracy, "seconds": time.perf_counter() - start}


def _read_measured(path: Path) -> dict[str, float] | None:
    try:
        stored = json.loads(path.read_text())
        return {name: float(stored[name]) for name in ("accuracy", "seconds")}
    except (OSError, ValueError, LookupError, TypeError):
        return None
