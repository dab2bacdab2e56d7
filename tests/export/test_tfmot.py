import importlib.util
import os
import sys

import keras
import numpy as np
import pytest

from spade_keras.errors import MissingExtraError
from spade_keras.export import ExportError, tfmot
from spade_keras.export.tfmot import twin
from spade_keras.networks import priors

layers = keras.layers
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
# Found, not imported: importing it would turn tf.keras into Keras 2 here.
INSTALLED = importlib.util.find_spec("tensorflow_model_optimization") is not None
needs_tfmot = pytest.mark.skipif(not INSTALLED, reason="TensorFlow Model Optimization is missing")
CLASSES = "sparse_categorical_crossentropy"


def split(x, y):
    cut = 3 * len(x) // 4
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def fitted(model, data, loss, epochs):
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(*data, epochs=epochs, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="module")
def images():
    """Smooth images and the same with noise."""
    rng = np.random.default_rng(0)
    axis = np.linspace(0, 1, 16)
    phase, rate = rng.uniform(0, 6, (2, 128, 1, 1)), rng.uniform(2, 6, (2, 128, 1, 1))
    y = np.sin(rate[0] * axis[:, None] + phase[0]) * np.sin(rate[1] * axis + phase[1])
    y = (0.5 + 0.5 * y)[..., None].astype("float32")
    return split((y + 0.15 * rng.standard_normal(y.shape)).astype("float32"), y)


@pytest.fixture(scope="module")
def bars():
    """Noisy images with a bar that lies, stands or leans either way: the class."""
    rng = np.random.default_rng(1)
    angles = rng.integers(0, 4, 512)
    grid = np.mgrid[-3.5:4, -3.5:4]
    normal = np.stack([np.cos(angles * np.pi / 4), np.sin(angles * np.pi / 4)], axis=1)
    distance = np.abs(np.einsum("nk,kij->nij", normal, grid) + rng.uniform(-1, 1, (512, 1, 1)))
    x = (distance < 1) + 0.3 * rng.standard_normal((512, 8, 8))
    return split(x[..., None].astype("float32"), angles)


@pytest.fixture(scope="module")
def quantized(images, tmp_path_factory):
    data, held_out = images
    keras.utils.set_random_seed(0)
    prior = priors.dncnn(filters=[8, 8], channels=1)
    last = prior.get_layer("residual").kernel  # begins at zero
    last.assign(0.05 * np.random.default_rng(3).standard_normal(last.shape))
    path = tmp_path_factory.mktemp("quantized") / "prior.tflite"
    training = tfmot.Training(epochs=12, learning_rate=3e-3, batch_size=16)
    settings = {"held_out": held_out, "training": training, "pairs": 5, "lock": False}
    return prior, *tfmot.quantize(prior, path, data, **settings)


@needs_tfmot
def test_the_int8_file_computes_what_the_network_does_from_any_backend(quantized, images):
    prior, tuned, report = quantized
    noisy, clean = images[1]
    noise_db = 10 * np.log10(1 / np.mean((noisy - clean) ** 2))
    assert report.metric == "psnr_db"
    assert report.quality["after"] > max(noise_db, report.quality["before"]) + 3
    assert report.quality["int8"] > report.quality["float32"] - 0.3
    assert report.quality["float32"] == pytest.approx(report.quality["after"], abs=1e-3)
    assert report.twin_error < 1e-5 and report.carried_error < 1e-5
    assert report.left == {}
    changed = [name for name, weight in twin.weights_of(tuned).items()
               if not np.array_equal(weight, twin.weights_of(prior)[name])]  # fmt: skip
    assert len(changed) == len(prior.weights)
    assert tuned.input_shape == prior.input_shape == (None, None, None, 1)


@needs_tfmot
def test_this_process_keeps_its_keras(quantized):
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert not {"tf_keras", "tensorflow_model_optimization"} & set(sys.modules)
    if ON_TENSORFLOW:
        import tensorflow as tf

        assert tf.keras.__version__ == keras.__version__


@needs_tfmot
def test_the_report_is_plain_and_complete(quantized):
    _, _, report = quantized
    content = report.as_dict()
    assert report.path.stat().st_size == content["size_bytes"]["int8"]
    assert 0 < content["zipped_bytes"]["int8"] < content["zipped_bytes"]["float32"]
    assert [path.name for path in report.path.parent.iterdir()] == ["prior.tflite"]
    for latency in content["latency"].values():
        assert 0 < latency["q1_ms"] <= latency["median_ms"] <= latency["q3_ms"]
        assert len(latency["samples"]) == 5
    medians = {name: latency.median_ms for name, latency in report.latency.items()}
    assert report.ratio.value == pytest.approx(medians["int8"] / medians["float32"])
    assert content["fingerprint"]["inputs"][0]["shape"] == [1, 16, 16, 1]
    assert content["fingerprint"]["versions"]["tensorflow-model-optimization"]
    assert content["settings"]["learning_rate"] == 3e-3


def interpreted(path):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    return interpreter


