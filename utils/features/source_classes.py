"""Which classes of the source a transfer starts from: the reference task.

`all`; `random`, as many as the target has (the published choice); `similar`, as many, those whose class
means lie nearest to the target's; a number N of random ones, more than the target has or fewer.
"""

from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment

from utils.errors import InputError
from utils.features.standardise import Standardiser
from utils.features.types import Task
from utils.names import ALL, RANDOM, SIMILAR
from utils.sampling import class_means


def number_of_classes(choice: str, num_targets: int) -> int | None:
    """Return how many classes are chosen; None for all of them."""
    if choice == ALL:
        return None
    return num_targets if choice in (RANDOM, SIMILAR) else int(choice)


def choose_source_classes(source: Task, target: Task, choice: str, seed: int) -> Task:
    """Take the source with the chosen classes alone, in their order, numbered anew."""
    count = number_of_classes(choice, target.num_classes) or source.num_classes
    if count > source.num_classes:
        raise too_few_classes(choice, count, source.name, source.num_classes)
    if count == source.num_classes:
        return source
    if choice == SIMILAR:
        chosen = _most_similar(source, target)
    else:
        order = torch.randperm(source.num_classes, generator=torch.Generator().manual_seed(seed))
        chosen = order[:count].sort().values
    return select_classes(source, chosen)


def too_few_classes(choice: str, asked: int, name: str, there: int) -> InputError:
    return InputError(f"--SOURCE_CLASSES {choice}: {asked} classes asked for, and {name} has {there}")


def _most_similar(source: Task, target: Task) -> torch.Tensor:
    """Return the source classes of the assignment of target to source classes with the least sum of
    distances between class means, in features scaled by the source.
    """
    scaler = Standardiser.fit(source.train.x, 0.01)
    means = [
        class_means(scaler(task.train.x).double(), task.train.y, task.num_classes)
        for task in (target, source)
    ]
    _, columns = linear_sum_assignment(torch.cdist(*means).numpy())
    return torch.from_numpy(columns).sort().values


def select_classes(task: Task, classes: torch.Tensor) -> Task:
    """Return the task of these classes alone, numbered 0.. in the order given."""
    number = torch.full((task.num_classes,), -1)
    number[classes] = torch.arange(len(classes))
    splits = []
    for split in (task.train, task.test):
        kept = number[split.y] >= 0
        splits.append(replace(split.select(kept), y=number[split.y[kept]]))
    names = tuple(task.class_names[k] for k in classes.tolist())
    return replace(task, train=splits[0], test=splits[1], num_classes=len(names), class_names=names)
