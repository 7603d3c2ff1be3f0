"""What the certificate's transform is learned by: (1) of learning.py on batches, and its gradients."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from utils.adam import Adam
from utils.certificate.cost import cost_of_pairs, cost_weights, costs_in_batch, loss_and_cost_gradients
from utils.device import multiplies_bfloat16
from utils.features import Features
from utils.linear_head import Logits
from utils.procedures import CertificateSettings
from utils.progress import progress_bar
from utils.sampling import ByClass, class_prior
from utils.transport import solve_assignments

BATCH_ELEMENTS = 2**23  # of the costs of a step, (K, m, m, K)
JUDGED_PER_CLASS = 200  # points of each class and side that decide whether learning helped
SMALLEST_RATE = 0.02  # what the cosine leaves of the rates
LARGE = 2**16  # numbers of U; below it the products are not what a step waits for

# source_weight U, source_bias c; combination M and target_bias o of g' = M z + o, with z the held-out
# logits; label_logits B̃ of B = softmax(B̃) by columns.
Variables = dict[str, Tensor]


class CertificateObjective:
    """(1) for one matching: source features, labelled 0..K−1 by the target class they stand for, and the
    target's held-out logits with their labels.
    """

    def __init__(self, source: Features, target: Logits, settings: CertificateSettings, seed: int):
        self.x, self.z = source.x.float(), target.values
        self.classes = self.z.shape[1]
        self.rounded = self.x.to(_precision_of_steps(self.x, self.classes))
        self.settings = settings
        self.source, self.target = (ByClass(side.y, self.classes) for side in (source, target))
        self.prior = class_prior(target.y, self.classes).to(self.x)
        self.generator = torch.Generator().manual_seed(seed)
        most = math.isqrt(BATCH_ELEMENTS // self.classes**2)
        self.points = max(2, min(settings.points_per_class, most))

    def learn(
        self, begin: Variables, steps: int, *, weight_decay: float, learn_labels: bool
    ) -> Variables:
        """Descend (1) from `begin` with Adam."""
        variables = {name: value.clone() for name, value in begin.items()}
        settings = self.settings
        rates = {
            "source_weight": settings.learning_rate / math.sqrt(self.x.shape[1]),
            "combination": settings.combination_rate,
            "source_bias": settings.offset_rate,
            "target_bias": settings.offset_rate,
        }
        if learn_labels:
            rates["label_logits"] = settings.label_rate
        optimiser = Adam(variables, betas=(0.9, 0.99))
        bar = progress_bar(range(steps), desc="certificate", unit="step")
        with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for step in bar:
                # A fresh batch, matched for the present transform. The optimal value's gradient is that
                # of the cost at the optimal matching (Danskin), so the matching is held fixed for it.
                batch = self.match(variables, self.points, self.rounded, self.generator, pool)
                gradients = self.gradients(variables, batch)
                gradients["source_weight"].add_(variables["source_weight"], alpha=weight_decay)
                fraction = (1 + math.cos(math.pi * step / steps)) / 2
                fraction = SMALLEST_RATE + (1 - SMALLEST_RATE) * fraction
                optimiser.step(gradients, {name: fraction * rate for name, rate in rates.items()})
        return variables

    def match(
        self,
        variables: Variables,
        points: int,
        features: Tensor,
        generator: torch.Generator,
        pool: ThreadPoolExecutor | None = None,
    ) -> "MatchedBatch":
        """Draw m points of each class and side, and match them within each class for the cost c_t
        between g = U x + c and g' = M z + o. Equally many points of equal mass: an optimal plan is a
        one-to-one assignment.
        """
        shape, counts = (self.classes, points), [points] * self.classes
        i, j = (side.draw(counts, generator) for side in (self.source, self.target))
        x, z = features.index_select(0, i), self.z.index_select(0, j)
        log_B = torch.log_softmax(variables["label_logits"], 0)[:, None]  # (K_T, 1, K)
        U, c = variables["source_weight"], variables["source_bias"]
        g = functional.linear(x, U.to(x)).to(U).add_(c).view(*shape, -1)  # (K_T, m, K)
        g_target = functional.linear(z, variables["combination"], variables["target_bias"]).view(
            *shape, -1
        )
        q = cost_weights(g, log_B)
        first = torch.arange(0, len(j), points, device=j.device)[:, None]  # each class's first point
        partner = (solve_assignments(costs_in_batch(q, g, g_target), pool) + first).flatten()
        g_target = g_target.flatten(0, 1).index_select(0, partner).view_as(g)
        return MatchedBatch(
            x=x, z=z.index_select(0, partner), g=g, difference=g_target - g, log_B=log_B, q=q
        )

    def gradients(self, variables: Variables, batch: "MatchedBatch") -> Variables:
        """Return those of (1) without its last term, the matching held fixed."""
        of_g, of_target, of_log_B = loss_and_cost_gradients(batch.g, batch.q, batch.difference)
        # Each of the m points of class t has the weight π_T,t / m.
        weight = (self.prior / batch.g.shape[1]).view(-1, 1, 1)
        of_g = of_g.mul_(weight).flatten(0, 1)  # (K_T m, K), as x and z have their points
        of_target = of_target.mul_(weight).flatten(0, 1)
        of_log_B = of_log_B.sum(1).mul_(weight[:, 0])  # (K_T, K)
        # log B = B̃ − LSE of its column, so that what a column gets in common goes to none of its rows.
        of_label_logits = of_log_B - batch.log_B[:, 0].exp() * of_log_B.sum(0)
        return {
            "source_weight": (of_g.T.to(batch.x) @ batch.x).to(of_g),
            "source_bias": of_g.sum(0),
            "combination": of_target.T @ batch.z,
            "target_bias": of_target.sum(0),
            "label_logits": of_label_logits,
        }

    @torch.no_grad()
    def judge(self, variables: Variables) -> float:
        """Return the certificate on points of every class, the same at each call."""
        most = min(JUDGED_PER_CLASS, max(2, math.isqrt(4 * BATCH_ELEMENTS // self.classes**2)))
        batch = self.match(variables, most, self.x, torch.Generator().manual_seed(0))
        loss, transport = batch.terms()
        return (self.prior @ (loss + transport)).item()


@dataclass(frozen=True)
class MatchedBatch:
    """A batch of m points of each class, matched: x (K_T m, d) and z (K_T m, K_T), the target points in
    the order of their partners; g, difference = g' − g and q, (K_T, m, K); log B
    (K_T, 1, K).
    """

    x: Tensor
    z: Tensor
    g: Tensor
    difference: Tensor
    log_B: Tensor  # noqa: N815
    q: Tensor

    def terms(self) -> tuple[Tensor, Tensor]:
        """Return (source loss, transport) of each class, (K_T,) each: the means of ℓ and of c_t."""
        loss = torch.logsumexp(self.g, 2) - torch.logsumexp(self.g + self.log_B, 2)
        return loss.mean(1), cost_of_pairs(self.q, self.difference).mean(1)


def initial_variables(*, U: Tensor, M: Tensor, c: Tensor, B: Tensor) -> Variables:
    """Return where learning begins: these, o = 0 and B̃ = log B."""
    begin = {
        "source_weight": U,
        "combination": M.to(U),
        "source_bias": c,
        "target_bias": torch.zeros_like(c),
        "label_logits": B.log(),
    }
    return {name: value.detach().clone() for name, value in begin.items()}


def _precision_of_steps(x: Tensor, classes: int) -> torch.dtype:
    """Choose what U x is taken in while U is learned: bfloat16 where the device multiplies it faster and
    U is large. Its rounding, 1/256, is far below what one batch differs from the next by; U itself is
    kept, and what was learned is judged, in float32.
    """
    large = x.shape[1] * classes >= LARGE
    return torch.bfloat16 if large and multiplies_bfloat16(x.device) else torch.float32
