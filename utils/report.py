"""What a person looks at: the console tables and the figures. The numbers come from bound.py."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from utils.features import Features
from utils.storage import atomic_write
from utils.task_transform import TaskTransform

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams["pdf.fonttype"] = 42  # fonts that journals take
plt.rcParams["text.parse_math"] = False  # class names may hold dollar signs

EXPLANATIONS = {
    "target_loss": "transformed classifier h on the target test split (nats)",
    "target_accuracy": "the same classifier's accuracy",
    "fine_tuned_loss": "head fine-tuned directly on the target (stage 2, nats)",
    "fine_tuned_accuracy": "its accuracy",
    "constant_prediction_loss": "ln K_T: what predicting every class alike costs",
    "weighted_source_loss": "term 1: source loss re-weighted by the transformed prior D",
    "label_mismatch": "term 2: conditional entropy of the label map B",
    "wasserstein_distance": "W, transformed source to target, averaged over classes",
    "tau_measured": "steepest loss found on the target test split",
    "distribution_mismatch": "term 3: tau_measured * wasserstein_distance",
    "bound_published": "term 1 + term 2 + term 3; no certificate (docs/method.md)",
    "bound_transformed": "transformed source loss + term 3; no certificate",
    "bound_certified": "never below target_loss on these test splits",
    "bound_certified_train": "the same on as many training points: the gap is over-fitting",
    "transformed_source_loss": "h on the transformed source test split, soft labels",
    "transformed_source_accuracy": "its accuracy against B's argmax",
    "tau_certified": "Lipschitz constant of h's loss in the target features",
}


REFINED_COMPARED = ("target_loss", "target_accuracy", "bound_certified", "bound_certified_train")


# ----------------------------------------------------------------------------------------- the console
def print_training(record: Mapping, checkpoint: Path, reused: bool = False) -> None:
    _print_heading(f"source network {record['model']} on {record['source']}", record, reused)
    rows = [
        ("test_accuracy", record["test_accuracy"], "on the source test split"),
        ("test_loss", record["test_loss"], "cross-entropy there (nats)"),
    ]
    _print_rows(rows)
    print(f"network: {_short(checkpoint)}")


def print_fine_tuning(record: Mapping, folder: Path, reused: bool = False) -> None:
    _print_heading(f"target head {record['source']} → {record['target']}", record, reused)
    rows = [
        ("test_accuracy", record["test_accuracy"], "head on the target test split"),
        ("test_loss", record["test_loss"], "cross-entropy there (nats)"),
        ("train_loss", record["train_loss"], "cross-entropy on the target training split"),
        ("tau_measured", record["tau_measured"], "steepest loss found on the test split"),
        ("tau_certified", record["tau_certified"], "Lipschitz constant of the head's loss"),
    ]
    _print_rows(rows)
    print(f"result: {_short(folder / 'result.json')}")


def print_transfer(
    record: Mapping, fine_tuned: Mapping | None, folder: Path, reused: bool = False
) -> None:
    _print_heading(
        f"transfer {record['source']} → {record['target']}, {record['setting']}", record, reused
    )
    learned = {**_with_spread(record), **_fine_tuned_values(fine_tuned)}
    refined = record["refined"]
    if refined is None:
        _print_rows([(name, learned.get(name), text) for name, text in EXPLANATIONS.items()])
    else:
        refined = _with_spread(refined)
        rows = [
            (name, learned.get(name), refined.get(name), text) for name, text in EXPLANATIONS.items()
        ]
        _print_rows(rows, ("as published", "refined"))
    if record.get("intervals"):
        print("±: half a 95 % bootstrap interval over test samples (its ends: intervals in result.json)")
    if record["unreached_classes"]:
        classes = ", ".join(map(str, record["unreached_classes"]))
        print(f"undefined: no source class is mapped to target class {classes}, so W and the bounds are")
    if fine_tuned is None and not record.get("pseudo_labels"):
        print("fine_tuned_*: stage 2 has not been run for this pair, seed, procedure, τ and data")
    print(f"result: {_short(folder / 'result.json')}")
    print(f"figure: {_short(folder / 'bound.png')} (beside it: label_map, curves, features)")


def print_pseudo_labels(record: Mapping, labelled: Mapping | None) -> None:
    """How far an estimate without labels is from the run with the target's own, where there is one."""
    agreement = record["pseudo_labels"]["agreement"]
    print("pseudo-labels: losses and accuracies of the target are against clusters, not labels")
    if agreement is None:
        print("pseudo-labels: the target has no labels, so how far they are off cannot be told")
        return
    print(f"pseudo-labels: as the target's own on {agreement:.1%} of its test samples, best naming")
    if labelled is None or _comparable(labelled) != _comparable(record):
        print("with the target's labels: not run with these settings and data (--TARGET_LABELS given)")
        return
    rows = _differences(record, labelled, EXPLANATIONS)
    if record["refined"] and labelled["refined"]:
        rows += _differences(record["refined"], labelled["refined"], REFINED_COMPARED, "refined_")
    _print_rows(rows, ("pseudo", "labelled", "difference"))


