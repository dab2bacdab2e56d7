"""The options of a search: one set for recipes, the command line and Python.

Nothing here imports keras.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypedDict

from pydantic import AfterValidator, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from spade_keras.registry import OBJECTIVES, PRUNERS, SAMPLERS, SEEDS
from spade_keras.search.budget import LatencyBudget
from spade_keras.typing import DTYPES, Dtype, NameIn, Table

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from spade_keras.search.objective import Objective
    from spade_keras.search.result import SearchResult


class BudgetText:
    """A pydantic validator: the value is a latency budget, as `LatencyBudget.parse` reads it."""

    allowed = (
        "a number > 0 and < 1, of the full network's latency, or a text such as "
        '"8ms", "p99<=8ms" or "throughput>=200/s"'
    )

    def __call__(self, value: Any) -> float | str:
        """Returns `value` when it is a budget; pydantic reports the mistake otherwise."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise PydanticCustomError("no_budget", "no latency budget")
        try:
            LatencyBudget.parse(value)
        except ValueError:
            raise PydanticCustomError("no_budget", "no latency budget") from None
        return value if isinstance(value, str) else float(value)


Budget = Annotated[float | str, PlainValidator(BudgetText())]
Iterations = Annotated[int, Field(ge=1, le=100)]
Seed = Annotated[str, AfterValidator(NameIn(SEEDS))]


class SearchOptions(Table):
    """How the slim configuration is found, and what it may cost.

    The table `[search]` of a recipe, the options of `spade-keras search` and the keyword arguments
    of `search.run` are these fields, with these names and defaults.

    Args:
        latency_budget: What the slim network may cost, as `LatencyBudget.parse` reads it
            (`--budget` on the command line, `budget=` in Python).
        batch_size: Samples per timed call.
        dtype: Dtype of the full network and the candidates; None: the one they have.
        safety_margin: Share of the budget that the search leaves unused.
        trials: Finished trials to end with.
        timeout_minutes: No new trial starts after that.
        stagnation: End after this number of trials without a better one.
        objective: What is maximized. None: quality as pruned where widths alone are searched,
            which predicted their quality after fine-tuning best; else quality after a short
            fine-tuning, since a network cut in depth or rank loses less in the end than at once.
        sampler: Proposes configurations.
        pruner: Stops short fine-tunings that are not promising.
        seeds: Families of configurations tried first, each brought to the budget by measuring.
        pareto: Search the whole front of time and quality instead of the best within the budget.
        staircase: Time the layers first and choose only from widths at which their time steps;
            otherwise from the multiples of `width_multiple`.
        width_multiple: Widths are multiples of it.
        minimum_width: The least width; None: `width_multiple`.
        iterations: Iteration counts to choose from, for networks that iterate.
        blocks: Whether residual blocks may be dropped.
        dtypes: Dtypes of the priors to try besides their own.
        ranks: Whether layers may be split into pairs of lower rank.
        compensate: Whether the readers of removed channels are refitted to inputs, without labels:
            in closed form for every candidate, layer by layer for finalists.
        pairs: Timed windows of full network and candidate.
        finalists: Candidates to fine-tune and time again, of which the best is taken.
        warm_start: Folder of an earlier run or search, whose best configurations are tried first.
        storage: Journal file, or URL of a PostgreSQL server or gRPC proxy, that keeps the trials;
            several processes may share one.
        mix_devices: Continue a study whose times come from another device.
    """

    latency_budget: Budget
    batch_size: int = Field(default=1, ge=1, le=65536)
    dtype: Dtype | None = None
    safety_margin: float = Field(default=0.03, ge=0, lt=1)
    trials: int = Field(default=40, ge=1)
    timeout_minutes: float | None = Field(default=None, gt=0)
    stagnation: int | None = Field(default=None, ge=1)
    objective: Annotated[str, AfterValidator(NameIn(OBJECTIVES))] | None = None
    sampler: Annotated[str, AfterValidator(NameIn(SAMPLERS))] = "tpe"
    pruner: Annotated[str, AfterValidator(NameIn(PRUNERS))] = "none"
    seeds: tuple[Seed, ...] = Field(default=tuple(SEEDS), max_length=8, strict=False)
    pareto: bool = False
    staircase: bool = True
    width_multiple: int = Field(default=8, ge=1)
    minimum_width: int | None = Field(default=None, ge=1)
    iterations: tuple[Iterations, ...] = Field(default=(), max_length=100, strict=False)
    blocks: bool = False
    dtypes: tuple[Dtype, ...] = Field(default=(), max_length=3, strict=False)
    ranks: bool = False
    compensate: bool = False
    pairs: int = Field(default=20, ge=5)
    finalists: int = Field(default=3, ge=1, le=20)
    warm_start: str | None = None
    storage: str | None = None
    mix_devices: bool = False

    @classmethod
    def of(
        cls,
        budget: LatencyBudget | float | str | None = None,
        base: SearchOptions | None = None,
        **fields: Any,
    ) -> Self:
        """Makes the options from Python arguments or from words on a command line.

        `fields` count before `budget`, and that before `base`. A `LatencyBudget` brings its batch
        size, dtype and safety margin.

        Raises:
            ValueError: If an option is unknown or out of its range; names all that are.
        """
        given = {} if base is None else dict(base)
        if isinstance(budget, LatencyBudget):
            given |= {name: getattr(budget, name) for name in _OF_BUDGET}
            budget = budget.text
        given |= fields
        if budget is not None:
            LatencyBudget.parse(budget)  # a mistake is explained better here
            given["latency_budget"] = budget
        try:
            return cls(**given)
        except ValidationError as error:
            raise ValueError(" ".join(map(_describe, error.errors()))) from None

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """Returns what each option is: the first sentence of the docstring."""
        text = re.sub(r"\s+", " ", (SearchOptions.__doc__ or "").partition("Args:")[2])
        found = re.split(rf" ({'|'.join(SearchOptions.model_fields)}): ", text)[1:]
        sentences = (text.strip().split(". ")[0].rstrip(".") + "." for text in found[1::2])
        return dict(zip(found[::2], sentences, strict=True))

    @property
    def budget(self) -> LatencyBudget:
        """The budget with its batch size, dtype and safety margin."""
        return LatencyBudget.parse(
            self.latency_budget,
            batch_size=self.batch_size,
            dtype=self.dtype,
            safety_margin=self.safety_margin,
        )

    @property
    def objective_name(self) -> str:
        """The key of `OBJECTIVES` that is used; see `objective`."""
        mixed = bool(self.iterations or self.blocks or self.ranks)
        return self.objective or ("short_finetune" if mixed else "as_pruned")


