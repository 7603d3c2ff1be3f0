"""Optimal transport with a label part against POT's `ot.emd` on the dense cost.

    python3 -m benchmarks.transport
    python3 -m benchmarks.transport --REPEATS 1 --SIZES 0

The reference computes all distances and hands the dense problem to POT. B passes through what learning
passes through: soft (its start), half-way, near a permutation (its end), a permutation (LearnedA);
classes are equally frequent on both sides, or not on the source's. `feature off`: the feature part of
the plan's cost against the reference's.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ot
import torch
from torch import Tensor

from benchmarks.measure import Measurement, Table, measure, milliseconds
from utils.device import choose_device
from utils.entry import stage_entry
from utils.transport import EuclideanCost, TransportPlan, solve_transport

SIZES = ((500, 10, 200), (1000, 37, 512), (1500, 100, 512), (2500, 100, 2048))
LABEL_WEIGHT = {500: 1e8}  # the released code's Λ: 1e8 at the small scale, 1e6 at the large
SHARPNESS = {"soft": 0.0, "half-way": 4.0, "near permutation": 10.0, "permutation": 700.0}


def instance(size: tuple[int, int, int], shape: str, equal: bool, device: torch.device, seed: int = 0):
    """(x, z, label cost, source labels, target labels): Gaussian classes, a B of the given shape."""
    n, classes, dim = size
    rng = np.random.default_rng(seed)
    logits = rng.random((classes, classes))  # as the learner starts
    logits[rng.permutation(classes), np.arange(classes)] += SHARPNESS[shape]
    B = np.exp(logits) / np.exp(logits).sum(0)
    distances = np.linalg.norm(B.T[:, None] - np.eye(classes), axis=-1)
    even = np.sort(np.arange(n) % classes)  # batches are drawn class by class
    prior = rng.dirichlet(np.full(classes, 20.0))
    y = even if equal else np.sort(rng.choice(classes, size=n, p=prior))
    means = rng.normal(size=(2, classes, dim))
    x, z = (mean[k] + rng.normal(size=(n, dim)) for mean, k in zip(means, (y, even), strict=True))
    parts = (x.astype(np.float32), z.astype(np.float32), LABEL_WEIGHT.get(n, 1e6) * distances, y, even)
    return tuple(torch.from_numpy(part).to(device) for part in parts)


def feature_part(parts, plan) -> float:
    """Σ P_ij ‖x_i − z_j‖, which the label part would hide."""
    difference = parts[0][plan.rows] - parts[1][plan.columns]
    return (plan.mass.double() @ difference.norm(dim=1).double()).item()


@stage_entry("benchmarks.transport")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--REPEATS", type=int, default=5)
    parser.add_argument("--SIZES", type=int, nargs="+", default=list(range(len(SIZES))), help="which")
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)
    device = choose_device("auto")
    columns = ("emd ms", "exact ms", "spread ms", "peak MiB", "times faster", "feature off")
    table = Table("transport", columns, argv)
    for size in (SIZES[k] for k in options.SIZES):
        table.heading("N = {}, K = {}, d = {}".format(*size))
        for shape in SHARPNESS:
            for equal in (True, False):
                parts = instance(size, shape, equal, device)
                emd, exact = (
                    _solve(parts, solve, options.REPEATS) for solve in (solve_dense, solve_transport)
                )
                table.row(
                    f"{shape}, {'equal' if equal else 'unequal'}",
                    milliseconds(emd.seconds),
                    milliseconds(exact.seconds),
                    milliseconds(exact.spread),
                    f"{exact.peak:.0f}",
                    f"{emd.seconds / exact.seconds:.1f}",
                    f"{feature_part(parts, exact.value) / feature_part(parts, emd.value) - 1:.0e}",
                )
    table.write(options.RESULTS)


def pot_plan(cost: np.ndarray) -> np.ndarray:
    """What POT's dense solver gives between points of equal mass, for masses that are whole numbers:
    (n, m), summing to one.
    """
    n, m = cost.shape
    scaled = cost / (cost.max() or 1.0)  # POT's tolerance is absolute
    return ot.emd(np.full(n, float(m)), np.full(m, float(n)), scaled, numItermax=10**7) / (n * m)


def solve_dense(cost: EuclideanCost, label_cost: Tensor, y: Tensor, t: Tensor) -> TransportPlan:
    """POT's plan of the dense problem."""
    total = (cost.dense() + label_cost[y][:, t]).double().cpu().numpy()
    plan = pot_plan(total)
    rows, columns = (torch.from_numpy(part).to(cost.device) for part in plan.nonzero())
    mass = torch.from_numpy(plan[plan.nonzero()]).to(cost.x)
    return TransportPlan(rows, columns, mass, float((plan * total).sum()))


def _solve(parts: tuple, solve: Callable[..., TransportPlan], repeats: int) -> Measurement:
    x, z, *labels = parts
    return measure(lambda: solve(EuclideanCost(x, z), *labels), repeats)


if __name__ == "__main__":
    main()
