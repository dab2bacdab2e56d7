"""The last pieces of search_value.py: what holds on a fresh measurement, and the table."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from search_value_lab import Lab, percent
from search_value_statistics import on_curve, paired_interval, rank_correlation, recovered

from spade_keras import latency
from spade_keras.files import write_json_atomic

PAIRS = 30
KINDS = (
    "uniform",
    "global_l1",
    "random_importance",
    "knapsack",
    "random_search",
    "tpe",
    "joint_tpe",
    "searched",
    "joint",
    "from_scratch",
)
# Arms whose networks are plans handed to a user under a budget.
PLANS = ("knapsack", "random_search", "searched", "joint")
Ratios = Mapping[str, Mapping[str, float]]


def time_again(labs: Mapping[int, Lab], path: Path, *, plans: bool = False) -> None:
    """Times finished networks interleaved with their full network, in this process.

    Args:
        labs: The labs by seed.
        path: Gets one more process's measurements.
        plans: Whether only arms that are plans are timed.
    """
    content: dict[str, Any] = {"date": _now(), "comparisons": {}}
    for seed, lab in labs.items():
        timer = lab.timer(PAIRS)
        for piece in _networks(lab, PLANS if plans else None):
            comparison = timer(lab.job.model(piece))
            content["comparisons"][f"seed{seed}/{piece}"] = comparison.as_dict()
            lab.console.print(f"seed {seed} {piece}: {comparison.ratio}", highlight=False)
    earlier = json.loads(path.read_text()) if path.exists() else []
    write_json_atomic(path, [*earlier, content])


def _pooled(path: Path) -> dict[str, dict[str, float]]:
    """The ratio of every network over all processes that timed it."""
    if not path.exists():
        return {}
    processes = [content["comparisons"] for content in json.loads(path.read_text())]
    return {
        key: latency.pool(
            [latency.Comparison.from_dict(each[key]) for each in processes if key in each]
        ).ratio.as_dict()
        for key in processes[0]
    }


def _cuts(lab: Lab) -> range:
    """Iteration counts below the full network's, most first."""
    return range(lab.job.recipe.network.iterations - 1, 0, -1)


def _networks(lab: Lab, kinds: Sequence[str] | None) -> list[str]:
    pieces = [] if kinds else [f"iterations_{k}" for k in _cuts(lab)]
    pieces += [f"{kind}_{percent(b)}" for kind in kinds or KINDS for b in lab.settings.budgets]
    return [piece for piece in pieces if _has(lab, piece)]


def summarize(labs: Mapping[int, Lab], accepted: Path, verified: Path) -> dict[str, Any]:
    """Everything that the pieces say, as plain JSON values."""
    first = next(iter(labs.values()))
    settings = first.settings
    ratios = _pooled(accepted)
    content: dict[str, Any] = {
        "date": _now(),
        "commit": _commit(),
        "fingerprint": latency.fingerprint(),
        "settings": asdict(settings),
        "references": {
            "full": _scores(labs, "full_tuned"),
            "full_before_tuning_validation_db": _means(labs, "full_tuned", "validation_before_db"),
        },
        "fewer_iterations": {str(k): _row(labs, f"iterations_{k}", ratios) for k in _cuts(first)},
        "budgets": {f"{budget:g}": _at_budget(labs, budget, ratios) for budget in settings.budgets},
    }
    content["verification"] = _verification(accepted, verified, settings.budgets)
    content["cost"] = _cost(labs)
    content["goals"] = _goals(content)
    return content


def _at_budget(labs: Mapping[int, Lab], budget: float, ratios: Ratios) -> dict[str, Any]:
    arms = {kind: _row(labs, f"{kind}_{percent(budget)}", ratios) for kind in KINDS}
    arms = {kind: row for kind, row in arms.items() if row is not None}
    full = np.mean(_scores(labs, "full_tuned"))
    found: dict[str, Any] = {"arms": arms}
    comparisons = [(kind, "uniform") for kind in arms if kind != "uniform"]
    comparisons += [("searched", "knapsack"), ("searched", "random_search")]
    comparisons += [("searched", "from_scratch"), ("joint", "searched"), ("tpe", "knapsack")]
    for better, worse in comparisons:
        if better not in arms or worse not in arms:
            continue
        pair = [_scores(labs, f"{kind}_{percent(budget)}") for kind in (better, worse)]
        entry: dict[str, Any] = paired_interval(pair[0], pair[1])
        if worse == "uniform":
            entry["share_of_loss_recovered"] = recovered(full, np.mean(pair[1]), np.mean(pair[0]))
        found.setdefault("differences", {})[f"{better} - {worse}"] = entry
    if "joint" in arms and arms["joint"]["ratios"]:
        piece = f"joint_{percent(budget)}"
        found["joint_above_fewer_iterations"] = _above_cuts(labs, piece, ratios)
    return found


