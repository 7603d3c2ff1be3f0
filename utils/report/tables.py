"""What a run prints: its quantities, each with what it means."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from utils.linear_head import GAP
from utils.names import HEAD
from utils.procedures import NOTHING_LEARNED, START_LABEL_MAP, START_RANDOM
from utils.relation import SIGNIFICANT
from utils.report.summary import UNDEFINED, fine_tuned_values
from utils.storage import PARTS, without_paths

HOW_WELL_ROWS = {
    "fine_tuned_accuracy": "linear fine-tuning on the target (logistic regression, validated)",
    "balanced_accuracy": "its mean over classes",
    "majority_share": "accuracy of always answering the most frequent class",
    "accuracy_at_least": "95 % sure: linear fine-tuning is at least this accurate on new images",
    "fine_tuned_loss": "its loss (nats)",
    "constant_prediction_loss": "ln K: what calling every class equally likely costs",
}
RELATION_ROWS = {
    "label_map_accuracy": "the source's classifier as it stands, its labels renamed, on the target",
    "label_map_loss": "its loss (nats)",
    "control_accuracy": "the same with its classes mixed: the control, a mean",
    "control_loss": "its loss",
    "source_contribution": "share of the loss gap from control to fine-tuning that its classes close",
    "source_contribution_p": "how often mixed classes do as well as the source's own",
}
CERTIFICATE_ROWS = {
    "target_accuracy": "h, the source classifier transformed for the target, on its test split",
    "target_loss": "h's loss (nats)",
    "bound_certified": "what h's loss cannot exceed on these splits, the sum of the next two",
    "certified_source_loss": "h's loss on the source points that are mapped to the target's classes",
    "certified_transport": "cost of the optimal transport from these to the target's points",
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
    rows = {
        "test_accuracy": "on the source test split",
        "majority_share": HOW_WELL_ROWS["majority_share"],
        "test_loss": "cross-entropy there (nats)",
    }
    _print_rows(record, {name: text for name, text in rows.items() if name in record})
    print(f"network: {_short(checkpoint)}")


def print_fine_tuning(record: Mapping, folder: Path, reused: bool = False) -> None:
    _print_title(f"target head {record['source']} → {record['target']}", record, reused)
    rows = {
        "test_accuracy": "head on the target test split",
        "balanced_accuracy": HOW_WELL_ROWS["balanced_accuracy"],
        "majority_share": HOW_WELL_ROWS["majority_share"],
        "test_loss": "cross-entropy there (nats)",
        "train_loss": "cross-entropy on the target training split",
        "weight_decay": "strength of the logistic regression, chosen by validation",
        "tau_measured": "steepest loss found on the test split",
        "tau_certified": "Lipschitz constant of the head's loss",
    }
    for name in ("weight_decay", "balanced_accuracy", "majority_share"):
        if record.get(name) is None:  # a head under a constraint; a result of an earlier version
            rows.pop(name)
    _print_rows(record, rows)
    _print_gap(record.get("optimality_gap"))
    if more := record.get("more_labels"):  # not of an older version, nor of a head that is not validated
        print(f"more labels: {more_labels_text(more)}")
    print(f"result: {_short(folder / 'result.json')}")


PART_NAMES = ("with all", "with half", "with a quarter")


def more_labels_text(found: Mapping) -> str:
    """Say what a `LearningCurve.record` holds."""
    if not found["sizes"]:
        return f"what they would bring is not said, since {found['unsaid']}"
    names = PART_NAMES[: len(found["sizes"])][::-1]
    note = f", {found['note']}" if found.get("note") else ""
    parts = [f"{share:.3f} {name}" for share, name in zip(found["accuracies"], names, strict=True)]
    parts[-1] += f" {found['sizes'][-1]} images"
    if found["twice"] is None:
        said = ", ".join(parts) + (f" ({found['note']})" if note else "")
        return f"{said}; what twice as many would bring is not said, since {found['unsaid']}"
    low, high = found["twice"]["interval"]
    reached = f"{found['twice']['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
    said = f"{', '.join(parts)} (judged on held-out ones{note})"
    return f"{said}; twice as many would reach about {reached}"


def print_heading(record: Mapping, reused: bool = False) -> None:
    """Print what a stage-3 run is of."""
    title = f"transfer {record['source']} → {record['target']}, {record['setting']}"
    _print_title(title, record, reused)


def print_relation(record: Mapping, shown_classes: int, fine_tuned: Mapping | None = None) -> None:
    """Print how separable the target's classes are, and what the source's classes have to do with it.
    `fine_tuned`: stage 2's record, which knows what more labels would bring.
    """
    found = record["relation"]
    print("how well:")
    _print_rows(found, {name: text for name, text in HOW_WELL_ROWS.items() if name in found})
    if more := (fine_tuned or {}).get("more_labels"):
        print(f"  more labels: {more_labels_text(more)}")
    print(f"\nwhy: what {source_classes(record)} have to do with it:")
    control = deciding_control(found)
    rows = dict(RELATION_ROWS)
    if found["control"] != "mixed classes":
        rows["control_accuracy"] = "as many random directions of the features: the weaker control"
        rows["source_contribution_p"] = "how often random directions do as well as the source's own"
    shown = {**found, "control_accuracy": control["accuracy"], "control_loss": control["loss"]}
    _print_rows(shown, rows)
    print(f"  {verdict(record)}")
    whole = sum(found["steps"].values())
    if found["source_contribution"] is not None and whole > 0:
        parts = (f"{STEP_NAMES[name]} {step / whole:.0%}" for name, step in found["steps"].items())
        print(f"  loss gap between random directions and linear fine-tuning: {', '.join(parts)}")
    if found["shared_images"]:
        print("  source and target are the same images: all this is by heads that did not see them")
    _print_classes_of_relation(record, shown_classes)
    if record["source"] == HEAD:
        print("no source images: the published form and the certificate are left out")


STEP_NAMES = {
    "directions": "where the source looks",
    "classes": "its classes",
    "source": "the source's classifier",
    "labels": "the target's own labels",
}


def deciding_control(found: Mapping) -> Mapping:
    return found[found["control"].replace(" ", "_")]


def source_classes(record: Mapping) -> str:
    return (
        "the network's own classes" if record["source"] == HEAD else f"the classes of {record['source']}"
    )


def verdict(record: Mapping) -> str:
    """Say in one sentence what the relation is."""
    found, classes = record["relation"], source_classes(record)
    if found["no_contribution"]:
        return f"{found['no_contribution']}."
    p, share = found["source_contribution_p"], found["source_contribution"]
    if found["related"]:
        return (
            f"{classes} are related to {record['target']}'s: they close {share:.0%} of the loss gap "
            f"between classes mixed at random and linear fine-tuning (p = {p:.2f})."
        )
    if p <= SIGNIFICANT:
        return (
            f"{classes} are hardly related to {record['target']}'s: they close {share:.0%} of the loss "
            f"gap between classes mixed at random and linear fine-tuning (p = {p:.2f})."
        )
    return (
        f"no relation is found: on {record['target']} {classes} cannot be distinguished from classes "
        f"mixed at random (p = {p:.2f})."
    )


def _print_classes_of_relation(record: Mapping, shown_classes: int) -> None:
    """Print them, those that linear fine-tuning tells least first."""
    classes = sorted(record["relation"]["classes"], key=lambda one: one["fine_tuned_accuracy"])
    called = "the network" if record["source"] == HEAD else record["source"]
    head = ("class", "labels alone", "control", "fine-tuned", f"{called} calls it", "mistaken for")
    rows = [
        (
            one["target_class"],
            *(
                f"{one[name]:.0%}"
                for name in ("label_map_accuracy", "control_accuracy", "fine_tuned_accuracy")
            ),
            *(
                ", ".join(f"{name} {often:.0%}" for name, often in one[names]) or "no other"
                for names in ("called", "taken_for")
            ),
        )
        for one in classes[: shown_classes or None]
    ]
    print(
        f"\nby class of {record['target']}, how often it is classified correctly, and what it is called:"
    )
    _print_columns([head, *rows], right=range(1, 4))
    if len(rows) < len(classes):
        print(f"  and {len(classes) - len(rows)} better ones (--SHOW_CLASSES 0 for all)")
    print()


def _print_columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> None:
    """Print cells in columns, those of `right` aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            f"{cell:>{width}}" if k in right else f"{cell:<{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(("", *cells)).rstrip())


