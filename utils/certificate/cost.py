"""The ground cost of the certificate: what the loss of h can gain between two points.

With the logits g of a transformed source point and g' of a target point, Δ = g' − g and
q_s ∝ B_ts exp(g_s), the loss ℓ(g, t) = LSE(g) − LSE(g + log B_t) of h = B softmax(g) satisfies
    ℓ(g', t) − ℓ(g, t) = [LSE(g') − LSE(g)] − [LSE(g' + log B_t) − LSE(g + log B_t)]
                       ≤ max_s Δ_s − ⟨q, Δ⟩ =: c_t(g, g').                                      (1)
The first bracket is at most max Δ, since LSE grows by no more than its arguments do. The second is at
least ⟨q, Δ⟩, since LSE is convex and q is its gradient at g + log B_t. c_t is no metric and need not be
one. Another cost changes this file alone: it must satisfy the inequality of (1).
"""

import torch
from torch import Tensor

PAIR_ELEMENTS = 2**22  # of the differences Δ held at a time; in a batch at least those of a class


def cost_weights(logits: Tensor, log_B: Tensor) -> Tensor:
    """Return q of (1) for logits (…, K) and rows log B_t that fit them: (…, K)."""
    return torch.softmax(logits + log_B, dim=-1)


def cost_of_pairs(q: Tensor, difference: Tensor) -> Tensor:
    """Return c_t of (1) for each pair, q and Δ (…, K): (…)."""
    return difference.amax(-1) - torch.linalg.vecdot(q, difference)


def one_sided_cost(B_t: Tensor, source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return c_t of (1) between source logits (n, K) and target logits (m, K), B_t (K,) the row of B:
    (n, m), not negative, in bounded memory. Where B_t is zero the loss is infinite on both sides; the
    cost is then max Δ − min Δ or less.
    """
    log_B = B_t.log() if (B_t > 0).any() else torch.zeros_like(B_t)
    q = cost_weights(source_logits, log_B)
    rows = max(1, PAIR_ELEMENTS // max(1, target_logits.numel()))
    costs = []
    for part, of_part in zip(source_logits.split(rows), q.split(rows), strict=True):
        difference = target_logits[None] - part[:, None]  # (rows, m, K)
        # ⟨q, Δ⟩ from the differences themselves: outliers would cancel in ⟨q, g'⟩ − ⟨q, g⟩.
        costs.append(difference.amax(2) - (difference @ of_part[:, :, None])[:, :, 0])
    return torch.cat(costs).clamp_min(0)


def costs_in_batch(q: Tensor, g: Tensor, g_target: Tensor) -> Tensor:
    """Return c_t of (1) for all pairs of each class, from q, g and g' (K_T, m, K): (K_T, m, m). ⟨q, Δ⟩
    is expanded into products of matrices: half the time, and in a batch near enough to choose partners.
    """
    at_once = max(1, PAIR_ELEMENTS // (g.shape[1] ** 2 * g.shape[2]))
    sides = zip(g_target.split(at_once), g.split(at_once), strict=True)
    highest = torch.cat([(theirs[:, None] - ours[:, :, None]).amax(3) for theirs, ours in sides])
    highest.baddbmm_(q, g_target.transpose(1, 2), alpha=-1)
    return highest.add_((q * g).sum(2, keepdim=True))


def loss_and_cost_gradients(g: Tensor, q: Tensor, difference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ℓ(g, t) + c_t(g, g') in g, in g' and in log B_t, from g, q and Δ (…, K).

    With p = softmax(g), e* = 1 where Δ is largest (each of several has its share) and
    s = q ∘ (Δ − ⟨q, Δ⟩), the derivative of ⟨q, Δ⟩ in g with Δ held fixed:
        ∂ℓ/∂g = p − q,   ∂c/∂g = q − e* − s,   ∂c/∂g' = e* − q,   ∂ℓ/∂ log B = −q,   ∂c/∂ log B = −s.
    Written out: the graph of automatic differentiation would take half as long again as all else.
    """
    highest = (difference == difference.amax(-1, keepdim=True)).to(g)
    highest /= highest.sum(-1, keepdim=True)
    s = q * (difference - (q * difference).sum(-1, keepdim=True))
    of_g = torch.softmax(g, -1).sub_(highest).sub_(s)
    return of_g, highest.sub_(q), (q + s).neg_()
