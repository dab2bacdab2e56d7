"""The parts of a transfer: samples, networks, heads and what prunes them."""

import keras
import numpy as np
import pytest

from spade_keras import pruning
from spade_keras.errors import SpadeError
from spade_keras.tasks import transfer


def tasks_of(rng, count=24, classes=5, shape=(8, 8, 1)):
    """Random pictures whose brightness is their class."""

    def samples():
        y = np.arange(count) % classes
        x = rng.uniform(0, 0.2, (count, *shape)) + y[:, None, None, None] / classes
        return x.astype("float32"), y.astype("int32")

    return {name: samples() for name in ("train", "validation", "test")}


@pytest.mark.once
def test_samples_are_disjoint_balanced_and_of_the_classes_asked_for():
    pytest.importorskip("sklearn")
    x, y = transfer.load_pictures("digits")
    tasks = transfer.split_tasks(x, y, train=8, validation=9)
    assert {name: len(part[0]) for name, part in tasks.items()} == {
        "source": 901,
        "train": 40,
        "validation": 45,
        "test": 1797 - 901 - 85,
    }
    for inputs, labels in tasks.values():
        assert inputs.shape[1:] == (16, 16, 1)
        assert set(np.unique(labels)) == set(range(5))
    assert np.bincount(tasks["train"][1]).tolist() == [8] * 5
    images = np.concatenate([tasks[name][0] for name in ("train", "validation", "test")])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


@pytest.mark.once
def test_classes_are_counted_in_the_order_given():
    y = np.array([7, 2, 7, 2, 7, 2, 4, 4])
    x = y[:, None].astype("float32")
    tasks = transfer.split_tasks(
        x, y, source_classes=(), target_classes=(7, 2), train=1, validation=1
    )
    assert list(tasks) == ["train", "validation", "test"]
    for inputs, labels in tasks.values():
        np.testing.assert_array_equal(np.array([7, 2])[labels], inputs[:, 0])


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_classes": (1, 9)}, r"`data.target_classes` must be classes of the data.*\[9\]"),
        ({"source_classes": (0, 5)}, r"`data.source_classes` must be classes of the data.*\[5\]"),
        ({"train": 9}, r"at least 11 samples.*`data.train_per_class`.*\{2: 10, 3: 10\}"),
    ],
)
def test_classes_that_are_missing_or_too_small_are_named(change, message):
    settings = {"source_classes": (0, 1), "target_classes": (2, 3), "train": 2, "validation": 1}
    with pytest.raises(SpadeError, match=message):
        transfer.split_tasks(np.ones((40, 2)), np.arange(40) % 4, **{**settings, **change})


@pytest.mark.once
@pytest.mark.parametrize(("source", "channels"), [("mnist", 1), ("cifar10", 3)])
def test_keras_datasets_are_read_alike(monkeypatch, source, channels):
    rng = np.random.default_rng(0)
    shape = (100, 8, 8) if channels == 1 else (100, 8, 8, 3)
    labels = np.arange(100) % 10
    labels = labels if channels == 1 else labels[:, None]
    part = (rng.integers(0, 256, shape).astype("uint8"), labels.astype("uint8"))
    monkeypatch.setattr(getattr(keras.datasets, source), "load_data", lambda: (part, part))
    x, y = transfer.load_pictures(source)
    assert (x.shape, y.shape) == ((200, 8, 8, channels), (200,))
    assert 0.9 < x.max() <= 1
    assert transfer.load_pictures(source, 12)[0].shape == (200, 12, 12, channels)
    large = transfer.prepare_for_imagenet(x)
    assert large.shape == (200, 32, 32, 3)
    assert large.max() > 100 and large.min() < 0  # zero in the middle of 0 to 255


@pytest.mark.once
def test_what_cannot_be_loaded_says_what_it_needs(monkeypatch):
    def offline(*arguments, **options):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", offline)
    with pytest.raises(SpadeError, match=r"URL fetch failure.*~/.keras/datasets.*digits"):
        transfer.load_pictures("mnist")
    monkeypatch.setattr(keras.applications, "ResNet50", offline)
    with pytest.raises(SpadeError, match=r"ResNet50.*~/.keras/models"):
        transfer.imagenet_network("resnet", (32, 32, 3))
    with pytest.raises(ValueError, match=r"Unknown source of pictures.*Did you mean 'mnist'"):
        transfer.load_pictures("minst")


