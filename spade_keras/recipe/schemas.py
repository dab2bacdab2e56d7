"""The schema of a recipe: which tables it has depends on its task, source, network and prior."""

from __future__ import annotations

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, create_model

from spade_keras.recipe import imaging
from spade_keras.recipe.sections import ClassificationRecipe, Recipe
from spade_keras.recipe.transfer import TransferRecipe
from spade_keras.registry import NETWORKS, PRIORS, SOURCES, Registry

SCHEMAS: dict[str, type[Recipe]] = {
    "reconstruction": imaging.ReconstructionRecipe,
    "classification": ClassificationRecipe,
    "transfer": TransferRecipe,
}
"""The schema of a recipe, by its `run.task`."""

# A name this similar to a known one is read as that one, so that its other keys are checked too.
_NEAR = 0.85
# Arguments of networks and priors that tasks fill in, or that stand elsewhere in a recipe.
_GIVEN = frozenset({"name", "dtype", "trainable", "channels", "condition_channels"})


def schema_of(tables: Mapping[str, Any]) -> type[Recipe]:
    """Returns the schema of a recipe: the nearest one where a name is wrong."""
    task = _get(tables, "run", "task")
    near = difflib.get_close_matches(str(task or ""), SCHEMAS, n=1)
    schema = SCHEMAS[near[0] if near else "reconstruction"]
    if schema is not imaging.ReconstructionRecipe:
        return schema
    source = _get(tables, "data", "source") or "mni152"
    network = _get(tables, "network", "name") or "unrolled_pgd"
    prior = _get(tables, "network", "prior", "name") or "dncnn"
    return _reconstruction(
        _table(str(source), SOURCES, imaging.DATA, imaging.Measurements),
        _table(str(network), NETWORKS, imaging.RECONSTRUCTION_NETWORKS, imaging.Network),
        _table(str(prior), PRIORS, imaging.BUNDLED_PRIORS, imaging.Prior),
    )


def _get(table: Any, *path: str) -> Any:
    for key in path:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


@functools.cache
def _reconstruction(data: type, network: type, prior: type) -> type[Recipe]:
    with_prior: type = create_model(network.__name__, __base__=network, prior=(prior, ...))
    base = imaging.ReconstructionRecipe
    return create_model(base.__name__, __base__=base, data=(data, ...), network=(with_prior, ...))


def _table(name: str, registry: Registry, known: Mapping[str, type], base: type) -> type:
    """The table of the nearest name; one that takes any key where there is none."""
    near = difflib.get_close_matches(name, registry, n=1, cutoff=_NEAR)
    if not near:
        return _any_keys(base)
    return known[near[0]] if near[0] in known else table_of_entry(registry[near[0]], base)


@functools.cache
def _any_keys(base: type[Any]) -> type:
    unknown: type = create_model(base.__name__, __base__=base, __cls_kwargs__={"extra": "ignore"})
    return unknown


@functools.cache
def table_of_entry(entry: Any, base: type[Any]) -> type:
    """Returns the table of keys for a registered class or function.

    That is its attribute `section`, if it has one; else `base` plus the arguments that TOML can
    write, with their defaults. Arguments without annotation and default are filled in by the task.
    """
    if hasattr(entry, "section"):
        own: type = entry.section
        return own
    function = inspect.getattr_static(entry, "__init__") if isinstance(entry, type) else entry
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # Annotations that only a type checker can read say nothing here.
        hints = {}
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        missing = parameter.default is parameter.empty
        hint = hints.get(name, Any if missing else type(parameter.default))
        kind = _toml_type(hint)
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and kind is not None and name not in _GIVEN | base.model_fields.keys():
            fields[name] = (kind, ... if missing else parameter.default)
    return create_model(entry.__name__, __base__=base, **fields)


def _toml_type(hint: Any) -> Any:
    """The TOML type of an argument; None if TOML cannot write it."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in (int, float, str, bool) or origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        kinds = [_toml_type(part) for part in parts if part is not type(None)]
        kinds = [kind for kind in kinds if kind is not None]
        return Union[(*kinds, None)] if kinds else None
    if origin in (list, tuple, Sequence) and (element := _toml_type(parts[0])) is not None:
        return Annotated[tuple[element, ...], Field(strict=False)]  # type: ignore[valid-type]
    return None
