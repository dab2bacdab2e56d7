"""Networks, data, tuning and timing for search_value.py; every result is a piece kept on disk."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from spade_keras import data, latency, pruning, search
from spade_keras.backend.batches import predict
from spade_keras.files import write_json_atomic
from spade_keras.finetuning import Supervised
from spade_keras.metrics import image_quality
from spade_keras.pipeline import LatencyJob
from spade_keras.pipeline.run_folder import Stages
from spade_keras.pipeline.training import fit_best
from spade_keras.recipe import Recipe, load_recipe

Widths = dict[str, int]
RECIPE = "mri_unrolled_quickstart"
# A ratio's interval may be as wide as this share of it, the shorter and the longer measurement.
SPREAD, FINAL_SPREAD = 0.08, 0.025
TRIES = 3


@dataclass(frozen=True)
class Settings:
    """Settings that all arms share."""

    seeds: tuple[int, ...] = (0, 1, 2)
    budgets: tuple[float, ...] = (0.7, 0.5, 0.3)
    tuning_epochs: int = 5
    tuning_rate: float = 4e-3
    trials: int = 20
    # As many measured networks as a search of `trials` with its seeds, brought to the budget.
    random_trials: int = 32
    multiple: int = 4
    minimum_width: int = 4
    # Arms grow until the next width would exceed this share of the budget: room for noise.
    aim: float = 0.985
    tolerance: float = 0.03
    pairs: int = 16
    final_pairs: int = 48
    search_pairs: int = 10
    objective: str = "as_pruned"
    joint_objective: str = "half_epoch"
    study_size: int = 12
    study_budget: float = 0.5
    overrides: tuple[str, ...] = ()


TINY = Settings(
    seeds=(0, 1),
    budgets=(0.95, 0.9),
    tuning_epochs=1,
    trials=6,
    random_trials=6,
    aim=0.99,
    pairs=4,
    final_pairs=8,
    search_pairs=4,
    study_size=4,
    study_budget=0.9,
    overrides=(
        "data.height=32",
        "data.width=32",
        "network.prior.filters=[32,32,32]",
        "network.iterations=3",
        "training.epochs=1",
    ),
)
"""To see that everything runs; its figures mean nothing."""


@dataclass(frozen=True)
class Shape:
    """The shape that sets a network's time: its iterations and the width of every group."""

    iterations: int
    widths: Widths

    @property
    def key(self) -> str:
        return f"{self.iterations}x" + "-".join(str(width) for width in self.widths.values())


@dataclass(frozen=True)
class Arm:
    """One piece of work: one arm's network, or something that arms need.

    Attributes:
        seed: Whose network.
        name: Name of the piece.
        make: Fills its folder.
        material: What it depends on, other pieces apart.
        after: Pieces of the same seed that it reads.
        keep_partial: Whether `make` goes on in the folder of an attempt that was killed.
        timed: Whether it measures times, and so needs a quiet machine.
    """

    seed: int
    name: str
    make: Callable[[Lab, Path], None]
    material: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ("data", "train")
    keep_partial: bool = False
    timed: bool = False


def percent(budget: float) -> str:
    """A budget as part of a piece's name."""
    return f"{round(100 * budget)}"


def tuning_material(settings: Settings) -> dict[str, Any]:
    """The settings a tuned network depends on."""
    return _chosen(settings, "tuning_epochs", "tuning_rate")


def timing_material(settings: Settings, budget: float) -> dict[str, Any]:
    """The settings a shape brought to a budget depends on."""
    names = ("minimum_width", "aim", "pairs", "final_pairs")
    return {**_chosen(settings, *names), "budget": budget}


def shape_arm(
    settings: Settings,
    seed: int,
    name: str,
    choose: Callable[[Lab, float], Shape],
    budget: float,
    after: tuple[str, ...] = ("data", "train"),
) -> Arm:
    """The piece that brings an arm to a budget."""

    def make(lab: Lab, folder: Path) -> None:
        lab.keep_shape(folder, choose(lab, budget))

    material = timing_material(settings, budget)
    return Arm(seed, f"shape_{name}", make, material, after, timed=True)


def tuned_arm(settings: Settings, seed: int, name: str) -> Arm:
    """The piece that prunes to the shape found for an arm, and tunes."""

    def make(lab: Lab, folder: Path) -> None:
        shape = lab.shape(f"shape_{name}")
        lab.finish(folder, lab.build(shape), shape)

    return Arm(seed, name, make, tuning_material(settings), ("data", "train", f"shape_{name}"))


def _chosen(settings: Settings, *names: str) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names}


Curve = Callable[[float], Shape]
"""From 0, the narrowest, to 1, the full network; wider as it goes."""


