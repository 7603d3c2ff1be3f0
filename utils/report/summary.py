"""Quantities by their names, as text, and a sweep's table: mean and spread over seeds."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.storage import without_paths, write_text

CELL = ("source", "target", "model", "setting")
# Of stage 2 or a fine-tuned head of stage 3's own, of the relation, the certificate, the published form.
QUANTITIES = {
    "fine_tuned_accuracy": "fine-tuned accuracy",
    "balanced_accuracy": "balanced accuracy",
    "majority_share": "majority class",
    "fine_tuned_loss": "fine-tuned loss",
    "label_map_accuracy": "labels alone",
    "label_map_loss": "label map loss",
    "source_contribution": "source contribution",
    "source_contribution_p": "source p",
    "target_accuracy": "accuracy of h",
    "target_loss": "loss of h",
    "bound_certified": "certificate",
    "certified_source_loss": "certificate's source loss",
    "certified_transport": "certificate's transport",
    "published_target_accuracy": "accuracy, published form",
    "published_target_loss": "loss, published form",
    "weighted_source_loss": "source loss",
    "label_mismatch": "label mismatch",
    "distribution_mismatch": "distribution mismatch",
    "bound_published": "published bound",
}
PUBLISHED_NAMES = {
    "published_target_accuracy": "target_accuracy",
    "published_target_loss": "target_loss",
    "weighted_source_loss": "weighted_source_loss",
    "label_mismatch": "label_mismatch",
    "distribution_mismatch": "distribution_mismatch",
    "bound_published": "bound_published",
}
# Each with a quantity that is there wherever its part was computed.
SUMMARY_COLUMNS = {
    "fine_tuned_accuracy": "fine_tuned_accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "majority_share": "majority_share",
    "label_map_accuracy": "label_map_loss",
    "source_contribution": "label_map_loss",
    "source_contribution_p": "label_map_loss",
    "bound_published": "published_target_loss",
    "bound_certified": "target_loss",
}
UNDEFINED = "—"
LATEX = str.maketrans(
    {special: f"\\{special}" for special in "&%#_${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", UNDEFINED: "--"}
)


def quantities_of(record: Mapping, fine_tuned: Mapping | None) -> dict[str, float | None]:
    """Return the QUANTITIES of a stage-3 record and the stage-2 record of its pair, model and seed; None
    where a part was not computed.
    """
    relation, certificate, published = (
        record.get(part) or {} for part in ("relation", "certificate", "published")
    )
    own = {**certificate, **relation}  # of earlier versions the certificate told the fine-tuned head
    values = {
        name: published.get(PUBLISHED_NAMES[name]) if name in PUBLISHED_NAMES else own.get(name)
        for name in QUANTITIES
    }
    # A head that was fitted to labels says nothing of a run on clusters.
    if not record.get("pseudo_labels"):
        values |= fine_tuned_values(fine_tuned)
    return values


def is_fine_tuning_of(head: Mapping, config: Mapping, data: Mapping) -> bool:
    """Tell whether a stage-2 record is of the network and the target's data of a stage-3 run with this
    configuration and data.
    """
    same_network = head["config"]["network"] == config["network"]
    return same_network and without_paths(head["data"])["target"] == without_paths(data)["target"]


def summarise(records: Sequence[tuple[Mapping, Mapping | None]], seeds: int | None = None) -> list[dict]:
    """Return one row a cell without its seed, from (stage-3 record, stage-2 record) pairs: for each
    quantity its mean and its standard deviation over the seeds (n − 1; None for one seed). A quantity
    that is undefined for a seed is None. `seeds`: how many were asked for, of which some may have
    failed.
    """
    groups: dict[tuple, list[dict]] = {}
    for record, fine_tuned in records:
        cell = tuple(record[name] for name in CELL)
        groups.setdefault(cell, []).append(quantities_of(record, fine_tuned))
    rows = []
    for cell, members in groups.items():
        row = {**dict(zip(CELL, cell, strict=True)), "seeds": len(members)}
        row["seeds_asked"] = seeds or len(members)
        for name in QUANTITIES:
            values = [member[name] for member in members]
            defined = all(value is not None for value in values)
            row[name] = statistics.fmean(values) if defined else None
            several = defined and len(values) > 1
            row[f"{name}_spread"] = statistics.stdev(values) if several else None
        rows.append(row)
    return rows


def write_summary(rows: Sequence[Mapping], failed: Mapping[str, str], folder: Path) -> None:
    """Write summary.csv, .jsonl, .md and .tex, and failed.txt, a line a failed cell (absent if none)."""
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in rows)
    texts = {"csv": _csv(rows), "jsonl": "".join(lines), "md": markdown(rows), "tex": latex(rows)}
    if failed:
        text = "".join(f"{name}: {reason}\n" for name, reason in failed.items())
        write_text(folder / "failed.txt", text)
    else:
        (folder / "failed.txt").unlink(missing_ok=True)
    for suffix, text in texts.items():
        write_text(folder / f"summary.{suffix}", text)


def markdown(rows: Sequence[Mapping]) -> str:
    head, *body = _table(rows)
    return markdown_table(head, body, left=len(CELL))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lay out a table, its first `left` columns aligned to the left, the others to the right."""
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in (head, *rows))
    lines = ["| " + " | ".join(line) + " |" for line in escaped]
    lines.insert(1, "|" + "---|" * left + "---:|" * (len(head) - left))
    return "\n".join(lines) + "\n"