def _differences(one: Mapping, other: Mapping, names: Iterable[str], prefix: str = "") -> list[tuple]:
    rows = []
    for name in names:
        if name in one and name in other:
            a, b = one[name], other[name]
            gap = None if a is None or b is None else a - b
            rows.append((prefix + name, a, b, gap, EXPLANATIONS[name]))
    return rows


def _comparable(record: Mapping) -> tuple[dict, Mapping]:
    """What two estimates must share beside the labels: settings and data."""
    aside = ("pseudo_rounds", "pseudo_sizes", "bootstrap")
    return {k: v for k, v in record["config"].items() if k not in aside}, record["data"]


def _print_heading(title: str, record: Mapping, reused: bool) -> None:
    data = ", ".join(f"{role} {about['origin']}" for role, about in record["data"].items())
    state = " · the result was there (--OVERWRITE computes it again)" if reused else ""
    procedure = record["config"]["procedure"]
    print(f"{title} · {procedure} · seed {record['seed']} · data: {data}{state}")


def _print_rows(rows: Sequence[tuple], columns: Sequence[str] = ("",)) -> None:
    """Aligned rows of a name, a value for each column and what the number is."""
    width = max(len(name) for name, *_ in rows)
    cells = list(zip(*(_column([row[1 + k] for row in rows]) for k in range(len(columns))), strict=True))
    widths = [max(9, len(column), len(cell)) for column, cell in zip(columns, cells[0], strict=True)]
    if any(columns):
        heads = (f"{column:>{size}}" for column, size in zip(columns, widths, strict=True))
        print(f"  {'':<{width}}  {'  '.join(heads)}")
    for (name, *_, text), values in zip(rows, cells, strict=True):
        shown = (f"{value:>{size}}" for value, size in zip(values, widths, strict=True))
        print(f"  {name:<{width}}  {'  '.join(shown)}  {text}")


def _column(values: Sequence[float | tuple[float, float] | None]) -> list[str]:
    """Each value, or value and spread, as text; all of one width, the decimal points aligned."""
    pairs = [value if isinstance(value, tuple) else (value, None) for value in values]
    numbers = ["—" if value is None else f"{value:.4f}" for value, _ in pairs]
    spreads = ["" if spread is None else f" ±{spread:.4f}" for _, spread in pairs]
    left, right = max(map(len, numbers)), max(map(len, spreads))
    return [f"{n:>{left}}{s:<{right}}" for n, s in zip(numbers, spreads, strict=True)]


def _with_spread(record: Mapping) -> dict:
    """The quantities; with half of its interval for each that has one."""
    intervals = record.get("intervals") or {}
    spread = {name: (record[name], (high - low) / 2) for name, (low, high) in intervals.items()}
    return {**record, **spread}


def _fine_tuned_values(fine_tuned: Mapping | None) -> dict[str, float]:
    if fine_tuned is None:
        return {}
    return {
        "fine_tuned_loss": fine_tuned["test_loss"],
        "fine_tuned_accuracy": fine_tuned["test_accuracy"],
    }