class Lab:
    """One seed's networks, data and pieces.

    Args:
        folder: Folder of all seeds.
        seed: Of data, training and tuning.
        settings: What every arm gets alike.
        console: Where progress is shown.
    """

    def __init__(self, folder: Path, seed: int, settings: Settings, console: Console) -> None:
        self.seed = seed
        self.settings = settings
        self.console = console
        self.stages = Stages(folder / f"seed{seed}")
        self.ratios = Ratios(folder / "ratios.json")
        self._timers: dict[int, search.Timer] = {}
        self.job = LatencyJob(self.recipe(seed, settings, folder), self.stages, console)

    @staticmethod
    def recipe(seed: int, settings: Settings, folder: Path = Path("runs")) -> Recipe:
        """The quickstart's recipe, tuned on the truth: all arms then see the same."""
        overrides = [f"run.folder={folder}", f"run.name=seed{seed}", f"run.seed={seed}"]
        overrides += ["training.epochs=8", "finetuning.strategy=supervised", *settings.overrides]
        return load_recipe(RECIPE, overrides)

    @cached_property
    def full(self) -> keras.Model:
        """The trained full network."""
        return self.job.model("train")

    @cached_property
    def full_shape(self) -> Shape:
        groups = [group for group in pruning.find_groups(self.full) if not group.fixed]
        return Shape(self.full.iterations, {group.name: group.width for group in groups})

    def result(self, piece: str) -> dict[str, Any]:
        """The notes of a finished arm."""
        return self.job.json(piece, "result")

    def build(self, shape: Shape, importance: Any = "group_l1") -> keras.Model:
        """The full network pruned to a shape."""
        whole = shape.iterations == self.full.iterations
        cut = self.full if whole else self.full.with_iterations(shape.iterations)
        plan = pruning.make_plan(cut, widths=shape.widths, importance=importance)
        return pruning.rebuild(cut, plan)

    def timer(self, pairs: int) -> search.Timer:
        """Times a candidate against the full network, on a slice of the validation slab."""
        if pairs not in self._timers:
            inputs = self.job.samples("validation").inputs
            self._timers[pairs] = search.interleaved_timer(self.full, inputs, pairs=pairs)
        return self._timers[pairs]

    def ratio(self, shape: Shape, *, final: bool = False) -> dict[str, float]:
        """The shape's time / the full network's. Times belong to shapes: seeds share them.

        A measurement whose interval is wide was disturbed, and is made again a few times.
        """
        pairs = self.settings.final_pairs if final else self.settings.pairs
        known = self.ratios.get(shape.key)
        if known is not None and known["pairs"] >= pairs:
            return known
        candidate = self.build(shape)
        tries = []
        while len(tries) < TRIES:
            ratio = self.timer(pairs)(candidate).ratio
            tries.append(ratio)
            if ratio.high - ratio.low <= (FINAL_SPREAD if final else SPREAD) * ratio.value:
                break
        calmest = min(tries, key=lambda ratio: (ratio.high - ratio.low) / ratio.value)
        self.ratios.put(shape.key, calmest.as_dict())
        return calmest.as_dict()

    def to_budget(self, curve: Curve, budget: float) -> Shape:
        """The widest shape on a curve whose measured time stays below the budget's aim.

        Raises:
            RuntimeError: If even the narrowest one misses it.
        """
        aim = budget * self.settings.aim
        while True:
            found = self._along(curve, budget, aim)
            if self.ratio(found, final=True)["value"] <= aim:
                return found
            # A short measurement had called it faster than it is: now it is known better.

    def _along(self, curve: Curve, budget: float, aim: float) -> Shape:
        best = curve(0.0)
        low, high = (0.0, self._decide(best, aim)), (1.0, 1.0)
        if low[1] > aim:
            raise RuntimeError(f"The narrowest shape, {best.key}, misses the budget {budget:g}.")
        while low[1] < 0.99 * aim and high[0] - low[0] > 2e-3:
            # Where a straight line would meet the aim, but never close to a known end: time goes
            # in steps, and a line is wrong by half of one.
            share = (aim - low[1]) / (high[1] - low[1])
            position = low[0] + (high[0] - low[0]) * min(max(share, 0.15), 0.85)
            shape = curve(position)
            ratio = self._decide(shape, aim)
            if ratio <= aim:
                best, low = shape, (position, ratio)
            else:
                high = (position, ratio)
        return best if low[1] >= (1 - self.settings.tolerance) * budget else self._fill(best, aim)

    def _fill(self, shape: Shape, aim: float) -> Shape:
        """Adds a channel to any of the groups where the curve steps over the budget.

        A step of one group can cost a tenth of the time; of another it costs less.
        """
        best, reached = shape, self._decide(shape, aim)
        full = self.full_shape.widths
        for chosen in itertools.product((0, 1), repeat=len(full)):
            more = dict(zip(full, chosen, strict=True))
            widths = {group: min(shape.widths[group] + more[group], full[group]) for group in full}
            wider = Shape(shape.iterations, widths)
            ratio = self._decide(wider, aim)
            if reached < ratio <= aim:
                best, reached = wider, ratio
        return best

    def _decide(self, shape: Shape, aim: float) -> float:
        """A shape's ratio; measured longer where it decides."""
        ratio = self.ratio(shape)["value"]
        if 0.9 * aim < ratio < 1.05 * aim:
            ratio = self.ratio(shape, final=True)["value"]
        self.console.print(f"    {shape.key} takes {ratio:.3f}", highlight=False)
        return ratio

    def psnr(self, split: str, network: keras.Model) -> list[float]:
        """PSNR per slice, as the recipe's evaluation computes it."""
        slices = self.job.samples(split)
        quality = image_quality(
            _magnitude(slices.targets), _magnitude(predict(network, slices.inputs))
        )
        return [float(value) for value in quality["psnr_db"]]

    def tune(self, network: keras.Model, folder: Path, *, epochs: int, rate: float) -> None:
        """Trains on the truth; every arm with the same optimizer, batches and order."""
        keras.utils.set_random_seed(self.seed + 2)
        batches = {}
        for split in ("train", "validation"):
            slices = self.job.samples(split)
            batches[split] = data.SliceDataset(
                slices.inputs,
                slices.targets,
                batch_size=1,
                shuffle_seed=self.seed if split == "train" else None,
            )
        fit_best(
            Supervised(network),
            batches["train"],
            batches["validation"],
            epochs=epochs,
            learning_rate=rate,
            checkpoint=folder / "best.weights.h5",
        )

    def keep_shape(self, folder: Path, shape: Shape, **notes: Any) -> None:
        """Notes a shape with its measured ratio."""
        ratio = self.ratio(shape, final=True)
        content = {"iterations": shape.iterations, "widths": shape.widths, "ratio": ratio, **notes}
        write_json_atomic(folder / "shape.json", content)

    def shape(self, piece: str) -> Shape:
        """The shape that an earlier piece noted."""
        content = self.job.json(piece, "shape")
        return Shape(content["iterations"], content["widths"])

    def finish(
        self,
        folder: Path,
        network: keras.Model,
        shape: Shape,
        *,
        epochs: int | None = None,
    ) -> None:
        """Tunes a network, scores it on the test slab and keeps both."""
        before = float(np.mean(self.psnr("validation", network)))
        epochs = self.settings.tuning_epochs if epochs is None else epochs
        self.tune(network, folder, epochs=epochs, rate=self.settings.tuning_rate)
        network.save(folder / "network.keras")
        result = {
            "iterations": shape.iterations,
            "widths": shape.widths,
            "parameters": pruning.count_parameters(network),
            "epochs": epochs,
            "validation_before_db": before,
            "validation_db": float(np.mean(self.psnr("validation", network))),
            "test_db": self.psnr("test", network),
        }
        write_json_atomic(folder / "result.json", result)
        self.console.print(
            f"  {shape.key}: test {np.mean(result['test_db']):.2f} dB, "
            f"validation {before:.2f} -> {result['validation_db']:.2f} dB",
            highlight=False,
        )


