"""Refines a learned transform so that its certificate, bound_certified, becomes small.

On h(z) = B softmax(W Ā(z − b) + c) the certificate depends on A, b and Ā only through
    U = W Ā A (K_S, d),   V = W Ā (K_S, d),   e = V b (K_S,):
a transformed source point has the logits U x + c, a target point V z − e + c, and
    certificate = Σ_t π_T,t ( mean over source points mapped to t of −log (B softmax(U x + c))_t
                              + W1 in the logit spread between {U x} and {V z − e} of class t ).   (1)
So (1) is minimised over U, V, e and B, a problem in K_S instead of d dimensions, by Adam. B's argmax
is fixed beforehand (`match_by_geometry`); each step matches a fresh batch exactly inside each class
and holds that matching fixed.
W and c need no refinement of their own: W enters through V alone, c only moves with B. Afterwards
the transform is the smallest change of A, b and Ā that has these logits:
    Ā += W⁺(V − WĀ),   A += V⁺(U − VA),   b += V⁺(e − Vb).                                        (2)
That is solvable when U, V and e lie in the range of W, onto which they are projected in every step
(softmax and spread ignore what a projection along the ones-vector removes).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import quadratic_assignment
from torch import Tensor
from tqdm import tqdm

from utils.bound import certified_bound, logit_spread
from utils.features import Features
from utils.linear_head import LinearHead
from utils.task_transform import (
    TaskTransform,
    class_counts,
    class_prior,
    draw_by_counts,
    index_by_class,
)
from utils.transport import solve_transport


@dataclass(frozen=True)
class CertificateSettings:
    """Adam's rate falls from `learning_rate` to a fiftieth of it along a cosine over `steps`; B's is
    `label_rate_factor` times as high. The best state on a fixed batch, looked at every `check_every`
    steps, is kept: what the last steps spoil is not returned. `matching` says which target class each
    source class stands for: `learned`, B's argmax; `geometry`, see `match_by_geometry`; `best` refines
    both and keeps the one with the lower certificate on training points.
    """

    steps: int = 250
    batch_size: int = 700
    learning_rate: float = 2e-2
    label_rate_factor: float = 10.0
    check_every: int = 25
    matching: str = "best"


MATCHINGS = ("best", "learned", "geometry")


def refine_transform(
    transform: TaskTransform,
    source: Features,
    target: Features,
    head: LinearHead,
    settings: CertificateSettings,
    *,
    refine_labels: bool = True,
    seed: int = 0,
) -> TaskTransform | None:
    """The refined copy, learned on standardised training features; None if a target class receives
    no source class or has no points (then there is no certificate to refine).
    """
    if settings.matching not in MATCHINGS:
        raise ValueError(f"matching must be one of {', '.join(MATCHINGS)}, not {settings.matching!r}")
    candidates = [transform]
    if refine_labels and settings.matching != "learned":
        matched = match_by_geometry(transform, source, target)
        same = torch.equal(matched.target_class(), transform.target_class())
        candidates = [matched] if same or settings.matching == "geometry" else [transform, matched]
    refined = [
        _refine(candidate, source, target, head, settings, refine_labels, seed)
        for candidate in candidates
        if len(candidate.target_class()[source.y].unique()) == len(candidate.B)
        and len(target.y.unique()) == len(candidate.B)
    ]
    if len(refined) < 2:
        return refined[0] if refined else None
    train = (source, target)
    sizes = (JUDGED_ON, JUDGED_ON)
    return min(refined, key=lambda copy: _certificate_on_points(copy, head, train, sizes, seed))


JUDGED_ON = 2000  # training points of each side that decide between two matchings


def _refine(
    transform: TaskTransform,
    source: Features,
    target: Features,
    head: LinearHead,
    settings: CertificateSettings,
    refine_labels: bool,
    seed: int,
) -> TaskTransform:
    """Minimises (1) with B's argmax as it is."""
    problem = _Certificate(transform, source, target, head, settings, seed)
    variables = problem.start()
    learned = [variables[name].requires_grad_() for name in ("U", "V", "e")]
    groups = [{"params": learned, "lr": settings.learning_rate}]
    if refine_labels:
        labels = variables["B_logits"].requires_grad_()
        groups.append({"params": [labels], "lr": settings.learning_rate * settings.label_rate_factor})
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.51 + 0.49 * math.cos(math.pi * step / settings.steps)
    )
    fixed_batch = problem.draw()
    best, best_value = _copied(variables), problem.evaluate(variables, fixed_batch)
    bar = tqdm(range(1, settings.steps + 1), desc="certificate", unit="step", disable=None, leave=False)
    for step in bar:
        optimiser.zero_grad()
        problem.value(variables, problem.draw()).backward()
        optimiser.step()
        schedule.step()
        if step % settings.check_every == 0 or step == settings.steps:
            value = problem.evaluate(variables, fixed_batch)
            if value < best_value:
                best, best_value = _copied(variables), value
    return problem.as_transform(best)


