"""Weights that other tools left on the machine are used where they lie, and nothing is written there."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from tests.processes import within_patience
from utils.backbones import download, load_backbone, pretrained
from utils.backbones.caches import hub_file, open_clip_file, timm_file
from utils.errors import InputError
from utils.storage import state_digest

REPOSITORY = Path(__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def place_on_hub(cache: Path, repository: str, name: str) -> Path:
    """Where the cache of Hugging Face's hub keeps a file of a repository's main branch."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
    return folder / "snapshots" / COMMIT / name


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Run by a Python of its own, since huggingface_hub looks at the environment once.
LOAD = """
import json, sys
from pathlib import Path
import open_clip
from utils.backbones import load_backbone
from utils.errors import InputError

open_clip.factory._MODEL_CONFIGS["RN50-quickgelu"] = json.loads(sys.argv[1])
found = {}
for name in sys.argv[3:]:
    try:
        found[name] = load_backbone(name, folder=Path(sys.argv[2])).weights_digest
    except InputError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def loaded_by_a_process(config: dict, folder: Path, names: Sequence[str], **environment: str) -> dict:
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, json.dumps(config), str(folder), *names],
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
    )
    with within_patience(process):
        shown, told = process.communicate()
    assert process.returncode == 0, told
    return json.loads(shown.strip().splitlines()[-1])


def test_the_hubs_own_cache_is_read_without_a_network(tmp_path, monkeypatch):
    """Weights of timm and open_clip below HF_HOME, with HF_HUB_OFFLINE: these very ones; and one line
    where they are not.
    """
    hub = tmp_path / "hf" / "hub"
    torch.manual_seed(0)
    network = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    safe = place_on_hub(hub, "timm/test_resnet.r160_in1k", "model.safetensors")
    save_file(network.state_dict(), safe)
    network.reset_classifier(0)
    clip = place_on_hub(hub, "timm/resnet50_clip.openai", "open_clip_pytorch_model.bin")
    config = open_clip.get_model_config("RN50-quickgelu")
    config["vision_cfg"].update(layers=[1, 1, 1, 1], width=16, image_size=64)
    config["text_cfg"].update(layers=1, width=64)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "RN50-quickgelu", config)
    whole = open_clip.create_model("RN50-quickgelu", pretrained=None)
    torch.save(whole.state_dict(), clip)
    before = files_below(hub)
    names = ("timm:test_resnet.r160_in1k", "open_clip:RN50-quickgelu/openai", "timm:test_vit.r160_in1k")
    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)}
    found = loaded_by_a_process(config, tmp_path / "checkpoints", names, **offline)
    assert found[names[0]] == state_digest(network.state_dict())
    assert found[names[1]] == state_digest(whole.visual.state_dict())
    complaint = (
        f"are neither below {tmp_path / 'checkpoints' / 'pretrained_models'} nor in Hugging Face's"
    )
    assert complaint in found[names[2]] and "HF_HUB_OFFLINE forbids to download" in found[names[2]]
    assert files_below(hub) == before
    assert not files_below(tmp_path / "checkpoints")


TIMM = {"hf_hub_id": "timm/a.b", "url": "https://x.org/a-00.pth"}


def test_which_of_a_repositorys_files_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "own"))
    ours = tmp_path / "ours"
    assert timm_file(TIMM, ours) is None
    plain = place_on_hub(tmp_path / "own", "timm/a.b", "pytorch_model.bin")
    plain.touch()
    assert timm_file(TIMM, ours) == plain
    safe = plain.with_name("model.safetensors")
    safe.touch()
    assert timm_file(TIMM, ours) == safe
    assert timm_file({**TIMM, "hf_hub_id": "timm/a.b@v2"}, ours) is None  # another revision
    assert timm_file({**TIMM, "hf_hub_filename": "other.bin"}, ours) is None
    place_on_hub(ours, "timm/a.b", "model.safetensors").touch()
    assert timm_file(TIMM, ours) is None  # timm finds it there by itself
    assert hub_file("timm/a.b", ["model.safetensors"], folder=ours).is_relative_to(ours)

    place_on_hub(tmp_path / "own", "o/c", "open_clip_model.safetensors").touch()
    place_on_hub(tmp_path / "own", "o/c", "x.bin").touch()
    assert open_clip_file({"hf_hub": "o/c/"}, ours).name == "open_clip_model.safetensors"
    assert open_clip_file({"hf_hub": "o/c/x.bin"}, ours).name == "x.bin"
    assert open_clip_file({"hf_hub": "o/d/"}, ours) is None


def test_files_of_torch_hub_and_clip(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "a-00.pth").touch()
    url = {"url": "https://x.org/a-00.pth"}
    assert timm_file(url, tmp_path / "ours") == tmp_path / "hub" / "checkpoints" / "a-00.pth"
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "a-00.pth").touch()
    assert timm_file(url, tmp_path / "ours") is None
    monkeypatch.setattr("utils.backbones.caches.CLIP_CACHE", tmp_path / "clip")
    assert open_clip_file(url, tmp_path) is None
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "a-00.pth").touch()
    assert open_clip_file(url, tmp_path) == tmp_path / "clip" / "a-00.pth"
    assert open_clip_file({}, tmp_path) is None and timm_file({}, tmp_path) is None


def test_torchvisions_and_swavs_files_below_torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), folder / "r.pth")
    checksum = hashlib.sha256((folder / "r.pth").read_bytes()).hexdigest()[:8]
    (folder / "r.pth").rename(folder / f"r-{checksum}.pth")
    address = (f"https://x.org/r-{checksum}.pth", checksum)
    monkeypatch.setitem(pretrained.TORCHVISION, 18, address)
    network.fc = torch.nn.Identity()
    found = load_backbone("resnet18", folder=tmp_path / "ours")
    assert found.weights_digest == state_digest(network.state_dict())
    assert not (tmp_path / "ours").exists()

    large = torchvision.models.resnet50()
    large.fc = torch.nn.Identity()
    weights = {f"module.{name}": value for name, value in large.state_dict().items()}
    torch.save(weights, folder / "swav_800ep_pretrain.pth.tar")
    found = load_backbone("swav", folder=tmp_path / "ours")
    assert found.weights_digest == state_digest(large.state_dict())


def test_a_cached_file_with_another_checksum_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "net.pth").write_bytes(b"half of it")
    with (
        pytest.warns(UserWarning, match=r"net\.pth is not used: its checksum is not that of net\.pth"),
        pytest.raises(InputError, match="cannot be downloaded"),
    ):
        download("https://x.org/net.pth", tmp_path / "ours", "0" * 8)
    right = hashlib.sha256(b"whole").hexdigest()
    (tmp_path / "also").mkdir()
    (tmp_path / "also" / "net.pth").write_bytes(b"whole")
    (tmp_path / "hub" / "checkpoints" / "net.pth").unlink()
    found = download("https://x.org/net.pth", tmp_path / "ours", right, [tmp_path / "also"])
    assert found == tmp_path / "also" / "net.pth"