class Ratios:
    """Measured ratios per shape, on disk, valid under one fingerprint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fingerprint = latency.fingerprint()
        self._known: dict[str, dict[str, float]] = {}
        if path.exists():
            content = json.loads(path.read_text())
            if content["fingerprint"] == self._fingerprint:
                self._known = content["ratios"]

    def get(self, key: str) -> dict[str, float] | None:
        return self._known.get(key)

    def put(self, key: str, ratio: Mapping[str, float]) -> None:
        self._known[key] = dict(ratio)
        content = {"fingerprint": self._fingerprint, "ratios": self._known}
        write_json_atomic(self._path, content)


def scaled(profile: Sequence[float], full: Shape, minimum: int) -> Curve:
    """A curve along which all widths keep their proportions, until they are full.

    The groups take their steps one after another, so that the time changes little at each.

    Args:
        profile: The width of each group as a share of its full width, up to a common factor.
        full: The full shape.
        minimum: The smallest width.
    """
    reach = 1 / min(profile)  # the factor at which the last group is full

    def curve(position: float) -> Shape:
        widths = {}
        for index, (name, limit) in enumerate(full.widths.items()):
            turn = index / len(full.widths)
            width = math.floor(profile[index] * reach * position * limit + turn + 1e-9)
            widths[name] = min(max(width, minimum), limit)
        return Shape(full.iterations, widths)

    return curve


def global_l1(network: keras.Model, full: Shape, minimum: int) -> Curve:
    """Channels of all groups ranked together by their l1 norms; the position is what is kept."""
    total = sum(full.widths.values())
    least = minimum * len(full.widths)
    known: dict[int, Shape] = {}

    def curve(position: float) -> Shape:
        kept = round(least + position * (total - least))
        if kept == total:
            return full
        if kept not in known:
            plan = pruning.make_plan(
                network, target={"width": kept}, importance="group_l1", minimum_width=minimum
            )
            known[kept] = Shape(full.iterations, {name: plan.widths[name] for name in full.widths})
        return known[kept]

    return curve


def random_profiles(count: int, groups: int, seed: int) -> Iterator[list[float]]:
    """Proportions of widths that differ up to fourfold."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield [float(share) for share in generator.uniform(0.25, 1.0, groups)]


def _magnitude(image: Any) -> np.ndarray:
    return np.linalg.norm(keras.ops.convert_to_numpy(image), axis=-1)
