"""The certificate's transform, learned directly, and what it says about a pair of tasks.

On h(z) = B softmax(W Ā(z − b) + c) the bound (2) of bound.py depends on A, b and Ā through
    U = W Ā A (K, d),   V = W Ā (K, d),   e = V b (K,)
alone: a transformed source point has the logits U x + c, a target point V z − e + c. So U, V, e, c and B
are learned, K × d numbers in the place of d × d (`feature_maps` gives A, b and Ā back), to minimise
    Σ_t π_T,t ( mean over source points mapped to t of −log (B softmax(U x + c))_t + W^c_t )
    + λ_S/2 ‖U‖²                                                                                (1)
by Adam; each step draws equally many points of each class from both sides and matches them exactly for
the cost c_t, and the matching is held fixed while gradients are taken.

What keeps (1) from fitting the training points alone: λ_S is the weight that validation chose for the
source head, or one of its multiples where a held-out fifth of both sides prefers it. V = M W_T is made
of the target head W_T, whose weight validation chose too, and a matrix M (K, K_T); M is learned on the
logits that target points have from heads which did not see them, so that what is matched is spread as
new target points are.

Each target class is stood for by one source class (`match_classes`). A source class that stands for
none is left out: h is the source classifier for a class prior D that is zero there.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from utils.adam import Adam
from utils.bound import (
    CertifiedTerms,
    certified_terms,
    draw_resamples,
    mean_of,
    term_intervals,
)
from utils.device import multiplies_bfloat16
from utils.errors import InputError
from utils.features import Features
from utils.grouped import least_share_right
from utils.linear_head import LinearHead
from utils.procedures import LEARNED_ALL, NOTHING_LEARNED, CertificateSettings
from utils.sampling import (
    ByClass,
    class_prior,
    draw_by_counts,
    held_out_part,
    index_by_class,
    stratified_folds,
)
from utils.statistics import largest_shares
from utils.task_transform import log_class_probabilities, random_permutation
from utils.transport import solve_assignments


@dataclass(frozen=True)
class CertificateTransform:
    """U, V (K, d), e, c (K,) and B (K_T, K) of the K source classes that stand for a target class: their
    numbers in the source task, `source_classes` (K,), and the target classes they stand for,
    `stands_for` (K,). `weight_decay`: of U, as chosen. `start` and `end`: the certificate on the same
    training points before and after learning.
    """

    U: Tensor
    V: Tensor
    e: Tensor
    c: Tensor
    B: Tensor
    source_classes: Tensor
    stands_for: Tensor
    weight_decay: float | None = None
    start: float | None = None
    end: float | None = None

    @property
    def improved(self) -> bool:
        """Whether learning found something better than the start."""
        return self.end is not None and self.end < self.start

    def tensors(self) -> dict[str, Tensor]:
        names = ("U", "V", "e", "c", "B", "source_classes", "stands_for")
        return {name: getattr(self, name) for name in names}

    def double(self) -> "CertificateTransform":
        parts = {name: getattr(self, name).double() for name in ("U", "V", "e", "c", "B")}
        return replace(self, **parts)

    def source_logits(self, x: Tensor) -> Tensor:
        """U x + c: (n, K)."""
        return functional.linear(x, self.U, self.c)

    def target_logits(self, z: Tensor) -> Tensor:
        """V z − e + c: (n, K)."""
        return functional.linear(z, self.V, self.c - self.e)

    def log_probabilities(self, z: Tensor) -> Tensor:
        """Log h(z) of target points: (n, K_T)."""
        return log_class_probabilities(self.target_logits(z), self.B)

    def keep(self, source: Features) -> Features:
        """The source points of the classes that stand for one, labelled 0..K−1."""
        highest = max(int(source.y.max()), int(self.source_classes.max()))
        number = torch.full((highest + 1,), -1).to(source.y)
        number[self.source_classes] = torch.arange(len(self.source_classes)).to(source.y)
        labels = number[source.y]
        return replace(source, y=labels).select(labels >= 0)

    def feature_maps(self, head: LinearHead) -> tuple[Tensor, Tensor, Tensor]:
        """(A, b, Ā) of the smallest change from A = Ā = I, b = 0 with these logits, float64:
            Ā = I + W⁺(V − W),   A = I + V⁺(U − V),   b = V⁺e.
        They have them exactly (softmax ignores a common shift) where W and V reach every centred logit:
        d ≥ K − 1 and no two classes alike.
        """
        kept = head.weight.double()[self.source_classes]
        weight, U, V, e = (part - part.mean(0) for part in (kept, self.U, self.V, self.e))
        U, V, e = U.double(), V.double(), e.double()
        eye = torch.eye(U.shape[1]).to(U)
        inverse = torch.linalg.pinv(V)
        return eye + inverse @ (U - V), inverse @ e, eye + torch.linalg.pinv(weight) @ (V - weight)


# ---------------------------------------------------------------------------------------- the learner
def learn_certificate(
    source: Features,
    target: Features,
    source_head: LinearHead,
    target_head: LinearHead,
    settings: CertificateSettings,
    *,
    learned: str = LEARNED_ALL,
    seed: int = 0,
) -> CertificateTransform:
    """Learns the certificate's transform.

    LearnedAll chooses which source class stands for which target class. LearnedA takes a random one for
    each and B as it is. FixedAll learns nothing: U = V = W, e = 0.

    Args:
        source: standardised training features (n, d) with labels 0..K_S−1.
        target: standardised training features (m, d) with labels 0..K_T−1.
        source_head: of validated strength (`fit_linear_head` with `ridge`), with its held-out logits.
        target_head: the same of the target.
        settings: how it is learned.
        learned: LearnedAll, LearnedA or FixedAll.
        seed: of batches and permutations.

    Returns:
        U, V, e, c, B, and which source classes stand for which target class; `certify` evaluates it.

    Raises:
        InputError: there are fewer source than target classes.
        ValueError: a head has no held-out logits.

    Source: docs/method.md, "The certificate".

    Example:
        >>> from utils.linear_head import fit_linear_head
        >>> x = torch.randn(90, 2, generator=torch.Generator().manual_seed(0))
        >>> task = Features(x, (x[:, 0] > 0).long())
        >>> head = fit_linear_head(task, 2, None, "ridge")
        >>> learned = learn_certificate(task, task, head, head, CertificateSettings(steps=5))
        >>> certify(learned, head, (task, task), (task, task), ("ab", "ab")).bound_certified < 0.7
        True
    """
    sources, targets = source_head.num_classes, target_head.num_classes
    if (reason := impossible(sources, targets)) is not None:
        raise InputError(reason)
    for name, head in (("source_head", source_head), ("target_head", target_head)):
        if head.held_out_logits is None:
            raise ValueError(f"{name} needs held_out_logits: fit it with the method ridge")
    soft = learned == LEARNED_ALL
    if soft:
        matching = match_classes(source, target, source_head, target_head, settings, seed)
    else:
        matching = random_permutation(targets, seed).to(source.y)
    start = _start(source_head, matching, targets, soft)
    if learned == NOTHING_LEARNED:
        return start
    sides = (start.keep(source), _held_out(target, target_head))
    problem = _Problem(*sides, settings, seed)
    begin = problem.variables(start, source_head.weight[matching], torch.eye(targets))
    decay = _choose_weight_decay(begin, sides, source_head.weight_decay, settings, seed, soft)
    end = problem.learn(begin, settings.steps, decay, soft)
    before, after = problem.judge(begin), problem.judge(end)
    if not after < before:  # NaN as well: the start is kept, and said to be one
        end, after = begin, before
    V = end["M"] @ target_head.weight
    e = end["c"] - end["M"] @ target_head.bias - end["o"]
    B = torch.softmax(end["B"], 0) if soft else start.B
    found = {"U": end["U"], "V": V, "e": e, "c": end["c"], "B": B}
    return replace(start, **found, weight_decay=decay, start=before, end=after)


def impossible(sources: int, targets: int) -> str | None:
    """Why there is no certificate between so many source and target classes; None if there is one."""
    if sources >= targets:
        return None
    return (
        f"no certificate: {sources} source classes cannot stand for {targets} target classes, each of "
        "which needs source points of its own to be compared with; take a source with as many classes"
    )


def _start(head: LinearHead, matching: Tensor, targets: int, soft: bool) -> CertificateTransform:
    """A = Ā = I, b = 0: both sides have the source head's logits of the classes of `matching`."""
    B = torch.eye(targets).to(head.weight)
    if soft:
        B = torch.softmax(SHARPNESS * B, dim=0)
    weight, bias = head.weight[matching], head.bias[matching]
    return CertificateTransform(
        weight, weight.clone(), torch.zeros_like(bias), bias, B, matching,
        torch.arange(targets).to(matching),
    )  # fmt: skip


