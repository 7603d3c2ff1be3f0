"""The task transform: class prior D, label map B, feature map x ↦ Ax + b with its inverse Ā.

`learn_task_transform` minimises (paper, section 4.1), with D and the columns of B on the simplex,
    Σ_k D_k · mean_{i∈k} ℓ(h_S(x_i), k)                                re-weighted source loss
  − Σ_s D_s Σ_t B_ts log B_ts                                          label mismatch
  + λ_WD · Σ_ij P_ij (‖Ax_i + b − z_j‖² + Λ ‖B e_{y_i} − e_{t_j}‖²)    distribution mismatch   (1)
  + λ_PM · ‖π_T − B D‖²                                                prior mismatch
  + λ_IC · (‖AĀ − I‖_F² + ‖ĀA − I‖_F²)                                 inverse mismatch
by Adam; P is the optimal plan of a fresh batch, held fixed while gradients are taken. The plan is
optimal for the un-squared cost ‖Ax_i + b − z_j‖ + Λ‖B e_{y_i} − e_{t_j}‖ while (1) has squares: a
quirk of the released code, kept so that results can be compared with the paper's line of work.

B̃ begins at random, as in the released code, or at log B of the label map (relation.py). The objective
is not convex: B keeps much of where it begins, so `better` takes the start with the lower objective
after a trial of both.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from utils.adam import Adam
from utils.errors import InputError, check_batch_size
from utils.features import Features
from utils.linear_head import LinearHead, log_class_probabilities
from utils.procedures import (
    LEARNED,
    LEARNED_ALL,
    NOTHING_LEARNED,
    START_BETTER,
    START_LABEL_MAP,
    START_RANDOM,
    TransformSettings,
)
from utils.progress import progress_bar
from utils.relation import fit_label_map
from utils.sampling import ByClass, class_counts, class_means, class_prior, draw_stratified
from utils.storage import ResumePoint
from utils.transport import CostError, EuclideanCost, TransportPlan, solve_transport

OBJECTIVE_TERMS = (
    "weighted_source_loss",
    "label_mismatch",
    "feature_distance",
    "label_distance",
    "prior_mismatch",
    "inverse_mismatch",
)


@dataclass(frozen=True)
class TaskTransform:
    """A (d, d), b (d,), A_inverse (d, d), B (K_T, K_S) with columns on the simplex, D (K_S,).

    `history` holds each term of (1) without its weight, one value an iteration; empty if nothing
    was learned. `start`: where B began, None where it was not learned.
    """

    A: Tensor
    b: Tensor
    A_inverse: Tensor
    B: Tensor
    D: Tensor
    history: Mapping[str, Tensor]
    start: str | None = None

    @property
    def iterations(self) -> int:
        """How many it was learned in."""
        return len(next(iter(self.history.values()), ()))

    def features(self, x: Tensor) -> Tensor:
        """Map source features (n, d) to Ax + b."""
        return x @ self.A.T + self.b

    def inverse_features(self, z: Tensor) -> Tensor:
        """Map target features (n, d) to Ā(z − b), where the source head reads them."""
        return (z - self.b) @ self.A_inverse.T

    def log_probabilities(self, head: LinearHead, z: Tensor) -> Tensor:
        """Return log h(z) with h(z) = B softmax(W Ā(z − b) + c): (n, K_T)."""
        return log_class_probabilities(head.logits(self.inverse_features(z)), self.B)

    def target_class(self) -> Tensor:
        """Return argmax_t B_ts for every source class s: (K_S,)."""
        return self.B.argmax(0)

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name, as they are saved."""
        return {name: getattr(self, name) for name in ("A", "b", "A_inverse", "B", "D")}

    def to(self, target: torch.device | torch.dtype) -> "TaskTransform":
        moved = {name: value.to(target) for name, value in self.tensors().items()}
        return replace(self, **moved)


