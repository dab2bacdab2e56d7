"""Published sizes."""

import pytest

from spade_keras.networks import NETWORKS, PRESETS

SIZES = {
    "e2e_varnet_8x18": 20_119_610,
    "edsr_13x64": 999_426,
    "usrnet": 17_016_016,  # published: 17.02 M
    "usrnet_tiny": 590_332,  # published: 0.59 M
    "varnet_8x18": 19_634_712,
}


@pytest.mark.once
@pytest.mark.parametrize("name", list(PRESETS))
def test_has_the_published_size(name):
    network = PRESETS.make(name)
    assert network.count_params() == SIZES[name]
    if name.startswith("usrnet"):
        assert network.scales == (2, 3, 4)
        assert network.iterations == (6 if name.endswith("tiny") else 8)
        assert isinstance(network, NETWORKS["usrnet"])
        assert f"{SIZES[name] / 1e6:.2f}" == ("0.59" if name.endswith("tiny") else "17.02")


@pytest.mark.once
def test_leaves_the_rest_open():
    assert PRESETS.make("usrnet_tiny", scales=(4,), name="sr").scales == (4,)
    with pytest.raises(ValueError, match=r"Unknown preset.*varnet_8x18.*'varnet'"):
        PRESETS.make("varnet")
