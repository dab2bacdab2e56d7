"""What holds for the package as a whole: import cost, import directions, recipes, README."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import spade_keras
from spade_keras import recipe as recipes
from spade_keras import registry
from spade_keras.pipeline import PIPELINES, StageJob

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.alone
def test_import_is_cheap_and_leaves_keras_alone():
    # It imports no keras, so its own time bounds what it adds to `import keras`.
    code = (
        "import sys, time; start = time.perf_counter(); import spade_keras; "
        "seconds = time.perf_counter() - start; "
        "loaded = {'keras', 'numpy', 'spade_keras.operators'} & set(sys.modules); "
        "print(seconds, sorted(loaded), sep=';')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = shown.stdout.strip().split(";")
    assert float(seconds) < 0.3
    assert loaded == "[]"


def test_subpackages_are_attributes():
    import spade_keras

    assert spade_keras.operators.CartesianMRI.__name__ == "CartesianMRI"
    assert set(spade_keras.__all__) <= set(dir(spade_keras))
    with pytest.raises(AttributeError, match="no attribute 'operator'"):
        _ = spade_keras.operator


def test_every_name_of_a_table_exists():
    tables = [v for v in vars(registry).values() if isinstance(v, registry.Registry)]
    assert len(tables) >= 15
    assert all(callable(table[name]) for table in tables for name in table)
    assert all(issubclass(PIPELINES[name], StageJob) for name in PIPELINES)


def lint_imports(folder=ROOT, config="pyproject.toml"):
    command = "import sys; from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", command, "--config", config, "--no-cache"],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def test_imports_keep_their_directions():
    shown = lint_imports()
    assert shown.returncode == 0, shown.stdout
    kept, broken = map(int, re.findall(r"Contracts: (\d+) kept, (\d+) broken", shown.stdout)[0])
    assert (kept, broken) == (5, 0)


def test_the_linter_would_notice_a_wrong_direction(tmp_path):
    """The contracts see through the symlinks: search/ imports latency, which is forbidden here."""
    config = tmp_path / "contracts.toml"
    config.write_text(
        '[tool.importlinter]\nroot_package = "spade_keras"\n'
        '[[tool.importlinter.contracts]]\nname = "none"\ntype = "forbidden"\n'
        'source_modules = ["spade_keras.search"]\nforbidden_modules = ["spade_keras.latency"]\n'
    )
    shown = lint_imports(config=str(config))
    assert shown.returncode == 1
    assert "spade_keras.search" in shown.stdout and "1 broken" in shown.stdout


@pytest.mark.parametrize("name", sorted(recipes.shipped_recipes()))
def test_shipped_recipes_are_valid(name):
    recipe = recipes.load_recipe(name)
    assert recipe.run.name == name
    text = (ROOT / "recipes" / f"{name}.toml").read_text()
    assert text.startswith("#"), "a recipe opens with what it does"
    assert f"spade-keras run recipes/{name}.toml" in text
    assert tomllib.loads(text)["run"]["name"] == name


def test_the_quickstart_ships():
    assert "mri_unrolled_quickstart" in recipes.shipped_recipes()
    assert recipes.load_recipe("mri_unrolled_quickstart").search.latency_budget == 0.5


def test_the_readme_opens_with_the_two_commands():
    commands = re.findall(r"^    (.*?)(?:\s+#.*)?$", README, flags=re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]
    assert README.index("make demo") < 300


def test_the_readmes_python_names_exist():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    compile(code, "README.md", "exec")
    names = set(re.findall(r"\bsk\.([\w.]+)", code))
    assert len(names) >= 10
    for name in names:
        found = spade_keras
        for attribute in name.split("."):
            found = getattr(found, attribute)


def test_the_readmes_commands_exist():
    from typer.main import get_command

    from spade_keras.cli import app

    commands = get_command(app).commands
    named = set(re.findall(r"^    spade-keras (search (?:worker|proxy)|\w+)", README, re.MULTILINE))
    assert named == set(commands)


def test_everything_that_is_installed_is_pinned():
    pins = {
        line.split("==")[0].lower().replace("_", "-"): line.split("==")[1]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert not [version for version in pins.values() if "+" in version]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = ("tensorflow", "jax", "torch", "recipes", "report", "proxy", "dev")
    wanted = [*project["dependencies"], *(name for extra in used for name in extras[extra])]
    names = {re.match(r"[\w-]+", text)[0].lower().replace("_", "-") for text in wanted}
    assert names <= set(pins)
