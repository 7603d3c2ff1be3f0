"""The relation: what the source's classes have to do with the target's.

The source's classifier is taken as it stands, its labels renamed. With p(z) = softmax(T (W z + c)) on
target features z that are scaled by their own training split,
    h_B(z) = B p(z),   B (K_T, K_S) with columns on the simplex,                                   (1)
B and T by maximum likelihood on the target's training split. For fixed T
    maximise  (1/n) [ Σ_i log Σ_s B_{t_i s} p_s(z_i) + Σ_s Σ_t π_t log B_ts ]                      (2)
is concave in B; the second sum is one pseudo-sample for each source class, which keeps B positive. Its
gradient G has Σ_t B_ts G_ts = λ_s, and concavity bounds what is missing to the optimum:
    max (2) − (2)(B) ≤ Σ_s ( max_t G_ts − λ_s ).                                                   (3)
T is the one of a grid, relative to the spread of the logits, with the least loss on a held-out fifth.

How well h_B does says nothing by itself: some directions of some features always help. So it is compared
with controls, for each of which B and T are fitted anew:
    mixed classes      p of O (W z + c), O = 11ᵀ/K_S + U Q Uᵀ: the same directions, classes that mean
                       nothing
    random directions  p of W Q z + c: as many directions of the features, drawn at random
with U a basis of the complement of the vector of ones and Q orthogonal matrices drawn by Haar's measure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from utils.features import Features
from utils.grouped import balanced_accuracy, least_share_right, share_interval
from utils.linear_head import LinearHead
from utils.procedures import RelationSettings
from utils.progress import progress_bar
from utils.sampling import class_means, class_prior, share_of_each_class, stratified_folds
from utils.statistics import Resamples, interval, largest_shares, majority_share

MIXED_CLASSES, RANDOM_DIRECTIONS = "mixed classes", "random directions"
SIGNIFICANT = 0.05  # of p, at most, and of the contribution, at least: what counts as related


@dataclass(frozen=True)
class LabelMap:
    """B (K_T, K_S) and T of (1); `optimality_gap` bounds by (3) what the training loss lies above the
    least one (nats).
    """

    B: Tensor
    temperature: float
    optimality_gap: float

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return h_B of source logits (n, K_S): (n, K_T)."""
        temperature = torch.tensor([self.temperature]).to(logits)
        return (self.B @ _probabilities(temperature, _centred(logits.T)[None])[0]).T


def fit_label_map(
    logits: Tensor, labels: Tensor, num_targets: int, groups: Tensor | None = None
) -> LabelMap:
    """Fit (1) to source logits (n, K_S) of target points with labels (n,) in 0..K_T−1. Deterministic.
    Points of one of `groups` (n,) are held out together.

    Example:
        >>> logits = 5 * torch.eye(3)[torch.arange(60) % 3]
        >>> found = fit_label_map(logits, torch.tensor([1, 0, 1]).repeat(20), 2)
        >>> found.B.argmax(0).tolist(), found.optimality_gap < 1e-3
        ([1, 0, 1], True)
    """
    B, temperature, gap = _fit(logits.T[None], labels, num_targets, groups)
    return LabelMap(B[0], temperature.item(), gap.item())


# ------------------------------------------------------------------------------- fitting many at once
# Arrays of C problems are (C, K_S, n): points last, which is what a processor reads fastest.
TEMPERATURES = tuple(2 ** (k / 2) for k in range(-4, 11))  # times the spread of the logits
SEARCHED_ON = 4000  # points among which the temperature is searched
TRIAL_STEPS = 10  # for each temperature, from the map of the one before
MOST_STEPS = 400
CHECK_EVERY = 10
SUFFICIENT = 1e-3  # nats, of (3)
# The exponent of expectation maximisation's factor. Above 1 it is over-relaxed: half the steps.
RELAXATION = 1.5
LOWEST = -60.0  # of a log-probability: smaller numbers slow a processor down and change nothing
# Of the logits (C, K_S, n) of controls that are fitted together: few enough for a processor's cache to
# help, and enough to keep a GPU busy in a gigabyte of its memory.
BLOCK_ELEMENTS, BLOCK_ELEMENTS_CUDA = 2**22, 2**25


