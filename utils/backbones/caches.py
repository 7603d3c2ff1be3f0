"""Weights that are on this machine already: what timm, open_clip, torchvision and CLIP left in caches.

They are read where they lie; nothing is written there.
"""

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

CLIP_CACHE = Path("~/.cache/clip")  # of the packages clip and open_clip


def torch_hub_file(name: str) -> Path | None:
    """Find a file that torch.hub or torchvision downloaded (below TORCH_HOME)."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    return path if path.is_file() else None


def published_file(name: str, sha256: str, also: Sequence[Path] = ()) -> Path | None:
    """Find a file of torch.hub's cache or of the folders `also`, whose checksum begins with `sha256`:
    another one is named in a warning.
    """
    places = [torch_hub_file(name), *(folder.expanduser() / name for folder in also)]
    for path in places:
        if path and path.is_file():
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found.startswith(sha256):
                return path
            warnings.warn(f"{path} is not used: its checksum is not that of {name}", stacklevel=2)
    return None


def hub_file(
    repository: str, names: Iterable[str], revision: str | None = None, folder: Path | None = None
) -> Path | None:
    """Find the first of a repository's files that the cache of Hugging Face's hub holds: the one at
    `folder`, else the user's own (HF_HOME, HF_HUB_CACHE).
    """
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for name in names:
        found = try_to_load_from_cache(repository, name, folder, revision)
        if isinstance(found, str):  # else it is not there, or known not to exist
            return Path(found)
    return None


def hub_is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids downloads."""
    try:
        from huggingface_hub.constants import is_offline_mode
    except ImportError:
        return False
    return is_offline_mode()


# ------------------------------------------------------------------------- as the libraries look them up
def timm_file(config: Mapping, folder: Path) -> Path | None:
    """Find the weights that a model's configuration in timm names, out of the user's caches; None where
    `folder`, in which timm looks by itself, holds them.
    """
    if repository := config.get("hf_hub_id"):
        repository, _, revision = repository.partition("@")
        name = config.get("hf_hub_filename")
        names = (name,) if name else ("model.safetensors", "pytorch_model.bin")
        here, own = (hub_file(repository, names, revision or None, at) for at in (folder, None))
        return None if here else own
    name = config.get("url", "").rsplit("/", 1)[-1]
    return torch_hub_file(name) if name and not (folder / name).is_file() else None


def open_clip_file(config: Mapping, folder: Path) -> Path | None:
    """Find, as `timm_file` does, one of open_clip's sets of weights."""
    if place := config.get("hf_hub"):
        repository, _, name = place.rpartition("/")
        name = name or "open_clip_pytorch_model.bin"
        safe = f"{name[:-4]}.safetensors"
        if name == "open_clip_pytorch_model.bin":
            safe = "open_clip_model.safetensors"
        names = (safe, name) if name.endswith((".bin", ".pth")) else (name,)
        here, own = (hub_file(repository, names, folder=at) for at in (folder, None))
        return None if here else own
    name = config.get("url", "").rsplit("/", 1)[-1]
    path = CLIP_CACHE.expanduser() / name
    return path if name and path.is_file() and not (folder / name).is_file() else None
