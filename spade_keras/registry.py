"""Everything that has a name: operators, networks, priors, masks, importances and so on.

One line here (or one call of `register`) adds an entry everywhere: in Python, on the command line
and in recipes. Nothing is imported before it is asked for, so recipes can check names without
keras.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Registry(Mapping[str, Any]):
    """Names of one kind of thing, each imported when it is first asked for.

    Args:
        kind: Kind of the entries, for error messages, such as "operator".
        **entries: "module:attribute" of each name, or "module" where the attribute is named alike;
            modules are relative to spade_keras.

    Example:
        >>> registry = Registry("rule", root="errors:SpadeError")
        >>> "root" in registry, registry["root"].__name__
        (True, 'SpadeError')
        >>> registry["rot"]
        Traceback (most recent call last):
        ...
        ValueError: Unknown rule. Known ones: root. Received: 'rot'. Did you mean 'root'?
    """

    def __init__(self, kind: str, /, **entries: str) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = dict(entries)

    def __getitem__(self, name: str) -> Any:
        """Returns the entry itself: a class or a function."""
        self.check(name)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = getattr(importlib.import_module(f"spade_keras.{module}"), attribute or name)
            self._entries[name] = entry
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def check(self, name: str) -> None:
        """Raises a ValueError with the known names unless `name` is one; imports nothing."""
        if name in self._entries:
            return
        near = difflib.get_close_matches(str(name), self._entries, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Unknown {self.kind}. Known ones: {', '.join(sorted(self._entries))}. "
            f"Received: {name!r}{hint}"
        )

    def make(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the entry of that name; a ValueError says if the arguments do not fit."""
        entry = self[name]
        try:
            return entry(*args, **kwargs)
        except TypeError as error:
            raise ValueError(
                f"The {self.kind} {name!r} takes other arguments: {error}. "
                f"Received: {sorted(kwargs)}"
            ) from error

    def register(self, name: str, entry: Callable[..., Any] | None = None) -> Any:
        """Adds and returns a class or function; also a decorator: `@REGISTRY.register("name")`.

        Raises:
            ValueError: If the name is taken or the entry cannot be called.
        """
        if entry is None:
            return lambda decorated: self.register(name, decorated)
        if name in self._entries:
            raise ValueError(f"The {self.kind} {name!r} exists already. Choose another name.")
        if not callable(entry):
            raise ValueError(
                f"The {self.kind} {name!r} must be a class or function. Received: {entry!r}"
            )
        self._entries[name] = entry
        return entry

    def unregister(self, name: str) -> None:
        """Removes an entry that was registered before."""
        self.check(name)
        del self._entries[name]