def _centred(logits: Tensor) -> Tensor:
    """Return logits less their mean over the classes: (…, K, n)."""
    return logits - logits.mean(-2, keepdim=True)


def _probabilities(temperature: Tensor, logits: Tensor) -> Tensor:
    """Return softmax(T g) of (C, K, n)."""
    scaled = temperature[:, None, None] * logits
    p = (scaled - scaled.amax(1, keepdim=True)).clamp_min_(LOWEST).exp_()
    return p.div_(p.sum(1, keepdim=True))


def _fit(
    logits: Tensor, labels: Tensor, num_targets: int, groups: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit (1) for each of C arrays of logits (C, K_S, n) of the same points: B (C, K_T, K_S), T (C,) and
    the gap of (3) (C,).
    """
    logits = _centred(logits.float())
    prior = class_prior(labels, num_targets).to(logits)
    start = prior[:, None].expand(len(logits), -1, logits.shape[1]).contiguous()
    temperature, B = _search_temperature(logits, labels, start, groups)
    likelihood = _MapLikelihood(_probabilities(temperature, logits), labels, prior)
    for count in range(1, MOST_STEPS + 1):
        B = likelihood.step(B)
        if count % CHECK_EVERY == 0 and (gap := likelihood.gap(B)).max() <= SUFFICIENT:
            break
    return B, temperature, gap


def _search_temperature(
    logits: Tensor, labels: Tensor, start: Tensor, groups: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Find (T (C,), B (C, K_T, K_S)) of the least loss on a held-out fifth of the points, or of a
    sample.
    """
    spread = logits.square().mean((1, 2)).sqrt().clamp_min(1e-12)
    fold = stratified_folds(labels, groups)
    used = share_of_each_class(labels, fold, min(1.0, SEARCHED_ON / len(labels)))
    fitted, held_out = used[fold[used] != 0], used[fold[used] == 0]
    if not len(held_out):  # every class has a single point
        return 1 / spread, start
    prior = class_prior(labels[fitted], start.shape[1]).to(logits)
    parts = logits[:, :, fitted], logits[:, :, held_out]
    best, least, B, best_B = 1 / spread, torch.full_like(spread, math.inf), start, start
    for relative in TEMPERATURES:
        p, p_held_out = (_probabilities(relative / spread, part) for part in parts)
        likelihood = _MapLikelihood(p, labels[fitted], prior)
        for _ in range(TRIAL_STEPS):
            B = likelihood.step(B)
        loss = _losses(B @ p_held_out, labels[held_out]).mean(1)
        better = loss < least
        best, least = torch.where(better, relative / spread, best), torch.minimum(loss, least)
        best_B = torch.where(better[:, None, None], B, best_B)
    return best, best_B


def _losses(h: Tensor, labels: Tensor) -> Tensor:
    """Return −log of each point's own class in h (C, K_T, n): (C, n)."""
    return -h.gather(1, labels.expand(len(h), 1, -1))[:, 0].log()


class _MapLikelihood:
    """(2) for C arrays of probabilities (C, K_S, n) of the same points.

    A processor takes a class at a time (K_T small products of what lies side by side). On a GPU, where
    to begin a product costs more than to compute it, `at_once` takes all points with the row of B that
    is theirs.
    """

    def __init__(self, p: Tensor, labels: Tensor, prior: Tensor, at_once: bool | None = None):
        self.count, self.prior = len(labels), prior[:, None]
        self.at_once = p.is_cuda if at_once is None else at_once
        if self.at_once:
            self.p, self.labels = p, labels
            self.membership = functional.one_hot(labels, len(prior)).to(p)  # (n, K_T)
        else:
            sizes = torch.bincount(labels, minlength=len(prior)).tolist()
            self.points = p[:, :, labels.argsort(stable=True)].split(sizes, 2)

    def ratios(self, B: Tensor) -> Tensor:
        """Return Σ_{i: t_i = t} p_is / Σ_r B_tr p_ir: (C, K_T, K_S)."""
        if self.at_once:
            mixture = (B[:, self.labels].transpose(1, 2) * self.p).sum(1, keepdim=True)  # (C, 1, n)
            return ((self.p / mixture) @ self.membership).transpose(1, 2)
        of_class = []
        for p, row in zip(self.points, B.split(1, 1), strict=True):
            mixture = row @ p  # (C, 1, n_t)
            of_class.append(p @ mixture.reciprocal_().transpose(1, 2))
        return torch.cat(of_class, 2).transpose(1, 2)

    def step(self, B: Tensor) -> Tensor:
        """Take a step of expectation maximisation, over-relaxed:
        B_ts times (its share of the posteriors / B_ts)^ω.
        """
        # B_ts Σ_{i: t_i = t} p_is / h_t(i): how often source class s is held responsible for a sample of
        # target class t, and the prior's pseudo-sample; the columns' shares are the M step.
        expected = B * self.ratios(B) + self.prior
        ascent = expected / expected.sum(1, keepdim=True)
        # ω times as far on the logarithms' way: fewer steps to the same fixed point (Salakhutdinov and
        # Roweis 2003); the concave likelihood has no other maximum to go astray to.
        relaxed = (B * (ascent / B) ** RELAXATION).clamp_min_(SMALLEST)
        return relaxed / relaxed.sum(1, keepdim=True)

    def gap(self, B: Tensor) -> Tensor:
        """Return the right-hand side of (3): (C,)."""
        # On a simplex no column gains more than its largest partial derivative less its mean under B.
        gradient = self.ratios(B) + self.prior / B
        return (gradient.amax(1) - (B * gradient).sum(1)).sum(1) / self.count


SMALLEST = 1e-12  # of B, before its columns are scaled: over-relaxed, a step may go far


# ------------------------------------------------------------------------------------- the controls
def _haar(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw `columns` orthonormal vectors of dimension `rows` by Haar's measure: (rows, columns)."""
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=generator))
    return q * r.diagonal().sign()  # else the signs would be the algorithm's


