import math
from dataclasses import replace

import pytest
import torch

from utils.backbones import LeNet, evaluate_network, random_shift, train_network
from utils.datasets import Split
from utils.procedures import TrainingSettings
from utils.storage import ResumePoint


@pytest.fixture
def split(generator) -> Split:
    """Bright against dark images: learnable in a few steps."""
    labels = torch.arange(60) % 2
    images = torch.randint(100, (60, 1, 28, 28), generator=generator) + 120 * labels[:, None, None, None]
    return Split(images.byte(), labels)


def train(split, settings, resume, seed=0) -> LeNet:
    torch.manual_seed(seed)
    network = LeNet(2)
    train_network(network, split, settings, seed, resume)
    return network


@pytest.mark.parametrize("schedule, shift", [("inverse_time", 0), ("one_cycle", 1)])
def test_training_learns_and_resuming_equals_not_stopping(tmp_path, split, schedule, shift, monkeypatch):
    settings = TrainingSettings(
        epochs=4, batch_size=16, learning_rate=2e-3, schedule=schedule, weight_decay=0.01, shift=shift
    )
    whole = train(split, settings, ResumePoint(tmp_path / "a.pt", "", seconds=0))
    assert evaluate_network(whole, split)[0] == 1.0

    resume = ResumePoint(tmp_path / "b.pt", "", seconds=0)
    saved = []

    def save_twice_then_die(**state):
        ResumePoint.save(resume, **state)
        saved.append(state["epoch"])
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(resume, "save", save_twice_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(split, settings, resume)
    again = train(split, settings, ResumePoint(tmp_path / "b.pt", "", seconds=0), seed=0)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_many_images_get_fewer_epochs_and_no_shift():
    settings = TrainingSettings(epochs=10, batch_size=64, shift=1, max_steps=4000)
    assert settings.for_images(4000) is settings
    assert settings.for_images(60_000) == replace(settings, epochs=4, shift=0)
    assert settings.for_images(10**6).epochs == 1
    assert TrainingSettings().for_images(10**6) == TrainingSettings()


def test_the_global_generator_is_left_as_it_was(tmp_path, split):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    network = LeNet(2)
    torch.set_rng_state(before)
    train_network(network, split, TrainingSettings(epochs=1), 0, ResumePoint(tmp_path / "x.pt", ""))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_of_a_network_with_known_logits(split):
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.tensor([math.log(3), 0.0]))

        def forward(self, images):
            return self.logits.expand(len(images), 2)

    accuracy, loss = evaluate_network(Constant().eval(), split, batch_size=7)
    assert accuracy == 0.5
    assert loss == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_an_unknown_schedule_is_refused(tmp_path, split):
    with pytest.raises(ValueError, match="schedule must be one of"):
        train(split, TrainingSettings(schedule="cosine"), ResumePoint(tmp_path / "x.pt", ""))


def test_shifts_move_whole_images():
    images = torch.zeros(300, 1, 5, 5, dtype=torch.uint8)
    images[:, 0, 2, 2] = 7
    moved = random_shift(images, 1)
    assert (moved.flatten(1).sum(1) == 7).all()
    places = {tuple(place) for place in moved[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}
    assert random_shift(images, 0) is images
    corner = torch.full((50, 1, 2, 2), 9, dtype=torch.uint8)
    assert set(random_shift(corner, 1).flatten(1).sum(1).tolist()) == {
        9,
        18,
        36,
    }  # the rest left the frame
