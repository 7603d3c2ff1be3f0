"""L-BFGS on the device of its variables: what a head of 10^5 weights is fitted with.

Nocedal and Wright, Numerical Optimization (2nd edition): algorithm 7.4 for the direction, 3.5 and 3.6
for a step that meets the strong Wolfe conditions. The variables, the gradients and the pairs (s, y) stay
where the data are; the host sees two numbers an evaluation, the value and the slope.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 20  # pairs (s, y)
DECREASE, CURVATURE = 1e-4, 0.9  # c₁ and c₂ of the strong Wolfe conditions
MOST_TRIALS = 15  # evaluations of one line search
MOST_GROWTH = 4.0  # of the step from one trial to the next, as long as none is too long
ROUNDING = 1e-14  # relative to the value, or to one
LEAST_GRADIENT = 1e-7  # its largest entry at which nothing is left to do

Objective = Callable[[Tensor], tuple[float, Tensor]]


@dataclass(frozen=True)
class Minimum:
    """Where L-BFGS ended: the variables (N,), the value there, and how many steps and evaluations it
    took.
    """

    variables: Tensor
    value: float
    steps: int
    evaluations: int


@dataclass(frozen=True)
class _Point:
    """A trial at `step` along a direction: value, gradient and `slope`, the derivative along it."""

    step: float
    variables: Tensor
    value: float
    gradient: Tensor
    slope: float

    @property
    def usable(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.slope)


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    tolerance: float,
    most_steps: int,
    look: Callable[[Tensor], bool] | None = None,
) -> Minimum:
    """Minimise a smooth function. It never returns a point with a higher value than the start's.

    Args:
        objective: value and gradient (N,) at the variables (N,).
        start: where it begins, float64.
        tolerance: it ends when a step decreases the value by less than this, relative to its size (or
            to one).
        most_steps: and after as many.
        look: is shown the variables after each step and may say that this is good enough.
    """
    count = 0

    def at(base: Tensor, direction: Tensor, step: float) -> _Point:
        nonlocal count
        count += 1
        variables = base + step * direction
        value, gradient = objective(variables)
        return _Point(step, variables, value, gradient, float(gradient @ direction))

    here = at(start, torch.zeros_like(start), 0.0)
    memory = _Memory()
    steps = 0
    while steps < most_steps and here.gradient.abs().max() > LEAST_GRADIENT:
        direction = -memory.times_inverse_hessian(here.gradient)
        slope = float(here.gradient @ direction)
        if not slope < 0:  # rounding: forget and go straight downhill
            if memory.empty:
                break
            memory = _Memory()
            continue
        first = 1.0 if not memory.empty else 1 / float(direction.norm())  # of length one
        begin = _Point(0.0, here.variables, here.value, here.gradient, slope)
        found = _line_search(lambda step: at(here.variables, direction, step), begin, first)  # noqa: B023
        if found is None:
            if memory.empty:
                break
            memory = _Memory()
            continue
        steps += 1
        memory.add(found.variables - here.variables, found.gradient - here.gradient)
        gained = here.value - found.value
        size = max(abs(here.value), abs(found.value), 1.0)
        here = found
        if (look is not None and look(here.variables)) or gained <= tolerance * size:
            break
    return Minimum(here.variables, here.value, steps, count)


class _Memory:
    """The last MEMORY pairs (s, y) of steps and of what they changed in the gradient."""

    def __init__(self):
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y and 1 / sᵀy

    @property
    def empty(self) -> bool:
        return not self.pairs

    def add(self, s: Tensor, y: Tensor) -> None:
        """Keep the pair, unless it has no curvature, sᵀy ≤ 0: it would spoil what the others say."""
        curvature = s @ y
        if float(curvature) > torch.finfo(s.dtype).eps * float(y @ y):
            self.pairs = [*self.pairs[1 - MEMORY :], (s, y, 1 / curvature)]

    def times_inverse_hessian(self, gradient: Tensor) -> Tensor:
        """Evaluate algorithm 7.4, the two-loop recursion: H g with
            H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ,   ρ = 1 / sᵀy,
        for each pair, the oldest first, from γ I with γ = sᵀy / yᵀy of the last one.
        """
        product, weights = gradient, []
        for s, y, rho in reversed(self.pairs):
            weights.append(rho * (s @ product))
            product = product - weights[-1] * y
        if self.pairs:  # γ = sᵀy / yᵀy = 1 / (ρ yᵀy)
            _, y, rho = self.pairs[-1]
            product = product / (rho * (y @ y))
        for (s, y, rho), weight in zip(self.pairs, reversed(weights), strict=True):
            product = product + (weight - rho * (y @ product)) * s
        return product


def _line_search(at: Callable[[float], _Point], begin: _Point, first: float) -> _Point | None:
    """Find a step along a direction of descent that meets the strong Wolfe conditions,
        f(α) ≤ f(0) + c₁ α f'(0),   |f'(α)| ≤ c₂ |f'(0)|,
    from the trial α = `first`. The lowest point seen where MOST_TRIALS or rounding allow none that does;
    None if none lies below the start. A value that is no number is as good as infinite.
    """
    low, high, step = begin, None, first
    best = None
    for _ in range(MOST_TRIALS):
        trial = at(step)
        if trial.usable and trial.value < (best or begin).value:
            best = trial
        too_long = (
            not trial.usable
            or trial.value > begin.value + DECREASE * trial.step * begin.slope
            or (low.step > 0 and trial.value >= low.value)
        )
        if too_long:
            high = trial
        elif abs(trial.slope) <= -CURVATURE * begin.slope:
            return trial
        else:
            # The minimum lies where the slope points to from here.
            if trial.slope * ((high.step if high else math.inf) - trial.step) >= 0:
                high = low
            low = trial
        if high is None:  # no step was too long yet: farther, where the cubic says, within limits
            step = min(MOST_GROWTH * low.step, _cubic_minimum(begin, low, MOST_GROWTH * low.step))
            step = max(step, 1.1 * low.step)
            continue
        width = abs(high.step - low.step)
        if abs(low.slope) * width <= ROUNDING * max(1.0, abs(low.value)):
            break  # what is left to gain is lost in the value's last digits
        otherwise = (low.step + high.step) / 2 if high.usable else low.step + (high.step - low.step) / 10
        # Between the two, and not so near to either that the interval would hardly shrink.
        step = _cubic_minimum(low, high, otherwise)
        nearest, farthest = sorted((low.step, high.step))
        step = min(max(step, nearest + 0.1 * width), farthest - 0.1 * width)
    return best


def _cubic_minimum(one: _Point, other: _Point, otherwise: float) -> float:
    """Find where the cubic with the values and slopes of two points has its minimum (equation 3.59)."""
    if not other.usable or one.step == other.step:
        return otherwise
    apart = other.step - one.step
    first = one.slope + other.slope - 3 * (one.value - other.value) / (one.step - other.step)
    inside = first**2 - one.slope * other.slope
    if not inside >= 0:
        return otherwise
    second = math.copysign(math.sqrt(inside), apart)
    below = other.slope - one.slope + 2 * second
    if below == 0 or not math.isfinite(below):
        return otherwise
    return other.step - apart * (other.slope + second - first) / below
