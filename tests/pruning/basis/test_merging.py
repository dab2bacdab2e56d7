"""Merged models: equal, of stock layers alone, and in the cheaper form."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from spade_keras.pruning import count_macs
from spade_keras.pruning.basis import (
    NotDecomposedError,
    decompose,
    find_pairs,
    find_rank_groups,
    merge,
    rank_plan,
)


def _model():
    inputs = keras.Input((12, 12, 6))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv")(inputs)
    x = layers.Conv2D(16, 3, groups=2, strides=2, name="grouped")(x)
    x = layers.Conv2DTranspose(8, 4, strides=2, padding="same", name="up")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(6, activation="softmax", name="head")(x))
    generator = np.random.default_rng(3)
    for weight in model.weights:
        weight.assign(0.3 * generator.normal(size=weight.shape))
    return model


def _pruned(ranks, seed=4):
    low = decompose(_model())
    generator = np.random.default_rng(seed)
    for pair in find_pairs(low):
        pair.scaling.scale.assign(generator.uniform(0.5, 2, pair.scaling.scale.shape))
        chosen = generator.permutation(pair.scaling.rank)[: ranks[pair.name]]
        pair.scaling.keep(np.sort(chosen))
    return low


def _run(model, batch=2):
    x = np.random.default_rng(5).normal(size=(batch, 12, 12, 6)).astype("float32")
    return ops.convert_to_numpy(model(x))


@pytest.mark.parametrize("measured", ["pair", "one"])
def test_both_forms_compute_what_the_masked_model_computes(measured):
    low = _pruned({"conv": 5, "grouped": 3, "up": 4, "head": 2})
    # The pair has one layer more than the other form, which decides the "time".
    sign = 1 if measured == "one" else -1
    merged = merge(low, by="latency", measure=lambda m: 10 + sign * len(m.layers))
    plan = rank_plan(low, by="latency", measure=lambda m: 10 + sign * len(m.layers))
    forms = {layer.form for layer in plan.steps[0].layers}
    assert forms == {measured}
    np.testing.assert_allclose(_run(merged), _run(low), rtol=1e-5, atol=1e-6)
    names = [layer.name for layer in merged.layers]
    assert ("conv_basis" in names) == (measured == "pair") and "conv" in names
    stock = all(type(x).__module__.startswith("keras.src.layers") for x in merged.layers)
    assert stock and all(layer.trainable for layer in merged.layers)
    if measured == "pair":
        assert merged.get_layer("conv_basis").filters == 5
        assert merged.get_layer("grouped_basis").filters == 2 * 3
        assert merged.get_layer("grouped").groups == 2
    else:
        assert merged.count_params() == _model().count_params()


@pytest.mark.once
@pytest.mark.parametrize("name", ["conv", "grouped", "up", "head"])
def test_the_form_with_fewer_multiply_accumulates_is_chosen(name):
    group = next(group for group in find_rank_groups(_model()) if group.name == name)
    below = int(np.ceil(group.break_even)) - 1
    full = {g.name: g.rank for g in find_rank_groups(_model())}
    macs = {}
    for rank in (below, below + 1):
        low = _pruned({**full, name: rank})
        form = {layer.name: layer.form for layer in rank_plan(low).steps[0].layers}[name]
        assert form == ("pair" if rank == below else "one")
        merged = merge(low)
        np.testing.assert_allclose(_run(merged), _run(low), rtol=1e-5, atol=1e-6)
        macs[rank] = sum(
            n for path, n in count_macs(merged).layers.items() if path in (name, f"{name}_basis")
        )
    whole = count_macs(_model()).layers[name]
    assert macs[below] < whole == macs[below + 1]
    # One component more in a pair would not have been cheaper than the one layer.
    per_component = macs[below] // below
    assert macs[below] + per_component >= whole


@pytest.mark.once
def test_what_is_measured_are_the_two_forms_on_the_layers_inputs():
    low = _pruned({"conv": 5, "grouped": 3, "up": 4, "head": 2})
    seen = []

    def measure(model):
        seen.append((model.inputs[0].shape, model.count_params()))
        return 1.0

    plan = rank_plan(low, by="latency", measure=measure, inputs=(3, 12, 12, 6))
    assert {layer.form for layer in plan.steps[0].layers} == {"one"}
    conv = 54 * 16 + 16, 54 * 5 + 5 * 16 + 16
    assert seen[:2] == [((3, 12, 12, 6), conv[0]), ((3, 12, 12, 6), conv[1])]
    assert seen[2][0] == (3, 12, 12, 16) and len(seen) == 8


@pytest.mark.once
def test_the_files_load_where_this_package_is_not(tmp_path):
    merged = merge(_pruned({"conv": 5, "grouped": 3, "up": 4, "head": 2}))
    merged.save(tmp_path / "merged.keras")
    merged.export(tmp_path / "saved", verbose=False)
    x = np.random.default_rng(5).normal(size=(2, 12, 12, 6)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    code = """
import sys, numpy as np, keras, tensorflow as tf
x = np.load("x.npy")
y = keras.models.load_model("merged.keras")(x).numpy()
saved = tf.saved_model.load("saved")
z = saved.serve(x).numpy()
assert not any(name.startswith("spade_keras") for name in sys.modules)
np.save("y.npy", y); np.save("z.npy", z)
"""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    for name in ("y", "z"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), _run(merged), rtol=1e-5)


@pytest.mark.once
def test_a_model_that_was_not_decomposed_is_refused():
    with pytest.raises(NotDecomposedError, match=r"Received: model='\w+', which has no basis"):
        merge(_model())


@pytest.mark.once
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "time"}, "`by` must be 'macs', 'latency' or 'none'. Received: by='time'"),
        ({"by": "latency"}, "`measure` must be a function .* Received: measure=None"),
        ({"by": "latency", "measure": lambda model: float("nan")}, "must give a positive time"),
        ({"by": "latency", "measure": lambda model: 0}, "must give a positive time"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    low = _pruned({"conv": 5, "grouped": 3, "up": 4, "head": 2})
    with pytest.raises(ValueError, match=message):
        merge(low, **settings)
