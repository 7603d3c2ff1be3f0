"""What a ranking compares: a network at a size of images, with a source or without, and its scores.

Every score sees the same training points of the target; the test split serves accuracies alone.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from utils.backbones import (
    ROBUST_PREFIX,
    Backbone,
    check_backbone_name,
    is_grey_model,
    split_pixels,
)
from utils.bootstrap import wilson_interval
from utils.certificate import CertificateSettings, certify, impossible, learn_certificate
from utils.datasets import Dataset
from utils.decision import Prediction, predict_accuracy
from utils.device import choose_device
from utils.errors import InputError
from utils.extraction import images_per_second
from utils.features import Features, Standardiser, Task, features_of_split, is_feature_file, task_label
from utils.fine_tuning import RECIPE, fine_tune
from utils.images import Split
from utils.linear_head import LinearHead, fit_linear_head
from utils.pretrained import imagenet_accuracy
from utils.ranking import MODEL_SIZE, PREDICTED, Facts, Score, interval_of_mean, jackknife_interval
from utils.ridge_head import fit_validated_ridge, stratified_folds
from utils.source_network import SourceNetwork
from utils.stage import (
    check_options,
    decoding_workers,
    find_source,
    find_target,
    open_network,
    open_task,
    task_request,
)
from utils.storage import digest, read_if_whole, read_json, write_json
from utils.summary import QUANTITIES
from utils.task_transform import index_by_class
from utils.transferability import OF_FEATURES, OF_PROBABILITIES, Sample, k_nearest

K_NEAREST = "k-NN"
INTERVAL_DIMENSIONS = 512  # principal axes in which intervals of scores of features are computed
CONSENSUS_OF = (PREDICTED, K_NEAREST, "LogME")
# Of a certificate, each a loss.
CERTIFIED = ("bound_certified", "certified_source_loss", "certified_transport", "target_loss")


# ------------------------------------------------------------------------------------ what is compared
@dataclass(frozen=True)
class Entry:
    """A model, at `image_size` pixels (None: its own), and a source (None: none). `options`: the
    ranking's as stage 3 would have them for this candidate, checked.
    """

    model: str
    image_size: int | None
    source: str | None
    options: argparse.Namespace = field(repr=False, compare=False)

    @staticmethod
    def of(text: str, source: str | None, options: argparse.Namespace) -> "Entry":
        """Of NAME or NAME@PIXELS."""
        model, image_size = split_pixels(text)
        model = check_backbone_name(model)
        if not is_grey_model(model) and not is_feature_file(source or options.TRG):
            image_size = image_size or options.IMAGE_SIZE
        own = {
            "MODEL": model,
            "SRC": source,
            "IMAGE_SIZE": image_size,
            "EPS": options.EPS if model.startswith(ROBUST_PREFIX) else None,
            "WEIGHTS": None,
            "ROBUST": False,
            "SOURCE_CLASSES": "all",
        }
        of_entry = argparse.Namespace(**{**vars(options), **own})
        check_options(of_entry)
        return Entry(model, image_size, source, of_entry)

    @property
    def model_label(self) -> str:
        """NAME@PIXELS; features have no network, whatever the model."""
        if is_feature_file(self.source or self.options.TRG):
            return "features"
        return self.model if self.image_size is None else f"{self.model}@{self.image_size}"

    @property
    def source_label(self) -> str:
        return task_label(self.source) if self.source else ""

    @property
    def is_control(self) -> bool:
        return self.model.startswith("random:")


@dataclass(frozen=True)
class Candidate:
    """An entry's data: `points`, the target's training features that scores see, as the network gives
    them, and `scaled` by their own deviations; `test` scaled the same, where accuracies are measured;
    `source`, a task seen by the same network, if there is one. `network` tells one network from another,
    `view` one set of target features from another; `images` says which images `points` are of, and
    `new_images` how many the test split has.
    """

    name: str
    entry: Entry
    network: Hashable
    view: Hashable
    points: Features
    scaled: Features
    test: Features | None
    num_classes: int
    images: str
    new_images: int
    source: Task | None
    deviation_floor: float
    facts: Facts
    provenance: dict[str, dict]


def open_candidate(name: str, entry: Entry, deviation_floor: float, with_test: bool) -> Candidate:
    """Loads an entry's network and extracts what the cache does not hold."""
    options = entry.options
    device = choose_device(options.DEVICE)
    network = open_network(options, device)
    target = find_target(options, network)
    points, test, unreadable = _target_features(target, network, options, with_test)
    about = {"points": len(points), **({"unreadable": unreadable} if unreadable else {})}
    scaler = Standardiser.fit(points.x, deviation_floor)
    source = entry.source and open_task(
        find_source(options, network, target.num_classes), options, network
    )
    backbone, speed = network.backbone, None
    if backbone and isinstance(target, Dataset):
        speed = images_per_second(backbone, target.train, decoding_workers(options))
    size = backbone and sum(p.numel() for p in backbone.network.parameters())
    provenance = {target.name: {**target.provenance, **about}}
    provenance |= {source.name: source.provenance} if source else {}
    return Candidate(
        name, entry,
        digest(network.about) if network.about else entry.source_label,
        digest(network.about) if network.about else target.name,
        points.to(device), scaler.scaled(points).to(device),
        test and scaler.scaled(test).to(device), target.num_classes,
        digest(points.y, [name.partition(" (")[0] for name in unreadable]), len(target.test),
        source or None, deviation_floor, Facts(size, points.x.shape[1], speed), provenance,
    )  # fmt: skip