# ---------------------------------------------------------------------------------------- the learner
def learn_task_transform(
    source: Features,
    target: Features,
    head: LinearHead,
    settings: TransformSettings,
    *,
    seed: int = 0,
    resume: ResumePoint | None = None,
) -> TaskTransform:
    """Learn the published form's transform by minimising (1).

    LearnedAll learns A, b, Ā, B, D. LearnedA keeps B at a random permutation and D at the source
    prior, with no softmax on either. FixedAll learns nothing: A = Ā = I, b = 0.

    Args:
        source: standardised training features (n, d) with labels 0..K_S−1.
        target: standardised training features (m, d) with labels 0..K_T−1.
        head: of the source, (K_S, d).
        settings: what is learned and how.
        seed: of B's start, the permutation and the batches.
        resume: where the state is saved.

    Returns:
        A, b, Ā, B, D and the curve of each term; call `to(torch.float64)` before evaluating.

    Raises:
        InputError: a permutation between unequal numbers of classes, or learning diverged.
        ValueError: features and labels do not fit, or a weight is negative.

    Source: arXiv:2307.00823, section 4.1, and its released code.

    Example:
        >>> x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
        >>> task = Features(x, (x[:, 0] > 0).long())
        >>> head = LinearHead(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.zeros(2))
        >>> short = TransformSettings(iterations=5, batch_size=20)
        >>> learn_task_transform(task, task, head, short).B.shape
        torch.Size([2, 2])
    """
    check_task("source", source, head.num_classes)
    check_task("target", target)
    for name in ("label_weight", "wasserstein_weight", "prior_weight", "inverse_weight"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise ValueError(f"{name} must be finite and not negative, not {getattr(settings, name)}")
    num_targets = int(target.y.max()) + 1
    check_learned(settings.learned, head.num_classes, num_targets)
    generator = torch.Generator().manual_seed(seed)
    variables = _initial_variables(source, head.num_classes, num_targets, settings.learned, generator)
    if settings.learned == NOTHING_LEARNED:
        return _as_transform(variables, settings.learned, {})
    check_batch_size(
        settings.batch_size, max(head.num_classes, num_targets), min(len(source), len(target))
    )
    objective = PublishedObjective(source, target, head, settings, num_targets)
    state = resume.load() if resume else None
    start = state["start"] if state else None
    if settings.learned == LEARNED_ALL and not state:
        starts = {START_RANDOM: variables["B"]}
        if settings.start != START_RANDOM:
            found = fit_label_map(head.logits(target.x), target.y, num_targets)
            starts[START_LABEL_MAP] = found.B.double().clamp_min(SMALLEST_AT_START).log()
        start = settings.start
        if start == START_BETTER:
            start = _better_start(objective, variables, starts, settings, seed)
        variables["B"] = starts[start]
    return replace(
        _descend(
            objective=objective,
            variables=variables,
            generator=generator,
            settings=settings,
            start=start,
            resume=resume,
            state=state,
        ),
        start=start,
    )


SMALLEST_AT_START = 1e-3  # of the label map's B: no entry may be too small to grow


def _better_start(
    objective: "PublishedObjective",
    variables: Mapping[str, Tensor],
    starts: Mapping[str, Tensor],
    settings: TransformSettings,
    seed: int,
) -> str:
    """Choose the start with the lower objective at the end of a short learning of its own.

    Λ times the label distance counts by the target classes that B reaches alone: both trials end near a
    map of whole classes, and what Λ makes of the last digits would drown everything else. A trial that
    diverges is the worse one.
    """
    short = replace(settings, iterations=min(settings.trial_iterations, settings.iterations))
    reached = {}
    for name, B in starts.items():
        begin = {**{key: value.clone() for key, value in variables.items()}, "B": B.clone()}
        generator = torch.Generator().manual_seed(seed)
        try:
            tried = _descend(objective, begin, generator, short)
        except InputError:
            reached[name] = (math.inf, math.inf)
        else:
            unreached = len(tried.B) - len(tried.target_class().unique())
            reached[name] = (unreached, final_objective(tried, replace(short, label_weight=0.0)))
    return min(reached, key=reached.get)


def _descend(
    objective: "PublishedObjective",
    variables: dict[str, Tensor],
    generator: torch.Generator,
    settings: TransformSettings,
    start: str | None = None,
    resume: ResumePoint | None = None,
    state: Mapping | None = None,
) -> TaskTransform:
    """Descend (1) by Adam from `variables`, whose B began at `start`, or from the `state` that an
    earlier run left at `resume`.
    """
    free = ("A", "b", "A_inverse") + (("B", "D") if settings.learned == LEARNED_ALL else ())
    rates = {"B": settings.label_learning_rate, "D": settings.prior_learning_rate}
    rates = {name: rates.get(name, settings.learning_rate) for name in free}
    learned = {name: variables[name].requires_grad_() for name in free}
    optimiser = Adam(learned)
    history: list[Tensor] = []
    if state:
        with torch.no_grad():
            for name, value in state["variables"].items():
                variables[name].copy_(value)
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        history = list(state["history"].to(variables["A"].device))

    rest, about = range(len(history), settings.iterations), {"desc": "transform", "unit": "iteration"}
    for iteration in progress_bar(rest, initial=rest.start, total=rest.stop, **about):
        fraction = learning_rate_fraction(settings, iteration)
        # A fresh batch, its plan solved anew for the present transform: P is constant in the gradients.
        try:
            terms = objective.terms(_as_transform(variables, settings.learned, {}), generator)
        except CostError as error:
            raise _diverged(iteration, str(error)) from error
        gradients = torch.autograd.grad(objective.weights @ terms, list(learned.values()))
        optimiser.step(
            dict(zip(learned, gradients, strict=True)),
            {name: fraction * rate for name, rate in rates.items()},
        )
        for name, value in variables.items():
            if not torch.isfinite(value).all():
                raise _diverged(iteration, f"{name} is not finite")
        history.append(terms.detach())
        if resume and resume.due():
            resume.save(
                variables={name: value.detach() for name, value in variables.items()},
                optimiser=optimiser.state_dict(),
                generator=generator.get_state(),
                history=torch.stack(history),
                start=start,
            )
    curves = torch.stack(history).cpu().T
    detached = {name: value.detach() for name, value in variables.items()}
    return _as_transform(detached, settings.learned, dict(zip(OBJECTIVE_TERMS, curves, strict=True)))


def _diverged(iteration: int, reason: str) -> InputError:
    return InputError(
        f"learning the transform diverged at iteration {iteration} ({reason}): lower --LEARNING_RATE, "
        "--LABEL_LEARNING_RATE, --PRIOR_LEARNING_RATE or the weights"
    )


def learning_rate_fraction(settings: TransformSettings, iteration: int) -> float:
    """Return what the schedule leaves of each rate: 1, or (1 + cos(π · iteration / iterations)) / 2."""
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule != "cosine":
        raise ValueError(f"schedule must be constant or cosine, not {settings.schedule!r}")
    return (1 + math.cos(math.pi * iteration / settings.iterations)) / 2


def check_task(name: str, features: Features, num_classes: int | None = None) -> None:
    """Raise ValueError that names a task without points, with a label for each point missing, or with
    labels that are negative or do not fit `num_classes`.
    """
    if features.y.ndim != 1 or len(features.y) != len(features.x) or len(features.y) == 0:
        shapes = f"{tuple(features.x.shape)} and {tuple(features.y.shape)}"
        raise ValueError(f"{name} needs points and one label for each, not x and y of shapes {shapes}")
    least, most = int(features.y.min()), int(features.y.max())
    if least < 0 or (num_classes is not None and most >= num_classes):
        raise ValueError(f"{name} has labels {least}..{most}, the head {num_classes} classes")


def check_learned(learned: str, source_classes: int, target_classes: int) -> None:
    """Raise InputError for an unknown setting or a permutation between unequal class counts."""
    if learned not in LEARNED:
        raise InputError(f"setting must be one of {', '.join(LEARNED)}, not {learned}")
    if learned != LEARNED_ALL and source_classes != target_classes:
        raise InputError(
            f"{learned} takes B as a permutation and needs as many source as target classes, not "
            f"{source_classes} and {target_classes}; use LearnedAll"
        )


def _initial_variables(
    source: Features, num_sources: int, num_targets: int, learned: str, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return A = Ā = I, b = 0; LearnedAll: B̃ uniform on [0, 1], d̃ = π_S; else a permutation and π_S.

    B and D are float64: near a permutation Λ multiplies differences that float32 cannot hold.
    """
    device, dim = source.x.device, source.x.shape[1]
    if learned == LEARNED_ALL:
        B = torch.rand(num_targets, num_sources, generator=generator, dtype=torch.float64)
    else:
        B = torch.eye(num_targets, dtype=torch.float64)[torch.randperm(num_targets, generator=generator)]
    eye = torch.eye(dim, device=device)
    return {
        "A": eye.clone(),
        "b": torch.zeros(dim, device=device),
        "A_inverse": eye,
        "B": B.to(device),
        "D": class_prior(source.y, num_sources),
    }


def _as_transform(
    variables: Mapping[str, Tensor], learned: str, history: Mapping[str, Tensor]
) -> TaskTransform:
    """Apply the constraints of the paper's equation 3: softmax for the learned B (by columns) and D."""
    B, D = variables["B"], variables["D"]
    if learned == LEARNED_ALL:
        B, D = torch.softmax(B, dim=0), torch.softmax(D, dim=0)
    return TaskTransform(
        A=variables["A"], b=variables["b"], A_inverse=variables["A_inverse"], B=B, D=D, history=history
    )


# --------------------------------------------------------------------------------------- the objective
class PublishedObjective:
    """The terms of (1) on fresh batches of one pair of tasks."""

    def __init__(
        self,
        source: Features,
        target: Features,
        head: LinearHead,
        settings: TransformSettings,
        num_targets: int,
    ):
        self.source, self.target, self.settings = source, target, settings
        self.num_sources = head.num_classes
        self.source_by_class = ByClass(source.y, head.num_classes)
        self.target_by_class = ByClass(target.y, num_targets)
        self.source_prior = class_prior(source.y, head.num_classes)
        self.target_prior = class_prior(target.y, num_targets)
        with torch.no_grad():  # W and c are fixed: every sample's loss is known once and for all
            losses = functional.cross_entropy(head.logits(source.x), source.y, reduction="none")
        self.losses = losses.double()
        self.split_loss = class_means(self.losses, source.y, head.num_classes)
        self.weights = term_weights(settings).to(source.x.device)

    def terms(self, transform: TaskTransform, generator: torch.Generator) -> Tensor:
        """Evaluate the OBJECTIVE_TERMS on one batch, float64, differentiable in the transform's
        parameters.
        """
        size, sampler = self.settings.batch_size, self.settings.sampler
        i = draw_stratified(self.source_by_class, transform.D.detach(), size, sampler, generator)
        j = draw_stratified(self.target_by_class, self.target_prior, size, sampler, generator)
        class_losses = self._class_losses(generator)
        feature_distance, label_distance = distribution_mismatch(
            transform,
            Features(self.source.x[i], self.source.y[i]),
            Features(self.target.x[j], self.target.y[j]),
            self.settings.label_weight,
        )
        return torch.stack(
            [
                transform.D @ class_losses,
                label_mismatch(transform),
                feature_distance.double(),
                label_distance,
                (self.target_prior - transform.B @ transform.D).square().sum(),
                inverse_mismatch(transform).double(),
            ]
        )

    def _class_losses(self, generator: torch.Generator) -> Tensor:
        """Return the mean source loss of each class: of the whole split, or of a batch drawn by the
        source's prior and cut to equally many points a class (released small-scale code).
        """
        if self.settings.source_loss == "split":
            return self.split_loss
        counts = class_counts(self.source_prior, self.settings.batch_size, "truncated")
        least = torch.full_like(counts, max(1, int(counts.min())))
        index = self.source_by_class.draw(least, generator)
        return class_means(self.losses[index], self.source.y[index], self.num_sources)


def term_weights(settings: TransformSettings) -> Tensor:
    """Return the weight of each of the OBJECTIVE_TERMS in (1), float64."""
    weights = {
        "feature_distance": settings.wasserstein_weight,
        "label_distance": settings.wasserstein_weight * settings.label_weight,
        "prior_mismatch": settings.prior_weight,
        "inverse_mismatch": settings.inverse_weight,
    }
    return torch.tensor([weights.get(term, 1.0) for term in OBJECTIVE_TERMS], dtype=torch.float64)


def final_objective(transform: TaskTransform, settings: TransformSettings) -> float | None:
    """Average (1) over the last 20 iterations' batches; None if nothing was learned."""
    if not transform.history:
        return None
    curves = torch.stack([transform.history[term][-20:] for term in OBJECTIVE_TERMS])
    return (term_weights(settings) @ curves.mean(1)).item()


def distribution_mismatch(
    transform: TaskTransform, source: Features, target: Features, label_weight: float
) -> tuple[Tensor, Tensor]:
    """Return (Σ P_ij ‖Ax_i + b − z_j‖², Σ P_ij ‖B e_{y_i} − e_{t_j}‖²) for the batch's optimal plan P.

    The plan enters through its class masses M (K_S, K_T) and, with a_i its mass on x_i, through
    c_i = Σ_j P_ij z_j / a_i alone: the first sum is Σ_i a_i ‖Ax_i + b − c_i‖² and a constant.
    """
    moved = transform.features(source.x)  # (n, d)
    squared = label_distances_squared(transform.B)  # (K_S, K_T)
    with torch.no_grad():  # no gradient goes through the solver: P is optimal for un-squared distances
        plan = solve_transport(
            EuclideanCost(moved, target.x), label_weight * squared.sqrt(), source.y, target.y
        )
        row_mass, centres, constant = _barycentres(plan, target.x, len(moved))
    # Σ_j P_ij ‖m_i − z_j‖² = a_i ‖m_i − c_i‖² + a spread of the z_j around c_i that m_i does not change.
    feature_distance = row_mass @ (moved - centres).square().sum(1) + constant
    masses = torch.zeros_like(squared)  # M: what the plan sends from each source to each target class
    masses.index_put_((source.y[plan.rows], target.y[plan.columns]), plan.mass.double(), accumulate=True)
    return feature_distance, (masses * squared).sum()


def _barycentres(plan: TransportPlan, z: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (a (n,), c (n, d), Σ_j P_ij ‖z_j‖² − Σ_i a_i ‖c_i‖²) of a plan from `count` points to
    z (m, d).
    """
    row_mass = z.new_zeros(count).index_add_(0, plan.rows, plan.mass)
    # Said for all that is built in here: on CUDA the product makes a sparse tensor of its own.
    with torch.sparse.check_sparse_tensor_invariants(False):
        places = torch.stack([plan.rows, plan.columns])
        matrix = torch.sparse_coo_tensor(places, plan.mass, (count, len(z)), check_invariants=False)
        centres = torch.sparse.mm(matrix, z) / row_mass[:, None]
    within = plan.mass @ z.square().sum(1)[plan.columns] - row_mass @ centres.square().sum(1)
    return row_mass, centres, within


def label_distances_squared(B: Tensor) -> Tensor:
    """Return ‖B e_s − e_t‖² for all pairs, (K_S, K_T) from B (K_T, K_S):
    Σ_k B_ks² − B_ts² + (1 − B_ts)².
    """
    rest = (B.square().sum(0) - B.square()).clamp_min(0)
    return (rest + (1 - B).square()).T


def label_mismatch(transform: TaskTransform) -> Tensor:
    """Return −Σ_s D_s Σ_t B_ts log B_ts, with 0 log 0 = 0."""
    return -transform.D @ torch.xlogy(transform.B, transform.B).sum(0)


def inverse_mismatch(transform: TaskTransform) -> Tensor:
    """Return ‖AĀ − I‖_F² + ‖ĀA − I‖_F²."""
    eye = torch.eye(len(transform.b), device=transform.b.device, dtype=transform.b.dtype)
    products = (transform.A @ transform.A_inverse, transform.A_inverse @ transform.A)
    return sum((product - eye).square().sum() for product in products)
