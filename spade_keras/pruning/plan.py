"""What will be removed, decided once: a frozen, JSON-able plan that explains itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

FORMAT_VERSION = 1


@dataclass(frozen=True)
class GroupPlan:
    """What happens to one group of coupled channels.

    Args:
        name: The group, named after the first layer that produces its channels.
        width: Channels before.
        kept: Indices of the channels that stay, in ascending order.
        members: Paths of the layers whose weights the group slices.
        fixed: Why the group keeps all its channels, or None when it was free to change.
        parameters_saved: Parameters this group removes once the groups before it have been
            narrowed, so that the column adds up to the saving of the whole plan.
        macs_saved: The same for multiply-accumulates; None where input sizes are unknown.
    """

    name: str
    width: int
    kept: tuple[int, ...]
    members: tuple[str, ...] = ()
    fixed: str | None = None
    parameters_saved: int = 0
    macs_saved: int | None = None

    def __post_init__(self) -> None:
        if not self.kept or list(self.kept) != sorted(set(self.kept)):
            raise ValueError(
                "`kept` must list at least one channel, each once, in ascending order. "
                f"Received: kept={_shortened(self.kept)} for group {self.name!r}."
            )
        if self.kept[0] < 0 or self.kept[-1] >= self.width:
            raise ValueError(
                f"`kept` must lie in [0, {self.width}), the channels of group {self.name!r}. "
                f"Received: kept={_shortened(self.kept)}."
            )


@dataclass(frozen=True)
class PruningPlan:
    """Which channels of which groups stay; made by `make_plan`, applied by `rebuild`.

    Args:
        model: Name of the model the plan was made for.
        groups: One entry per group of the model, the fixed ones included.
        importance: Name of the importance that ranked the channels.
        selection: The settings that chose the widths, as plain JSON values.
        parameters: Parameters of the model before pruning, where known.
        macs: Multiply-accumulates of the model before pruning, where known.

    Example:
        >>> plan = PruningPlan("net", (GroupPlan("conv", 4, (0, 2)),), "group_l1", {"ratio": 0.5})
        >>> plan.widths
        {'conv': 2}
        >>> PruningPlan.from_json(plan.to_json()) == plan
        True
    """

    model: str
    groups: tuple[GroupPlan, ...]
    importance: str
    selection: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    macs: int | None = None

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"`groups` must name every group once. Received twice: {twice}.")

    @property
    def widths(self) -> dict[str, int]:
        """Width of every group after pruning."""
        return {group.name: len(group.kept) for group in self.groups}

    @property
    def parameters_saved(self) -> int:
        """Parameters the whole plan removes."""
        return sum(group.parameters_saved for group in self.groups)

    @property
    def macs_saved(self) -> int | None:
        """Multiply-accumulates the whole plan removes; None where input sizes are unknown."""
        if any(group.macs_saved is None for group in self.groups):
            return None
        return sum(group.macs_saved or 0 for group in self.groups)

    def to_json(self) -> str:
        """Writes the plan as JSON text; `from_json` reads it back equal."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Reads a plan written by `to_json`.

        Args:
            text: The JSON text.

        Returns:
            The plan.

        Raises:
            ValueError: If the text is not JSON, is of another version, or has missing,
                unknown or wrongly typed entries.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ValueError(f"`text` must be JSON written by `to_json`: {error}.") from error
        if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
            found = data.get("format_version") if isinstance(data, dict) else None
            raise ValueError(
                f"`text` must be a pruning plan of format_version {FORMAT_VERSION}. "
                f"Received: format_version={found!r}. Make the plan again with `make_plan`."
            )
        data.pop("format_version")
        entries = data.get("groups")
        if not isinstance(entries, list):
            raise ValueError(f"`groups` must be a list. Received: groups={entries!r}.")
        groups = []
        for number, entry in enumerate(entries):
            _check_entries(entry, GroupPlan, _GROUP_TYPES, f"groups[{number}]")
            lists = {key: tuple(entry[key]) for key in ("kept", "members") if key in entry}
            groups.append(GroupPlan(**{**entry, **lists}))
        data["groups"] = groups
        _check_entries(data, cls, _PLAN_TYPES, "the plan")
        return cls(**{**data, "groups": tuple(groups)})

    def summary(self) -> str:
        """Tells per group what it holds, its width before and after, and what that saves.

        Returns:
            A text table, one line per group, with the reason where a group is fixed.
        """
        settings = ", ".join(f"{key}={value}" for key, value in self.selection.items())
        narrowed = sum(len(group.kept) < group.width for group in self.groups)
        rows = [("group", "width", "parameters", "MACs", "members, or why fixed")]
        rows += [_summary_row(group) for group in self.groups]
        rows.append(
            ("all", "", f"-{self.parameters_saved:,}", _saved(self.macs_saved), self._shares())
        )
        sizes = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            f"Pruning plan for {self.model!r}: {narrowed} of {len(self.groups)} groups narrowed, "
            f"ranked by {self.importance} ({settings})"
        ]
        for name, width, parameters, macs, note in rows:
            lines.append(
                f"{name:<{sizes[0]}}  {width:<{sizes[1]}}  {parameters:>{sizes[2]}}  "
                f"{macs:>{sizes[3]}}  {note}".rstrip()
            )
        return "\n".join(lines)

    def _shares(self) -> str:
        channels = sum(group.width for group in self.groups)
        removed = channels - sum(self.widths.values())
        shares = [f"{removed / max(channels, 1):.1%} of the channels"]
        if self.parameters:
            shares.append(f"{self.parameters_saved / self.parameters:.1%} of the parameters")
        if self.macs and self.macs_saved is not None:
            shares.append(f"{self.macs_saved / self.macs:.1%} of the MACs")
        return "removes " + ", ".join(shares)


