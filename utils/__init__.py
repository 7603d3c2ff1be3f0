"""What the scripts are made of. `import utils` costs nothing: a module is loaded when it is first used,
as in utils.relation.relate(…), so that `--help` and a bad flag wait for no heavy library.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Import a module at its first use (PEP 562)."""
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
