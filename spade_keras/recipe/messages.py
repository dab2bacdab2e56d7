"""Mistakes in a recipe as sentences: the key, the allowed values, the received one."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from spade_keras.search.options import BudgetText

_TYPES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def describe(details: ErrorDetails, schema: type[BaseModel]) -> str:
    """Returns one of the `ValidationError.errors()` as a sentence that says what to change."""
    names, model, index = key_of(details, schema)
    key = ".".join(names)
    if details["type"] == "extra_forbidden":
        return _unknown_key(names, model, schema)
    field = model.model_fields[names[-1]]
    allowed = _allowed(field)
    if details["type"] == "missing":
        return f"`{key}` is missing: it must be {allowed}."
    received = details["input"]
    at = f"{key}[{index}]" if index is not None else key
    hint = _hint(received, field)
    return f"`{key}` must be {allowed}. Received: {at}={_toml(received)}.{hint}"


def key_of(
    details: ErrorDetails, schema: type[BaseModel]
) -> tuple[tuple[str, ...], type[BaseModel], int | None]:
    """Returns the path of the key that an error is about, its table, and the place in its list."""
    names: list[str] = []
    table: type[BaseModel] = schema
    inner: type[BaseModel] | None = schema
    path = list(details["loc"])
    while path and inner is not None:
        table = inner
        names.append(str(path.pop(0)))
        field = table.model_fields.get(names[-1])
        inner = section_in(field) if field else None
    # The rest of the location is positions and pydantic's names for the branches of unions.
    return tuple(names), table, next((part for part in path if isinstance(part, int)), None)


def section_in(field: FieldInfo) -> type[BaseModel] | None:
    """Returns the model of a field that is a table itself; None for any other."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _unknown_key(names: tuple[str, ...], model: type[BaseModel], schema: type[BaseModel]) -> str:
    *section, last = names
    prefix = "".join(f"{part}." for part in section)
    near = [f"{prefix}{key}" for key in difflib.get_close_matches(last, model.model_fields, n=1)]
    elsewhere = {key.rpartition(".")[2]: key for key in _keys(schema)}
    near += [elsewhere[key] for key in difflib.get_close_matches(last, elsewhere, n=1)]
    hint = f" Did you mean `{near[0]}`?" if near else ""
    what = "key" if section else "section"
    where = f"in [{'.'.join(section)}]" if section else "at the top of a recipe"
    known = ", ".join(model.model_fields)
    return f"`{'.'.join(names)}` is not a known {what}: {where} stand {known}.{hint}"


def _keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}"
        if (section := section_in(field)) is not None:
            yield from _keys(section, f"{prefix}{name}.")


def _unwrapped(field: FieldInfo) -> FieldInfo:
    """The field without its `| None`."""
    if get_origin(field.annotation) not in (Union, types.UnionType):
        return field
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    if len(kinds) > 1:
        return field
    inner = FieldInfo.from_annotation(kinds[0])
    inner.metadata = [*inner.metadata, *field.metadata]
    return inner


def _of_validator(field: FieldInfo, attribute: str) -> Any:
    """An attribute of the field's own validator: the `names` or the words that it allows."""
    found = (getattr(item, "func", None) for item in _unwrapped(field).metadata)
    return next((getattr(item, attribute) for item in found if hasattr(item, attribute)), None)


def _names(field: FieldInfo) -> tuple[Any, ...]:
    """The names that a field may have now; none where it is no name."""
    annotation = _unwrapped(field).annotation
    literals = get_args(annotation) if get_origin(annotation) is Literal else ()
    return literals or _of_validator(field, "names") or ()


def _allowed(field: FieldInfo) -> str:
    """The allowed values of a field in words, read from the schema so that they agree."""
    if section_in(field):
        return "a table"
    if words := _of_validator(field, "allowed"):
        return str(words)
    if names := _names(field):
        return f"one of {', '.join(_toml(name) for name in names)}"
    field = _unwrapped(field)
    kind: Any = field.annotation
    if get_origin(kind) is tuple:
        least, most = _bound(field, "min_length"), _bound(field, "max_length")
        count = f" {least} to {most}" if least else f" at most {most}" if most else ""
        element = FieldInfo.from_annotation(get_args(kind)[0])
        return f"a list of{count} values, each {_allowed(element)}"
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        return " or ".join(_allowed(FieldInfo.from_annotation(part)) for part in parts)
    text = _TYPES.get(kind, "a value")
    if pattern := _bound(field, "pattern"):
        return f"{text} of letters, digits and some signs (pattern {pattern})"
    bounds = {sign: _bound(field, name) for name, sign in _SIGNS.items()}
    ranges = " and ".join(f"{sign} {value}" for sign, value in bounds.items() if value is not None)
    return f"{text} {ranges}" if ranges else text


def _bound(field: FieldInfo, name: str) -> Any:
    """A bound of a field, None if it has none."""
    items = _unwrapped(field).metadata
    return next((getattr(item, name) for item in items if hasattr(item, name)), None)


def _hint(received: Any, field: FieldInfo) -> str:
    if isinstance(received, str) and (names := _names(field)):
        near = difflib.get_close_matches(received, [str(name) for name in names], n=1)
        return f" Did you mean {_toml(near[0])}?" if near else ""
    is_budget = _of_validator(field, "allowed") == BudgetText.allowed
    is_fraction = is_budget or _bound(field, "lt") == 1
    if is_fraction and isinstance(received, int | float) and 1 < received < 100:
        milliseconds = f' For milliseconds pass "{received:g}ms".' if is_budget else ""
        return f" For {received:g} % pass {received / 100:g}.{milliseconds}"
    return ""


def _toml(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
