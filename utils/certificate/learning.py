"""The certificate's transform, learned directly.

On h(z) = B softmax(W Ā(z − b) + c) the bound (2) of inequality.py depends on A, b and Ā through
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
from dataclasses import replace

import torch

from utils.certificate.matching import match_classes
from utils.certificate.objective import CertificateObjective, Variables, initial_variables
from utils.certificate.transform import CertificateTransform, impossible, start_transform
from utils.errors import InputError
from utils.features import Features
from utils.linear_head import LinearHead, Logits
from utils.procedures import LEARNED_ALL, NOTHING_LEARNED, CertificateSettings
from utils.sampling import held_out_part, stratified_folds

MOST_TENFOLDS = 4


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
    """Learn the certificate's transform.

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
        >>> from utils.certificate import certify
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
        matching = match_classes(
            source=source,
            target=target,
            source_head=source_head,
            target_head=target_head,
            settings=settings,
            seed=seed,
        )
    else:
        generator = torch.Generator().manual_seed(seed)
        matching = torch.randperm(targets, generator=generator).to(source.y)
    start = start_transform(source_head, matching, targets, soft=soft)
    if learned == NOTHING_LEARNED:
        return start
    sides = (start.keep(source), target_head.held_out_side(target))
    objective = CertificateObjective(*sides, settings, seed)
    begin = initial_variables(U=start.U, M=torch.eye(targets), c=start.c, B=start.B)
    decay = _choose_weight_decay(
        begin, sides, source_head.weight_decay, settings, seed=seed, learn_labels=soft
    )
    end = objective.learn(begin, settings.steps, weight_decay=decay, learn_labels=soft)
    before, after = objective.judge(begin), objective.judge(end)
    if not after < before:  # NaN as well: the start is kept, and said to be one
        end, after = begin, before
    M, c = end["combination"], end["source_bias"]
    return replace(
        start,
        U=end["source_weight"],
        V=M @ target_head.weight,
        e=c - M @ target_head.bias - end["target_bias"],
        c=c,
        B=torch.softmax(end["label_logits"], 0) if soft else start.B,
        weight_decay=decay,
        start=before,
        end=after,
    )


def _choose_weight_decay(
    begin: Variables,
    sides: tuple[Features, Logits],
    weight_decay: float,
    settings: CertificateSettings,
    *,
    seed: int,
    learn_labels: bool,
) -> float:
    """Choose the weight of U in (1): the source head's, or ten times it and so on as long as that makes
    the certificate of a held-out fifth of both sides smaller. A class's only sample is on either side.
    """
    folds = [stratified_folds(side.y, side.groups) for side in sides]
    held_out = [held_out_part(side.y, fold) for side, fold in zip(sides, folds, strict=True)]
    rest = [~out for out in held_out]
    judged = [out | (fold < 0) for out, fold in zip(held_out, folds, strict=True)]
    learned_on, judged_on = (
        CertificateObjective(sides[0].select(ours), sides[1].select(theirs), settings, seed)
        for ours, theirs in (rest, judged)
    )
    best, least = weight_decay, math.inf
    for power in range(MOST_TENFOLDS + 1):
        tried = weight_decay * 10**power
        learned = learned_on.learn(
            begin, settings.steps_of_a_trial, weight_decay=tried, learn_labels=learn_labels
        )
        value = judged_on.judge(learned)
        if not value < least:
            break
        best, least = tried, value
    return best
