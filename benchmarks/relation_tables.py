"""How the parts of `benchmarks.relation` write their tables."""

import argparse
import math
from collections.abc import Iterable, Sequence

from benchmarks.measure import Table
from utils.relation import Relation


def new_table(part: str, columns: Sequence[str], options: argparse.Namespace) -> Table:
    """Under the command that makes this part anew; folders by name: paths are this machine's."""
    shown = ["--PARTS", part]
    if part in SEEDED:
        shown += ["--SEEDS", *map(str, options.SEEDS)]
    if part in WITH_FOLDERS and options.FOLDERS:
        shown += ["--FOLDERS", *(path.name for path in options.FOLDERS)]
    if options.CONTROLS:
        shown += ["--CONTROLS", str(options.CONTROLS)]
    table = Table("relation", columns, shown)
    table.name = f"relation_{part}"
    return table


SEEDED = ("forms_MNIST", "forms_FMNIST", "turned", "lenets", "colour", "spread", "spread_one_network")
WITH_FOLDERS = ("clouds", "lenets", "colour")


def share(found: Relation) -> float:
    """source_contribution, nan where there is none."""
    return math.nan if found.source_contribution is None else found.source_contribution


def contribution(found: Relation) -> str:
    return "—" if found.source_contribution is None else f"{found.source_contribution:.2f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def of(held: Iterable[bool]) -> str:
    held = list(held)
    return f"{sum(held)} of {len(held)}"
