"""The end-to-end variational network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from spade_keras.errors import require
from spade_keras.networks.norm_unet import NormUNet
from spade_keras.networks.priors import unet
from spade_keras.networks.reconstruction_network import ReconstructionNetwork, Shape
from spade_keras.networks.varnet import SMALLEST_POWER, VarNet
from spade_keras.operators import CartesianMRI, SingleCoilMRI

SENSITIVITY = "sensitivity"


@keras.saving.register_keras_serializable(package="spade_keras")
class E2EVarNet(ReconstructionNetwork):
    """The variational network that estimates its coil maps with a second network.

        S_c = z_c / (sum_j |z_j|^2)^(1/2),    z_c = V(F^-1 W y_c),    x = VarNet(y, M, S)

    W keeps the fully sampled lines in the center of k-space (`autocalibration_window`): the number
    given by the input `acs_lines`, or those that the mask shows. V is called on each coil, between
    normalization and its inverse (`NormUNet`).

    Args:
        operator: The forward model, with a centered unitary Fourier transform.
        prior, iterations, output: See `VarNet`.
        sensitivity: Functional model V from complex images to complex images. None: the
            published U-Net of 4 poolings and 8 channels.

    Input shape:
        Dict with `measurements` and `mask` as in `VarNet`, and optionally `acs_lines` `(batch,)`,
        integers. Coil maps are not read.

    Output shape:
        That of `VarNet`.

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
        rule = (
            "`operator` must be a CartesianMRI with a centered unitary Fourier transform, such as "
            "CartesianMRI()."
        )
        require(getattr(operator, "fft", None) == "fastmri", rule, operator=operator)
        varnet = VarNet(operator, prior, iterations, output=output, name="varnet")
        if sensitivity is None:
            sensitivity = unet(filters=(8, 16, 32, 64, 128), name=SENSITIVITY)
        super().__init__(**kwargs)
        self.varnet = varnet
        self.sensitivity = NormUNet(sensitivity, name=SENSITIVITY)
        self._transform = SingleCoilMRI()

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

    def estimate_sensitivities(self, inputs: Mapping[str, Any], training: Any = None) -> Any:
        """Returns the coil maps S, of the shape of `measurements`; sum_c |S_c|^2 = 1."""
        measured = ops.cast(inputs["measurements"], "float32")
        mask = ops.cast(inputs["mask"], "float32")
        center = mask * autocalibration_window(mask, inputs.get("acs_lines"))
        coil_images = self._transform.adjoint(measured, mask=center[:, None])
        _, coils, height, width, _ = ops.shape(measured)
        maps = self.sensitivity(ops.reshape(coil_images, (-1, height, width, 2)), training=training)
        maps = ops.reshape(maps, (-1, coils, height, width, 2))
        power = ops.sum(maps * maps, axis=(1, 4), keepdims=True)
        return maps / ops.sqrt(power + SMALLEST_POWER)

    @property
    def priors(self) -> dict[str, keras.Model]:
        """The networks that pruning may slim: `sensitivity`, `cascade_0`, `cascade_1`, ..."""
        return {SENSITIVITY: self.sensitivity.prior, **self.varnet.priors}

    def prior_input_shapes(self, inputs: Mapping[str, Any]) -> dict[str, list[Shape]]:
        """Returns the padded image's shape: for the coil maps once per coil, then per cascade."""
        batch, coils, height, width, _ = inputs["measurements"].shape
        images = None if batch is None else batch * coils
        return {
            SENSITIVITY: [self.sensitivity.prior_input_shape(images, height, width)],
            **self.varnet.prior_input_shapes(inputs),
        }

    def _priors_within(self, iterations: int) -> dict[str, keras.Model]:
        return {SENSITIVITY: self.sensitivity.prior, **self.varnet._priors_within(iterations)}

    def _arguments(self, priors: Mapping[str, keras.Model]) -> dict[str, Any]:
        return {**self.varnet._arguments(priors), SENSITIVITY: priors[SENSITIVITY]}

    def _copy_scalars_to(self, network: E2EVarNet) -> None:
        self.varnet._copy_scalars_to(network.varnet)


def autocalibration_window(mask: Any, acs_lines: Any = None) -> Any:
    """Finds the fully sampled center of a mask `(batch, 1 or height, width)`, not 0 if sampled.

    Along the width, with the zero frequency in column c = floor(width / 2), let l consecutive
    sampled columns end left of c and r start at c. The window has n = max(2 min(l, r), 1) columns
    from (width - n + 1) // 2 on: as in fastMRI, sampled lines that happen to touch the block on
    one side do not count. A mask with rows is read along its middle row and its middle column, and
    the window is a rectangle. Where `acs_lines` gives the columns per sample, rows are not limited.
    Returns a float32 tensor, 1 inside the window, `(batch, 1, width)` or of the mask's shape.

    Example:
        >>> import numpy as np
        >>> mask = np.array([[[1, 0, 1, 1, 1, 1, 0, 0]]], "float32")
        >>> np.asarray(autocalibration_window(mask))[0, 0].astype(int)
        array([0, 0, 1, 1, 1, 1, 0, 0])
    """
    sampled = ops.cast(ops.not_equal(mask, 0), "float32")
    rows, width = ops.shape(sampled)[1:3]
    middle = sampled[:, rows // 2]
    if acs_lines is None:
        count = _center_run(middle, width)
    else:
        count = ops.cast(ops.reshape(acs_lines, (-1,)), "int32")
    window = _window(count, width)[:, None]
    if acs_lines is None and mask.shape[1] != 1:
        column = sampled[:, :, width // 2]
        window = _window(_center_run(column, rows), rows)[:, :, None] * window
    return window


def _center_run(line: Any, size: Any) -> Any:
    # A cumulative product is 1 up to the first line that was not sampled.
    center = size // 2
    left = ops.sum(ops.cumprod(ops.flip(line[:, :center], axis=1), axis=1), axis=1)
    right = ops.sum(ops.cumprod(line[:, center:], axis=1), axis=1)
    return ops.cast(ops.maximum(2 * ops.minimum(left, right), 1), "int32")


def _window(count: Any, size: Any) -> Any:
    first = (size - count + 1) // 2
    index = ops.arange(size, dtype="int32")[None]
    inside = ops.logical_and(index >= first[:, None], index < (first + count)[:, None])
    return ops.cast(inside, "float32")