def _target_features(
    target: Dataset | Task, network: SourceNetwork, options: argparse.Namespace, with_test: bool
) -> tuple[Features, Features | None, list[str]]:
    """(training points, test features where they are wanted, the images that could not be read)."""
    if isinstance(target, Task):
        index = _chosen(target.train.y, target, options)
        train = Features(target.train.x[index], target.train.y[index])
        return train, target.test if with_test else None, []
    splits = {"train": _chosen_images(target, options)[0]}
    splits |= {"test": target.test} if with_test else {}
    found, unreadable = {}, []
    for split_name, split in splits.items():
        found[split_name], skipped = features_of_split(
            target, split_name, split, network.backbone, task_request(options)
        )
        unreadable += skipped
    return found["train"], found.get("test"), unreadable


def _chosen_images(data: Dataset, options: argparse.Namespace) -> tuple[Split, torch.Tensor | None]:
    """The training images that scores see, and their indices where these are not all."""
    index = _chosen(data.train.labels, data, options)
    if len(index) == len(data.train):
        return data.train, None
    return data.train.select(index), index


def _chosen(labels: torch.Tensor, data: Dataset | Task, options: argparse.Namespace) -> torch.Tensor:
    return choose_points(labels, data.class_names, options.SHOTS, options.SAMPLES, options.SEED)


def choose_points(
    labels: torch.Tensor, class_names: tuple[str, ...], shots: int | None, most: int, seed: int
) -> torch.Tensor:
    """Indices of the training images that scores see, sorted: `shots` of each class, else all, or of
    more than `most` each class's share. Raises InputError for a class with fewer than `shots`.
    """
    members = index_by_class(labels, len(class_names))
    share = min(1.0, most / len(labels))
    generator, chosen = torch.Generator().manual_seed(seed), []
    for name, of_class in zip(class_names, members, strict=True):
        if shots and len(of_class) < shots:
            raise InputError(
                f"class {name} has {len(of_class)} training images, fewer than --SHOTS {shots}"
            )
        count = shots or max(2, round(share * len(of_class)))
        order = torch.randperm(len(of_class), generator=generator)
        chosen.append(of_class[order[:count]])
    return torch.cat(chosen).sort().values


# ----------------------------------------------------------------------------------------- the scores
@dataclass(frozen=True)
class Scored:
    """Every score of a candidate by name, and the prediction behind the first; `linear_accuracy`: of the
    probe on the test split, where there is one, and the `seconds` that fitting it took.
    """

    scores: dict[str, Score]
    prediction: Prediction
    linear_accuracy: float | None
    seconds: float


