"""From file to file: safe loading, clear refusals, whole outputs."""

import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras.files import load_model
from spade_keras.pruning import count_parameters, files, make_plan


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(4)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="one")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x), name="net")


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    return path


def _leftovers(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_inspect_says_what_is_coupled_and_what_is_fixed(saved):
    lines = files.inspect_model(saved).splitlines()
    macs = 36 * 27 * 8 + 16 * 72 * 2
    assert lines[0] == f"net: {9 * 24 + 8 + 32 + 9 * 16 + 2} parameters, {macs:,} MACs"
    assert lines[1].startswith("2 groups of coupled channels, 1 of which")
    assert lines[3].split()[:2] == ["one", "8"] and "one, norm" in lines[3]
    assert lines[4].split()[:2] == ["last", "2"] and "fixed: a model output" in lines[4]


def test_prune_writes_a_slim_model_and_says_what_it_left(saved, tmp_path):
    out = tmp_path / "slim.keras"
    text = files.prune_model(saved, out, ratio=0.5)
    slim = keras.saving.load_model(out)
    assert slim.get_layer("one").filters == 4
    assert f"parameters  402 -> {count_parameters(slim)}" in text
    assert "8 -> 4" in text and f"wrote {out}" in text
    assert _leftovers(tmp_path) == ["model.keras", "slim.keras"]


def test_prune_meets_targets_and_rounds(saved, tmp_path):
    out = tmp_path / "slim.keras"
    files.prune_model(saved, out, target_parameters=0.6, importance="group_l2")
    assert count_parameters(keras.saving.load_model(out)) <= 0.6 * 402
    files.prune_model(saved, out, target_macs=0.9, round_to=4)
    assert keras.saving.load_model(out).get_layer("one").filters == 4


def test_prune_applies_a_plan_made_before(model, saved, tmp_path):
    plan = make_plan(model, widths={"one": 3})
    (tmp_path / "plan.json").write_text(plan.to_json())
    files.prune_model(saved, tmp_path / "slim.keras", plan=tmp_path / "plan.json")
    slim = keras.saving.load_model(tmp_path / "slim.keras")
    kernel = keras.ops.convert_to_numpy(model.get_layer("one").kernel)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(slim.get_layer("one").kernel),
        kernel[..., list(plan.groups[0].kept)],
    )


def test_a_plan_for_another_model_changes_nothing(model, saved, tmp_path):
    data = json.loads(make_plan(model, ratio=0.5).to_json())
    data["groups"][0]["name"] = "other"
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="other"):
        files.prune_model(saved, tmp_path / "slim.keras", plan=tmp_path / "plan.json")
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="`plan` must be a JSON file"):
        files.prune_model(saved, tmp_path / "slim.keras", plan=tmp_path / "plan.json")
    assert _leftovers(tmp_path) == ["model.keras", "plan.json"]


def test_an_interrupted_write_leaves_the_old_file(saved, tmp_path, monkeypatch):
    out = tmp_path / "slim.keras"
    out.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        files.prune_model(saved, out, ratio=0.5)
    assert out.read_bytes() == b"old"
    assert _leftovers(tmp_path) == ["model.keras", "slim.keras"]


def test_a_reader_of_the_old_file_never_sees_a_mixture(saved, tmp_path):
    out = tmp_path / "slim.keras"
    out.write_bytes(b"old")
    with out.open("rb") as reader:
        files.prune_model(saved, out, ratio=0.5)
        assert reader.read() == b"old"
    assert zipfile.is_zipfile(out)


def test_missing_foreign_and_damaged_files_are_told_apart(saved, tmp_path):
    with pytest.raises(ValueError, match="must be an existing"):
        load_model(tmp_path / "none.keras")
    with pytest.raises(ValueError, match="must be an existing"):
        load_model(tmp_path)
    foreign = tmp_path / "foreign.keras"
    foreign.write_bytes(b"\x89HDF\r\n")
    with pytest.raises(ValueError, match="of another kind or cut off"):
        files.inspect_model(foreign)
    cut = tmp_path / "cut.keras"
    cut.write_bytes(saved.read_bytes()[:-200])
    with pytest.raises(ValueError, match="of another kind or cut off"):
        files.inspect_model(cut)
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match=r"lacks \['metadata.json', 'model.weights.h5'\]"):
        files.inspect_model(foreign)
    damaged = bytearray(saved.read_bytes())
    start = damaged.index(b"model.weights.h5") + 200
    damaged[start : start + 50] = bytes(50 * [7])
    cut.write_bytes(damaged)
    with pytest.raises(ValueError, match="is damaged"):
        files.inspect_model(cut)
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(cut, "w") as other:
        for name in archive.namelist():
            other.writestr(name, "{" if name == "config.json" else archive.read(name))
    with pytest.raises(ValueError, match="loads in safe mode"):
        files.inspect_model(cut)


def test_files_that_carry_code_or_unknown_classes_are_refused(tmp_path):
    path = tmp_path / "model.keras"
    inputs = keras.Input((3,))
    keras.Model(inputs, layers.Lambda(lambda x: x * 2)(inputs)).save(path)
    with pytest.raises(ValueError, match=r"safe mode(.|\n)*Lambda"):
        load_model(path)

    @keras.saving.register_keras_serializable("test_files")
    class Passing(layers.Layer):
        def call(self, x):
            return x

    keras.Model(inputs, Passing()(inputs)).save(path)
    keras.saving.get_custom_objects().pop("test_files>Passing")
    with pytest.raises(ValueError, match=r"Passing(.|\n)*register_keras_serializable"):
        load_model(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"Exactly one of .* Received: \[\]"),
        ({"ratio": 0.5, "target_macs": 0.5}, r"Received: \['ratio', 'target_macs'\]"),
        ({"ratio": 1.5}, "Received: ratio=1.5"),
        ({"ratio": 0.5, "importance": "l1"}, "Unknown importance.*Received: 'l1'"),
    ],
)
def test_bad_settings_write_nothing(saved, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        files.prune_model(saved, tmp_path / "slim.keras", **settings)
    assert _leftovers(tmp_path) == ["model.keras"]


def test_the_place_to_write_is_checked_first(saved, tmp_path):
    for out in (tmp_path / "slim.h5", tmp_path / "none" / "slim.keras"):
        with pytest.raises(ValueError, match="in an existing folder"):
            files.prune_model(saved, out, ratio=0.5)


def test_open_sizes_can_be_given(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3)(inputs)
    keras.Model(inputs, layers.Conv2D(2, 3)(x), name="open").save(tmp_path / "model.keras")
    assert "MACs unknown" in files.inspect_model(tmp_path / "model.keras")
    text = files.prune_model(
        tmp_path / "model.keras", tmp_path / "s.keras", target_macs=0.5, input_shape=(1, 9, 9, 3)
    )
    assert f"before  {49 * 27 * 8 + 25 * 72 * 2:,} MACs" in text


def test_the_slim_file_loads_without_spade_keras(saved, tmp_path):
    out = tmp_path / "slim.keras"
    files.prune_model(saved, out, ratio=0.5)
    x = np.linspace(-1, 1, 192, dtype="float32").reshape(1, 8, 8, 3)
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "y = keras.ops.convert_to_numpy(model(np.load(sys.argv[2])))\n"
        "assert not any(name.startswith('spade_keras') for name in sys.modules)\n"
        "np.save(sys.argv[3], y)\n"
    )
    command = [sys.executable, "-c", script, out, tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ.copy(), capture_output=True)
    expected = keras.ops.convert_to_numpy(keras.saving.load_model(out)(x))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)
