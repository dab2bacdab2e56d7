"""Rules between the tables of a recipe; those within one table stand beside it."""

from __future__ import annotations

import functools
import inspect
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spade_keras import weights
from spade_keras.recipe import imaging
from spade_keras.recipe.sections import (
    RULES,
    SAMPLES,
    Classifier,
    FineTuning,
    LabeledData,
    Pruning,
    Rule,
    Run,
    Section,
    Training,
    rule,
)
from spade_keras.registry import STRATEGIES
from spade_keras.search.options import SearchOptions


def broken_rules(recipe: Any, *, partial: bool = False) -> list[str]:
    """Checks every rule that applies, and returns a sentence for each broken one.

    Args:
        recipe: The recipe.
        partial: Whether faulty keys are left out of it; rules that read one are then skipped.
    """
    problems: list[str] = []
    for check in RULES:
        tables = {name: getattr(recipe, name, None) for name in _kinds(check)}
        if not all(isinstance(tables[name], kind) for name, kind in _kinds(check).items()):
            continue
        try:
            problems.extend(
                f"{text}. Received: {_received(recipe, text)}" for text in check(**tables)
            )
        except AttributeError:
            if not partial:
                raise
    return problems


@functools.cache
def _kinds(check: Rule) -> dict[str, Any]:
    """Table -> the types of it to which a rule applies."""
    hints = typing.get_type_hints(check)
    return {name: hints[name] for name in inspect.signature(check).parameters}


def _received(recipe: Any, text: str) -> str:
    """The values of the keys named before "must"."""
    keys = re.findall(r"`([\w.]+)`", text.partition(" must ")[0])
    values = {key: functools.reduce(getattr, key.split("."), recipe) for key in keys}
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


# Data and learning


@rule
def _samples_are_left(data: LabeledData) -> Iterator[str]:
    left = data.training_samples
    if left is not None and left < 1:
        yield (
            "`data.validation_samples` + `data.test_samples` must be below "
            f"{SAMPLES[data.source]}, the samples of `{data.source}`, so that some are left to "
            "train on"
        )


@rule
def _test_set_stays_unseen(finetuning: FineTuning) -> Iterator[str]:
    if finetuning.on != "test":
        return
    # A registered strategy, too, may be judged against true images.
    strategy = finetuning.strategy
    if getattr(STRATEGIES[strategy], "judged_as", None) == "supervised":
        yield (
            f'`finetuning.on` must be "train" when `finetuning.strategy` is "{strategy}", which '
            'would learn the test set itself. "school" and "self_supervised" may tune on the test '
            "measurements"
        )


@rule
def _batches_fit_samples(
    data: imaging.BrainTemplate | LabeledData, training: Training, finetuning: FineTuning
) -> Iterator[str]:
    what = "samples" if isinstance(data, LabeledData) else "slices"
    left = data.training_samples
    if left is None or left < 1:
        return
    tested = data.test_samples if isinstance(data, LabeledData) else data.test_slices
    tuned = tested if finetuning.on == "test" else left
    for key, table, limit in (("training", training, left), ("finetuning", finetuning, tuned)):
        if table.batch_size > limit:
            yield f"`{key}.batch_size` must be at most the number of {what} to learn from ({limit})"


@rule
def _strategies_fit(data: Section, training: Training, finetuning: FineTuning) -> Iterator[str]:
    if isinstance(data, imaging.KSpace):
        truth = "for k-space, which comes without true images"
        if training.strategy != "self_supervised":
            yield f'`training.strategy` must be "self_supervised" {truth}'
        if finetuning.strategy == "supervised":
            yield f'`finetuning.strategy` must be "school" or "self_supervised" {truth}'
    if isinstance(data, LabeledData) and finetuning.strategy == "self_supervised":
        yield (
            '`finetuning.strategy` must be "school" or "supervised" for classification: there are '
            "no measurements to be consistent with"
        )
    tables: dict[str, Training | FineTuning] = {"training": training, "finetuning": finetuning}
    for key, table in tables.items():
        if table.splitting and table.strategy != "self_supervised":
            yield f'`{key}.splitting` must be 0 unless `{key}.strategy` is "self_supervised"'
        elif table.splitting and isinstance(data, imaging.Photographs):
            yield f"`{key}.splitting` must be 0 for photographs: samples of k-space are split"


@rule
def _readers_are_seen(pruning: Pruning, search: SearchOptions) -> Iterator[str]:
    if pruning.importance == "obs" and not search.compensate:
        yield (
            '`search.compensate` must be true where `pruning.importance` is "obs", which ranks '
            "channels by what their readers see"
        )


# Networks that fit the data


@rule
def _usrnet_sharpens(data: imaging.Scan, network: imaging.USRNet) -> Iterator[str]:
    yield (
        f'`network.name` must be one for MRI, such as "unrolled_pgd", with "{data.source}"; '
        '"usrnet" sharpens photographs'
    )


@rule
def _varnet_reads_kspace(data: imaging.Photographs, network: imaging.VarNet) -> Iterator[str]:
    yield (
        '`network.name` must be "usrnet", "unrolled_pgd" or "deep_equilibrium" for '
        "photographs, which have no k-space"
    )


@rule
def _coil_maps_are_known(data: imaging.FastMRI, network: imaging.Network) -> Iterator[str]:
    # Files of a single coil need no maps; the content of a file is checked when it is read.
    made = isinstance(network, imaging.E2EVarNet) or data.coil_maps == "espirit"
    if data.path is None and not made:
        yield (
            '`data.coil_maps` must be "espirit" unless `network.name` is "e2e_varnet", which makes '
            f'the maps itself; it is "{network.name}"'
        )


