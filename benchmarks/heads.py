"""Fitting Lipschitz-constrained heads, against a head trained by double back-propagation.

    python3 -m benchmarks.heads
    python3 -m benchmarks.heads --SIZES 0
    python3 -m benchmarks.heads --SIZES 4      # 1,000 classes: more than ten minutes

The reference takes the released penalty's steps (small scale up to d = 200, large scale above), with
the gradient norms by automatic differentiation (torch.autograd.grad with create_graph); it is timed over
one epoch and its whole fit taken as epochs times that. `gap` is how far the constrained head's loss is
from the optimum at most, proven by duality.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.measure import Table, measure
from utils.device import choose_device
from utils.entry import stage_entry
from utils.features import Features
from utils.linear_head import fit_linear_head, lipschitz_constant
from utils.procedures import HeadSettings

SMALL = HeadSettings(method="penalty")  # 501 epochs with batches of 500
LARGE = HeadSettings(
    method="penalty",
    penalised="separate",
    batch_size=1000,
    weight_decay=5e-4,
    penalty_weight=1e4,
    steps=5001,
)
SIZES = (  # samples, dimensions, classes, τ, the released fit
    (4_000, 200, 10, 0.2, SMALL),
    (60_000, 200, 10, 0.2, SMALL),
    (10_000, 512, 100, 0.02, LARGE),
    (10_000, 2048, 100, 0.02, LARGE),
    (20_000, 512, 1000, 0.02, LARGE),
)


def features(samples: int, dim: int, classes: int, device: torch.device) -> Features:
    """Standardised rectified Gaussian classes that overlap."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(classes, dim, generator=generator)
    y = torch.randint(classes, (samples,), generator=generator)
    x = (means[y] + 3 * torch.randn(samples, dim, generator=generator)).relu()
    x = (x - x.mean(0)) / x.std(0)
    return Features(x.to(device), y.to(device))


def double_back_propagation_epoch(data: Features, classes: int, settings: HeadSettings) -> None:
    """One epoch of the released penalty, its norms through the graph of a gradient."""
    weight = torch.zeros(classes, data.x.shape[1], device=data.x.device, requires_grad=True)
    bias = torch.zeros(classes, device=data.x.device, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=settings.learning_rate)
    for index in torch.randperm(len(data)).to(data.y.device).split(settings.batch_size):
        x, y = data.x[index].requires_grad_(), data.y[index]
        other = torch.randint(classes, y.shape, device=y.device)
        logits = functional.linear(x, weight, bias)
        losses = [functional.cross_entropy(logits, labels, reduction="sum") for labels in (y, other)]
        losses = [sum(losses)] if settings.penalised == "sum" else losses
        loss = functional.cross_entropy(logits, y)
        for part in losses:
            (gradient,) = torch.autograd.grad(part, x, create_graph=True)
            excess = functional.relu(gradient.norm(dim=1) - settings.tau).square().mean()
            loss = loss + settings.penalty_weight * excess
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@stage_entry("benchmarks.heads")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--SIZES", type=int, nargs="+", default=[0, 1, 2, 3], help="which; 4 takes long")
    parser.add_argument("--REPEATS", type=int, default=3)
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)
    device = choose_device("auto")
    table = Table(
        "heads",
        (
            "seconds",
            "spread",
            "peak MiB",
            "loss",
            "gap",
            "L(W) / tau",
            "penalty s",
            "double b. s",
            "times faster",
        ),
        argv,
    )
    table.heading("samples x dimensions x classes, tau")
    for samples, dim, classes, tau, released in (SIZES[k] for k in options.SIZES):
        data = features(samples, dim, classes, device)
        repeats = options.REPEATS if samples * dim * classes < 10**9 else 1
        exact = measure(lambda: fit_linear_head(data, classes, tau), repeats, warm_up=False)  # noqa: B023
        per_epoch = math.ceil(samples / released.batch_size)
        epochs = released.epochs if released.steps is None else released.steps / per_epoch
        settings = replace(released, tau=tau, epochs=1, steps=None)
        closed, double = (
            epochs * measure(run, repeats).seconds
            for run in (
                lambda: fit_linear_head(data, classes, tau, "penalty", settings=settings),  # noqa: B023
                lambda: double_back_propagation_epoch(data, classes, settings),  # noqa: B023
            )
        )
        head = exact.value
        loss = functional.cross_entropy(head.logits(data.x).double(), data.y).item()
        table.row(
            f"{samples} x {dim} x {classes}, {tau}",
            f"{exact.seconds:.2f}",
            f"{exact.spread:.2f}",
            f"{exact.peak:.0f}",
            f"{loss:.5f}",
            f"{math.nan if head.optimality_gap is None else head.optimality_gap:.1e}",
            f"{lipschitz_constant(head.weight) / tau:.7f}",
            f"{closed:.0f}",
            f"{double:.0f}",
            f"{double / exact.seconds:.0f}",
        )
    table.write(options.RESULTS)


if __name__ == "__main__":
    main()
