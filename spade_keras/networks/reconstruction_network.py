"""The base of reconstruction networks: exchangeable priors, an iteration count, one config."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
from keras import ops

from spade_keras.errors import require
from spade_keras.operators.linear_operator import SavedBySettings, restore_objects

Shape = tuple[int | None, ...]


class ReconstructionNetwork(SavedBySettings, keras.Model):
    """Iterations between measurements and learned denoisers, the priors.

    Pruning and search see a network through `priors`, `with_priors`, `iterations`,
    `with_iterations` and `prior_input_shapes` alone.

    A subclass sets `operator`, `prior` and `iterations` and lists its other constructor arguments
    in `settings`, its scalar weights in `scalars`. That is enough to copy, shorten and save it.
    One with several priors overrides `priors`, `_arguments` and `prior_input_shapes`.
    """

    condition_channels: int = 0
    """Channels that its prior sees besides the image's, such as a map of the noise level."""

    settings: tuple[str, ...] = ()
    """Constructor arguments, besides operator and prior, that are attributes of the same name."""

    scalars: tuple[str, ...] = ()
    """Attributes that hold its own weights: numbers, or vectors with one entry per iteration."""

    def __init__(self, **kwargs: Any) -> None:
        # Measurements lose too much in 16 bits; priors keep their own policy.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.built = True  # all weights are made by the constructor

    @property
    def priors(self) -> dict[str, keras.Model]:
        """The denoisers, which pruning may slim, by name."""
        return {"prior": self.prior}

    def with_priors(self, priors: Mapping[str, keras.Model]) -> Self:
        """Returns a new network with other priors, by name, and copies of all other weights."""
        rule = f"`priors` must have the keys {sorted(self.priors)}."
        require(set(priors) == set(self.priors), rule, priors=sorted(priors))
        return self._copy(priors)

    def with_iterations(self, iterations: int) -> Self:
        """Returns a new network cut to its first iterations, with copies of all weights."""
        rule = f"`iterations` must be from 1 to {self.iterations}."
        require(1 <= iterations <= self.iterations, rule, iterations=iterations)
        return self._copy(self._copied_priors(iterations), iterations=iterations)

    def prior_input_shapes(self, inputs: Mapping[str, Any]) -> dict[str, list[Shape]]:
        """Returns, per prior, the input shape of each of its calls for a dict of input arrays."""
        return {"prior": [self._image_shape(inputs)] * self.iterations}

    def _image_shape(self, inputs: Mapping[str, Any]) -> Shape:
        first = {name: value[:1] for name, value in inputs.items()}
        image = self._data_gradient(first)[1]
        return (inputs["measurements"].shape[0], *image.shape[1:])

    def _data_gradient(self, inputs: Mapping[str, Any]) -> tuple[Callable[[Any], Any], Any]:
        """The function x -> A^H (A x - y), and A^H y, from which iterations start."""
        parameters = self.operator.parameters(inputs)
        measured = ops.cast(inputs["measurements"], "float32")
        # Computed once, A^H y leaves one A^H A per iteration, which skips half the transforms.
        backprojection = self.operator.adjoint(measured, **parameters)
        return lambda x: self.operator.normal(x, **parameters) - backprojection, backprojection

    def _priors_within(self, iterations: int) -> dict[str, keras.Model]:
        """The priors that the first iterations use."""
        return self.priors

    def _copied_priors(self, iterations: int) -> dict[str, keras.Model]:
        copies = {}
        for name, prior in self._priors_within(iterations).items():
            copies[name] = keras.models.clone_model(prior)
            copies[name].set_weights(prior.get_weights())
        return copies

    def _arguments(self, priors: Mapping[str, keras.Model]) -> dict[str, Any]:
        """The constructor's arguments for a copy of this network with these priors."""
        settings = super()._saved_arguments()
        return {"operator": self.operator, "prior": priors["prior"], **settings}

    def _copy(self, priors: Mapping[str, keras.Model], **changes: Any) -> Any:
        config = self.get_config()
        # A subclass may have renamed or replaced arguments, so they are read from its config.
        arguments = {k: v for k, v in self._arguments(priors).items() if k in config}
        own = {k: v for k, v in config.items() if k not in (*arguments, "trainable")}
        network = type(self)(**{**restore_objects(own), **arguments, **changes})
        self._copy_scalars_to(network)
        return network

    def _copy_scalars_to(self, network: Any) -> None:
        for name in self.scalars:
            values = ops.convert_to_numpy(getattr(self, name))
            target = getattr(network, name)
            # A shorter network keeps the entries of its iterations.
            target.assign(values[: target.shape[0]] if values.ndim else values)

    def add_scalars(self, name: str, start: float, count: int | None = None) -> Any:
        """Adds a trainable float32 number, or a vector of `count` numbers; list it in `scalars`."""
        shape = () if count is None else (count,)
        initializer = keras.initializers.Constant(start)
        return self.add_weight(name=name, shape=shape, initializer=initializer, dtype="float32")

    def _saved_arguments(self) -> dict[str, Any]:
        return self._arguments(self.priors)


def check_counts(**counts: int | None) -> None:
    """Raises a ValueError unless all arguments are positive integers."""
    for name, value in counts.items():
        rule = f"`{name}` must be an integer of at least 1."
        require(type(value) is int and value >= 1, rule, **{name: value})
