"""The certificate of given logits.

Summed over pairs of points, the inequality (1) of cost.py says for any coupling of the source points
that are mapped to t with the target points of class t
    target loss ≤ Σ_t π_T,t ( mean over source points mapped to t of ℓ(g, t) + W^c_t ),            (2)
π_T the class frequencies of the target points. W^c_t is the optimal transport cost for c_t, with which
the right-hand side is smallest. It holds for these points, whatever they are. Everything is computed
from log-sum-exp: a probability that underflows has a finite logarithm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.certificate.cost import one_sided_cost
from utils.linear_head import log_class_probabilities
from utils.sampling import class_prior
from utils.terms import Term, class_transport


@dataclass(frozen=True)
class CertifiedTerms:
    """The right-hand side of (2) and its two parts, each with its value for every target class."""

    bound: Term
    source_loss: Term
    transport: Term


def certified_terms(
    B: Tensor,
    assigned: Tensor,
    source_logits: Tensor,
    target_logits: Tensor,
    t: Tensor,
    potentials: bool,
) -> CertifiedTerms:
    """Evaluate (2) for B (K_T, K), logits (n, K) of source points mapped to the target classes
    `assigned` (n,), and logits (m, K) of target points of classes t (m,). A target class without points
    costs nothing; one that has points and no source point leaves all three undefined.
    """
    source_logits, target_logits, B = source_logits.double(), target_logits.double(), B.double()
    num_targets = len(B)
    shares = class_prior(t, num_targets)
    costs = (
        one_sided_cost(B[k], source_logits[assigned == k], target_logits[t == k])
        for k in range(num_targets)
    )
    transport = class_transport(costs, shares, assigned, t, potentials)
    if transport.value is None:
        return CertifiedTerms(*(Term(None),) * 3)
    losses = -log_class_probabilities(source_logits, B).gather(1, assigned[:, None])[:, 0]
    count = torch.bincount(assigned, minlength=num_targets)
    # The mean over all source points of weight · loss is Σ_t π_T,t times the mean of those mapped to t.
    weights = len(assigned) * shares.to(losses) / count.clamp_min(1)
    by_class = torch.zeros(num_targets).to(losses).index_add_(0, assigned, losses) / count.clamp_min(1)
    weighted = torch.where(weights[assigned] > 0, weights[assigned] * losses, 0.0)
    source_loss = Term(weighted.mean().item(), weighted, None, tuple(by_class.tolist()))
    both = weighted if transport.source is None else weighted + transport.source
    total = source_loss.value + transport.value
    parts = tuple(a + b for a, b in zip(source_loss.parts, transport.parts, strict=True))
    return CertifiedTerms(Term(total, both, transport.target, parts), source_loss, transport)