class MixedClasses:
    """Draws O g for logits g (n, K) of training and test points, anew at each call: (K, n) each.

    Two classes cannot be mixed: O is then 1 or −1, and a label map undoes it.
    """

    def __init__(self, train: Tensor, test: Tensor, generator: torch.Generator):
        self.generator, classes = generator, train.shape[1]
        ones = torch.cat([torch.ones(classes, 1), torch.eye(classes)[:, 1:]], 1)
        self.basis = torch.linalg.qr(ones)[0][:, 1:].to(train)  # U (K, K − 1)
        self.parts = [self.basis.T @ logits.T for logits in (train, test)]

    def __call__(self) -> list[Tensor]:
        dim = self.basis.shape[1]
        rotation = self.basis @ _haar(dim, dim, self.generator).to(self.basis)
        return [rotation @ part for part in self.parts]


class RandomDirections:
    """Draws W Q z + c for training and test points z (n, d), anew at each call: (K, n) each.

    With Wᵀ = Q₀ R it is Rᵀ times as many random orthonormal directions as W has: the Gram matrix of its
    rows is kept.
    """

    def __init__(self, head: LinearHead, train: Tensor, test: Tensor, generator: torch.Generator):
        self.points, self.bias, self.generator = (train.T, test.T), head.bias[:, None], generator
        self.triangle = torch.linalg.qr(head.weight.T.double())[1].T.to(train)  # Rᵀ (K, r)

    def __call__(self) -> list[Tensor]:
        dim, rank = len(self.points[0]), self.triangle.shape[1]
        weight = self.triangle @ _haar(dim, rank, self.generator).to(self.bias).T
        return [torch.addmm(self.bias, weight, points) for points in self.points]


