"""Several operators on one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.operators.composition import (
    all_uninformative,
    any_informative,
    members_config,
    with_members,
)
from spade_keras.operators.linear_operator import LinearOperator, Shape
from spade_keras.operators.parameter_naming import ParameterNaming


@keras.saving.register_keras_serializable(package="spade_keras")
class Stacking(LinearOperator):
    """y = (A_1 x, ..., A_n x): measurements of equal shape, stacked behind the batch axis.

    Parameters are named as in `Composition`: numbered by position where several members have them,
    unless shared.

    Args:
        operators: The members.
        shared: Names of parameters that all members that know them get alike.
        **kwargs: Of `keras.layers.Layer`, such as `name`.

    Output shape:
        `(batch, n, ...)` with the members' output shape `(batch, ...)`.

    Raises:
        ValueError: If there is no member, their parameters cannot be named (see
            `ParameterNaming`), or their measurements differ in shape.

    Example:
        >>> from spade_keras.operators import CartesianMRI
        >>> scan = Stacking([CartesianMRI(), CartesianMRI()], shared=["sensitivities"])
        >>> scan.parameter_names
        ('mask_0', 'sensitivities', 'mask_1')
    """

    def __init__(
        self, operators: Sequence[LinearOperator], shared: Sequence[str] = (), **kwargs: Any
    ) -> None:
        self._naming = ParameterNaming(operators, shared)
        super().__init__(**kwargs)
        self.operators = list(operators)
        self.shared = tuple(shared)
        self.parameter_names = self._naming.names
        self.informative_transforms = any_informative(self.operators)
        self.uninformative_transforms = all_uninformative(self.operators)

    def forward(self, x: Any, **parameters: Any) -> Any:
        """Returns (A_1 x, ..., A_n x)."""
        members = zip(self.operators, self._naming.split(parameters), strict=True)
        measured = [member.forward(x, **values) for member, values in members]
        _check_alike([tuple(y.shape) for y in measured])
        return ops.stack(measured, axis=1)

    def adjoint(self, y: Any, **parameters: Any) -> Any:
        """Returns A_1^H y_1 + ... + A_n^H y_n."""
        members = zip(self.operators, self._naming.split(parameters), strict=True)
        return sum(member.adjoint(y[:, n], **values) for n, (member, values) in enumerate(members))

    def normal(self, x: Any, **parameters: Any) -> Any:
        """Returns the sum of the members' A_i^H A_i x."""
        members = zip(self.operators, self._naming.split(parameters), strict=True)
        return sum(member.normal(x, **values) for member, values in members)

    def measurement_shape(
        self, x_shape: Shape, parameter_shapes: Mapping[str, Shape]
    ) -> tuple[int | None, ...]:
        """Returns `(batch, n, ...)`."""
        members = zip(self.operators, self._naming.split(parameter_shapes), strict=True)
        shapes = [member.measurement_shape(x_shape, values) for member, values in members]
        _check_alike(shapes)
        batch, *others = shapes[0]
        return batch, len(shapes), *others

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes the members' examples, each from a seed of its own."""
        return self._naming.join(
            [
                member.example_parameters(x_shape, seed + position)
                for position, member in enumerate(self.operators)
            ]
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), **members_config(self.operators, self.shared)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Stacking:
        """Makes the operator of a config."""
        return cls(**with_members(config, custom_objects))


def _check_alike(shapes: Sequence[Shape]) -> None:
    ranks = {len(shape) for shape in shapes}
    axes = zip(*shapes, strict=False)
    if len(ranks) > 1 or any(len({size for size in axis if size is not None}) > 1 for axis in axes):
        raise ValueError(
            "The measurements of stacked operators must have one shape; give the network an input "
            f"for each of them instead. Received: shapes={[tuple(shape) for shape in shapes]}"
        )
