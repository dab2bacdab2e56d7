"""What a search maximizes, and the scores of classifiers."""

import sys

import keras
import numpy as np
import optuna
import pytest

from spade_keras import pruning
from spade_keras.errors import UserCodeError, UserFunctionError
from spade_keras.finetuning import Supervised
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.registry import OBJECTIVES
from spade_keras.search.objective import KeptImportance, Objective, ShortFineTune, UserFunction
from spade_keras.search.scores import Accuracy, LogitAgreement, OutputAgreement, strategy_objective
from spade_keras.search.user_code import load_function


def make_classifier(activation=None, seed=0, units=3):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,), name="x")
    x = keras.layers.Dense(8, activation="relu", name="wide")(inputs)
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation, name="last")(x))


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).normal(size=(40, 6)).astype("float32")


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, size=4):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return len(self.x) // self.size

    def __getitem__(self, index):
        part = slice(index * self.size, (index + 1) * self.size)
        return self.x[part], self.y[part]


class NegativeError(Objective):
    """Minus the squared error against fixed targets; remembers every answer."""

    name = "negative error"

    def __init__(self, x, y):
        self.inputs, self.y, self.seen = x, y, []

    def __call__(self, network, report=None):
        answer = keras.ops.convert_to_numpy(network(self.inputs, training=False))
        self.seen.append(-float(np.mean((answer - self.y) ** 2)))
        return self.seen[-1]


def make_short(samples, **options):
    targets = np.tanh(samples[:, :3])
    quality = NegativeError(samples, targets)
    options = {"learning_rate": 0.05, **options}
    return quality, ShortFineTune(quality, Supervised, Batches(samples, targets), **options)


def test_as_pruned_is_the_score_itself(samples):
    objective = NegativeError(samples, np.zeros((40, 3)))
    model = make_classifier()
    assert objective(model) == objective.as_pruned(model) == objective.seen[0]
    assert objective.name == "negative error"


def test_a_short_fine_tuning_reports_every_rung_and_ends_better(samples):
    quality, objective = make_short(samples, epochs=3, rungs=3)
    model = make_classifier()
    before = quality(model)
    reports = []
    value = objective(model, lambda step, reached: reports.append((step, reached)))
    assert objective.name == "negative error after 30 steps"
    assert [step for step, _ in reports] == [1, 2, 3]
    assert [reached for _, reached in reports] == quality.seen[1:]
    assert value == reports[-1][1] > before
    # The last report is of the weights that training ends with.
    assert quality(model) == pytest.approx(value, rel=1e-5)
    assert len({reached for _, reached in reports}) == 3


def test_without_reports_quality_is_computed_once(samples):
    quality, objective = make_short(samples, rungs=3)
    value = objective(make_classifier())
    assert quality.seen == [value]


def test_a_report_may_stop_the_training(samples):
    quality, objective = make_short(samples, epochs=2, rungs=4)

    def stop(step, reached):
        if step == 2:
            raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        objective(make_classifier(), stop)
    assert len(quality.seen) == 2


def test_wrong_short_fine_tunings(samples):
    for wrong in ({"epochs": 0}, {"rungs": 0}, {"learning_rate": 0}):
        ((name, _),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name}=0"):
            make_short(samples, **wrong)
    with pytest.raises(ValueError, match=r"number of training steps, 10.*rungs=11"):
        make_short(samples, rungs=11)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[8, 8, 8]), iterations=4)


def slim(network, **settings):
    return pruning.rebuild(network, pruning.make_plan(network, **settings))


def test_kept_importance_of_widths(network):
    objective = KeptImportance(network)
    assert objective(network) == pytest.approx(1.0)
    half, quarter = (objective(slim(network, ratio=ratio)) for ratio in (0.5, 0.75))
    # The best half of the channels keeps more than half of the importance.
    assert 0.5 < half < 1
    assert 0.25 < quarter < half
    names = [group.name for group in pruning.find_groups(network) if not group.fixed]
    alone = [objective(slim(network, widths={name: 4})) for name in names]
    assert np.prod(alone) == pytest.approx(half, rel=1e-6)


