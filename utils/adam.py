"""Adam on named tensors whose gradients are handed over.

The steps of torch.optim.Adam to the last digit, without what that imports when it is first used: torch's
compiler, a second.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

EPSILON = 1e-8


class Adam:
    """Steps of Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1) on named tensors, in place."""

    def __init__(self, variables: Mapping[str, Tensor], betas: tuple[float, float] = (0.9, 0.999)):
        self.variables, self.betas, self.count = variables, betas, 0
        self.means = {name: torch.zeros_like(value) for name, value in variables.items()}
        self.squares = {name: torch.zeros_like(value) for name, value in variables.items()}

    def state_dict(self) -> dict:
        """Return all that the next step depends on."""
        return {"count": self.count, "means": self.means, "squares": self.squares}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from a state that `state_dict` gave, on the variables' device."""
        self.count = state["count"]
        for kept, name in ((self.means, "means"), (self.squares, "squares")):
            for key, value in kept.items():
                value.copy_(state[name][key])

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], rates: Mapping[str, float]) -> None:
        """Move each variable that has a rate, θ ← θ − rate · m / (1 − β₁ᵗ) / (√v / √(1 − β₂ᵗ) + ε). The
        running means of the gradient and of its square are m and v.
        """
        self.count += 1
        of_mean, of_square = (1 - beta**self.count for beta in self.betas)
        for name, rate in rates.items():
            gradient, mean, square = gradients[name], self.means[name], self.squares[name]
            mean.lerp_(gradient, 1 - self.betas[0])
            square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
            scale = (square.sqrt() / of_square**0.5).add_(EPSILON)
            self.variables[name].addcdiv_(mean, scale, value=-rate / of_mean)
