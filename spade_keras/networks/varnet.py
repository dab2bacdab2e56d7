"""The variational network, with given coil maps or end to end."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from spade_keras.backend import conjugate, to_complex, to_real
from spade_keras.errors import require
from spade_keras.networks.norm_unet import NormUNet, padded_shape
from spade_keras.networks.priors import unet
from spade_keras.networks.reconstruction_network import ReconstructionNetwork, Shape, check_counts
from spade_keras.operators import CartesianMRI, SingleCoilMRI

OUTPUTS = ("image", "magnitude")
# Keeps the gradient of a root finite at zero; far below the square of raw k-space values.
_SMALLEST_POWER = 1e-24
_SENSITIVITY = "sensitivity"


@keras.saving.register_keras_serializable(package="spade_keras")
class VarNet(ReconstructionNetwork):
    """Unrolled gradient descent on the k-space of all coils, with a U-Net per cascade.

        k_0 = y,    k_{t+1} = k_t - lambda_t M (k_t - y) - F S U_t(S^H F^-1 k_t)

    Every cascade t has its own weight lambda_t and its own network U_t, called between
    normalization and its inverse (`NormUNet`). It runs on the coil images c = F^-1 k:
    `c - lambda F^-1 M F (c - F^-1 y) - S U(S^H c)`. That is equivalent, and a mask of whole
    columns then needs transforms along the width alone.

    Args:
        operator: The forward model, with a unitary Fourier transform.
        prior: One Functional model per cascade, from complex images (2 channels) to complex
            images; or a single model, of which every cascade gets a copy with new weights.
        iterations: Number of cascades; where `prior` is a sequence, None or its length.
        output: "image": S^H F^-1 k, complex; "magnitude": the root of the sum of squares over the
            coils of F^-1 k, as in fastMRI's targets.

    Input shape:
        Dict with `measurements` `(batch, coils, height, width, 2)`, `mask` `(batch, 1 or height,
        width)`, 1 where sampled, and `sensitivities` `(batch, coils, height, width, 2)`.

    Output shape:
        `(batch, height, width, 2)`, or `(batch, height, width, 1)` for magnitudes; float32.

    Example:
        >>> network = VarNet(CartesianMRI(), unet(filters=[4, 8]), iterations=2)
        >>> sorted(network.priors)
        ['cascade_0', 'cascade_1']

    Reference:
        Hammernik et al., "Learning a variational network for reconstruction of accelerated MRI
        data", 2018; Sriram et al., "End-to-end variational networks for accelerated MRI
        reconstruction", 2020.
    """

    scalars = ("data_weights",)

    def __init__(
        self,
        operator: CartesianMRI,
        prior: keras.Model | Sequence[keras.Model],
        iterations: int | None = None,
        *,
        output: str = "image",
        **kwargs: Any,
    ) -> None:
        unitary = isinstance(operator, CartesianMRI) and operator.fft in ("fastmri", "modl")
        rule = "`operator` must be a CartesianMRI with a unitary Fourier transform, such as "
        require(unitary, rule + "CartesianMRI().", operator=operator)
        require(output in OUTPUTS, f"`output` must be one of {OUTPUTS}.", output=output)
        cascades = _one_per_cascade(prior, iterations)
        super().__init__(**kwargs)
        self.operator = operator
        self.output_kind = output
        self.cascades = [NormUNet(part, name=f"cascade_{t}") for t, part in enumerate(cascades)]
        self._transform = SingleCoilMRI(fft=operator.fft)
        self.data_weights = self.add_scalars("data_weights", 1.0, len(cascades))

    @property
    def iterations(self) -> int:
        """Number of cascades."""
        return len(self.cascades)

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Reconstructs an image batch from a dict of measurements, mask and coil maps."""
        parameters = self.operator.parameters(inputs)
        maps = to_complex(parameters["sensitivities"])
        measured = ops.cast(inputs["measurements"], "float32")
        mask = parameters["mask"][:, None]

        def combine(coil_images: Any) -> Any:
            """S^H c."""
            return to_real(ops.sum(conjugate(maps) * to_complex(coil_images), axis=1))

        def expand(image: Any) -> Any:
            """S x."""
            return to_real(maps * to_complex(image)[:, None])

        zero_filled = self._transform.adjoint(measured, mask=mask)
        x = zero_filled
        for t, cascade in enumerate(self.cascades):
            sampled = self._transform.normal(x, mask=mask)
            denoised = cascade(combine(x), training=training)
            x = x - self.data_weights[t] * (sampled - zero_filled) - expand(denoised)
        if self.output_kind == "image":
            return combine(x)
        power = ops.sum(x * x, axis=(1, 4))
        return ops.sqrt(power + _SMALLEST_POWER)[..., None]

    @property
    def priors(self) -> dict[str, keras.Model]:
        """The networks that pruning may slim, by name: `cascade_0`, `cascade_1`, ..."""
        return {cascade.name: cascade.prior for cascade in self.cascades}

    def prior_input_shapes(self, inputs: Mapping[str, Any]) -> dict[str, list[Shape]]:
        """Returns the padded image's shape, once per cascade."""
        batch, _, height, width, _ = inputs["measurements"].shape
        return {c.name: [padded_shape(c.prior, batch, height, width)] for c in self.cascades}

    def _priors_within(self, iterations: int) -> dict[str, keras.Model]:
        return dict(list(self.priors.items())[:iterations])

    def _arguments(self, priors: Mapping[str, keras.Model]) -> dict[str, Any]:
        cascades = [priors[name] for name in self.priors if name in priors]
        return {"operator": self.operator, "prior": cascades, "output": self.output_kind}