def csv_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def latex(rows: Sequence[Mapping]) -> str:
    """Lay out a tabular with the rules of the package booktabs."""
    head, *body = (" & ".join(text.translate(LATEX) for text in line) + r" \\" for line in _table(rows))
    columns = "l" * len(CELL) + "r" * (1 + len(_columns(rows)))
    start, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([start, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end]) + "\n"


def _table(rows: Sequence[Mapping]) -> list[list[str]]:
    columns = _columns(rows)
    table = [[*CELL, "seeds", *(QUANTITIES[name] for name in columns)]]
    for row in rows:
        cells = [_number(row[name], row[f"{name}_spread"]) for name in columns]
        few = row["seeds"] < row["seeds_asked"]
        seeds = f"{row['seeds']} of {row['seeds_asked']}" if few else str(row["seeds"])
        table.append([*(str(row[name]) for name in CELL), seeds, *cells])
    return table


def _columns(rows: Sequence[Mapping]) -> list[str]:
    """Choose those of parts that some run computed."""
    return [name for name, sign in SUMMARY_COLUMNS.items() if any(row[sign] is not None for row in rows)]


def _number(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return UNDEFINED
    return f"{mean:.3f}" if spread is None or math.isnan(spread) else f"{mean:.3f} ± {spread:.3f}"


def _csv(rows: Sequence[Mapping]) -> str:
    of_quantities = (name for pair in QUANTITIES for name in (pair, f"{pair}_spread"))
    columns = [*CELL, "seeds", "seeds_asked", *of_quantities]
    return csv_table(columns, [[row[name] for name in columns] for row in rows])


def fine_tuned_values(fine_tuned: Mapping | None) -> dict[str, float]:
    if fine_tuned is None:
        return {}
    found = {
        "fine_tuned_loss": fine_tuned["test_loss"],
        "fine_tuned_accuracy": fine_tuned["test_accuracy"],
    }
    of_classes = ("balanced_accuracy", "majority_share")  # earlier versions had none
    return found | {name: fine_tuned[name] for name in of_classes if name in fine_tuned}


def format_value(value: float, limits: Sequence[float] | None) -> str:
    """Format a value with its interval, NaN as undefined."""
    if math.isnan(value):
        return UNDEFINED
    return f"{value:.2f}" + (f" [{limits[0]:.2f}, {limits[1]:.2f}]" if limits else "")
