"""Types that many modules share; nothing here imports keras."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from spade_keras.registry import Registry


class Table(BaseModel):
    """A set of options: frozen, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class NameIn:
    """A pydantic validator: the value is a name in a registry, registered ones included.

    Args:
        registry: The registry, or a fixed choice of names.
        *more: Names that are allowed as well.
    """

    def __init__(self, registry: Registry | tuple[str, ...], *more: str) -> None:
        self._registry = registry
        self._more = more

    @property
    def names(self) -> tuple[str, ...]:
        """All names known now."""
        return (*self._more, *self._registry)

    def __call__(self, value: Any) -> Any:
        """Returns a known `value`; pydantic reports the mistake otherwise."""
        if value not in self.names:
            raise PydanticCustomError("unknown_name", "unknown name")
        return value


DTYPES = ("float32", "bfloat16", "float16")
"""What layers can compute in."""

Dtype = Annotated[str, AfterValidator(NameIn(DTYPES))]
Width = Annotated[int, Field(ge=1, le=4096)]