def score_candidate(candidate: Candidate, seed: int, of_view: Scored | None = None) -> Scored:
    """A score that these data leave undefined is left out, with a warning. `of_view`: what another
    candidate of the same `view` was found to have; its scores of the target are this one's.
    """
    of_target = of_view or _score_target(candidate)
    names = (PREDICTED, K_NEAREST, *OF_FEATURES)
    scores = {name: of_target.scores[name] for name in names if name in of_target.scores}
    if candidate.source:
        scores |= _scores_of_source(candidate, seed)
    if candidate.facts.parameters:
        scores[MODEL_SIZE] = Score(math.log10(candidate.facts.parameters), None, 0.0)
    if (known := imagenet_accuracy(candidate.entry.model)) is not None:
        scores["ImageNet accuracy"] = Score(known, None, 0.0)
    return replace(of_target, scores=scores)


def _score_target(candidate: Candidate) -> Scored:
    """The scores that need no source."""
    start = time.perf_counter()
    points, y = candidate.scaled, candidate.scaled.y
    fitted = fit_validated_ridge(points.x, y, candidate.num_classes, "linear probe")
    prediction = predict_accuracy(fitted, y, candidate.new_images)
    seconds = time.perf_counter() - start
    scores = {PREDICTED: Score(prediction.accuracy, prediction.interval, seconds)}
    accuracy = None
    if candidate.test:
        logits = torch.nn.functional.linear(candidate.test.x, fitted.weight, fitted.bias)
        accuracy = (logits.argmax(1) == candidate.test.y).double().mean().item()

    start = time.perf_counter()
    votes = k_nearest(points.x, y)
    share = wilson_interval(int(votes.sum()), len(votes))
    scores[K_NEAREST] = Score(votes.double().mean().item(), share, time.perf_counter() - start)
    sample = Sample(candidate.points.x.double().cpu().numpy(), y.cpu().numpy())
    with threadpool_limits(1, user_api="blas"):  # a second core is for another part of the jackknife
        scores |= _scores_of_features(candidate.name, sample, stratified_folds(y).cpu().numpy())
    return Scored(scores, prediction, accuracy, seconds)


def _scores_of_features(candidate: str, sample: Sample, folds: np.ndarray) -> dict[str, Score]:
    """Directions in which features hardly vary cost most of the time of an interval: TransRate alone,
    which counts them, has its own from all.
    """
    leading = sample.leading(INTERVAL_DIMENSIONS)
    scores = {}
    for name, metric in OF_FEATURES.items():
        whole, parts = partial(metric, sample), sample if name == "TransRate" else leading

        def without(out: np.ndarray, metric=metric, parts=parts) -> float:
            return metric(parts.without(out))

        scores |= _defined(candidate, name, whole, without, folds)
    return scores


def _defined(
    candidate: str,
    name: str,
    whole: Callable[[], float],
    without: Callable[[np.ndarray], float],
    folds: np.ndarray,
    before: float = 0.0,
) -> dict[str, Score]:
    """The score by its name with its interval; nothing, and a warning, where it is undefined. `before`:
    seconds that it took already.
    """
    start = time.perf_counter()
    try:
        value = whole()
        if not math.isfinite(value):
            raise ValueError(f"it is {value}")
        interval = jackknife_interval(value, without, folds)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        warnings.warn(f"{name} of {candidate} is undefined ({error})", stacklevel=2)
        return {}
    return {name: Score(value, interval, before + time.perf_counter() - start)}


def _scores_of_source(candidate: Candidate, seed: int) -> dict[str, Score]:
    """LEEP and NCE of the source's linear head, which sees the target's points as it sees its own:
    scaled as the source; and the certificate.
    """
    source, start = candidate.source, time.perf_counter()
    scaler = Standardiser.fit(source.train.x, candidate.deviation_floor)
    device = candidate.points.x.device
    train, test = (scaler.scaled(split).to(device) for split in (source.train, source.test))
    head = fit_linear_head(train, source.num_classes, None, "ridge", progress="source head")
    seen = scaler(candidate.points.x.cpu()).to(device)
    p = torch.softmax(head.logits(seen).double(), dim=1).cpu().numpy()
    y, folds = candidate.points.y.cpu().numpy(), stratified_folds(candidate.points.y).cpu().numpy()
    seconds = time.perf_counter() - start
    scores = {}
    for name, metric in OF_PROBABILITIES.items():

        def without(out: np.ndarray, metric=metric) -> float:
            return metric(p[~out], y[~out])

        scores |= _defined(candidate.name, name, partial(metric, p, y), without, folds, seconds)
    return {**_certificate_scores(candidate, (train, test), head, seed), **scores}