def test_kept_importance_of_fewer_iterations(network):
    objective = KeptImportance(network)
    cut = network.with_iterations(3)
    assert objective(cut) == pytest.approx(0.75)
    both = objective(slim(cut, ratio=0.5))
    assert both == pytest.approx(0.75 * objective(slim(network, ratio=0.5)))


def test_kept_importance_of_dropped_blocks():
    def make(blocks):
        keras.utils.set_random_seed(0)
        x = inputs = keras.Input((8, 8, 2))
        x = keras.layers.Conv2D(8, 3, padding="same", name="head")(x)
        for block in blocks:
            y = keras.layers.Conv2D(8, 3, padding="same", name=f"{block}_a")(x)
            x = keras.layers.Add(name=block)([x, keras.layers.Conv2D(8, 1, name=f"{block}_b")(y)])
        return keras.Model(inputs, keras.layers.Conv2D(2, 3, padding="same", name="tail")(x))

    objective = KeptImportance(make(["one", "two"]))
    dropped = objective(make(["one"]))
    everything = objective(make([]))
    # Each block has an inner group of two kernels, of ten in all: head, tail, and per block the
    # stream is written and read once.
    assert dropped == pytest.approx(1 - 2 / 10)
    assert everything == pytest.approx((1 - 2 / 10) ** 2)


def test_user_functions():
    assert UserFunction("math:sqrt")(4.0) == 2.0
    assert UserFunction("math:sqrt").name == "math:sqrt"
    assert UserFunction(lambda model: np.float32(0.5))(None) == 0.5
    assert UserFunction(lambda model: keras.ops.convert_to_tensor([2.5]))(None) == 2.5
    assert UserFunction(lambda model: 3)(None) == 3.0


@pytest.mark.parametrize(
    "wrong", [None, "0.9", True, float("nan"), float("inf"), 1j, [1.0, 2.0], {"accuracy": 0.9}, []]
)
def test_what_user_functions_must_not_return(wrong):
    def evaluate(model):
        return wrong

    with pytest.raises(UserFunctionError, match=r"evaluate` must return one finite real number"):
        UserFunction(evaluate)(None)


def test_exceptions_of_user_functions_come_through():
    def evaluate(model):
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        UserFunction(evaluate)(None)


@pytest.mark.once
def test_functions_come_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "judge_of_p4.py").write_text("def score(model):\n    return 0.25\n\nLIMIT = 3\n")
    (tmp_path / "needs_more_p4.py").write_text("import no_such_package_p4\n")
    assert load_function("judge_of_p4:score")(None) == 0.25
    for spec, message in {
        "judge_of_p4": "must read module:function",
        "judge_of_p4.score": "must read module:function",
        ":score": "must read module:function",
        "judge_of_p5:score": "no module 'judge_of_p5'",
        "judge_of_p4:scores": r"no 'scores'\. Did you mean 'score'",
        "judge_of_p4:LIMIT": "which is a int",
    }.items():
        with pytest.raises(UserFunctionError, match=message) as caught:
            load_function(spec, argument="--evaluate")
        assert f"--evaluate={spec!r}" in str(caught.value)
    # What is missing is not the user's module but one that it imports: Python's own words.
    with pytest.raises(UserCodeError, match=r"ModuleNotFoundError.*no_such_package_p4"):
        load_function("needs_more_p4:score")


@pytest.mark.parametrize("one_hot", [False, True])
def test_accuracy(samples, one_hot):
    model = make_classifier()
    outputs = keras.ops.convert_to_numpy(model(samples))
    labels = outputs.argmax(-1)
    labels[:10] = (labels[:10] + 1) % 3
    given = np.eye(3)[labels] if one_hot else labels
    assert Accuracy(samples, given)(model) == pytest.approx(0.75)
    assert Accuracy(samples, given, batch_size=7)(model) == pytest.approx(0.75)