@pytest.mark.once
@pytest.mark.parametrize(
    ("x", "message"),
    [(np.ones((2, 8, 8, 2)), "1 or 3"), (np.full((2, 8, 8, 1), 255.0), r"values in \[0, 1\]")],
)
def test_pictures_that_imagenet_cannot_take_are_named(x, message):
    with pytest.raises(SpadeError, match=message):
        transfer.prepare_for_imagenet(x)


@pytest.mark.once
def test_a_network_of_imagenet_is_transferred_whole(monkeypatch):
    asked = {}

    def body(include_top, weights, input_shape, pooling):
        asked.update(include_top=include_top, weights=weights, pooling=pooling)
        x = inputs = keras.Input(input_shape)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="first")(x))
        return keras.Model(inputs, x, name="vgg16")

    monkeypatch.setattr(keras.applications, "VGG16", body)
    source = transfer.imagenet_network("vgg", (32, 32, 3))
    assert asked == {"include_top": False, "weights": "imagenet", "pooling": "avg"}
    model = transfer.replace_head(source, 5)
    np.testing.assert_array_equal(model.get_layer("first").kernel, source.get_layer("first").kernel)
    assert (model.output_shape, model.name) == ((None, 5), "vgg16")


@pytest.mark.once
@pytest.mark.parametrize("kind", sorted(transfer.TRANSFER_NETWORKS))
def test_every_convolution_of_a_bundled_network_can_be_decomposed(kind):
    model = transfer.make_network(kind, (16, 16, 1), (4, 8))
    low = pruning.decompose(model, trainable=["head", "norms"])
    names = {pair.name for pair in pruning.basis.find_pairs(low)}
    assert names == {layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}
    with pytest.raises(ValueError, match="at most 3 widths"):
        transfer.make_network(kind, (4, 4, 1), (4, 4, 4, 4))


@pytest.mark.once
@pytest.mark.parametrize("parameters", [60, 250, 3000, 9000])
def test_a_network_of_a_size_is_the_narrowest_that_is_not_smaller(parameters):
    model = transfer.make_network_of_size("vgg", (16, 16, 1), parameters, classes=3)
    assert parameters <= pruning.count_parameters(model)
    widths = [layer.filters for layer in model.layers if hasattr(layer, "filters")]
    if parameters >= 3000:
        assert pruning.count_parameters(model) < 1.15 * parameters
    if max(widths) > 1:
        narrower = [max(1, width - 1) for width in widths]
        smaller = transfer.make_network("vgg", (16, 16, 1), narrower, classes=3)
        assert pruning.count_parameters(smaller) < parameters
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize("ending", ["softmax", "layer", "logits"])
def test_a_new_head_sits_on_the_old_features(ending):
    layers = [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(4, name="hidden")]
    activation = "softmax" if ending == "softmax" else None
    layers.append(keras.layers.Dense(3, activation=activation, name="scores"))
    if ending == "layer":
        layers.append(keras.layers.Softmax())
    old = keras.Sequential(layers)
    weights = old.get_weights()
    new = transfer.replace_head(old, 7, seed=1)
    x = np.random.default_rng(0).standard_normal((5, 6, 6, 1)).astype("float32")
    outputs = keras.ops.convert_to_numpy(new(x))
    assert outputs.shape == (5, 7)
    np.testing.assert_allclose(outputs.sum(axis=-1), 1, atol=1e-5)
    for a, b in zip(new.get_weights()[:2], weights[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    new.get_layer("hidden").kernel.assign(keras.ops.zeros((36, 4)))
    np.testing.assert_array_equal(old.get_weights()[0], weights[0])
    again = transfer.replace_head(old, 7, seed=1)
    np.testing.assert_array_equal(again.get_weights()[2], new.get_weights()[2])


@pytest.mark.once
def test_a_network_without_a_dense_head_is_refused():
    inputs = keras.Input((8, 8, 1))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(inputs))
    with pytest.raises(SpadeError, match=r"end with a `Dense` layer.*GlobalAveragePooling2D"):
        transfer.replace_head(keras.Model(inputs, features), 2)
    normalized = keras.layers.LayerNormalization()(keras.layers.Dense(2)(features))
    with pytest.raises(SpadeError, match="LayerNormalization"):
        transfer.replace_head(keras.Model(inputs, normalized), 2)
    two = [keras.layers.Dense(2)(features), keras.layers.Dense(2)(features)]
    with pytest.raises(SpadeError, match="2 outputs"):
        transfer.replace_head(keras.Model(inputs, two), 2)


@pytest.mark.once
def test_effects_are_divided_by_the_parameters_of_a_component():
    model = transfer.make_network("vgg", (16, 16, 1), (4, 8))
    low = pruning.decompose(model, trainable=["head", "norms"])
    importance = transfer.COMPONENT_IMPORTANCES.make("effect_per_parameter")
    pairs = {pair.name: pair for pair in pruning.basis.find_pairs(low)}
    # A component of a 3x3 convolution: one filter over the inputs, one weight per output.
    for name, cost in {"stem_conv": 9 * 1 + 4, "block0_conv": 9 * 4 + 8}.items():
        layer = low.get_layer(name)
        effects = np.arange(1.0, layer.rank + 1)
        found = importance(pairs[name], effects)
        np.testing.assert_allclose(found, effects[None] / cost, rtol=1e-12)


@pytest.mark.once
def test_accuracy_counts_right_answers_in_pieces():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, inputs)
    x = np.eye(2, dtype="float32")[np.arange(1200) % 2]
    y = np.where(np.arange(1200) < 300, 1 - np.arange(1200) % 2, np.arange(1200) % 2)
    assert transfer.accuracy(model, (x, y)) == pytest.approx(0.75, rel=1e-12)


