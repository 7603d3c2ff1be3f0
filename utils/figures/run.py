"""The figures of a run."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from torch import Tensor

from utils.features import Features
from utils.published import TaskTransform
from utils.report import verdict
from utils.storage import atomic_write

# ----------------------------------------------------------------------------------------- the figures
COLOURS = {
    "source": "#4477aa",
    "label": "#ddaa33",
    "distribution": "#bb5566",
    "certified": "#aabbcc",
    "actual": "#555555",
    "fine_tuned": "#999999",
}
MARKERS = "osD^vPX*<>"
MAP_COLOURS = "viridis"
POINTS = 600  # of each cloud, shared evenly by its classes
CLASSES_DRAWN = 15


def draw_relation(record: Mapping, folder: Path) -> None:
    """Draw relation.png: on the left the way from random directions to linear fine-tuning; on the right
    each target class by the control, by labels alone and by fine-tuning, and what the source calls it.
    """
    found = record["relation"]
    classes = sorted(found["classes"], key=lambda one: one["fine_tuned_accuracy"])[:CLASSES_DRAWN]
    size = (10.2, 1.9 + 0.36 * max(7, len(classes)))
    figure, (left, right) = subplots(1, 2, figsize=size, width_ratios=(1.0, 1.9))
    _draw_way(left, found)
    _draw_class_accuracies(right, record, classes)
    said = "\n".join(textwrap.wrap(verdict(record), TITLE_LETTERS))
    figure.suptitle(f"{_title(record)}\n{said}", fontsize=10)
    save_figure(figure, folder / "relation.png")


TITLE_LETTERS = 120  # of a line
LETTER = 0.017  # width of one beside a bar, where the bar of 100 % has the width 1


def _draw_way(axes: Axes, found: Mapping) -> None:
    """Draw the losses along the way, each with the step that leads to the next."""
    stations = [("random\ndirections", found["random_directions"], COLOURS["certified"])]
    if found["mixed_classes"]:
        stations.append(("classes\nmixed", found["mixed_classes"], COLOURS["fine_tuned"]))
    own = {"loss": found["label_map_loss"], "loss_spread": 0.0}
    tuned = {"loss": found["fine_tuned_loss"], "loss_spread": 0.0}
    stations += [("labels\nalone", own, COLOURS["source"]), ("fine-\ntuning", tuned, COLOURS["actual"])]
    for place, (_, one, colour) in enumerate(stations):
        axes.bar(place, one["loss"], 0.66, color=colour)
        if one["loss_spread"]:
            axes.errorbar(place, one["loss"], one["loss_spread"], color="black", capsize=3, linewidth=1)
        height = one["loss"] + one["loss_spread"]
        axes.annotate(
            f"{one['loss']:.2f}", (place, height), (0, 3), textcoords="offset points", ha="center"
        )
    constant = _draw_constant(axes, found, "guessing evenly")
    axes.set_xticks(range(len(stations)), [name for name, *_ in stations], fontsize=8.5)
    axes.set_ylabel("loss on the target's test images (nats)")
    axes.set_ylim(0, 1.25 * max(constant, *(one["loss"] for _, one, _ in stations)))
    axes.legend(loc="upper right", frameon=False, fontsize=8.5)


def _draw_class_accuracies(axes: Axes, record: Mapping, classes: Sequence[Mapping]) -> None:
    mixed = record["relation"]["control"] == "mixed classes"
    texts = [
        ", ".join(f"{textwrap.shorten(name, 24, placeholder='…')} {often:.0%}" for name, often in called)
        for called in (one["called"] for one in classes)
    ]
    names = [one["target_class"] for one in classes]
    draw_accuracies(axes, classes, names, texts, "classes mixed" if mixed else "random directions")
    axes.set_xlim(0, 1.1 + LETTER * max(map(len, texts)))
    axes.set_xlabel(
        f"classified correctly, by class of {record['target']}; right: what the source calls it"
    )
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8.5)


def draw_accuracies(
    axes: Axes,
    rows: Sequence[Mapping],
    names: Sequence[str],
    texts: Sequence[str],
    control: str = "classes mixed",
) -> None:
    """Draw each row's accuracies by the control, labels alone and fine-tuning, and a text beside."""
    bars = (
        ("control_accuracy", f"{control} (the control)", COLOURS["fine_tuned"]),
        ("label_map_accuracy", "labels alone", COLOURS["source"]),
        ("fine_tuned_accuracy", "linear fine-tuning", COLOURS["actual"]),
    )
    for k, (name, label, colour) in enumerate(bars):
        places = [row + 0.26 * (k - 1) for row in range(len(rows))]
        axes.barh(places, [one[name] for one in rows], 0.24, color=colour, label=label)
    for row, text in enumerate(texts):
        axes.text(1.02, row, text, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), names, fontsize=8.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])


