"""Cartesian magnetic resonance imaging with one or several receiver coils."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.backend import conjugate, fft, to_complex, to_real
from spade_keras.errors import require
from spade_keras.operators.fourier import FFT_CONVENTIONS
from spade_keras.operators.linear_operator import LinearOperator, Shape, Shapes


class _CartesianSampling(LinearOperator):
    """Fourier transform of a convention, and sampling mask."""

    informative_transforms = ("rotate90",)
    uninformative_transforms = ("flip_vertical", "shift")
    settings = ("fft",)

    def __init__(self, fft: str = "fastmri", **kwargs: Any) -> None:
        require(fft in FFT_CONVENTIONS, f"`fft` must be one of {sorted(FFT_CONVENTIONS)}.", fft=fft)
        super().__init__(**kwargs)
        self.fft = fft
        self._convention = FFT_CONVENTIONS[fft]

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes a mask that keeps about every third column."""
        batch, _, width = x_shape[:3]
        mask = np.random.default_rng(seed).uniform(size=(batch, 1, width)) < 0.25
        margin = max(1, width // 10) // 2
        mask[..., width // 2 - margin : width // 2 + margin + 1] = True
        if not self._convention.centered:
            mask = np.fft.ifftshift(mask, axes=-1)
        return {"mask": mask.astype("float32")}


@keras.saving.register_keras_serializable(package="spade_keras")
class CartesianMRI(_CartesianSampling):
    """y_c = M F S_c x for every coil c: coil maps, Fourier transform, sampling mask.

    `fft` is the convention of the Fourier transform, a key of `FFT_CONVENTIONS`: "fastmri"
    (centered and unitary: also sigpy's and deepinv's), "modl" (unitary, zero frequency first: the
    mask then has that order, too), or "calgary" (zero frequency first, unscaled: A is then larger
    by the root of the number of pixels).

    Input shape:
        `x`: `(batch, height, width, 2)`, complex image as two channels.
        `mask`: `(batch, 1 or height, width)`, 1 where sampled, or a real weight.
        `sensitivities`: `(batch, coils, height, width, 2)`, or the backend's complex tensor of
        shape `(batch, coils, height, width)`, which saves a copy under TensorFlow. With
        sum_c |S_c|^2 <= 1 the norm of a unitary A is at most 1.

    Output shape:
        `(batch, coils, height, width, 2)`, zero where not sampled.

    Example:
        >>> x, maps = np.ones((1, 8, 6, 2), "float32"), np.ones((1, 4, 8, 6, 2), "float32")
        >>> mask = np.ones((1, 1, 6), "float32")
        >>> tuple(CartesianMRI().forward(x, mask=mask, sensitivities=maps).shape)
        (1, 4, 8, 6, 2)

    Reference:
        Pruessmann et al., "SENSE: sensitivity encoding for fast MRI", 1999.
    """

    parameter_names = ("mask", "sensitivities")

    def forward(self, x: Any, *, mask: Any, sensitivities: Any) -> Any:  # type: ignore[override]
        """Returns M F S x."""
        height, width = ops.shape(x)[1:3]
        # One ramp on the image instead of one per coil; the spectrum's is part of the weights.
        image = self._convention.modulate(to_complex(x))
        spectrum = fft(to_complex(sensitivities) * image[:, None])
        return to_real(spectrum * self._convention.forward_weights(mask, height, width)[:, None])

    def adjoint(self, y: Any, *, mask: Any, sensitivities: Any) -> Any:  # type: ignore[override]
        """Returns S^H F^H M y, of shape `(batch, height, width, 2)`."""
        height, width = ops.shape(y)[2:4]
        weights = self._convention.adjoint_weights(mask, height, width)
        coil_images = fft(to_complex(y) * weights[:, None], inverse=True)
        image = ops.sum(conjugate(to_complex(sensitivities)) * coil_images, axis=1)
        return to_real(self._convention.demodulate(image))

    def normal(self, x: Any, *, mask: Any, sensitivities: Any) -> Any:  # type: ignore[override]
        """Returns S^H F^H M^2 F S x, by plain FFTs.

        The mask is diagonal, so centering only shifts it. Where the mask has one row, the
        transforms along the height cancel: half the work.
        """
        height, width = ops.shape(x)[1:3]
        axes = 1 if mask.shape[1] == 1 else 2
        maps = to_complex(sensitivities)
        weights = self._convention.normal_weights(mask, height, width)[:, None]
        # One name for all steps: eager memory is freed once nothing refers to it.
        coils = fft(maps * to_complex(x)[:, None], axes=axes)
        coils = coils * weights
        coils = fft(coils, axes=axes, inverse=True)
        coils = coils * conjugate(maps)
        return to_real(ops.sum(coils, axis=1))

    def measurement_shape(self, x_shape: Shape, parameter_shapes: Shapes) -> Shape:
        """Returns `(batch, coils, height, width, 2)`."""
        batch, height, width, _ = x_shape
        return batch, parameter_shapes["sensitivities"][1], height, width, 2

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes a mask that keeps about every third column, and smooth maps of four coils."""
        maps = _coil_maps(x_shape, seed)
        return {**super().example_parameters(x_shape, seed), "sensitivities": maps}


@keras.saving.register_keras_serializable(package="spade_keras")
class SingleCoilMRI(_CartesianSampling):
    """y = M F x: Fourier transform and sampling mask, for one coil of uniform sensitivity.

    Arguments and inputs are those of `CartesianMRI`, without `sensitivities`.

    Output shape:
        `(batch, height, width, 2)`, zero where not sampled.

    Example:
        >>> x = np.ones((1, 8, 6, 2), "float32")
        >>> y = SingleCoilMRI().forward(x, mask=np.ones((1, 1, 6), "float32"))
        >>> tuple(y.shape), round(float(y[0, 4, 3, 0]), 3)
        ((1, 8, 6, 2), 6.928)

    Reference:
        Lustig, Donoho and Pauly, "Sparse MRI", 2007.
    """

    parameter_names = ("mask",)

    def forward(self, x: Any, *, mask: Any) -> Any:  # type: ignore[override]
        """Returns M F x."""
        height, width = ops.shape(x)[-3:-1]
        spectrum = fft(self._convention.modulate(to_complex(x)))
        return to_real(spectrum * self._convention.forward_weights(mask, height, width))

    def adjoint(self, y: Any, *, mask: Any) -> Any:  # type: ignore[override]
        """Returns F^H M y."""
        height, width = ops.shape(y)[-3:-1]
        weights = self._convention.adjoint_weights(mask, height, width)
        image = fft(to_complex(y) * weights, inverse=True)
        return to_real(self._convention.demodulate(image))

    def normal(self, x: Any, *, mask: Any) -> Any:  # type: ignore[override]
        """Returns F^H M^2 F x, by plain FFTs; along the width alone for a mask of one row."""
        height, width = ops.shape(x)[-3:-1]
        axes = 1 if mask.shape[-2] == 1 else 2
        weights = self._convention.normal_weights(mask, height, width)
        spectrum = fft(to_complex(x), axes=axes) * weights
        return to_real(fft(spectrum, axes=axes, inverse=True))


def _coil_maps(x_shape: Sequence[int], seed: int, coils: int = 4) -> np.ndarray:
    """Smooth maps of coils around the image, `(batch, coils, height, width, 2)`, of power 1."""
    batch, height, width = x_shape[:3]
    rng = np.random.default_rng(seed)
    v, u = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    around = 2 * np.pi * np.arange(coils) / coils + rng.uniform(0, 2 * np.pi, (batch, 1))
    across, along = 1.2 * np.cos(around)[..., None, None], 1.2 * np.sin(around)[..., None, None]
    distance = np.hypot(u - across, v - along)
    turn = rng.uniform(0, 2 * np.pi, (batch, coils, 1, 1))
    maps = np.exp(-0.5 * distance**2 + 1j * (turn + distance))
    maps /= np.sqrt(np.sum(np.abs(maps) ** 2, axis=1, keepdims=True))
    return np.stack([maps.real, maps.imag], axis=-1).astype("float32")
