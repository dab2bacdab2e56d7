"""Types that many modules share; nothing here imports keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from spade_keras.registry import Registry


class Table(BaseModel):
    """A set of options: frozen, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Record:
    """Base of frozen dataclasses that are written as JSON and read back.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point(Record):
        ...     at: tuple[int, ...]
        >>> Point((1, 2)).as_dict(), Point.from_dict({"at": [1, 2]})
        ({'at': [1, 2]}, Point(at=(1, 2)))
    """

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values, which `from_dict` reads."""
        return _adapter(type(self)).dump_python(self, mode="json")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Reads what `as_dict` returned.

        Raises:
            ValueError: If an entry is missing or of another type; pydantic names each.
        """
        return _adapter(cls).validate_python(dict(content))


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(cls: type) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


class NameIn:
    """A pydantic validator: the value is a name in a registry, or one of a few names."""

    def __init__(self, registry: Registry | tuple[str, ...]) -> None:
        self._registry = registry

    @property
    def names(self) -> tuple[str, ...]:
        """All names known now, registered ones included."""
        return tuple(self._registry)

    def __call__(self, value: Any) -> Any:
        """Returns a known `value`; pydantic reports the mistake otherwise."""
        if value not in self.names:
            raise PydanticCustomError("unknown_name", "unknown name")
        return value


DTYPES = ("float32", "bfloat16", "float16")
"""Dtypes that layers can compute in."""

Dtype = Annotated[str, AfterValidator(NameIn(DTYPES))]
Width = Annotated[int, Field(ge=1, le=4096)]
