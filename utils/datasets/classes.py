"""Labels as people write them, and the classes that they mean."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from utils.datasets.tree import describe_names

NO_LABELS = ("nan", "null", "none", "<na>", "n/a", "#n/a", "nat")  # as programs write an empty cell
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.0+)?")
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
MOSTLY = 0.8


def doubtful_labels(texts: Iterable[str]) -> dict[str, str]:
    """Say of each text that cannot be meant as a label, or may not be, why."""
    words = {*texts} - {""}
    doubts = {"": "the label is empty: fill it in or remove the row"}
    for word in words:
        if word[0] + word[-1] in ("[]", "{}"):
            doubts[word] = (
                f"{word[:40]} is a list: an image has one label here, several are not supported"
            )
    nothing = {word for word in words if word.casefold() in NO_LABELS}
    if nothing != words:  # of nothing else: so are the classes called
        why = "stands for no label: fill it in or remove the row; a class, call otherwise"
        doubts |= {word: f"{word} {why}" for word in nothing}
    numbers = {word: int(float(word)) for word in words if WHOLE_NUMBER.fullmatch(word)}
    values = {*numbers.values()}
    if numbers.keys() == words and -1 in values and not values <= {-1, 1}:
        why = (
            f"beside {describe_names(map(str, sorted(values - {-1})))}: where -1 means an image without "
            "a label, remove the row; where it is a class, number the classes from 0"
        )
        doubts |= {word: f"{word} {why}" for word, value in numbers.items() if value == -1}
    return doubts


def is_number(text: str) -> bool:
    return bool(NUMBER.fullmatch(text))


def sorted_classes(labels: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Return the names of the classes, and the class of each label: whole numbers in the order of
    numbers, where 3.0 is 3.
    """
    labels = set(labels)
    if not all(WHOLE_NUMBER.fullmatch(label) for label in labels):
        return sorted(labels), {label: label for label in labels}
    class_of = {label: label.partition(".")[0] for label in labels}
    return sorted(set(class_of.values()), key=lambda name: (int(name), name)), class_of


def alike(class_names: Iterable[str]) -> list[str]:
    """Find names that differ only in case, spaces or zeros in front: they may be meant for one class."""
    spelled: dict[str, list[str]] = {}
    for name in class_names:
        key = re.sub(r"[\s_]+", " ", name.casefold()).strip()
        key = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", key)
        spelled.setdefault(key, []).append(name)
    return [" and ".join(names) for names in spelled.values() if len(names) > 1]


def one_to_one(some: Iterable[str], others: Iterable[str]) -> bool:
    """Tell whether each value on the one side goes with one on the other."""
    pairs = set(zip(some, others, strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def same_classes_mostly(folders: Sequence[str], labels: Sequence[str]) -> bool:
    """Tell whether class folders and labels have names in common, which of numbers says little, or most
    images of each folder have a label that no other folder has.
    """
    names, others = ({name.casefold() for name in side} for side in (folders, labels))
    shared = names & others
    if not all(map(is_number, shared)) or 2 * len(shared) >= len(names | others):
        return True
    most = {}
    for (folder, label), count in Counter(zip(folders, labels, strict=True)).items():
        most[folder] = max(most.get(folder, (0, "")), (count, label))
    kept = sum(count for count, _ in most.values())
    one_each = len({label for _, label in most.values()}) == len(most) == len(others)
    return len(most) > 1 and one_each and kept >= MOSTLY * len(folders)
