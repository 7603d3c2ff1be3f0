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
from utils.linear_head import GAP
from utils.storage import atomic_write
from utils.task_transform import TaskTransform

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams["pdf.fonttype"] = 42  # fonts that journals take
plt.rcParams["text.parse_math"] = False  # class names may hold dollar signs

CERTIFICATE_ROWS = {
    "fine_tuned_accuracy": "linear fine-tuning on the target (logistic regression, validated)",
    "fine_tuned_loss": "its loss (nats)",
    "target_accuracy": "h, the source classifier moved onto the target, on its test split",
    "accuracy_at_least": "95 % sure: at least this share of new such images is classified rightly",
    "target_loss": "h's loss (nats)",
    "bound_certified": "what h's loss cannot exceed on these splits, the sum of the next two",
    "certified_source_loss": "h's loss on the source points that stand for the target's classes",
    "certified_transport": "what the way to the target's points adds, in the loss's own metric",
    "constant_prediction_loss": "ln K: what calling every class equally likely costs",
    "bound_certified_train": "bound_certified on as many training points: the gap is over-fitting",
    "target_loss_train": "h's loss on these",
}
PUBLISHED_ROWS = {
    "fine_tuned_loss": "head fine-tuned directly on the target (stage 2, nats)",
    "fine_tuned_accuracy": "its accuracy",
    "target_loss": "transformed classifier on the target test split (nats)",
    "target_accuracy": "its accuracy",
    "weighted_source_loss": "term 1: source loss re-weighted by the transformed prior D",
    "label_mismatch": "term 2: conditional entropy of the label map B",
    "wasserstein_distance": "W, transformed source to target, averaged over classes",
    "tau_measured": "steepest loss found on the target test split",
    "distribution_mismatch": "term 3: tau_measured * wasserstein_distance",
    "bound_published": "term 1 + term 2 + term 3; no certificate (docs/method.md)",
    "bound_transformed": "transformed source loss + term 3; no certificate",
    "bound_certified": "what target_loss cannot exceed on these splits",
    "constant_prediction_loss": "ln K",
    "transformed_source_loss": "on the transformed source test split, soft labels",
    "transformed_source_accuracy": "accuracy there against B's argmax",
    "tau_certified": "Lipschitz constant of the transformed classifier's loss in the target features",
}


# ----------------------------------------------------------------------------------------- the console
def print_training(record: Mapping, checkpoint: Path, reused: bool = False) -> None:
    _print_title(f"source network {record['model']} on {record['source']}", record, reused)
    _print_rows(
        record, {"test_accuracy": "on the source test split", "test_loss": "cross-entropy there (nats)"}
    )
    print(f"network: {_short(checkpoint)}")


def print_fine_tuning(record: Mapping, folder: Path, reused: bool = False) -> None:
    _print_title(f"target head {record['source']} → {record['target']}", record, reused)
    rows = {
        "test_accuracy": "head on the target test split",
        "test_loss": "cross-entropy there (nats)",
        "train_loss": "cross-entropy on the target training split",
        "weight_decay": "strength of the logistic regression, chosen by validation",
        "tau_measured": "steepest loss found on the test split",
        "tau_certified": "Lipschitz constant of the head's loss",
    }
    if record.get("weight_decay") is None:
        rows.pop("weight_decay")
    _print_rows(record, rows)
    _print_gap(record.get("optimality_gap"))
    print(f"result: {_short(folder / 'result.json')}")


def print_heading(record: Mapping, reused: bool = False) -> None:
    """What a stage-3 run is of."""
    title = f"transfer {record['source']} → {record['target']}, {record['setting']}"
    _print_title(title, record, reused)


