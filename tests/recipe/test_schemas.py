"""Tables of what a user registers: derived from signatures; and modules that a recipe imports."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal

import pytest

from spade_keras.errors import RecipeError
from spade_keras.recipe import load_recipe, validate_recipe
from spade_keras.recipe.imaging import Measurements
from spade_keras.recipe.rules import broken_rules
from spade_keras.registry import NETWORKS, PRIORS, SOURCES
from tests.recipe.minimal import MINIMAL, TOML

pytestmark = pytest.mark.once


class Mine:
    """A network with options of every kind."""

    def __init__(
        self,
        physics,
        prior,
        steps: Sequence[int],
        iterations: int = 4,
        *,
        damping: float | None = None,
        mode: Literal["fast", "exact"] = "fast",
        flag=False,
        weights: str = "equal",
        callback: type | None = None,
        **kwargs,
    ):
        pass


def my_prior(filters, channels, depth: int = 2):
    pass


class MySource:
    class section(Measurements):
        voices: int = 3


@pytest.fixture
def registered():
    entries = ((NETWORKS, Mine), (PRIORS, my_prior), (SOURCES, MySource))
    for registry, entry in entries:
        registry.register("mine", entry)
    yield
    for registry, _ in entries:
        registry.unregister("mine")


def tables(*, network=(), prior=(), data=()):
    result = copy.deepcopy(MINIMAL)
    result["network"] |= {"name": "mine", "steps": [1, 2], **dict(network)}
    result["network"]["prior"] |= {"name": "mine", **dict(prior)}
    result["data"] = {"source": "mine", **dict(data)}
    return result


def problems_of(recipe):
    with pytest.raises(RecipeError) as caught:
        validate_recipe(recipe)
    return caught.value.problems


def test_registered_entries_take_what_their_signatures_say(registered):
    recipe = validate_recipe(
        tables(network={"damping": 1, "mode": "exact"}, prior={"depth": 3}, data={"voices": 2})
    )
    network = recipe.network.model_dump(exclude={"prior"})
    assert network == {
        "dtype": "float32",
        "name": "mine",
        "steps": (1, 2),
        "iterations": 4,
        "damping": 1,
        "mode": "exact",
        "flag": False,
        "weights": "equal",  # its own: names of trained networks are for those that ship with some
    }
    assert recipe.network.prior.model_dump() == {"name": "mine", "filters": (16, 8), "depth": 3}
    assert recipe.data.voices == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"steps": [1, "2"]}}, 'each an integer. Received: network.steps[1]="2"'),
        ({"network": {"damping": "high"}}, "`network.damping` must be a number. Received: network"),
        ({"network": {"mode": "exat"}}, 'Did you mean "exact"?'),
        ({"network": {"flag": 1}}, "`network.flag` must be true or false"),
        ({"network": {"callback": "x"}}, "`network.callback` is not a known key"),
        ({"network": {"dampng": 1}}, "Did you mean `network.damping`?"),
        ({"prior": {"kernel_size": 3}}, "`network.prior.kernel_size` is not a known key"),
        ({"prior": {"depth": 1.5}}, "`network.prior.depth` must be an integer"),
        ({"data": {"voices": "2"}}, "`data.voices` must be an integer"),
    ],
    ids=str,
)
def test_their_mistakes_are_named_too(registered, changes, message):
    [problem] = problems_of(tables(**changes))
    assert message in problem


def test_required_arguments_are_required_keys(registered):
    recipe = tables()
    del recipe["network"]["steps"]
    assert problems_of(recipe) == (
        "`network.steps` is missing: it must be a list of values, each an integer.",
    )


def test_rules_skip_faulty_keys_alone():
    recipe = copy.deepcopy(MINIMAL)
    recipe["data"] |= {"acs_lines": 97, "coils": 0}
    recipe["search"] |= {"minimum_width": 9, "trials": 0}
    named = [problem.split("`")[1] for problem in problems_of(recipe)]
    assert named == ["data.coils", "search.trials", "data.acs_lines", "search.minimum_width"]


def test_an_error_inside_a_rule_is_not_taken_for_a_faulty_key():
    recipe = validate_recipe(MINIMAL)
    recipe.data.__dict__.pop("acs_lines")
    assert broken_rules(recipe, partial=True) == []
    with pytest.raises(AttributeError):
        broken_rules(recipe)


MODULE = """
from spade_keras.registry import IMPORTANCES
IMPORTANCES.register("{name}", lambda: None)
"""


def importing(module, importance):
    """The smallest recipe with a module to import and an importance."""
    run = f'name = "small"\nimports = ["{module}"]\n'
    return TOML.replace('name = "small"\n', run) + f'[pruning]\nimportance = "{importance}"\n'


def test_modules_of_the_current_folder_register_names(tmp_path):
    (tmp_path / "my_module.py").write_text(MODULE.format(name="mine"))
    (tmp_path / "mine.toml").write_text(importing("my_module", "mine"))
    code = "import sys; from spade_keras.cli import main; sys.exit(main(['validate', 'mine.toml']))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("module", "content", "message"),
    [
        ("no_such_module", None, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken_module", "1 / 0", "ZeroDivisionError: division by zero"),
        ("../module", None, "each a string"),
    ],
)
def test_modules_that_cannot_be_imported_are_mistakes(
    tmp_path, monkeypatch, module, content, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    if content:
        (tmp_path / f"{module}.py").write_text(content)
    (tmp_path / "mine.toml").write_text(importing(module, "group_l1"))
    with pytest.raises(RecipeError) as caught:
        load_recipe("mine.toml")
    [problem] = caught.value.problems
    assert "`run.imports` must" in problem
    assert f'run.imports[0]="{module}"' in problem
    assert message in problem
