"""Which scale's settings a run has: the small scale's for a LeNet, the large one's for other models.

python3 scales.py > docs/settings.md        # every setting with its value in each procedure
"""

from __future__ import annotations

import utils
from utils.procedures import settings_for, settings_tables


def settings_page() -> str:
    """Make the page docs/settings.md."""
    columns = {
        "small, improved": settings_for("improved", "lenet"),
        "small, published": settings_for("published", "lenet"),
        "large, improved": settings_for("improved", "resnet18"),
        "ResNets, published": settings_for("published", "resnet18"),
        "others, published": settings_for("published", "moco"),
    }
    parts = [
        f"## {title[0].upper()}{title[1:]}\n\n{utils.report.markdown_table(*table, left=3)}"
        for title, table in settings_tables(columns).items()
    ]
    return "\n".join(["# Every setting\n", PREFACE, *parts])


PREFACE = """What each procedure fixes. `python3 scales.py` prints this page from the dataclass fields
from which `--help` is made, too. The column `from` says who chose the published procedure's value. A
dash: the setting has no effect there, or is not set. The published procedure treats USPS, CIFAR-10 and
CLIP by themselves (`utils/procedures/small.py`, `large.py`).

Stage 3 has a flag for each setting of the transform, its name in capitals (`--PRIOR_WEIGHT`), so that
each can be varied alone. Those of the others stand in each script's `--help`.
"""


if __name__ == "__main__":
    print(settings_page(), end="")
