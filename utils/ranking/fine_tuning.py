"""Fine-tuning a backbone end to end: the accuracy that transferability scores try to foresee."""

import copy
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from utils.backbones import Backbone
from utils.datasets import Split
from utils.device import choose_device
from utils.errors import InputError
from utils.features import prepared_frames
from utils.progress import progress_bar
from utils.ranking.candidates import chosen_images
from utils.ranking.entries import Entry, RankingSettings
from utils.stage import find_target, open_network
from utils.storage import digest, read_if_whole, read_json, without_paths, write_json

# AdamW, both rates falling to zero along a cosine.
RECIPE = {"batch": 32, "head_rate": 1e-3, "backbone_rate": 1e-4, "weight_decay": 0.01}


def fine_tune(
    backbone: Backbone,
    train: Split,
    test: Split,
    num_classes: int,
    epochs: int,
    seed: int,
    *,
    workers: int = 0,
    max_corrupt: int = 0,
) -> float:
    """Measure the test accuracy after `epochs` of training all weights and a new linear layer by AdamW.
    The backbone itself is left as it is. Images are decoded anew in each epoch, in `workers` processes
    (0: in this one); more than `max_corrupt` of a split that cannot be decoded raise InputError.
    """
    device = backbone.device
    network = copy.deepcopy(backbone.network).requires_grad_(True).train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = nn.Linear(backbone.feature_dim, num_classes).to(device)
        groups = [
            {"params": network.parameters(), "lr": RECIPE["backbone_rate"]},
            {"params": layer.parameters(), "lr": RECIPE["head_rate"]},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=RECIPE["weight_decay"])
        steps = epochs * -(-len(train) // RECIPE["batch"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        with progress_bar(total=steps, desc="fine-tuning", unit="step") as bar:
            for _ in range(epochs):
                batches = torch.randperm(len(train)).split(RECIPE["batch"])
                for part in prepared_frames(backbone, train, batches, workers, max_corrupt):
                    bar.update()
                    if len(part.rows) < 2:  # batch normalisation needs two
                        continue
                    logits = layer(network(backbone.preprocess(part.x.to(device))))
                    loss = functional.cross_entropy(logits, train.labels[part.rows].to(device))
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    schedule.step()
    network.eval()
    batches = torch.arange(len(test)).split(RECIPE["batch"])
    correct = seen = 0
    with torch.inference_mode():
        for part in prepared_frames(backbone, test, batches, workers, max_corrupt):
            if len(part.rows):
                logits = layer(network(backbone.preprocess(part.x.to(device))))
                correct += int((logits.argmax(1).cpu() == test.labels[part.rows]).sum())
                seen += len(part.rows)
    return correct / seen


# ----------------------------------------------------------------------------- measured once, and kept
def measure_full(entry: Entry, settings: RankingSettings) -> tuple[float, float]:
    """Measure (test accuracy, seconds) of fine-tuning all weights of an entry's network on its target,
    on the same images as the scores see. They are kept beside the checkpoints: models with several
    sources are fine-tuned once.
    """
    network = open_network(entry.asked, choose_device(settings.device))
    if network.backbone is None:
        raise InputError("--FINETUNE full needs images and a network: features have neither")
    data = find_target(entry.asked)
    train, index = chosen_images(data, settings)
    about = [network.about, without_paths({"target": data.provenance})]
    about += [settings.epochs, settings.seed, RECIPE, *([] if index is None else [index])]
    key = f"{network.model}_{data.name}_{digest(*about)}"
    path = settings.network.folder / "fine_tuned" / f"{key}.json"
    stored = None
    if not settings.overwrite:
        stored = read_if_whole(path, _read_measured, "the network is fine-tuned again")
    if stored is None:
        start = time.perf_counter()
        accuracy = fine_tune(
            backbone=network.backbone,
            train=train,
            test=data.test,
            num_classes=data.num_classes,
            epochs=settings.epochs,
            seed=settings.seed,
            workers=settings.tasks.workers,
            max_corrupt=settings.tasks.max_corrupt,
        )
        stored = {"accuracy": accuracy, "seconds": time.perf_counter() - start}
        write_json(path, {"key": key, **stored})
    return stored["accuracy"], stored["seconds"]


def _read_measured(path: Path) -> dict:
    stored = read_json(path)
    if stored.get("key") != path.stem:
        raise InputError(f"{path} is of another network")
    return stored
