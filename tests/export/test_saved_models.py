import keras
import numpy as np
import pytest

from spade_keras.export import ExportError, check_saved_models, export_model, saved_model
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI

SHIFT = 0.25
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"

USER_MODULE = """
import keras
from spade_keras.networks import UnrolledPGD

@keras.saving.register_keras_serializable(package="a_user")
class Gained(UnrolledPGD):
    def call(self, inputs, training=False):
        return 3.0 * super().call(inputs, training=training)
"""


def randomized(model):
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.04))
    return model


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    return {
        "measurements": rng.normal(size=(3, 2, 24, 20, 2)).astype("float32"),
        "mask": rng.integers(0, 2, size=(3, 1, 20)).astype("float32"),
        "sensitivities": rng.normal(size=(3, 2, 24, 20, 2)).astype("float32"),
    }


@pytest.fixture(scope="module")
def exported(inputs, tmp_path_factory):
    """Exports and checks a user's network made of ours; the slow part, done once.

    Where an export takes a process of its own, the slim model is the full one once more.
    """
    folder = tmp_path_factory.mktemp("exported")
    (folder / "users_module.py").write_text(USER_MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        import users_module

        prior = priors.dncnn(filters=[64] * 4)
        full = slim = randomized(users_module.Gained(CartesianMRI(), prior, iterations=4))
        report = export_model(full, folder / "full", inputs)
        folders = {"full": folder / "full", "slim": folder / "full"}
        if ON_TENSORFLOW:
            slim = randomized(UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[2]), iterations=1))
            folders["slim"] = export_model(slim, folder / "slim", inputs).folder
        outputs = {
            "full": keras.ops.convert_to_numpy(full(inputs)),
            "slim": keras.ops.convert_to_numpy(slim(inputs)),
        }
        # One expected number is wrong by a known amount: the check must find that amount.
        expected = {"full": outputs["full"], "slim": outputs["slim"].copy()}
        expected["slim"][2, 5, 7, 1] += SHIFT
        check = check_saved_models(folders, inputs, expected, pairs=5, timing_batch=1)
    return folder, outputs, report, check


def test_the_exported_model_computes_what_the_network_does(exported):
    _, outputs, _, check = exported
    extent = np.ptp(outputs["full"])
    assert extent > 1
    assert check.relative_error["full"] < 1e-5
    assert check.max_abs_error["full"] == pytest.approx(check.relative_error["full"] * extent)


def test_the_check_finds_a_wrong_output(exported):
    _, outputs, _, check = exported
    assert check.max_abs_error["slim"] == pytest.approx(SHIFT, rel=1e-3)
    assert check.relative_error["slim"] == pytest.approx(SHIFT / np.ptp(outputs["slim"]), rel=1e-3)


def test_the_exported_models_are_timed_in_turn(exported):
    _, _, _, check = exported
    full, slim = check.latency["full"], check.latency["slim"]
    assert check.ratio.value == pytest.approx(slim.median_ms / full.median_ms)
    assert check.ratio.low <= check.ratio.value <= check.ratio.high
    if ON_TENSORFLOW:
        assert check.ratio.value < 0.9  # two convolutions of width 2 against twenty of width 64
    assert len(full.samples) == len(slim.samples) == 5
    assert full.compile_ms > 0
    assert {entry["name"]: entry["shape"][0] for entry in full.fingerprint["inputs"]} == {
        "measurements": 1,
        "mask": 1,
        "sensitivities": 1,
    }
    assert "keras" not in full.fingerprint["versions"]
    assert full.fingerprint["versions"]["tensorflow"]


