"""Networks from the table `[network]` of a recipe: every option arrives, by name alone."""

import keras
import pytest

from spade_keras.networks import NETWORKS, UnrolledPGD, priors
from spade_keras.operators import CartesianMRI, Downsampling
from spade_keras.recipe.imaging import RECONSTRUCTION_NETWORKS
from spade_keras.recipe.schemas import schema_of
from spade_keras.registry import PRIORS
from spade_keras.tasks.reconstruction_networks import make_network

PRIOR = {"name": "unet", "filters": [4, 6]}
CASES = {
    "deep_equilibrium": {
        **{"iterations": 7, "tolerance": 1e-3, "max_iterations": 20},
        **{"gradient": "implicit", "gradient_steps": 2},
        "prior": {"name": "edsr", "filters": [4], "kernel_size": 5},
    },
    "e2e_varnet": {
        **{"iterations": 2, "output": "magnitude", "prior": PRIOR},
        "sensitivity": {"filters": [2, 3]},
    },
    "unrolled_pgd": {"iterations": 3, "prior": {"name": "dncnn", "filters": [4, 5]}},
    "usrnet": {"iterations": 2, "hidden": 8, "prior": {"name": "res_unet", "filters": [4, 6]}},
    "varnet": {"iterations": 2, "output": "magnitude", "prior": PRIOR},
}


def make(name, channels=2, **table):
    network = {"name": name, **table}
    kind = schema_of({"network": network}).model_fields["network"].annotation
    settings = kind.model_validate(network)
    operator = Downsampling(2) if name == "usrnet" else CartesianMRI()
    return make_network(settings, operator, channels)


@pytest.mark.once
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_option_arrives(name):
    network = make(name, 3 if name == "usrnet" else 2, **CASES[name])
    assert type(network) is NETWORKS[name]
    assert network.iterations == CASES[name]["iterations"]
    config = network.get_config()
    for option in set(CASES[name]) - {"prior", "sensitivity", "iterations"}:
        assert config[option] == CASES[name][option]


@pytest.mark.once
def test_priors_get_what_they_take():
    edsr = make("deep_equilibrium", **CASES["deep_equilibrium"]).prior
    assert edsr.get_layer("head").kernel.shape == (5, 5, 2, 4)
    assert make("usrnet", 3, **CASES["usrnet"]).prior.input_shape[-1] == 4
    parts = make("e2e_varnet", **CASES["e2e_varnet"]).priors
    assert parts["sensitivity"].get_layer("down_0_conv_0").filters == 2
    assert parts["cascade_1"].get_layer("down_0_conv_0").filters == 4
    table = {**CASES["usrnet"], "prior": {"name": "dncnn", "filters": [4]}}
    with pytest.raises(ValueError, match=r"'dncnn' takes other arguments.*condition_channels"):
        make("usrnet", 3, **table)


@pytest.mark.once
def test_a_registered_network_and_prior_need_no_code():
    @keras.saving.register_keras_serializable(package="test")
    class Mine(UnrolledPGD):
        pass

    NETWORKS.register("mine", Mine)
    PRIORS.register("plain", lambda filters, channels: priors.dncnn(filters, channels=channels))
    try:
        kind = RECONSTRUCTION_NETWORKS["unrolled_pgd"]
        prior = kind.model_fields["prior"].annotation.model_construct(name="plain", filters=(3,))
        settings = kind.model_construct(name="mine", iterations=4, prior=prior)
        network = make_network(settings, CartesianMRI(), 2)
    finally:
        NETWORKS.unregister("mine")
        PRIORS.unregister("plain")
    assert type(network) is Mine
    assert (network.iterations, network.prior.layers[1].filters) == (4, 3)
