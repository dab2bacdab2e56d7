"""Search options have the same names and defaults in recipes, on the command line, in Python."""

import subprocess
import sys

import pytest
import typer

from spade_keras import cli, search
from spade_keras.recipe import SearchRecipe
from spade_keras.search.options import SearchFields, SearchOptions

pytestmark = pytest.mark.once


def command_line_options():
    """Name in Python -> default, of `spade-keras search`."""
    group = typer.main.get_command(cli.app)
    command = group.get_command(None, "search")
    return {parameter.name: parameter.default for parameter in command.params}


def as_word(value):
    """A default as the command line shows it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def test_the_command_line_has_every_option_with_its_default():
    known = command_line_options()
    for name, field in SearchOptions.model_fields.items():
        if name == "latency_budget":
            assert "budget" in known
        else:
            assert known[name] == as_word(field.default), name


def test_python_has_every_option_and_adds_no_default():
    own = set(SearchOptions.model_fields) - {"latency_budget"}
    assert set(SearchFields.__annotations__) == own
    assert SearchOptions.of("0.5") == SearchOptions(latency_budget="0.5")


def test_the_keys_of_a_recipe_are_these_options():
    table = SearchRecipe.model_fields["search"].annotation
    assert table is SearchOptions or set(table.model_fields) <= set(SearchOptions.model_fields)


def test_every_option_is_described():
    described = SearchOptions.descriptions()
    assert list(described) == list(SearchOptions.model_fields)
    assert all(text.endswith(".") and 10 < len(text) < 200 for text in described.values())


@pytest.mark.parametrize("text", [0.5, "8.0ms", "p99<=8.0ms", "throughput>=200.0/s"])
def test_a_budget_may_be_text_or_an_object(text):
    given = {"batch_size": 2, "dtype": "bfloat16", "safety_margin": 0.1}
    budget = search.LatencyBudget.parse(text, **given)
    assert budget.text == str(text)
    assert SearchOptions.of(budget).budget == budget
    assert SearchOptions.of(budget, safety_margin=0.2).budget.safety_margin == 0.2
    base = SearchOptions(latency_budget=0.1, trials=7, batch_size=9)
    assert SearchOptions.of(budget, base) == SearchOptions.of(budget, trials=7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampler": "best"}, r"`sampler` must be one of gp, nsga2, .* Received: sampler='best'"),
        ({"seeds": ("uniform", "lucky")}, r"`seeds` must be among .*Received: seeds='lucky'"),
        ({"dtypes": ("int8",)}, "`dtypes` must be among bfloat16, float16, float32"),
        ({"trials": 0}, "`trials`: must be greater than or equal to 1. Received: trials=0"),
        ({"trial": 5}, "`trial` is no option of a search"),
        ({"pairs": 2, "safety_margin": 1.0}, "`safety_margin`.*`pairs`"),
    ],
)
def test_mistakes_are_named_all_at_once(fields, message):
    with pytest.raises(ValueError, match=message):
        SearchOptions.of(0.5, **fields)


def test_no_keras_is_imported():
    code = "import sys, spade_keras.search.options; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
