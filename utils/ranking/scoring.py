"""Every score of a candidate, with its interval and its seconds."""

import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from utils.backbones import imagenet_accuracy
from utils.certificate import certify, impossible, learn_certificate
from utils.doubts import doubts_of_accuracy
from utils.features import Features, Standardiser, same_images, task_slug
from utils.grouped import balanced_accuracy, share_interval
from utils.linear_head import LinearHead, fit_linear_head, fit_validated_ridge
from utils.names import ACCURACY
from utils.ranking.candidates import Candidate
from utils.ranking.decision import Prediction, predict_accuracy
from utils.ranking.metrics import OF_FEATURES, OF_PROBABILITIES, Sample, k_nearest
from utils.ranking.scores import MODEL_SIZE, PREDICTED, PREDICTED_BALANCED, PREDICTED_BY, Score
from utils.relation import relate
from utils.report import QUANTITIES
from utils.sampling import held_out_part, stratified_folds
from utils.statistics import interval_of_mean, jackknife_interval

K_NEAREST = "k-NN"
INTERVAL_DIMENSIONS = 512  # principal axes in which intervals of scores of features are computed


def consensus_of(metric: str = ACCURACY) -> tuple[str, ...]:
    """Return the scores whose mean rank the consensus is."""
    return PREDICTED_BY[metric], K_NEAREST, "LogME"


# Of a certificate, each a loss.
CERTIFIED = ("bound_certified", "certified_source_loss", "certified_transport", "target_loss")


# ----------------------------------------------------------------------------------------- the scores
@dataclass(frozen=True)
class Scored:
    """Every score of a candidate by name, and the prediction behind the first; `linear_accuracy`: of the
    probe on the test split, where there is one, and the `seconds` that fitting it took; the probe itself
    as `fitted`, None where another candidate's was used. `linear_balanced`: the accuracy on the test
    split if every class counts alike; `doubts`: what is odd about the two (utils/doubts.py).
    """

    scores: dict[str, Score]
    prediction: Prediction
    linear_accuracy: float | None
    seconds: float
    linear_balanced: float | None = None
    doubts: Sequence[str] = ()
    fitted: LinearHead | None = None


def score_candidate(candidate: Candidate, seed: int, of_view: Scored | None = None) -> Scored:
    """Score a candidate. A score that these data leave undefined is left out, with a warning.
    `of_view`: what another candidate of the same `view` was found to have; its scores of the target are
    this one's.
    """
    of_target = of_view or _score_target(candidate)
    names = (PREDICTED, K_NEAREST, *OF_FEATURES, PREDICTED_BALANCED)
    scores = {name: of_target.scores[name] for name in names if name in of_target.scores}
    if candidate.source:
        scores |= _scores_of_source(candidate, seed)
    if candidate.facts.parameters:
        scores[MODEL_SIZE] = Score(math.log10(candidate.facts.parameters), None, 0.0)
    if (known := imagenet_accuracy(candidate.entry.model)) is not None:
        scores["ImageNet accuracy"] = Score(known, None, 0.0)
    return replace(of_target, scores=scores)


def _score_target(candidate: Candidate) -> Scored:
    """Evaluate the scores that need no source."""
    start = time.perf_counter()
    points, y, groups = candidate.scaled, candidate.scaled.y, candidate.scaled.groups
    fitted = fit_validated_ridge(points.x, y, candidate.num_classes, "linear probe", groups)
    prediction = predict_accuracy(fitted, y, candidate.new_images, groups, candidate.new_groups)
    seconds = time.perf_counter() - start
    balanced = prediction.balanced
    scores = {
        PREDICTED: Score(prediction.accuracy, prediction.interval, seconds),
        PREDICTED_BALANCED: Score(balanced.accuracy, balanced.interval, seconds),
    }
    measured: dict = {"linear_accuracy": None}
    if candidate.test:
        said = fitted.logits(candidate.test.x).argmax(1)
        right = said == candidate.test.y
        measured = {
            "linear_accuracy": right.double().mean().item(),
            "linear_balanced": balanced_accuracy(right, candidate.test.y, candidate.test.groups)[0],
            "doubts": doubts_of_accuracy(
                said, candidate.test.y, candidate.class_names, (prediction.accuracy, prediction.interval)
            ),
        }

    start = time.perf_counter()
    votes = k_nearest(points.x, y, groups)
    share = share_interval(votes, groups)
    scores[K_NEAREST] = Score(votes.double().mean().item(), share, time.perf_counter() - start)
    sample = Sample(candidate.points.x.double().cpu().numpy(), y.cpu().numpy())
    with threadpool_limits(1, user_api="blas"):  # a second core is for another part of the jackknife
        scores |= _scores_of_features(candidate.name, sample, stratified_folds(y, groups).cpu().numpy())
    return Scored(scores, prediction, seconds=seconds, fitted=fitted, **measured)