@needs_tfmot
@pytest.mark.once
def test_kernels_and_activations_of_the_file_have_8_bits(quantized):
    _, _, report = quantized
    interpreter = interpreted(report.path)
    details = [entry for entry in interpreter.get_tensor_details() if len(entry["shape"]) == 4]
    kinds = {entry["name"]: entry["dtype"].__name__ for entry in details}
    # The image at either end is all that is float32.
    assert sorted(kinds.values()).count("float32") == 2
    assert set(kinds.values()) == {"float32", "int8"}
    # The ranges are those of the data, not the [-6, 6] that they begin with.
    scales = [entry["quantization"][0] for entry in details if entry["dtype"] == np.int8]
    assert max(scales) < 0.03 < 12 / 255


def every_layer():
    """A classifier that has one of each layer that has a twin."""
    x = image = keras.Input((8, 8, 2))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(4, 3, groups=2, activation="silu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.LeakyReLU(0.1)(x)
    x = layers.Concatenate()([x, image])
    x = layers.GroupNormalization(groups=3)(x)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    x = layers.ReLU(max_value=3.0)(x)
    y = layers.SeparableConv2D(12, 3, padding="same", activation="tanh")(x)
    x = layers.Multiply()([x, layers.Activation("sigmoid")(y)])
    x = layers.Dropout(0.1)(layers.AveragePooling2D(2)(x))
    x = layers.Conv2DTranspose(6, 2, strides=2)(x)
    x = layers.Cropping2D(1)(x)
    x = layers.SpatialDropout2D(0.1)(layers.MaxPooling2D(2)(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Permute((2, 1, 3))(layers.Rescaling(0.5, offset=0.1)(x))
    z = layers.Conv1D(4, 3)(layers.Reshape((36, 6))(x))
    flat = layers.Dense(6)(layers.Flatten()(z))
    x = layers.Add()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x), flat])
    return keras.Model(image, layers.Softmax()(layers.Dense(4)(x)))


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    model = every_layer()
    rng = np.random.default_rng(2)
    for weight in model.weights:
        values = rng.normal(0, 0.4, weight.shape)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.name else values)
    x, y = rng.standard_normal((64, 8, 8, 2)), rng.integers(0, 4, 64)
    data, held_out = split(x, y)
    path = tmp_path_factory.mktemp("clustered") / "model.tflite"
    training = tfmot.Training(CLASSES, epochs=1, learning_rate=1e-3, seed=3)
    settings = {"held_out": held_out, "training": training, "pairs": 2, "lock": False}
    outputs = keras.ops.convert_to_numpy(model(held_out[0]))
    return outputs, *tfmot.cluster(model, path, data, clusters=5, **settings)


@needs_tfmot
@pytest.mark.once
def test_every_layer_has_a_twin_of_equal_outputs(clustered):
    outputs, tuned, report = clustered
    kinds = {type(layer).__name__ for layer in tuned.layers}
    assert set(twin._LAYERS) == kinds - {"InputLayer"}
    assert outputs.std() > 0.05
    assert report.twin_error < 1e-5 and report.carried_error < 1e-5


@needs_tfmot
@pytest.mark.once
def test_clustered_kernels_hold_few_values(clustered):
    _, tuned, report = clustered
    kernels = {
        f"{layer.name}/{weight.name}": keras.ops.convert_to_numpy(weight)
        for layer in tuned.layers
        for weight in layer.weights
        if weight.name in ("kernel", "pointwise_kernel") and "depthwise" not in layer.name
    }
    assert len(kernels) == 6
    for name, kernel in kernels.items():
        assert kernel.size > 12
        assert np.unique(kernel).size == report.kernels[name].distinct <= 5, name
    assert list(report.left.values()) == ["depthwise kernels are left as they are"] * 2


