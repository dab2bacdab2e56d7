"""The variational network."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from spade_keras.backend import conjugate, to_complex, to_real
from spade_keras.errors import require
from spade_keras.networks.norm_unet import NormUNet
from spade_keras.networks.reconstruction_network import ReconstructionNetwork, Shape, check_counts
from spade_keras.operators import CartesianMRI, SingleCoilMRI

OUTPUTS = ("image", "magnitude")
# Keeps the gradient of a root finite at zero; far below the square of raw k-space values.
SMALLEST_POWER = 1e-24


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
        >>> from spade_keras.networks import priors
        >>> network = VarNet(CartesianMRI(), priors.unet(filters=[4, 8]), iterations=2)
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
        return ops.sqrt(power + SMALLEST_POWER)[..., None]

    @property
    def priors(self) -> dict[str, keras.Model]:
        """The networks that pruning may slim, by name: `cascade_0`, `cascade_1`, ..."""
        return {cascade.name: cascade.prior for cascade in self.cascades}

    def prior_input_shapes(self, inputs: Mapping[str, Any]) -> dict[str, list[Shape]]:
        """Returns the padded image's shape, once per cascade."""
        batch, _, height, width, _ = inputs["measurements"].shape
        return {c.name: [c.prior_input_shape(batch, height, width)] for c in self.cascades}

    def _priors_within(self, iterations: int) -> dict[str, keras.Model]:
        return dict(list(self.priors.items())[:iterations])

    def _arguments(self, priors: Mapping[str, keras.Model]) -> dict[str, Any]:
        cascades = [priors[name] for name in self.priors if name in priors]
        return {"operator": self.operator, "prior": cascades, "output": self.output_kind}


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
