"""Exact optimal transport between two labelled point clouds with uniform weights.

    min_P Σ_ij P_ij ( C_ij + L[y_i, t_j] ),   P 1 = 1/n,  Pᵀ 1 = 1/m                            (1)

C (n, m) is the feature cost, L (K_S, K_T) the label cost, y and t the labels of the points.
`exact` uses that the label part depends on the classes alone; `emd` hands the dense problem to POT
and is the reference.

Why `exact` is exact. Take an optimal plan between the classes for L alone, its duals (u, v) and the
reduced costs r = L − u − v ≥ 0, zero where that plan has mass. Replacing L by r changes (1) by a
constant. Contract the classes that the class plan connects into groups; let w_ab be the least r
from a source class of group a to a target class of group b. Suppose there are potentials φ with
    w_ab + φ_a − φ_b > T_a := (max C − min C) · min(#source, #target classes of a)  for all a ≠ b. (2)
Then no optimal plan crosses groups: a plan that does differs from one that does not by class
cycles. Undoing one such cycle removes as many label steps as it adds, saves more than Σ T_a over
the groups it visits in label cost, and changes at most one feature cost per step, each by at most
max C − min C; a simple cycle leaves group a at most min(#source, #target) times. So each group is
solved by itself, with r in place of L (small numbers, whatever the size of Λ). Where no φ exists,
the groups on the offending cycles are merged and (2) is tried again.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

METHODS = ("exact", "emd")
EMD_ITERATIONS = 10_000_000  # POT stops silently at its cap; this one is never the reason to stop


@dataclass(frozen=True)
class TransportPlan:
    """The plan as a sparse list: mass[k] goes from point rows[k] to point columns[k].

    `mass` sums to one; `cost` is the optimal value of (1), label part included.
    """

    rows: Tensor
    columns: Tensor
    mass: Tensor
    cost: float


def solve_transport(
    feature_cost: Tensor,
    label_cost: Tensor | None = None,
    source_labels: Tensor | None = None,
    target_labels: Tensor | None = None,
    method: str = "exact",
) -> TransportPlan:
    """Solves (1). feature_cost (n, m), label_cost (K_S, K_T), labels (n,) and (m,) int64.

    Without label_cost, (1) is plain transport. Raises ValueError that names the argument for NaN or
    infinite costs, labels outside the label cost, or an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    cost = feature_cost.detach().double().cpu().numpy()
    if cost.ndim != 2 or 0 in cost.shape:
        raise ValueError(f"feature_cost must be (n, m) with points on both sides, not {cost.shape}")
    if not np.isfinite(cost).all():
        raise ValueError("feature_cost holds NaN or infinite values")
    if label_cost is None:
        rows, columns, mass = _solve_block(cost, method)
        total = float((mass * cost[rows, columns]).sum())
    else:
        labels = label_cost.detach().double().cpu().numpy()
        y = _checked_labels(source_labels, cost.shape[0], labels.shape[0], "source_labels")
        t = _checked_labels(target_labels, cost.shape[1], labels.shape[1], "target_labels")
        if not np.isfinite(labels).all() or labels.min() < 0:
            raise ValueError("label_cost must be finite and not negative")
        if method == "emd":
            rows, columns, mass = _solve_block(cost + labels[y][:, t], method)
        else:
            rows, columns, mass = _solve_by_groups(cost, labels, y, t)
        total = float((mass * (cost[rows, columns] + labels[y[rows], t[columns]])).sum())
    device = feature_cost.device
    return TransportPlan(
        torch.from_numpy(rows).to(device),
        torch.from_numpy(columns).to(device),
        torch.from_numpy(mass).to(device, feature_cost.dtype),
        total,
    )


def _checked_labels(labels: Tensor | None, count: int, classes: int, name: str) -> np.ndarray:
    if labels is None or labels.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one label a point")
    labels = labels.cpu().numpy()
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{name} must lie in 0..{classes - 1}, found {labels.min()}..{labels.max()}")
    return labels


# ----------------------------------------------------------------------------------- one block solved
def _solve_block(cost: np.ndarray, method: str = "exact") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uniform transport on one dense block: (rows, columns, mass), mass summing to one."""
    n, m = cost.shape
    if method == "exact" and n == m:  # an assignment problem
        rows, columns = linear_sum_assignment(cost)
        return rows, columns, np.full(n, 1 / n)
    # Masses m and n a point make both sides integers with the same sum: marginals without rounding.
    plan, _, _ = _emd(np.full(n, float(m)), np.full(m, float(n)), cost)
    rows, columns = plan.nonzero()
    return rows, columns, plan[rows, columns] / (n * m)


def _emd(a: np.ndarray, b: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """POT's network simplex, its result code checked: (plan, duals of the rows, of the columns)."""
    import ot  # a second, spared to the stages that transport nothing

    plan, log = ot.emd(a, b, np.ascontiguousarray(cost), numItermax=EMD_ITERATIONS, log=True)
    if log["result_code"] != 1:
        raise RuntimeError(f"POT's emd did not reach the optimum: {log['warning']}")
    return plan, log["u"], log["v"]