def _above_cuts(labs: Mapping[int, Lab], piece: str, ratios: Ratios) -> dict[str, Any]:
    """The joint arm against the fewer-iterations curve at its own time, seed by seed."""
    joint, curve = [], []
    for seed, lab in labs.items():
        cuts = [f"iterations_{k}" for k in _cuts(lab)]
        times = [ratios[f"seed{seed}/{cut}"]["value"] for cut in cuts] + [1.0]
        scores = np.array([lab.result(cut)["test_db"] for cut in [*cuts, "full_tuned"]])
        own = ratios[f"seed{seed}/{piece}"]["value"]
        at = [on_curve(times, slice_scores, own) for slice_scores in scores.T]
        if any(value is None for value in at):
            return {"note": "faster than the full network cut to one iteration"}
        joint.append(lab.result(piece)["test_db"])
        curve.append(at)
    return paired_interval(np.array(joint), np.array(curve))


def _row(labs: Mapping[int, Lab], piece: str, ratios: Ratios) -> dict[str, Any] | None:
    if not all(_has(lab, piece) for lab in labs.values()):
        return None
    notes = [lab.result(piece) for lab in labs.values()]
    scores = np.array([note["test_db"] for note in notes])
    keys = [f"seed{seed}/{piece}" for seed in labs]
    return {
        "test_db": float(scores.mean()),
        "test_db_by_seed": scores.mean(axis=1).tolist(),
        "as_pruned_validation_db": float(np.mean([n["validation_before_db"] for n in notes])),
        "ratios": [ratios[key] for key in keys] if all(key in ratios for key in keys) else [],
        "shapes": [{key: note[key] for key in ("iterations", "widths")} for note in notes],
        "parameters": [note["parameters"] for note in notes],
        "epochs": notes[0]["epochs"],
    }


def _verification(accepted: Path, verified: Path, budgets: tuple[float, ...]) -> dict[str, Any]:
    """Plans accepted by their upper bound, and how many of them fresh processes confirm."""
    if not (accepted.exists() and verified.exists()):
        return {"note": "not measured again yet"}
    first, second = _pooled(accepted), _pooled(verified)
    limits = {percent(budget): budget for budget in budgets}
    rows: dict[str, Any] = {}
    for key, before in first.items():
        kind, _, at = key.partition("/")[2].rpartition("_")
        if kind == "iterations":
            continue  # not brought to a budget
        limit, again = limits[at], second.get(key)
        rows[key] = {
            "plan": kind in PLANS,
            "accepted": before["high"] <= limit,
            "within_tolerance": abs(before["value"] / limit - 1) <= 0.03,
            "first": before,
            "again": again,
            "meets_again": again and again["value"] <= limit,
            "interval_meets_again": again and again["high"] <= limit,
        }
    plans = [row for row in rows.values() if row["plan"] and row["again"]]
    taken = [row for row in plans if row["accepted"]]
    return {
        "pairs": PAIRS,
        "processes": max(row["first"]["processes"] for row in rows.values()),
        "plans": len(plans),
        "accepted": len(taken),
        "meet_again": sum(row["meets_again"] for row in taken),
        "interval_meets_again": sum(row["interval_meets_again"] for row in taken),
        "networks": len(rows),
        "networks_within_3_percent": sum(row["within_tolerance"] for row in rows.values()),
        "measurements": rows,
    }


def study_summary(labs: Mapping[int, Lab]) -> dict[str, Any]:
    """The findings of the study of objectives, as plain JSON values."""
    first = next(iter(labs.values()))
    return {
        "date": _now(),
        "commit": _commit(),
        "fingerprint": latency.fingerprint(),
        "settings": asdict(first.settings),
        "objectives": _objectives(first),
    }


def study_table(content: Mapping[str, Any]) -> str:
    """The study's summary for people."""
    lines = ["rank correlation with the final test PSNR [95 %]"]
    for name, rank in content["objectives"].get("spearman_with_final_test", {}).items():
        bounds = f"[{rank['low']:+.2f}, {rank['high']:+.2f}]"
        lines.append(f"  {name:18} {rank['rho']:+.2f} {bounds}")
    return "\n".join(lines)


def _objectives(lab: Lab) -> dict[str, Any]:
    if not _has(lab, "objectives"):
        return {"note": "not measured yet"}
    note = lab.result("objectives")
    return {
        "networks": len(note["members"]),
        "ratios": note["ratios"],
        "spearman_with_final_validation": {
            name: rank_correlation(scores, note["final_validation_db"])
            for name, scores in note["scores"].items()
        },
        "spearman_with_final_test": {
            name: rank_correlation(scores, note["final_test_db"])
            for name, scores in note["scores"].items()
        },
        "seconds_per_candidate": note["seconds_per_candidate"],
        "scores": note["scores"],
        "final_test_db": note["final_test_db"],
        "spread_of_final_test_db": float(np.ptp(note["final_test_db"])),
    }


