"""Starting up: how long it takes, what is imported, which backend is chosen and what it says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from spade_keras.cli import startup
from spade_keras.errors import MissingExtraError, SpadeError

HEAVY = ("keras", "numpy", "optuna", "tensorflow", "jax", "torch", "matplotlib")
HELP = "from spade_keras.cli import main; main(['--help'])"


def run(code, folder=None):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    ).stdout


@pytest.mark.once
@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import spade_keras", []),
        ("import spade_keras.registry, spade_keras.errors, spade_keras.files", []),
        ("from spade_keras.recipe import load_recipe", ["pydantic"]),
        ("import spade_keras.cli", ["typer"]),
        ("import spade_keras.cli.recipes, spade_keras.cli.models", ["typer"]),
    ],
)
def test_what_is_imported(code, loaded):
    watched = (*HEAVY, "pydantic", "rich", "typer")
    shown = run(f"{code}; import sys; print(sorted(set({watched}) & set(sys.modules)))")
    assert shown.strip() == str(loaded)


@pytest.mark.once
def test_help_and_mistakes_do_not_import_keras(tmp_path):
    (tmp_path / "small.toml").write_text("[run]\nname = 1\n")
    shown = run(
        "import sys; from spade_keras.cli import main; codes = [main(['--help']), "
        "main(['run', 'small.toml']), main(['validate', 'small.toml']), "
        "main(['validate', 'mri_unrolled_quickstart'])]; "
        f"print(codes, sorted(set({HEAVY}) & set(sys.modules)))",
        tmp_path,
    )
    assert shown.splitlines()[-1] == "[0, 2, 2, 0] []"


@pytest.mark.once
@pytest.mark.parametrize(("code", "seconds"), [("import spade_keras", 0.1), (HELP, 0.5)])
@pytest.mark.alone
def test_it_starts_fast(code, seconds):
    """Processor time of the best of some starts, beyond that of a bare Python's."""

    def best(code):
        times = []
        for _ in range(5):
            before = os.times()
            run(code)
            after = os.times()
            times.append(sum(after[2:4]) - sum(before[2:4]))  # user and system, of children
        return min(times)

    assert best(code) - best("pass") < seconds


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A machine with some backends installed, and no configuration of Keras."""
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def install(*names, configured=None):
        found = {name: object() for name in names}
        monkeypatch.setattr(importlib.util, "find_spec", found.get)
        if configured:
            (tmp_path / "keras.json").write_text(json.dumps({"backend": configured}))

    return install


@pytest.mark.parametrize(
    ("names", "configured", "chosen"),
    [
        (("tensorflow", "jax", "torch"), None, "tensorflow"),
        (("jax", "torch"), None, "jax"),
        (("torch",), None, "torch"),
        (("tensorflow", "torch"), "torch", "torch"),
        (("jax",), "tensorflow", "jax"),
        (("jax", "openvino"), "openvino", "jax"),
    ],
)
def test_the_first_installed_backend_is_chosen(installed, names, configured, chosen):
    installed(*names, configured=configured)
    assert startup.choose_backend() == chosen


def test_the_environment_decides(installed, monkeypatch):
    installed("tensorflow", "jax", configured="tensorflow")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert startup.choose_backend() == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(MissingExtraError, match=r"spade-keras\[torch\]"):
        startup.choose_backend()
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(SpadeError, match=r"tensorflow, jax, torch.*KERAS_BACKEND=theano"):
        startup.choose_backend()


def test_without_any_backend_the_pip_line_is_given(installed):
    installed()
    with pytest.raises(MissingExtraError, match=r"spade-keras\[tensorflow\]"):
        startup.choose_backend()


def test_the_backend_starts_silently():
    code = (
        "from spade_keras.cli.startup import import_keras; print(import_keras()); "
        "import keras; keras.layers.Conv2D(2, 3)(keras.ops.ones((1, 8, 8, 2)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout.strip() == os.environ["KERAS_BACKEND"]
    assert shown.stderr == ""


def test_messages_are_shown_when_the_import_fails(capfd):
    with pytest.raises(ImportError), startup._native_messages_held_back():
        os.write(2, b"no such driver\n")
        raise ImportError
    assert capfd.readouterr().err == "no such driver\n"
    with startup._native_messages_held_back():
        os.write(2, b"hello\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
