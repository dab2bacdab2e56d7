"""Make a Keras 3 network meet a measured latency budget."""

from __future__ import annotations

from spade_keras.registry import lazy_attributes

__version__ = "0.1.0"

_PUBLIC = {
    "backend": "",
    "data": "",
    "export": "",
    "files": "load_model",
    "finetuning": "",
    "latency": "",
    "metrics": "",
    "networks": "",
    "operators": "",
    "pipeline.in_memory": "optimize",
    "pruning": "",
    "search": "",
    "weights": "",
}
"""Sub-packages, and modules with the names they make public here; imported on first use."""

__all__ = [
    "__version__",
    *sorted(" ".join(names or home for home, names in _PUBLIC.items()).split()),
]

__getattr__ = lazy_attributes(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)
