"""Operators one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from spade_keras.operators.linear_operator import LinearOperator, Shape
from spade_keras.operators.parameter_naming import ParameterNaming
from spade_keras.operators.transforms import TRANSFORMS


@keras.saving.register_keras_serializable(package="spade_keras")
class Composition(LinearOperator):
    """y = A_n ... A_2 A_1 x, of members in the order in which they are applied.

    Parameters keep their names; those that several members have are numbered by position
    (`kernel_0`, `kernel_1`), unless they are shared.

    Its informative transforms are those of any member. Whether members undo each other's effect
    depends on the parameters; `commutator` measures it.

    Args:
        operators: The members; the first is applied to the image.
        shared: Names of parameters that all members that know them get alike.
        **kwargs: Of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If there is no member, or their parameters cannot be named; see
            `ParameterNaming`.

    Example:
        >>> from spade_keras.operators import Blur, Inpainting
        >>> Composition([Blur(), Inpainting(), Blur("reflect")]).parameter_names
        ('kernel_0', 'mask', 'kernel_2')
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
        """Returns A_n ... A_1 x."""
        for member, values in zip(self.operators, self._naming.split(parameters), strict=True):
            x = member.forward(x, **values)
        return x

    def adjoint(self, y: Any, **parameters: Any) -> Any:
        """Returns A_1^H ... A_n^H y."""
        members = list(zip(self.operators, self._naming.split(parameters), strict=True))
        for member, values in reversed(members):
            y = member.adjoint(y, **values)
        return y

    def normal(self, x: Any, **parameters: Any) -> Any:
        """Returns A_1^H ... A_n^H A_n ... A_1 x, the middle by the last member's `normal`."""
        *outer, (last, last_values) = zip(
            self.operators, self._naming.split(parameters), strict=True
        )
        for member, values in outer:
            x = member.forward(x, **values)
        x = last.normal(x, **last_values)
        for member, values in reversed(outer):
            x = member.adjoint(x, **values)
        return x

    def measurement_shape(
        self, x_shape: Shape, parameter_shapes: Mapping[str, Shape]
    ) -> tuple[int | None, ...]:
        """Returns the shape of the last member's measurements."""
        shape = tuple(x_shape)
        shapes = self._naming.split(parameter_shapes)
        for member, values in zip(self.operators, shapes, strict=True):
            shape = member.measurement_shape(shape, values)
        return shape

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes the members' examples, each for the shape that reaches it."""
        x = np.zeros(x_shape, "float32")
        examples = []
        for position, member in enumerate(self.operators):
            values = member.example_parameters(x.shape, seed + position)
            x = keras.ops.convert_to_numpy(member.forward(x, **values))
            examples.append(values)
        return self._naming.join(examples)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), **members_config(self.operators, self.shared)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Composition:
        """Makes the operator of a config."""
        return cls(**with_members(config, custom_objects))


def any_informative(operators: Sequence[LinearOperator]) -> tuple[str, ...]:
    """Lists the transforms that any of the operators states to be informative."""
    names = [name for member in operators for name in member.informative_transforms]
    return tuple(dict.fromkeys(names))


def all_uninformative(operators: Sequence[LinearOperator]) -> tuple[str, ...]:
    """Lists the transforms that all of the operators state to be uninformative."""
    return tuple(
        name
        for name in TRANSFORMS
        if all(name in member.uninformative_transforms for member in operators)
    )


def members_config(operators: Sequence[LinearOperator], shared: Sequence[str]) -> dict[str, Any]:
    """Serializes members and shared names."""
    return {
        "operators": [keras.saving.serialize_keras_object(member) for member in operators],
        "shared": list(shared),
    }


def with_members(config: dict[str, Any], custom_objects: Any) -> dict[str, Any]:
    """Returns a config whose members are operators again."""
    members = [
        keras.saving.deserialize_keras_object(member, custom_objects)
        for member in config["operators"]
    ]
    return {**config, "operators": members}