@pytest.mark.once
def test_a_fit_ends_with_the_best_validation_loss_or_the_last_epoch():
    """The labels of the validation contradict those of the training: every epoch is worse."""
    tasks = tasks_of(np.random.default_rng(0))
    x, y = tasks["train"]
    inverted = (x, (y + 2) % 5)
    weights = []
    for validation in (None, inverted):
        keras.utils.set_random_seed(0)
        model = transfer.make_network("vgg", x.shape[1:], (4,))
        transfer.fit(model, (x, y), validation, epochs=4, learning_rate=0.05)
        weights.append(model.get_layer("head").get_weights()[0])
    keras.utils.set_random_seed(0)
    model = transfer.make_network("vgg", x.shape[1:], (4,))
    transfer.fit(model, (x, y), epochs=4, learning_rate=0.05)
    np.testing.assert_allclose(model.get_layer("head").get_weights()[0], weights[0], rtol=1e-4)
    assert np.abs(weights[1] - weights[0]).max() > 0.01


class Answers(keras.Layer):
    """Gives every picture the same probabilities."""

    def __init__(self, probabilities):
        super().__init__()
        self.probabilities = probabilities

    def call(self, x):
        return keras.ops.broadcast_to(
            keras.ops.convert_to_tensor(self.probabilities, "float32"),
            (keras.ops.shape(x)[0], len(self.probabilities)),
        )


def test_soft_labels_mix_classes_with_softened_answers():
    inputs = keras.Input((8, 8, 1))
    teacher = keras.Model(inputs, Answers([0.64, 0.32, 0.04, 0.0])(inputs))
    x = np.ones((2, 8, 8, 1), "float32")
    mixed = transfer.soft_labels(teacher, (x, np.array([0, 3])), share=0.25, temperature=2.0)
    assert mixed[0] is x
    assert mixed[1].dtype == "float32"
    root = np.sqrt([0.64, 0.32, 0.04, 0.0])
    softened = root / root.sum()
    expected = 0.75 * np.eye(4)[[0, 3]] + 0.25 * softened
    np.testing.assert_allclose(mixed[1], expected, rtol=1e-5, atol=1e-7)
    cold = transfer.soft_labels(teacher, (x, np.array([0, 3])), share=1.0, temperature=1.0)
    np.testing.assert_allclose(cold[1], [[0.64, 0.32, 0.04, 0.0]] * 2, rtol=1e-5, atol=1e-7)


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong", [{"share": -0.1}, {"share": 1.5}, {"temperature": 0.0}, {"temperature": float("nan")}]
)
def test_soft_labels_out_of_range_are_named(wrong):
    samples = tasks_of(np.random.default_rng(0))["train"]
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        transfer.soft_labels(transfer.make_network("vgg", (8, 8, 1), (4,)), samples, **wrong)


