"""Names for the parameters of operators that are made of operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spade_keras.operators.linear_operator import LinearOperator


class ParameterNaming:
    """Gives every parameter of several operators a name of its own.

    A name that one member alone has stays as it is. One that several have gets the member's
    position, counted from 0: two blurs take `kernel_0` and `kernel_1`. A name in `shared` stays as
    it is, and all members that have it get the same tensor.

    Args:
        operators: The members.
        shared: Names of parameters that the members have in common.

    Raises:
        ValueError: If there is no member or one that is no LinearOperator, `shared` has a name
            that no member knows, or a numbered name is that of another parameter.
    """

    def __init__(self, operators: Sequence[LinearOperator], shared: Sequence[str]) -> None:
        if not operators or not all(isinstance(member, LinearOperator) for member in operators):
            raise ValueError(
                f"`operators` must be one or more LinearOperators. Received: operators={operators}"
            )
        held = [name for member in operators for name in member.parameter_names]
        unknown = [name for name in shared if name not in held]
        if unknown:
            raise ValueError(
                f"`shared` must name parameters of the operators, which are {sorted(set(held))}. "
                f"Received: shared={list(shared)}"
            )

        def outer(position: int, name: str) -> str:
            return name if held.count(name) == 1 or name in shared else f"{name}_{position}"

        self._names = [
            {name: outer(position, name) for name in member.parameter_names}
            for position, member in enumerate(operators)
        ]
        self._check_unique(shared)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the members' order."""
        return tuple(dict.fromkeys(name for member in self._names for name in member.values()))

    def split(self, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Hands every member its parameters, under the names it knows them by."""
        return [
            {inner: parameters[outer] for inner, outer in member.items()} for member in self._names
        ]

    def join(self, parameters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collects the members' parameters; of shared ones, those of the first that has them."""
        joined: dict[str, Any] = {}
        for member, values in zip(self._names, parameters, strict=True):
            for inner, value in values.items():
                joined.setdefault(member[inner], value)
        return joined

    def _check_unique(self, shared: Sequence[str]) -> None:
        given = [name for member in self._names for name in member.values() if name not in shared]
        twice = sorted({name for name in given if given.count(name) > 1 or name in shared})
        if twice:
            raise ValueError(
                "Two parameters of the operators would have the same name. Compose all members in "
                f"one list instead of nesting them, or share the parameter. Received: {twice}"
            )
