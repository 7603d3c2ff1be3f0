"""Figures and tables over many runs: the bound's terms and the losses, bounds against losses, settings,
and targets without labels.
"""

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

import utils
from utils.features import PSEUDO_VARIANT
from utils.figures.run import COLOURS, MARKERS, draw_accuracies, save_both, subplots
from utils.report import (
    PUBLISHED_NAMES,
    QUANTITIES,
    UNDEFINED,
    deciding_control,
    format_value,
    is_fine_tuning_of,
    quantities_of,
)

SETTING_COLOURS = {"LearnedAll": "#4477aa", "LearnedA": "#66ccee", "FixedAll": "#aa3377"}
# A bound and the loss that it bounds, of one classifier.
BOUNDS = {"bound_certified": "target_loss", "bound_published": "published_target_loss"}
PUBLISHED_TERMS = ("weighted_source_loss", "label_mismatch", "distribution_mismatch")
CERTIFIED_TERMS = ("certified_source_loss", "certified_transport")
GROUPS_A_FIGURE = 16
# A quantity that is there where the certificate (False), the published form (True) was computed.
ANALYSED = {False: "target_loss", True: "published_target_loss"}


# ------------------------------------------------------------------------------------------ the groups
def group_runs(records: Sequence[Mapping]) -> list[dict]:
    """Gather stage-3 runs that differ by their seed alone: what names them, `label`, `seeds`, and
    `values`: for each quantity its values over the seeds (None where undefined).
    """
    heads = {_pair(record): record for record in records if record["stage"] == "finetune"}
    groups: dict[str, dict] = {}
    for record in records:
        if record["stage"] != "transfer":
            continue
        settings = _settings(record)
        names = {name: record.get(name) for name in ("source", "target", "model", "setting", "variant")}
        key = json.dumps([names, settings], sort_keys=True)
        group = groups.setdefault(key, {**names, "settings": settings, "seeds": [], "values": {}})
        group["seeds"].append(record["seed"])
        head = heads.get(_pair(record))
        fine_tuned = head if head and is_fine_tuning_of(head, record["config"], record["data"]) else None
        values = quantities_of(record, fine_tuned)
        values["constant_prediction_loss"] = constant_prediction_loss(record)
        control = deciding_control(record["relation"]) if record.get("relation") else {}
        values["control_accuracy"] = control.get("accuracy")
        values["agreement"] = (record.get("pseudo_labels") or {}).get("agreement")
        for name, value in values.items():
            group["values"].setdefault(name, []).append(value)
    _name_groups(list(groups.values()))
    order = {name: place for place, name in enumerate(SETTING_COLOURS)}
    return sorted(
        groups.values(),
        key=lambda g: (g["target"], g["source"], g["model"], order.get(g["setting"], 9), g["label"]),
    )


def constant_prediction_loss(record: Mapping) -> float | None:
    part = record["certificate"] or record["published"] or record.get("relation")
    return part and part["constant_prediction_loss"]


def is_pseudo(group: Mapping) -> bool:
    """Tell whether its losses are those against clusters, not labels."""
    return PSEUDO_VARIANT in (group["variant"] or "")


def _pair(record: Mapping) -> tuple:
    """Return what a stage-3 run shares with the stage-2 run of its pair."""
    names = ("source", "target", "model", "seed")
    return (*(record[name] for name in names), record["config"]["procedure"])


def _settings(record: Mapping) -> dict[str, str]:
    """Return all that a run's numbers depend on but its seed and weights: a LeNet's go with the seed."""
    origins = {role: about["origin"] for role, about in record["data"].items()}
    flat = _flatten({**record["config"], "data": origins})
    return {name: value for name, value in flat.items() if name != "network.weights"}


def _flatten(settings: Mapping, prefix: str = "") -> dict[str, str]:
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value)
    return flat


def _name_groups(groups: Sequence[dict]) -> None:
    """Add the `label` of each: the pair, what is not the same in all groups, and where that does not
    tell them apart the settings that do.
    """
    several = len({group["model"] for group in groups}) > 1
    alike: dict[tuple, list[dict]] = {}
    for group in groups:
        parts = [group["model"] if several else None, group["setting"], group["variant"]]
        group["label"] = f"{group['source']} → {group['target']}\n{' '.join(filter(None, parts))}"
        alike.setdefault(group["label"], []).append(group)
    for members in alike.values():
        names = dict.fromkeys(name for group in members for name in group["settings"])
        for group in members:
            differing = [
                f"{name.rpartition('.')[2]} {group['settings'].get(name, UNDEFINED).strip(chr(34))}"
                for name in names
                if len({other["settings"].get(name) for other in members}) > 1
            ]
            count = len(group["seeds"])
            about = [*differing[:3], f"{count} seeds" if count > 1 else f"seed {group['seeds'][0]}"]
            group["label"] += f"\n{', '.join(about)}"