class SearchFields(TypedDict, total=False):
    """The fields of `SearchOptions` beside the budget, as typed keyword arguments.

    In Python an objective, an earlier result or an open storage may also be given itself.
    """

    batch_size: int
    dtype: str | None
    safety_margin: float
    trials: int
    timeout_minutes: float | None
    stagnation: int | None
    objective: Objective | str | None
    sampler: str
    pruner: str
    seeds: tuple[str, ...]
    pareto: bool
    staircase: bool
    width_multiple: int
    minimum_width: int | None
    iterations: tuple[int, ...]
    blocks: bool
    dtypes: tuple[str, ...]
    ranks: bool
    compensate: bool
    pairs: int
    finalists: int
    warm_start: SearchResult | str | Path | None
    storage: BaseStorage | str | Path | None
    mix_devices: bool


_OF_BUDGET = ("batch_size", "dtype", "safety_margin")
_NAMES = {
    "objective": OBJECTIVES,
    "sampler": SAMPLERS,
    "pruner": PRUNERS,
    "seeds": SEEDS,
    "dtype": DTYPES,
    "dtypes": DTYPES,
}


def _describe(error: Any) -> str:
    """One mistake, as a sentence."""
    name, received = str(error["loc"][0]), error["input"]
    wrong = f"`{name}`: {error['msg'].replace('Input should be', 'must be')}"
    if error["type"] == "unknown_name":
        known = ", ".join(sorted(_NAMES[name]))
        wrong = f"`{name}` must be {'among' if len(error['loc']) > 1 else 'one of'} {known}"
    elif error["type"] == "no_budget":
        wrong = f"`{name}` must be {BudgetText.allowed}"
    elif error["type"] == "extra_forbidden":
        wrong = f"`{name}` is no option of a search"
    return f"{wrong}. Received: {name}={received!r}."
