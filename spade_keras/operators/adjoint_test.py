"""The dot-product test of an adjoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from spade_keras.errors import require
from spade_keras.operators.linear_operator import LinearOperator


@dataclass(frozen=True)
class AdjointReport:
    """Relative mismatch of <A x, y> and <x, A^H y> on both probes.

    `random_error` is that with a random y, `aligned_error` that with y = A x + 0.1 ||A x|| noise,
    where a wrongly scaled adjoint shows; `tolerance` is the largest value allowed for both.
    """

    random_error: float
    aligned_error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both errors are within the tolerance."""
        # Compared one by one, since a maximum may hide a NaN.
        return self.random_error <= self.tolerance and self.aligned_error <= self.tolerance


def adjoint_test(
    operator: LinearOperator,
    x_shape: tuple[int, ...],
    parameters: Mapping[str, Any] | None = None,
    *,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> AdjointReport:
    """Checks |<A x, y> - <x, A^H y>| / (||A x|| ||y||) <= tolerance on two probes.

    With a random y alone <A x, y> is close to zero at image scale, so an adjoint that is wrong by
    a factor passes; the second probe is therefore aligned with A x.

    `x_shape` is that of an image batch, `(batch, height, width, channels)`; `parameters` are by
    default the operator's `example_parameters`.

    Raises:
        ValueError: If a probe exceeds the tolerance, or A x is zero, which proves nothing.

    Example:
        >>> from spade_keras.operators import Blur
        >>> adjoint_test(Blur("reflect"), (2, 9, 7, 3)).passed
        True

    Reference:
        Claerbout, "Earth soundings analysis: processing versus inversion", 1992, section 5.
    """
    rng = np.random.default_rng(seed)
    examples = operator.example_parameters(x_shape, seed) if parameters is None else parameters
    arguments = dict(examples)
    x = rng.standard_normal(x_shape).astype("float32")
    ax = _to_numpy(operator.forward(x, **arguments))
    size = np.linalg.norm(ax)
    rule = "A x must not be zero. Give parameters that let something pass."
    require(size != 0, rule, operator=type(operator).__name__, parameters=sorted(arguments))
    free = rng.standard_normal(ax.shape)
    noise = rng.standard_normal(ax.shape)
    aligned = ax + 0.1 * size * noise / np.linalg.norm(noise)

    def mismatch(y: np.ndarray) -> float:
        ahy = _to_numpy(operator.adjoint(y.astype("float32"), **arguments))
        y = y.astype("float32").astype("float64")
        gap = abs(np.vdot(ax, y) - np.vdot(x.astype("float64"), ahy))
        return float(gap / (size * np.linalg.norm(y)))

    report = AdjointReport(mismatch(free), mismatch(aligned), tolerance)
    if not report.passed:
        raise ValueError(
            f"`{type(operator).__name__}.adjoint` is not the adjoint of `forward`: the relative "
            f"mismatch must be at most {tolerance:g}. Received: random_error="
            f"{report.random_error:.3g}, aligned_error={report.aligned_error:.3g}"
        )
    return report


def _to_numpy(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x), dtype="float64")