_GROUP_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "width": (int,),
    "kept": (list,),
    "members": (list,),
    "fixed": (str, type(None)),
    "parameters_saved": (int,),
    "macs_saved": (int, type(None)),
}
_PLAN_TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "groups": (list,),
    "importance": (str,),
    "selection": (dict,),
    "parameters": (int, type(None)),
    "macs": (int, type(None)),
}
_REQUIRED = {"name", "width", "kept", "model", "groups", "importance"}
_ITEM_TYPES = {"kept": int, "members": str}


def _check_entries(
    entry: Any, cls: type, types: Mapping[str, tuple[type, ...]], where: str
) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object. Received: {entry!r}.")
    known = [item.name for item in fields(cls)]
    unknown = sorted(set(entry) - set(known))
    missing = sorted((_REQUIRED & set(known)) - set(entry))
    if unknown or missing:
        raise ValueError(
            f"{where} must have the entries {known}. "
            f"Received: unknown entries {unknown}, missing entries {missing}."
        )
    for key, value in entry.items():
        right = isinstance(value, types[key]) and not isinstance(value, bool)
        if right and key in _ITEM_TYPES:
            right = all(type(item) is _ITEM_TYPES[key] for item in value)
        if not right:
            allowed = " or ".join(kind.__name__ for kind in types[key])
            raise ValueError(f"`{key}` of {where} must be {allowed}. Received: {key}={value!r}.")


def _summary_row(group: GroupPlan) -> tuple[str, str, str, str, str]:
    if len(group.kept) == group.width:
        note = f"fixed: {group.fixed}" if group.fixed else "kept whole"
        return group.name, str(group.width), "", "", note
    members = ", ".join(group.members[:4])
    if len(group.members) > 4:
        members += f" and {len(group.members) - 4} more"
    width = f"{group.width} -> {len(group.kept)}"
    return group.name, width, f"-{group.parameters_saved:,}", _saved(group.macs_saved), members


def _saved(macs: int | None) -> str:
    return "unknown" if macs is None else f"-{macs:,}"


def _shortened(values: tuple[int, ...]) -> str:
    return str(values if len(values) <= 8 else (*values[:8], "..."))
