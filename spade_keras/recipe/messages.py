"""Mistakes in a recipe as sentences: the key, the allowed values, the received one."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from spade_keras.search.options import BudgetText
from spade_keras.typing import NameIn

_TYPES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_SIGNS = (
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Ge, "ge", ">="),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.Le, "le", "<="),
)


def describe(details: ErrorDetails, schema: type[BaseModel]) -> str:
    """Returns one pydantic error as a sentence that says what to change.

    Args:
        details: One entry of `ValidationError.errors()`.
        schema: The recipe's pydantic model.
    """
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
    """Returns the path of the key that an error is about, its table, and the position in its list.

    Args:
        details: One entry of `ValidationError.errors()`.
        schema: The recipe's pydantic model.
    """
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


def _validator(field: FieldInfo, kind: type) -> Any:
    found = (getattr(item, "func", None) for item in _unwrapped(field).metadata)
    return next((item for item in found if isinstance(item, kind)), None)


def _names(field: FieldInfo) -> tuple[Any, ...]:
    """The names that a field may have now; none where it is no name."""
    annotation = _unwrapped(field).annotation
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    known = _validator(field, NameIn)
    return known.names if known else ()


def _allowed(field: FieldInfo) -> str:
    """The allowed values of a field in words, read from the schema so that they agree."""
    if section_in(field):
        return "a table"
    if _validator(field, BudgetText):
        return BudgetText.allowed
    if names := _names(field):
        return f"one of {', '.join(_toml(name) for name in names)}"
    field = _unwrapped(field)
    kind: Any = field.annotation
    if get_origin(kind) is tuple:
        lengths = _bounds(field, (annotated_types.MinLen, "min_length", "")) + _bounds(
            field, (annotated_types.MaxLen, "max_length", "")
        )
        count = " to ".join(str(length) for _, length in lengths)
        count = f" of {count if len(lengths) > 1 else f'at most {count}'}" if lengths else " of"
        element = FieldInfo.from_annotation(get_args(kind)[0])
        return f"a list{count} values, each {_allowed(element)}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(
            _allowed(FieldInfo.from_annotation(part))
            for part in get_args(kind)
            if part is not type(None)
        )
    text = _TYPES.get(kind, "a value")
    for item in field.metadata:
        if pattern := getattr(item, "pattern", None):
            return f"{text} of letters, digits and some signs (pattern {pattern})"
    ranges = " and ".join(f"{sign} {bound}" for sign, bound in _bounds(field, *_SIGNS))
    return f"{text} {ranges}" if ranges else text


def _bounds(field: FieldInfo, *kinds: tuple[type, str, str]) -> list[tuple[str, Any]]:
    """Sign and value of each bound of these kinds."""
    return [
        (sign, getattr(item, attribute))
        for kind, attribute, sign in kinds
        for item in _unwrapped(field).metadata
        if isinstance(item, kind)
    ]


def _hint(received: Any, field: FieldInfo) -> str:
    if isinstance(received, str) and (names := _names(field)):
        near = difflib.get_close_matches(received, [str(name) for name in names], n=1)
        return f" Did you mean {_toml(near[0])}?" if near else ""
    is_budget = _validator(field, BudgetText) is not None
    is_fraction = is_budget or ("<", 1) in _bounds(field, *_SIGNS)
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