def _mean(group: Mapping, name: str, seeds: Sequence[int] | None = None) -> float | None:
    """Average over the group's seeds, or over these; None if one has no such value."""
    of_seed = dict(zip(group["seeds"], group["values"][name], strict=True))
    values = [of_seed.get(seed) for seed in seeds or group["seeds"]]
    return None if None in values else statistics.fmean(values)


def _spread(group: Mapping, name: str) -> float:
    values = group["values"][name]
    return statistics.stdev(values) if len(values) > 1 and None not in values else 0.0


def _missing(group: Mapping, name: str) -> str:
    """Say why there is no mean."""
    values = group["values"][name]
    count = sum(value is None for value in values)
    if name == "fine_tuned_loss":
        return "not fine-tuned"
    if group["values"][ANALYSED[name in PUBLISHED_NAMES]].count(None) == len(values):
        return "not computed"
    return "undefined" if count == len(values) else f"undefined for {count} of {len(values)} seeds"


# ---------------------------------------------------------------------------------------- the relation
def relation_groups(groups: Sequence[Mapping]) -> list[Mapping]:
    """Return one for each pair and model of which the relation is known: it has no setting."""
    known = [group for group in groups if _mean(group, "label_map_accuracy") is not None]
    return list({(*_place(group), group["variant"]): group for group in reversed(known)}.values())[::-1]