def match_by_geometry(transform: TaskTransform, source: Features, target: Features) -> TaskTransform:
    """A copy whose B maps classes that lie far apart to classes that do, where K_S = K_T.

    U and V are free to move the class means linearly, so what a matching costs is decided by pairs:
    two target classes that are hard to tell apart are cheap to reach from two such source classes.
    The matching maximises Σ_ss' ‖μ_s − μ_s'‖ ‖ν_{m(s)} − ν_{m(s')}‖ over the class means μ, ν of the
    features: a quadratic assignment, by SciPy's local search. Each column of B keeps its values, two
    of them exchanged. Above MATCHED_UP_TO classes the copy keeps B's argmax.
    """
    num_targets, num_sources = transform.B.shape
    mapped = transform.target_class()
    absent = any(len(task.y.unique()) < num_targets for task in (source, target))
    if num_targets != num_sources or num_targets > MATCHED_UP_TO or absent:
        return transform
    distances = [_mean_distances(task, num_targets) for task in (source, target)]
    matching = _quadratic_assignment(*distances)
    columns = torch.arange(num_sources, device=mapped.device)
    aimed = torch.from_numpy(matching).to(mapped)
    B = transform.B.clone()
    B[mapped, columns], B[aimed, columns] = transform.B[aimed, columns], transform.B[mapped, columns]
    return replace(transform, B=B)


MATCHED_UP_TO = 100
SEARCHES = 20
SEARCH_STEPS = 200  # searches times classes: many classes get fewer searches


def _quadratic_assignment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The best permutation m found for max Σ_ij a_ij b_{m(i) m(j)}: relaxed searches (FAQ) from random
    starts, each improved by exchanges of two.
    """
    best, highest = None, -np.inf
    for start in range(min(SEARCHES, max(1, SEARCH_STEPS // len(a)))):
        options = {"maximize": True, "rng": np.random.default_rng(start)}
        relaxed = quadratic_assignment(a, b, options={**options, "P0": "randomized"})
        guess = np.stack([np.arange(len(a)), relaxed.col_ind], axis=1)
        found = quadratic_assignment(a, b, method="2opt", options={**options, "partial_guess": guess})
        if found.fun > highest:
            best, highest = found.col_ind, found.fun
    return best


def _mean_distances(task: Features, num_classes: int) -> np.ndarray:
    """Distances between the class means, (K, K)."""
    means = torch.stack([task.x[task.y == k].double().mean(0) for k in range(num_classes)])
    return torch.cdist(means, means).cpu().numpy()


def certificate_on_training_data(
    transform: TaskTransform,
    head: LinearHead,
    train: tuple[Features, Features],
    test: tuple[Features, Features],
    seed: int = 0,
) -> float | None:
    """bound_certified on as many training points (source, target) as the test splits have: its gap
    to the test value is what was fitted to the training points, at equal sampling error.
    """
    return _certificate_on_points(transform, head, train, tuple(map(len, test)), seed)


def _certificate_on_points(
    transform: TaskTransform,
    head: LinearHead,
    train: tuple[Features, Features],
    sizes: tuple[int, int],
    seed: int,
) -> float | None:
    """bound_certified on so many training points of the source and of the target."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for split, size in zip(train, sizes, strict=True):
        index = torch.randperm(len(split), generator=generator)[:size].to(split.y.device)
        samples.append(Features(split.x[index].double(), split.y[index]))
    return certified_bound(transform.to(torch.float64), head.to(torch.float64), *samples)


