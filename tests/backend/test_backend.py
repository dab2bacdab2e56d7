import gc
import shutil
import weakref

import keras
import numpy as np
import pytest

from spade_keras import backend

RNG = np.random.default_rng(0)


def two_inputs():
    image = keras.Input((8, 8, 2), name="image")
    gain = keras.Input((1,), name="gain")
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(x))
    y = keras.layers.Conv2D(2, 3, padding="same")(x) * gain[:, None, None, :]
    return keras.Model({"image": image, "gain": gain}, {"y": y, "sum": keras.ops.sum(x, axis=-1)})


@pytest.fixture
def inputs():
    return {
        "image": RNG.normal(size=(3, 8, 8, 2)).astype("float32"),
        "gain": RNG.normal(size=(3, 1)).astype("float32"),
    }


def as_numpy(outputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def test_every_mode_computes_what_the_model_does(inputs):
    model = two_inputs()
    expected = as_numpy(model(inputs, training=False))
    for mode in backend.modes():
        if mode == "compile":
            continue  # takes a C++ compiler many seconds, so it has a smaller model below
        outputs = backend.inference_function(model, inputs, mode)()
        backend.synchronize(outputs)
        for name, value in as_numpy(outputs).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_mode_computes_what_the_model_does():
    if "compile" not in backend.modes():
        pytest.skip("this backend has no such mode")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu")])
    x = RNG.normal(size=(2, 4)).astype("float32")
    outputs = backend.inference_function(model, x, "compile")()
    np.testing.assert_allclose(as_numpy(outputs), as_numpy(model(x)), rtol=1e-5, atol=1e-6)


def test_the_default_mode_is_the_first(inputs):
    assert backend.modes()[0] in ("graph", "jit", "eager")
    with pytest.raises(ValueError, match=r"`mode` must be one of .*Received: mode=warp"):
        backend.inference_function(two_inputs(), inputs, "warp")


def test_doubles_are_run_in_floatx(inputs):
    doubles = {name: value.astype("float64") for name, value in inputs.items()}
    as_given = keras.layers.Identity(autocast=False)  # most layers would hide what they are fed
    outputs = backend.inference_function(as_given, doubles)()
    assert {keras.backend.standardize_dtype(y.dtype) for y in outputs.values()} == {"float32"}
    whole = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(5, 3)])
    assert tuple(backend.inference_function(whole, np.array([[1, 4]]))().shape) == (1, 2, 3)


def test_an_unbuilt_model_is_built():
    model = keras.Sequential([keras.layers.Dense(3)])
    assert tuple(backend.inference_function(model, np.ones((2, 4), "float32"))().shape) == (2, 3)


def test_synchronize_waits_until_the_outputs_are_there():
    wide = keras.Sequential([keras.Input((96, 96, 16)), *[keras.layers.Conv2D(64, 3)] * 1])
    run = backend.inference_function(wide, np.ones((4, 96, 96, 16), "float32"))
    for _ in range(3):
        outputs = run()
        backend.synchronize(outputs)
        # JAX returns before it has computed, and its arrays tell whether it has.
        assert getattr(outputs, "is_ready", lambda: True)()


def test_device_and_versions():
    device = backend.device()
    assert device.kind in ("cpu", "gpu")
    assert device.name
    assert device.cores >= 1
    assert device.as_dict()["name"] == device.name
    versions = backend.versions()
    assert {"keras", "numpy", "python", "spade_keras", keras.backend.backend()} <= set(versions)
    assert all(isinstance(version, str) for version in versions.values())


def test_peak_memory_starts_anew():
    if not backend.reset_peak_memory() or backend.device().kind != "cpu":
        pytest.skip("this platform cannot start a new peak")
    before = backend.peak_memory_bytes()
    block = np.ones(200 * 2**20, "uint8")
    assert backend.peak_memory_bytes() - before > 150 * 2**20
    del block
    gc.collect()
    assert backend.reset_peak_memory()
    assert backend.peak_memory_bytes() - before < 100 * 2**20


def test_gradient_of_a_linear_model_is_the_textbook_one():
    x, y = RNG.normal(size=(7, 4)), RNG.normal(size=(7, 3))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    kernel, bias = model.get_weights()

    gradients = backend.loss_gradients(model, keras.losses.mean_squared_error, x, y)

    residual = x @ kernel + bias - y
    assert all(isinstance(gradient, np.ndarray) for gradient in gradients)
    np.testing.assert_allclose(gradients[0], 2 / 21 * x.T @ residual, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients[1], 2 / 21 * residual.sum(0), rtol=1e-4, atol=1e-6)


def test_gradients_follow_the_trainable_variables_and_change_nothing(inputs):
    model = two_inputs()
    before = model.get_weights()

    def first_output(_, outputs):
        return keras.ops.square(outputs["sum"])  # does not depend on the second convolution

    once = backend.loss_gradients(model, first_output, inputs, None)
    again = backend.loss_gradients(model, first_output, inputs, None)

    assert [g.shape for g in once] == [tuple(v.shape) for v in model.trainable_variables]
    zero = [not np.any(gradient) for gradient in once]
    assert zero == [False, False, False, False, True, True]
    for one, other in zip(once, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)  # dropout is off
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_gradients_are_those_of_the_present_weights_and_loss():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    x, y = np.array([[1.0, 2.0]], "float32"), np.zeros((1, 1), "float32")
    for weights in ([1.0, 1.0], [2.0, -3.0]):
        model.set_weights([np.array(weights, "float32")[:, None]])
        [square] = backend.loss_gradients(model, keras.losses.mean_squared_error, x, y)
        np.testing.assert_allclose(square[:, 0], 2 * (x @ weights)[0] * x[0], rtol=1e-5)
    [linear] = backend.loss_gradients(model, lambda _, output: 5 * output, x, y)
    np.testing.assert_allclose(linear[:, 0], 5 * x[0], rtol=1e-5)
    model.layers[0].trainable = False
    assert backend.loss_gradients(model, keras.losses.mean_squared_error, x, y) == []


def test_neither_gradients_nor_functions_keep_a_model_alive():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    backend.loss_gradients(model, keras.losses.mean_squared_error, np.ones((1, 2)), np.ones((1, 1)))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
