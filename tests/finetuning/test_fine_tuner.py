"""Strategies against their formulas; what they may and may not see."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras import data
from spade_keras.finetuning import STRATEGIES, School, SelfSupervised, Supervised, split_kspace
from spade_keras.metrics import PSNR
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI, LinearOperator

JIT = False if keras.backend.backend() == "tensorflow" else "auto"


@pytest.fixture(scope="module")
def slices():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (4, 12, 12)).astype("float32")
    return data.simulate_multicoil(images, coils=2, acs_lines=4, seed=1)


def make(width, seed):
    keras.utils.set_random_seed(seed)
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[width]), iterations=2)
    last = network.prior.get_layer("residual").kernel
    last.assign(np.random.default_rng(seed).normal(scale=0.1, size=last.shape))
    return network


def tuners(seed=3):
    return {
        "school": School(make(3, seed), teacher=make(6, 9)),
        "self_supervised": SelfSupervised(make(3, seed)),
        "supervised": Supervised(make(3, seed)),
    }


def batches(slices, truth=None):
    return data.SliceDataset(slices.inputs, truth, batch_size=2, shuffle_seed=0)


def fit(tuner, train, epochs=2):
    keras.utils.set_random_seed(5)
    tuner.compile(optimizer="adam", jit_compile=JIT)
    history = tuner.fit(train, validation_data=train, epochs=epochs, verbose=0).history
    return history, [np.array(w) for w in tuner.network.get_weights()]


def mse(a, b):
    return float(np.mean((ops.convert_to_numpy(a) - ops.convert_to_numpy(b)) ** 2))


def test_all_strategies_are_tested():
    assert set(tuners()) == set(STRATEGIES)


def test_supervised_loss(slices):
    tuner = tuners()["supervised"]
    prediction = tuner(slices.inputs, training=False)
    loss = tuner.strategy_loss(slices.inputs, slices.targets, prediction, training=False)
    assert float(loss) == pytest.approx(mse(prediction, slices.targets), rel=1e-5)
    with pytest.raises(ValueError, match="needs targets"):
        tuner.strategy_loss(slices.inputs, None, prediction, training=False)


def test_school_loss(slices):
    tuner = tuners()["school"]
    prediction = tuner(slices.inputs, training=False)
    loss = tuner.strategy_loss(slices.inputs, None, prediction, training=False)
    lesson = make(6, 9)(slices.inputs, training=False)
    assert float(loss) == pytest.approx(mse(prediction, lesson), rel=1e-5)


def test_school_is_supervision_by_the_teachers_answers(slices):
    school = tuners()["school"]
    lessons = ops.convert_to_numpy(make(6, 9)(slices.inputs, training=False))
    _, by_teacher = fit(school, batches(slices))
    _, by_answers = fit(Supervised(make(3, 3)), batches(slices, lessons))
    for a, b in zip(by_teacher, by_answers, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_self_supervised_loss(slices):
    tuner = SelfSupervised(make(3, 3), consistency_weight=2.0, equivariance_weight=0.5)
    network, operator = tuner.network, CartesianMRI()
    parameters = operator.parameters(slices.inputs)
    x1 = network(slices.inputs, training=False)
    loss = tuner.strategy_loss(slices.inputs, None, x1, training=False)
    consistency = mse(operator.forward(x1, **parameters), slices.inputs["measurements"])
    turned = np.rot90(ops.convert_to_numpy(x1), axes=(1, 2)).copy()
    virtual = {**slices.inputs, "measurements": operator.forward(turned, **parameters)}
    equivariance = mse(network(virtual, training=False), turned)
    assert equivariance > 1e-4
    assert float(loss) == pytest.approx(2 * consistency + 0.5 * equivariance, rel=1e-4)


def test_self_supervised_training_turns_by_all_quarters(slices):
    tuner = tuners()["self_supervised"]
    image = ops.convert_to_tensor(slices.targets[:1])
    turns = {
        ops.convert_to_numpy(tuner._transform(image, training=True)).tobytes() for _ in range(40)
    }
    expected = {np.rot90(slices.targets[:1], k, axes=(1, 2)).tobytes() for k in (1, 2, 3)}
    assert turns == expected


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_fit_changes_every_weight_of_the_network_and_lowers_the_loss(slices, strategy):
    tuner = tuners()[strategy]
    before = [np.array(w) for w in tuner.network.get_weights()]
    truth = slices.targets if strategy == "supervised" else None
    history, after = fit(tuner, batches(slices, truth), epochs=4)
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("strategy", ["school", "self_supervised"])
def test_truth_is_never_touched(slices, strategy):
    without = fit(tuners()[strategy], batches(slices))
    poisoned = fit(tuners()[strategy], batches(slices, np.full_like(slices.targets, np.nan)))
    assert poisoned[0] == without[0]
    for a, b in zip(poisoned[1], without[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_supervised_does_touch_the_truth(slices):
    poisoned = fit(
        tuners()["supervised"], batches(slices, np.full_like(slices.targets, np.nan)), epochs=1
    )
    assert np.isnan(poisoned[0]["loss"][0])


def test_metrics_only_where_there_is_a_target(slices):
    tuner = tuners()["school"]
    tuner.compile(optimizer="adam", metrics=[PSNR()], jit_compile=JIT)
    unlabelled = tuner.fit(batches(slices), validation_data=batches(slices), verbose=0).history
    assert set(unlabelled) == {"loss", "val_loss"}
    labelled = tuner.fit(batches(slices, slices.targets), verbose=0).history
    assert set(labelled) == {"loss", "psnr_db"}
    assert 0 < labelled["psnr_db"][0] < 60


def test_teacher_is_frozen_and_apart(slices):
    teacher = make(6, 9)
    tuner = School(make(3, 3), teacher=teacher)
    kept = [np.array(w) for w in teacher.get_weights()]
    fit(tuner, batches(slices))
    for inside, given, old in zip(
        tuner.teacher.get_weights(), teacher.get_weights(), kept, strict=True
    ):
        np.testing.assert_array_equal(inside, old)
        np.testing.assert_array_equal(given, old)
    assert teacher.trainable
    assert len(teacher.trainable_variables) == len(kept)
    assert len(tuner.trainable_variables) == len(tuner.network.trainable_variables)
    # Known to Keras as variables: hidden, they would be constants of the compiled step.
    assert len(tuner.non_trainable_variables) == len(kept)


def test_saving_a_tuner_saves_the_network(slices, tmp_path):
    tuner = tuners()["school"]
    expected = ops.convert_to_numpy(tuner.network(slices.inputs, training=False))
    tuner.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert isinstance(loaded, UnrolledPGD)
    np.testing.assert_allclose(
        ops.convert_to_numpy(loaded(slices.inputs, training=False)), expected, atol=1e-6
    )
    tuner.save_weights(tmp_path / "network.weights.h5")
    other = make(3, 8)
    other.load_weights(tmp_path / "network.weights.h5")
    np.testing.assert_allclose(
        ops.convert_to_numpy(other(slices.inputs, training=False)), expected, atol=1e-6
    )


def test_wrong_operators():
    class Blind(CartesianMRI):
        informative_transforms = ("warp",)

    with pytest.raises(ValueError, match="must be a LinearOperator"):
        SelfSupervised(priors.dncnn(filters=[2]))
    with pytest.raises(ValueError, match=r"informative transform among .*\('warp',\)"):
        SelfSupervised(make(3, 3), operator=Blind())
    assert issubclass(Blind, LinearOperator)


def test_images_that_are_not_square_are_turned_by_180_degrees_alone():
    images = np.random.default_rng(0).uniform(size=(2, 8, 12)).astype("float32")
    slices = data.simulate_multicoil(images, coils=2, acs_lines=4)
    tuner = SelfSupervised(make(3, 3))
    prediction = tuner(slices.inputs, training=False)
    turned = ops.flip(ops.flip(prediction, 1), 2)
    virtual = tuner.operator.forward(turned, **tuner.operator.parameters(slices.inputs))
    again = ops.convert_to_numpy(tuner({**slices.inputs, "measurements": virtual}))
    turned = ops.convert_to_numpy(turned)
    tuner.consistency_weight = 0.0
    for training in (False, True):
        loss = tuner.strategy_loss(slices.inputs, None, prediction, training=training)
        wanted = float(np.mean((again - turned) ** 2))
        assert float(ops.convert_to_numpy(loss)) == pytest.approx(wanted, rel=1e-4)


def test_consistency_is_also_with_what_the_network_was_not_given():
    images = np.random.default_rng(0).uniform(size=(1, 8, 8)).astype("float32")
    slices = data.simulate_multicoil(images, coils=2, acs_lines=4)
    given = split_kspace(slices.inputs, 0.5, np.random.default_rng(1), center=2)
    tuner = SelfSupervised(make(3, 3), equivariance_weight=0.0)
    prediction = tuner(given, training=False)
    loss = tuner.strategy_loss(given, None, prediction, training=True)
    measured = tuner.operator.forward(prediction, **tuner.operator.parameters(slices.inputs))
    error = ops.convert_to_numpy(measured) - slices.inputs["measurements"]
    assert given["mask"].sum() < slices.inputs["mask"].sum()
    assert float(ops.convert_to_numpy(loss)) == pytest.approx(float(np.mean(error**2)), rel=1e-4)
