"""The method of conjugate gradients, differentiable as the solution it finds."""

from collections.abc import Callable
from typing import Any

from keras import ops

from spade_keras import backend
from spade_keras.solvers.samples import Solution, check_stopping, choose, inner, norm, ratio, spread


def conjugate_gradient(
    function: Callable[[Any], Any],
    right: Any,
    *,
    start: Any = None,
    tolerance: float = 1e-5,
    max_iterations: int = 50,
) -> Solution:
    """Solves B x = b for self-adjoint, positive definite maps B, sample by sample.

        x <- x + a p,  r <- r - a B p,  a = ||r||^2 / <p, B p>,  p <- r' + ||r'||^2 / ||r||^2 p

    A sample stops when ||b - B x|| <= tolerance ||b||, or when <p, B p> is not positive and finite;
    the others continue. A tolerance of 0 takes exactly `max_iterations`; rounding limits it to
    about 1e-6 times the condition number.

    The gradient is that of the solution, not of the iteration: with the cotangent u of x, one more
    solve gives v = B^-1 u, the gradient with respect to b; parameters of B get that of -<v, B x> at
    fixed v and x. It is as exact as both solves, and needs the memory of one application of B.

    Args:
        function: x -> B x, from and to the shape of `right`; it must not mix samples, and may
            depend on variables and tensors, as in B x = A^H A x + weight x.
        right: b, of shape `(batch, ...)`. Complex values have two channels.
        start: First iterate; zero if None. It gets no gradient.
        tolerance: Bound on the relative residual.
        max_iterations: Most applications of B, plus one at the end.

    Returns:
        A `Solution` in float32, its residual recomputed from x. Gradients flow through `x`.

    Example:
        >>> import numpy as np
        >>> scale = np.array([[4.0, 1.0, 0.5]], "float32")
        >>> found = conjugate_gradient(lambda x: x * scale, np.ones((1, 3), "float32"))
        >>> [round(float(value), 3) for value in found.x[0]], int(found.iterations[0])
        ([0.25, 1.0, 2.0], 3)

    Reference:
        Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952.
    """
    check_stopping(tolerance, max_iterations)
    right = ops.cast(right, "float32")
    first = ops.zeros_like(right) if start is None else ops.cast(start, "float32")

    def solve(right: Any, first: Any) -> tuple[Any, Any, Any]:
        return backend.without_gradient(
            lambda pair: _iterate(function, pair[0], pair[1], tolerance, max_iterations),
            ops.stack([right, first]),
        )

    x, iterations, finite = solve(right, first)
    # Zero up to the tolerance, and as a function of b and B what defines x.
    gap = right - ops.cast(function(x), "float32")
    residual = ops.stop_gradient(ratio(norm(gap), norm(right)))
    x = backend.attach_gradient(x, gap, lambda u: solve(u, ops.zeros_like(u))[0])
    return Solution(x, residual, iterations, residual <= tolerance, finite)


def _iterate(
    function: Callable[[Any], Any], right: Any, first: Any, tolerance: float, max_iterations: int
) -> tuple[Any, Any, Any]:
    shape = ops.shape(right)
    target = (tolerance * norm(right)) ** 2

    def apply(x: Any) -> Any:
        return ops.reshape(ops.cast(function(x), "float32"), shape)

    def unfinished(x: Any, r: Any, p: Any, square: Any, active: Any, *_: Any) -> Any:
        return ops.any(active)

    def advance(
        x: Any, r: Any, p: Any, square: Any, active: Any, iterations: Any, finite: Any
    ) -> tuple[Any, ...]:
        image = apply(p)
        curvature = inner(p, image)
        sound = ops.isfinite(curvature)
        iterations = iterations + ops.cast(active, "int32")
        finite = finite & (sound | ops.logical_not(active))
        # Without positive curvature B is not positive definite there, and the step has no meaning.
        active = active & sound & (curvature > 0)
        length = spread(ratio(square, curvature), x)
        x = choose(active, x + length * p, x)
        r = choose(active, r - length * image, r)
        fresh = inner(r, r)
        p = choose(active, r + spread(ratio(fresh, square), x) * p, p)
        return x, r, p, fresh, active & (fresh > target), iterations, finite

    r = right - apply(first)
    square = inner(r, r)
    finite = ops.isfinite(square)
    active, none = finite & (square > target), ops.zeros_like(square, "int32")
    x, *_, iterations, finite = ops.while_loop(
        unfinished,
        advance,
        (first, r, r, square, active, none, finite),
        maximum_iterations=max_iterations,
    )
    return x, iterations, finite