def relation_table(groups: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows): for each pair the accuracies by mixed classes, labels alone and fine-tuning,
    the source's contribution and its p (means over seeds).
    """
    columns = {
        "majority class": "majority_share",
        "classes mixed": "control_accuracy",
        "labels alone": "label_map_accuracy",
        "fine-tuned": "fine_tuned_accuracy",
        "balanced": "balanced_accuracy",
        "source contribution": "source_contribution",
        "p": "source_contribution_p",
    }
    rows = []
    for group in groups:
        values = [_mean(group, name) for name in columns.values()]
        cells = (UNDEFINED if value is None else f"{value:.2f}" for value in values)
        rows.append([*_place(group), str(len(group["seeds"])), *cells])
    return ["source", "target", "model", "seeds", *columns], rows


def draw_relations(groups: Sequence[Mapping], folder: Path) -> None:
    """Draw for each pair the accuracies by mixed classes, labels alone and linear fine-tuning."""
    figure, axes = subplots(figsize=(8, 1.3 + 0.62 * len(groups)))
    rows = [{name: _mean(group, name) or 0.0 for name in group["values"]} for group in groups]
    texts = []
    for group in groups:
        share, p = _mean(group, "source_contribution"), _mean(group, "source_contribution_p")
        texts.append(UNDEFINED if share is None else f"contribution {share:.2f}, p {p:.2f}")
    titles = [f"{source} → {target}\n{model}" for source, target, model in map(_place, groups)]
    draw_accuracies(axes, rows, titles, texts)
    axes.set_xlim(0, 1.45)
    axes.set_xlabel("accuracy on the target's test images")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    save_both(figure, folder / "relations")


# ----------------------------------------------------------------------------------------- the figures
def draw_terms(groups: Sequence[Mapping], folder: Path) -> list[Path]:
    """Draw one row a group: the certificate by its terms, the losses of h and of a fine-tuned head, then
    the published bound by its terms and the loss that it is about. Many groups take several figures.
    """
    paths = []
    for number, start in enumerate(range(0, len(groups), GROUPS_A_FIGURE), start=1):
        path = folder / ("terms" if number == 1 else f"terms_{number}")
        _draw_terms(groups[start : start + GROUPS_A_FIGURE], path)
        paths.append(path.with_suffix(".png"))
    return paths


MOST_CONSTANTS = 2  # bars that are longer than so many times ln K are cut, their value in them
PUBLISHED_COLOURS = ("#9db4cc", "#ddaa33", "#d9a3aa")


def _draw_terms(groups: Sequence[Mapping], path: Path) -> None:
    figure, axes = subplots(figsize=(8, 1.4 + 1.0 * len(groups)))
    stacks = (
        ("bound_certified", zip(CERTIFIED_TERMS, ("source", "distribution"), strict=True)),
        ("target_loss", [("target_loss", "actual")]),
        ("fine_tuned_loss", [("fine_tuned_loss", "fine_tuned")]),
        ("bound_published", zip(PUBLISHED_TERMS, PUBLISHED_COLOURS, strict=True)),
        ("published_target_loss", [("published_target_loss", "#ffffff")]),
    )
    computed = {
        name
        for group in groups
        for name, values in group["values"].items()
        if any(value is not None for value in values)
    }
    stacks = [(name, list(parts)) for name, parts in stacks if name in {*computed, "bound_published"}]
    height = 0.84 / len(stacks)
    constants = [_mean(group, "constant_prediction_loss") or 0.0 for group in groups]
    limit = MOST_CONSTANTS * max(constants) or None
    for row, group in enumerate(groups):
        for k, (name, parts) in enumerate(stacks):
            left, place = 0.0, row - 0.42 + (k + 0.5) * height
            for part, colour in parts:
                width = _mean(group, part) or 0.0
                colour = COLOURS.get(colour, colour)
                edge = "black" if colour == "#ffffff" else None
                label = None if row else QUANTITIES[part]
                looks = {"color": colour, "edgecolor": edge, "linewidth": 0.7, "label": label}
                axes.barh(place, width, height, left, **looks)
                left += width
            if limit and left > limit:  # where nothing is learned, losses would dwarf all others
                text = f"{left:.1f} → "
                axes.text(limit, place, text, ha="right", va="center", fontsize=7, color="white")
            else:
                _finish_bar(axes, group, name, place, left)
        constant = _mean(group, "constant_prediction_loss")
        if constant is not None:
            axes.plot([constant] * 2, [row - 0.44, row + 0.44], ":", color="black", linewidth=1)
    axes.set_yticks(range(len(groups)), [group["label"] for group in groups], fontsize=8)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.tick_params(labeltop=len(groups) > 4)
    axes.set_xlabel("loss (nats)")
    axes.set_xlim(0, limit)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    save_both(figure, path)


def _finish_bar(axes: Axes, group: Mapping, name: str, place: float, end: float) -> None:
    """Add the standard deviation over seeds, or why there is no bar."""
    if _mean(group, name) is None:
        axes.text(end, place, f" {_missing(group, name)}", va="center", fontsize=6, color="#555555")
    elif _spread(group, name):
        axes.errorbar(end, place, xerr=_spread(group, name), color="black", elinewidth=1)


def draw_agreement(groups: Sequence[Mapping], folder: Path) -> None:
    """Draw every run's bounds, each against the loss that it bounds: a colour a setting, a marker a pair
    and model. A certified bound lies on the right of the diagonal.
    """
    figure, panels = subplots(1, len(BOUNDS), figsize=(9, 5), sharey=True, squeeze=False)
    places = list(dict.fromkeys(_place(group) for group in groups))
    for axes, (bound, loss) in zip(panels[0], BOUNDS.items(), strict=True):
        for group in groups:
            points = _defined_pairs(group, bound, loss)
            marker = MARKERS[places.index(_place(group)) % len(MARKERS)]
            colour = SETTING_COLOURS.get(group["setting"], "black")
            for x, y in points:
                axes.plot(x, y, marker, color=colour, markersize=5, alpha=0.8)
        axes.axline((1, 1), slope=1, color="black", linewidth=0.8, linestyle="--")
        axes.set_title(QUANTITIES[bound], fontsize=10)
        axes.set_xlabel("bound (nats)")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("target loss of the same classifier (nats)")
    handles = [
        Line2D([], [], linestyle="", marker="o", color=SETTING_COLOURS.get(name, "black"), label=name)
        for name in dict.fromkeys(group["setting"] for group in groups)
    ]
    for k, place in enumerate(places[: len(MARKERS)]):
        handles.append(
            Line2D([], [], linestyle="", marker=MARKERS[k], color="#777777", label=_title(place))
        )
    handles.append(Line2D([], [], color="black", linestyle="--", label="bound = loss"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    save_both(figure, folder / "agreement")


def _place(group: Mapping) -> tuple[str, str, str]:
    return group["source"], group["target"], group["model"]


def _title(place: tuple[str, str, str]) -> str:
    source, target, model = place
    return f"{source} → {target}, {model}"


def agreement_of_bounds(groups: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows): Pearson's and Kendall's correlation of each bound with the loss that it
    bounds, over all runs, without the setting in which nothing is learned, and for each pair and model.
    Intervals draw groups, whose seeds are no independent runs.
    """
    learned = [group for group in groups if group["setting"] != "FixedAll"]
    subsets = {"all": list(groups)}
    if 0 < len(learned) < len(groups):
        subsets["all but FixedAll"] = learned
    for place in dict.fromkeys(_place(group) for group in groups):
        subsets[_title(place)] = [group for group in groups if _place(group) == place]
    rows = []
    for (title, members), (bound, loss) in itertools.product(subsets.items(), BOUNDS.items()):
        pairs = [
            (*point, number)
            for number, group in enumerate(members)
            for point in _defined_pairs(group, bound, loss)
        ]
        cells = [UNDEFINED, UNDEFINED]
        if len(pairs) > 2:
            bounds, losses, numbers = zip(*pairs, strict=True)
            found = utils.agreement.order_agreement(
                scores=bounds,
                truth=losses,
                resamples=1000,
                seed=0,
                networks=numbers,
                measures=("Pearson", "Kendall"),
            )
            cells = [format_value(*one) for one in found.values()]
        if len(pairs) > 2 or title == "all":
            rows.append([title, QUANTITIES[bound], *cells, str(len(pairs))])
    return ["runs", "bound against its loss", "Pearson", "Kendall", "number"], rows