def _draw_constant(axes: Axes, found: Mapping, name: str) -> float:
    """Draw a dotted line at ln K, the loss of calling every class equally likely, and return it."""
    loss = found["constant_prediction_loss"]
    axes.axhline(loss, color="black", linestyle=":", linewidth=1, label=f"{name} {loss:.2f}")
    return loss


def draw_certificate(record: Mapping, folder: Path) -> None:
    """Draw certificate.png: on the left the losses, the certificate and ln K; on the right each target
    class, its share of the certificate and what it is taken for.
    """
    found = record["certificate"]
    classes = sorted(found["classes"], key=lambda one: one["share"], reverse=True)[:CLASSES_DRAWN]
    size = (9.6, 1.6 + 0.32 * max(7, len(classes)))
    figure, (left, right) = subplots(1, 2, figsize=size, width_ratios=(1.0, 1.75))
    _draw_losses(left, found)
    _draw_shares(right, record, classes)
    figure.suptitle(
        f"{_title(record)}\nwhat the transformed classifier's loss cannot exceed on these splits:\n"
        f"how separable the classes of {record['target']} are, no measure of the relation",
        fontsize=10,
    )
    save_figure(figure, folder / "certificate.png")


def _draw_losses(axes: Axes, found: Mapping) -> None:
    source, transport = found["certified_source_loss"], found["certified_transport"]
    axes.bar(0, found["fine_tuned_loss"], 0.6, color=COLOURS["fine_tuned"])
    axes.bar(1, found["target_loss"], 0.6, color=COLOURS["actual"])
    axes.bar(2, source, 0.6, color=COLOURS["source"], label="loss on the source's points")
    added = {"color": COLOURS["distribution"], "label": "transport to the target's points"}
    axes.bar(2, transport, 0.6, bottom=source, **added)
    heights = (found["fine_tuned_loss"], found["target_loss"], found["bound_certified"])
    for place, height in enumerate(heights):
        axes.annotate(f"{height:.2f}", (place, height), (0, 3), textcoords="offset points", ha="center")
    constant = _draw_constant(axes, found, "guessing evenly")
    names = ("linear\nfine-tuning", "transformed\nclassifier", "cannot exceed\n(certificate)")
    axes.set_xticks(range(3), names, fontsize=8.5)
    axes.set_ylabel("loss on the target's test images (nats)")
    axes.set_ylim(0, 1.3 * max(constant, *heights))
    axes.legend(loc="upper left", frameon=False, fontsize=8.5)


def _draw_shares(axes: Axes, record: Mapping, classes: Sequence[Mapping]) -> None:
    most = max(one["share"] for one in classes) or 1.0
    for row, one in enumerate(classes):
        source = one["frequency"] * one["source_loss"]
        axes.barh(row, source, 0.62, color=COLOURS["source"])
        axes.barh(row, one["share"] - source, 0.62, left=source, color=COLOURS["distribution"])
        taken = ", ".join(f"{name} {often:.0%}" for name, often in one["taken_for"])
        text = f"taken for {taken}" if taken else "never mistaken"
        axes.text(one["share"] + 0.015 * most, row, text, va="center", fontsize=8)
    axes.set_yticks(range(len(classes)), [one["target_class"] for one in classes], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 2.0 * most)
    axes.set_xlabel("part of the certificate (nats)")
    axes.set_title(f"by class of {record['target']}", fontsize=9)


def draw_published(
    record: Mapping,
    fine_tuned: Mapping | None,
    transform: TaskTransform,
    tests: tuple[Features, Features],
    class_names: tuple[Sequence[str], Sequence[str]],
    folder: Path,
) -> None:
    """Draw bound.png, label_map.png, curves.png (where something was learned) and features.png."""
    draw_published_bound(record, fine_tuned, folder)
    draw_label_map(record, transform.B, class_names, folder)
    if transform.history:
        draw_curves(record, transform.history, folder)
    draw_features(record, transform, tests, class_names, folder)


