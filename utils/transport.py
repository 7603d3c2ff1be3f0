"""Optimal transport between two labelled point clouds with uniform weights.

    min_P Σ_ij P_ij ( C_ij + L[y_i, t_j] ),   P 1 = 1/n,  Pᵀ 1 = 1/m                            (1)

C (n, m) is the feature cost, L (K_S, K_T) the label cost, y and t the labels of the points. What
makes it fast is that the label part depends on the classes alone.

Reduced label costs. For any class potentials (φ, ψ), replacing L by r = L − φ − ψ changes (1) by a
constant, because the class masses of both sides are fixed. With the duals of the transport between
the classes for L alone, r ≥ 0, and r = 0 wherever that small plan has mass: what is left has the
size of the features' costs around the optimum, whatever the size of Λ.

Why the plan is optimal. (1) is solved with POT's sparse network simplex on the pairs of classes with
small r, which the class plan makes feasible. That gives duals (u, v) of the points. If
C_ij + r[y_i, t_j] − u_i − v_j ≥ 0 for the pairs that were left out as well, (u, v) are feasible for
the whole problem with the same value: the plan is optimal by linear programming duality. Otherwise
the offending pairs of classes join and it is solved again. Most pairs of classes are ruled out
without looking at their points: r[s, t] + min C ≥ max u_s + max v_t is enough.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

EMD_ITERATIONS = 10_000_000  # POT stops silently at its cap; this one is never the reason to stop


class CostError(ValueError):
    """A feature cost that holds NaN or infinite values: what produced it has diverged."""


@dataclass(frozen=True)
class TransportPlan:
    """The plan as a sparse list: mass[k] goes from point rows[k] to point columns[k].

    `mass` sums to one; `cost` is the value of (1), label part included.
    """

    rows: Tensor
    columns: Tensor
    mass: Tensor
    cost: float


@dataclass(frozen=True)
class EuclideanCost:
    """The feature cost ‖x_i − z_j‖₂ of x (n, d) and z (m, d), computed where it is needed only."""

    x: Tensor
    z: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x), len(self.z)

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    def dense(self) -> Tensor:
        return torch.cdist(*self.centred())

    def centred(self) -> tuple[Tensor, Tensor]:
        """Return the points less a common centre: squared distances are differences of squared norms,
        which must not be much larger.
        """
        x, z = self.x.detach().double(), self.z.detach().double()
        centre = (x.mean(0) + z.mean(0)) / 2
        return (x - centre).to(self.dtype), (z - centre).to(self.dtype)


class _LazyDistances:
    """The distances of an EuclideanCost on the CPU, a block at a time; products and norms in the points'
    own precision.
    """

    def __init__(self, cost: EuclideanCost):
        self.x, self.z = cost.centred()
        self.shape = cost.shape
        self.x_squared, self.z_squared = (part.square().sum(1).double() for part in (self.x, self.z))

    def block(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the costs of all pairs of these points, in rising order: (rows, columns) float64."""
        i, j = _slice_or_index(rows), _slice_or_index(columns)
        squared = torch.mm(self.x[i], self.z[j].T).double().mul_(-2)
        squared.add_(self.x_squared[i, None]).add_(self.z_squared[j])
        return squared.clamp_min_(0).sqrt_().numpy()

    def pairs(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the cost of each pair rows[k], columns[k], float64."""
        difference = self.x[torch.from_numpy(rows)] - self.z[torch.from_numpy(columns)]
        return torch.linalg.vector_norm(difference, dim=1).double().numpy()

    def least(self) -> float:
        """Return a lower bound on every cost."""
        return 0.0


def _slice_or_index(points: np.ndarray) -> slice | Tensor:
    """Return neighbouring points as a slice, which copies nothing."""
    first, last = int(points[0]), int(points[-1])
    return slice(first, last + 1) if last - first + 1 == len(points) else torch.from_numpy(points)


@dataclass(frozen=True)
class _DenseCost:
    """A feature cost that is there already, (n, m)."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape

    def block(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return self.values[np.ix_(rows, columns)].astype(np.float64)

    def pairs(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return self.values[rows, columns].astype(np.float64)

    def least(self) -> float:
        return float(self.values.min())


def solve_transport(
    feature_cost: Tensor | EuclideanCost,
    label_cost: Tensor | None = None,
    source_labels: Tensor | None = None,
    target_labels: Tensor | None = None,
) -> TransportPlan:
    """Solve (1) exactly, between n and m points of equal mass.

    Args:
        feature_cost: C (n, m), or an `EuclideanCost` whose distances are computed where needed.
        label_cost: L (K_S, K_T), not negative; without it (1) is plain transport.
        source_labels: y (n,) int64, with a label cost.
        target_labels: t (m,) int64, with a label cost.

    Returns:
        The plan as a sparse list of masses that sum to 1, and its cost in the unit of C.

    Raises:
        ValueError: a side is empty, a cost is NaN, infinite or negative, or labels do not fit; the
            argument is named.

    Source: arXiv:2307.00823, section 4.1, for the cost; the solver is POT's network simplex
    (Bonneel et al. 2011) on the pairs of classes that can matter.

    Example:
        >>> plan = solve_transport(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        >>> plan.cost, plan.columns.tolist()
        (0.0, [1, 0])
    """
    _check_feature_cost(feature_cost)
    if len({part is None for part in (label_cost, source_labels, target_labels)}) > 1:
        raise ValueError("label_cost, source_labels and target_labels must be given together")
    n, m = feature_cost.shape
    if label_cost is not None:
        if label_cost.ndim != 2 or not label_cost.isfinite().all() or label_cost.min() < 0:
            raise ValueError("label_cost must be (K_S, K_T), finite and not negative")
        _check_labels(source_labels, n, label_cost.shape[0], "source_labels")
        _check_labels(target_labels, m, label_cost.shape[1], "target_labels")
        y, t = source_labels.cpu().numpy(), target_labels.cpu().numpy()
        on_classes, cost = label_cost.detach().double().cpu().numpy(), _on_host(feature_cost)
        rows, columns, mass = _solve_by_classes(cost, on_classes, y, t)
        paired = cost.pairs(rows, columns) + on_classes[y[rows], t[columns]]
    else:
        cost = _dense(feature_cost).double().cpu().numpy()
        rows, columns, mass = _solve_dense(cost)
        paired = cost[rows, columns]
    device, dtype = feature_cost.device, feature_cost.dtype
    return TransportPlan(
        rows=torch.from_numpy(rows).to(device),
        columns=torch.from_numpy(columns).to(device),
        mass=torch.from_numpy(mass).to(device, dtype),
        cost=float(mass @ paired),
    )


def solve_assignments(costs: Tensor, pool: ThreadPoolExecutor | None = None) -> Tensor:
    """Find the column of each row in the one-to-one plan of least cost, for C problems at once: (C, n)
    from (C, n, n). With a `pool` its threads share the problems (SciPy's solver lets go of Python's
    lock); what is found does not depend on it.
    """
    reduced = costs.to(torch.float64, copy=True)
    # What a row or a column costs at least, any plan pays. Without it the solver has shorter ways to go.
    reduced -= reduced.amin(2, keepdim=True)
    reduced -= reduced.amin(1, keepdim=True)
    problems = reduced.cpu().numpy()
    parts = [problems]
    if pool is not None and problems.size >= WORTH_THREADS:
        parts = np.array_split(problems, min(len(problems), pool._max_workers))
    columns = map(_assign_each, parts) if len(parts) == 1 else pool.map(_assign_each, parts)
    return torch.from_numpy(np.concatenate(list(columns))).to(costs.device)


WORTH_THREADS = 2**15  # costs in all: for fewer, handing them to a thread takes as long as solving them


def _assign_each(problems: np.ndarray) -> np.ndarray:
    return np.stack([linear_sum_assignment(cost)[1] for cost in problems])


def optimal_potentials(cost: Tensor, plan: TransportPlan) -> tuple[Tensor, Tensor]:
    """Find duals (u (n,), v (m,)) of an optimal plan for cost (n, m): u_i + v_j ≤ cost_ij, equal where
    the plan has mass, so that its cost is mean u + mean v.

    v is the shortest distance to each column and −u to each row in the graph of the changes that an
    optimal plan still allows: from row i to column j at cost_ij, and back at −cost_ij where there is
    mass. Bellman and Ford's sweeps find them in as many sweeps as there are rows at most; u_i + v_j ≤
    cost_ij holds whenever they end.
    """
    to_row = cost.new_zeros(cost.shape[0])
    back = cost[plan.rows, plan.columns]
    rounding = 1e-12 * cost.abs().max()
    for _ in range(len(to_row)):
        to_column = (to_row[:, None] + cost).amin(0)
        shorter = to_row.scatter_reduce(0, plan.rows, to_column[plan.columns] - back, "amin")
        if (shorter >= to_row - rounding).all():
            break
        to_row = shorter
    return -to_row, (to_row[:, None] + cost).amin(0)


def _check_feature_cost(cost: Tensor | EuclideanCost) -> None:
    if len(cost.shape) != 2 or 0 in cost.shape:
        raise ValueError(
            f"feature_cost must be (n, m) with points on both sides, not {tuple(cost.shape)}"
        )
    for part in (cost.x, cost.z) if isinstance(cost, EuclideanCost) else (cost,):
        extremes = torch.stack(part.detach().aminmax())  # NaN carries over
        if isinstance(cost, EuclideanCost):
            extremes = extremes.square() * part.shape[1]  # what a distance squared may reach
        if not extremes.isfinite().all():
            raise CostError("feature_cost holds NaN or infinite values")


def _check_labels(labels: Tensor, count: int, classes: int, name: str) -> None:
    if labels.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one label a point")
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        raise ValueError(f"{name} must lie in 0..{classes - 1}, found {least}..{most}")


def _dense(cost: Tensor | EuclideanCost) -> Tensor:
    return (cost.dense() if isinstance(cost, EuclideanCost) else cost).detach()


def _on_host(cost: Tensor | EuclideanCost) -> "_LazyDistances | _DenseCost":
    """Have blocks computed when they are asked for on the CPU; a GPU computes all at once."""
    if isinstance(cost, EuclideanCost) and cost.device.type == "cpu":
        return _LazyDistances(cost)
    return _DenseCost(_dense(cost).cpu().numpy())


# ----------------------------------------------------------------------------------- one dense problem
def _solve_dense(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve uniform transport for cost (n, m) float64: (rows, columns, mass), mass summing to one."""
    n, m = cost.shape
    if n == m:  # an assignment problem
        rows, columns = linear_sum_assignment(cost)
        return rows, columns, np.full(n, 1 / n)
    # Masses m and n a point make both sides integers with the same sum: marginals without rounding.
    plan, _, _ = _emd(np.full(n, float(m)), np.full(m, float(n)), np.ascontiguousarray(cost))
    rows, columns = plan.nonzero()
    return rows, columns, plan[rows, columns] / (n * m)


def _emd(
    a: np.ndarray, b: np.ndarray, cost: np.ndarray | coo_array
) -> tuple[np.ndarray | coo_array, np.ndarray, np.ndarray]:
    """Call POT's network simplex and check its result code: (plan, duals of the rows, of the columns).
    Dense costs give a dense plan; sparse ones allow the listed pairs alone and give a sparse plan.
    """
    with warnings.catch_warnings():  # of POT's own source, when Python compiles it for the first time
        warnings.simplefilter("ignore", SyntaxWarning)
        import ot  # a second, spared to the stages that transport nothing

    largest = max(abs(cost.max()), abs(cost.min()))
    scale = float(largest) or 1.0  # POT's tolerance is absolute
    plan, log = ot.emd(a, b, cost / scale, numItermax=EMD_ITERATIONS, log=True, center_dual=False)
    if log["result_code"] != 1:
        raise RuntimeError(f"POT's emd did not reach the optimum: {log['warning']}")
    return plan, scale * log["u"], scale * log["v"]


# -------------------------------------------------------------------------------- the class structure
def _solve_by_classes(
    cost: "_LazyDistances | _DenseCost", label_cost: np.ndarray, y: np.ndarray, t: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the exact plan of (1) on the pairs of classes that matter (module docstring)."""
    # A source point has mass m and a target point n: whole numbers of equal sum, without rounding.
    n, m = cost.shape
    present_sources, y = np.unique(y, return_inverse=True)  # classes absent from the batch fall away
    present_targets, t = np.unique(t, return_inverse=True)
    label_cost = label_cost[np.ix_(present_sources, present_targets)]
    reduced, joined = _reduced_label_cost(label_cost, np.bincount(y) * m, np.bincount(t) * n)
    # The pairs with mass in the class plan make a plan of the points feasible. Those with a reduced cost
    # that is small beside the spread of the features' costs are likely to be wanted, too.
    arcs = _Arcs(cost, reduced, y, t)
    arcs.add(joined)
    spread = arcs.highest() - cost.least()
    arcs.add((reduced <= NEAR * spread) & ~joined)
    # Classes that provably have each other alone are small problems of their own, and leave this one.
    parts = []
    for rows, columns, costs in arcs.split_off(_alone(arcs.added, reduced, spread)):
        i, j, mass = _solve_dense(costs)
        parts.append((rows[i], columns[j], mass * (len(rows) / n)))
    while arcs.blocks:
        if arcs.count() > DENSE_FROM * n * m:
            kept = reduced.clip(max=_never_used(reduced, spread))
            return _solve_dense(cost.block(np.arange(n), np.arange(m)) + kept[y][:, t])
        # Optimal on the arcs. Optimal for all pairs if the duals are feasible off the arcs as well.
        *plan, u, v = arcs.solve()
        offending = arcs.offending(u, v)
        if not offending.any():
            parts.append(plan)
            break
        arcs.add(offending)
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _never_used(reduced: np.ndarray, spread: float) -> float:
    """Return a reduced cost at which no optimal plan has mass. Mass on such a pair of classes lies on a
    cycle of at most q = min(K_S, K_T) pairs; moving it to pairs with r = 0 saves the reduced cost and
    raises at most q feature costs by the spread. Larger ones would drown the features in the solver's
    tolerance.
    """
    return (min(reduced.shape) + 1) * (spread or 1.0)


NEAR = 0.1  # pairs of classes whose reduced cost is within so many spreads of the features' costs join
DENSE_FROM = 0.5  # with this share of all pairs of points, the dense solver is the faster one


def _reduced_label_cost(
    label_cost: np.ndarray, source_mass: np.ndarray, target_mass: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (r, where the class plan has mass), both (K_S, K_T). The masses are integers of equal sum.

    What L's own digits cannot tell from zero is zero: at Λ = 1e11 rounding alone is as large as
    features' differences.
    """
    # r = L − u − v ≥ 0 by dual feasibility, and 0 where the plan has mass by complementary slackness.
    plan, u, v = _emd(source_mass.astype(float), target_mass.astype(float), label_cost)
    reduced = label_cost - u[:, None] - v
    reduced[reduced <= 16 * np.finfo(float).eps * np.abs(label_cost).max()] = 0.0
    joined = plan > 0
    reduced[joined] = 0.0
    return _centred(reduced, joined), joined


def _centred(reduced: np.ndarray, joined: np.ndarray) -> np.ndarray:
    """Reduce costs with potentials inside their polytope instead of at a corner.

    The simplex's duals leave r = 0 on pairs without mass when its plan is degenerate, and equal
    priors make it so. Between the components of `joined` the potentials are free within
    w_ab + φ_a − φ_b ≥ 0, w_ab the least r from a to b. The shortest distances from any one component
    satisfy that, hence their mean over all of them does, strictly where it can be strict.
    """
    sources, targets = reduced.shape
    i, j = joined.nonzero()
    adjacency = coo_array((np.ones(len(i)), (i, sources + j)), shape=(sources + targets,) * 2)
    count, group = connected_components(adjacency, directed=False)
    if not 1 < count <= CENTRED_UP_TO:
        return reduced
    by_source = np.full((count, targets), np.inf)
    np.minimum.at(by_source, group[:sources], reduced)
    gaps = np.full((count, count), np.inf)
    np.minimum.at(gaps.T, group[sources:], by_source.T)
    potential = shortest_distances(gaps).mean(0)
    centred = reduced + potential[group[:sources], None] - potential[None, group[sources:]]
    return np.where(joined, 0.0, centred.clip(min=0))


CENTRED_UP_TO = 200  # components; the distances cost their cube


def shortest_distances(weights: np.ndarray) -> np.ndarray:
    """Find the shortest distances by Floyd and Warshall, dense, weights (count, count) without a
    negative cycle (SciPy's takes a zero for a missing arc, and rounding for a negative cycle).
    """
    distance = weights.copy()
    np.fill_diagonal(distance, 0.0)
    for middle in range(len(distance)):
        np.minimum(distance, distance[:, middle, None] + distance[middle], out=distance)
    return distance


def _alone(added: np.ndarray, reduced: np.ndarray, spread: float) -> np.ndarray:
    """Find source classes that exchange mass with one target class alone and it with them, proven
    cheaply.

    Let the pairs be those with no other partner in `added`, ρ the least r from or to one of them
    and q = min(#sources, #targets) of the remaining classes. A plan that crosses holds a cycle of
    classes through k such pairs, with k crossings, or k + 1 if it visits the rest, too. Undoing it
    saves ρ a crossing and replaces at most k feature costs, or k + q, each by one that is higher by
    `spread` at most. So ρ > spread · max(1, (1 + q)/2) rules it out.
    """
    source, target = added.nonzero()
    single = (added.sum(1)[source] == 1) & (added.sum(0)[target] == 1)
    source, target = source[single], target[single]
    crossing = reduced.copy()
    crossing[source, target] = np.inf
    least = min(crossing[source].min(initial=np.inf), crossing[:, target].min(initial=np.inf))
    rest = min(reduced.shape) - len(source)
    return source if least > spread * max(1.0, (1 + rest) / 2) else source[:0]


class _Arcs:
    """The pairs of points of the pairs of classes that were added, with their costs C + r."""

    def __init__(
        self, cost: "_LazyDistances | _DenseCost", reduced: np.ndarray, y: np.ndarray, t: np.ndarray
    ):
        self.cost, self.reduced = cost, reduced
        self.y, self.t = y, t
        self.rows_of = _points_by_class(y, reduced.shape[0])
        self.columns_of = _points_by_class(t, reduced.shape[1])
        self.added = np.zeros(reduced.shape, dtype=bool)
        self.blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # rows, columns, costs
        self.known: dict[tuple[int, int], np.ndarray] = {}  # costs of the pairs of classes looked at

    def add(self, pairs: np.ndarray) -> None:
        """Add `pairs` (K_S, K_T): pairs of classes that are not in yet."""
        self.blocks.extend(self._blocks(pairs))
        self.added |= pairs

    def count(self) -> int:
        return sum(costs.size for _, _, costs in self.blocks)

    def highest(self) -> float:
        return max(costs.max() for _, _, costs in self.blocks)

    def split_off(self, sources: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Take these source classes, of one partner each, and their blocks out of the problem."""
        taken = np.isin([self.y[rows[0]] for rows, _, _ in self.blocks], sources)
        blocks = [block for block, out in zip(self.blocks, taken, strict=True) if out]
        self.blocks = [block for block, out in zip(self.blocks, taken, strict=True) if not out]
        self.added[sources] = False
        return blocks

    def solve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Find (rows, columns, mass) of the optimal plan on the arcs, duals (u, v): −∞ off the arcs."""
        n, m = self.cost.shape
        arc_rows = np.concatenate([rows.repeat(len(columns)) for rows, columns, _ in self.blocks])
        arc_columns = np.concatenate([np.tile(columns, len(rows)) for rows, columns, _ in self.blocks])
        costs = np.concatenate([costs.ravel() for _, _, costs in self.blocks])
        rows, row_place = _numbered(arc_rows, n)
        columns, column_place = _numbered(arc_columns, m)
        sparse = coo_array(
            (costs, (row_place[arc_rows], column_place[arc_columns])), shape=(len(rows), len(columns))
        )
        # Masses m and n a point make both sides integers with the same sum.
        plan, row_duals, column_duals = _emd(
            np.full(len(rows), float(m)), np.full(len(columns), float(n)), sparse
        )
        u, v = np.full(n, -np.inf), np.full(m, -np.inf)
        u[rows], v[columns] = row_duals, column_duals
        return rows[plan.row], columns[plan.col], plan.data / (n * m), u, v

    def offending(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Find the pairs of classes that have a pair of points with C + r < u + v beyond rounding."""
        # No pair of these classes can offend where r + min C is above the largest u and v together: most
        # are ruled out here, without a look at their points.
        highest_u = np.array([u[rows].max() for rows in self.rows_of])
        highest_v = np.array([v[columns].max() for columns in self.columns_of])
        allowance = ROUNDING * max(np.abs(costs).max() for _, _, costs in self.blocks)
        suspects = self.reduced + self.cost.least() < highest_u[:, None] + highest_v - allowance
        offending = np.zeros_like(suspects)
        for rows, columns, costs in self._blocks(suspects & ~self.added):  # slack of all their points
            slack = (costs - u[rows, None] - v[columns]).min()
            offending[self.y[rows[0]], self.t[columns[0]]] = slack < -allowance
        return offending

    def _blocks(self, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return (rows, columns, costs) of each pair of classes in `pairs`."""
        for pair in zip(*pairs.nonzero(), strict=True):
            rows, columns = self.rows_of[pair[0]], self.columns_of[pair[1]]
            if pair not in self.known:
                self.known[pair] = self.cost.block(rows, columns) + self.reduced[pair]
            yield rows, columns, self.known[pair]


ROUNDING = 1e-12  # of the largest cost: what the duals' sums may be off


def _numbered(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (the different points in rising order, each point's place among them) of 0..count − 1."""
    there = np.zeros(count, dtype=bool)
    there[points] = True
    return np.flatnonzero(there), there.cumsum() - 1


def _points_by_class(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    ends = np.bincount(labels, minlength=classes).cumsum()
    return np.split(np.argsort(labels, kind="stable"), ends[:-1])