def print_certificate(record: Mapping, shown_classes: int) -> None:
    """Print the certificate, and for `shown_classes` target classes (0: all) where it comes from."""
    found = record["certificate"]
    if found is None:
        print(record["no_certificate"])
        return
    print(
        "certificate, proven for these test images; it does not measure the relation (docs/method.md):"
    )
    _print_rows(found, CERTIFICATE_ROWS)
    if found["start"] is not None and not found["improved"]:
        print(
            "learning found nothing better than its start, A = I and b = 0, which is what these are of"
        )
    classes = sorted(found["classes"], key=lambda one: one["share"], reverse=True)
    shown = classes[: shown_classes or None]
    print(f"\nwhere the {found['bound_certified']:.2f} nats come from, by class of {record['target']}:")
    rows = [("class", "share", "h's loss", "most taken for")]
    for one in shown:
        share = one["share"] / found["bound_certified"] if found["bound_certified"] else 0.0
        taken = ", ".join(f"{name} {often:.0%}" for name, often in one["taken_for"]) or "no other"
        rows.append((one["target_class"], f"{share:.0%}", f"{one['target_loss']:.2f}", taken))
    _print_columns(rows, right=(1, 2))
    if len(shown) < len(classes):
        print(f"  and {len(classes) - len(shown)} classes of smaller share (--SHOW_CLASSES 0 for all)")
    print()