def _scores_of_features(candidate: str, sample: Sample, folds: np.ndarray) -> dict[str, Score]:
    """Evaluate the scores of features. Directions in which features hardly vary cost most of the time of
    an interval: TransRate alone, which counts them, has its own from all.
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
    """Evaluate a score, by its name with its interval; nothing, and a warning, where it is undefined.
    `before`: seconds that it took already.
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
    """Evaluate LEEP and NCE of the source's linear head, which sees the target's points as it sees its
    own: scaled as the source; and the certificate.
    """
    source, start = candidate.source, time.perf_counter()
    scaler = Standardiser.fit(source.train.x, candidate.procedure.deviation_floor)
    device = candidate.points.x.device
    train, test = (scaler.scaled(split).to(device) for split in (source.train, source.test))
    head = fit_linear_head(train, source.num_classes, None, "ridge", progress="source head")
    seen = scaler(candidate.points.x.cpu()).to(device)
    p = torch.softmax(head.logits(seen).double(), dim=1).cpu().numpy()
    y = candidate.points.y.cpu().numpy()
    folds = stratified_folds(candidate.points.y, candidate.points.groups).cpu().numpy()
    seconds = time.perf_counter() - start
    scores = {}
    for name, metric in OF_PROBABILITIES.items():

        def without(out: np.ndarray, metric=metric) -> float:
            return metric(p[~out], y[~out])

        scores |= _defined(
            candidate=candidate.name,
            name=name,
            whole=partial(metric, p, y),
            without=without,
            folds=folds,
            before=seconds,
        )
    return {
        **_relation_scores(candidate, head, seed),
        **_certificate_scores(candidate, (train, test), head, seed),
        **scores,
    }


def _relation_scores(candidate: Candidate, head: LinearHead, seed: int) -> dict[str, Score]:
    """Evaluate what the source's classes have to do with the target's: the label map and its controls
    fitted on four fifths of the points, judged on the fifth. Of a source that is the target itself the
    classifier that did not see the fifth stands for it.
    """
    start, points = time.perf_counter(), candidate.points
    out = held_out_part(points.y, stratified_folds(points.y, points.groups))
    if not out.any():
        warnings.warn(f"{candidate.name}: no class has a point to judge the relation on", stacklevel=2)
        return {}
    target_head, train, held_out = _without(candidate, out)
    target = candidate.provenance[task_slug(candidate.entry.asked.target)]
    same = same_images(candidate.source.provenance, target)
    names = (candidate.source.class_names, tuple(map(str, range(candidate.num_classes))))
    found, _ = relate(
        target_head if same else head,
        target_head,
        train,
        held_out,
        (names[1], names[1]) if same else names,
        candidate.procedure.relation,
        shared_images=same,
        bootstrap=INTERVAL_RESAMPLES,
        seed=seed,
    )
    seconds = time.perf_counter() - start
    values = {
        "source_contribution_p": (found.source_contribution_p, True),
        "label_map_loss": (found.label_map_loss, True),
        "source_contribution": (found.source_contribution, False),
    }
    return {
        QUANTITIES[name]: Score(value, found.intervals.get(name), seconds, lower_is_better=low)
        for name, (value, low) in values.items()
        if value is not None
    }


INTERVAL_RESAMPLES = 200


def _without(candidate: Candidate, out: Tensor) -> tuple[LinearHead, Features, Features]:
    """Return (the target's head, the points that it was fitted to, those of the mask `out`, which it has
    not seen), scaled by the former.
    """
    points = candidate.points
    scaler = Standardiser.fit(points.x[~out], candidate.procedure.deviation_floor)
    train, held_out = (scaler.scaled(points.select(rows)) for rows in (~out, out))
    head = fit_linear_head(train, candidate.num_classes, None, "ridge", progress="target head")
    return head, train, held_out


def _certificate_scores(
    candidate: Candidate, source: tuple[Features, Features], head: LinearHead, seed: int
) -> dict[str, Score]:
    """Evaluate the certificate learned without each fifth of the points in turn and evaluated on that
    fifth: the mean, and an interval from the spread of the fifths.
    """
    start, points = time.perf_counter(), candidate.points
    reason = impossible(candidate.source.num_classes, candidate.num_classes)
    folds = stratified_folds(points.y, points.groups)
    if reason is None and (folds < 0).all():
        reason = "no certificate: no class has a point that could be held out"
    if reason is not None:
        warnings.warn(f"{candidate.name}: {reason}", stacklevel=2)
        return {}
    names = (candidate.source.class_names, tuple(map(str, range(candidate.num_classes))))
    values: dict[str, list[float]] = {name: [] for name in CERTIFIED}
    for k in folds[folds >= 0].unique().tolist():
        out = folds == k
        target_head, train, held_out = _without(candidate, out)
        learned = learn_certificate(
            source[0], train, head, target_head, candidate.procedure.certificate, seed=seed
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
