"""Training of a small source network, resumable at the end of every epoch.

Beside fine-tuning, which changes a copy, this alone changes a network's weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from utils.backbones.image_transform import GREY
from utils.datasets import Split
from utils.procedures import SCHEDULES, TrainingSettings
from utils.progress import progress_bar
from utils.storage import ResumePoint


def train_network(
    network: nn.Module, train: Split, settings: TrainingSettings, seed: int, resume: ResumePoint
) -> None:
    """Train in place. Every epoch is seeded by (seed, epoch) for its order and its dropout, so a run
    resumed at the end of an epoch ends in the same weights as one that was never stopped.
    """
    device = next(network.parameters()).device
    steps = settings.epochs * -(-len(train.labels) // settings.batch_size)
    optimiser = torch.optim.AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        betas=(settings.beta1, 0.999),
        weight_decay=settings.weight_decay,
    )
    schedule = _schedule(optimiser, settings, steps)
    first = 0
    if state := resume.load():
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]

    # Without this glibc returns each step's memory to the system, to fault it in again in the next: it
    # keeps what is smaller than the largest block (of up to 32 MiB) that it has seen freed.
    torch.empty(30 << 20, dtype=torch.uint8)

    network.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(first, settings.epochs):
            torch.manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(len(train.labels))
            batches, title = order.split(settings.batch_size), f"epoch {epoch + 1}/{settings.epochs}"
            for index in progress_bar(batches, desc=f"training {title}", unit="batch"):
                images = random_shift(train.images[index], settings.shift)
                images = GREY(images.to(device))
                loss = functional.cross_entropy(network(images), train.labels[index].to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
            if resume.due():
                resume.save(
                    epoch=epoch + 1,
                    network=network.state_dict(),
                    optimiser=optimiser.state_dict(),
                    schedule=schedule.state_dict(),
                )
    network.eval()


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image (n, 1, h, w) by −pixels..pixels along both axes; zeros come in at the edge."""
    if pixels == 0:
        return images
    count, _, height, width = images.shape
    padded = functional.pad(images, (pixels,) * 4)[:, 0]
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (n, down, right, h, w), a view
    down, right = torch.randint(2 * pixels + 1, (2, count))
    return windows[torch.arange(count), down, right].unsqueeze(1)


def _schedule(
    optimiser: torch.optim.Optimizer, settings: TrainingSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, total_steps=steps + 1, cycle_momentum=False
        )
    if settings.schedule != "inverse_time":
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {settings.schedule!r}")
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + settings.decay * step))


@torch.inference_mode()
def evaluate_network(network: nn.Module, split: Split, batch_size: int = 1000) -> tuple[float, float]:
    """Measure (accuracy in [0, 1], mean cross-entropy in nats) of a network in eval mode."""
    device = next(network.parameters()).device
    correct, loss = 0, 0.0
    for images, labels in zip(
        split.images.split(batch_size), split.labels.to(device).split(batch_size), strict=True
    ):
        logits = network(GREY(images.to(device)))
        correct += (logits.argmax(1) == labels).sum().item()
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
    return correct / len(split.labels), loss / len(split.labels)
