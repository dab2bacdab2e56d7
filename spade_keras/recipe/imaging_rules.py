"""What must hold between the keys of a reconstruction's recipe; see `recipe.rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from spade_keras.recipe.messages import Values

_PLAIN = ("unrolled_pgd", "deep_equilibrium")
_FILES_OR_FOLDERS = ("fastmri", "photographs")
_POOLING = ("unet", "res_unet")


def takes_folder(values: Values) -> bool:
    """Whether `data.path` may be a folder."""
    return values.get("data.source") in _FILES_OR_FOLDERS


def _network_fits_data(values: Values) -> Iterator[str]:
    name, source = values.get("network.name"), values.get("data.source")
    photographs = source == "photographs"
    if name == "usrnet" and not photographs:
        yield (
            '`network.name` must be one for MRI, such as "unrolled_pgd", with this data; "usrnet" '
            f'sharpens photographs. Received: network.name="usrnet", data.source="{source}"'
        )
    if name in ("varnet", "e2e_varnet") and photographs:
        yield (
            '`network.name` must be "usrnet", "unrolled_pgd" or "deep_equilibrium" for '
            f'photographs, which have no k-space. Received: network.name="{name}"'
        )


def _coil_maps_are_known(values: Values) -> Iterator[str]:
    name = values.get("network.name")
    if values.get("data.coil_maps") == "espirit" or name == "e2e_varnet":
        return
    # Files of a single coil need none, and what a file holds shows when it is read.
    if values.get("data.path") is None:
        yield (
            '`data.coil_maps` must be "espirit" unless `network.name` is "e2e_varnet", which makes '
            f'the maps itself. Received: data.coil_maps="none", network.name="{name}"'
        )


def _nothing_is_known_of_the_truth(values: Values) -> Iterator[str]:
    if values.get("data.source") != "kspace":
        return
    if values.get("training.strategy") != "self_supervised":
        yield (
            '`training.strategy` must be "self_supervised" for k-space, which comes without true '
            f'images. Received: training.strategy="{values.get("training.strategy")}"'
        )
    if values.get("finetuning.strategy") == "supervised":
        yield (
            '`finetuning.strategy` must be "school" or "self_supervised" for k-space, which comes '
            'without true images. Received: finetuning.strategy="supervised"'
        )


def _measurements_can_be_compared(values: Values) -> Iterator[str]:
    strategies = {key: values.get(key) for key in ("training.strategy", "finetuning.strategy")}
    blind = [key for key, strategy in strategies.items() if strategy == "self_supervised"]
    if not blind or values.get("network.name") not in ("varnet", "e2e_varnet"):
        return
    if values.get("network.output") != "image":
        yield (
            f'`network.output` must be "image" where `{blind[0]}` is "self_supervised": a '
            f'magnitude has no k-space. Received: network.output="{values.get("network.output")}"'
        )
    if values.get("data.source") != "mni152" and values.get("data.coil_maps") != "espirit":
        yield (
            f'`data.coil_maps` must be "espirit" where `{blind[0]}` is "self_supervised": images '
            "are measured again through the coils. Received: "
            f'data.coil_maps="{values.get("data.coil_maps")}"'
        )


def _splitting_has_lines_to_split(values: Values) -> Iterator[str]:
    for section in ("training", "finetuning"):
        share, strategy = values.get(f"{section}.splitting"), values.get(f"{section}.strategy")
        if share and strategy != "self_supervised":
            yield (
                f'`{section}.splitting` must be 0 unless `{section}.strategy` is "self_supervised".'
                f' Received: {section}.splitting={share}, {section}.strategy="{strategy}"'
            )
        elif share and values.get("data.source") == "photographs":
            yield (
                f"`{section}.splitting` must be 0 for photographs: samples of k-space are split. "
                f"Received: {section}.splitting={share}"
            )


def _center_fits_acceleration(values: Values) -> Iterator[str]:
    if values.get("data.mask") in ("equispaced", "poisson_disc"):
        return
    if values.get("data.path") is not None:
        return
    width, acceleration = values.get("data.width"), values.get("data.acceleration")
    lines, allowed = values.get("data.acs_lines"), round(width / acceleration)
    if lines > allowed:
        yield (
            f"`data.acs_lines` must be at most the {allowed} lines that `data.acceleration` "
            f"({acceleration}) leaves of `data.width` ({width}). Received: data.acs_lines={lines}"
        )


def _volumes_are_left_to_train_on(values: Values) -> Iterator[str]:
    if values.get("data.path") is not None:
        return
    keys = ("data.validation_volumes", "data.test_volumes")
    volumes = values.get("data.volumes")
    if sum(values.get(key) for key in keys) >= volumes:
        received = ", ".join(f"{key}={values.get(key)}" for key in keys)
        yield (
            f"`{keys[0]}` + `{keys[1]}` must be below `data.volumes` ({volumes}), so that some are "
            f"left to train on. Received: {received}"
        )


def _slices_are_left_to_train_on(values: Values) -> Iterator[str]:
    if values.get("data.source") != "kspace" or values.get("data.path") is not None:
        return
    keys = ("data.validation_slices", "data.test_slices", "data.gap_slices")
    validation, test, gap = (values.get(key) for key in keys)
    slices = values.get("data.slices")
    if 1 < slices <= validation + test + 2 * gap:
        received = ", ".join(f"{key}={values.get(key)}" for key in keys)
        yield (
            f"`{keys[0]}` + `{keys[1]}` + 2 x `{keys[2]}` must be below `data.slices` ({slices}), "
            f"unless that is 1. Received: {received}"
        )


def _sizes_are_multiples_of_the_scale(values: Values) -> Iterator[str]:
    scale = values.get("data.scale")
    for key in ("data.patch", "data.image_size"):
        if values.get(key) % scale:
            yield (
                f"`{key}` must be a multiple of `data.scale` ({scale}). "
                f"Received: {key}={values.get(key)}"
            )


def _poolings_divide_sizes(values: Values) -> Iterator[str]:
    prior = values.get("network.prior.name")
    if values.get("network.name") not in _PLAIN or prior not in _POOLING:
        return
    levels = len(values.get("network.prior.filters"))
    multiple = 2 ** (levels - 1)
    photographs = values.get("data.source") == "photographs"
    keys = ("patch", "image_size") if photographs else ("height", "width")
    for key in keys:
        if values.get(f"data.{key}") % multiple:
            yield (
                f"`data.{key}` must be a multiple of {multiple} for {levels} levels of "
                f'"{prior}". Received: data.{key}={values.get(f"data.{key}")}'
            )


def _kernel_size_is_read(values: Values) -> Iterator[str]:
    prior, size = values.get("network.prior.name"), values.get("network.prior.kernel_size")
    if prior in _POOLING and size != 3:
        yield (
            f'`network.prior.kernel_size` must be 3 for "{prior}". '
            f"Received: network.prior.kernel_size={size}"
        )


def _prior_takes_noise_level(values: Values) -> Iterator[str]:
    prior = values.get("network.prior.name")
    if values.get("network.name") == "usrnet" and prior != "res_unet":
        yield (
            '`network.prior.name` must be "res_unet" for "usrnet", which tells it the noise level. '
            f'Received: network.prior.name="{prior}"'
        )


def _equilibrium_iterates_to_tolerance(values: Values) -> Iterator[str]:
    if values.get("network.name") != "deep_equilibrium":
        return
    most = values.get("network.max_iterations")
    if values.get("network.iterations") > most:
        yield (
            f"`network.iterations` must be at most `network.max_iterations` ({most}). "
            f"Received: network.iterations={values.get('network.iterations')}"
        )
    if values.get("search.iterations"):
        yield (
            '`search.iterations` must be left out for "deep_equilibrium", which iterates until its '
            f"tolerance is met. Received: search.iterations={list(values.get('search.iterations'))}"
        )


IMAGING_RULES: tuple[Callable[[Values], Iterator[str]], ...] = (
    _network_fits_data,
    _coil_maps_are_known,
    _nothing_is_known_of_the_truth,
    _measurements_can_be_compared,
    _splitting_has_lines_to_split,
    _center_fits_acceleration,
    _volumes_are_left_to_train_on,
    _slices_are_left_to_train_on,
    _sizes_are_multiples_of_the_scale,
    _poolings_divide_sizes,
    _kernel_size_is_read,
    _prior_takes_noise_level,
    _equilibrium_iterates_to_tolerance,
)
