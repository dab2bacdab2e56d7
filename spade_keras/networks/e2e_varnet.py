"""The end-to-end variational network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from spade_keras.networks.autocalibration import autocalibration_window
from spade_keras.networks.norm_unet import NormUNet
from spade_keras.networks.priors import unet
from spade_keras.networks.priors.copying import copy_prior
from spade_keras.networks.varnet import VarNet
from spade_keras.operators import CartesianMRI, SingleCoilMRI

_SMALLEST_POWER = 1e-24
SENSITIVITY = "sensitivity"


@keras.saving.register_keras_serializable(package="spade_keras")
class E2EVarNet(keras.Model):
    """The variational network with coil maps that a network of its own makes from the data.

        S_c = z_c / (sum_j |z_j|^2)^(1/2),    z_c = V(F^-1 W y_c),    x = VarNet(y, M, S)

    W keeps the fully sampled lines in the center of k-space (`autocalibration_window`): as many as
    the input `acs_lines` says, or those that the mask shows. V is called on each coil, between
    normalization and its inverse (`NormUNet`).

    Args:
        operator: The forward model, with a centered unitary Fourier transform.
        prior: The priors of the cascades; see `VarNet`.
        iterations: Number of cascades; see `VarNet`.
        sensitivity: Functional model V from complex images to complex images. None: the
            published U-Net of 4 poolings and 8 channels.
        output: "image" or "magnitude"; see `VarNet`.
        **kwargs: Of `keras.Model`, such as `name`.

    Input shape:
        Dict with `measurements` `(batch, coils, height, width, 2)`, `mask` `(batch, 1 or height,
        width)`, 1 where sampled, and, if it is to be told, `acs_lines` `(batch,)`, integers. Coil
        maps are not read.

    Output shape:
        `(batch, height, width, 2)`, or `(batch, height, width, 1)` for magnitudes; float32.

    Raises:
        ValueError: If an argument is none of those.

    Example:
        >>> from spade_keras.networks import priors
        >>> small = priors.unet(filters=[4, 8])
        >>> network = E2EVarNet(CartesianMRI(), small, 2, sensitivity=priors.unet(filters=[2, 4]))
        >>> list(network.priors)
        ['sensitivity', 'cascade_0', 'cascade_1']

    Reference:
        Sriram et al., "End-to-end variational networks for accelerated MRI reconstruction", 2020.
    """

    def __init__(
        self,
        operator: CartesianMRI,
        prior: keras.Model | Sequence[keras.Model],
        iterations: int | None = None,
        *,
        sensitivity: keras.Model | None = None,
        output: str = "image",
        **kwargs: Any,
    ) -> None:
        if getattr(operator, "fft", None) != "fastmri":
            raise ValueError(
                "`operator` must be a CartesianMRI with a centered unitary Fourier transform, such "
                f"as CartesianMRI(). Received: operator={operator!r}"
            )
        varnet = VarNet(operator, prior, iterations, output=output, name="varnet")
        if sensitivity is None:
            sensitivity = unet(filters=(8, 16, 32, 64, 128), name=SENSITIVITY)
        kwargs["dtype"] = "float32"  # measurements lose too much in 16 bits
        super().__init__(**kwargs)
        self.varnet = varnet
        self.sensitivity = NormUNet(sensitivity, name=SENSITIVITY)
        self._transform = SingleCoilMRI()
        self.built = True

    @property
    def operator(self) -> CartesianMRI:
        """The forward model."""
        return self.varnet.operator

    @property
    def iterations(self) -> int:
        """Number of cascades."""
        return self.varnet.iterations

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Reconstructs an image batch from a dict of measurements and mask."""
        maps = self.estimate_sensitivities(inputs, training=training)
        return self.varnet({**inputs, "sensitivities": maps}, training=training)

    def estimate_sensitivities(
        self, inputs: Mapping[str, Any], training: bool | None = None
    ) -> Any:
        """Returns the coil maps S, of the shape of `measurements`; sum_c |S_c|^2 = 1.

        Args:
            inputs: As for a call.
            training: As for a call.
        """
        measured = ops.cast(inputs["measurements"], "float32")
        _, coils, height, width, _ = ops.shape(measured)
        mask = ops.cast(inputs["mask"], "float32")
        center = mask * autocalibration_window(mask, inputs.get("acs_lines"))
        coil_images = self._transform.adjoint(
            ops.reshape(measured, (-1, height, width, 2)), mask=ops.repeat(center, coils, axis=0)
        )
        maps = self.sensitivity(coil_images, training=training)
        maps = ops.reshape(maps, (-1, coils, height, width, 2))
        power = ops.sum(maps * maps, axis=(1, 4), keepdims=True)
        return maps / ops.sqrt(power + _SMALLEST_POWER)

    @property
    def priors(self) -> dict[str, keras.Model]:
        """The networks that pruning may slim: `sensitivity`, `cascade_0`, `cascade_1`, ..."""
        return {SENSITIVITY: self.sensitivity.prior, **self.varnet.priors}

    def with_priors(self, priors: Mapping[str, keras.Model]) -> E2EVarNet:
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
        cascades = {key: priors[key] for key in self.varnet.priors}
        return self._copy(self.varnet.with_priors(cascades), priors[SENSITIVITY])

    def with_iterations(self, iterations: int) -> E2EVarNet:
        """Returns a new network cut to its first cascades, with copies of all its priors.

        Args:
            iterations: From 1 to the present number.

        Raises:
            ValueError: If it is outside that range.
        """
        return self._copy(
            self.varnet.with_iterations(iterations), copy_prior(self.sensitivity.prior)
        )

    def prior_input_shapes(
        self, inputs: Mapping[str, Any]
    ) -> dict[str, list[tuple[int | None, ...]]]:
        """Returns, per prior, the input shape of each of its calls in one forward pass.

        Args:
            inputs: Dict of arrays, as for a call.
        """
        batch, coils, height, width, _ = inputs["measurements"].shape
        images = None if batch is None else batch * coils
        return {
            SENSITIVITY: [self.sensitivity.prior_input_shape(images, height, width)],
            **self.varnet.prior_input_shapes(inputs),
        }

    def _copy(self, varnet: VarNet, sensitivity: keras.Model) -> E2EVarNet:
        network = E2EVarNet(
            varnet.operator,
            list(varnet.priors.values()),
            sensitivity=sensitivity,
            output=varnet.output_kind,
            name=self.name,
        )
        network.varnet.data_weights.assign(ops.convert_to_numpy(varnet.data_weights))
        return network

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make the network again, weights apart."""
        varnet = self.varnet.get_config()
        return {
            **super().get_config(),
            **{key: varnet[key] for key in ("operator", "prior", "output")},
            "sensitivity": keras.saving.serialize_keras_object(self.sensitivity.prior),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> E2EVarNet:
        """Makes the network of a config, with new weights."""
        config = dict(config)
        for part in ("operator", "prior", "sensitivity"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
        return cls(**config)