@dataclass(frozen=True)
class Control:
    """What the controls of one kind reach on the test split: mean and standard deviation of loss (nats)
    and accuracy over `count` of them, and `p`, the share of controls, the classifier itself counted as
    one, that are at least as good as it is.
    """

    count: int
    loss: float
    loss_spread: float
    accuracy: float
    accuracy_spread: float
    p: float


@dataclass(frozen=True)
class _Judged:
    """`control`, the mean loss of each test point (m,) and the mean accuracy of each class (K_T,)."""

    control: Control
    losses: Tensor
    class_accuracy: Tensor


def _judge(
    draw: Callable[[], list[Tensor]],
    count: int,
    labels: tuple[Tensor, Tensor],
    groups: Tensor | None,
    num_targets: int,
    least: float,
    progress: str,
) -> _Judged:
    """Fit and test `count` controls, as many at a time as the device's block allows. `groups`: of the
    points that are fitted to.
    """
    train_labels, test_labels = labels
    losses, hits, total, right = [], [], 0.0, 0.0
    with progress_bar(total=count, desc=progress, unit="control") as bar:
        while len(losses) < count:
            first = draw()
            block = BLOCK_ELEMENTS_CUDA if first[0].is_cuda else BLOCK_ELEMENTS
            together = max(1, block // first[0].numel())
            drawn = [first, *(draw() for _ in range(min(together, count - len(losses)) - 1))]
            train, test = (torch.stack(parts) for parts in zip(*drawn, strict=True))
            B, temperature, _ = _fit(train, train_labels, num_targets, groups)
            h = B @ _probabilities(temperature, _centred(test.float()))
            of_points = _losses(h, test_labels).double()
            correct = (h.argmax(1) == test_labels).double()
            losses += of_points.mean(1).tolist()
            hits += correct.mean(1).tolist()
            total, right = total + of_points.sum(0), right + correct.sum(0)
            bar.update(len(drawn))
    loss, accuracy = torch.tensor(losses).double(), torch.tensor(hits).double()
    control = Control(
        count=count,
        loss=loss.mean().item(),
        loss_spread=loss.std().item() if count > 1 else 0.0,
        accuracy=accuracy.mean().item(),
        accuracy_spread=accuracy.std().item() if count > 1 else 0.0,
        p=(1 + int((loss <= least).sum())) / (count + 1),
    )
    return _Judged(control, total / count, class_means(right / count, test_labels, num_targets))


# ------------------------------------------------------------------------------------ what it says
@dataclass(frozen=True)
class ClassRelation:
    """One target class: its share of the test points; what the source calls it, the source classes with
    the largest mean probability; how often it is told right by labels alone (h_B), by mixed classes (the
    deciding control's mean) and by linear fine-tuning; and what fine-tuning mistakes it for.
    """

    target_class: str
    frequency: float
    called: tuple[tuple[str, float], ...]
    label_map_accuracy: float
    control_accuracy: float
    fine_tuned_accuracy: float
    taken_for: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Relation:
    """Losses in nats, accuracies in [0, 1], on the target's test split.

    `balanced_accuracy`: of linear fine-tuning, the mean over classes; `majority_share`: what always
    saying the most frequent class is right of. `accuracy_at_least`: with 95 % confidence the chance
    that linear fine-tuning is right on a new image of the same kind. `control`: which of the two kinds
    decides, mixed classes wherever there are three source classes.
    `source_contribution`: the share of the loss gap between that control and linear fine-tuning that the
    source's classes close; None, with the reason in `no_contribution`, where there is no such gap.
    `related`: p ≤ 0.05 and a contribution of at least 0.05. `steps`: the parts of the loss gap between
    random directions and linear fine-tuning (nats). `intervals`: 95 %, over test points.
    `shared_images`: B, T and controls were fitted on held-out logits of the source's head.
    """

    label_map_loss: float
    label_map_accuracy: float
    fine_tuned_loss: float
    fine_tuned_accuracy: float
    balanced_accuracy: float
    majority_share: float
    accuracy_at_least: float
    constant_prediction_loss: float
    mixed_classes: Control | None
    random_directions: Control
    control: str
    source_contribution: float | None
    source_contribution_p: float
    no_contribution: str | None
    related: bool
    steps: dict[str, float]
    temperature: float
    optimality_gap: float
    shared_images: bool
    classes: tuple[ClassRelation, ...]
    intervals: dict[str, tuple[float, float]] | None


@torch.no_grad()
def relate(
    source_head: LinearHead,
    target_head: LinearHead,
    train: Features,
    test: Features,
    class_names: tuple[Sequence[str], Sequence[str]],
    settings: RelationSettings,
    *,
    shared_images: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
) -> tuple[Relation, LabelMap]:
    """Measure what the source's classes have to do with the target's.

    Args:
        source_head: the source's classifier (K_S, d), as it reads standardised target features.
        target_head: linear fine-tuning, of validated strength (K_T, d).
        train: standardised training features of the target (n, d) with labels 0..K_T−1.
        test: its test features.
        class_names: of the source and of the target.
        settings: how many controls.
        shared_images: the source head was fitted to the same images; it has held-out logits then.
        bootstrap: resamples of the test points for the intervals; 0: none.
        seed: of controls and resamples.

    Returns:
        The relation, and the label map.

    Raises:
        ValueError: images are shared and the source head has no held-out logits.

    Source: docs/method.md, "The relation"; control tasks as in Hewitt and Liang (1909.03368).

    Example:
        >>> from utils.linear_head import fit_linear_head
        >>> x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
        >>> task = Features(x, (3 * x[:, :3]).argmax(1))
        >>> head = fit_linear_head(task, 3, None, "ridge")
        >>> few = RelationSettings(controls=19)
        >>> found, _ = relate(head, head, task, task, ("abc", "xyz"), few)
        >>> found.related, [row.called[0][0] for row in found.classes]
        (True, ['a', 'b', 'c'])
    """
    seen = train
    if shared_images:
        if source_head.held_out_logits is None:
            raise ValueError("source_head needs held_out_logits where images are shared")
        seen = train.select(source_head.held_out)
        logits = source_head.held_out_logits
    else:
        logits = source_head.logits(train.x)
    sources, targets = source_head.num_classes, target_head.num_classes
    test_logits = source_head.logits(test.x)
    label_map = fit_label_map(logits, seen.y, targets, seen.groups)
    h = label_map.probabilities(test_logits).double()
    losses, right = functional.nll_loss(h.log(), test.y, reduction="none"), h.argmax(1) == test.y
    fine_tuned = target_head.to(torch.float64).logits(test.x.double())
    tuned = functional.cross_entropy(fine_tuned, test.y, reduction="none")

    generator = torch.Generator().manual_seed(seed)
    least = losses.mean().item()
    judge = partial(
        _judge,
        count=settings.count(sources),
        labels=(seen.y, test.y),
        groups=seen.groups,
        num_targets=targets,
        least=least,
    )
    random = judge(RandomDirections(source_head, seen.x, test.x, generator), progress=RANDOM_DIRECTIONS)
    mixed = None
    if sources > 2:
        mixed = judge(MixedClasses(logits, test_logits, generator), progress=MIXED_CLASSES)
    deciding = mixed or random
    resamples = Resamples(test.y, bootstrap or FEWEST_RESAMPLES, generator, test.groups)
    contribution, reason = _contribution(deciding, losses, tuned, resamples)
    intervals = None
    tuned_right = fine_tuned.argmax(1) == test.y
    balanced, balanced_interval = balanced_accuracy(tuned_right, test.y, test.groups)
    if bootstrap:
        intervals = {
            "label_map_accuracy": share_interval(right, test.groups),
            "fine_tuned_accuracy": share_interval(tuned_right, test.groups),
            "balanced_accuracy": balanced_interval,
        }
        intervals["label_map_loss"] = interval(resamples.means(losses))
        if contribution is not None:
            control, own, best = map(resamples.means, (deciding.losses, losses, tuned))
            intervals["source_contribution"] = interval((control - own) / (control - best))
    p = deciding.control.p
    found = Relation(
        label_map_loss=least,
        label_map_accuracy=right.double().mean().item(),
        fine_tuned_loss=tuned.mean().item(),
        fine_tuned_accuracy=tuned_right.double().mean().item(),
        balanced_accuracy=balanced,
        majority_share=majority_share(test.y),
        accuracy_at_least=least_share_right(tuned_right, test.groups),
        constant_prediction_loss=math.log(targets),
        mixed_classes=mixed and mixed.control,
        random_directions=random.control,
        control=MIXED_CLASSES if mixed else RANDOM_DIRECTIONS,
        source_contribution=contribution,
        source_contribution_p=p,
        no_contribution=reason,
        related=contribution is not None and p <= SIGNIFICANT <= contribution,
        steps=_steps(random, mixed, least, tuned.mean().item()),
        temperature=label_map.temperature,
        optimality_gap=label_map.optimality_gap,
        shared_images=shared_images,
        classes=_by_class(
            torch.softmax(test_logits, 1),
            h.argmax(1),
            fine_tuned.argmax(1),
            test.y,
            deciding.class_accuracy,
            class_names,
        ),
        intervals=intervals,
    )
    return found, label_map


FEWEST_RESAMPLES = 200  # that say how well the loss gap is known, where no intervals are asked for
CLEAR = 1.0  # spreads of the controls that the loss gap must have


def _contribution(
    judged: _Judged, own: Tensor, tuned: Tensor, resamples: Resamples
) -> tuple[float | None, str | None]:
    """Return (source_contribution, None), or (None, why there is none), from the losses of each test
    point (m,) by the control, by labels alone and by linear fine-tuning.
    """
    control = judged.control
    gain = control.loss - tuned.mean().item()
    low, _ = interval(resamples.means(judged.losses - tuned))
    if gain <= CLEAR * control.loss_spread or low <= 0:
        return None, (
            f"linear fine-tuning is hardly better than the control ({gain:.2f} nats, where controls "
            f"differ by {control.loss_spread:.2f}): there is no loss gap to close a share of"
        )
    return (control.loss - own.mean().item()) / gain, None


def _steps(random: _Judged, mixed: _Judged | None, own: float, tuned: float) -> dict[str, float]:
    """Return the parts of the loss gap (nats): looking where the source looks, in the place of
    random directions; its classes, in the place of mixed ones; the target's own labels.
    """
    if mixed is None:
        return {"source": random.control.loss - own, "labels": own - tuned}
    directions = random.control.loss - mixed.control.loss
    return {"directions": directions, "classes": mixed.control.loss - own, "labels": own - tuned}


def _by_class(
    p: Tensor,
    mapped: Tensor,
    tuned: Tensor,
    t: Tensor,
    control_accuracy: Tensor,
    class_names: tuple[Sequence[str], Sequence[str]],
) -> tuple[ClassRelation, ...]:
    sources, targets = class_names
    rows = []
    for k, name in enumerate(targets):
        members = t == k
        count = int(members.sum())
        taken = torch.bincount(tuned[members], minlength=len(targets)).double() / max(1, count)
        own, taken[k] = taken[k].item(), 0.0
        called = p[members].double().mean(0) if count else torch.zeros(len(sources))
        rows.append(
            ClassRelation(
                target_class=name,
                frequency=count / len(t),
                called=largest_shares(called, sources),
                label_map_accuracy=(mapped[members] == k).double().mean().item() if count else 0.0,
                control_accuracy=control_accuracy[k].item() if count else 0.0,
                fine_tuned_accuracy=own,
                taken_for=largest_shares(taken, targets),
            )
        )
    return tuple(rows)
