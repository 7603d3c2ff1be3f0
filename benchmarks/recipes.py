"""The improved transform recipe against the published one, on every pair of tasks, over seeds.

    python3 -m benchmarks.recipes                                   # the embedded data sets
    python3 -m benchmarks.recipes --PAIRS features:A.npz,features:B.npz

Both recipes learn from the same features and the same exactly constrained head, so that the table
shows the recipe alone. Columns are means over seeds; the last column counts the seeds in which the
improved recipe is not worse in each quantity.
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np

import train_source_model
import transfer_source_to_target
from utils.entry import stage_entry
from utils.procedures.small import PUBLISHED

QUANTITIES = {  # name: whether more is better
    "target_accuracy": True,
    "target_loss": False,
    "bound_certified": False,
    "bound_published": False,
    "wasserstein_distance": False,
    "objective": False,
    "seconds": False,
}
PUBLISHED_RECIPE = [
    *("--ITERATIONS", str(PUBLISHED.transform.iterations)),
    *("--LEARNING_RATE", str(PUBLISHED.transform.learning_rate)),
    *("--LABEL_LEARNING_RATE", str(PUBLISHED.transform.label_learning_rate)),
    *("--SCHEDULE", PUBLISHED.transform.schedule),
]
EMBEDDED_PAIRS = [
    f"{source},{target}" for source in ("MNIST", "FMNIST") for target in ("MNIST", "FMNIST")
]


def transfer(pair: str, setting: str, seed: int, recipe: list[str], folder: Path) -> dict[str, float]:
    """Runs stage 3 (and stage 1 when needed) in `folder`; the quantities of its result."""
    source, target = pair.split(",")
    where = ["--DATA", "embedded", "--CHECKPOINT_DIR", str(folder), "--SEED", str(seed)]
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as results:
        where += ["--RESULTS_DIR", results]
        if not source.startswith("features:"):
            train_source_model.main(["--SRC", source, *where])
        argv = [
            "--SRC",
            source,
            "--TRG",
            target,
            "--SETTING",
            setting,
            *where,
            *recipe,
            "--ANALYSIS",
            "published",
        ]
        transfer_source_to_target.main(argv)
        last = (Path(results) / "results.jsonl").read_text().splitlines()[-1]
    result = json.loads(last)
    values = {name: result["published"].get(name) for name in QUANTITIES}
    return {
        **values,
        "seconds": result["seconds"]["transform"],
        "objective": result["published"]["final_objective"],
    }


@stage_entry("benchmarks.recipes")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--PAIRS", nargs="+", default=EMBEDDED_PAIRS, metavar="SRC,TRG")
    parser.add_argument("--SETTING", default="LearnedAll")
    parser.add_argument("--SEEDS", type=int, default=3)
    parser.add_argument("--RECIPE", nargs=argparse.REMAINDER, default=[], help="flags of stage 3 to try")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        for pair in options.PAIRS:
            runs = {
                name: [
                    transfer(pair, options.SETTING, seed, recipe, Path(folder))
                    for seed in range(options.SEEDS)
                ]
                for name, recipe in (("published", PUBLISHED_RECIPE), ("improved", options.RECIPE))
            }
            print(f"\n{pair} {options.SETTING}\n{'':<22}{'published':>14}{'improved':>14}   not worse")
            for name, more_is_better in QUANTITIES.items():
                old, new = (np.array([run[name] for run in runs[key]]) for key in runs)
                not_worse = (new >= old) if more_is_better else (new <= old)
                count = f"{not_worse.sum()}/{len(old)}"
                print(f"{name:<22}{old.mean():>14.6g}{new.mean():>14.6g}{count:>12}", flush=True)


if __name__ == "__main__":
    main()
