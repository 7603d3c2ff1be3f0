import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from utils.backbones import download, fit_weights, read_weights
from utils.errors import InputError


class Small(nn.Module):
    """Everything a scripted module may hold: parameters of its own, buffers, lists, nested modules."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(5, 4))
        self.projection = nn.Parameter(torch.randn(5, 3).half())
        self.register_buffer("steps", torch.tensor(7))
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_the_tensors_of_a_torchscript_archive(tmp_path):
    module = Small()
    with torch.no_grad():
        module.blocks[2].weight = nn.Parameter(
            torch.randn(5, 4).T
        )  # strides that are not the usual ones
    torch.jit.script(module).save(tmp_path / "model.pt")
    tensors = read_weights(tmp_path / "model.pt")
    expected = module.state_dict()
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value), name


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_torchscript_archive_runs_nothing(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"weight": Evil()}, protocol=2))
        archive.writestr("evil/constants.pkl", b"")
    with pytest.raises(InputError, match=r"evil\.pt is a damaged TorchScript.*asks for .*print"):
        read_weights(tmp_path / "evil.pt")
    assert "executed" not in capsys.readouterr().out


def test_safetensors_and_pytorchs_own_files(tmp_path):
    weights = {"a.weight": torch.randn(3, 2)}
    save_file(weights, tmp_path / "w.safetensors")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "w.pth")
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["a.weight"], weights["a.weight"])
    content = read_weights(tmp_path / "w.pth")
    assert content["epoch"] == 3
    assert torch.equal(content["state_dict"]["a.weight"], weights["a.weight"])


class Schedule:
    """An object as some training programs leave it in their checkpoints."""


def test_a_file_that_may_run_code_needs_the_flag(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"model": {"weight": torch.ones(2)}, "schedule": Schedule()}, path)
    with pytest.raises(InputError, match=r"model\.ckpt holds more .*Schedule.*--TRUST_CHECKPOINT True"):
        read_weights(path)
    assert torch.equal(read_weights(path, trust=True)["model"]["weight"], torch.ones(2))


@pytest.mark.parametrize(
    "name", ["cut.pth", "cut.safetensors", "text.pth", "text.safetensors", "empty.pt"]
)
def test_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    weights = {"weight": torch.randn(100, 100)}
    if name.startswith("cut"):
        save_file(weights, path) if name.endswith("safetensors") else torch.save(weights, path)
        path.write_bytes(path.read_bytes()[:5000])
    else:
        path.write_text("hello" if name.startswith("text") else "")
    with pytest.raises(InputError, match=f"{name} is truncated or is not a"):
        read_weights(path)
    with pytest.raises(InputError, match="there is no weight file"):
        read_weights(tmp_path / "absent.pth")


def test_only_what_fits_is_loaded(tmp_path):
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    whole = OrderedDict((f"module.{name}", value) for name, value in other.state_dict().items())
    path = tmp_path / "file.pth"
    extra = {"module.fc.weight": torch.ones(1), "optimiser.step": torch.ones(1)}
    fit_weights(network, {**whole, **extra}, path, "module.", ("module.fc.", "optimiser."))
    for name, value in other.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    counterless = {name: value for name, value in whole.items() if not name.endswith("tracked")}
    fit_weights(network, counterless, path, "module.")

    def complaint(weights, **options):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(InputError, match=r"file\.pth is of another architecture") as caught:
            fit_weights(network, weights, path, **{"prefix": "module.", **options})
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
        return str(caught.value)

    assert "unexpected: fc.weight" in complaint({**whole, "module.fc.weight": torch.ones(1)})
    assert "unexpected: optimiser.step" in complaint({**whole, "optimiser.step": torch.ones(1)})
    lacking = {name: value for name, value in whole.items() if "0.bias" not in name}
    assert "missing: 0.bias" in complaint(lacking)
    assert "other shape: 0.weight" in complaint({**whole, "module.0.weight": torch.ones(2, 4)})
    for strange in ("text", torch.ones(2, 3).to_sparse(), torch.ones(2, 3) * 1j):
        assert "other shape: 0.weight" in complaint({**whole, "module.0.weight": strange})
    assert "(6)" not in complaint(lacking) and "… (6)" in complaint({}, prefix="model.")


def test_a_download_that_fails_leaves_nothing_and_says_where_to_put_the_file(tmp_path):
    folder = tmp_path / "checkpoints" / "pretrained_models"
    with pytest.raises(InputError, match=rf"https://x\.org/net\.pth cannot be .* put it into {folder}"):
        download("https://x.org/net.pth", folder, "00")
    assert not folder.exists()
    folder.mkdir()
    (folder / "net.pth").touch()
    assert download("https://x.org/net.pth", folder, "00") == folder / "net.pth"
