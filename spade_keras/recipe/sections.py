"""The tables of a recipe: every key with its type, range and default.

A task, `run.task`, decides which data and networks a recipe describes; everything else is common
to all tasks. Those of a reconstruction are in `recipe.data` and `recipe.networks`. Nothing here
imports keras.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from spade_keras.recipe.messages import BudgetText, OneOf

# The names a recipe may use. They are spelled out so that this module needs no keras; a test
# asserts that they are those of the registries.
SOURCES = ("fastmri", "kspace", "mni152", "photographs")
NETWORKS = ("deep_equilibrium", "e2e_varnet", "unrolled_pgd", "usrnet", "varnet")
PRIORS = ("dncnn", "edsr", "res_unet", "unet")
LABELED_SOURCES = ("digits",)
CLASSIFIERS = ("convolutional",)
IMPORTANCES = ("group_l1", "group_l2", "batch_norm_scale", "taylor", "fpgm", "lamp", "random")
OBJECTIVES = ("as_pruned", "short_finetune", "kept_importance")
SAMPLERS = ("tpe", "gp", "nsga2", "random")
PRUNERS = ("none", "median", "hyperband", "successive_halving")
SEEDS = ("uniform", "sensitivity", "knapsack")
DTYPES = ("float32", "bfloat16", "float16")
STRATEGIES = ("school", "supervised", "self_supervised")

Source = Annotated[str, AfterValidator(OneOf(SOURCES))]
NetworkName = Annotated[str, AfterValidator(OneOf(NETWORKS, "spade_keras.networks:NETWORKS"))]
PriorName = Annotated[str, AfterValidator(OneOf(PRIORS, "spade_keras.networks.priors:PRIORS"))]
LabeledSource = Annotated[
    str, AfterValidator(OneOf(LABELED_SOURCES, "spade_keras.data:LABELED_SOURCES"))
]
ClassifierName = Annotated[
    str, AfterValidator(OneOf(CLASSIFIERS, "spade_keras.tasks.classifiers:CLASSIFIERS"))
]
ImportanceName = Annotated[
    str, AfterValidator(OneOf(IMPORTANCES, "spade_keras.pruning:IMPORTANCES"))
]
Sampler = Annotated[str, AfterValidator(OneOf(SAMPLERS, "spade_keras.search:SAMPLERS"))]
Objective = Annotated[
    str | None, AfterValidator(OneOf(OBJECTIVES, "spade_keras.search.objectives:OBJECTIVES"))
]
Pruner = Annotated[str, AfterValidator(OneOf(PRUNERS, "spade_keras.search:PRUNERS"))]
Seed = Annotated[str, AfterValidator(OneOf(SEEDS, "spade_keras.search.seeds:SEEDS"))]
Dtype = Annotated[str, AfterValidator(OneOf(DTYPES))]
# float16 would lose small gradients in training.
FullDtype = Annotated[str, AfterValidator(OneOf(("float32", "bfloat16")))]
Budget = Annotated[float | str, PlainValidator(BudgetText())]
Iterations = Annotated[int, Field(ge=1, le=100)]
Strategy = Annotated[str, AfterValidator(OneOf(STRATEGIES, "spade_keras.finetuning:STRATEGIES"))]
Filters = Annotated[int, Field(ge=1, le=4096)]


class Section(BaseModel):
    """One table of a recipe: frozen, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Run(Section):
    """What is done, where the results go, and the seed of everything random."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    task: Literal["reconstruction", "classification", "transfer"] = "reconstruction"
    seed: int = Field(default=0, ge=0, lt=2**31)
    folder: str = Field(default="runs", min_length=1)


class FullNetwork(Section):
    """The full network, before pruning; `dtype` is what it computes in."""

    dtype: FullDtype = "float32"


class LabeledData(Section):
    """Samples with a class each: a bundled source, or the arrays x and y of an `.npz` file.

    With `path` the source is not read; `size` is the side to which the bundled images are scaled.
    """

    source: LabeledSource = "digits"
    path: str | None = None
    size: int = Field(default=32, ge=8, le=512)
    validation_samples: int = Field(default=300, ge=1)
    test_samples: int = Field(default=300, ge=1)


class Classifier(FullNetwork):
    """A classifier: a bundled one, or any `.keras` file; with `path` the rest is not read."""

    name: ClassifierName = "convolutional"
    path: str | None = None
    filters: tuple[Filters, ...] = Field(
        default=(32, 64, 64), min_length=1, max_length=16, strict=False
    )
    kernel_size: int = Field(default=3, ge=1, le=15)


class Training(Section):
    """How the full network is trained; 0 epochs take one from a file as it is.

    Without truth the loss has two parts: consistency, for which the share `splitting` of the
    sampled points is kept from the network each time, and `equivariance_weight` x equivariance.
    """

    strategy: Literal["supervised", "self_supervised"] = "supervised"
    epochs: int = Field(ge=0)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    splitting: float = Field(default=0.0, ge=0, lt=1)
    equivariance_weight: float = Field(default=1.0, ge=0)


class Pruning(Section):
    """Which channels go first."""

    importance: ImportanceName = "group_l1"


def objective_of(chosen: str | None, *, mixed: bool) -> str:
    """Returns what a search maximizes: what was chosen, or what predicts the end best.

    Args:
        chosen: `search.objective`.
        mixed: Whether iterations, blocks or ranks are searched beside widths.
    """
    return chosen or ("short_finetune" if mixed else "as_pruned")


class Search(Section):
    """How the slim configuration is found, and what it may cost.

    With `staircase` the widths to choose from are those at which the layers' measured times step;
    else the multiples of `width_multiple`. `iterations`, `blocks` and `dtypes` are searched when
    they are given, and with `ranks` the components of layers that may become pairs of layers.
    Unless `objective` says otherwise, widths alone are judged as pruned, which predicted their
    quality after fine-tuning best; what else is cut is judged after a short fine-tuning, for a
    network cut in depth or rank loses less at once than it does in the end.
    """

    latency_budget: Budget
    batch_size: int = Field(default=1, ge=1, le=65536)
    trials: int = Field(default=30, ge=1)
    timeout_minutes: float | None = Field(default=None, gt=0)
    stagnation: int | None = Field(default=None, ge=1)
    objective: Objective = None
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    seeds: tuple[Seed, ...] = Field(default=SEEDS, max_length=8, strict=False)
    pareto: bool = False
    staircase: bool = True
    width_multiple: int = Field(default=4, ge=1)
    minimum_width: int = Field(default=4, ge=1)
    iterations: tuple[Iterations, ...] = Field(default=(), max_length=100, strict=False)
    blocks: bool = False
    dtypes: tuple[Dtype, ...] = Field(default=(), max_length=3, strict=False)
    ranks: bool = False
    safety_margin: float = Field(default=0.03, ge=0, lt=1)
    pairs: int = Field(default=20, ge=5)
    finalists: int = Field(default=3, ge=1, le=20)
    warm_start: str | None = None
    storage: str | None = None


class FineTuning(Section):
    """How the slim network gets its quality back; see `Training` for the last two keys."""

    strategy: Strategy
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    on: Literal["train", "test"] = "train"
    splitting: float = Field(default=0.0, ge=0, lt=1)
    equivariance_weight: float = Field(default=1.0, ge=0)


class Evaluation(Section):
    """What is compared at the end."""

    rivals: bool = True


class Export(Section):
    """What leaves the toolkit, and how often full and slim are timed there."""

    format: Literal["saved_model"] = "saved_model"
    pairs: int = Field(default=50, ge=5)
