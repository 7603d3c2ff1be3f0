"""Backbones: a name becomes a frozen network with its own preprocessing; LeNet and its training."""

from utils.backbones.image_transform import GREY, ImageTransform, TensorFrame
from utils.backbones.lenet import LeNet, new_lenet
from utils.backbones.libraries import imagenet_accuracy, rename_efficientnet_lite
from utils.backbones.registry import (
    Backbone,
    backbone_slug,
    check_backbone_name,
    expand_pattern,
    holds_network,
    load_backbone,
    own_classifier,
    split_pixels,
)
from utils.backbones.spec import TENSORS, Classifier, NetworkSpec, checked_classifier
from utils.backbones.training import TrainingSettings, evaluate_network, random_shift, train_network
from utils.backbones.weights import download, fit_weights, read_weights