def test_a_network_learns_what_it_is_taught_and_is_judged_by_classes():
    """The teacher contradicts the labels, and the student follows the heavier of the two."""
    tasks = tasks_of(np.random.default_rng(0), count=40, classes=2)
    x, y = tasks["train"]
    inputs = keras.Input((8, 8, 1))
    bright = keras.ops.mean(inputs, axis=(1, 2, 3))[:, None] - 0.35
    teacher = keras.Model(
        inputs, keras.ops.sigmoid(keras.ops.concatenate([bright, -bright], -1) * 100)
    )
    assert transfer.accuracy(teacher, tasks["train"]) == 0
    history = keras.callbacks.History()
    for share, expected in ((0.2, 1.0), (0.8, 0.0)):
        keras.utils.set_random_seed(0)
        student = transfer.make_network("vgg", x.shape[1:], (4,), classes=2)
        lesson = transfer.soft_labels(teacher, (x, y), share=share)
        transfer.fit(student, lesson, (x, y), epochs=20, learning_rate=0.05, pruner=history)
        assert transfer.accuracy(student, (x, y)) == expected
        assert history.history["val_accuracy"][-1] == pytest.approx(expected, abs=1e-6)


def test_components_go_and_the_plan_says_which():
    tasks = tasks_of(np.random.default_rng(0))
    keras.utils.set_random_seed(0)
    model = transfer.make_network("vgg", (8, 8, 1), (4, 8))
    before = model.get_weights()
    pruned = transfer.prune_components(
        model,
        tasks,
        allowed_loss=0.99,
        phases=[transfer.PruningPhase(0.2, 0, 1e-3)],
        phase_epochs=3,
        closing_epochs=1,
    )
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [len(phase) for phase in pruned.rounds] == [3]
    kept = sum(pruned.plan.ranks.values())
    assert kept == pruned.rounds[0][-1].components < 4 + 8
    assert pruned.plan.steps[0].importance == "effect_per_parameter"
    assert pruning.count_parameters(pruned.model) < pruning.count_parameters(model)
    assert {type(layer).__module__.split(".")[0] for layer in pruned.model.layers} == {"keras"}


@pytest.mark.once
@pytest.mark.parametrize("name", sorted(transfer.COMPONENT_IMPORTANCES))
def test_every_importance_of_components_can_be_made(name):
    low = pruning.decompose(transfer.make_network("vgg", (8, 8, 1), (4, 8)), trainable=["head"])
    importance = transfer.COMPONENT_IMPORTANCES.make(name)
    pair = {pair.name: pair for pair in pruning.basis.find_pairs(low)}["block0_conv"]
    assert importance(pair, np.ones(pair.scaling.rank)).shape == (1, pair.scaling.rank)


@pytest.mark.once
def test_every_arm_is_a_stock_network_of_the_size_asked_for(monkeypatch):
    tasks = tasks_of(np.random.default_rng(0))
    monkeypatch.setitem(transfer.FILTERS, "vgg", (8, 16))
    source = transfer.make_network("vgg", (8, 8, 1), classes=3)
    original = transfer.replace_head(source, 5)
    phases = [transfer.PruningPhase(0.4, 0, 1e-3)]
    options = {"allowed_loss": 0.99, "phases": phases, "phase_epochs": 2, "closing_epochs": 1}
    basis = transfer.prune_components(original, tasks, **options).model
    size = pruning.count_parameters(basis)
    plan = pruning.make_plan(original, target={"parameters": size})
    narrow = pruning.rebuild(original, pruning.make_plan(original, ratio=0.3))
    models = {
        "original": original,
        "basis": basis,
        "channel": pruning.rebuild(original, plan),
        "double": transfer.prune_components(narrow, tasks, **options).model,
        "scratch": transfer.make_network_of_size("vgg", (8, 8, 1), size),
    }
    sizes = {name: pruning.count_parameters(model) for name, model in models.items()}
    assert sizes["double"] < sizes["basis"] < sizes["original"]
    assert sizes["channel"] <= sizes["basis"] <= sizes["scratch"] < 1.3 * sizes["basis"]
    for model in models.values():
        assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
        cost = transfer.measure_cost(model, original, tasks, pairs=0)
        assert sorted(cost) == ["accuracy", "macs", "parameters", "validation_accuracy"]
        assert 0 <= cost["accuracy"] <= 1