def lazy_attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Makes a package's `__getattr__`, which imports public names when they are first used.

    Args:
        package: `__name__` of the package.
        homes: Module of the package -> the names it defines, separated by spaces; without names,
            the module itself is public.
    """
    modules = {name: module for module, names in homes.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in modules and homes.get(name) != "":
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules.get(name, name)}")
        return getattr(module, name) if name in modules else module

    return get


# Imaging

# Linear forward models: layers without weights.
OPERATORS = Registry(
    "operator",
    blur="operators.blur:Blur",
    cartesian_mri="operators.cartesian_mri:CartesianMRI",
    composition="operators.composition:Composition",
    denoising="operators.pointwise:Denoising",
    downsampling="operators.downsampling:Downsampling",
    inpainting="operators.pointwise:Inpainting",
    scaling="operators.composition:Scaling",
    single_coil_mri="operators.cartesian_mri:SingleCoilMRI",
    stacking="operators.composition:Stacking",
)
# Reconstruction networks, made from an operator and a prior.
NETWORKS = Registry(
    "network",
    deep_equilibrium="networks.deep_equilibrium:DeepEquilibrium",
    e2e_varnet="networks.varnet:E2EVarNet",
    unrolled_pgd="networks.unrolled_pgd:UnrolledPGD",
    usrnet="networks.usrnet:USRNet",
    varnet="networks.varnet:VarNet",
)
# Networks of published sizes.
PRESETS = Registry(
    "preset",
    **dict.fromkeys(
        ("e2e_varnet_8x18", "edsr_13x64", "usrnet", "usrnet_tiny", "varnet_8x18"),
        "networks.presets",
    ),
)
# Denoisers as Functional models with per-layer `filters`.
PRIORS = Registry(
    "prior",
    **dict.fromkeys(("dncnn", "edsr", "res_unet", "unet"), "networks.priors"),
)
# Sampling masks: `mask(shape, *, acceleration, acs_lines, seed)`.
MASKS = Registry(
    "mask", **dict.fromkeys(("equispaced", "gaussian", "poisson_disc", "random"), "data.masks")
)
STRATEGIES = Registry(
    "fine-tuning strategy",
    school="finetuning.fine_tuner:School",
    self_supervised="finetuning.self_supervised:SelfSupervised",
    supervised="finetuning.fine_tuner:Supervised",
)

# Pruning

# Criteria that rank the channels of a group.
IMPORTANCES = Registry(
    "importance",
    batch_norm_scale="pruning.importance.magnitude:BatchNormScale",
    fpgm="pruning.importance.magnitude:FPGM",
    group_l1="pruning.importance.magnitude:GroupL1",
    group_l2="pruning.importance.magnitude:GroupL2",
    lamp="pruning.importance.magnitude:Lamp",
    obs="pruning.importance.obs:OptimalBrainSurgeon",
    random="pruning.importance.magnitude:Random",
    taylor="pruning.importance.taylor:Taylor",
)
# Criteria that rank the singular components of decomposed layers.
COMPONENT_IMPORTANCES = Registry(
    "component importance",
    effect_per_parameter="pruning.basis.importance:EffectPerParameter",
    random="pruning.basis.importance:RandomScore",
    sigma="pruning.basis.importance:ScaledSingularValue",
    taylor="pruning.basis.importance:TaylorEffect",
)

# Search

# Optuna samplers, each made from a seed.
SAMPLERS = Registry("sampler", **dict.fromkeys(("gp", "nsga2", "random", "tpe"), "search.study"))
# Optuna pruners, which stop short fine-tunings that are not promising.
PRUNERS = Registry(
    "pruner",
    hyperband="search.study",
    median="search.study",
    none="search.study:no_pruner",
    successive_halving="search.study",
)
# What a search can maximize.
OBJECTIVES = Registry(
    "objective",
    as_pruned="search.scores:strategy_objective",
    kept_importance="search.objective:KeptImportance",
    short_finetune="search.objective:ShortFineTune",
)
# Configurations a search tries first, in this order.
SEEDS = Registry(
    "family of seeds", **dict.fromkeys(("uniform", "sensitivity", "knapsack"), "search.seeds")
)

# Tasks

# The data, networks, losses and scores of a recipe.
TASKS = Registry(
    "task",
    classification="tasks.classification:Classification",
    reconstruction="tasks.reconstruction:Reconstruction",
)
# Where a reconstruction's measurements come from.
SOURCES = Registry(
    "source",
    fastmri="tasks.sources.fastmri:FastMRI",
    kspace="tasks.sources.kspace:KSpace",
    mni152="tasks.sources.brain_template:BrainTemplate",
    photographs="tasks.sources.photographs:Photographs",
)
# Bundled samples with a class each; called with the side of their images.
LABELED_SOURCES = Registry("source of labeled samples", digits="data.bundled:load_digits")
# Pictures with a class each, for a transfer; called with the side to scale them to, or None.
PICTURE_SOURCES = Registry(
    "source of pictures",
    **dict.fromkeys(("digits", "mnist", "cifar10"), "tasks.pictures"),
)
# The stage that a small network repeats; called with tensor, width and name.
TRANSFER_NETWORKS = Registry(
    "network to transfer",
    vgg="tasks.classifiers:pooled",
    resnet="tasks.classifiers:residual",
)
CLASSIFIERS = Registry("classifier", convolutional="tasks.classifiers")
