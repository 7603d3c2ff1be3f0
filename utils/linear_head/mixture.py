"""The probabilities of other classes that a head's logits give by a matrix: B softmax(g)."""

import torch
from torch import Tensor

MIXTURE_ELEMENTS = 2**23  # of the (n, K_T, K_S) logits held at a time


def log_class_probabilities(logits: Tensor, B: Tensor) -> Tensor:
    """Return the log of B softmax(g) for logits g (n, K_S) and B (K_T, K_S): (n, K_T),
    LSE(g + log B_t) − LSE(g). A row of zeros gives −∞; nothing else does, however far apart the logits
    are.
    """
    log_B = B.to(logits).log()
    highest = logits.amax(1, keepdim=True)
    shifted = logits - highest  # what is left of a large common part would drown the small differences
    # log (B p)_t = log Σ_s B_ts exp(g_s) − log Σ_s exp(g_s), each by log-sum-exp.
    rows = max(1, MIXTURE_ELEMENTS // log_B.numel())
    parts = [torch.logsumexp(part[:, None] + log_B, dim=2) for part in shifted.split(rows)]
    return torch.cat(parts) - torch.logsumexp(shifted, dim=1, keepdim=True)
