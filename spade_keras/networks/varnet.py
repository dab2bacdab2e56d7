"""The variational network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.networks.norm_unet import NormUNet
from spade_keras.networks.priors.copying import copy_prior
from spade_keras.operators import CartesianMRI, SingleCoilMRI
from spade_keras.operators.complex_pair import conjugate_multiply, join, multiply, split

OUTPUTS = ("image", "magnitude")
_SMALLEST_POWER = 1e-24


@keras.saving.register_keras_serializable(package="spade_keras")
class VarNet(keras.Model):
    """Unrolled gradient descent on the k-space of all coils, with a U-Net per cascade.

        k_0 = y,    k_{t+1} = k_t - lambda_t M (k_t - y) - F S U_t(S^H F^-1 k_t)

    Every cascade t has a weight lambda_t and a network U_t of its own, which is called between
    normalization and its inverse (`NormUNet`). The output is the image S^H F^-1 k, or the
    root of the sum of squares over the coils of F^-1 k.

    The iteration runs on the coil images c = F^-1 k, where it reads
    `c - lambda F^-1 M F (c - F^-1 y) - S U(S^H c)`. That is the same, but for a mask of whole
    columns needs transforms along the width alone.

    Args:
        operator: The forward model, with a unitary Fourier transform.
        prior: One Functional model per cascade, from complex images (2 channels) to complex
            images; or one model, of which every cascade gets a copy with new weights.
        iterations: Number of cascades; where `prior` is a sequence, None or its length.
        output: "image": complex, of 2 channels; "magnitude": the root of the sum of squares, of 1
            channel, which is what fastMRI's targets are.
        **kwargs: Of `keras.Model`, such as `name`.

    Input shape:
        Dict with `measurements` `(batch, coils, height, width, 2)`, `mask` `(batch, 1 or height,
        width)`, 1 where sampled, and `sensitivities` `(batch, coils, height, width, 2)`.

    Output shape:
        `(batch, height, width, 2)`, or `(batch, height, width, 1)` for magnitudes; float32.

    Raises:
        ValueError: If an argument is none of those.

    Example:
        >>> from spade_keras.networks import priors
        >>> network = VarNet(CartesianMRI(), priors.unet(filters=[4, 8]), iterations=2)
        >>> sorted(network.priors)
        ['cascade_0', 'cascade_1']

    Reference:
        Hammernik et al., "Learning a variational network for reconstruction of accelerated MRI
        data", 2018; Sriram et al., "End-to-end variational networks for accelerated MRI
        reconstruction", 2020.
    """

    def __init__(
        self,
        operator: CartesianMRI,
        prior: keras.Model | Sequence[keras.Model],
        iterations: int | None = None,
        *,
        output: str = "image",
        **kwargs: Any,
    ) -> None:
        if not isinstance(operator, CartesianMRI) or operator.fft not in ("fastmri", "modl"):
            raise ValueError(
                "`operator` must be a CartesianMRI with a unitary Fourier transform, such as "
                f"CartesianMRI(). Received: operator={operator!r}"
            )
        if output not in OUTPUTS:
            raise ValueError(f"`output` must be one of {OUTPUTS}. Received: output={output!r}")
        cascades = _one_per_cascade(prior, iterations)
        kwargs["dtype"] = "float32"  # measurements lose too much in 16 bits
        super().__init__(**kwargs)
        self.operator = operator
        self.output_kind = output
        self.cascades = [NormUNet(part, name=f"cascade_{t}") for t, part in enumerate(cascades)]
        self._transform = SingleCoilMRI(fft=operator.fft)
        self.data_weights = self.add_weight(
            name="data_weights", shape=(len(cascades),), initializer="ones", dtype="float32"
        )
        self.built = True

    @property
    def iterations(self) -> int:
        """Number of cascades."""
        return len(self.cascades)

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Reconstructs an image batch from a dict of measurements, mask and coil maps."""
        parameters = self.operator.parameters(inputs)
        maps = split(parameters["sensitivities"])
        measured = ops.cast(inputs["measurements"], "float32")
        _, coils, height, width, _ = ops.shape(measured)
        mask = ops.repeat(parameters["mask"], coils, axis=0)

        def flatten(x: Any) -> Any:
            return ops.reshape(x, (-1, height, width, 2))

        def unflatten(x: Any) -> Any:
            return ops.reshape(x, (-1, coils, height, width, 2))

        zero_filled = unflatten(self._transform.adjoint(flatten(measured), mask=mask))
        x = zero_filled
        for t, cascade in enumerate(self.cascades):
            sampled = unflatten(self._transform.normal(flatten(x), mask=mask))
            denoised = cascade(_combine(maps, x), training=training)
            x = x - self.data_weights[t] * (sampled - zero_filled) - _expand(maps, denoised)
        if self.output_kind == "image":
            return _combine(maps, x)
        power = ops.sum(x * x, axis=(1, 4))
        return ops.sqrt(power + _SMALLEST_POWER)[..., None]

    @property
    def priors(self) -> dict[str, keras.Model]:
        """The networks that pruning may slim, by name: `cascade_0`, `cascade_1`, ..."""
        return {cascade.name: cascade.prior for cascade in self.cascades}

    def with_priors(self, priors: Mapping[str, keras.Model]) -> VarNet:
        """Returns a new network with other priors and copies of all other weights.

        Args:
            priors: The new priors, under the keys of `priors`.

        Raises:
            ValueError: If the keys differ from those of `priors`.
        """
        if set(priors) != set(self.priors):
            raise ValueError(
                f"`priors` must have the keys {sorted(self.priors)}. Received: {sorted(priors)}"
            )
        return self._copy([priors[key] for key in self.priors])

    def with_iterations(self, iterations: int) -> VarNet:
        """Returns a new network cut to its first cascades, with copies of their priors.

        Args:
            iterations: From 1 to the present number.

        Raises:
            ValueError: If it is outside that range.
        """
        if not 1 <= iterations <= self.iterations:
            raise ValueError(
                f"`iterations` must be from 1 to {self.iterations}. "
                f"Received: iterations={iterations}"
            )
        return self._copy([copy_prior(part) for part in list(self.priors.values())[:iterations]])

    def prior_input_shapes(
        self, inputs: Mapping[str, Any]
    ) -> dict[str, list[tuple[int | None, ...]]]:
        """Returns, per prior, the input shape of each of its calls in one forward pass.

        Args:
            inputs: Dict of arrays, as for a call.
        """
        batch, _, height, width, _ = inputs["measurements"].shape
        return {
            cascade.name: [cascade.prior_input_shape(batch, height, width)]
            for cascade in self.cascades
        }

    def _copy(self, priors: Sequence[keras.Model]) -> VarNet:
        network = VarNet(self.operator, priors, output=self.output_kind, name=self.name)
        weights: np.ndarray = ops.convert_to_numpy(self.data_weights)
        network.data_weights.assign(weights[: len(priors)])
        return network

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make the network again, weights apart."""
        return {
            **super().get_config(),
            "operator": keras.saving.serialize_keras_object(self.operator),
            "prior": [keras.saving.serialize_keras_object(p) for p in self.priors.values()],
            "output": self.output_kind,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> VarNet:
        """Makes the network of a config, with new weights."""
        config = dict(config)
        for part in ("operator", "prior"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
        return cls(**config)


def _one_per_cascade(
    prior: keras.Model | Sequence[keras.Model], iterations: int | None
) -> list[keras.Model]:
    if isinstance(prior, keras.Model):
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise ValueError(
                "`iterations` must be an integer of at least 1 where one prior is given. "
                f"Received: iterations={iterations}"
            )
        return [keras.models.clone_model(prior) for _ in range(iterations)]
    parts = list(prior)
    if not parts or len({id(part) for part in parts}) < len(parts):
        raise ValueError(
            "`prior` must hold a model of its own for every cascade, since they share no weights; "
            f"one model stands for copies of it. Received: prior={prior}"
        )
    if iterations not in (None, len(parts)):
        raise ValueError(
            f"`iterations` must be the number of priors, {len(parts)}, or be left out. "
            f"Received: iterations={iterations}"
        )
    return parts


def _combine(maps: Any, coil_images: Any) -> Any:
    """S^H c."""
    real, imaginary = conjugate_multiply(maps, split(coil_images))
    return join((ops.sum(real, axis=1), ops.sum(imaginary, axis=1)))


def _expand(maps: Any, image: Any) -> Any:
    """S x."""
    real, imaginary = split(image)
    return join(multiply(maps, (real[:, None], imaginary[:, None])))