class _Certificate:
    """(1) on fresh batches of one pair of tasks."""

    def __init__(
        self,
        transform: TaskTransform,
        source: Features,
        target: Features,
        head: LinearHead,
        settings: CertificateSettings,
        seed: int,
    ):
        self.transform, self.source, self.target, self.head = transform, source, target, head
        self.generator = torch.Generator().manual_seed(seed)
        self.mapped = transform.target_class()  # (K_S,)
        num_targets = len(transform.B)
        self.source_index = index_by_class(self.mapped[source.y], num_targets)
        self.target_index = index_by_class(target.y, num_targets)
        size = min(settings.batch_size, len(source), len(target))
        self.counts = class_counts(class_prior(target.y, num_targets), size, "exact")
        weight = head.weight.double()
        self.pseudo_inverse = torch.linalg.pinv(weight, rtol=RANK_TOLERANCE)
        self.projection = (weight @ self.pseudo_inverse).float()

    def start(self) -> dict[str, Tensor]:
        V = self.head.weight.double() @ self.transform.A_inverse.double()
        tiny = torch.finfo(torch.float32).tiny
        return {
            "U": (V @ self.transform.A.double()).float(),
            "V": V.float(),
            "e": (V @ self.transform.b.double()).float(),
            "B_logits": self.transform.B.float().clamp_min(tiny).log(),
        }

    def draw(self) -> tuple[Tensor, Tensor]:
        """Indices of a batch: for each target class equally many points of both sides."""
        return tuple(
            draw_by_counts(index, self.counts, self.generator)
            for index in (self.source_index, self.target_index)
        )

    def value(self, variables: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        """(1) on the batch, differentiable; the matching is optimal and held fixed."""
        i, j = batch
        U, V, e = (self.projection @ variables[name] for name in ("U", "V", "e"))
        source_logits = self.source.x[i] @ U.T
        target_logits = self.target.x[j] @ V.T - e
        matched = self._match(source_logits.detach(), target_logits.detach())
        difference = source_logits[matched[0]] - target_logits[matched[1]]
        spread = difference.amax(1) - difference.amin(1)

        log_p = torch.log_softmax(source_logits + self.head.bias, dim=1)
        log_B = torch.log_softmax(variables["B_logits"], dim=0)
        classes = self.mapped[self.source.y[i]]
        loss = -torch.logsumexp(log_p + log_B[classes], dim=1)
        return loss.mean() + spread.mean()

    @torch.no_grad()
    def evaluate(self, variables: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> float:
        return self.value(variables, batch).item()

    def _match(self, source_logits: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of each matched pair: an assignment inside each class."""
        rows, columns, start = [], [], 0
        for count in self.counts.tolist():
            if count:
                part = slice(start, start + count)
                plan = solve_transport(logit_spread(source_logits[part], target_logits[part]))
                rows.append(plan.rows + start)
                columns.append(plan.columns + start)
            start += count
        return torch.cat(rows), torch.cat(columns)

    def as_transform(self, variables: dict[str, Tensor]) -> TaskTransform:
        """(2), in float64; a column of B whose argmax moved keeps its old values."""
        U, V, e = (self.projection.double() @ variables[name].double() for name in ("U", "V", "e"))
        weight, old = self.head.weight.double(), self.transform
        A, b, A_inverse = old.A.double(), old.b.double(), old.A_inverse.double()
        A_inverse = A_inverse + self.pseudo_inverse @ (V - weight @ A_inverse)
        V_inverse = torch.linalg.pinv(V, rtol=RANK_TOLERANCE)
        B = torch.softmax(variables["B_logits"].double(), dim=0)
        B = torch.where(B.argmax(0) == self.mapped, B, old.B)
        return replace(
            old,
            A=(A + V_inverse @ (U - V @ A)).float(),
            b=(b + V_inverse @ (e - V @ b)).float(),
            A_inverse=A_inverse.float(),
            B=B,
        )


RANK_TOLERANCE = 1e-3  # of the largest singular value: a direction that W hardly has would need a huge Ā


def _copied(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in variables.items()}
