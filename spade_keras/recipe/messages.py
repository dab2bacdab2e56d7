"""What is wrong with a recipe, in sentences: the key, what is allowed, what was received."""

from __future__ import annotations

import copy
import difflib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

_TYPES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


class OneOf:
    """A pydantic validator: the value is one of the known names.

    Args:
        names: The names known without importing keras.
        registry: "module:attribute" of the dict these names come from. Once that module is
            imported, names that a user registered there count too.
    """

    def __init__(self, names: Sequence[str], registry: str = "") -> None:
        self._names = tuple(names)
        self._module, _, self._attribute = registry.partition(":")

    @property
    def names(self) -> tuple[str, ...]:
        """All names known now."""
        registered = getattr(sys.modules.get(self._module), self._attribute or "_", ())
        return tuple(dict.fromkeys([*self._names, *registered]))

    def __call__(self, value: str) -> str:
        """Returns `value` when it is known; pydantic reports the mistake otherwise."""
        if value not in self.names:
            raise PydanticCustomError("unknown_name", "unknown name")
        return value


class BudgetText:
    """A pydantic validator: the value is a latency budget, as `search.LatencyBudget` reads it.

    That class cannot be asked, since it imports keras; a test asserts that both accept the same.
    """

    allowed = (
        "a number > 0 and < 1, of the full network's latency, or a text such as "
        '"8ms", "p99<=8ms" or "throughput>=200/s"'
    )
    _number = r"((?:\d+(?:\.\d*)?|\.\d+)(?:e-?\d+)?)"
    _limits = re.compile(
        rf"(?:median\s*<=\s*)?{_number}\s*ms|p99\s*<=\s*{_number}\s*ms|"
        rf"throughput\s*>=\s*{_number}\s*/\s*s"
    )

    def __call__(self, value: Any) -> float | str:
        """Returns `value` when it is a budget; pydantic reports the mistake otherwise."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and 0 < value < 1:
            return float(value)
        found = isinstance(value, str) and self._limits.fullmatch(value.strip().lower())
        if found and 0 < float(next(filter(None, found.groups()))) < float("inf"):
            return str(value)
        raise PydanticCustomError("no_budget", "no latency budget")


class Values:
    """Looks up the values of a recipe that may be faulty elsewhere.

    Args:
        tables: The recipe as nested dicts.
        schema: The recipe's pydantic model, for the defaults.
        faulty: Paths of keys already reported.
    """

    def __init__(
        self, tables: dict[str, Any], schema: type[BaseModel], faulty: set[tuple[str, ...]]
    ) -> None:
        self._tables = tables
        self._schema = schema
        self._faulty = faulty

    def get(self, key: str) -> Any:
        """Returns the value of `section.key`; raises KeyError if it is missing or faulty."""
        parts = tuple(key.split("."))
        if any(parts[: len(bad)] == bad for bad in self._faulty):
            raise KeyError(key)
        field = _model_at(self._schema, parts[:-1]).model_fields[parts[-1]]
        table: Any = self._tables
        for part in parts[:-1]:
            table = table[part]
        if parts[-1] in table:
            return table[parts[-1]]
        if field.is_required():
            raise KeyError(key)
        return field.default


def with_missing_sections(tables: dict[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """Returns a copy with an empty table for each missing section, so that its keys are reported.

    Args:
        tables: The recipe as nested dicts.
        schema: The recipe's pydantic model.

    Returns:
        The completed copy.
    """
    completed = copy.deepcopy(tables)
    for name, field in schema.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            completed.setdefault(name, {})
            if isinstance(completed[name], dict):
                completed[name] = with_missing_sections(completed[name], section)
    return completed


def describe(details: ErrorDetails, schema: type[BaseModel]) -> str:
    """Returns one pydantic error as a sentence a user can act on.

    Args:
        details: One entry of `ValidationError.errors()`.
        schema: The recipe's pydantic model.

    Returns:
        The sentence, naming the key, what is allowed and what was received.
    """
    names = tuple(part for part in details["loc"] if isinstance(part, str))
    key = ".".join(names)
    model = _model_at(schema, names[:-1])
    if details["type"] == "extra_forbidden":
        return _unknown_key(names, model, schema)
    field = model.model_fields[names[-1]]
    allowed = _allowed(field)
    if details["type"] == "missing":
        return f"`{key}` is missing: it must be {allowed}."
    received = details["input"]
    index = next((part for part in details["loc"] if isinstance(part, int)), None)
    at = f"{key}[{index}]" if index is not None else key
    hint = _hint(received, field)
    return f"`{key}` must be {allowed}. Received: {at}={_toml(received)}.{hint}"


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
        section = _section(field.annotation)
        if section is not None:
            yield from _keys(section, f"{prefix}{name}.")


def _model_at(schema: type[BaseModel], section: Sequence[str]) -> type[BaseModel]:
    for part in section:
        schema = _section(schema.model_fields[part].annotation) or schema
    return schema


def _section(annotation: Any) -> type[BaseModel] | None:
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None


def allowed_names(section: type[BaseModel], key: str) -> tuple[str, ...]:
    """Returns the names that a key may have now; none where it is no name.

    Args:
        section: The model of a table.
        key: One of its keys.
    """
    return _names(section.model_fields[key])


def _names(field: FieldInfo) -> tuple[str, ...]:
    if get_origin(field.annotation) is Literal:
        return tuple(get_args(field.annotation))
    for item in field.metadata:
        if isinstance(getattr(item, "func", None), OneOf):
            names: tuple[str, ...] = item.func.names
            return names
    return ()


def _is_budget(field: FieldInfo) -> bool:
    return any(isinstance(getattr(item, "func", None), BudgetText) for item in field.metadata)


def _allowed(field: FieldInfo) -> str:
    """What a field accepts, in words: derived from the schema, so that the two cannot disagree."""
    annotation: Any = field.annotation
    if _section(annotation):
        return "a table"
    if _is_budget(field):
        return BudgetText.allowed
    if names := _names(field):
        return f"one of {', '.join(_toml(name) for name in names)}"
    if get_origin(annotation) is tuple:
        element = FieldInfo.from_annotation(get_args(annotation)[0])
        lengths = _lengths(field)
        count = " to ".join(map(str, lengths)) if len(lengths) > 1 else f"at most {lengths[0]}"
        return f"a list of {count} values, each {_allowed(element)}"
    optional = [kind for kind in get_args(annotation) if kind is not type(None)]
    text = _TYPES[optional[0] if optional else annotation]
    for item in field.metadata:
        if pattern := getattr(item, "pattern", None):
            return f"{text} of letters, digits, '.', '_' and '-' (pattern {pattern})"
    ranges = [f"{sign} {bound}" for sign, bound in _bounds(field)]
    return " ".join([text, " and ".join(ranges)]) if ranges else text


def _bounds(field: FieldInfo) -> list[tuple[str, float]]:
    signs: list[tuple[type, str, str]] = [
        (annotated_types.Gt, ">", "gt"),
        (annotated_types.Ge, ">=", "ge"),
        (annotated_types.Lt, "<", "lt"),
        (annotated_types.Le, "<=", "le"),
    ]
    return [
        (sign, getattr(item, name))
        for kind, sign, name in signs
        for item in field.metadata
        if isinstance(item, kind)
    ]


def _lengths(field: FieldInfo) -> list[int]:
    bounds = []
    for item in field.metadata:
        if isinstance(item, annotated_types.MinLen):
            bounds.append(item.min_length)
        elif isinstance(item, annotated_types.MaxLen):
            bounds.append(item.max_length)
    return bounds


def _hint(received: Any, field: FieldInfo) -> str:
    if isinstance(received, str) and (names := _names(field)):
        near = difflib.get_close_matches(received, names, n=1)
        return f" Did you mean {_toml(near[0])}?" if near else ""
    is_fraction = ("<", 1) in _bounds(field) or _is_budget(field)
    if is_fraction and isinstance(received, int | float) and 1 < received < 100:
        milliseconds = f' For milliseconds pass "{received:g}ms".' if _is_budget(field) else ""
        return f" For {received:g} % pass {received / 100:g}.{milliseconds}"
    return ""


def _toml(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
