import itertools

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from utils.sampling import ByClass, draw_by_counts, index_by_class


def reference(labels: torch.Tensor, counts: list[int], generator: torch.Generator) -> torch.Tensor:
    """Class by class: as many as are wanted of a permutation of its samples."""
    parts = []
    for label, count in enumerate(counts):
        members = (labels == label).nonzero().flatten()
        parts.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(parts)


def labels_of(sizes: list[int], generator: torch.Generator) -> torch.Tensor:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=generator)]


@pytest.mark.parametrize("size, count", [(3, 3), (5, 2), (17, 2), (40, 3)])
def test_every_choice_in_every_order_is_as_likely(generator, size, count):
    """300 classes alike give 300 choices a draw: few numbers by keys, many by drawing again. Its power:
    with repeats left in, or sorted, a choice would have the chance 0 or count! times its own.
    """
    labels = labels_of([size] * 300, generator)
    by_class, draws = ByClass(labels, 300), 200
    place = torch.empty(len(labels), dtype=torch.int64)  # of each sample in its class
    for members in index_by_class(labels, 300):
        place[members] = torch.arange(size)
    drawn = torch.cat(
        [place[by_class.draw([count] * 300, generator)].view(300, count) for _ in range(draws)]
    )
    weights = size ** torch.arange(count)
    seen = torch.bincount(drawn @ weights, minlength=size**count)
    possible = [
        sum(a * w for a, w in zip(choice, weights.tolist(), strict=True))
        for choice in itertools.permutations(range(size), count)
    ]
    assert seen[possible].sum() == 300 * draws  # no repeats
    assert chisquare(seen[possible]).pvalue > 1e-3


def test_it_draws_what_a_permutation_of_each_class_draws(generator):
    """How often each sample is drawn, and each beside each of the first class's, in unequal classes."""
    sizes, counts, draws = [6, 42, 90], [4, 5, 3], 3000
    labels = labels_of(sizes, generator)
    by_class = ByClass(labels, 3)
    first = index_by_class(labels, 3)[0]
    seen = torch.zeros(2, len(labels))
    together = torch.zeros(2, len(first), len(labels))
    for row, draw in enumerate((by_class.draw, lambda c, g: reference(labels, c, g))):
        for _ in range(draws):
            drawn = draw(counts, generator)
            seen[row, drawn] += 1
            hit = torch.zeros(len(labels)).index_fill(0, drawn, 1.0)
            together[row] += hit[first, None] * hit
    assert chi2_contingency(seen).pvalue > 1e-3
    pairs = together.flatten(1)
    assert chi2_contingency(pairs[:, pairs.sum(0) > 0]).pvalue > 1e-3
    for label, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        assert seen[0, labels == label].sum() == draws * count
        assert chisquare(seen[0, labels == label]).pvalue > 1e-3, size


def test_counts_are_kept_and_small_classes_repeat_evenly(generator):
    sizes, counts = [1, 4, 10, 200, 7], [5, 6, 0, 70, 7]
    labels = labels_of(sizes, generator)
    by_class = ByClass(labels, 5)
    for _ in range(20):
        drawn = by_class.draw(counts, generator)
        assert labels[drawn].tolist() == [k for k, count in enumerate(counts) for _ in range(count)]
        often = torch.bincount(drawn, minlength=len(labels))
        assert often[labels == 0].tolist() == [5]
        assert sorted(often[labels == 1].tolist()) == [1, 1, 2, 2]
        assert often[labels == 3].max() == 1 and often[labels == 4].tolist() == [1] * 7
    assert len(by_class.draw([0] * 5, generator)) == 0


def test_a_seed_gives_the_same_batches_and_a_class_without_samples_is_named(generator):
    by_class = ByClass(torch.tensor([0] * 50 + [2] * 9), 3)
    first, again = (by_class.draw([7, 0, 4], torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, by_class.draw([7, 0, 4], torch.Generator().manual_seed(4)))
    with pytest.raises(ValueError, match=r"no samples of classes \[1\] to draw from"):
        by_class.draw([1, 1, 1], generator)


def test_drawing_once_gives_as_many_of_each_class(generator):
    labels = labels_of([3, 20], generator)
    drawn = draw_by_counts(index_by_class(labels, 2), [7, 5], generator)
    assert torch.bincount(labels[drawn]).tolist() == [7, 5]
    assert sorted(torch.bincount(drawn, minlength=23)[labels == 0].tolist()) == [2, 2, 3]
