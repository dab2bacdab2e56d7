"""The parts of a model that are pruned: the model itself, or the priors of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from spade_keras.errors import OpenSizesError


def is_network(model: Any) -> bool:
    """Whether a model has its prunable parts as `priors`, replaced by `with_priors`."""
    return hasattr(model, "priors") and hasattr(model, "with_priors")


def parts_of(model: Any) -> dict[str, keras.Model]:
    """Returns the parts that can be traced and pruned: `{"": model}`, or a network's priors."""
    return dict(model.priors) if is_network(model) else {"": model}


def map_parts(model: Any, change: Callable[[str, keras.Model], keras.Model]) -> Any:
    """Returns a model with every part changed by a function of its key and itself."""
    parts = {key: change(key, part) for key, part in parts_of(model).items()}
    return model.with_priors(parts) if is_network(model) else parts[""]


def prefix_of(key: str) -> str:
    """Returns the prefix of a part's groups and layers: "" or "<key>/"."""
    return f"{key}/" if key else ""


def own_names(names: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Returns the entries whose names belong to a part, by their names inside it."""
    prefix = prefix_of(key)
    return {n.removeprefix(prefix): x for n, x in names.items() if n.startswith(prefix)}


def part_inputs(model: Any, inputs: Any = None) -> Iterator[tuple[str, keras.Model, Any]]:
    """Yields the prefix, the model and the inputs of every part, as often as it is called."""
    if not is_network(model):
        yield "", model, inputs
        return
    if inputs is None:
        raise OpenSizesError(
            "`inputs` must be given to count the work of a network, whose priors are called on "
            f"sizes that depend on it. Received: inputs=None for {model.name!r}."
        )
    for key, shapes in model.prior_input_shapes(inputs).items():
        for shape in shapes:
            yield prefix_of(key), model.priors[key], tuple(shape)


def iterations_of(model: Any) -> int | None:
    """Returns the iteration count of a network; None for a model without one."""
    return getattr(model, "iterations", None) if is_network(model) else None