def test_the_report_says_what_was_written(exported, inputs):
    folder, _, report, _ = exported
    report = report.as_dict()
    assert report["folder"] == str(folder / "full")
    assert report["backend"] == keras.backend.backend()
    assert report["inputs"]["mask"] == {"shape": [None, 1, 20], "dtype": "float32"}
    assert report["size_bytes"] == sum(
        path.stat().st_size for path in (folder / "full").rglob("*") if path.is_file()
    )
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the same in every backend")
def test_an_unreadable_model_is_reported_in_tensorflows_words(exported, inputs, tmp_path):
    _, outputs, _, _ = exported
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"no protocol buffer")
    with pytest.raises(ExportError, match=r"(?s)Traceback.*[Pp]ars"):
        check_saved_models(
            {"broken": tmp_path / "broken"}, inputs, {"broken": outputs["full"]}, lock=False
        )


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the same in every backend")
def test_a_functional_model_of_one_array_with_named_outputs(tmp_path):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3)(image)
    model = randomized(keras.Model(image, {"x": x, "mean": keras.ops.mean(x, axis=(1, 2))}))
    given = np.random.default_rng(0).normal(size=(2, 8, 8, 1))  # double: exported as floatx
    export_model(model, tmp_path / "one", given)
    expected = {name: keras.ops.convert_to_numpy(y) for name, y in model(given).items()}
    report = check_saved_models(
        {"one": tmp_path / "one"}, given, {"one": expected}, pairs=2, lock=False
    )
    assert report.max_abs_error["one"] < 1e-5
    assert report.ratio is None
    assert report.as_dict()["ratio"] is None


def test_the_modules_of_everything_a_model_needs_are_found(monkeypatch):
    def damped(x):
        return 0.5 * keras.ops.tanh(x)

    class Local(keras.layers.Dense):
        pass

    monkeypatch.setattr(damped, "__module__", "users.functions")
    monkeypatch.setattr(Local, "__module__", "users.layers")
    register = keras.saving.register_keras_serializable(package="test_saved_models")
    register(damped)
    register(Local)
    inner = keras.Sequential([keras.Input((4,)), Local(2), keras.layers.Dense(2, damped)])
    model = keras.Sequential([keras.Input((4,)), inner])
    config = keras.saving.serialize_keras_object(model)
    assert saved_model.custom_modules(config) == ["users.functions", "users.layers"]
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[2]), iterations=1)
    found = saved_model.custom_modules(keras.saving.serialize_keras_object(network))
    assert {UnrolledPGD.__module__, CartesianMRI.__module__} == set(found)


@pytest.mark.skipif(ON_TENSORFLOW, reason="exports in this process")
def test_a_class_of_the_running_script_is_refused_with_the_way_out(tmp_path, monkeypatch):
    @keras.saving.register_keras_serializable(package="test_saved_models")
    class OfTheScript(keras.layers.Dense):
        pass

    monkeypatch.setattr(OfTheScript, "__module__", "__main__")
    model = keras.Sequential([keras.Input((4,)), OfTheScript(2)])
    with pytest.raises(ExportError, match=r"Move them to a module.*KERAS_BACKEND=tensorflow"):
        export_model(model, tmp_path / "model", np.ones((1, 4), "float32"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([np.ones((1, 4))], TypeError, "dict of arrays or one array"),
        ({"x": 3.0}, TypeError, "Received: x=3.0"),
        (np.float32(1), ValueError, "must have a batch axis"),
        ({"k-space": np.ones((1, 4))}, ValueError, "words of letters.*k-space"),
    ],
)
def test_inputs_that_make_no_signature_are_refused(tmp_path, given, error, message):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(error, match=message):
        export_model(model, tmp_path / "model", given)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folders": {}}, "one or two SavedModels"),
        ({"folders": {"full": "/nowhere"}}, "holds no saved_model.pb"),
        ({"expected": {"slim": 0}}, "must have the names of `folders`"),
        ({"expected": {"full": np.array([np.nan])}}, "must be finite"),
        ({"timing_batch": 4}, r"in 1 \.\. 3.*timing_batch=4"),
        ({"pairs": 1}, "`pairs` must be at least 2"),
    ],
)
def test_checks_that_make_no_sense_are_refused(tmp_path, inputs, changes, message):
    (tmp_path / "saved_model.pb").touch()
    arguments = {"folders": {"full": tmp_path}, "inputs": inputs, "expected": {"full": np.ones(3)}}
    with pytest.raises(ValueError, match=message):
        check_saved_models(**{**arguments, **changes})