def _short(path: Path) -> str:
    """Relative to the working folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


# ----------------------------------------------------------------------------------------- the figures
COLOURS = {
    "source": "#4477aa",
    "label": "#ddaa33",
    "distribution": "#bb5566",
    "certified": "#aabbcc",
    "actual": "#555555",
}
MAP_COLOURS = "viridis"
POINTS = 600  # of each cloud, shared evenly by its classes


def draw_figures(
    record: Mapping,
    fine_tuned: Mapping | None,
    transform: TaskTransform,
    source_test: Features,
    target_test: Features,
    class_names: tuple[Sequence[str], Sequence[str]],
    folder: Path,
) -> None:
    """bound.png, label_map.png, curves.png (where something was learned) and features.png."""
    draw_bound(record, fine_tuned, folder)
    draw_label_map(record, transform.B, class_names, folder)
    if transform.history:
        draw_curves(record, transform.history, folder)
    draw_features(record, transform, source_test, target_test, class_names, folder)


def draw_bound(record: Mapping, fine_tuned: Mapping | None, folder: Path) -> None:
    """The published bound as stacked terms beside the other bounds and the actual target loss."""
    third = record["distribution_mismatch"]
    figure, axes = plt.subplots(figsize=(11, 4.4), layout="constrained")
    terms = (
        ("re-weighted source loss", record["weighted_source_loss"], COLOURS["source"]),
        ("label mismatch", record["label_mismatch"], COLOURS["label"]),
        ("distribution mismatch", third or 0.0, COLOURS["distribution"]),
    )
    bottom = 0.0
    for name, height, colour in terms:
        axes.bar(0, height, bottom=bottom, width=0.6, color=colour, label=f"{name} {height:.2f}")
        bottom += height
    refined = record["refined"]
    bars = [("certified\nbound", record["bound_certified"], COLOURS["certified"])]
    if refined:
        bars.append(("certified\nbound, refined", refined["bound_certified"], COLOURS["certified"]))
    bars.append(("target loss,\ntransformed h", record["target_loss"], COLOURS["actual"]))
    if refined:
        bars.append(("target loss,\nrefined h", refined["target_loss"], COLOURS["actual"]))
    if fine_tuned:
        bars.append(("target loss,\nfine-tuned", fine_tuned["test_loss"], "#999999"))
    tops = [(0, bottom, third is not None)]
    for position, (_, height, colour) in enumerate(bars, start=1):
        axes.bar(position, height or 0.0, width=0.6, color=colour)
        tops.append((position, height or 0.0, height is not None))
    for position, height, defined in tops:
        text = f"{height:.2f}" if defined else "undefined"
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # the dotted line stays behind
        axes.annotate(
            text, (position, height), (0, 4), textcoords="offset points", ha="center", bbox=paper
        )
    constant = record["constant_prediction_loss"]
    axes.axhline(
        constant, color="black", linestyle=":", linewidth=1, label=f"constant prediction {constant:.2f}"
    )
    axes.set_xticks(range(len(tops)), ["published\nbound", *(name for name, _, _ in bars)])
    axes.set_ylabel("loss (nats)")
    axes.set_ylim(0, 1.12 * max(constant, *(height for _, height, _ in tops)))
    axes.set_title(_title(record))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save_figure(figure, folder / "bound.png")


def draw_label_map(
    record: Mapping, B: Tensor, class_names: tuple[Sequence[str], Sequence[str]], folder: Path
) -> None:
    """B as a heat map: column s says how source class s is spread over the target classes."""
    sources, targets = class_names
    values = B.detach().cpu().numpy()
    many = max(len(sources), len(targets)) > 20
    side = 3.2 + 0.34 * max(len(sources), len(targets)) if not many else 9.0
    figure, axes = plt.subplots(figsize=(side + 1.2, side), layout="constrained")
    image = axes.imshow(values, vmin=0, vmax=1, cmap=MAP_COLOURS, aspect="auto")
    for axis, names, label in (
        (axes.xaxis, sources, f"source class ({record['source']})"),
        (axes.yaxis, targets, f"target class ({record['target']})"),
    ):
        step = max(1, math.ceil(len(names) / 50))
        axis.set_ticks(range(0, len(names), step), names[::step])
        axis.set_label_text(label)
    crowded = len(sources) > 12 or max(map(len, sources)) > 3
    axes.tick_params("x", rotation=90 if crowded else 0)
    if not many:
        for t, s in zip(*np.nonzero(values >= 0.05), strict=True):
            colour = "black" if values[t, s] > 0.6 else "white"
            axes.text(s, t, f"{values[t, s]:.2f}", ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, label="B (probability)")
    axes.set_title(f"label map B\n{_title(record)}")
    save_figure(figure, folder / "label_map.png")


def draw_curves(record: Mapping, history: Mapping[str, Tensor], folder: Path) -> None:
    """Each term of the objective, unweighted, at every iteration: one panel a term."""
    figure, grid = plt.subplots(2, 3, figsize=(10, 5.4), sharex=True, layout="constrained")
    for axes, (name, values) in zip(grid.flat, history.items(), strict=True):
        values = values.numpy()
        axes.plot(values, linewidth=1, color=COLOURS["source"])
        axes.set_title(name.replace("_", " "), fontsize=10)
        if (values > 0).all() and values.max() > 100 * values.min():
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("iteration")
    figure.suptitle(f"terms of the objective · {_title(record)}")
    save_figure(figure, folder / "curves.png")


def draw_features(
    record: Mapping,
    transform: TaskTransform,
    source_test: Features,
    target_test: Features,
    class_names: tuple[Sequence[str], Sequence[str]],
    folder: Path,
) -> None:
    """Source, transformed source and target on the two main axes of the target's features.

    A source class has the colour of the target class that it is mapped to.
    """
    source, target = (_some_of_each_class(split) for split in (source_test, target_test))
    centre = target.x.mean(0)
    axes_2d = torch.linalg.svd((target.x - centre).double(), full_matrices=False).Vh[:2].T
    axes_2d = torch.nn.functional.pad(axes_2d, (0, 2 - axes_2d.shape[1]))  # one feature: one axis
    # The sign of a principal axis is arbitrary: fix it, so that the same run draws the same figure.
    axes_2d = axes_2d * axes_2d.sum(0).sign()
    mapped = transform.target_class()
    clouds = (
        (f"source ({record['source']})", source.x, mapped[source.y]),
        ("transformed source", transform.features(source.x), mapped[source.y]),
        (f"target ({record['target']})", target.x, target.y),
    )
    figure, panels = plt.subplots(
        1, 3, figsize=(11, 4.6), sharex=True, sharey=True, layout="constrained"
    )
    colours = plt.get_cmap("tab10" if len(class_names[1]) <= 10 else "tab20")
    for axes, (title, points, labels) in zip(panels, clouds, strict=True):
        flat = ((points - centre).double() @ axes_2d).cpu().numpy()
        axes.scatter(*flat.T, color=colours(labels.cpu().numpy() % colours.N), s=7)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("1st principal axis of the target")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("2nd principal axis of the target")
    figure.suptitle(_title(record))
    if len(class_names[1]) <= colours.N:
        _class_legend(figure, colours, mapped, class_names)
    save_figure(figure, folder / "features.png")


def _class_legend(
    figure: plt.Figure,
    colours: matplotlib.colors.Colormap,
    mapped: Tensor,
    class_names: tuple[Sequence[str], Sequence[str]],
) -> None:
    """One entry a target class: its name and the source classes that are mapped to it."""
    sources, targets = class_names
    handles = []
    for k, name in enumerate(targets):
        from_classes = ", ".join(sources[s] for s in (mapped == k).nonzero().flatten().tolist())
        label = f"{name} ← {from_classes or 'none'}"
        handles.append(plt.Line2D([], [], linestyle="", marker="o", color=colours(k), label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)


def _some_of_each_class(split: Features) -> Features:
    num_classes = int(split.y.max()) + 1
    each = max(1, POINTS // num_classes)
    index = [(split.y == k).nonzero().flatten()[:each] for k in range(num_classes)]
    chosen = torch.cat(index)
    return Features(split.x[chosen], split.y[chosen])


def _title(record: Mapping) -> str:
    about = (record["model"], record["setting"], record.get("variant"), record["config"]["procedure"])
    return " · ".join((f"{record['source']} → {record['target']}", *filter(None, about)))


def save_figure(figure: plt.Figure, path: Path, close: bool = True) -> None:
    """In the format of its suffix; a PDF holds no date: the same run draws the same file."""
    about = {"metadata": {"CreationDate": None}} if path.suffix == ".pdf" else {}
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:], **about)
    if close:
        plt.close(figure)