def draw_published_bound(record: Mapping, fine_tuned: Mapping | None, folder: Path) -> None:
    """Draw the published bound as stacked terms beside its form's certificate and actual losses."""
    found = record["published"]
    third = found["distribution_mismatch"]
    figure, axes = subplots(figsize=(9, 4.4))
    terms = (
        ("re-weighted source loss", found["weighted_source_loss"], COLOURS["source"]),
        ("label mismatch", found["label_mismatch"], COLOURS["label"]),
        ("distribution mismatch", third or 0.0, COLOURS["distribution"]),
    )
    bottom = 0.0
    for name, height, colour in terms:
        axes.bar(0, height, bottom=bottom, width=0.6, color=colour, label=f"{name} {height:.2f}")
        bottom += height
    bars = [
        ("certificate of\nthis transform", found["bound_certified"], COLOURS["certified"]),
        ("target loss of\nthis transform", found["target_loss"], COLOURS["actual"]),
    ]
    if fine_tuned:
        bars.append(("target loss,\nfine-tuned", fine_tuned["test_loss"], COLOURS["fine_tuned"]))
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
    constant = _draw_constant(axes, found, "constant prediction")
    axes.set_xticks(range(len(tops)), ["published\nbound", *(name for name, _, _ in bars)])
    axes.set_ylabel("loss (nats)")
    axes.set_ylim(0, 1.12 * max(constant, *(height for _, height, _ in tops)))
    axes.set_title(f"published form · {_title(record)}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save_figure(figure, folder / "bound.png")


def draw_label_map(
    record: Mapping, B: Tensor, class_names: tuple[Sequence[str], Sequence[str]], folder: Path
) -> None:
    """Draw B as a heat map: column s says how source class s is spread over the target classes."""
    sources, targets = class_names
    values = B.detach().cpu().numpy()
    many = max(len(sources), len(targets)) > 20
    side = 3.2 + 0.34 * max(len(sources), len(targets)) if not many else 9.0
    figure, axes = subplots(figsize=(side + 1.2, side))
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
    """Draw each term of the objective, unweighted, at every iteration: one panel a term."""
    figure, grid = subplots(2, 3, figsize=(10, 5.4), sharex=True)
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
    tests: tuple[Features, Features],
    class_names: tuple[Sequence[str], Sequence[str]],
    folder: Path,
) -> None:
    """Draw source, transformed source and target on the two main axes of the target's features.

    A source class has the colour of the target class that it is mapped to.
    """
    source, target = (_some_of_each_class(split) for split in tests)
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
    figure, panels = subplots(1, 3, figsize=(11, 4.6), sharex=True, sharey=True)
    colours = matplotlib.colormaps.get_cmap("tab10" if len(class_names[1]) <= 10 else "tab20")
    for axes, (title, points, labels) in zip(panels, clouds, strict=True):
        flat = ((points - centre).double() @ axes_2d).cpu().numpy()
        axes.scatter(*flat.T, color=colours(labels.cpu().numpy() % colours.N), s=7)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("1st principal axis of the target")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("2nd principal axis of the target")
    figure.suptitle(_title(record))
    handles = []  # an entry a target class: its name and the source classes that are mapped to it
    for k, name in enumerate(class_names[1]):
        from_classes = (class_names[0][s] for s in (mapped == k).nonzero().flatten().tolist())
        label = f"{name} ← {', '.join(from_classes) or 'none'}"
        handles.append(Line2D([], [], linestyle="", marker="o", color=colours(k), label=label))
    if len(handles) <= colours.N:
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    save_figure(figure, folder / "features.png")


def _some_of_each_class(split: Features) -> Features:
    num_classes = int(split.y.max()) + 1
    each = max(1, POINTS // num_classes)
    index = [(split.y == k).nonzero().flatten()[:each] for k in range(num_classes)]
    return split.select(torch.cat(index))


def _title(record: Mapping) -> str:
    about = (record["model"], record["setting"], record.get("variant"), record["config"]["procedure"])
    return " · ".join((f"{record['source']} → {record['target']}", *filter(None, about)))


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **of_axes):
    """Make a figure that no window and no other program's settings know of, and its axes."""
    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **of_axes)


def save_figure(figure: Figure, path: Path) -> None:
    """Write it in the format of its suffix; a PDF holds no date: the same run draws the same file."""
    for text in figure.findobj(Text):  # class names may hold dollar signs
        text.set_parse_math(False)
    about = {"metadata": {"CreationDate": None}} if path.suffix == ".pdf" else {}
    fonts_that_journals_take = {"pdf.fonttype": 42}
    with atomic_write(path) as temporary, matplotlib.rc_context(fonts_that_journals_take):
        figure.savefig(temporary, dpi=150, format=path.suffix[1:], **about)


def save_both(figure: Figure, path: Path) -> None:
    """Write it as PDF and as PNG."""
    save_figure(figure, path.with_suffix(".pdf"))
    save_figure(figure, path.with_suffix(".png"))
