"""Learning the transform: seconds an iteration, against the dense formulation, and how they grow.

    python3 -m benchmarks.transform
    python3 -m benchmarks.transform --SIZES 0 --ITERATIONS 3

The dense formulation is (1) of utils/published/transform.py written down with N x N arrays: all
distances, POT's `ot.emd`, the loss as a sum over the dense plan, gradients through the distances. The
fit asks whether the cost of an iteration near a permutation grows as N²/K + N·d² + d³.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from torch.nn import functional

from benchmarks.measure import Measurement, Table, measure
from benchmarks.transport import pot_plan
from utils.device import choose_device
from utils.entry import stage_entry
from utils.features import Features
from utils.linear_head import LinearHead
from utils.procedures import TransformSettings
from utils.published import TaskTransform, learn_task_transform, transform

SIZES = ((500, 10, 200), (1000, 37, 512), (1500, 100, 512), (2500, 100, 1024), (2500, 100, 2048))
RELEASED = {  # N: (iterations, Λ)
    500: (1001, 1e8)
}


def task(classes: int, dim: int, per_class: int, seed: int, device: torch.device) -> Features:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, dim, generator=generator)
    y = torch.arange(classes).repeat_interleave(per_class)
    x = means[y] + torch.randn(len(y), dim, generator=generator)
    return Features(((x - x.mean(0)) / x.std(0)).to(device), y.to(device))


def dense_mismatch(
    transform: TaskTransform, source: Features, target: Features, label_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """distribution_mismatch without any structure: N x N arrays forwards and backwards."""
    distances = torch.cdist(transform.features(source.x), target.x)
    one_hot = functional.one_hot(target.y, len(transform.B)).to(transform.B)
    labels = torch.cdist(transform.B.T[source.y], one_hot)
    with torch.no_grad():
        cost = (distances + label_weight * labels).double().cpu().numpy()
        plan = torch.from_numpy(pot_plan(cost)).to(distances)
    return (plan * distances.square()).sum(), (plan * labels.square()).sum()


def learn(
    size: tuple[int, int, int], iterations: int, device: torch.device, repeats: int, setting: str
) -> Measurement:
    """Seconds of `iterations` from the start (LearnedAll) or with B a permutation (LearnedA)."""
    batch, classes, dim = size
    per_class = 2 * batch // classes
    source, target = (task(classes, dim, per_class, seed, device) for seed in (0, 1))
    means = torch.stack([source.x[source.y == k].mean(0) for k in range(classes)])
    head = LinearHead(0.1 * means / dim**0.5, torch.zeros(classes, device=device))
    settings = TransformSettings(
        learned=setting,
        iterations=iterations,
        batch_size=batch,
        label_weight=RELEASED.get(batch, (2001, 1e6))[1],
    )
    return measure(lambda: learn_task_transform(source, target, head, settings), repeats)


@stage_entry("benchmarks.transform")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--SIZES", type=int, nargs="+", default=list(range(len(SIZES))), help="which")
    parser.add_argument("--ITERATIONS", type=int, default=10)
    parser.add_argument("--REPEATS", type=int, default=3)
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)
    device = choose_device("auto")
    sizes = [SIZES[k] for k in options.SIZES]
    table = Table(
        "transform",
        ("ms/iteration", "spread", "peak MiB", "dense ms", "dense MiB", "times faster", "all, minutes"),
        argv,
    )
    permutation = []
    for setting, what in (("LearnedAll", "B soft"), ("LearnedA", "B a permutation")):
        table.heading(f"{setting}: {what}")
        for size in sizes:
            ours = learn(size, options.ITERATIONS, device, options.REPEATS, setting)
            kept = transform.distribution_mismatch
            transform.distribution_mismatch = dense_mismatch
            try:
                dense = learn(size, options.ITERATIONS, device, 1, setting)
            finally:
                transform.distribution_mismatch = kept
            each = ours.seconds / options.ITERATIONS
            iterations = RELEASED.get(size[0], (2001, 1e6))[0]
            table.row(
                "N = {}, K = {}, d = {}".format(*size),
                f"{each * 1e3:.1f}",
                f"{ours.spread / options.ITERATIONS * 1e3:.1f}",
                f"{ours.peak:.0f}",
                f"{dense.seconds / options.ITERATIONS * 1e3:.1f}",
                f"{dense.peak:.0f}",
                f"{dense.seconds / ours.seconds:.1f}",
                f"{each * iterations / 60:.1f}",
            )
            if setting == "LearnedA":
                permutation.append(each)
    if len(sizes) >= 4:
        _fit(table, sizes, permutation)
    table.write(options.RESULTS)


def _fit(table: Table, sizes: list[tuple[int, int, int]], seconds: list[float]) -> None:
    """Non-negative least squares of the relative error on what an iteration may cost."""
    n, k, d = np.array(sizes, dtype=float).T
    terms = {"1": np.ones_like(n), "N²/K": n**2 / k, "N·d²": n * d**2, "d³": d**3}
    measured = np.array(seconds)
    design = np.stack(list(terms.values()), axis=1) / measured[:, None]
    factors, _ = nnls(design, np.ones_like(measured))
    shown = " + ".join(f"{f:.2g}·{name}" for f, name in zip(factors, terms, strict=True) if f)
    table.say(f"\nseconds an iteration with B a permutation ≈ {shown}")
    for size, seen, expected in zip(sizes, measured, measured * (design @ factors), strict=True):
        label = "N = {}, K = {}, d = {}".format(*size)
        table.say(f"{label:<34}measured {seen * 1e3:8.1f} ms, fitted {expected * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
