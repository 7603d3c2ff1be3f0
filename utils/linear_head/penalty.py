"""The released procedures' head: gradient steps with a penalty on steep losses."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from utils.errors import InputError
from utils.features import Features
from utils.linear_head.head import LinearHead, label_gradient_norms, summed_gradient_norms
from utils.procedures import HeadSettings
from utils.progress import progress_bar
from utils.storage import ResumePoint


def fit_penalty(
    features: Features,
    num_classes: int,
    tau: float,
    settings: HeadSettings,
    seed: int,
    resume: ResumePoint | None,
    progress: str,
) -> LinearHead:
    """Follow the released procedures: steps on mini-batches of
        mean ℓ(h(x), y) + penalty · mean relu(‖∇ℓ(x, y) + ∇ℓ(x, y')‖ − τ)²,  y' uniform,        (3)
    or, with `separate`, penalty · mean (relu(‖∇ℓ(x, y)‖ − τ)² + relu(‖∇ℓ(x, y')‖ − τ)²).

    The gradient norm is taken in closed form, so one backward pass per step is enough. Every epoch
    draws from its own generator, which makes the end of an epoch a point to resume from.
    """
    generator = torch.Generator().manual_seed(seed)
    weight, bias = _initial_head(settings.penalised, features.x.shape[1], num_classes, generator)
    weight, bias = (part.to(features.x).requires_grad_() for part in (weight, bias))
    head = LinearHead(weight, bias)
    optimiser = _penalty_optimiser(settings, [weight, bias])
    first = 0
    if resume and (state := resume.load()):
        with torch.no_grad():
            weight.copy_(state["weight"])
            bias.copy_(state["bias"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epoch"]

    count = len(features.y)
    per_epoch = math.ceil(count / settings.batch_size)
    steps = settings.epochs * per_epoch if settings.steps is None else settings.steps
    last = math.ceil(steps / per_epoch)
    epochs = progress_bar(range(first, last), initial=first, total=last, desc=progress, unit="epoch")
    for epoch in epochs:
        generator.manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        y_other = torch.randint(num_classes, (count,), generator=generator)
        for index in order.split(settings.batch_size)[: steps - epoch * per_epoch]:
            x, y, other = (part[index].to(weight.device) for part in (features.x, features.y, y_other))
            loss = functional.cross_entropy(head.logits(x), y)  # (3): its mean, then what is too steep
            for norms in _penalised_norms(settings.penalised, head, x, y, other):
                loss = loss + settings.penalty_weight * functional.relu(norms - tau).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if resume and resume.due():
            resume.save(
                epoch=epoch + 1,
                weight=weight.detach(),
                bias=bias.detach(),
                optimiser=optimiser.state_dict(),
            )
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        if resume:
            resume.clear()  # it leads nowhere
        raise InputError(f"the {progress} diverged: lower its learning rate or --PENALTY")
    return LinearHead(weight.detach(), bias.detach())


def _initial_head(
    penalised: str, dim: int, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the head that fitting begins with. Small scale: Glorot's uniform rule, as the released code's
    framework does. Large scale: PyTorch's rule, 1/√d; from Glorot's larger weights the released rate
    diverges on standardised features.
    """
    weight, bias = torch.empty(num_classes, dim), torch.zeros(num_classes)
    if penalised == "sum":
        limit = (6 / (dim + num_classes)) ** 0.5
        return weight.uniform_(-limit, limit, generator=generator), bias
    limit = dim**-0.5
    bias.uniform_(-limit, limit, generator=generator)
    return weight.uniform_(-limit, limit, generator=generator), bias


def _penalty_optimiser(settings: HeadSettings, variables: list[Tensor]) -> torch.optim.Optimizer:
    if settings.penalised == "sum":
        return torch.optim.Adam(variables, lr=settings.learning_rate, betas=(settings.beta1, 0.999))
    return torch.optim.SGD(
        variables,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def _penalised_norms(
    penalised: str, head: LinearHead, x: Tensor, y: Tensor, y_other: Tensor
) -> tuple[Tensor, ...]:
    if penalised == "sum":
        return (summed_gradient_norms(head, x, y, y_other),)
    return label_gradient_norms(head, x, y), label_gradient_norms(head, x, y_other)