@pytest.fixture(scope="module")
def pruned(bars, tmp_path_factory):
    data, held_out = bars
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1))
    for index, width in enumerate((8, 12)):
        x = layers.Conv2D(width, 3, use_bias=False, name=f"conv_{index}")(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    logits = layers.Dense(4, name="head")(layers.Flatten()(x))
    model = keras.Model(image, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    fitted(model, data, loss, epochs=6)
    path = tmp_path_factory.mktemp("pruned") / "model.tflite"
    training = tfmot.Training(CLASSES, epochs=4, learning_rate=1e-3)
    settings = {"held_out": held_out, "training": training, "pairs": 2, "lock": False}
    return tfmot.magnitude_prune(model, path, data, sparsity=0.7, **settings)


@needs_tfmot
@pytest.mark.once
def test_pruned_kernels_reach_the_sparsity_and_the_file_has_the_same_zeros(pruned):
    tuned, report = pruned
    interpreter = interpreted(report.path)
    details = interpreter.get_tensor_details()
    stored = {
        tuple(entry["shape"]): interpreter.get_tensor(entry["index"])
        for entry in details
        # Kernels; activations hold one sample, and no values before a call.
        if entry["dtype"] == np.int8 and len(entry["shape"]) == 4 and entry["shape"][0] > 1
    }
    for name in ("conv_0", "conv_1", "head"):
        kernel = keras.ops.convert_to_numpy(tuned.get_layer(name).kernel)
        zeros = round(0.7 * kernel.size)
        assert np.sum(kernel == 0) == report.kernels[f"{name}/kernel"].zeros
        assert abs(np.sum(kernel == 0) - zeros) <= 1
        if name != "head":  # LiteRT wants the output channels first
            turned = np.transpose(kernel, (3, 0, 1, 2))
            assert np.all(stored[turned.shape][turned == 0] == 0)
            assert np.mean(stored[turned.shape] == 0) < 0.85


@needs_tfmot
@pytest.mark.once
def test_the_classifier_keeps_its_accuracy(pruned):
    _, report = pruned
    assert report.metric == "accuracy"
    assert report.quality["before"] > 0.9
    assert report.quality["after"] > report.quality["before"] - 0.05
    assert abs(report.quality["int8"] - report.quality["after"]) < 0.05


@needs_tfmot
@pytest.mark.once
def test_a_twin_that_computes_something_else_is_refused(images, tmp_path, monkeypatch):
    def wrong(network, shape):
        description = twin.describe(network, shape)
        description["layers"][1]["config"]["activation"] = "elu"
        return description

    monkeypatch.setattr(tfmot, "describe", wrong)
    data, held_out = images
    prior = priors.dncnn(filters=[4], channels=1)
    prior.get_layer("residual").kernel.assign(np.ones((3, 3, 4, 1)))
    with pytest.raises(ExportError, match="The twin in Keras 2 differs from the network by"):
        tfmot.quantize(prior, tmp_path / "prior.tflite", data, held_out=held_out, lock=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.once
@pytest.mark.parametrize("name", ["tf_keras", "tensorflow_model_optimization"])
def test_a_missing_package_is_named_with_the_command(images, tmp_path, monkeypatch, name):
    find = importlib.util.find_spec
    missing = lambda wanted: None if wanted == name else find(wanted)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(MissingExtraError, match=rf"`{name}` .*pip install 'spade-keras\[tfmot\]'"):
        tfmot.quantize(
            priors.dncnn(filters=[2], channels=1),
            tmp_path / "prior.tflite",
            images[0],
            held_out=images[1],
        )


X, Y = np.zeros((4, 8, 8, 1), "float32"), np.zeros((4, 8, 8, 1), "float32")
CLASSIFYING = {"training": tfmot.Training(CLASSES)}


@needs_tfmot
@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "model.keras"}, r"must name a \.tflite file.*Received: path=model\.keras"),
        ({"path": "/nowhere/model.tflite"}, "in an existing folder"),
        ({"pairs": 1}, "`pairs` must be at least 2. Received: pairs=1"),
        ({"data": X}, "`data` must be a pair of arrays"),
        ({"data": (X, Y[:3])}, "4 inputs and 3 targets"),
        ({"held_out": (X[:0], Y[:0])}, "`held_out` must hold one target per input"),
        ({"data": (X * np.nan, Y)}, "inputs of `data` must be finite"),
        ({"held_out": (X, Y + np.inf)}, "targets of `held_out` must be finite"),
        ({"held_out": (X[:, 1:], Y[:, 1:])}, "must have one shape"),
        ({"data": (X[..., 0], Y), "held_out": (X[..., 0], Y)}, "must fit the network's input"),
        ({"data": (X, Y[:, 1:])}, "targets must be images of the shape that the network gives"),
        (CLASSIFYING, "must be integer classes"),
        ({"data": (X, np.arange(4)), "held_out": (X, np.arange(4)), **CLASSIFYING}, "classes up"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, changes, message):
    prior = priors.dncnn(filters=[2], channels=1)
    given = {"path": tmp_path / "a.tflite", "data": (X, Y), "held_out": (X, Y), **changes}
    with pytest.raises(ValueError, match=message):
        tfmot.quantize(prior, **given)


@pytest.mark.once
@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (tfmot.cluster, {"clusters": 1}, "at least 2. Received: clusters=1"),
        (tfmot.magnitude_prune, {"sparsity": 70}, r"Received: sparsity=70\. For 70 % pass 0\.7"),
        (tfmot.magnitude_prune, {"sparsity": 0.5}, "at least 10 training steps. Received: 3"),
    ],
)
def test_bad_settings_of_a_method_are_refused(tmp_path, function, settings, message):
    prior = priors.dncnn(filters=[2], channels=1)
    with pytest.raises(ValueError, match=message):
        function(prior, tmp_path / "a.tflite", (X, Y), held_out=(X, Y), **settings)


@pytest.mark.once
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "mae"}, "Received: loss='mae'"),
        ({"epochs": 0}, "Received: epochs=0"),
        ({"batch_size": 2.5}, "Received: batch_size=2.5"),
        ({"learning_rate": float("nan")}, "Received: learning_rate=nan"),
        ({"data_range": 0}, "Received: data_range=0"),
    ],
)
def test_training_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        tfmot.Training(**settings)