@pytest.mark.parametrize(("activation", "middle"), [("sigmoid", 0.5), (None, 0.0)])
def test_accuracy_of_a_single_output(samples, activation, middle):
    model = make_classifier(activation, units=1, seed=3)
    model.get_layer("last").bias.assign([0.0 if activation else -0.2])
    outputs = keras.ops.convert_to_numpy(model(samples))
    labels = (outputs > middle).astype(int)
    assert 0 < labels.mean() < 1
    labels[:4] = 1 - labels[:4]
    assert Accuracy(samples, labels)(model) == pytest.approx(0.9)


def test_agreement_is_the_divergence_in_db(samples):
    teacher, other = make_classifier(), make_classifier(seed=1)
    p, q = (
        keras.ops.convert_to_numpy(keras.ops.softmax(m(samples))).astype("float64")
        for m in (teacher, other)
    )
    expected = -10 * np.log10(np.mean(np.sum(p * np.log(p / q), axis=-1)))
    quality = LogitAgreement(samples, teacher, batch_size=16)
    assert quality(other) == pytest.approx(expected, rel=1e-4)
    assert quality(teacher) > 100 > quality(other)


def test_logits_and_probabilities_agree(samples):
    scores = []
    for activation in (None, "softmax"):
        teacher, other = make_classifier(activation), make_classifier(activation, seed=1)
        scores.append(LogitAgreement(samples, teacher)(other))
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    single = [make_classifier(None, seed, units=1) for seed in (0, 1)]
    sigmoid = [make_classifier("sigmoid", seed, units=1) for seed in (0, 1)]
    logits = LogitAgreement(samples, single[0])(single[1])
    assert LogitAgreement(samples, sigmoid[0])(sigmoid[1]) == pytest.approx(logits, rel=1e-4)


def test_a_shift_of_all_logits_changes_nothing(samples):
    teacher, shifted = make_classifier(), make_classifier()
    bias = shifted.get_layer("last").bias
    bias.assign(keras.ops.convert_to_numpy(bias) + 5)
    assert LogitAgreement(samples, teacher)(shifted) > 90


def test_only_the_supervised_quality_sees_the_labels(samples):
    model, teacher = make_classifier(seed=1), make_classifier()
    poison = np.full((40,), np.nan)
    scores = {}
    for strategy in ("school", "supervised"):
        for labels in (np.zeros(40, int), poison):
            quality = strategy_objective(
                strategy, samples, targets=labels, teacher=teacher, task="classification"
            )
            scores.setdefault(strategy, []).append(quality(model))
    assert scores["school"][0] == scores["school"][1]
    assert np.isnan(scores["supervised"][1])
    assert isinstance(quality, Accuracy)


def test_a_broken_network_has_no_accuracy(samples):
    model = make_classifier()
    model.get_layer("last").bias.assign([0.0, np.nan, 0.0])
    assert np.isnan(Accuracy(samples, np.zeros(40))(model))
    assert np.isnan(LogitAgreement(samples, make_classifier())(model))


def test_wrong_tasks(samples):
    with pytest.raises(ValueError, match="task='detection'"):
        strategy_objective("school", samples, task="detection")
    with pytest.raises(ValueError, match=r"for classification.*strategy='self_supervised'"):
        strategy_objective("self_supervised", samples, task="classification")
    with pytest.raises(ValueError, match=r"shape \(39,\) for 40 samples"):
        Accuracy(samples, np.zeros(39))


def test_objectives_by_name():
    assert sorted(OBJECTIVES) == ["as_pruned", "kept_importance", "short_finetune"]


def test_output_agreement_is_the_signal_to_error_ratio():
    inputs = np.array([[1.0], [-1.0]])
    full = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    full.layers[0].kernel.assign([[1.0]])
    agreement = OutputAgreement(full, inputs)
    assert agreement(full) == pytest.approx(120)
    other = keras.models.clone_model(full)
    other.layers[0].kernel.assign([[0.9]])
    assert agreement(other) == pytest.approx(20, abs=1e-4)  # a tenth of the signal is lost
    other.layers[0].kernel.assign([[0.0]])
    assert agreement(other) == pytest.approx(0, abs=1e-6)  # as good as the mean
