"""Recipes of the task "transfer": what they hold, and that every mistake is named."""

import copy
import tomllib

import numpy as np
import pytest

from spade_keras.errors import RecipeError
from spade_keras.recipe import TransferRecipe, load_recipe, validate_recipe
from spade_keras.recipe import transfer as recipe_transfer
from spade_keras.registry import PICTURE_SOURCES

pytestmark = pytest.mark.once

MINIMAL = {"run": {"name": "small", "task": "transfer"}}


def tables(**changes):
    result = copy.deepcopy(MINIMAL)
    for path, value in changes.items():
        section, key = path.split("__")
        result.setdefault(section, {})[key] = value
    return result


def problems_of(**changes):
    with pytest.raises(RecipeError) as caught:
        validate_recipe(tables(**changes))
    return caught.value.problems


def test_the_shipped_recipe_spells_out_the_defaults():
    shipped, minimal = load_recipe("classifier_basis_scaling"), validate_recipe(MINIMAL)
    assert isinstance(shipped, TransferRecipe)
    for section in ("data", "network", "training", "pruning", "evaluation"):
        assert getattr(shipped, section) == getattr(minimal, section)
    assert validate_recipe(tomllib.loads(shipped.to_toml())) == shipped


def test_the_defaults_are_those_of_the_package():
    from spade_keras.tasks import transfer

    pruning = validate_recipe(MINIMAL).pruning
    phases = zip(pruning.shares, pruning.patience, pruning.learning_rates, strict=True)
    assert tuple(transfer.PruningPhase(*phase) for phase in phases) == transfer.PHASES


def test_the_numbers_are_those_of_the_package():
    pytest.importorskip("sklearn")
    from spade_keras.tasks import transfer

    assert {len(filters) for filters in transfer.FILTERS.values()} == {recipe_transfer.WIDTHS}
    x, y = transfer.load_pictures("digits")
    assert np.bincount(y).min() == recipe_transfer.RAREST_CLASS["digits"]
    assert x.shape[1] == recipe_transfer.SIDES["digits"]
    assert set(recipe_transfer.SIDES) == set(PICTURE_SOURCES)


MISTAKES = [
    ({"data__source": "minst"}, "`data.source` must be one of", 'Did you mean "mnist"?'),
    ({"data__coils": 4}, "`data.coils` is not a known key", "target_classes"),
    ({"data__path": "/no/such.npz"}, "`data.path` must be an existing file", "such.npz"),
    ({"data__target_classes": [5]}, "a list of 2 to 1000 values", "[5]"),
    (
        {"data__target_classes": [5, 5]},
        "`data.target_classes` must name every class once",
        "[5, 5]",
    ),
    ({"data__target_classes": [4, 5]}, "must share no class", "[4] is in both"),
    ({"data__target_classes": [5, 10]}, "must be classes of `digits`, 0 to 9", "[5, 10]"),
    ({"data__source_classes": [0, 12]}, "must be classes of `digits`, 0 to 9", "[0, 12]"),
    ({"data__train_per_class": 134}, "must be below 174", "data.train_per_class=134"),
    ({"network__name": "resnte"}, "`network.name`", 'Did you mean "resnet"?'),
    ({"network__path": "/no/such.keras"}, "`network.path` must be an existing file", "such.keras"),
    (
        {"network__filters": [4] * 6},
        "at most 5 widths for pictures of 16 pixels",
        "=[4, 4, 4, 4, 4, 4]",
    ),
    (
        {"network__filters": [4] * 5, "data__size": 8},
        "at most 4 widths for pictures of 8 pixels",
        "filters=",
    ),
    (
        {"network__weights": "imagenet", "data__size": 31},
        "`data.size` must be at least 32, or left out",
        "data.size=31",
    ),
    (
        {"network__weights": "imagenet", "network__filters": [8, 8]},
        "`network.filters` must be left out",
        "[8, 8]",
    ),
    ({"training__epochs": 0}, "`training.epochs` must be an integer >= 1", "=0"),
    ({"pruning__importance": "taylor"}, "`pruning.importance`", "gradients"),
    ({"pruning__component_importance": "sigam"}, "`pruning.component_importance`", '"sigma"'),
    (
        {"pruning__shares": [0.1]},
        "must have one value per phase each",
        "pruning.shares=[0.1], pruning.patience=[2, 5, 5]",
    ),
    ({"search__latency_budget": 0.5}, "`search` is not a known section", "evaluation"),
]


@pytest.mark.parametrize(("changes", "first", "second"), MISTAKES, ids=lambda v: str(v)[:40])
def test_each_mistake_is_named_with_what_is_allowed(changes, first, second):
    problems = problems_of(**changes)
    assert len(problems) == 1, problems
    assert first in problems[0]
    assert second in problems[0]


def test_all_mistakes_are_reported_at_once():
    problems = problems_of(
        data__source="minst", data__target_classes=[4, 5], pruning__shares=[0.1], training__epochs=0
    )
    assert [problem.split("`")[1] for problem in problems] == [
        "data.source",
        "training.epochs",
        "pruning.shares",
        "data.target_classes",
    ]


def test_a_network_that_comes_trained_may_know_the_target_classes(tmp_path):
    (tmp_path / "trained.keras").touch()
    path = str(tmp_path / "trained.keras")
    assert validate_recipe(tables(network__path=path, data__target_classes=[3, 4])).network.path
    for changes in ({"network__weights": "imagenet"}, {"network__filters": [4]}):
        assert len(problems_of(network__path=path, **changes)) == 1
    # One line is enough: the pictures are made large enough.
    assert validate_recipe(tables(network__weights="imagenet")).network.weights == "imagenet"
