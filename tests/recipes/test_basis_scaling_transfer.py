"""The script's parts at toy size; what it reaches is the benchmark's matter."""

import keras
import numpy as np
import pytest

from spade_keras import pruning
from spade_keras.recipes import basis_scaling_transfer as recipe

TINY = recipe.Settings(train=8, validation=8, epochs=1, allowed_loss=1.0)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(recipe, "FILTERS", dict.fromkeys(recipe.FILTERS, (4, 8)))


@pytest.mark.once
def test_samples_are_disjoint_balanced_and_of_the_classes_asked_for():
    pytest.importorskip("sklearn")
    tasks = recipe.load_tasks(TINY)
    assert {name: len(part[0]) for name, part in tasks.items() if name != "test"} == {
        "source": 901,
        "train": 40,
        "validation": 40,
    }
    assert len(tasks["test"][0]) == 1797 - 901 - 80
    for x, y in tasks.values():
        assert x.shape[1:] == (16, 16, 1)
        assert set(np.unique(y)) == set(range(5))
    assert np.bincount(tasks["train"][1]).tolist() == [8] * 5
    images = np.concatenate([tasks[name][0] for name in ("train", "validation", "test")])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


@pytest.mark.once
@pytest.mark.parametrize(("dataset", "channels"), [("mnist", 1), ("cifar10", 3)])
def test_keras_datasets_are_read_alike(monkeypatch, dataset, channels):
    rng = np.random.default_rng(0)
    shape = (100, 8, 8) if channels == 1 else (100, 8, 8, 3)
    labels = np.arange(100) % 10
    labels = labels if channels == 1 else labels[:, None]
    part = (rng.integers(0, 256, shape).astype("uint8"), labels.astype("uint8"))
    monkeypatch.setattr(getattr(keras.datasets, dataset), "load_data", lambda: (part, part))
    tasks = recipe.load_tasks(recipe.Settings(dataset=dataset, train=4, validation=4))
    assert tasks["source"][0].shape == (100, 8, 8, channels)
    assert 0.9 < tasks["source"][0].max() <= 1
    large = recipe.load_tasks(recipe.Settings(dataset=dataset, weights="imagenet"))
    assert large["source"][0].shape == (100, 32, 32, 3)
    assert large["source"][0].max() > 100  # zero in the middle of 0 to 255
    assert [len(tasks[name][0]) for name in ("train", "validation", "test")] == [20, 20, 60]


def test_every_arm_is_a_stock_network_of_the_size_asked_for(small, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(recipe, "ROUNDS", ((0.5, 2, 5e-3),))
    monkeypatch.setattr(recipe, "make_source", lambda s, t: recipe.make_network("vgg", (16, 16, 1)))
    tasks, models = recipe.run(TINY)
    sizes = {name: pruning.count_parameters(model) for name, model in models.items()}
    assert sizes["basis"] < sizes["original"]
    assert sizes["channel"] <= sizes["basis"] <= sizes["from scratch"] < 1.3 * sizes["basis"]
    for model in models.values():
        assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
        assert 0 <= recipe.accuracy(model, tasks["test"]) <= 1


@pytest.mark.once
def test_every_convolution_of_the_residual_network_can_be_decomposed(small):
    model = recipe.make_network("resnet", (16, 16, 1))
    low = pruning.decompose(model, trainable=["head", "norms"])
    names = [pair.name for pair in pruning.basis.find_pairs(low)]
    assert names == ["stem_conv", "block0_first_conv", "block0_second_conv", "block0_skip"]


@pytest.mark.once
def test_effects_are_divided_by_the_parameters_of_a_component(small):
    low = pruning.decompose(recipe.make_network("vgg", (16, 16, 1)), trainable=["head", "norms"])
    importance = recipe.EffectPerParameter(low)
    # A component of a 3x3 convolution: one filter over the inputs, one weight per output.
    for name, cost in {"stem_conv": 9 * 1 + 4, "block0_conv": 9 * 4 + 8}.items():
        layer = low.get_layer(name)
        effects = np.arange(1.0, layer.rank + 1)
        np.testing.assert_allclose(importance(layer, effects), effects[None] / cost, rtol=1e-12)


@pytest.mark.once
def test_accuracy_counts_right_answers_in_pieces():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, inputs)
    x = np.eye(2, dtype="float32")[np.arange(1200) % 2]
    y = np.where(np.arange(1200) < 300, 1 - np.arange(1200) % 2, np.arange(1200) % 2)
    assert recipe.accuracy(model, (x, y)) == pytest.approx(0.75, rel=1e-12)
