"""Fine-tuning a backbone end to end: the accuracy that transferability scores try to foresee."""

import copy

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from utils.backbones import Backbone
from utils.extraction import prepared_frames
from utils.images import Split

BATCH = 32
HEAD_RATE, BACKBONE_RATE = 1e-3, 1e-4  # of AdamW, each falling to zero along a cosine
WEIGHT_DECAY = 0.01


def fine_tune(
    backbone: Backbone, train: Split, test: Split, num_classes: int, epochs: int, seed: int
) -> float:
    """The test accuracy after `epochs` of training all weights and a new linear layer by AdamW. The
    backbone itself is left as it is. All frames are held in memory (n·3·h·w bytes).
    """
    device = backbone.device
    frames, labels = _decoded(backbone, train), train.labels
    network = copy.deepcopy(backbone.network).requires_grad_(True).train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = nn.Linear(backbone.feature_dim, num_classes).to(device)
        groups = [
            {"params": network.parameters(), "lr": BACKBONE_RATE},
            {"params": layer.parameters(), "lr": HEAD_RATE},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
        steps = epochs * -(-len(labels) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        with tqdm(total=steps, desc="fine-tuning", unit="step", disable=None, leave=False) as bar:
            for _ in range(epochs):
                for batch in torch.randperm(len(labels)).split(BATCH):
                    if len(batch) == 1:  # batch normalisation needs two
                        continue
                    logits = layer(network(backbone.preprocess(frames[batch].to(device))))
                    loss = functional.cross_entropy(logits, labels[batch].to(device))
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    schedule.step()
                    bar.update()
    network.eval()
    frames, correct = _decoded(backbone, test), 0
    with torch.inference_mode():
        for batch in torch.arange(len(test.labels)).split(BATCH):
            logits = layer(network(backbone.preprocess(frames[batch].to(device))))
            correct += int((logits.argmax(1).cpu() == test.labels[batch]).sum())
    return correct / len(test.labels)


def _decoded(backbone: Backbone, split: Split) -> torch.Tensor:
    return torch.cat([part.x for part in prepared_frames(backbone, split)])