def _cost(labs: Mapping[int, Lab]) -> dict[str, Any]:
    seconds = {
        f"seed{seed}/{name}": value
        for seed, lab in labs.items()
        for name, value in lab.stages.seconds().items()
    }
    split: dict[str, list[float]] = {}
    for lab in labs.values():
        for name in lab.stages.seconds():
            if name.startswith("study_of_"):
                for trial in lab.result(name)["trials"]:
                    for part, value in trial["seconds"].items():
                        split.setdefault(part, []).append(value)
    return {
        "minutes": sum(seconds.values()) / 60,
        "minutes_by_seed": {
            str(seed): sum(lab.stages.seconds().values()) / 60 for seed, lab in labs.items()
        },
        "seconds_per_trial": {
            part: {"median": float(np.median(values)), "most": float(np.max(values))}
            for part, values in split.items()
        },
        "trials": max((len(values) for values in split.values()), default=0),
    }


def _goals(content: Mapping[str, Any]) -> dict[str, Any]:
    """The goals set beforehand, met or not."""
    half = content["budgets"].get("0.5", {}).get("differences", {})
    goals: dict[str, Any] = {}
    if "searched - uniform" in half:
        entry = half["searched - uniform"]
        enough = entry["mean_db"] >= 0.5 or (entry["share_of_loss_recovered"] or 0) >= 0.5
        goals["half of uniform's loss recovered, or +0.5 dB, at budget 0.5"] = enough
        goals["its 95 % interval excludes 0"] = entry["low_db"] > 0
        goals["search above its knapsack seed at budget 0.5"] = (
            half["searched - knapsack"]["mean_db"] > 0
        )
    joint = [b.get("joint_above_fewer_iterations", {}) for b in content["budgets"].values()]
    if all("mean_db" in entry for entry in joint):
        goals["joint search above the fewer-iterations curve everywhere"] = all(
            entry["mean_db"] > 0 for entry in joint
        )
    verification = content["verification"]
    if "accepted" in verification:
        goals["every accepted plan meets its budget when measured again"] = (
            verification["meet_again"] == verification["accepted"]
        )
    if "overhead" in content["cost"]["seconds_per_trial"]:
        overhead = content["cost"]["seconds_per_trial"]["overhead"]["median"]
        goals["overhead of at most 50 ms a trial (median)"] = overhead <= 0.05
    goals["at most 90 minutes in all"] = content["cost"]["minutes"] <= 90
    return goals


def table(content: Mapping[str, Any]) -> str:
    """The summary for people."""
    full = np.mean(content["references"]["full"])
    lines = [f"full network, tuned on as the arms are: {full:.2f} dB", ""]
    for k, row in content["fewer_iterations"].items():
        if row is not None:
            ratios = " ".join(f"{ratio['value']:.3f}" for ratio in row["ratios"])
            lines.append(f"full widths, {k} iterations: {row['test_db']:.2f} dB  {ratios}")
    for budget, found in content["budgets"].items():
        lines += ["", f"budget {budget}:  arm, test PSNR, ratios, minus uniform [95 %]"]
        lines += _budget_lines(found)
    verification = content["verification"]
    if "accepted" in verification:
        lines += [
            "",
            f"{verification['meet_again']} of {verification['accepted']} accepted plans meet their "
            f"budget again, {verification['interval_meets_again']} with their whole interval "
            f"({verification['plans']} proposed); {verification['networks_within_3_percent']} of "
            f"{verification['networks']} networks are within 3 % of their budget",
        ]
    lines += ["", f"{content['cost']['minutes']:.0f} minutes in all"]
    lines += [f"{'met    ' if met else 'MISSED '} {goal}" for goal, met in content["goals"].items()]
    return "\n".join(lines)


def _budget_lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    differences = found.get("differences", {})
    for kind, row in found["arms"].items():
        ratios = " ".join(f"{ratio['value']:.3f}" for ratio in row["ratios"])
        entry = differences.get(f"{kind} - uniform")
        gain = "" if entry is None else _gain(entry)
        lines.append(f"  {kind:18} {row['test_db']:6.2f} dB  {ratios}  {gain}")
    for name, entry in differences.items():
        if not name.endswith("- uniform"):
            lines.append(f"  {name}: {_gain(entry)}")
    if "mean_db" in (above := found.get("joint_above_fewer_iterations", {})):
        lines.append(f"  joint - fewer iterations at equal time: {_gain(above)}")
    return lines


def _gain(entry: Mapping[str, Any]) -> str:
    share = entry.get("share_of_loss_recovered")
    recovered_ = "" if share is None else f", {share:.0%} of the loss"
    bounds = f"[{entry['low_db']:+.2f}, {entry['high_db']:+.2f}]"
    return f"{entry['mean_db']:+.2f} {bounds}{recovered_}"


def _scores(labs: Mapping[int, Lab], piece: str) -> list[list[float]]:
    return [lab.result(piece)["test_db"] for lab in labs.values()]


def _means(labs: Mapping[int, Lab], piece: str, key: str) -> float:
    return float(np.mean([lab.result(piece)[key] for lab in labs.values()]))


def _has(lab: Lab, piece: str) -> bool:
    return (lab.stages.folder / piece / "stage.json").exists()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