def _certificate_scores(
    candidate: Candidate, source: tuple[Features, Features], head: LinearHead, seed: int
) -> dict[str, Score]:
    """The certificate learned without each fifth of the points in turn and evaluated on that fifth: the
    mean, and an interval from the spread of the fifths.
    """
    start, points = time.perf_counter(), candidate.points
    reason = impossible(candidate.source.num_classes, candidate.num_classes)
    folds = stratified_folds(points.y)
    if reason is None and (folds < 0).all():
        reason = "no certificate: no class has a point that could be held out"
    if reason is not None:
        warnings.warn(f"{candidate.name}: {reason}", stacklevel=2)
        return {}
    names = (candidate.source.class_names, tuple(map(str, range(candidate.num_classes))))
    values: dict[str, list[float]] = {name: [] for name in CERTIFIED}
    for k in range(int(folds.max()) + 1):
        out = folds == k
        scaler = Standardiser.fit(points.x[~out], candidate.deviation_floor)
        train, held_out = (
            scaler.scaled(Features(points.x[rows], points.y[rows])) for rows in (~out, out)
        )
        target_head = fit_linear_head(
            train, candidate.num_classes, None, "ridge", progress="target head"
        )
        learned = learn_certificate(
            source[0], train, head, target_head, CertificateSettings(), seed=seed
        )
        found = certify(
            learned, target_head, (source[0], train), (source[1], held_out), names, seed=seed
        )
        for name in CERTIFIED:
            values[name].append(getattr(found, name))
    seconds = time.perf_counter() - start
    return {
        QUANTITIES[name]: Score(
            statistics.fmean(of_folds), interval_of_mean(of_folds), seconds, lower_is_better=True
        )
        for name, of_folds in values.items()
    }


# ------------------------------------------------------------------------------------ full fine-tuning
def measure_full(options: argparse.Namespace, epochs: int) -> tuple[float, float]:
    """(test accuracy, seconds) of fine-tuning all weights of an entry's network on its target, on the
    same images as the scores see. They are kept beside the checkpoints: models with several sources are
    fine-tuned once.
    """
    network = open_network(options, choose_device(options.DEVICE))
    if network.backbone is None:
        raise InputError("--FINETUNE full needs images and a network: features have neither")
    data = find_target(options, network)
    train, index = _chosen_images(data, options)
    about = [network.about, data.provenance, epochs, options.SEED, RECIPE]
    about += [] if index is None else [index]
    key = f"{network.model}_{data.name}_{digest(*about)}"
    path = options.CHECKPOINT_DIR / "fine_tuned" / f"{key}.json"
    stored = None
    if not options.OVERWRITE:
        stored = read_if_whole(path, _read_measured, "the network is fine-tuned again")
    if stored is None:
        stored = _measure(network.backbone, data, train, options, epochs)
        write_json(path, {"key": key, **stored})
    return stored["accuracy"], stored["seconds"]


def _measure(
    backbone: Backbone, data: Dataset, train: Split, options: argparse.Namespace, epochs: int
) -> dict[str, float]:
    start = time.perf_counter()
    accuracy = fine_tune(
        backbone, train, data.test, data.num_classes, epochs, options.SEED,
        workers=decoding_workers(options), max_corrupt=options.MAX_CORRUPT,
    )  # fmt: skip
    return {"accuracy": accuracy, "seconds": time.perf_counter() - start}


def _read_measured(path: Path) -> dict:
    stored = read_json(path)
    if stored.get("key") != path.stem:
        raise InputError(f"{path} is of another network")
    return stored
