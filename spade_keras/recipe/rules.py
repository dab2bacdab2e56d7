"""What must hold between the keys of a recipe, beyond each key's own type and range.

A rule that asks for a key which the recipe's task does not have does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from spade_keras.recipe.imaging_rules import IMAGING_RULES, takes_folder
from spade_keras.recipe.messages import Values
from spade_keras.recipe.sections import objective_of
from spade_keras.recipe.transfer import TRANSFER_RULES

# Axial slices, or samples, that a bundled source offers.
SLICES = {"mni152": 112}
SAMPLES = {"digits": 1797}


def broken_rules(values: Values) -> list[str]:
    """Checks every rule whose keys are themselves in order.

    Args:
        values: The recipe's values.

    Returns:
        One sentence per broken rule.
    """
    problems: list[str] = []
    for rule in (*_RULES, *IMAGING_RULES, *TRANSFER_RULES):
        try:
            problems.extend(rule(values))
        except KeyError:
            continue  # One of its keys is already reported, or is none of this task's.
    return problems


def _data_path_exists(values: Values) -> Iterator[str]:
    yield from _missing_file(values, "data.path", or_folder=takes_folder(values))


def _kernels_exist(values: Values) -> Iterator[str]:
    yield from _missing_file(values, "data.kernels")


def _network_path_exists(values: Values) -> Iterator[str]:
    yield from _missing_file(values, "network.path")


def _missing_file(values: Values, key: str, *, or_folder: bool = False) -> Iterator[str]:
    path = values.get(key)
    if path is None:
        return
    found = Path(path).expanduser()
    if not (found.is_file() or (or_folder and found.is_dir())):
        what = "file or folder" if or_folder else "file"
        yield (
            f"`{key}` must be an existing {what} (a relative one is looked up in "
            f"{Path.cwd()}). Received: {key}={path}"
        )


def _training_slices(values: Values) -> int | None:
    """Slices left for training; None where the source does not say beforehand."""
    source = values.get("data.source")
    if values.get("data.path") is not None or source not in SLICES:
        return None
    held_out = values.get("data.validation_slices") + values.get("data.test_slices")
    return SLICES[source] - int(held_out) - 2 * int(values.get("data.gap_slices"))


def _slabs_leave_training_slices(values: Values) -> Iterator[str]:
    left = _training_slices(values)
    if left is not None and left < 1:
        source = values.get("data.source")
        keys = ("data.validation_slices", "data.test_slices", "data.gap_slices")
        received = ", ".join(f"{key}={values.get(key)}" for key in keys)
        yield (
            f"`data.validation_slices` + `data.test_slices` + 2 x `data.gap_slices` must be below "
            f"{SLICES[source]}, the slices of `{source}`, so that some are left to train on. "
            f"Received: {received}"
        )


def _batches_fit_slices(values: Values) -> Iterator[str]:
    left = _training_slices(values)
    if left is None or left < 1:
        return
    limits = {"training.batch_size": left, "finetuning.batch_size": left}
    if values.get("finetuning.on") == "test":
        limits["finetuning.batch_size"] = values.get("data.test_slices")
    for key, limit in limits.items():
        if values.get(key) > limit:
            yield (
                f"`{key}` must be at most the number of slices to learn from ({limit}). "
                f"Received: {key}={values.get(key)}"
            )


def _batches_fit_samples(values: Values) -> Iterator[str]:
    if values.get("data.path") is not None:
        return
    source = values.get("data.source")
    keys = ("data.validation_samples", "data.test_samples")
    left = SAMPLES[source] - sum(int(values.get(key)) for key in keys)
    if left < 1:
        received = ", ".join(f"{key}={values.get(key)}" for key in keys)
        yield (
            f"`data.validation_samples` + `data.test_samples` must be below {SAMPLES[source]}, the "
            f"samples of `{source}`, so that some are left to train on. Received: {received}"
        )
        return
    limits = {"training.batch_size": left, "finetuning.batch_size": left}
    if values.get("finetuning.on") == "test":
        limits["finetuning.batch_size"] = values.get("data.test_samples")
    for key, limit in limits.items():
        if values.get(key) > limit:
            yield (
                f"`{key}` must be at most the number of samples to learn from ({limit}). "
                f"Received: {key}={values.get(key)}"
            )


def _acceleration_fits_width(values: Values) -> Iterator[str]:
    width = values.get("data.width")
    acceleration = values.get("data.acceleration")
    if acceleration > width // 2:
        yield (
            f"`data.acceleration` must be at most half of `data.width` ({width // 2}), so that at "
            f"least two lines are sampled. Received: data.acceleration={acceleration}"
        )


def _acs_fits_width(values: Values) -> Iterator[str]:
    width = values.get("data.width")
    lines = values.get("data.acs_lines")
    if lines > width:
        yield (
            f"`data.acs_lines` must be at most `data.width` ({width}). "
            f"Received: data.acs_lines={lines}"
        )


def _prior_kernel_is_odd(values: Values) -> Iterator[str]:
    yield from _even_kernel(values, "network.prior.kernel_size")


def _classifier_kernel_is_odd(values: Values) -> Iterator[str]:
    yield from _even_kernel(values, "network.kernel_size")


def _even_kernel(values: Values, key: str) -> Iterator[str]:
    size = values.get(key)
    if size % 2 == 0:
        yield (f"`{key}` must be odd, so that the kernel has a center. Received: {key}={size}")


def _widths_fit_prior(values: Values) -> Iterator[str]:
    yield from _widths_beyond(values, "network.prior.filters")


def _widths_fit_classifier(values: Values) -> Iterator[str]:
    if values.get("network.path") is None:
        yield from _widths_beyond(values, "network.filters")


def _widths_beyond(values: Values, filters: str) -> Iterator[str]:
    for key in ("search.minimum_width", "search.width_multiple"):
        width, narrowest = values.get(key), min(values.get(filters))
        if width > narrowest:
            yield (
                f"`{key}` must be at most the smallest of `{filters}` ({narrowest}). "
                f"Received: {key}={width}"
            )


def _poolings_fit_images(values: Values) -> Iterator[str]:
    filters = values.get("network.filters")
    if values.get("network.path") is not None or values.get("data.path") is not None:
        return
    size = values.get("data.size")
    if filters is None or size is None:
        return
    if size < 2 ** (len(filters) - 1):
        yield (
            f"`network.filters` must have at most {int(size).bit_length()} widths for images of "
            f"`data.size` ({size}) pixels, which all but the last convolution halve. Received: "
            f"network.filters={list(filters)}"
        )


def _untrained_networks_are_trained(values: Values) -> Iterator[str]:
    epochs = values.get("training.epochs")
    task = values.get("run.task")
    if epochs == 0 and (task != "classification" or values.get("network.path") is None):
        more = ", or `network.path` must name a trained one" if task == "classification" else ""
        yield (
            f"`training.epochs` must be at least 1 for a network with new weights{more}. "
            "Received: training.epochs=0"
        )


def _classes_need_labels_or_teacher(values: Values) -> Iterator[str]:
    strategy = values.get("finetuning.strategy")
    if values.get("run.task") == "classification" and strategy == "self_supervised":
        yield (
            '`finetuning.strategy` must be "school" or "supervised" for classification: there are '
            "no measurements to be consistent with. Received: "
            'finetuning.strategy="self_supervised"'
        )


def _supervised_keeps_off_test(values: Values) -> Iterator[str]:
    if values.get("finetuning.strategy") == "supervised" and values.get("finetuning.on") == "test":
        yield (
            '`finetuning.on` must be "train" when `finetuning.strategy` is "supervised": it would '
            'learn the test set itself. Received: finetuning.on="test". Strategies that '
            'may see test measurements: "school", "self_supervised".'
        )


def _importance_needs_weights_alone(values: Values) -> Iterator[str]:
    importance = values.get("pruning.importance")
    reasons = {"taylor": "needs gradients on data, which only `make_plan` in Python can be given"}
    if values.get("run.task") == "reconstruction":
        reasons["batch_norm_scale"] = "needs batch normalization, which the priors do not have"
    if importance in reasons:
        yield (
            f"`pruning.importance` must be one that reads the network's kernels alone, such as "
            f'"group_l1"; "{importance}" {reasons[importance]}. '
            f'Received: pruning.importance="{importance}"'
        )


def _pruner_has_something_to_stop(values: Values) -> Iterator[str]:
    pruner = values.get("search.pruner")
    mixed = any(values.get(f"search.{key}") for key in ("iterations", "blocks", "ranks"))
    objective = objective_of(values.get("search.objective"), mixed=mixed)
    if pruner == "none":
        return
    if objective != "short_finetune":
        yield (
            '`search.pruner` must be "none" unless `search.objective` is "short_finetune": only a '
            f'training can be stopped early. Received: search.pruner="{pruner}", '
            f'search.objective="{objective}"'
        )
    if values.get("search.pareto"):
        yield (
            '`search.pruner` must be "none" with `search.pareto = true`: pruners compare one '
            f'objective alone. Received: search.pruner="{pruner}"'
        )


def _iterations_are_the_networks(values: Values) -> Iterator[str]:
    wanted = values.get("search.iterations")
    if not wanted:
        return
    if values.get("run.task") == "classification":
        yield (
            "`search.iterations` must be left out for classifiers, which do not iterate. "
            f"Received: search.iterations={list(wanted)}"
        )
    elif max(wanted) > values.get("network.iterations"):
        yield (
            f"`search.iterations` must be at most `network.iterations` "
            f"({values.get('network.iterations')}) each. "
            f"Received: search.iterations={list(wanted)}"
        )


def _warm_start_is_a_search(values: Values) -> Iterator[str]:
    folder = values.get("search.warm_start")
    if folder is not None and not (Path(folder).expanduser() / "search/result.json").is_file():
        yield (
            "`search.warm_start` must be the folder of an earlier run whose search is finished "
            f"(with search/result.json). Received: search.warm_start={folder}"
        )


_RULES: tuple[Callable[[Values], Iterator[str]], ...] = (
    _data_path_exists,
    _kernels_exist,
    _network_path_exists,
    _slabs_leave_training_slices,
    _batches_fit_slices,
    _batches_fit_samples,
    _acceleration_fits_width,
    _acs_fits_width,
    _prior_kernel_is_odd,
    _classifier_kernel_is_odd,
    _widths_fit_prior,
    _widths_fit_classifier,
    _poolings_fit_images,
    _untrained_networks_are_trained,
    _supervised_keeps_off_test,
    _classes_need_labels_or_teacher,
    _importance_needs_weights_alone,
    _pruner_has_something_to_stop,
    _iterations_are_the_networks,
    _warm_start_is_a_search,
)
