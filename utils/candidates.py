"""A candidate of a ranking: a model with its source, and every score of it for one target."""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from utils.device import choose_device
from utils.errors import InputError
from utils.features import standardise
from utils.fine_tuning import fine_tune
from utils.jobs import Job
from utils.linear_head import HeadSettings, shared_linear_head
from utils.pretrained import imagenet_accuracy
from utils.ranking import Score, half_samples, interval_of
from utils.source_classes import choose_source_classes
from utils.stage import find_source, find_target, open_network, open_task
from utils.storage import read_result
from utils.task_transform import draw_by_counts, index_by_class
from utils.transferability import OF_FEATURES, OF_PROBABILITIES

# Of stage 3's result, each a loss: the smaller, the better.
OF_RESULT = (
    "bound_published", "bound_certified", "bound_certified_train", "weighted_source_loss",
    "label_mismatch", "distribution_mismatch",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A model with its source, its stage results, and the data that its scores are computed from."""

    model: str
    source: str
    transfer: Mapping
    fine_tuned: Mapping
    x: np.ndarray
    y: np.ndarray
    probabilities: np.ndarray
    size: int | None
    imagenet: float | None

    @property
    def name(self) -> str:
        return f"{self.model} ({self.source})"


def open_candidate(
    job: Job,
    options: argparse.Namespace,
    head_settings: HeadSettings,
    deviation_floor: float,
    samples: int,
) -> Candidate:
    """Reads the results of a stage-3 job and its stage-2 job; features and source head come from where
    they left them. `options` are the job's, checked.
    """
    device = choose_device(options.DEVICE)
    network = open_network(options, device)
    target_data = find_target(options, network)
    target = open_task(target_data, options, network)
    source = open_task(find_source(options, network, target_data.num_classes), options, network)
    source = choose_source_classes(source, target, options.SOURCE_CLASSES, options.SEED)
    source_train, _ = standardise(source, device, deviation_floor)
    target_train, _ = standardise(target, device, deviation_floor)
    head = shared_linear_head(
        options.CHECKPOINT_DIR / "heads", source_train, source.num_classes, head_settings,
        seed=options.SEED,
    )  # fmt: skip
    index = _some_of_each_class(target_train.y, target.num_classes, samples, options.SEED)
    x, y = target_train.x[index], target_train.y[index]
    (fine_tuning,) = job.follows
    size = network.backbone and sum(p.numel() for p in network.backbone.network.parameters())
    return Candidate(
        network.model, source.name, read_result(job.folder), read_result(fine_tuning.folder),
        x.double().cpu().numpy(), y.cpu().numpy(),
        torch.softmax(head.logits(x).double(), dim=1).cpu().numpy(), size,
        imagenet_accuracy(options.MODEL) if network.backbone else None,
    )  # fmt: skip


def _some_of_each_class(labels: torch.Tensor, num_classes: int, count: int, seed: int) -> torch.Tensor:
    """At most `count` samples, as many of each class as its share, in a mixed order."""
    index = index_by_class(labels, num_classes)
    share = min(1.0, count / len(labels))
    counts = torch.tensor([max(2, round(share * len(members))) for members in index])
    generator = torch.Generator().manual_seed(seed)
    chosen = draw_by_counts(index, counts.clamp_max(torch.tensor([len(m) for m in index])), generator)
    return chosen[torch.randperm(len(chosen), generator=generator).to(chosen.device)]


def score_candidate(candidate: Candidate, resamples: int, seed: int) -> dict[str, Score]:
    """Every metric of a candidate; its seconds are those of the score itself, without its interval."""
    scores = {}
    record = candidate.transfer
    seconds = sum(record["seconds"].values())
    distance = record["wasserstein_distance"]
    values = {**record, "distribution_mismatch": distance and distance * record["tau_measured"]}
    for name in OF_RESULT:
        if values[name] is not None:
            limits = (record["intervals"] or {}).get(name)
            scores[name] = Score(-values[name], limits and (-limits[1], -limits[0]), seconds)
    halves = half_samples(candidate.y, resamples, seed)
    for metrics, data in ((OF_FEATURES, candidate.x), (OF_PROBABILITIES, candidate.probabilities)):
        for name, metric in metrics.items():
            scores[name] = _timed(metric, data, candidate.y, halves)
    if candidate.size is not None:
        scores["model size"] = Score(math.log10(candidate.size), None, 0.0)
    if candidate.imagenet is not None:
        scores["ImageNet accuracy"] = Score(candidate.imagenet, None, 0.0)
    return scores


def _timed(
    metric: Callable, data: np.ndarray, labels: np.ndarray, halves: Sequence[np.ndarray]
) -> Score:
    start = time.perf_counter()
    value = metric(data, labels)
    seconds = time.perf_counter() - start
    return Score(
        value, interval_of(lambda half: metric(data[half], labels[half]), value, halves), seconds
    )


def measure_full(options: argparse.Namespace, epochs: int) -> tuple[float, float]:
    """(test accuracy, seconds) of fine-tuning all weights of a stage-3 job's network on its target."""
    network = open_network(options, choose_device(options.DEVICE))
    if network.backbone is None:
        raise InputError("--FINETUNE full needs images and a network: features have neither")
    data = find_target(options, network)
    start = time.perf_counter()
    accuracy = fine_tune(network.backbone, data.train, data.test, data.num_classes, epochs, options.SEED)
    return accuracy, time.perf_counter() - start
