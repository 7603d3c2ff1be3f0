"""The learners of the transfer stage on random features, by their size.

    python3 -m benchmarks.learners
    python3 -m benchmarks.learners --SIZES 0 1
    OMP_NUM_THREADS=1 python3 -m benchmarks.learners      # where other work shares the processors

`of processors` are the seconds of all of them, which say more where others share them. What each learner
found stands beside: λ of the ridge head and its held-out loss, the loss of the Lipschitz head (τ = 0.2
with 10 classes, 0.02 with 100) and its proven gap, the certificate before and after learning on training
points. Source and target are halves of the same classes.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.heads import features
from benchmarks.measure import Table
from utils.certificate import learn_certificate
from utils.device import choose_device
from utils.entry import stage_entry
from utils.features import Features
from utils.linear_head import LinearHead, fit_linear_head
from utils.procedures import CertificateSettings

SIZES = (  # samples of each task, dimensions, classes, τ
    (4_000, 84, 10, 0.2),
    (6_000, 1280, 10, 0.2),
    (10_000, 2048, 100, 0.02),
)


@stage_entry("benchmarks.learners")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--SIZES", type=int, nargs="+", default=list(range(len(SIZES))), help="which")
    parser.add_argument("--RESULTS", type=Path, default=None, help="folder of the table")
    options = parser.parse_args(argv)
    device = choose_device("auto")
    table = Table("learners", ("seconds", "of processors", "found", "beside it"), argv)
    for samples, dim, classes, tau in (SIZES[k] for k in options.SIZES):
        table.heading(f"{samples} x {dim}, {classes} classes; {torch.get_num_threads()} threads")
        both = features(2 * samples, dim, classes, device)
        source, target = (
            Features(both.x[part], both.y[part]) for part in (slice(samples), slice(samples, None))
        )
        heads = [
            _row(table, f"ridge head, {name}", lambda: _ridge(side, classes))  # noqa: B023
            for name, side in (("source", source), ("target", target))
        ]
        _row(table, "Lipschitz head", lambda: _lipschitz(source, classes, tau))  # noqa: B023
        _row(table, "certificate", lambda: _certificate(source, target, heads))  # noqa: B023
    table.write(options.RESULTS)


def _row(table: Table, name: str, run: Callable[[], tuple[object, float, float]]) -> object:
    start, used = time.perf_counter(), time.process_time()
    found, value, beside = run()
    passed = time.perf_counter() - start, time.process_time() - used
    table.row(name, *(f"{seconds:.2f}" for seconds in passed), f"{value:.6f}", f"{beside:.2e}")
    return found


def _ridge(side: Features, classes: int) -> tuple[LinearHead, float, float]:
    head = fit_linear_head(side, classes, None, "ridge")
    return head, head.held_out_loss, head.weight_decay


def _lipschitz(side: Features, classes: int, tau: float) -> tuple[LinearHead, float, float]:
    head = fit_linear_head(side, classes, tau)
    loss = functional.cross_entropy(head.logits(side.x).double(), side.y).item()
    return head, loss, head.optimality_gap


def _certificate(source: Features, target: Features, heads: list[LinearHead]) -> tuple:
    learned = learn_certificate(source, target, *heads, CertificateSettings())
    return learned, learned.end, learned.start


if __name__ == "__main__":
    main()
