import pytest
import torch
from torch.nn import functional

from utils.backbones import GREY, LeNet, load_backbone
from utils.errors import InputError
from utils.storage import save_checkpoint

CPU = torch.device("cpu")


def test_lenet_has_the_published_size():
    parameters = sum(p.numel() for p in LeNet(10).parameters())
    convolutions = (20 * 25 + 20) + (50 * 20 * 25 + 50)
    assert parameters == convolutions + (800 * 200 + 200) + (200 * 10 + 10)


def test_lenet_is_the_published_sequence(generator):
    network = LeNet(10).eval()
    images = torch.rand(4, 1, 28, 28, generator=generator)
    conv1, conv2, dense = (network.penultimate[k] for k in (0, 3, 8))
    x = functional.max_pool2d(functional.relu(conv1(images)), 2)
    x = functional.max_pool2d(functional.relu(conv2(x)), 2)
    x = functional.relu(dense(x.flatten(1)))
    torch.testing.assert_close(network.penultimate(images), x)
    torch.testing.assert_close(network(images), network.head(x))


def test_a_loaded_backbone_gives_frozen_penultimate_features(tmp_path, generator):
    network = LeNet(7).eval()
    save_checkpoint(tmp_path / "lenet.pt", {"network": network.state_dict()})
    backbone = load_backbone("lenet", CPU, weights=tmp_path / "lenet.pt")
    images = torch.randint(256, (3, 1, 28, 28), generator=generator, dtype=torch.uint8)
    features = backbone.network(backbone.preprocess(images))
    assert features.shape == (3, backbone.feature_dim)
    assert not features.requires_grad and not backbone.network.training
    torch.testing.assert_close(features, network.penultimate(images / 255))
    save_checkpoint(tmp_path / "other.pt", {"network": LeNet(7).state_dict()})
    other = load_backbone("lenet", CPU, weights=tmp_path / "other.pt")
    assert other.weights_digest != backbone.weights_digest


def test_preprocessing_scales_to_the_unit_interval():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    assert GREY(images).flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_checkpoints_of_something_else_are_named(tmp_path):
    path = tmp_path / "other.pt"
    weights = LeNet(10).state_dict()
    weights["penultimate.0.weight"] = torch.zeros(20, 3, 5, 5)
    for content in (
        {"epoch": 1},
        {"network": {"head.weight": 3}},
        {"network": {"head.weight": torch.tensor(3)}},
        {"network": {1: torch.zeros(2, 2)}},
        {"network": {"head.weight": torch.zeros(10, 200), 1: torch.zeros(2)}},
        {"network": {"fc.weight": torch.zeros(2)}},
        {"network": weights},
    ):
        save_checkpoint(path, content)
        with pytest.raises(InputError, match=r"other\.pt"):
            load_backbone("lenet", CPU, weights=path)
    with pytest.raises(InputError, match="unknown model vgg; choose from lenet, resnet18"):
        load_backbone("vgg", CPU)