def _defined_pairs(group: Mapping, bound: str, loss: str) -> list[tuple[float, float]]:
    pairs = zip(group["values"][bound], group["values"][loss], strict=True)
    return [pair for pair in pairs if None not in pair]


def comparable_settings(groups: Sequence[Mapping]) -> list[Mapping]:
    """Return the groups whose pair and model was run in several settings, without variants."""
    plain = [group for group in groups if group["variant"] is None]
    return [
        group
        for group in plain
        if len({other["setting"] for other in plain if _place(other) == _place(group)}) > 1
    ]


def draw_settings(groups: Sequence[Mapping], folder: Path) -> None:
    """Draw for each pair and model the settings side by side: accuracy, loss and bounds."""
    names = {
        "target_accuracy": "accuracy of h",
        "target_loss": "loss of h (nats)",
        "bound_certified": "certificate (nats)",
        "bound_published": "published bound (nats)",
    }
    places = list(dict.fromkeys(_place(group) for group in groups))
    figure, panels = subplots(1, len(names), figsize=(12, 1.6 + 0.8 * len(places)), sharey=True)
    of_place = {place: [group for group in groups if _place(group) == place] for place in places}
    for axes, (name, title) in zip(panels, names.items(), strict=True):
        for row, members in enumerate(of_place.values()):
            height = 0.8 / len(members)
            for k, group in enumerate(members):
                value, place = _mean(group, name), row - 0.4 + (k + 0.5) * height
                axes.barh(place, value or 0.0, height, color=SETTING_COLOURS.get(group["setting"]))
                _finish_bar(axes, group, name, place, value or 0.0)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(left=0)
        axes.grid(axis="x", alpha=0.3)
    titles = [f"{source} → {target}\n{model}" for source, target, model in places]
    panels[0].set_yticks(range(len(places)), titles, fontsize=8)
    panels[0].set_ylim(len(places) - 0.5, -0.5)
    handles = [
        Rectangle((0, 0), 1, 1, color=SETTING_COLOURS.get(name), label=name)
        for name in dict.fromkeys(group["setting"] for group in groups)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    save_both(figure, folder / "settings")


# ------------------------------------------------------------------------------ targets without labels
def pseudo_table(groups: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows): for each group with pseudo-labels the agreement of clusters and labels, and
    each term with clusters, with labels (the mean of the same runs but for that, if all are there) and
    the difference.
    """
    labelled = {_without_pseudo(group): group for group in groups if not is_pseudo(group)}
    rows = []
    for group in filter(is_pseudo, groups):
        other = labelled.get(_without_pseudo(group))
        title, share = group["label"].replace("\n", ", "), _mean(group, "agreement")
        agreed = UNDEFINED if share is None else f"{share:.0%}"
        for name in (*CERTIFIED_TERMS, "bound_certified", *PUBLISHED_TERMS, "bound_published"):
            pseudo = _mean(group, name)
            given = other and _mean(other, name, group["seeds"])
            gap = None if pseudo is None or given is None else pseudo - given
            cells = (UNDEFINED if value is None else f"{value:.3f}" for value in (pseudo, given, gap))
            rows.append([title, agreed, QUANTITIES[name], *cells])
    head = ["run", "clusters agree with labels", "in nats", "pseudo", "labelled", "difference"]
    return head, rows


def _without_pseudo(group: Mapping) -> str:
    """Return what a group shares with the one that uses the target's labels."""
    variant = "_".join(p for p in (group["variant"] or "").split("_") if p != PSEUDO_VARIANT)
    settings = {name: value for name, value in group["settings"].items() if name != "bootstrap"}
    return json.dumps([*_place(group), group["setting"], variant, settings])
