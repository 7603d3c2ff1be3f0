"""Few labels, and other splits: what a ranking's pick loses, and how often its intervals hold.

    python3 -m benchmarks.rankings --TRG folder:flowers --CHECKPOINT_DIR checkpoints
    python3 -m benchmarks.rankings --TRG FMNIST --DATA embedded --SHOTS 5 10 --DRAWS 3

Each draw splits all images anew, with as many test images of each class as the data set has, and takes
some training images of each class (0: all). On these every candidate is scored, and its linear probe,
fitted to them, is measured on the draw's test images.

First table, a row a score: the regret of its pick, which is the accuracy of the best candidate less that
of the pick (points), mean over draws. The best by one draw's test images is often lucky: `by all draws`
takes each candidate's mean accuracy over them. Then, of the predicted accuracies: the share of intervals
that hold the measured one (`covered`), the mean error (points), in how many resamples the pick is the
best by its own account (`odds`) and in how many draws it is (`right`), the regret that it expects
(points), and the number of rivals that it cannot be told from. Last: weighted Kendall of each score with
the accuracies, of the draw and by all draws; mean over draws.
"""

import argparse
import contextlib
import io
import math
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import rank_models
from benchmarks.measure import Table
from utils.agreement import BY_BOTH, CORRELATIONS, regret
from utils.entry import stage_entry
from utils.features import Features, Standardiser
from utils.ranking import (
    Candidate,
    Prediction,
    Score,
    choose_points,
    consensus,
    consensus_of,
    decide,
    open_candidate,
    score_candidate,
)
from utils.sampling import index_by_class

MODELS = [f"efficientnet_lite{k}@{size}" for size in (64, 96) for k in range(3)]
SHOTS = (5, 10, 50, 0)
POINTS = 100  # percentage points in an accuracy


@stage_entry("benchmarks.rankings")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--TRG", default="FMNIST")
    parser.add_argument("--SRC", nargs="+", default=[], help="for the certificate, LEEP and NCE")
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
        flags += ["--SRC", *options.SRC] if options.SRC else []
        flags += ["--CHECKPOINT_DIR", options.CHECKPOINT_DIR or folder, "--RESULTS_DIR", folder]
        comparison = rank_models.comparison_of(
            rank_models.parse_options([*flags, "--FINETUNE", "linear"])
        )
        candidates = [
            open_candidate(name, entry, comparison.settings)
            for name, entry in comparison.entries.items()
        ]
    table.say(f"{len(candidates)} candidates for {options.TRG.rpartition(':')[2].rpartition('/')[2]}")
    columns: dict[str, dict[str, dict[str, float]]] = {}
    for shots in options.SHOTS:
        draws = [Draw.of(candidates, shots, seed) for seed in range(options.DRAWS)]
        columns["all" if shots == 0 else f"{shots} a class"] = summary(draws)
    table.columns = tuple(columns)
    for title in next(iter(columns.values())):
        table.heading(title)
        for name in dict.fromkeys(name for column in columns.values() for name in column[title]):
            cells = [column[title].get(name, math.nan) for column in columns.values()]
            table.row(name, *(f"{cell:.2f}" for cell in cells))
    table.write(options.RESULTS)