def print_published(record: Mapping, fine_tuned: Mapping | None) -> None:
    """Print the published form's quantities; `fine_tuned`: stage 2's record."""
    found = record["published"]
    print(f"published form, {_strength(record['config']['head'])}:")
    rows = dict(PUBLISHED_ROWS)
    if fine_tuned is None:
        rows.pop("fine_tuned_loss")
        rows.pop("fine_tuned_accuracy")
    else:
        strength = _strength(fine_tuned["config"]["head"])
        rows["fine_tuned_loss"] = f"head fine-tuned directly on the target (stage 2, {strength}; nats)"
    _print_rows({**found, **fine_tuned_values(fine_tuned)}, rows)
    _print_gap(found.get("source_head_optimality_gap"))
    if record["config"]["transform"]["learned"] != NOTHING_LEARNED:
        start = f", B began at {START_NAMES[found['start']]}" if found.get("start") else ""
        print(f"one seed{start}; sweep.py --SEED 0 1 2 says how far others lie (docs/results.md)")
    if found["unreached_classes"]:
        classes = ", ".join(map(str, found["unreached_classes"]))
        print(f"undefined: no source class is mapped to target class {classes}, so W and the bounds are")


START_NAMES = {START_RANDOM: "random", START_LABEL_MAP: "the label map"}


def print_where(record: Mapping, folder: Path) -> None:
    if any((record.get(part) or {}).get("intervals") for part in PARTS):
        print("[ ]: 95 % intervals over test samples (accuracies: Wilson's; others: bootstrap)")
    print(f"result: {_short(folder / 'result.json')}")
    figures = ["relation"] if record["relation"] else []
    if record["published"]:
        figures += ["bound", "label_map", "curves", "features"]
    if record["certificate"]:
        figures.append("certificate")
    if figures:
        others = f" (beside it: {', '.join(figures[1:])})" if len(figures) > 1 else ""
        print(f"figure: {_short(folder / figures[0])}.png{others}")


def _strength(head: Mapping) -> str:
    return "validated strength" if head["tau"] is None else f"τ = {head['tau']:g}"


def print_pseudo_labels(record: Mapping, labelled: Mapping | None) -> None:
    """Print how far an estimate without labels is from one with the target's own, if there is one."""
    agreement = record["pseudo_labels"]["agreement"]
    print("pseudo-labels: losses and accuracies of the target are against clusters, not labels")
    if agreement is None:
        print("pseudo-labels: the target has no labels, so how far they are off is unknown")
        return
    print(f"pseudo-labels: as the target's own on {agreement:.1%} of its test samples, best naming")
    if labelled is None or _comparable(labelled) != _comparable(record):
        print("with the target's labels: not run with these settings and data (--TARGET_LABELS given)")
        return
    rows = []
    for part, names in (("certificate", CERTIFICATE_ROWS), ("published", PUBLISHED_ROWS)):
        if record[part] and labelled[part]:
            rows += _differences(record[part], labelled[part], part, names)
    if not rows:
        print("with the target's labels: nothing was computed that could be compared")
        return
    _print_columns([("", "pseudo", "labelled", "difference"), *rows], right=range(1, 4))


def _differences(one: Mapping, other: Mapping, part: str, names: Iterable[str]) -> list[Sequence[str]]:
    rows = []
    for name in names:
        if name in one and name in other:
            a, b = one[name], other[name]
            gap = None if a is None or b is None else a - b
            cells = (UNDEFINED if value is None else f"{value:.4f}" for value in (a, b, gap))
            rows.append((f"{part}: {name}", *cells))
    return rows


def _comparable(record: Mapping) -> tuple[dict, Mapping, list | None]:
    """Return what two estimates must share beside the labels: settings and data."""
    config = {name: value for name, value in record["config"].items() if name != "bootstrap"}
    return config, without_paths(record["data"]), record.get("source_classes")


def _print_title(title: str, record: Mapping, reused: bool) -> None:
    data = ", ".join(f"{role} {about['origin']}" for role, about in record["data"].items())
    state = " · the result was there (--OVERWRITE computes it again)" if reused else ""
    procedure = record["config"]["procedure"]
    print(f"{title} · {procedure} · seed {record['seed']} · data: {data}{state}")


def _print_rows(found: Mapping, rows: Mapping[str, str]) -> None:
    """Print a line a quantity: its name, its value, its interval where it has one, and what it is."""
    intervals = found.get("intervals") or {}
    width = max(map(len, rows))
    values = {name: found.get(name) for name in rows}
    numbers = {name: UNDEFINED if value is None else f"{value:.4f}" for name, value in values.items()}
    ends = {name: f"[{low:.3f}, {high:.3f}]" for name, (low, high) in intervals.items() if name in rows}
    left, right = max(map(len, numbers.values())), max(map(len, ends.values()), default=0)
    for name, text in rows.items():
        interval = f"  {ends.get(name, ''):<{right}}" if right else ""
        print(f"  {name:<{width}}  {numbers[name]:>{left}}{interval}  {text}")


def _print_gap(gap: float | None) -> None:
    """Say how far a head is from the best under its τ, where that is far."""
    if gap is not None and gap > GAP:
        print(f"the head's fit ended early: its loss may be {gap:.1g} nats above the least under its τ")


def _short(path: Path) -> str:
    """Return a path relative to the working folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
