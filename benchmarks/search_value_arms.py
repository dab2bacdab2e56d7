"""The arms of search_value.py: each makes one network per seed and budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from search_value_lab import (
    Arm,
    Lab,
    Settings,
    Shape,
    global_l1,
    percent,
    random_profiles,
    scaled,
    shape_arm,
    tuned_arm,
    tuning_material,
)
from search_value_searches import objective_study, search_arms

from spade_keras.pipeline.latency_run import make_data, train
from spade_keras.pruning.importance.magnitude import Random

STUDY_SEED = 0
BASES = ("full_tuned", "iterations_")
LATER = ("global_l1", "random_importance", "random_search", "from_scratch")
DATA_KEYS = (
    "source",
    "height",
    "width",
    "coils",
    "acceleration",
    "acs_lines",
    "noise_std",
    "validation_slices",
    "test_slices",
    "gap_slices",
)


def all_arms(settings: Settings, *, study: bool = False) -> list[Arm]:
    """All pieces, in an order in which each finds what it needs.

    Args:
        settings: What every arm gets alike.
        study: Whether the study of the objectives is among them.
    """
    arms = []
    for seed in settings.seeds:
        arms += [*_bases(settings, seed), *_simple(settings, seed)]
        if study and seed == STUDY_SEED:
            arms += _study(settings, seed)
        arms += search_arms(settings, seed)
    # Pieces that need a quiet machine come as early as possible, short ones first.
    # The middle budget, which the goals refer to, is the first with all its arms.
    main = f"_{percent(settings.study_budget)}"
    return sorted(arms, key=lambda arm: (_later(arm, main), _phase(arm)))


def _later(arm: Arm, main: str) -> bool:
    of_all_budgets = arm.after in ((), ("data",)) or arm.name == "table"
    return not (of_all_budgets or arm.name.endswith(main) or arm.name.startswith(BASES))


def _phase(arm: Arm) -> int:
    if any(kind in arm.name for kind in LATER):
        return 3
    if arm.after in ((), ("data",)):
        return 0
    if arm.name == "table" or (arm.timed and arm.after == ("data", "train")):
        return 1
    return 2


def _bases(settings: Settings, seed: int) -> Iterator[Arm]:
    """Data and full network, tuned on as every arm is; and the full network cut short."""
    recipe = Lab.recipe(seed, settings).model_dump()
    made = {key: recipe["data"][key] for key in DATA_KEYS}
    prior = {key: recipe["network"]["prior"][key] for key in ("name", "filters", "kernel_size")}
    trained = {key: recipe["training"][key] for key in ("epochs", "batch_size", "learning_rate")}
    network = {"iterations": recipe["network"]["iterations"], "prior": prior}
    yield Arm(
        seed, "data", lambda lab, folder: make_data(lab.job, folder), {"seed": seed, **made}, ()
    )
    yield Arm(
        seed, "train", lambda lab, folder: train(lab.job, folder),
        {"seed": seed, "network": network, "training": trained}, ("data",),
    )  # fmt: skip
    yield Arm(seed, "full_tuned", _tune_full, tuning_material(settings))
    for iterations in range(network["iterations"] - 1, 0, -1):
        yield Arm(
            seed,
            f"iterations_{iterations}",
            lambda lab, folder, k=iterations: _tune_cut(lab, folder, k),
            tuning_material(settings),
        )


def _simple(settings: Settings, seed: int) -> Iterator[Arm]:
    """The arms that need no search."""
    for budget in settings.budgets:
        at = percent(budget)
        for kind, make in {"uniform": _uniform_shape, "global_l1": _global_l1_shape}.items():
            yield shape_arm(settings, seed, f"{kind}_{at}", make, budget)
            yield tuned_arm(settings, seed, f"{kind}_{at}")
        yield Arm(
            seed,
            f"random_importance_{at}",
            lambda lab, folder, at=at: _random_importance(lab, folder, f"shape_uniform_{at}"),
            tuning_material(settings),
            ("data", "train", f"shape_uniform_{at}"),
        )


def _study(settings: Settings, seed: int) -> Iterator[Arm]:
    """Networks of equal latency and unequal widths, for the study of the objectives."""
    members = tuple(f"study_{number:02}" for number in range(settings.study_size))
    budget = settings.study_budget
    for number, name in enumerate(members):
        yield shape_arm(
            settings, seed, name, lambda lab, b, n=number: _study_shape(lab, b, n), budget
        )
        yield tuned_arm(settings, seed, name)
    yield objective_study(settings, seed, (*members, f"uniform_{percent(budget)}"))


def _tune_full(lab: Lab, folder: Path) -> None:
    """The gain of the full network by the same number of steps: the reference of every loss."""
    lab.finish(folder, lab.build(lab.full_shape), lab.full_shape)


def _tune_cut(lab: Lab, folder: Path, iterations: int) -> None:
    shape = Shape(iterations, lab.full_shape.widths)
    lab.finish(folder, lab.build(shape), shape)


def _random_importance(lab: Lab, folder: Path, piece: str) -> None:
    """The widths of uniform pruning, with channels drawn by lot."""
    shape = lab.shape(piece)
    lab.finish(folder, lab.build(shape, Random(lab.seed)), shape)


def _uniform_shape(lab: Lab, budget: float) -> Shape:
    full = lab.full_shape
    even = [1.0] * len(full.widths)
    return lab.to_budget(scaled(even, full, lab.settings.minimum_width), budget)


def _global_l1_shape(lab: Lab, budget: float) -> Shape:
    curve = global_l1(lab.full, lab.full_shape, lab.settings.minimum_width)
    return lab.to_budget(curve, budget)


def _study_shape(lab: Lab, budget: float, number: int) -> Shape:
    full, minimum = lab.full_shape, lab.settings.minimum_width
    profile = list(random_profiles(number + 1, len(full.widths), lab.seed))[number]
    return lab.to_budget(scaled(profile, full, minimum), budget)