def _choose_weight_decay(
    begin: dict[str, Tensor],
    sides: tuple[Features, Features],
    weight_decay: float,
    settings: CertificateSettings,
    seed: int,
    learn_labels: bool,
) -> float:
    """The weight of U in (1): the source head's, or ten times it and so on as long as that makes the
    certificate of a held-out fifth of both sides smaller. A class's only sample is on either side.
    """
    folds = [stratified_folds(side.y, side.groups) for side in sides]
    held_out = [held_out_part(side.y, fold) for side, fold in zip(sides, folds, strict=True)]
    learned_on, judged_on = (
        _Problem(
            *(side.select(part) for side, part in zip(sides, parts, strict=True)),
            settings, seed,
        )
        for parts in (
            [~out for out in held_out],
            [out | (fold < 0) for out, fold in zip(held_out, folds, strict=True)],
        )
    )  # fmt: skip
    best, least = weight_decay, math.inf
    for power in range(MOST_TENFOLDS + 1):
        tried = weight_decay * 10**power
        value = judged_on.judge(learned_on.learn(begin, settings.steps_of_a_trial, tried, learn_labels))
        if not value < least:
            break
        best, least = tried, value
    return best


MOST_TENFOLDS = 4
SHARPNESS = 6.0  # B's first logit of the class stood for: with ten classes a probability of 0.98
BATCH_ELEMENTS = 2**23  # of the costs of a step, (K, m, m, K)
JUDGED_PER_CLASS = 200  # points of each class and side that decide whether learning helped
SMALLEST_RATE = 0.02  # what the cosine leaves of the rates


