"""Pruning plans: frozen, JSON-able, with the reason for everything they keep."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, TypeAdapter, ValidationError

FORMAT_VERSION = 2

Form = Literal["pair", "one"]
FORMS: tuple[Form, ...] = ("pair", "one")
_adapter = cache(TypeAdapter)


class _Strict:
    """Read from JSON without unknown entries or conversions between types."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class GroupPlan(_Strict):
    """The plan for one group of coupled channels.

    Of `width` channels, `kept` lists those that stay, ascending; `members` are the layers whose
    weights the group slices, and `fixed` says why all channels stay, if they must. What is saved
    counts once the groups before are narrowed, so that the sum is what the step saves; `macs_saved`
    is None where input sizes are unknown.
    """

    name: str
    width: int
    kept: tuple[int, ...]
    members: tuple[str, ...] = ()
    fixed: str | None = None
    parameters_saved: int = 0
    macs_saved: int | None = None

    def __post_init__(self) -> None:
        _check_kept(self.kept, self.width, f"channel of group {self.name!r}")


@dataclass(frozen=True)
class LayerRank(_Strict):
    """The plan for one layer that is decomposed into singular components.

    Of `rank` components per group, `kept` lists those that stay, ascending; 0 has the largest
    singular value. `form` says whether two layers come of it (`"pair"`) or one, and `scales` holds
    the factors of the kept components, group after group; empty: all 1.
    """

    name: str
    rank: int
    kept: tuple[int, ...]
    form: Form = "pair"
    scales: tuple[float, ...] = ()
    parameters_saved: int = 0
    macs_saved: int | None = None

    def __post_init__(self) -> None:
        _check_kept(self.kept, self.rank, f"component of layer {self.name!r}")
        if self.form not in FORMS:
            raise ValueError(
                f"`form` must be one of {list(FORMS)}. Received: form={self.form!r} for layer "
                f"{self.name!r}."
            )
        if len(self.scales) % len(self.kept) or not all(map(math.isfinite, self.scales)):
            raise ValueError(
                "`scales` must hold one finite factor per kept component and group, or none. "
                f"Received: {len(self.scales)} scales for {len(self.kept)} components of "
                f"{self.name!r}, the first {self.scales[:4]}."
            )


@dataclass(frozen=True)
class ReaderError(_Strict):
    """What the removal of channels does to a kernel that reads them, on calibration data.

    `before` and `after` are the root mean square errors of what it computes, relative to what the
    full model computes, cut and refitted in closed form: `||X W - X W'|| / ||X W||`. `rows` is the
    number of rows of X, `inputs` that of its columns.
    """

    name: str
    before: float
    after: float
    rows: int
    inputs: int

    @property
    def note(self) -> str:
        """Why the error is not to be trusted; empty if it is."""
        if self.rows >= self.inputs:
            return ""
        return f"{self.rows} rows for {self.inputs} inputs: give `calibrate` more samples"


