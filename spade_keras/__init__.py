"""Make a Keras 3 network meet a measured latency budget."""

from __future__ import annotations

import importlib
from types import ModuleType

__version__ = "0.1.0"

_SUBPACKAGES = (
    "backend",
    "data",
    "export",
    "finetuning",
    "latency",
    "metrics",
    "networks",
    "operators",
    "pruning",
    "search",
    "transfer",
)

__all__ = ["__version__", *_SUBPACKAGES]


def __getattr__(name: str) -> ModuleType:
    """Imports a sub-package on first use, so that `import spade_keras` stays cheap."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
