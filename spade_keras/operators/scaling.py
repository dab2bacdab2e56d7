"""An operator times a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from spade_keras.operators.linear_operator import LinearOperator, Shape


@keras.saving.register_keras_serializable(package="spade_keras")
class Scaling(LinearOperator):
    """y = factor A x, for data in other units or an operator that should have norm 1.

    Args:
        operator: The operator A, whose parameters it takes.
        factor: A finite real number.
        **kwargs: Of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `operator` is no LinearOperator or `factor` not a finite number.

    Example:
        >>> import numpy as np
        >>> from spade_keras.operators import Denoising
        >>> float(Scaling(Denoising(), 2.5).forward(np.ones((1, 1, 1, 1)))[0, 0, 0, 0])
        2.5
    """

    def __init__(self, operator: LinearOperator, factor: float, **kwargs: Any) -> None:
        if not isinstance(operator, LinearOperator):
            raise ValueError(f"`operator` must be a LinearOperator. Received: operator={operator}")
        if not isinstance(factor, (int, float)) or not math.isfinite(factor):
            raise ValueError(f"`factor` must be a finite number. Received: factor={factor}")
        super().__init__(**kwargs)
        self.operator = operator
        self.factor = float(factor)
        self.parameter_names = operator.parameter_names
        self.informative_transforms = operator.informative_transforms
        self.uninformative_transforms = operator.uninformative_transforms

    def forward(self, x: Any, **parameters: Any) -> Any:
        """Returns factor A x."""
        return self.factor * self.operator.forward(x, **parameters)

    def adjoint(self, y: Any, **parameters: Any) -> Any:
        """Returns factor A^H y."""
        return self.factor * self.operator.adjoint(y, **parameters)

    def normal(self, x: Any, **parameters: Any) -> Any:
        """Returns factor^2 A^H A x."""
        return self.factor**2 * self.operator.normal(x, **parameters)

    def measurement_shape(
        self, x_shape: Shape, parameter_shapes: Mapping[str, Shape]
    ) -> tuple[int | None, ...]:
        """Returns that of the operator's measurements."""
        return self.operator.measurement_shape(x_shape, parameter_shapes)

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes the operator's examples."""
        return self.operator.example_parameters(x_shape, seed)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "operator": keras.saving.serialize_keras_object(self.operator),
            "factor": self.factor,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Scaling:
        """Makes the operator of a config."""
        operator = keras.saving.deserialize_keras_object(config["operator"], custom_objects)
        return cls(**{**config, "operator": operator})
