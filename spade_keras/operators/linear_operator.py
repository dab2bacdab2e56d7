"""The interface of every linear forward model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import keras


class LinearOperator(keras.layers.Layer):
    """A linear forward model y = A x, without weights, computed in float32.

    What differs from sample to sample (masks, coil maps, kernels) is an argument, so that one
    operator serves a whole data set; `parameter_names` lists those arguments, which networks pick
    out of their input dict by `parameters`.

    A subclass implements `forward` and `adjoint`; `normal` may be overridden by something faster.
    """

    parameter_names: tuple[str, ...] = ()
    """Names of the arguments, besides the image, that `forward` takes."""

    informative_transforms: tuple[str, ...] = ()
    """Image transforms that do not commute with A^H A, so that equivariance teaches something."""

    def __init__(self, **kwargs: Any) -> None:
        # Fourier transforms fail in 16-bit floats on every backend.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.built = True  # there are no weights to build
        # A sampling mask is not the padding mask that Keras passes from layer to layer.
        self.supports_masking = True

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Returns None: an operator's output has no padding."""
        return None

    @abstractmethod
    def forward(self, x: Any, **parameters: Any) -> Any:
        """Returns A x."""

    @abstractmethod
    def adjoint(self, y: Any, **parameters: Any) -> Any:
        """Returns A^H y."""

    def normal(self, x: Any, **parameters: Any) -> Any:
        """Returns A^H A x."""
        return self.adjoint(self.forward(x, **parameters), **parameters)

    def parameters(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Picks this operator's parameters out of a network's inputs.

        Args:
            inputs: Dict of tensors.

        Returns:
            Dict with the keys `parameter_names`.

        Raises:
            ValueError: If one is missing.
        """
        missing = [name for name in self.parameter_names if name not in inputs]
        if missing:
            raise ValueError(
                f"{type(self).__name__} needs the inputs {list(self.parameter_names)}; missing: "
                f"{missing}. Add them to the input dict. Received: inputs with keys "
                f"{sorted(inputs)}"
            )
        return {name: keras.ops.cast(inputs[name], "float32") for name in self.parameter_names}

    def call(self, x: Any, **parameters: Any) -> Any:
        """Returns A x."""
        return self.forward(x, **parameters)