@dataclass(frozen=True)
class BlockStep(_Strict):
    """Residual blocks that become the identity.

    `dropped` holds their names as in `find_residual_blocks`; `macs_saved` is None where unknown.
    """

    dropped: tuple[str, ...]
    parameters_saved: int = 0
    macs_saved: int | None = None
    kind: Literal["blocks"] = field(default="blocks", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _check_once("dropped", "block", self.dropped)

    def summary(self, model: str) -> str:
        """Lists the blocks and their savings."""
        parameters, macs = _saved_texts([self])
        dropped = ", ".join(self.dropped) or "none"
        return f"Blocks dropped from {model!r}: {dropped} (parameters {parameters}, MACs {macs})"


@dataclass(frozen=True)
class ChannelStep(_Strict):
    """Channels that are removed from groups, the fixed ones of the model included.

    `selection` holds the settings that chose the widths, as plain JSON values; `parameters` and
    `macs` are those of the model before this step, where known. `readers` holds what the removal
    does to the layers that read the channels, if the step was made with a calibration.
    """

    groups: tuple[GroupPlan, ...]
    importance: str
    selection: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    macs: int | None = None
    readers: tuple[ReaderError, ...] = ()
    kind: Literal["channels"] = field(default="channels", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _check_once("groups", "group", [group.name for group in self.groups])

    def summary(self, model: str) -> str:
        """Lists per group its members, its width before and after, and the savings."""
        settings = ", ".join(f"{key}={value}" for key, value in self.selection.items())
        narrowed = sum(len(group.kept) < group.width for group in self.groups)
        header = (
            f"Pruning plan for {model!r}: {narrowed} of {len(self.groups)} groups narrowed, "
            f"ranked by {self.importance} ({settings})"
        )
        rows = [("group", "width", "parameters", "MACs", "members, or why fixed")]
        rows += map(_group_row, self.groups)
        rows.append(("all", "", *_saved_texts(self.groups), f"removes {self._shares()}"))
        text = _table(header, rows)
        if not self.readers:
            return text
        errors = [("reads removed channels", "inputs", "cut", "refitted", "")]
        errors += [
            (x.name, str(x.inputs), f"{x.before:.2%}", f"{x.after:.2%}", x.note)
            for x in self.readers
        ]
        return f"{text}\n\n{_table('Relative error of what these kernels compute', errors)}"

    def _shares(self) -> str:
        channels = sum(group.width for group in self.groups)
        removed = channels - sum(len(group.kept) for group in self.groups)
        saved = zip(_saved(self.groups), (self.parameters, self.macs), strict=True)
        parts = [(removed, max(channels, 1)), *saved]
        return ", ".join(
            f"{part / whole:.1%} of the {name}"
            for name, (part, whole) in zip(("channels", "parameters", "MACs"), parts, strict=True)
            if part is not None and whole
        )


@dataclass(frozen=True)
class RankStep(_Strict):
    """Layers that get a lower rank, their components ranked by an importance."""

    layers: tuple[LayerRank, ...]
    importance: str = ""
    kind: Literal["ranks"] = field(default="ranks", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("`layers` must name at least one layer. Received: layers=().")
        _check_once("layers", "layer", [layer.name for layer in self.layers])

    def summary(self, model: str) -> str:
        """Lists per layer the number of kept components, their form, and the savings."""
        forms = {"pair": "two layers", "one": "merged back into one layer"}
        rows = [("layer", "rank", "parameters", "MACs", "becomes")]
        for layer in self.layers:
            change = f"{layer.rank} -> {len(layer.kept)}"
            rows.append((layer.name, change, *_saved_texts([layer]), forms[layer.form]))
        kept, total = sum(len(x.kept) for x in self.layers), sum(x.rank for x in self.layers)
        return _table(f"Ranks for {model!r}: {kept} of {total} components kept", rows)


Step = BlockStep | ChannelStep | RankStep


@dataclass(frozen=True)
class PruningPlan(_Strict):
    """Steps from a model of some name to its slim form, each made for the result before it.

    Made by `make_plan`, `drop_blocks`, `plan_ranks` and `rank_plan`; applied by `rebuild`,
    proved by `verify_plan`.

    Example:
        >>> step = ChannelStep((GroupPlan("conv", 4, (0, 2)),), "group_l1", {"ratio": 0.5})
        >>> plan = PruningPlan("net", (step,))
        >>> plan.widths
        {'conv': 2}
        >>> PruningPlan.from_json(plan.to_json()) == plan
        True
    """

    model: str
    steps: tuple[Annotated[Step, Discriminator("kind")], ...]

    def __post_init__(self) -> None:
        if not self.steps or not all(isinstance(step, Step) for step in self.steps):
            raise ValueError(
                "`steps` must hold at least one BlockStep, ChannelStep or RankStep and nothing "
                f"else. Received: steps={[type(step).__name__ for step in self.steps]}."
            )

    @property
    def groups(self) -> tuple[GroupPlan, ...]:
        """The groups of all channel steps."""
        steps = (step for step in self.steps if isinstance(step, ChannelStep))
        return tuple(group for step in steps for group in step.groups)

    @property
    def reader_errors(self) -> tuple[ReaderError, ...]:
        """Errors of the layers that read removed channels, of steps made with a calibration."""
        steps = (step for step in self.steps if isinstance(step, ChannelStep))
        return tuple(error for step in steps for error in step.readers)

    @property
    def widths(self) -> dict[str, int]:
        """Width of every group at the end."""
        return {group.name: len(group.kept) for group in self.groups}

    @property
    def ranks(self) -> dict[str, int]:
        """Components that stay, by decomposed layer."""
        return {layer.name: len(layer.kept) for layer in self._layers}

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the blocks that are left out."""
        steps = (step for step in self.steps if isinstance(step, BlockStep))
        return tuple(name for step in steps for name in step.dropped)

    @property
    def parameters_saved(self) -> int:
        """Parameters the whole plan removes."""
        return _saved(self._entries)[0]

    @property
    def macs_saved(self) -> int | None:
        """Multiply-accumulates the whole plan removes; None if any entry is unknown."""
        return _saved(self._entries)[1]

    @property
    def _entries(self) -> list[Any]:
        """What saves something: groups, layers, and steps that leave out blocks."""
        blocks = [step for step in self.steps if isinstance(step, BlockStep)]
        return [*self.groups, *self._layers, *blocks]

    @property
    def _layers(self) -> list[LayerRank]:
        return [x for step in self.steps if isinstance(step, RankStep) for x in step.layers]

    def then(self, other: PruningPlan) -> PruningPlan:
        """Returns this plan followed by one that was made for its result."""
        return PruningPlan(self.model, self.steps + other.steps)

    def to_json(self) -> str:
        """Writes the plan as JSON text; `from_json` reads it back equal."""
        data = asdict(self, dict_factory=_without_no_readers)
        return json.dumps({"format_version": FORMAT_VERSION, **data}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Reads a plan written by `to_json`; names every entry that is missing or wrong."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ValueError(f"`text` must be JSON written by `to_json`: {error}.") from error
        found = data.pop("format_version", None) if isinstance(data, dict) else None
        if found != FORMAT_VERSION:
            raise ValueError(
                f"`text` must be a pruning plan of format_version {FORMAT_VERSION}. "
                f"Received: format_version={found!r}. Make the plan again."
            )
        try:
            return _adapter(PruningPlan).validate_json(json.dumps(data))
        except ValidationError as error:
            problems = "; ".join(map(_problem, error.errors()[:5]))
            raise ValueError(f"`text` must be a whole pruning plan: {problems}") from error

    def summary(self) -> str:
        """Lists per step what is removed, what stays and why, and the savings."""
        return "\n\n".join(step.summary(self.model) for step in self.steps)


def _without_no_readers(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A plan without a calibration is written as it was before there were errors in plans."""
    return {key: value for key, value in items if key != "readers" or value}


def _problem(problem: Any) -> str:
    """One mistake as pydantic found it, in the words of the class where it has its own."""
    cause = problem.get("ctx", {}).get("error")
    if cause is not None:
        return str(cause)
    where = ".".join(map(str, problem["loc"]))
    return f"`{where}`: {problem['msg']}. Received: {str(problem['input'])[:100]}."


def _check_kept(kept: Sequence[int], width: int, what: str) -> None:
    problem = None
    if not kept or list(kept) != sorted(set(kept)):
        problem = f"list at least one {what}, each once, in ascending order"
    elif kept[0] < 0 or kept[-1] >= width:
        problem = f"lie in [0, {width}), each a {what}"
    if problem:
        shown = kept if len(kept) <= 8 else (*kept[:8], "...")
        raise ValueError(f"`kept` must {problem}. Received: kept={shown}.")


def _check_once(argument: str, what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`{argument}` must name every {what} once. Received twice: {twice}.")


def _group_row(group: GroupPlan) -> tuple[str, str, str, str, str]:
    if len(group.kept) == group.width:
        note = f"fixed: {group.fixed}" if group.fixed else "kept whole"
        return group.name, str(group.width), "", "", note
    members = ", ".join(group.members[:4])
    if len(group.members) > 4:
        members += f" and {len(group.members) - 4} more"
    width = f"{group.width} -> {len(group.kept)}"
    return group.name, width, *_saved_texts([group]), members


def _table(header: str, rows: Sequence[tuple[str, str, str, str, str]]) -> str:
    """Rows of two columns of text, two of numbers, and a note."""
    a, b, c, d = (max(len(row[column]) for row in rows) for column in range(4))
    lines = [f"{v:<{a}}  {w:<{b}}  {x:>{c}}  {y:>{d}}  {note}" for v, w, x, y, note in rows]
    return "\n".join([header, *(line.rstrip() for line in lines)])


def _saved(entries: Sequence[Any]) -> tuple[int, int | None]:
    """Parameters and multiply-accumulates that go; None where an entry does not know."""
    macs = [entry.macs_saved for entry in entries]
    whole = None if None in macs else sum(macs)
    return sum(entry.parameters_saved for entry in entries), whole


def _saved_texts(entries: Sequence[Any]) -> tuple[str, str]:
    parameters, macs = _saved(entries)
    return f"{-parameters:,}", "unknown" if macs is None else f"{-macs:,}"
