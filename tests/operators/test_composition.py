"""Names of parameters, shapes that do not fit, and what compositions state."""

import numpy as np
import pytest
from keras import ops

from spade_keras import networks
from spade_keras.operators import (
    OPERATORS,
    Blur,
    CartesianMRI,
    Composition,
    Denoising,
    Downsampling,
    Inpainting,
    Scaling,
    Stacking,
)


@pytest.mark.once
def test_names_are_numbered_only_where_they_collide():
    assert Composition([Blur(), Inpainting()]).parameter_names == ("kernel", "mask")
    twice = Composition([Blur(), Inpainting(), Blur()])
    assert twice.parameter_names == ("kernel_0", "mask", "kernel_2")
    nested = Stacking([twice, twice])
    assert nested.parameter_names[:3] == ("kernel_0_0", "mask_0", "kernel_2_0")
    shared = Stacking([CartesianMRI(), CartesianMRI()], shared=["sensitivities"])
    assert shared.parameter_names == ("mask_0", "sensitivities", "mask_1")


def test_every_member_gets_its_own_parameter():
    x = np.ones((1, 6, 6, 1), "float32")
    light, strong = np.full((1, 1, 1), 2.0), np.full((1, 1, 1), 5.0)
    y = Stacking([Blur(), Blur()]).forward(x, kernel_0=light, kernel_1=strong)
    np.testing.assert_allclose(ops.convert_to_numpy(y)[0, :, 0, 0, 0], [2, 5], rtol=1e-6)
    once = Composition([Blur(), Blur()], shared=["kernel"]).forward(x, kernel=strong)
    np.testing.assert_allclose(ops.convert_to_numpy(once)[0, 0, 0, 0], 25, rtol=1e-6)


@pytest.mark.once
def test_names_that_still_collide_are_refused():
    pair = Composition([Blur(), Blur("valid")])
    with pytest.raises(ValueError, match=r"same name.*\['kernel_1'\]"):
        Composition([pair, Blur(), Blur()])
    with pytest.raises(ValueError, match=r"same name.*\['kernel_1'\]"):
        Stacking([pair, Blur(), Blur()], shared=["kernel_1"])


@pytest.mark.once
@pytest.mark.parametrize("kind", [Composition, Stacking])
def test_bad_members_are_named(kind):
    with pytest.raises(ValueError, match=r"one or more LinearOperators\. Received: operators=\[\]"):
        kind([])
    with pytest.raises(ValueError, match="Received: operators="):
        kind([Blur(), "blur"])
    with pytest.raises(ValueError, match=r"\['kernel'\]. Received: shared=\['mask'\]"):
        kind([Blur()], shared=["mask"])


def test_stacked_measurements_must_have_one_shape():
    parameters = {"kernel": np.ones((1, 1, 1), "float32")}
    stacked = Stacking([Downsampling(2), Denoising()])
    with pytest.raises(ValueError, match="one shape"):
        stacked.forward(np.ones((1, 4, 4, 1), "float32"), **parameters)
    with pytest.raises(ValueError, match="one shape"):
        stacked.measurement_shape((1, 4, 4, 1), {"kernel": (1, 1, 1)})


@pytest.mark.once
@pytest.mark.parametrize("factor", [float("nan"), float("inf"), "2"])
def test_bad_factors_are_named(factor):
    with pytest.raises(ValueError, match=f"Received: factor={factor!r}"):
        Scaling(Denoising(), factor)


@pytest.mark.once
def test_transforms_of_compositions_are_those_of_the_members():
    both = Composition([Blur(), Inpainting()])
    assert both.informative_transforms[:2] == ("rotate90", "scale")
    assert set(both.informative_transforms) == {
        *Blur().informative_transforms,
        *Inpainting().informative_transforms,
    }
    assert both.uninformative_transforms == ()
    assert Stacking([Blur(), Denoising()]).uninformative_transforms == ("shift",)


@pytest.mark.once
def test_registry():
    assert isinstance(OPERATORS.make("blur", boundary="valid"), Blur)
    with pytest.raises(ValueError, match=r"Known ones: blur,.*Received: 'radon'"):
        OPERATORS.make("radon")
    with pytest.raises(ValueError, match="exists"):
        OPERATORS.register("blur", Blur)


@pytest.mark.once
def test_what_is_no_operator_is_refused_where_it_is_used():
    OPERATORS.register("text", str)
    try:
        text, prior = OPERATORS.make("text"), networks.priors.dncnn(filters=[2])
    finally:
        OPERATORS.unregister("text")
    for use in (
        lambda: networks.UnrolledPGD(text, prior),
        lambda: networks.DeepEquilibrium(text, prior),
        lambda: Scaling(text, 2.0),
        lambda: Composition([text]),
    ):
        with pytest.raises(ValueError, match=r"must be .*LinearOperator.*Received: operator"):
            use()
