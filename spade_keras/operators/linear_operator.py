"""The interface of every linear forward model."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from spade_keras.errors import require
from spade_keras.solvers import power_iteration

Shape = tuple[int | None, ...]
Shapes = Mapping[str, Shape]


class SavedBySettings:
    """A layer whose config is its constructor's arguments, which may be layers or lists of them."""

    settings: tuple[str, ...] = ()
    """Constructor arguments that are attributes of the same name."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        base: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return {**base, **keras.saving.serialize_keras_object(self._saved_arguments())}

    def _saved_arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.settings}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes the layer of a config, with new weights."""
        return cls(**restore_objects(config, custom_objects))


class LinearOperator(SavedBySettings, keras.layers.Layer):
    """A linear forward model y = A x, without weights, computed in float32.

    Masks, coil maps, kernels and the like are arguments, so one operator serves a whole data set;
    networks pick those in `parameter_names` out of their inputs by `parameters`.

    A subclass implements `forward` and `adjoint`; `example_parameters` where it has parameters, and
    `measurement_shape` where measurements are not shaped as the image. `normal` may be overridden
    by something faster.
    """

    parameter_names: tuple[str, ...] = ()
    """Names of the arguments, besides the image, that `forward` takes."""

    informative_transforms: tuple[str, ...] = ()
    """Names in `TRANSFORMS` to learn equivariance from: their `commutator` is above 0.05."""

    uninformative_transforms: tuple[str, ...] = ()
    """Names in `TRANSFORMS` whose `commutator` is below 0.05. The others are informative too, but
    not the first choice."""

    def __init__(self, **kwargs: Any) -> None:
        # Fourier transforms fail in 16-bit floats on every backend.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.built = True  # there are no weights to build
        # A sampling mask is not the padding mask that Keras passes from layer to layer.
        self.supports_masking = True

    def __call__(self, x: Any, **parameters: Any) -> Any:
        """Returns A x, symbolic if an argument is."""
        # Under PyTorch a layer looks for symbolic arguments in `forward`, which here is A.
        if any(isinstance(value, keras.KerasTensor) for value in (x, *parameters.values())):
            return keras.Operation.symbolic_call(self, x, **parameters)
        return super().__call__(x, **parameters)

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

    def norm(
        self,
        x_shape: Sequence[int],
        parameters: Mapping[str, Any] | None = None,
        *,
        iterations: int = 200,
        tolerance: float = 1e-3,
        seed: int = 0,
    ) -> float:
        """Largest singular value of A over a batch, by power iteration on A^H A.

        It is found from below: steps of at most 1 / norm^2 are safe with a small margin. `x_shape`
        is that of an image batch, `(batch, height, width, channels)`, `seed` that of the first
        image. `iterations` bounds the applications of A^H A, `tolerance` the relative residual.
        """
        start = np.random.default_rng(seed).standard_normal(x_shape)
        arguments = {
            name: keras.ops.cast(value, "float32") for name, value in dict(parameters or {}).items()
        }
        eigenvalues = power_iteration(
            lambda v: self.normal(v, **arguments), start, iterations=iterations, tolerance=tolerance
        )
        return float(np.sqrt(np.max(keras.ops.convert_to_numpy(eigenvalues))))

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes random, plausible parameters (float32 arrays) to try or test the operator with."""
        if self.parameter_names:
            raise NotImplementedError(
                f"{type(self).__name__} must override `example_parameters`, since it has "
                f"parameters. Received: parameter_names={self.parameter_names}"
            )
        return {}

    def parameters(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Picks the arguments `parameter_names` out of a network's inputs, in float32."""
        missing = [name for name in self.parameter_names if name not in inputs]
        rule = f"{type(self).__name__} needs the inputs {list(self.parameter_names)}; missing: "
        rule += f"{missing}. Add them to the input dict."
        require(not missing, rule, inputs=sorted(inputs))
        return {name: keras.ops.cast(inputs[name], "float32") for name in self.parameter_names}

    def measurement_shape(self, x_shape: Shape, parameter_shapes: Shapes) -> Shape:
        """Returns the shape of A x, None where unknown, from those of x and all parameters."""
        return tuple(x_shape)

    def compute_output_spec(self, x: Any, **parameters: Any) -> keras.KerasTensor:
        """Describes A x of symbolic arguments, whose sizes may be unknown."""
        shapes = {name: value.shape for name, value in parameters.items()}
        return keras.KerasTensor(self.measurement_shape(x.shape, shapes), dtype="float32")

    def call(self, x: Any, **parameters: Any) -> Any:
        """Returns A x."""
        return self.forward(x, **parameters)


def restore_objects(config: Mapping[str, Any], custom_objects: Any = None) -> dict[str, Any]:
    """Returns a config in which serialized layers, alone or in lists, are layers again."""

    def restored(value: Any) -> Any:
        nested = isinstance(value, (dict, list))
        return keras.saving.deserialize_keras_object(value, custom_objects) if nested else value

    return {name: restored(value) for name, value in config.items()}


def check_operator(operator: Any) -> None:
    """Raises a ValueError unless `operator` is a LinearOperator."""
    rule = "`operator` must be a LinearOperator, such as CartesianMRI()."
    require(isinstance(operator, LinearOperator), rule, operator=operator)