@rule
def _images_are_measured_again(
    data: Section, network: imaging.VarNet, training: Training, finetuning: FineTuning
) -> Iterator[str]:
    strategies = {"training": training.strategy, "finetuning": finetuning.strategy}
    for key in [key for key, kind in strategies.items() if kind == "self_supervised"][:1]:
        where = f'where `{key}.strategy` is "self_supervised"'
        if network.output != "image":
            yield f'`network.output` must be "image" {where}: a magnitude has no k-space'
        if isinstance(data, imaging.FastMRI) and data.coil_maps != "espirit":
            yield (
                f'`data.coil_maps` must be "espirit" {where}: images are measured again through '
                "the coils"
            )


@rule
def _poolings_divide(
    data: imaging.Scan | imaging.Photographs, network: imaging.Unrolled | imaging.DeepEquilibrium
) -> Iterator[str]:
    if network.prior.name in imaging.POOLING:
        levels = len(network.prior.filters)
        for key in ("patch", "image_size") if hasattr(data, "patch") else ("height", "width"):
            if getattr(data, key) % 2 ** (levels - 1):
                yield (
                    f"`data.{key}` must be a multiple of {2 ** (levels - 1)} for {levels} levels "
                    f'of "{network.prior.name}"'
                )


@rule
def _images_are_large_enough(data: LabeledData, network: Classifier) -> Iterator[str]:
    if network.path is None and data.path is None and data.size < 2 ** (len(network.filters) - 1):
        yield (
            f"`network.filters` must have at most {data.size.bit_length()} widths for images of "
            f"`data.size` ({data.size}) pixels, which all but the last convolution halve"
        )


@rule
def _new_weights_are_trained(
    network: imaging.Network | Classifier, training: Training
) -> Iterator[str]:
    if isinstance(network, Classifier):
        trained, remedy = network.path is not None, ", or `network.path` must name a trained one"
    elif isinstance(network, imaging.BundledNetwork):
        trained = network.weights != "none"
        known = weights.weights_of(network.name)
        remedy = f", or `network.weights` be one of {', '.join(known)}" if known else ""
    else:
        trained, remedy = False, ""
    if training.epochs == 0 and not trained:
        yield f"`training.epochs` must be at least 1 for a network with new weights{remedy}"


@rule
def _trained_weights_fit(
    run: Run, data: imaging.Measurements, network: imaging.BundledNetwork
) -> Iterator[str]:
    """Trained weights have their shapes, and no test image may have been trained on."""
    if network.weights == "none":
        return
    known = weights.weights_of(network.name)
    if network.weights not in known:
        listed = ", ".join(f'"{name}"' for name in ("none", *known))
        yield f'`network.weights` must be one that ships for "{network.name}": {listed}'
        return
    tables = {"run": run, "data": data, "network": network}
    for key, expected in weights.record(network.name, network.weights)["requires"].items():
        table, *parts = key.split(".")
        if table != "network" and data.path is not None:
            continue  # the user's own images were not trained on
        received = functools.reduce(getattr, parts, tables[table])
        if json.dumps(received) != json.dumps(expected):
            yield (
                f"`{key}` must be {json.dumps(expected)}, as the weights "
                f'"{network.weights}" were trained; to train others, set network.weights="none" '
                "and `training.epochs`"
            )


# Pruning and search


@rule
def _importance_reads_weights(run: Run, pruning: Pruning) -> Iterator[str]:
    reasons = {"taylor": "needs gradients on data, which only `make_plan` in Python can be given"}
    if run.task == "reconstruction":
        reasons["batch_norm_scale"] = "needs batch normalization, which the priors do not have"
    if pruning.importance in reasons:
        yield (
            "`pruning.importance` must be one that reads the network's kernels alone, such as "
            f'"group_l1"; "{pruning.importance}" {reasons[pruning.importance]}'
        )


@rule
def _widths_are_below_the_full(
    network: imaging.Network | Classifier, search: SearchOptions
) -> Iterator[str]:
    if isinstance(network, Classifier):
        key, filters = "network.filters", network.filters if network.path is None else None
    else:
        key, filters = "network.prior.filters", network.prior.filters
    for name in ("minimum_width", "width_multiple"):
        if filters is not None and (getattr(search, name) or 0) > min(filters):
            yield f"`search.{name}` must be at most the smallest of `{key}` ({min(filters)})"


@rule
def _pruner_has_something_to_stop(search: SearchOptions) -> Iterator[str]:
    if search.pruner != "none" and search.objective_name != "short_finetune":
        yield (
            '`search.pruner` must be "none" unless `search.objective` is "short_finetune": only a '
            f'training can be stopped early, and the objective is "{search.objective_name}"'
        )
    if search.pruner != "none" and search.pareto:
        yield (
            '`search.pruner` must be "none" with `search.pareto = true`: pruners compare a single '
            "objective"
        )


@rule
def _iterations_can_be_searched(
    network: imaging.Network | Classifier, search: SearchOptions
) -> Iterator[str]:
    reason, most = "", getattr(network, "iterations", 0)
    if isinstance(network, Classifier):
        reason = "for classifiers, which do not iterate"
    elif isinstance(network, imaging.DeepEquilibrium):
        reason = 'for "deep_equilibrium", which iterates until its tolerance is met'
    if search.iterations and reason:
        yield f"`search.iterations` must be left out {reason}"
    elif search.iterations and max(search.iterations) > most:
        yield f"`search.iterations` must be at most `network.iterations` ({most}) each"


@rule
def _warm_start_is_a_search(search: SearchOptions) -> Iterator[str]:
    folder = search.warm_start
    if folder is not None and not (Path(folder).expanduser() / "search/result.json").is_file():
        yield (
            "`search.warm_start` must be the folder of an earlier run whose search is finished "
            "(with search/result.json)"
        )
