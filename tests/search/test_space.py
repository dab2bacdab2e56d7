"""What may be chosen."""

import optuna
import pytest

from spade_keras.pruning import Group
from spade_keras.search import Configuration, SearchSpace

pytestmark = pytest.mark.once


def group(name, width, **kwargs):
    return Group(name=name, width=width, slots=(), **kwargs)


def space(**joint):
    return SearchSpace.from_groups(
        [group("a", 16), group("image", 2, fixed="a model output"), group("b", 24)],
        multiple=8,
        minimum=8,
        **joint,
    )


def joint_space():
    return space(
        iterations=(2, 3, 5),
        blocks=("add_1", "add_2"),
        dtypes=("float32", "bfloat16"),
        ranks={"a": (2, 4, 16)},
    )


def test_edges_are_multiples_and_the_full_width():
    assert space().as_dict()["edges"] == {"a": [8, 16], "b": [8, 16, 24]}
    assert space().full == Configuration({"a": 16, "b": 24})
    assert space().narrowest == Configuration({"a": 8, "b": 8})
    odd = SearchSpace.from_groups([group("a", 13)], multiple=4, minimum=6)
    assert odd.as_dict()["edges"] == {"a": [8, 12, 13]}


def test_edges_respect_what_the_group_demands():
    grouped = SearchSpace.from_groups([group("a", 24, divisor=6)], multiple=4, minimum=4)
    assert grouped.as_dict()["edges"] == {"a": [12, 24]}


def test_widths_off_the_grid_become_the_nearest():
    assert space().parameters(Configuration({"a": 11, "b": 21})) == {"a": 0, "b": 2}
    assert space().snap({"a": 11, "b": 21}).widths == {"a": 8, "b": 24}
    assert space().uniform(0.5).widths == {"a": 8, "b": 8}
    assert space().uniform(0.0) == space().full


def test_nothing_to_search():
    with pytest.raises(ValueError, match="No channel group may change"):
        SearchSpace.from_groups([group("a", 8, fixed="reason")])
    with pytest.raises(ValueError, match="minimum=32"):
        SearchSpace.from_groups([group("a", 16)], minimum=32)
    depth_alone = SearchSpace.from_groups([group("a", 8, fixed="reason")], iterations=(1, 2))
    assert depth_alone.full == Configuration({}, iterations=2)


@pytest.mark.parametrize("made", [space(), joint_space()])
def test_parameters_and_configurations_are_one_another(made):
    """Whatever a trial draws comes back when its configuration is enqueued again."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = set()
    for _ in range(40):
        trial = study.ask()
        configuration = made.suggest(trial)
        assert made.parameters(configuration) == trial.params
        assert Configuration.from_dict(configuration.as_dict()) == configuration
        drawn.add(configuration.key())
        study.enqueue_trial(made.parameters(configuration))
        assert made.suggest(study.ask()) == configuration
    assert len(drawn) > 4
    assert SearchSpace.from_dict(made.as_dict()) == made


def test_joint_variables():
    made = joint_space()
    assert made.full == Configuration({"a": 16, "b": 24}, 5, (), "float32")
    wanted = Configuration({"a": 8, "b": 24}, 3, ("add_2",), "bfloat16", {"a": 4})
    parameters = made.parameters(wanted)
    assert parameters == {
        "a": 0,
        "b": 2,
        "@iterations": 1,
        "@drop add_1": 0,
        "@drop add_2": 1,
        "@dtype": "bfloat16",
        "@rank a": 1,
    }
    own = made.parameters(Configuration({"a": 16, "b": 24}))
    assert own == made.parameters(made.full)


def test_a_key_is_of_what_is_chosen():
    first = Configuration({"a": 8, "b": 16}, 3, ("x", "y"))
    assert first.key() == Configuration({"b": 16, "a": 8}, 3, ("y", "x")).key()
    others = [
        Configuration({"a": 8, "b": 24}, 3, ("x", "y")),
        Configuration({"a": 8, "b": 16}, 2, ("x", "y")),
        Configuration({"a": 8, "b": 16}, 3, ("x",)),
        Configuration({"a": 8, "b": 16}, 3, ("x", "y"), "float16"),
        Configuration({"a": 8, "b": 16}, 3, ("x", "y"), ranks={"a": 2}),
    ]
    assert len({first.key(), *(other.key() for other in others)}) == 6
    assert str(first) == "a 8, b 16; 3 iterations; without x, y"


def test_a_space_without_ranks_is_stored_as_before_there_were_any():
    assert "ranks" not in space().as_dict()
    assert joint_space().as_dict()["ranks"] == {"a": [2, 4, 16]}