# -------------------------------------------------------------------------------- the class structure
def _solve_by_groups(
    cost: np.ndarray, label_cost: np.ndarray, y: np.ndarray, t: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact plan of (1), one independent problem a group of classes (module docstring)."""
    n, m = cost.shape
    sources, y = np.unique(y, return_inverse=True)  # classes absent from the batch fall away
    targets, t = np.unique(t, return_inverse=True)
    label_cost = label_cost[np.ix_(sources, targets)]
    spread = float(cost.max() - cost.min())
    reduced, source_group, target_group = _class_groups(
        label_cost, np.bincount(y) * float(m), np.bincount(t) * float(n), spread
    )
    source_group, target_group = source_group[y], target_group[t]

    parts = []
    order_rows = np.argsort(source_group, kind="stable")
    order_columns = np.argsort(target_group, kind="stable")
    groups = np.arange(source_group.max() + 1)
    row_ends = np.searchsorted(source_group[order_rows], groups, side="right")
    column_ends = np.searchsorted(target_group[order_columns], groups, side="right")
    row_start = column_start = 0
    for row_end, column_end in zip(row_ends, column_ends, strict=True):
        rows = order_rows[row_start:row_end]
        columns = order_columns[column_start:column_end]
        block = cost[np.ix_(rows, columns)] + reduced[np.ix_(y[rows], t[columns])]
        i, j, mass = _solve_block(block)
        parts.append((rows[i], columns[j], mass * (len(rows) / n)))
        row_start, column_start = row_end, column_end
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _class_groups(
    label_cost: np.ndarray, source_mass: np.ndarray, target_mass: np.ndarray, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(reduced label costs (K_S, K_T), group of each source class, group of each target class).

    Masses are integers with the same sum on both sides. Reduced costs are meaningful inside groups.
    """
    sources, targets = label_cost.shape
    scale = max(label_cost.max(), 1e-300)
    plan, u, v = _emd(source_mass, target_mass, label_cost / scale)
    reduced = label_cost - (u[:, None] + v[None, :]) * scale
    reduced = np.where(plan > 0, 0.0, reduced.clip(min=0))

    i, j = plan.nonzero()
    adjacency = coo_array((np.ones(len(i)), (i, sources + j)), shape=(sources + targets,) * 2)
    count, group = connected_components(adjacency, directed=False)
    while count > 1:
        gaps, capacity = _group_gaps(reduced, group, count)
        # Rounding in L (relative 1e-16 of its scale) must not decide whether (2) holds.
        thresholds = spread * capacity * (1 + 1e-9) + scale * 1e-12
        merged = _merge_offending(gaps - thresholds[:, None])
        if merged.max() + 1 == count:
            break
        group = merged[group]
        count = group.max() + 1
    return reduced, group[:sources], group[sources:]


def _group_gaps(reduced: np.ndarray, group: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """w_ab of (2), (count, count) with an infinite diagonal, and min(#source, #target) per group."""
    sources, targets = reduced.shape
    source_group, target_group = group[:sources], group[sources:]
    by_source = np.full((count, targets), np.inf)
    np.minimum.at(by_source, source_group, reduced)
    gaps = np.full((count, count), np.inf)
    np.minimum.at(gaps.T, target_group, by_source.T)
    np.fill_diagonal(gaps, np.inf)
    capacity = np.minimum(
        np.bincount(source_group, minlength=count), np.bincount(target_group, minlength=count)
    )
    return gaps, capacity


def _merge_offending(slack: np.ndarray) -> np.ndarray:
    """A new numbering of the groups that merges those on a common cycle of `slack` ≤ 0; where there
    is no such cycle, potentials satisfy (2) and every group keeps its own number.

    Bellman–Ford settles the usual case in a few passes; the closure by Floyd and Warshall is only
    needed to name the groups on an offending cycle.
    """
    count = len(slack)
    potential = np.zeros(count)
    for _ in range(count):
        relaxed = np.minimum(potential, (potential[:, None] + slack).min(0))
        if (relaxed == potential).all():
            return np.arange(count)
        potential = relaxed
    distance = slack.copy()
    floor = -1e300 / count  # keeps the distances along negative cycles finite
    for middle in range(count):
        through = distance[:, middle, None] + distance[None, middle]
        distance = np.maximum(np.minimum(distance, through), floor)
    on_cycle = distance + distance.T <= 0
    return connected_components(coo_array(on_cycle), directed=False)[1]