def print_certificate(record: Mapping, shown_classes: int) -> None:
    """The certificate, and for `shown_classes` target classes (0: all) where it comes from."""
    found = record["certificate"]
    if found is None:
        print(record["no_certificate"])
        return
    _print_rows(found, CERTIFICATE_ROWS)
    if found["start"] is not None and not found["improved"]:
        print(
            "learning found nothing better than its start, A = I and b = 0, which is what these are of"
        )
    classes = sorted(found["classes"], key=lambda one: one["share"], reverse=True)
    shown = classes[: shown_classes or None]
    print(f"\nwhere the {found['bound_certified']:.2f} nats come from, by class of {record['target']}:")
    rows = [("class", "share", "h's loss", f"stood for by ({record['source']})", "most taken for")]
    for one in shown:
        share = one["share"] / found["bound_certified"] if found["bound_certified"] else 0.0
        taken = ", ".join(f"{name} {often:.0%}" for name, often in one["taken_for"]) or "no other"
        rows.append(
            (
                one["target_class"], f"{share:.0%}", f"{one['target_loss']:.2f}",
                ", ".join(one["stood_for_by"]), taken,
            )
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, share, loss, by, taken in rows:
        cells = (f"{name:<{widths[0]}}", f"{share:>{widths[1]}}", f"{loss:>{widths[2]}}")
        print("  ".join(("", *cells, f"{by:<{widths[3]}}", taken)).rstrip())
    if len(shown) < len(classes):
        print(f"  and {len(classes) - len(shown)} classes of smaller share (--SHOW_CLASSES 0 for all)")
    print()


def print_published(record: Mapping, fine_tuned: Mapping | None) -> None:
    """The published form's quantities; `fine_tuned`: stage 2's record."""
    found = record["published"]
    print(f"published form, {_strength(record['config']['head'])}:")
    rows = dict(PUBLISHED_ROWS)
    if fine_tuned is None:
        rows.pop("fine_tuned_loss")
        rows.pop("fine_tuned_accuracy")
    else:
        strength = _strength(fine_tuned["config"]["head"])
        rows["fine_tuned_loss"] = f"head fine-tuned directly on the target (stage 2, {strength}; nats)"
    _print_rows({**found, **_fine_tuned_values(fine_tuned)}, rows)
    _print_gap(found.get("source_head_optimality_gap"))
    if found["unreached_classes"]:
        classes = ", ".join(map(str, found["unreached_classes"]))
        print(f"undefined: no source class is mapped to target class {classes}, so W and the bounds are")


def print_where(record: Mapping, folder: Path) -> None:
    if any((record[part] or {}).get("intervals") for part in ("certificate", "published")):
        print("[ ]: 95 % intervals over test samples (accuracies: Wilson's; others: bootstrap)")
    print(f"result: {_short(folder / 'result.json')}")
    figures = ["certificate"] if record["certificate"] else []
    if record["published"]:
        figures += ["bound", "label_map", "curves", "features"]
    if figures:
        others = f" (beside it: {', '.join(figures[1:])})" if len(figures) > 1 else ""
        print(f"figure: {_short(folder / figures[0])}.png{others}")


def _strength(head: Mapping) -> str:
    return "validated strength" if head["tau"] is None else f"τ = {head['tau']:g}"


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
    rows = []
    for part, names in (("certificate", CERTIFICATE_ROWS), ("published", PUBLISHED_ROWS)):
        if record[part] and labelled[part]:
            rows += _differences(record[part], labelled[part], names, f"{part}: ")
    if not rows:
        print("with the target's labels: nothing was computed that could be compared")
        return
    columns = ("pseudo", "labelled", "difference")
    width = max(len(name) for name, _ in rows)
    print(f"  {'':<{width}}  " + "  ".join(f"{column:>10}" for column in columns))
    for name, values in rows:
        cells = ("—" if value is None else f"{value:.4f}" for value in values)
        print(f"  {name:<{width}}  " + "  ".join(f"{cell:>10}" for cell in cells))


def _differences(
    one: Mapping, other: Mapping, names: Iterable[str], prefix: str
) -> list[tuple[str, tuple[float | None, ...]]]:
    rows = []
    for name in names:
        if name in one and name in other:
            a, b = one[name], other[name]
            gap = None if a is None or b is None else a - b
            rows.append((prefix + name, (a, b, gap)))
    return rows


def _comparable(record: Mapping) -> tuple[dict, Mapping]:
    """What two estimates must share beside the labels: settings and data."""
    aside = ("pseudo_sizes", "bootstrap")
    return {k: v for k, v in record["config"].items() if k not in aside}, record["data"]


def _print_title(title: str, record: Mapping, reused: bool) -> None:
    data = ", ".join(f"{role} {about['origin']}" for role, about in record["data"].items())
    state = " · the result was there (--OVERWRITE computes it again)" if reused else ""
    procedure = record["config"]["procedure"]
    print(f"{title} · {procedure} · seed {record['seed']} · data: {data}{state}")


def _print_rows(found: Mapping, rows: Mapping[str, str]) -> None:
    """A line a quantity: its name, its value, its interval where it has one, and what it is."""
    intervals = found.get("intervals") or {}
    width = max(map(len, rows))
    values = {name: found.get(name) for name in rows}
    numbers = {name: "—" if value is None else f"{value:.4f}" for name, value in values.items()}
    ends = {name: f"[{low:.3f}, {high:.3f}]" for name, (low, high) in intervals.items() if name in rows}
    left, right = max(map(len, numbers.values())), max(map(len, ends.values()), default=0)
    for name, text in rows.items():
        interval = f"  {ends.get(name, ''):<{right}}" if right else ""
        print(f"  {name:<{width}}  {numbers[name]:>{left}}{interval}  {text}")


def _print_gap(gap: float | None) -> None:
    """Of a head that was to be the best under its τ."""
    if gap is not None and gap > GAP:
        print(f"the head's fit ended early: its loss may be {gap:.1g} nats above the least under its τ")


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
    "fine_tuned": "#999999",
}
MAP_COLOURS = "viridis"
POINTS = 600  # of each cloud, shared evenly by its classes
CLASSES_DRAWN = 15


