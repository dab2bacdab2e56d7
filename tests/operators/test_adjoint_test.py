"""What the dot-product test must catch, on every operator."""

import numpy as np
import pytest
from keras import ops

from spade_keras.operators import OPERATORS, Blur, Composition, Scaling, Stacking, adjoint_test

MEMBERS = {
    "composition": lambda kind: kind([Blur(), Blur("reflect")]),
    "stacking": lambda kind: kind([Blur(), Blur("reflect")]),
    "scaling": lambda kind: kind(Blur(), 3.0),
}


def make(name):
    kind = OPERATORS[name]
    return MEMBERS[name](kind) if name in MEMBERS else kind()


def spoil(operator, change):
    """Replaces the adjoint of one operator."""
    right = operator.adjoint
    operator.adjoint = lambda y, **parameters: change(right(y, **parameters))
    return operator


@pytest.mark.parametrize("name", OPERATORS)
def test_an_adjoint_scaled_by_a_thousandth_fails(name):
    shape = (1, 48, 48, 2)
    adjoint_test(make(name), shape)
    with pytest.raises(ValueError, match="relative mismatch must be at most 1e-05"):
        adjoint_test(spoil(make(name), lambda x: 1.001 * x), shape)


def test_an_adjoint_of_nan_fails():
    with pytest.raises(ValueError, match="random_error=nan"):
        adjoint_test(spoil(Blur(), lambda x: x * float("nan")), (1, 8, 8, 1))


def test_a_mirrored_adjoint_fails():
    with pytest.raises(ValueError, match=r"Blur\.adjoint"):
        adjoint_test(spoil(Blur(), lambda x: ops.flip(x, axis=1)), (1, 32, 32, 1))


def test_zero_measurements_tell_nothing():
    with pytest.raises(ValueError, match="A x must not be zero"):
        adjoint_test(Blur(), (1, 8, 8, 1), {"kernel": np.zeros((1, 3, 3), "float32")})


def test_the_tolerance_is_the_callers():
    assert adjoint_test(Blur(), (1, 9, 9, 1), tolerance=1e-6).tolerance == 1e-6
    with pytest.raises(ValueError, match="at most 0"):
        adjoint_test(Composition([Blur(), Scaling(Blur(), 0.3)]), (1, 9, 9, 1), tolerance=0.0)
    assert isinstance(Stacking([Blur()]), OPERATORS["stacking"])
