"""Figures over many runs: the bound's terms and the losses, bounds against losses, settings."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy import stats

from utils.report import COLOURS, plt, save_figure
from utils.storage import RUN
from utils.summary import UNDEFINED, quantities_of

SETTING_COLOURS = {"LearnedAll": "#4477aa", "LearnedA": "#66ccee", "FixedAll": "#bbbbbb"}
BOUNDS = {"bound_published": "published bound", "bound_certified": "certified bound"}


def group_runs(records: Sequence[Mapping]) -> list[dict]:
    """Stage-3 runs that differ by their seed alone: what names them, `label`, and `values`: for each
    quantity its values over the seeds (None where undefined), those of the refined copy by `refined_…`.
    """
    heads = {_key(record): record for record in records if record["stage"] == "finetune"}
    groups: dict[tuple, dict] = {}
    for record in records:
        if record["stage"] != "transfer":
            continue
        values = quantities_of(record, heads.get(_key(record)))
        values["refined_target_loss"] = (record.get("refined") or {}).get("target_loss")
        values["constant_prediction_loss"] = record["constant_prediction_loss"]
        names = {name: record.get(name) for name in RUN[1:-1]}
        procedure = record["config"]["procedure"]
        group = groups.setdefault(
            (*names.values(), procedure), {**names, "procedure": procedure, "values": {}}
        )
        for name, value in values.items():
            group["values"].setdefault(name, []).append(value)
    several = {
        name: len({group[name] for group in groups.values()}) > 1 for name in ("model", "procedure")
    }
    for group in groups.values():
        parts = [group["model"] if several["model"] else None, group["setting"], group["variant"]]
        parts.append(group["procedure"] if several["procedure"] else None)
        group["label"] = f"{group['source']} → {group['target']}\n{' '.join(filter(None, parts))}"
    order = list(SETTING_COLOURS)
    return sorted(
        groups.values(),
        key=lambda g: (g["source"], g["target"], g["model"], order.index(g["setting"]), g["label"]),
    )


def _key(record: Mapping) -> tuple:
    """What a stage-3 run shares with the stage-2 run of its pair."""
    names = ("source", "target", "model", "seed")
    return (*(record[name] for name in names), record["config"]["procedure"])


def _mean(group: Mapping, name: str) -> float | None:
    values = group["values"][name]
    return None if any(value is None for value in values) else statistics.fmean(values)


def _spread(group: Mapping, name: str) -> float:
    values = group["values"][name]
    return statistics.stdev(values) if len(values) > 1 and None not in values else 0.0


def draw_terms(groups: Sequence[Mapping], folder: Path) -> None:
    """One row a group: the published bound's terms, the other bounds, the losses."""
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.95 * len(groups)), layout="constrained")
    bars = (
        ("bound_certified", "certified bound", COLOURS["certified"]),
        ("refined_bound_certified", "certified bound, refined", "#7f93a8"),
        ("target_loss", "target loss, transformed h", COLOURS["actual"]),
        ("fine_tuned_loss", "target loss, fine-tuned", "#999999"),
    )
    height = 0.8 / (1 + len(bars))
    for row, group in enumerate(groups):
        left = 0.0
        for name, text, colour in (
            ("weighted_source_loss", "re-weighted source loss", COLOURS["source"]),
            ("label_mismatch", "label mismatch", COLOURS["label"]),
            ("distribution_mismatch", "distribution mismatch", COLOURS["distribution"]),
        ):
            width = _mean(group, name) or 0.0
            axes.barh(
                row - 0.4 + height / 2, width, height, left, color=colour, label=None if row else text
            )
            left += width
        if _mean(group, "bound_published") is None:
            axes.text(left, row - 0.4 + height / 2, " undefined", va="center", fontsize=7)
        for k, (name, text, colour) in enumerate(bars, start=1):
            value = _mean(group, name)
            place = row - 0.4 + (k + 0.5) * height
            axes.barh(
                place, value or 0.0, height, color=colour, label=None if row else text,
                xerr=_spread(group, name) or None, error_kw={"elinewidth": 1},
            )  # fmt: skip
        constant = _mean(group, "constant_prediction_loss")
        axes.plot([constant] * 2, [row - 0.42, row + 0.42], ":", color="black", linewidth=1)
    axes.set_yticks(range(len(groups)), [group["label"] for group in groups], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("loss (nats)")
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    _save_both(figure, folder / "terms")


def draw_agreement(groups: Sequence[Mapping], folder: Path) -> None:
    """Every run's bounds against its target loss; no certified bound lies left of the diagonal."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
    for axes, (name, title) in zip(panels, BOUNDS.items(), strict=True):
        for group in groups:
            colour = SETTING_COLOURS.get(group["setting"], "black")
            points = _defined_pairs([group], name)
            if points:
                axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=5, alpha=0.8)
        low, high = axes.get_ylim()
        axes.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle="--")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("bound (nats)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("target loss of the same classifier (nats)")
    settings = [name for name in SETTING_COLOURS if any(group["setting"] == name for group in groups)]
    handles = [
        plt.Line2D([], [], linestyle="", marker="o", color=SETTING_COLOURS[name], label=name)
        for name in settings
    ]
    handles.append(plt.Line2D([], [], color="black", linestyle="--", label="bound = loss"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    _save_both(figure, folder / "agreement")


def agreement_of_bounds(groups: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """(head, rows): Pearson's and Kendall's correlation of each bound with the target loss."""
    rows = []
    for name, title in BOUNDS.items():
        points = _defined_pairs(groups, name)
        bounds, losses = zip(*points, strict=True) if points else ((), ())
        defined = len(set(bounds)) > 1 and len(set(losses)) > 1
        measures = (stats.pearsonr, stats.kendalltau)
        cells = [f"{m(bounds, losses).statistic:.2f}" if defined else UNDEFINED for m in measures]
        rows.append([title, *cells, str(len(points))])
    return ["bound against target loss", "Pearson", "Kendall", "runs"], rows


def _defined_pairs(groups: Sequence[Mapping], name: str) -> list[tuple[float, float]]:
    return [
        (bound, loss)
        for group in groups
        for bound, loss in zip(group["values"][name], group["values"]["target_loss"], strict=True)
        if bound is not None
    ]


def draw_settings(groups: Sequence[Mapping], folder: Path) -> None:
    """For each pair and model the settings side by side: accuracy, loss and bounds."""
    names = {
        "target_accuracy": "target accuracy",
        "target_loss": "target loss (nats)",
        "bound_published": "published bound (nats)",
    }
    places = list(dict.fromkeys((g["source"], g["target"], g["model"]) for g in groups))
    plain = [group for group in groups if group["variant"] is None]
    settings = [name for name in SETTING_COLOURS if any(group["setting"] == name for group in plain)]
    figure, panels = plt.subplots(
        1, len(names), figsize=(12, 1.6 + 0.5 * len(places)), sharey=True, layout="constrained"
    )
    height = 0.8 / len(settings)
    for axes, (name, title) in zip(panels, names.items(), strict=True):
        for group in plain:
            value = _mean(group, name)
            k = settings.index(group["setting"])
            row = places.index((group["source"], group["target"], group["model"]))
            axes.barh(
                row - 0.4 + (k + 0.5) * height, value or 0.0, height,
                color=SETTING_COLOURS[group["setting"]],
                xerr=_spread(group, name) or None, error_kw={"elinewidth": 1},
            )  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(places)), [f"{s} → {t}\n{m}" for s, t, m in places], fontsize=8)
    panels[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=SETTING_COLOURS[name], label=name) for name in settings]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    _save_both(figure, folder / "settings")


def _save_both(figure: plt.Figure, path: Path) -> None:
    save_figure(figure, path.with_suffix(".pdf"), close=False)
    save_figure(figure, path.with_suffix(".png"))