def draw_certificate(record: Mapping, folder: Path) -> None:
    """certificate.png: on the left the losses, the certificate and ln K; on the right each target class,
    its share of the certificate, the source class that stands for it and what it is taken for.
    """
    found = record["certificate"]
    classes = sorted(found["classes"], key=lambda one: one["share"], reverse=True)[:CLASSES_DRAWN]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12.5, 1.9 + 0.36 * max(7, len(classes))), layout="constrained",
        width_ratios=(1.0, 1.55),
    )  # fmt: skip
    _draw_losses(left, found)
    _draw_shares(right, record, classes)
    figure.suptitle(
        f"{_title(record)}\nmoved onto {record['target']}, the source classifier is right on "
        f"{found['target_accuracy']:.1%} of the test images (linear fine-tuning: "
        f"{found['fine_tuned_accuracy']:.1%})",
        fontsize=11,
    )
    save_figure(figure, folder / "certificate.png")


def _draw_losses(axes: plt.Axes, found: Mapping) -> None:
    source, transport = found["certified_source_loss"], found["certified_transport"]
    axes.bar(0, found["fine_tuned_loss"], 0.6, color=COLOURS["fine_tuned"])
    axes.bar(1, found["target_loss"], 0.6, color=COLOURS["actual"])
    axes.bar(2, source, 0.6, color=COLOURS["source"], label="loss on the source's points")
    axes.bar(
        2, transport, 0.6, bottom=source, color=COLOURS["distribution"],
        label="added by the way to the target's",
    )  # fmt: skip
    heights = (found["fine_tuned_loss"], found["target_loss"], found["bound_certified"])
    for place, height in enumerate(heights):
        axes.annotate(f"{height:.2f}", (place, height), (0, 3), textcoords="offset points", ha="center")
    constant = found["constant_prediction_loss"]
    axes.axhline(
        constant, color="black", linestyle=":", linewidth=1, label=f"guessing evenly {constant:.2f}"
    )
    names = ("linear\nfine-tuning", "moved source\nclassifier", "cannot exceed\n(certificate)")
    axes.set_xticks(range(3), names)
    axes.set_ylabel("loss on the target's test images (nats)")
    axes.set_ylim(0, 1.3 * max(constant, *heights))
    axes.legend(loc="upper left", frameon=False, fontsize=9)


def _draw_shares(axes: plt.Axes, record: Mapping, classes: Sequence[Mapping]) -> None:
    most = max(one["share"] for one in classes) or 1.0
    for row, one in enumerate(classes):
        source = one["frequency"] * one["source_loss"]
        axes.barh(row, source, 0.62, color=COLOURS["source"])
        axes.barh(row, one["share"] - source, 0.62, left=source, color=COLOURS["distribution"])
        taken = ", ".join(f"{name} {often:.0%}" for name, often in one["taken_for"])
        text = f"taken for {taken}" if taken else "never mistaken"
        axes.text(one["share"] + 0.015 * most, row, text, va="center", fontsize=8.5)
    names = [f"{one['target_class']}  ←  {', '.join(one['stood_for_by'])}" for one in classes]
    axes.set_yticks(range(len(classes)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 2.1 * most)
    axes.set_xlabel("part of the certificate (nats)")
    axes.set_title(
        f"where it comes from: {record['target']}'s classes ← {record['source']}'s that stand for them",
        fontsize=9.5,
    )


def draw_published(
    record: Mapping,
    fine_tuned: Mapping | None,
    transform: TaskTransform,
    source_test: Features,
    target_test: Features,
    class_names: tuple[Sequence[str], Sequence[str]],
    folder: Path,
) -> None:
    """bound.png, label_map.png, curves.png (where something was learned) and features.png."""
    draw_published_bound(record, fine_tuned, folder)
    draw_label_map(record, transform.B, class_names, folder)
    if transform.history:
        draw_curves(record, transform.history, folder)
    draw_features(record, transform, source_test, target_test, class_names, folder)


def draw_published_bound(record: Mapping, fine_tuned: Mapping | None, folder: Path) -> None:
    """The published bound as stacked terms beside the published form's certificate and actual losses."""
    found = record["published"]
    third = found["distribution_mismatch"]
    figure, axes = plt.subplots(figsize=(9, 4.4), layout="constrained")
    terms = (
        ("re-weighted source loss", found["weighted_source_loss"], COLOURS["source"]),
        ("label mismatch", found["label_mismatch"], COLOURS["label"]),
        ("distribution mismatch", third or 0.0, COLOURS["distribution"]),
    )
    bottom = 0.0
    for name, height, colour in terms:
        axes.bar(0, height, bottom=bottom, width=0.6, color=colour, label=f"{name} {height:.2f}")
        bottom += height
    bars = [("certificate of\nthis transform", found["bound_certified"], COLOURS["certified"])]
    bars.append(("target loss of\nthis transform", found["target_loss"], COLOURS["actual"]))
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
    constant = found["constant_prediction_loss"]
    axes.axhline(
        constant, color="black", linestyle=":", linewidth=1, label=f"constant prediction {constant:.2f}"
    )
    axes.set_xticks(range(len(tops)), ["published\nbound", *(name for name, _, _ in bars)])
    axes.set_ylabel("loss (nats)")
    axes.set_ylim(0, 1.12 * max(constant, *(height for _, height, _ in tops)))
    axes.set_title(f"published form · {_title(record)}")
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
