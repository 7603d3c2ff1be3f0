"""Which source class stands for which target class."""

import numpy as np
import torch
from torch import Tensor

from utils.certificate.objective import CertificateObjective, initial_variables
from utils.certificate.transform import start_transform
from utils.features import Features
from utils.linear_head import LinearHead
from utils.procedures import CertificateSettings
from utils.sampling import index_by_class

STARTS = 20
STARTS_TIMES_CLASSES = 2000  # fewer starts where classes are many: each costs their cube
MOST_OFFERED, FEWEST_OFFERED = 3, 20  # source classes: so many for each target class, or so many in all


def match_classes(
    source: Features,
    target: Features,
    source_head: LinearHead,
    target_head: LinearHead,
    settings: CertificateSettings,
    seed: int = 0,
) -> Tensor:
    """Choose the source class that stands for each target class, (K_T,): classes that are hard to tell
    apart for classes that are.

    With E the share of held-out points of one of two classes whose logit of the other is higher, and S
    its square root less its mean, matchings m of high Σ_tt' S_m(t)m(t') S_tt' over source and target
    are found by exchanges from random starts: a quadratic assignment. Of the `settings.matchings` best,
    each learned on held-out logits of both sides, the one with the least certificate is taken. Both
    sides' logits are held out, so this is a validation.
    """
    ours, theirs = source_head.held_out_side(source), target_head.held_out_side(target)
    similar = [_confusability(side.values, side.y) for side in (ours, theirs)]
    found = _quadratic_assignments(*similar, settings.matchings)
    matchings = [torch.from_numpy(m).to(source.y) for m in found]
    if len(matchings) == 1:
        return matchings[0]
    values = []
    for matching in matchings:
        start = start_transform(source_head, matching, target_head.num_classes, soft=True)
        # Learned on logits in the place of features: U = I, c = 0 gives them as they are.
        kept = start.keep(Features(ours.values[:, matching], ours.y, ours.groups))
        objective = CertificateObjective(kept, theirs, settings, seed)
        eye = torch.eye(len(matching)).to(kept.x)
        begin = initial_variables(U=eye, M=eye, c=torch.zeros_like(start.c), B=start.B)
        learned = objective.learn(begin, settings.steps_of_a_trial, weight_decay=0.0, learn_labels=True)
        values.append(objective.judge(learned))
    return matchings[int(np.argmin(np.nan_to_num(values, nan=np.inf)))]


def _confusability(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Return S of `match_classes`, (K, K) with a zero diagonal."""
    classes = logits.shape[1]
    mistaken = torch.stack(
        [
            (logits[members] > logits[members, k, None]).double().mean(0)
            for k, members in enumerate(index_by_class(labels, classes))
        ]
    )
    # (k, l): how often a point of k has the higher logit of l. Roots spread the many small shares.
    S = ((mistaken + mistaken.T) / 2).sqrt().cpu().numpy()
    others = ~np.eye(classes, dtype=bool)
    S[others] -= S[others].mean()
    return np.where(others, S, 0.0)


def _quadratic_assignments(source: np.ndarray, target: np.ndarray, count: int) -> list[np.ndarray]:
    """Find up to `count` local maxima m of Σ_tt' source[m_t, m_t'] target[t, t'], the best first, from
    random starts. Target classes that are missing to as many as the source has count nothing. Of many
    source classes only those that are least confused with others can be chosen.

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
            P = Q @ padded  # all exchanges' gains from one product of matrices
            own = P.diagonal()
            gain = P + P.T - own[:, None] - own + 2 * Q * padded
            r, s = np.unravel_index(gain.argmax(), gain.shape)
            if gain[r, s] <= 1e-12:
                break
            m[[r, s]] = m[[s, r]]
        found[tuple(m[:wanted].tolist())] = float((source[np.ix_(m, m)] * padded).sum())
    best = sorted(found, key=found.get, reverse=True)[:count]
    return [offered[list(m)] for m in best]