@keras.saving.register_keras_serializable(package="spade_keras")
class E2EVarNet(ReconstructionNetwork):
    """The variational network that estimates its coil maps with a second network.

        S_c = z_c / (sum_j |z_j|^2)^(1/2),    z_c = V(F^-1 W y_c),    x = VarNet(y, M, S)

    W keeps the fully sampled lines in the center of k-space (`autocalibration_window`): the number
    given by the input `acs_lines`, or those that the mask shows. V is called on each coil, between
    normalization and its inverse (`NormUNet`).

    The operator needs a centered unitary Fourier transform. `sensitivity` is V, a Functional model
    from complex images to complex images, by default the published U-Net of 4 poolings and 8
    channels. The other arguments and the output are those of `VarNet`.

    Input shape:
        Dict with `measurements` and `mask` as in `VarNet`, and optionally `acs_lines` `(batch,)`,
        integers. Coil maps are not read.

    Example:
        >>> small, smaller = unet(filters=[4, 8]), unet(filters=[2, 4])
        >>> list(E2EVarNet(CartesianMRI(), small, 2, sensitivity=smaller).priors)
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
            sensitivity = unet(filters=(8, 16, 32, 64, 128), name=_SENSITIVITY)
        super().__init__(**kwargs)
        self.varnet = varnet
        self.sensitivity = NormUNet(sensitivity, name=_SENSITIVITY)
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
        return maps / ops.sqrt(power + _SMALLEST_POWER)

    @property
    def priors(self) -> dict[str, keras.Model]:
        """The networks that pruning may slim: `sensitivity`, `cascade_0`, `cascade_1`, ..."""
        return {_SENSITIVITY: self.sensitivity.prior, **self.varnet.priors}

    def prior_input_shapes(self, inputs: Mapping[str, Any]) -> dict[str, list[Shape]]:
        """Returns the padded image's shape: for the coil maps once per coil, then per cascade."""
        batch, coils, height, width, _ = inputs["measurements"].shape
        images = None if batch is None else batch * coils
        return {
            _SENSITIVITY: [padded_shape(self.sensitivity.prior, images, height, width)],
            **self.varnet.prior_input_shapes(inputs),
        }

    def _priors_within(self, iterations: int) -> dict[str, keras.Model]:
        return {_SENSITIVITY: self.sensitivity.prior, **self.varnet._priors_within(iterations)}

    def _arguments(self, priors: Mapping[str, keras.Model]) -> dict[str, Any]:
        return {**self.varnet._arguments(priors), _SENSITIVITY: priors[_SENSITIVITY]}

    def _copy_scalars_to(self, network: Any) -> None:
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


def _one_per_cascade(
    prior: keras.Model | Sequence[keras.Model], iterations: int | None
) -> list[keras.Model]:
    if isinstance(prior, keras.Model):
        check_counts(iterations=iterations)
        return [keras.models.clone_model(prior) for _ in range(iterations or 0)]
    parts = list(prior)
    rule = (
        "`prior` must hold a model of its own for every cascade, since they share no weights; "
        "one model stands for copies of it."
    )
    require(parts and len({id(part) for part in parts}) == len(parts), rule, prior=prior)
    rule = f"`iterations` must be the number of priors, {len(parts)}, or be left out."
    require(iterations in (None, len(parts)), rule, iterations=iterations)
    return parts


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