class _Problem:
    """(1) for one matching: source features, labelled 0..K−1 by the target class they stand for, and the
    target's held-out logits with their labels.
    """

    def __init__(
        self,
        source: Features,
        target: Features,
        settings: CertificateSettings,
        seed: int,
    ):
        self.x, self.logits = source.x.float(), target.x
        self.rounded = self.x.to(_precision_of_steps(self.x, target.x.shape[1]))
        self.settings, self.classes = settings, target.x.shape[1]
        self.source, self.target = (ByClass(side.y, self.classes) for side in (source, target))
        self.prior = class_prior(target.y, self.classes).to(self.x)
        self.generator = torch.Generator().manual_seed(seed)
        most = math.isqrt(BATCH_ELEMENTS // self.classes**2)
        self.points = max(2, min(settings.points_per_class, most))

    def variables(self, start: CertificateTransform, U: Tensor, M: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros_like(start.c)
        begin = {"U": U, "M": M.to(U), "c": start.c, "o": zero, "B": start.B.log()}
        return {name: value.detach().clone() for name, value in begin.items()}

    def learn(
        self, begin: dict[str, Tensor], steps: int, weight_decay: float, learn_labels: bool
    ) -> dict[str, Tensor]:
        """Adam on (1) from `begin`."""
        variables = {name: value.clone() for name, value in begin.items()}
        settings = self.settings
        rates = {
            "U": settings.learning_rate / math.sqrt(self.x.shape[1]),
            "M": settings.combination_rate,
            "c": settings.offset_rate,
            "o": settings.offset_rate,
        }
        if learn_labels:
            rates["B"] = settings.label_rate
        optimiser = Adam(variables, betas=(0.9, 0.99))
        bar = tqdm(range(steps), desc="certificate", unit="step", disable=None, leave=False)
        with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for step in bar:
                gradients = self.gradients(
                    variables, self._match(variables, self.points, self.rounded, pool)
                )
                gradients["U"].add_(variables["U"], alpha=weight_decay)
                fraction = (1 + math.cos(math.pi * step / steps)) / 2
                fraction = SMALLEST_RATE + (1 - SMALLEST_RATE) * fraction
                optimiser.step(gradients, {name: fraction * rate for name, rate in rates.items()})
        return variables

    def _match(
        self,
        variables: dict[str, Tensor],
        points: int,
        features: Tensor,
        pool: ThreadPoolExecutor | None = None,
    ) -> "_Matched":
        """A fresh batch of m points of each class and side, matched for the cost c_t between
        g = U x + c and g' = M z + o,
            c_t = max_k (g' − g)_k − Σ_k q_k (g' − g)_k,   q = softmax(g + log B_t).
        """
        shape, counts = (self.classes, points), [points] * self.classes
        i, j = (side.draw(counts, self.generator) for side in (self.source, self.target))
        x, z = features.index_select(0, i), self.logits.index_select(0, j)
        log_B = torch.log_softmax(variables["B"], 0)[:, None]  # (K_T, 1, K)
        U, c = variables["U"], variables["c"]
        g = functional.linear(x, U.to(x)).to(U).add_(c).view(*shape, -1)  # (K_T, m, K)
        g_target = functional.linear(z, variables["M"], variables["o"]).view(*shape, -1)
        q = torch.softmax(g + log_B, dim=2)
        costs = _highest_differences(g_target, g)
        costs = costs.baddbmm_(q, g_target.transpose(1, 2), alpha=-1).add_((q * g).sum(2, keepdim=True))
        first = torch.arange(0, len(j), points, device=j.device)[:, None]
        matched = (solve_assignments(costs, pool) + first).flatten()
        g_target = g_target.flatten(0, 1).index_select(0, matched).view_as(g)
        return _Matched(x, z.index_select(0, matched), g, g_target - g, log_B, q)

    def gradients(self, variables: dict[str, Tensor], batch: "_Matched") -> dict[str, Tensor]:
        """Of (1) without its last term, the matching held fixed. With p = softmax(g), D = g' − g and
        e* = 1 where D is largest,
            ℓ = LSE(g) − LSE(g + log B_t),   c_t = max D − Σ_k q_k D_k,   s = q ∘ (D − Σ_k q_k D_k),
            ∂(ℓ + c_t)/∂g = p − e* − s,   /∂g' = e* − q,   /∂ log B_t = −(q + s),
        each point with the weight π_T,t / m. Written out: the graph of automatic differentiation would
        take half as long again as all else.
        """
        g, q, difference = batch.g, batch.q, batch.difference
        weight = (self.prior / g.shape[1]).view(-1, 1, 1)
        highest = (difference == difference.amax(2, keepdim=True)).to(g)
        highest /= highest.sum(2, keepdim=True)  # of several that are largest each has its share
        s = q * (difference - (q * difference).sum(2, keepdim=True))
        of_g = (torch.softmax(g, 2).sub_(highest).sub_(s)).mul_(weight).flatten(0, 1)
        of_target = (highest.sub_(q)).mul_(weight).flatten(0, 1)
        of_log_B = (q + s).sum(1).mul_(-weight[:, 0])
        return {
            "U": (of_g.T.to(batch.x) @ batch.x).to(of_g),
            "c": of_g.sum(0),
            "M": of_target.T @ batch.z,
            "o": of_target.sum(0),
            "B": of_log_B
            - batch.label_logs[:, 0].exp() * of_log_B.sum(0),  # log B = B̃ − LSE of its column
        }

    @torch.no_grad()
    def judge(self, variables: dict[str, Tensor]) -> float:
        """The certificate on points of every class, the same at each call."""
        kept, self.generator = self.generator, torch.Generator().manual_seed(0)
        most = min(JUDGED_PER_CLASS, max(2, math.isqrt(4 * BATCH_ELEMENTS // self.classes**2)))
        loss, transport = self._match(variables, most, self.x).terms()
        self.generator = kept
        return (self.prior @ (loss + transport)).item()


@dataclass(frozen=True)
class _Matched:
    """A batch of m points of each class, matched: x (K_T m, d) and z (K_T m, K_T), the target points in
    the order of their partners; g, difference = g' − g and q, (K_T, m, K); `label_logs`, log B
    (K_T, 1, K).
    """

    x: Tensor
    z: Tensor
    g: Tensor
    difference: Tensor
    label_logs: Tensor
    q: Tensor

    def terms(self) -> tuple[Tensor, Tensor]:
        """(source loss, transport) of each class, (K_T,) each: the means of ℓ and of c_t."""
        loss = torch.logsumexp(self.g, 2) - torch.logsumexp(self.g + self.label_logs, 2)
        transport = self.difference.amax(2) - (self.q * self.difference).sum(2)
        return loss.mean(1), transport.mean(1)


def _precision_of_steps(x: Tensor, classes: int) -> torch.dtype:
    """What U x is taken in while U is learned: bfloat16 where the device multiplies it faster and U is
    large. Its rounding, 1/256, is far below what one batch differs from the next by; U itself is kept,
    and what was learned is judged, in float32.
    """
    large = x.shape[1] * classes >= LARGE
    return torch.bfloat16 if large and multiplies_bfloat16(x.device) else torch.float32


LARGE = 2**16  # numbers of U; below it the products are not what a step waits for


def _highest_differences(g_target: Tensor, g: Tensor) -> Tensor:
    """max_k (g'_jk − g_ik) for all pairs, (C, m, m) from (C, m, K) twice, some classes at a time."""
    at_once = max(1, BATCH_ELEMENTS // (g.shape[1] ** 2 * g.shape[2]))
    sides = zip(g_target.split(at_once), g.split(at_once), strict=True)
    return torch.cat([(theirs[:, None] - ours[:, :, None]).amax(3) for theirs, ours in sides])


# ------------------------------------------------------------------------ which class stands for which
def match_classes(
    source: Features,
    target: Features,
    source_head: LinearHead,
    target_head: LinearHead,
    settings: CertificateSettings,
    seed: int = 0,
) -> Tensor:
    """The source class that stands for each target class, (K_T,): classes that are hard to tell apart
    for classes that are.

    With E the share of held-out points of one of two classes whose logit of the other is higher, and S
    its square root less its mean, matchings m of high Σ_tt' S_m(t)m(t') S_tt' over source and target
    are found by exchanges from random starts: a quadratic assignment. Of the `settings.matchings` best,
    each learned on held-out logits of both sides, the one with the least certificate is taken. Both
    sides' logits are held out, so this is a validation.
    """
    source, target = _held_out(source, source_head), _held_out(target, target_head)
    similar = [_confusability(side.x, side.y) for side in (source, target)]
    found = _quadratic_assignments(*similar, settings.matchings)
    matchings = [torch.from_numpy(m).to(source.y) for m in found]
    if len(matchings) == 1:
        return matchings[0]
    values = []
    for matching in matchings:
        start = _start(source_head, matching, target_head.num_classes, soft=True)
        kept = start.keep(source)
        problem = _Problem(Features(kept.x[:, matching], kept.y), target, settings, seed)
        eye = torch.eye(len(matching))
        begin = problem.variables(replace(start, c=torch.zeros_like(start.c)), eye.to(kept.x), eye)
        learned = problem.learn(begin, settings.steps_of_a_trial, 0.0, learn_labels=True)
        values.append(problem.judge(learned))
    return matchings[int(np.argmin(np.nan_to_num(values, nan=np.inf)))]


def _held_out(side: Features, head: LinearHead) -> Features:
    """The head's held-out logits of the side's samples as features."""
    return replace(side.select(head.held_out), x=head.held_out_logits)


def _confusability(logits: Tensor, labels: Tensor) -> np.ndarray:
    """S of `match_classes`, (K, K) with a zero diagonal."""
    classes = logits.shape[1]
    mistaken = torch.stack(
        [
            (logits[members] > logits[members, k, None]).double().mean(0)
            for k, members in enumerate(index_by_class(labels, classes))
        ]
    )
    S = ((mistaken + mistaken.T) / 2).sqrt().cpu().numpy()
    others = ~np.eye(classes, dtype=bool)
    S[others] -= S[others].mean()
    return np.where(others, S, 0.0)


STARTS = 20
STARTS_TIMES_CLASSES = 2000  # fewer starts where classes are many: each costs their cube
MOST_OFFERED, FEWEST_OFFERED = 3, 20  # source classes: so many for each target class, or so many in all


def _quadratic_assignments(source: np.ndarray, target: np.ndarray, count: int) -> list[np.ndarray]:
    """Up to `count` local maxima m of Σ_tt' source[m_t, m_t'] target[t, t'], the best first, from random
    starts. Target classes that are missing to as many as the source has count nothing. Of many source
    classes only those that are least confused with others can be chosen.

    Exchanging m_r and m_s changes the sum by 2 (P_rs + P_sr − P_rr − P_ss + 2 Q_rs T_rs), with T the
    target's and Q the source's matrix in the order of m (both symmetric with a zero diagonal) and
    P = Q T: the best of all exchanges is made until none helps.
    """
    wanted = len(target)
    offered = source.sum(0).argsort(kind="stable")[: max(MOST_OFFERED * wanted, FEWEST_OFFERED)]
    source, classes = source[np.ix_(offered, offered)], len(offered)
    padded = np.zeros_like(source)
    padded[:wanted, :wanted] = target
    rng = np.random.default_rng(0)
    found: dict[tuple[int, ...], float] = {}
    for _ in range(min(STARTS, max(2, STARTS_TIMES_CLASSES // classes))):
        m = rng.permutation(classes)
        for _ in range(10 * classes):
            Q = source[np.ix_(m, m)]
            P = Q @ padded
            own = P.diagonal()
            gain = P + P.T - own[:, None] - own + 2 * Q * padded
            r, s = np.unravel_index(gain.argmax(), gain.shape)
            if gain[r, s] <= 1e-12:
                break
            m[[r, s]] = m[[s, r]]
        found[tuple(m[:wanted].tolist())] = float((source[np.ix_(m, m)] * padded).sum())
    best = sorted(found, key=found.get, reverse=True)[:count]
    return [offered[list(m)] for m in best]


# ---------------------------------------------------------------------------------- what it says
@dataclass(frozen=True)
class ClassCertificate:
    """One target class: its share of the test points, the losses (nats) and `share`, its part of
    bound_certified; the source classes that stand for it, and the two classes that h takes it for most
    often, each with how often.
    """

    target_class: str
    frequency: float
    share: float
    target_loss: float
    source_loss: float
    transport: float
    stood_for_by: tuple[str, ...]
    taken_for: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Certificate:
    """Losses in nats, accuracies in [0, 1], on the test splits. bound_certified is the sum of
    certified_source_loss and certified_transport. `accuracy_at_least`: with 95 % confidence the chance
    that h is right on a new image of the same kind. `fine_tuned_*`: the target head of validated
    strength. `intervals` as in TransferBound. `start`, `end` and `improved`: the certificate on
    training points before and after learning (None and False where nothing was learned).
    """

    fine_tuned_loss: float
    fine_tuned_accuracy: float
    target_loss: float
    target_accuracy: float
    accuracy_at_least: float
    bound_certified: float
    certified_source_loss: float
    certified_transport: float
    constant_prediction_loss: float
    source_accuracy: float
    bound_certified_train: float
    target_loss_train: float
    classes: tuple[ClassCertificate, ...]
    intervals: dict[str, tuple[float, float]] | None
    start: float | None
    end: float | None
    improved: bool

    def quantities(self) -> dict:
        return asdict(self)


@torch.no_grad()
def certify(
    transform: CertificateTransform,
    target_head: LinearHead,
    train: tuple[Features, Features],
    test: tuple[Features, Features],
    class_names: tuple[Sequence[str], Sequence[str]],
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> Certificate:
    """Evaluates (2) of bound.py on the test splits (source, target), in float64."""
    double = transform.double()
    source, target = _points(double, *test)
    terms = _terms(double, source, target, potentials=bootstrap > 0)
    log_h = double.log_probabilities(target.x)
    losses, right = functional.nll_loss(log_h, target.y, reduction="none"), log_h.argmax(1) == target.y
    fine_tuned = target_head.to(torch.float64).logits(target.x)
    log_h_source = log_class_probabilities(double.source_logits(source.x), double.B)
    named = {
        "fine_tuned_loss": mean_of(
            target=functional.cross_entropy(fine_tuned, target.y, reduction="none")
        ),
        "fine_tuned_accuracy": mean_of(target=fine_tuned.argmax(1) == target.y),
        "target_loss": mean_of(target=losses),
        "target_accuracy": mean_of(target=right),
        "bound_certified": terms.bound,
        "certified_source_loss": terms.source_loss,
        "certified_transport": terms.transport,
        "source_accuracy": mean_of(source=log_h_source.argmax(1) == double.stands_for[source.y]),
    }
    intervals = None
    if bootstrap:
        drawn = draw_resamples(source, target, bootstrap, seed)
        intervals, _ = term_intervals(named, drawn)
    train_bound, train_loss = _on_training_points(double, train, test, seed)
    return Certificate(
        **{name: term.value for name, term in named.items()},
        accuracy_at_least=least_share_right(right, target.groups),
        constant_prediction_loss=math.log(len(double.B)),
        bound_certified_train=train_bound,
        target_loss_train=train_loss,
        classes=_by_class(double, terms, losses, log_h.argmax(1), target.y, class_names),
        intervals=intervals,
        start=transform.start,
        end=transform.end,
        improved=transform.improved,
    )


def _points(
    transform: CertificateTransform, source: Features, target: Features
) -> tuple[Features, Features]:
    """In float64, of the source those of the classes that stand for one."""
    kept = transform.keep(source)
    return replace(kept, x=kept.x.double()), replace(target, x=target.x.double())


def _terms(
    transform: CertificateTransform, source: Features, target: Features, potentials: bool
) -> CertifiedTerms:
    """(2) of bound.py for source points labelled by the class that they are kept as."""
    assigned = transform.stands_for[source.y]
    logits = transform.source_logits(source.x), transform.target_logits(target.x)
    return certified_terms(transform.B, assigned, *logits, target.y, potentials)


def _on_training_points(
    transform: CertificateTransform,
    train: tuple[Features, Features],
    test: tuple[Features, Features],
    seed: int,
) -> tuple[float, float]:
    """(bound_certified, target_loss) on as many training points of each class as the test splits have:
    the gap to the test values is what was fitted to the training points, at equal sampling error.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for split, other in zip(train, test, strict=True):
        members = index_by_class(split.y, int(torch.cat([split.y, other.y]).max()) + 1)
        wanted = torch.bincount(other.y, minlength=len(members)).tolist()
        counts = [min(count, len(points)) for count, points in zip(wanted, members, strict=True)]
        chosen = draw_by_counts(members, counts, generator)
        parts.append(split.select(chosen))
    source, target = _points(transform, *parts)
    terms = _terms(transform, source, target, potentials=False)
    loss = functional.nll_loss(transform.log_probabilities(target.x), target.y)
    return terms.bound.value, loss.item()


def _by_class(
    transform: CertificateTransform,
    terms: CertifiedTerms,
    losses: Tensor,
    predicted: Tensor,
    t: Tensor,
    class_names: tuple[Sequence[str], Sequence[str]],
) -> tuple[ClassCertificate, ...]:
    sources, targets = class_names
    rows = []
    for k, name in enumerate(targets):
        members = t == k
        count = int(members.sum())
        taken = torch.bincount(predicted[members], minlength=len(targets)).double() / max(1, count)
        taken[k] = 0.0
        frequency = count / len(t)
        rows.append(
            ClassCertificate(
                target_class=name,
                frequency=frequency,
                share=frequency * terms.bound.parts[k],
                target_loss=losses[members].mean().item() if count else 0.0,
                source_loss=terms.source_loss.parts[k],
                transport=terms.transport.parts[k],
                stood_for_by=tuple(
                    sources[s] for s in transform.source_classes[transform.stands_for == k].tolist()
                ),
                taken_for=largest_shares(taken, targets),
            )
        )
    return tuple(rows)
