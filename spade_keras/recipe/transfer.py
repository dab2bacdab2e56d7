"""The tables of a recipe whose `run.task` is "transfer", and the rules between their keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from spade_keras.recipe.sections import ExistingFile, Export, Pruning, Recipe, Section, rule
from spade_keras.registry import COMPONENT_IMPORTANCES, PICTURE_SOURCES, TRANSFER_NETWORKS
from spade_keras.typing import NameIn, Width

# Pixels per side, and samples of the rarest class, of the bundled sources.
SIDES = {"digits": 16, "mnist": 28, "cifar10": 32}
RAREST_CLASS = {"digits": 174, "mnist": 6313, "cifar10": 6000}
WIDTHS = 4  # of the bundled networks, unless the recipe gives others
IMAGENET_SIDE = 32

_CLASSES = Field(min_length=2, max_length=1000, strict=False)
_PHASES = Field(min_length=1, max_length=20, strict=False)
Classes = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], _CLASSES]
ComponentImportance = Annotated[str, AfterValidator(NameIn(COMPONENT_IMPORTANCES))]
Shares = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], _PHASES]
Patience = Annotated[tuple[Annotated[int, Field(ge=0)], ...], _PHASES]
Rates = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], _PHASES]


class TransferData(Section):
    """Samples with a class each, some of whose classes are the source task, others the target.

    With `path`, the arrays x (pictures) and y (classes) of an `.npz` file, `source` is not read.
    `size` scales the pictures to a square; without it they stay as they are, and the bundled digits
    are enlarged to 16. Target samples beyond those for training and validation are the test set.
    """

    source: Annotated[str, AfterValidator(NameIn(PICTURE_SOURCES))] = "digits"
    path: ExistingFile | None = None
    size: int | None = Field(default=None, ge=8, le=512)
    source_classes: Classes = (0, 1, 2, 3, 4)
    target_classes: Classes = (5, 6, 7, 8, 9)
    train_per_class: int = Field(default=60, ge=1)
    validation_per_class: int = Field(default=40, ge=1)


class TransferNetwork(Section):
    """The network that is transferred: a bundled one, a large one of ImageNet, or a file's.

    `name` and `filters` describe the bundled one, which learns the source task. With
    `weights = "imagenet"` the network of keras.applications that stands for `name` comes trained;
    with `path`, that of a `.keras` file. From scratch, a bundled one is trained in any case.
    """

    name: Annotated[str, AfterValidator(NameIn(TRANSFER_NETWORKS))] = "vgg"
    weights: Literal["source", "imagenet"] = "source"
    path: ExistingFile | None = None
    filters: tuple[Width, ...] | None = Field(None, min_length=1, max_length=16, strict=False)

    @property
    def learns_source(self) -> bool:
        """Whether it learns the source task here, instead of coming trained."""
        return self.weights == "source" and self.path is None


class TransferTraining(Section):
    """The training of all weights; the default `learning_rate` depends on `network.weights`.

    `epochs` is for the target task, after every change of the network; training from scratch takes
    three times that number.
    """

    source_epochs: int = Field(default=10, ge=1)
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=30, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, le=1)


class TransferPruning(Pruning):
    """Pruning of components in phases that end when accuracy suffers, of channels in one cut.

    `importance` ranks channels, `component_importance` components. Phase i prunes the share
    `shares[i]` of all components after every epoch that costs at most `allowed_loss` of the
    validation accuracy, until `patience[i]` epochs in a row cost more, or the layers have at most
    the share `stop_at` of their parameters. `closing_epochs` train the factors without pruning,
    then `tuning_epochs` all weights. `channel_ratio` is the share of channels that double pruning
    removes first. Pruned networks learn from the labels and, with the weight `teacher_share`,
    from the original's outputs, softened by `temperature`.
    """

    component_importance: ComponentImportance = "effect_per_parameter"
    allowed_loss: float = Field(default=0.02, ge=0, lt=1)
    stop_at: float = Field(default=0.08, ge=0, lt=1)
    shares: Shares = (0.05, 0.06, 0.05)
    patience: Patience = (2, 5, 5)
    learning_rates: Rates = (5e-3, 5e-3, 3e-3)
    phase_epochs: int = Field(default=60, ge=1)
    closing_epochs: int = Field(default=11, ge=1)
    tuning_epochs: int = Field(default=30, ge=0)
    channel_ratio: float = Field(default=0.3, gt=0, lt=1)
    teacher_share: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0, le=100)


class TransferEvaluation(Section):
    """The comparisons at the end, timed interleaved with the original."""

    rivals: bool = True
    batch_size: int = Field(default=30, ge=1)
    pairs: int = Field(default=20, ge=5)


class TransferRecipe(Recipe):
    """A network that is transferred to a small task and pruned there."""

    data: TransferData
    network: TransferNetwork
    training: TransferTraining
    pruning: TransferPruning
    evaluation: TransferEvaluation
    export: Export


@rule
def _classes_are_named_once(data: TransferData) -> Iterator[str]:
    for key in ("source_classes", "target_classes"):
        classes = getattr(data, key)
        if len(set(classes)) < len(classes):
            yield f"`data.{key}` must name every class once"


@rule
def _samples_are_left_to_test(data: TransferData) -> Iterator[str]:
    most = RAREST_CLASS.get(data.source) if data.path is None else None
    if most is not None and data.train_per_class + data.validation_per_class >= most:
        yield (
            f"`data.train_per_class` + `data.validation_per_class` must be below {most}, the "
            f"samples that the rarest class of `{data.source}` has, so that some are left to test"
        )


@rule
def _trained_networks_stay(network: TransferNetwork) -> Iterator[str]:
    if network.weights == "imagenet" and network.path is not None:
        yield '`network.weights` must be "source" where `network.path` names a trained network'
    if network.filters is not None and not network.learns_source:
        yield "`network.filters` must be left out where the network comes trained"


@rule
def _phases_are_whole(pruning: TransferPruning) -> Iterator[str]:
    if not len(pruning.shares) == len(pruning.patience) == len(pruning.learning_rates):
        yield (
            "`pruning.shares`, `pruning.patience` and `pruning.learning_rates` must have one value "
            "per phase each"
        )


@rule
def _tasks_share_no_class(data: TransferData, network: TransferNetwork) -> Iterator[str]:
    shared = sorted(set(data.source_classes) & set(data.target_classes))
    if shared and network.learns_source:
        yield (
            "`data.target_classes` must share no class with `data.source_classes`, or the source "
            f"task would see what is tested; {shared} is in both"
        )


@rule
def _classes_are_the_sources(data: TransferData, network: TransferNetwork) -> Iterator[str]:
    if data.path is None and data.source in RAREST_CLASS:
        for key in ["target_classes"] + ["source_classes"] * network.learns_source:
            if max(getattr(data, key)) > 9:
                yield f"`data.{key}` must be classes of `{data.source}`, 0 to 9"


@rule
def _widths_fit_pictures(data: TransferData, network: TransferNetwork) -> Iterator[str]:
    side = data.size
    if side is None and data.path is None:
        side = SIDES.get(data.source)
    if side is None:
        return  # A file decides.
    if network.weights == "imagenet":
        side = max(side, IMAGENET_SIDE)
    if side < 2 ** (len(network.filters or range(WIDTHS)) - 1):
        yield (
            f"`network.filters` must have at most {side.bit_length()} widths for pictures of "
            f"{side} pixels, which all but the first halve"
        )


@rule
def _imagenet_enlarges(data: TransferData, network: TransferNetwork) -> Iterator[str]:
    if network.weights == "imagenet" and data.size is not None and data.size < IMAGENET_SIDE:
        yield (
            f"`data.size` must be at least {IMAGENET_SIDE}, or left out, where `network.weights` "
            'is "imagenet"'
        )
