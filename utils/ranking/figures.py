"""The figures of a ranking."""

from pathlib import Path

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from utils.figures import MARKERS, save_both, subplots
from utils.names import BALANCED
from utils.ranking.decision import Decision
from utils.ranking.record import Ranking
from utils.ranking.scores import PREDICTED_BY

# -------------------------------------------------------------------------------------------- rankings
PICKED, RIVAL, OTHER = "#004488", "#ddaa33", "#bbbbbb"
KINDS = {PICKED: "take this one", RIVAL: "not distinguishable from it", OTHER: "worse"}
MEASURED = {"color": "black", "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6}


def draw_decision(ranking: Ranking, path: Path) -> None:
    """Draw a row a candidate: its predicted accuracy with the interval, how often it is the best of
    resampled images, and the measured accuracy where it is known. The pick and its rivals have colours
    of their own.
    """
    candidates, accuracies = ranking.standings, ranking.accuracies
    figure, axes = subplots(figsize=(8, 1.5 + 0.32 * len(candidates)))
    kind = "balanced accuracy" if ranking.metric == BALANCED else "accuracy"
    axes.set_xlabel(f"{kind} on new images of {ranking.target}")
    shown, measured = set(), None
    for row, (name, standing) in enumerate(candidates.items()):
        score, odds = standing.scores[PREDICTED_BY[ranking.metric]], ranking.decision.odds.get(name)
        color = _colour(name, ranking.decision)
        shown.add(color)
        axes.plot(score.interval, [row, row], color=color, linewidth=6, solid_capstyle="butt")
        axes.plot(score.value, row, "o", color="white", markeredgecolor=color, markersize=6)
        if name in accuracies:
            (measured,) = axes.plot(accuracies[name], row, "D", **MEASURED)
        if odds is not None:
            text = f"best in {odds:.0%}" if odds >= 0.005 else ""
            axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.set_yticks(range(len(candidates)), list(candidates), fontsize=9)
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    handles = [
        Line2D([], [], color=color, linewidth=6, label=text)
        for color, text in KINDS.items()
        if color in shown
    ]
    if measured:
        measured.set_label("measured accuracy")
        handles.append(measured)
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    save_both(figure, path)


def _colour(name: str, decision: Decision) -> str:
    if name == decision.pick:
        return PICKED
    return RIVAL if name in decision.rivals else OTHER


def draw_ranking(ranking: Ranking, path: Path) -> None:
    """Draw a panel a score that three candidates have: each one's score, with its interval, against its
    fine-tuned accuracy.
    """
    scores, truth = ranking.scores, ranking.accuracies
    names = dict.fromkeys(name for of_candidate in scores.values() for name in of_candidate)
    metrics = [
        name for name in names if sum(name in of_candidate for of_candidate in scores.values()) > 2
    ]
    rows = -(-len(metrics) // 4)
    figure, grid = subplots(rows, 4, figsize=(12, 2.6 * rows + 1.2), sharey=True, squeeze=False)
    looks = {candidate: _look(k) for k, candidate in enumerate(scores)}
    for axes, metric in zip(grid.flat, metrics, strict=False):
        having = {
            name: of_candidate[metric] for name, of_candidate in scores.items() if metric in of_candidate
        }
        for candidate, score in having.items():
            color, marker = looks[candidate]
            axes.plot(score.value, truth[candidate], marker, color=color, markersize=5)
            if score.interval:
                axes.plot(score.interval, [truth[candidate]] * 2, color=color, linewidth=1)
        lower = any(score.lower_is_better for score in having.values())
        axes.set_title(metric, fontsize=10)
        if lower:
            axes.set_xlabel("lower is better", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(metrics) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("fine-tuned accuracy")
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=color, label=candidate)
        for candidate, (color, marker) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"scores against fine-tuned accuracy on {ranking.target}")
    save_both(figure, path)


# Tol's bright palette, which colour-blind eyes tell apart.
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")


def _look(number: int) -> tuple[str, str]:
    """Return (colour, marker) of a candidate: 70 different ones."""
    return PALETTE[number % len(PALETTE)], MARKERS[number // len(PALETTE) % len(MARKERS)]
