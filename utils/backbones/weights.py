"""Weight files of pre-trained networks: reading them without running code, fitting them to a network.

Three containers are read: safetensors, PyTorch's own (`weights_only`), and TorchScript archives, of
which the tensors alone are taken.
"""

import contextlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.backbones.caches import published_file
from utils.backbones.spec import is_plain
from utils.errors import InputError
from utils.storage import load_checkpoint, load_safetensors


def read_weights(path: Path, trust: bool = False) -> dict:
    """Read the content of a weight file. Raises InputError that names the file if it is absent, damaged
    or, unless `trust`, more than tensors, numbers and text.
    """
    if not path.is_file():
        raise InputError(f"there is no weight file {path}")
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    if folder := _torchscript_folder(path):
        return _torchscript_tensors(path, folder)
    return load_checkpoint(path, trust)


def fit_weights(
    network: nn.Module, weights: Mapping, path: Path, prefix: str = "", known: tuple[str, ...] = ()
) -> None:
    """Load into the network the entries under `prefix`, which is taken off. Entries that begin with one
    of `known` (heads and other parts that the features do not need) are left out. Every other entry must
    fit, and none be missing.
    """
    own = {name: value for name, value in weights.items() if not str(name).startswith(known)}
    state = {
        str(name).removeprefix(prefix): value
        for name, value in own.items()
        if str(name).startswith(prefix)
    }
    wanted = network.state_dict()
    # Batch normalisation's counter is missing in older files; it has no effect on the features.
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    unexpected += [str(name) for name in own if not str(name).startswith(prefix)]
    shapes = [
        name
        for name in state.keys() & wanted.keys()
        if not is_plain(state[name]) or state[name].shape != wanted[name].shape
    ]
    problems = [
        f"{what}: {', '.join(sorted(names)[:3])}{f' … ({len(names)})' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("other shape", shapes))
        if names
    ]
    if problems:
        raise InputError(f"{path} is of another architecture: {'; '.join(problems)}")
    network.load_state_dict({**wanted, **state})


def entry_of(content: Mapping, entry: str | None, path: Path) -> Mapping:
    """Find the dictionary of weights under an entry of the file, or the file itself."""
    weights = content if entry is None else content.get(entry)
    if not isinstance(weights, Mapping):
        raise InputError(f"{path} is of another format: it has no {entry!r} with the weights")
    return weights


def head_entries(weights: Mapping, names: Sequence[str], path: Path) -> list:
    """Find the entries of a network's last layer, unchecked. Raises InputError that names the file."""
    if missing := [name for name in names if name not in weights]:
        raise InputError(
            f"{path} has no classifier of its own ({', '.join(missing)} missing): give a file that has "
            "one, or a data set as --SRC"
        )
    return [weights[name] for name in names]


def download(url: str, folder: Path, sha256: str, also: Sequence[Path] = ()) -> Path:
    """Find the file of this address in `folder`, else in torch.hub's cache or the folders `also`, else
    downloaded (with progress) into `folder`; `sha256`: the first digits of its checksum, tested for what
    is not in `folder`.
    """
    path = folder / url.rsplit("/", 1)[-1]
    if not path.exists():
        if found := published_file(path.name, sha256, also):
            return found
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, path, hash_prefix=sha256, progress=True)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):  # it holds other files
                folder.rmdir()
            raise InputError(f"{url} cannot be downloaded ({error}): put it into {folder}") from error
    return path


# ------------------------------------------------------------------------- TorchScript without its code
STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Module:
    """Stands in for a scripted module: its attributes, without its methods."""


class _TensorUnpickler(pickle.Unpickler):
    """Reads an archive's data.pkl, admitting tensors, plain values and modules, which become _Module."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(archive.open(f"{folder}data.pkl"))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str):
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # typed lists and dictionaries
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no tensor needs")

    def persistent_load(self, identifier: tuple) -> Tensor:
        _, dtype, key, _, _ = identifier
        data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _torchscript_folder(path: Path) -> str | None:
    """Find the folder of a TorchScript archive in which data.pkl lies beside constants.pkl."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    folders = [name.removesuffix("constants.pkl") for name in names if name.endswith("/constants.pkl")]
    return next((folder for folder in folders if f"{folder}data.pkl" in names), None)


def _torchscript_tensors(path: Path, folder: str) -> dict[str, Tensor]:
    """Read all tensors of a TorchScript archive by their dotted names; none of its code is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _named_tensors(_TensorUnpickler(archive, folder).load())
    except Exception as error:  # whatever a damaged archive makes zipfile, pickle or torch raise
        raise InputError(f"{path} is a damaged TorchScript archive: {error}") from error


def _named_tensors(module: _Module, prefix: str = "") -> dict[str, Tensor]:
    tensors = {}
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, _Module):
            tensors.update(_named_tensors(value, f"{prefix}{name}."))
    return tensors
