"""Pre-trained networks from their published files, cut off behind the penultimate layer.

Each builder returns (network, preprocess): (n, 3, h, w) ↦ features (n, d), and its own preprocessing.
Where the file holds what was cut off, a second function gives it: the network's own classifier.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from utils.backbones.caches import CLIP_CACHE, torch_hub_file
from utils.backbones.image_transform import UNIT, ImageTransform, resize_and_crop
from utils.backbones.libraries import imagenet_names, library, open_clip_model
from utils.backbones.spec import Built, Classifier, NetworkSpec, checked_classifier
from utils.backbones.weights import download, entry_of, fit_weights, head_entries, read_weights
from utils.errors import InputError


# --------------------------------------------------------------------------------- ResNets in files
@dataclass(frozen=True)
class FileFormat:
    """Where a published file keeps a ResNet: under `entry`, behind `prefix`. `known` begins the names
    of what the features do not need; `source` says where the file is had. `hub_name`: what torch.hub
    calls it, if not by its own name.
    """

    entry: str | None
    prefix: str
    known: tuple[str, ...]
    file: str  # below the specification's folder
    source: str
    hub_name: str | None = None


TORCHVISION = {
    18: ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd"),
    50: ("https://download.pytorch.org/models/resnet50-0676ba61.pth", "0676ba61"),
}
TORCHVISION_FORMAT = FileFormat(None, "", ("fc.",), "", "torchvision's IMAGENET1K_V1")
ROBUST = FileFormat(
    "model",
    "module.model.",
    ("module.model.fc.", "module.attacker.", "module.normalizer."),
    "adversarially_trained/resnet{depth}_l2_eps{eps:g}.ckpt",
    "https://github.com/microsoft/robust-models-transfer",
)
MOCO = FileFormat(
    "state_dict",
    "module.base_encoder.",
    ("module.base_encoder.fc.", "module.momentum_encoder.", "module.predictor."),
    "pretrained_models/moco_resnet50_1x.pth.tar",
    "https://github.com/facebookresearch/moco-v3 (CONFIG.md, ResNet-50)",
)
SWAV = FileFormat(
    entry=None,
    prefix="module.",
    known=("module.projection_head.", "module.prototypes."),
    file="pretrained_models/swav_resnet50_1x.pth.tar",
    source="https://github.com/facebookresearch/swav (model zoo, ResNet-50)",
    hub_name="swav_800ep_pretrain.pth.tar",
)
SIMCLR = FileFormat(
    "state_dict",
    "",
    ("fc.",),
    "pretrained_models/simclr_resnet50_1x.pth.tar",
    "https://github.com/google-research/simclr (converted to PyTorch with torchvision's names)",
)


def torchvision_resnet(spec: NetworkSpec, depth: int) -> Built:
    path = _torchvision_file(spec, depth)
    return _resnet(spec, depth, TORCHVISION_FORMAT, path), imagenet_frame(spec.image_size)


def torchvision_classifier(spec: NetworkSpec, depth: int) -> Classifier:
    return _resnet_classifier(spec, depth, TORCHVISION_FORMAT, _torchvision_file(spec, depth))


def _torchvision_file(spec: NetworkSpec, depth: int) -> Path:
    url, checksum = TORCHVISION[depth]
    return spec.weights or download(url, spec.folder / "pretrained_models", checksum)


def robust_resnet(spec: NetworkSpec, depth: int) -> Built:
    """Build a robust ResNet. Its file's own normaliser is dropped, and the images are scaled as
    ResNet-18's instead.
    """
    return _resnet(spec, depth, ROBUST, _robust_file(spec, depth)), imagenet_frame(spec.image_size)


def robust_classifier(spec: NetworkSpec, depth: int) -> Classifier:
    return _resnet_classifier(spec, depth, ROBUST, _robust_file(spec, depth))


def _robust_file(spec: NetworkSpec, depth: int) -> Path:
    if spec.weights is None and spec.eps is None:
        raise InputError(
            "a robust model needs --EPS, the ε it was trained with (or, in stages 2 and 3, its file "
            "with --WEIGHTS)"
        )
    return spec.weights or _default_file(spec, ROBUST, depth=depth, eps=spec.eps)


def self_supervised_resnet50(spec: NetworkSpec, file_format: FileFormat) -> Built:
    path = spec.weights or _default_file(spec, file_format)
    return _resnet(spec, 50, file_format, path), imagenet_frame(spec.image_size)


def simclr_resnet50(spec: NetworkSpec) -> Built:
    """Build SimCLR's ResNet-50, whose images are resized bicubically and only scaled to [0, 1]."""
    network, _ = self_supervised_resnet50(spec, SIMCLR)
    size = spec.image_size or 224
    return network, resize_and_crop(size, size, "bicubic", *UNIT)


def imagenet_frame(image_size: int | None) -> ImageTransform:
    """Resize 256, crop 224, ImageNet's mean and std; another size keeps the proportion."""
    crop = image_size or 224
    return resize_and_crop(round(crop * 256 / 224), crop, "bilinear")


def _default_file(spec: NetworkSpec, file_format: FileFormat, **fields: float) -> Path:
    path = spec.folder / file_format.file.format(**fields)
    if path.is_file():
        return path
    if found := torch_hub_file(file_format.hub_name or path.name):
        return found
    raise InputError(
        f"the weights {path} are missing: get them from {file_format.source} and put them there (stages "
        "2 and 3 take the file from anywhere, with --WEIGHTS)"
    )


def _resnet(spec: NetworkSpec, depth: int, file_format: FileFormat, path: Path) -> nn.Module:
    weights = entry_of(read_weights(path, spec.trust), file_format.entry, path)
    network = getattr(library("torchvision").models, f"resnet{depth}")()
    network.fc = nn.Identity()
    fit_weights(network, weights, path, file_format.prefix, file_format.known)
    return network


RESNET_DIM = {18: 512, 50: 2048}


def _resnet_classifier(spec: NetworkSpec, depth: int, file_format: FileFormat, path: Path) -> Classifier:
    weights = entry_of(read_weights(path, spec.trust), file_format.entry, path)
    names = [f"{file_format.prefix}fc.{part}" for part in ("weight", "bias")]
    classifier = checked_classifier(str(path), *head_entries(weights, names, path), RESNET_DIM[depth])
    return replace(classifier, class_names=imagenet_names(len(classifier.bias)))


CLIP = ("ViT-B-32-quickgelu", "openai")  # OpenAI's weights were trained with QuickGELU


def clip(spec: NetworkSpec) -> Built:
    """Build CLIP ViT-B/32: the image tower's 512 outputs, from OpenAI's own file ViT-B-32.pt."""
    path = spec.weights
    if path is None:
        url = library("open_clip").get_pretrained_url(*CLIP)
        checksum = url.split("/")[-2]
        path = download(url, spec.folder / "pretrained_models", checksum, [CLIP_CACHE])
    return open_clip_model(replace(spec, weights=path), "/".join(CLIP))