@dataclass(frozen=True)
class Draw:
    """By candidate: scores, predictions, and the accuracy that was measured."""

    scores: dict[str, dict[str, Score]]
    predictions: dict[str, Prediction]
    truth: dict[str, float]

    @staticmethod
    def of(candidates: list[Candidate], shots: int, seed: int) -> "Draw":
        draw = Draw({}, {}, {})
        for whole in candidates:
            scored = score_candidate(split_anew(whole, shots, seed), seed)
            draw.scores[whole.name], draw.predictions[whole.name] = scored.scores, scored.prediction
            draw.truth[whole.name] = scored.linear_accuracy
        for name, score in consensus(draw.scores, consensus_of()).items():
            draw.scores[name]["consensus"] = score
        return draw

    @property
    def ranks(self) -> dict[str, np.ndarray]:
        """What orders the candidates, by score."""
        names = dict.fromkeys(name for of_candidate in self.scores.values() for name in of_candidate)
        return {
            name: np.array([of_candidate[name].merit for of_candidate in self.scores.values()])
            for name in names
            if all(name in of_candidate for of_candidate in self.scores.values())
        }

    def lost(self, accuracies: np.ndarray) -> dict[str, float]:
        """The regret of each score's pick in points; a score that is the same for all picks any."""
        blind = float(accuracies.max() - accuracies.mean())
        found = {name: regret(ranks, accuracies) for name, ranks in self.ranks.items()}
        return {n: POINTS * (blind if math.isnan(value) else value) for n, value in found.items()}

    def order(self, accuracies: np.ndarray) -> dict[str, float]:
        return {name: CORRELATIONS[BY_BOTH](r, accuracies) for name, r in self.ranks.items()}

    def calibration(self, seed: int = 0) -> dict[str, float]:
        decision = decide(self.predictions, {name: name for name in self.predictions}, 1000, seed)
        pairs = [(p, self.truth[name]) for name, p in self.predictions.items()]
        return {
            "covered": statistics.fmean(p.interval[0] <= t <= p.interval[1] for p, t in pairs),
            "error of the prediction": POINTS * statistics.fmean(abs(p.accuracy - t) for p, t in pairs),
            "odds": decision.odds[decision.pick],
            "right": float(self.truth[decision.pick] == max(self.truth.values())),
            "regret as expected": POINTS * decision.regret,
            "rivals": len(decision.rivals),
        }


def summary(draws: list[Draw]) -> dict[str, dict[str, float]]:
    """By table and row: means over draws."""
    truths = [np.array(list(draw.truth.values())) for draw in draws]
    by_all = np.mean(truths, axis=0)
    tables = {
        "regret of the pick (points)": [d.lost(t) for d, t in zip(draws, truths, strict=True)],
        "the same, by all draws": [draw.lost(by_all) for draw in draws],
        "the predictions": [draw.calibration() for draw in draws],
        "weighted Kendall": [d.order(t) for d, t in zip(draws, truths, strict=True)],
        "weighted Kendall, by all draws": [draw.order(by_all) for draw in draws],
    }
    return {
        title: {
            name: statistics.fmean(row[name] for row in rows if name in row)
            for name in dict.fromkeys(name for row in rows for name in row)
        }
        for title, rows in tables.items()
    }


def split_anew(whole: Candidate, shots: int, seed: int) -> Candidate:
    """The candidate with other test images, and `shots` of the others of each class (0: all), scaled by
    these alone. Seed 0 keeps the data set's own split.
    """
    scaler = Standardiser.fit(whole.points.x, whole.procedure.deviation_floor)
    x = torch.cat([whole.points.x, whole.test.x * scaler.scale + scaler.mean]).cpu()
    y = torch.cat([whole.points.y, whole.test.y]).cpu()
    is_test = torch.arange(len(y)) >= len(whole.points)
    if seed:
        generator = torch.Generator().manual_seed(seed)
        for members in index_by_class(y, whole.num_classes):
            is_test[members] = is_test[members[torch.randperm(len(members), generator=generator)]]
    train = (~is_test).nonzero().flatten()
    names = tuple(map(str, range(whole.num_classes)))
    train = train[choose_points(y[train], names, shots or None, len(train), seed)]
    points = Features(x[train], y[train])
    scaler = Standardiser.fit(points.x, whole.procedure.deviation_floor)
    device = whole.points.x.device
    return replace(
        whole,
        points=points.to(device),
        scaled=scaler.scaled(points).to(device),
        test=scaler.scaled(Features(x[is_test], y[is_test])).to(device),
    )


if __name__ == "__main__":
    main()
