"""Few labels: what a ranking's pick loses, and how often its predicted intervals hold the accuracy.

    python3 -m benchmarks.rankings --TRG folder:flowers --CHECKPOINT_DIR checkpoints
    python3 -m benchmarks.rankings --TRG FMNIST --DATA embedded --SHOTS 5 10 --DRAWS 3

For each number of training images a class and each draw of them: every candidate's scores, the pick of
each score, and the accuracy of every candidate's linear probe, fitted to the same images, on the test
split. The rows of scores hold the regret: accuracy of the best candidate less that of the pick (points),
mean over draws. Then, of the predicted accuracies: the share of intervals that hold the measured one
(`covered`), the mean error (points), in how many resamples the pick is the best by its own account
(`odds`) and in how many draws it is (`right`), the regret that it expects (points) and the number of
rivals that it cannot be told from.
"""

import argparse
import contextlib
import io
import math
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import rank_models
from benchmarks.measure import Table
from scales import settings_for
from utils.candidates import CONSENSUS_OF, Candidate, choose_points, open_candidate, score_candidate
from utils.decision import decide
from utils.features import Features, Standardiser
from utils.options import stage_entry
from utils.ranking import consensus, regret

MODELS = [f"efficientnet_lite{k}@{size}" for size in (64, 96) for k in range(3)]
SHOTS = (5, 10, 50, 0)
POINTS = 100  # percentage points in an accuracy


@stage_entry("benchmarks.rankings")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--TRG", default="FMNIST")
    parser.add_argument("--DATA", default="auto")
    parser.add_argument("--MODEL", nargs="+", default=MODELS)
    parser.add_argument("--SHOTS", nargs="+", type=int, default=SHOTS, help="images a class; 0: all")
    parser.add_argument("--DRAWS", type=int, default=10)
    parser.add_argument("--CHECKPOINT_DIR", help="where features are kept (default: nowhere)")
    parser.add_argument("--NAME", default="rankings", help="of the table")
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)
    table = Table("rankings", (), argv)
    table.name = options.NAME
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        flags = ["--TRG", options.TRG, "--DATA", options.DATA, "--model", *options.MODEL]
        flags += ["--CHECKPOINT_DIR", options.CHECKPOINT_DIR or folder, "--RESULTS_DIR", folder]
        ranked = rank_models.parse_options(flags)
        candidates = [
            open_candidate(name, entry, floor(entry, ranked), with_test=True)
            for name, entry in rank_models.list_entries(ranked).items()
        ]
    table.say(f"{len(candidates)} candidates for {options.TRG.rpartition(':')[2].rpartition('/')[2]}")
    rows = {}
    for shots in options.SHOTS:
        draws = [measure(candidates, shots, seed) for seed in range(options.DRAWS if shots else 1)]
        rows[shots] = {name: statistics.fmean(d[name] for d in draws) for name in draws[0]}
    table.columns = tuple("all" if shots == 0 else f"{shots} a class" for shots in options.SHOTS)
    table.heading("regret of the pick (points), and of its predictions")
    for name in rows[options.SHOTS[0]]:
        table.row(name, *(f"{rows[shots][name]:.2f}" for shots in options.SHOTS))
    table.write(options.RESULTS)


def floor(entry, options: argparse.Namespace) -> float:
    return settings_for(options.PROCEDURE, entry.model, entry.source, options.TRG).deviation_floor


def measure(candidates: list[Candidate], shots: int, seed: int) -> dict[str, float]:
    """Of one draw: by score its regret in points, and coverage, odds and right of the predictions."""
    scores, predictions, truth = {}, {}, {}
    for whole in candidates:
        candidate = some_points(whole, shots, seed) if shots else whole
        scored = score_candidate(candidate, seed)
        scores[whole.name], truth[whole.name] = scored.scores, scored.linear_accuracy
        predictions[whole.name] = scored.prediction
    for name, score in consensus(scores, CONSENSUS_OF).items():
        scores[name]["consensus"] = score
    accuracies = np.array(list(truth.values()))
    names = [n for n in next(iter(scores.values())) if all(n in of_one for of_one in scores.values())]
    found = {}
    for name in names:
        lost = regret(np.array([of_one[name].rank for of_one in scores.values()]), accuracies)
        blind = accuracies.max() - accuracies.mean()  # a score that is the same for all picks any
        found[name] = POINTS * float(blind if math.isnan(lost) else lost)
    decision = decide(predictions, {name: name for name in predictions}, 1000, seed)
    held = [low <= truth[name] <= high for name, (low, high) in
            ((name, p.interval) for name, p in predictions.items())]  # fmt: skip
    error = statistics.fmean(abs(p.accuracy - truth[name]) for name, p in predictions.items())
    return {
        **found,
        "covered": statistics.fmean(held),
        "error of the prediction": POINTS * error,
        "odds": decision.odds[decision.pick],
        "right": float(truth[decision.pick] == accuracies.max()),
        "regret as expected": POINTS * decision.regret,
        "rivals": len(decision.rivals),
    }


def some_points(whole: Candidate, shots: int, seed: int) -> Candidate:
    """The candidate with `shots` of its points of each class, scaled by these alone."""
    labels = whole.points.y.cpu()
    names = tuple(map(str, range(whole.num_classes)))
    index = choose_points(labels, names, shots, len(labels), seed).to(whole.points.y.device)
    points = Features(whole.points.x[index], whole.points.y[index])
    scaler = Standardiser.fit(points.x, whole.deviation_floor)
    before = Standardiser.fit(whole.points.x, whole.deviation_floor)
    test = Features(scaler(whole.test.x * before.scale + before.mean), whole.test.y)
    return replace(whole, points=points, scaled=Features(scaler(points.x), points.y), test=test)


if __name__ == "__main__":
    main()
