"""The tables of a recipe whose `run.task` is "transfer", and what must hold between their keys.

A network that learned some classes is transferred to others with few samples, and pruned there.
Nothing here imports keras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from spade_keras.recipe.messages import OneOf, Values
from spade_keras.recipe.sections import Filters, Pruning, Section

# Spelled out so that this module needs no keras; a test asserts that they are those of the
# registries.
PICTURE_SOURCES = ("digits", "mnist", "cifar10")
TRANSFER_NETWORKS = ("vgg", "resnet")
COMPONENT_IMPORTANCES = ("effect_per_parameter", "taylor", "sigma", "random")
# Pixels per side, and samples of the rarest class, of each source.
SIDES = {"digits": 16, "mnist": 28, "cifar10": 32}
RAREST_CLASS = {"digits": 174, "mnist": 6313, "cifar10": 6000}
WIDTHS = 4  # of the bundled networks, unless the recipe gives others
IMAGENET_SIDE = 32

PictureSource = Annotated[
    str, AfterValidator(OneOf(PICTURE_SOURCES, "spade_keras.tasks.transfer:PICTURE_SOURCES"))
]
TransferNetworkName = Annotated[
    str, AfterValidator(OneOf(TRANSFER_NETWORKS, "spade_keras.tasks.transfer:TRANSFER_NETWORKS"))
]
ComponentImportance = Annotated[
    str,
    AfterValidator(
        OneOf(COMPONENT_IMPORTANCES, "spade_keras.tasks.transfer:COMPONENT_IMPORTANCES")
    ),
]
Class = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(gt=0, lt=1)]
Patience = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]


class TransferData(Section):
    """Samples with a class each, some of whose classes are the source task, others the target.

    With `path`, the arrays x (pictures) and y (classes) of an `.npz` file, `source` is not read.
    `size` scales the pictures to a square; without it they stay as they are, and the bundled digits
    are enlarged to 16. Target samples that are neither to train on nor to choose by test.
    """

    source: PictureSource = "digits"
    path: str | None = None
    size: int | None = Field(default=None, ge=8, le=512)
    source_classes: tuple[Class, ...] = Field(
        default=(0, 1, 2, 3, 4), min_length=2, max_length=1000, strict=False
    )
    target_classes: tuple[Class, ...] = Field(
        default=(5, 6, 7, 8, 9), min_length=2, max_length=1000, strict=False
    )
    train_per_class: int = Field(default=60, ge=1)
    validation_per_class: int = Field(default=40, ge=1)


class TransferNetwork(Section):
    """The network that is transferred: a bundled one, a large one of ImageNet, or a file's.

    `name` and `filters` describe the bundled one, which learns the source task. With
    `weights = "imagenet"` the network of keras.applications that stands for `name` comes trained;
    with `path`, that of a `.keras` file. From scratch, a bundled one is trained in any case.
    """

    name: TransferNetworkName = "vgg"
    weights: Literal["source", "imagenet"] = "source"
    path: str | None = None
    filters: tuple[Filters, ...] | None = Field(
        default=None, min_length=1, max_length=16, strict=False
    )


class TransferTraining(Section):
    """How all weights of a network are trained; without a `learning_rate`, by `network.weights`.

    `epochs` is for the target task, after every change of the network; from scratch, three times as
    many.
    """

    source_epochs: int = Field(default=10, ge=1)
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=30, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, le=1)


class TransferPruning(Pruning):
    """What goes: components in phases that end when accuracy suffers, channels in one cut.

    `importance` ranks channels, `component_importance` components. Phase i prunes the share
    `shares[i]` of all components after every epoch that costs at most `allowed_loss` of the
    validation accuracy, until `patience[i]` epochs in a row cost more, or the layers have at most
    the share `stop_at` of their parameters. `closing_epochs` train the factors without pruning,
    then `tuning_epochs` all weights. `channel_ratio` is the share of channels that double pruning
    removes first. Whatever is pruned learns from the labels and, with the weight `teacher_share`,
    from the original's answers, softened by `temperature`.
    """

    component_importance: ComponentImportance = "effect_per_parameter"
    allowed_loss: float = Field(default=0.02, ge=0, lt=1)
    stop_at: float = Field(default=0.08, ge=0, lt=1)
    shares: tuple[Share, ...] = Field(
        default=(0.05, 0.06, 0.05), min_length=1, max_length=20, strict=False
    )
    patience: tuple[Patience, ...] = Field(
        default=(2, 5, 5), min_length=1, max_length=20, strict=False
    )
    learning_rates: tuple[Rate, ...] = Field(
        default=(5e-3, 5e-3, 3e-3), min_length=1, max_length=20, strict=False
    )
    phase_epochs: int = Field(default=60, ge=1)
    closing_epochs: int = Field(default=11, ge=1)
    tuning_epochs: int = Field(default=30, ge=0)
    channel_ratio: float = Field(default=0.3, gt=0, lt=1)
    teacher_share: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0, le=100)


class TransferEvaluation(Section):
    """What is compared at the end, and how it is timed in turn with the original."""

    rivals: bool = True
    batch_size: int = Field(default=30, ge=1)
    pairs: int = Field(default=20, ge=5)


def _trains_source(values: Values) -> bool:
    return values.get("network.weights") == "source" and values.get("network.path") is None


def _side(values: Values) -> int | None:
    """Pixels per side; None where a file decides."""
    size = values.get("data.size")
    if size is None and values.get("data.path") is None:
        size = SIDES.get(values.get("data.source"))
    if size is None or values.get("network.weights") != "imagenet":
        return size
    return max(int(size), IMAGENET_SIDE)


def _classes_occur_once(values: Values) -> Iterator[str]:
    for key in ("data.source_classes", "data.target_classes"):
        classes = list(values.get(key))
        if len(set(classes)) < len(classes):
            yield f"`{key}` must name every class once. Received: {key}={classes}"


def _tasks_share_no_class(values: Values) -> Iterator[str]:
    if not _trains_source(values):
        return
    shared = sorted(set(values.get("data.source_classes")) & set(values.get("data.target_classes")))
    if shared:
        yield (
            "`data.target_classes` must share no class with `data.source_classes`, or the source "
            f"task would see what is tested. Received: {shared} in both"
        )


def _classes_are_the_sources(values: Values) -> Iterator[str]:
    source = values.get("data.source")
    if values.get("data.path") is not None or source not in PICTURE_SOURCES:
        return
    keys = ["data.target_classes"]
    if _trains_source(values):
        keys.append("data.source_classes")
    for key in keys:
        unknown = [label for label in values.get(key) if label > 9]
        if unknown:
            yield f"`{key}` must be classes of `{source}`, 0 to 9. Received: {unknown}"


def _classes_have_samples_left_to_test(values: Values) -> Iterator[str]:
    source = values.get("data.source")
    if values.get("data.path") is not None or source not in RAREST_CLASS:
        return
    keys = ("data.train_per_class", "data.validation_per_class")
    if sum(values.get(key) for key in keys) >= RAREST_CLASS[source]:
        received = ", ".join(f"{key}={values.get(key)}" for key in keys)
        yield (
            f"`{keys[0]}` + `{keys[1]}` must be below {RAREST_CLASS[source]}, the samples that the "
            f"rarest class of `{source}` has, so that some are left to test. Received: {received}"
        )


def _widths_fit_pictures(values: Values) -> Iterator[str]:
    side, filters = _side(values), values.get("network.filters")
    by_rule_of_classifiers = None not in (filters, values.get("data.size"))
    if side is None or by_rule_of_classifiers:
        return
    widths = WIDTHS if filters is None else len(filters)
    if side < 2 ** (widths - 1):
        yield (
            f"`network.filters` must have at most {side.bit_length()} widths for pictures of "
            f"{side} pixels, which all but the first halve. Received: {widths} widths"
        )


def _imagenet_takes_pictures(values: Values) -> Iterator[str]:
    size = values.get("data.size")
    if values.get("network.weights") != "imagenet":
        return
    if size is not None and size < IMAGENET_SIDE:
        yield (
            f"`data.size` must be at least {IMAGENET_SIDE}, or left out, where `network.weights` "
            f'is "imagenet". Received: data.size={size}'
        )
    if values.get("network.path") is not None:
        yield (
            '`network.weights` must be "source" where `network.path` names a network that is '
            f'trained. Received: network.weights="imagenet", '
            f"network.path={values.get('network.path')}"
        )


def _filters_are_read(values: Values) -> Iterator[str]:
    filters = values.get("network.filters")
    if filters is not None and not _trains_source(values):
        yield (
            "`network.filters` must be left out where the network comes trained. Received: "
            f"network.filters={list(filters)}"
        )


def _phases_are_complete(values: Values) -> Iterator[str]:
    keys = ("pruning.shares", "pruning.patience", "pruning.learning_rates")
    lengths = {key: len(values.get(key)) for key in keys}
    if len(set(lengths.values())) > 1:
        received = ", ".join(f"{key} of {length}" for key, length in lengths.items())
        yield f"`{'`, `'.join(keys)}` must have one value per phase each. Received: {received}"


TRANSFER_RULES: tuple[Callable[[Values], Iterator[str]], ...] = (
    _classes_occur_once,
    _tasks_share_no_class,
    _classes_are_the_sources,
    _classes_have_samples_left_to_test,
    _widths_fit_pictures,
    _imagenet_takes_pictures,
    _filters_are_read,
    _phases_are_complete,
)
"""Rules that ask for keys which only this task has."""
