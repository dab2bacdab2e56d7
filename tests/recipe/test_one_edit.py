"""One registration adds an operator, network, prior, mask and so on, its recipe name included."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from rich.console import Console

from spade_keras import (
    data,
    finetuning,
    latency,
    networks,
    operators,
    pipeline,
    pruning,
    registry,
    search,
)
from spade_keras.export import check_saved_models
from spade_keras.recipe import load_recipe
from tests.parameter_clock import ParameterClock, comparison

TABLES = ("OPERATORS", "NETWORKS", "PRIORS", "MASKS", "SOURCES", "IMPORTANCES", "SEEDS")

MODULE = '''
"""A user's module: one decorator each."""

import keras
import numpy as np

from spade_keras import finetuning, networks, operators, pruning
from spade_keras.metrics import SLAB_CONVENTION, image_quality
from spade_keras.recipe.imaging import Measurements
from spade_keras.registry import (
    IMPORTANCES, MASKS, NETWORKS, OPERATORS, PRIORS, SEEDS, SOURCES, STRATEGIES
)
from spade_keras.tasks.sources import Source
from spade_keras.tasks.task import SPLITS, DataFacts, Samples


@OPERATORS.register("NAME")
@keras.saving.register_keras_serializable(package="NAME")
class Halving(operators.LinearOperator):
    parameter_names = ("mask",)

    def forward(self, x, mask):
        return 0.5 * keras.ops.cast(x, "float32") * mask[..., None]

    def adjoint(self, y, mask):
        return self.forward(y, mask)


@NETWORKS.register("NAME")
@keras.saving.register_keras_serializable(package="NAME")
class Averaging(networks.UnrolledPGD):
    def __init__(self, operator, prior, iterations: int = 2, *, first: float = 1.0, **kwargs):
        super().__init__(operator, prior, iterations, initial_step=first, **kwargs)

    def get_config(self):
        config = super().get_config()
        config["first"] = config.pop("initial_step")
        return config


@PRIORS.register("NAME")
def narrow(filters, *, channels: int = 2, twice: bool = False, name: str = "narrow"):
    return networks.priors.dncnn(filters=[*filters, *filters] if twice else filters,
                                 channels=channels, name=name)


@MASKS.register("NAME")
def half(shape, *, acceleration, acs_lines, seed=0):
    return np.arange(shape[1])[None] % 2 < 1


@IMPORTANCES.register("NAME")
class Backwards(pruning.importance.Importance):
    def __call__(self, group, weights):
        return np.arange(group.width, 0.0, -1)


@SEEDS.register("NAME")
def mine(proposer):
    return SEEDS["uniform"](proposer)


@STRATEGIES.register("NAME")
class Shrinking(finetuning.FineTuner):
    def strategy_loss(self, inputs, target, prediction, training):
        return keras.ops.mean(prediction**2)


@SOURCES.register("NAME")
class Ramps(Source):
    convention_name, convention = "ramps", SLAB_CONVENTION

    class section(Measurements):
        mask: str = "NAME"
        slices: int = 4

    def make(self, folder, say):
        rows = np.random.default_rng(self.seed).random((self.settings.slices, 16, 16, 2))
        for split in SPLITS:
            np.savez(folder / f"{split}.npz", truth=rows.astype("float32"))
        return DataFacts("noise")

    def load(self, folder, split):
        with np.load(folder / f"{split}.npz") as arrays:
            truth = arrays["truth"]
        mask = MASKS[self.settings.mask](truth.shape[1:3], acceleration=2, acs_lines=0)
        mask = np.broadcast_to(mask.astype("float32"), (len(truth), 16, 16))
        measured = keras.ops.convert_to_numpy(self.operator(None).forward(truth, mask))
        return Samples({"measurements": measured, "mask": mask}, truth)

    def operator(self, samples):
        return OPERATORS.make("NAME")

    def scores(self, samples, outputs):
        found = image_quality(*(np.linalg.norm(x, axis=-1) for x in (samples.targets, outputs)))
        return found.as_dict()
'''
RECIPE = """
[run]
name = "one_edit"
imports = ["NAME_module"]
[data]
source = "NAME"
mask = "NAME"
[network]
name = "NAME"
iterations = 2
first = 0.5
[network.prior]
name = "NAME"
filters = [16]
twice = true
[training]
epochs = 1
[pruning]
importance = "NAME"
[search]
latency_budget = 0.9
safety_margin = 0.0
trials = 2
staircase = false
width_multiple = 4
seeds = ["NAME"]
pairs = 5
finalists = 1
[finetuning]
strategy = "NAME"
epochs = 1
[evaluation]
rivals = false
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the user's module and recipe; forgets what the module registers."""
    (tmp_path / "user_edit_module.py").write_text(MODULE.replace("NAME", "user_edit"))
    (tmp_path / "mine.toml").write_text(RECIPE.replace("NAME", "user_edit"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("user_edit_module", None)
    for table in (*TABLES, "STRATEGIES"):
        getattr(registry, table)._entries.pop("user_edit", None)


@pytest.mark.once
def test_the_command_line_knows_what_a_recipe_imports(folder):
    code = "import sys; from spade_keras.cli import main; sys.exit(main(['validate', 'mine.toml']))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr


@pytest.mark.once
def test_every_table_holds_the_registered_options(folder):
    recipe = load_recipe("mine.toml")
    assert recipe.data.slices == 4
    assert recipe.network.first == 0.5
    assert recipe.network.prior.twice
    assert recipe.search.seeds == (recipe.finetuning.strategy,) == ("user_edit",)


@pytest.mark.once
@pytest.mark.parametrize(
    ("home", "table"),
    [
        (operators, "OPERATORS"),
        (networks, "NETWORKS"),
        (networks.priors, "PRIORS"),
        (data, "MASKS"),
        (finetuning, "STRATEGIES"),
        (pruning, "IMPORTANCES"),
    ],
)
def test_sub_packages_show_the_same_table(home, table):
    assert getattr(home, table) is getattr(registry, table)


@pytest.mark.once
def test_a_run_uses_what_a_recipe_imports(folder, monkeypatch):
    clock = ParameterClock()
    monkeypatch.setattr("spade_keras.search.interleaved_timer", clock.timer)
    monkeypatch.setattr(latency, "compare_in_fresh_process", clock.compare)
    monkeypatch.setattr(latency, "compare", lambda a, b, inputs, **_: clock.timer(a, inputs)(b))
    monkeypatch.setattr("spade_keras.pipeline.closing.check_saved_models", exports_check)
    settings = load_recipe("mine.toml")
    metrics = pipeline.run(settings, Console(quiet=True))
    assert all("user_edit_module" in call["imports"] for call in clock.compared)
    assert clock.compared
    assert metrics["finetuning"]["strategy"] == "user_edit"
    assert metrics["search"]["quality"] == search.TeacherAgreement.name
    slim = keras.saving.load_model(settings.run_folder / "finetune/network.keras", compile=False)
    assert type(slim).__name__ == "Averaging"
    assert slim.initial_step == 0.5
    assert type(slim.operator).__name__ == "Halving"
    kept = slim.priors["prior"].get_layer("conv_0").kernel
    full = keras.saving.load_model(settings.run_folder / "train/network.keras", compile=False)
    assert kept.shape[-1] < full.priors["prior"].get_layer("conv_0").kernel.shape[-1] == 16
    assert np.isfinite(kept).all()


def exports_check(models, inputs, expected, *, pairs, **options):
    """Checks exports as it is done in a run; their times are those of the parameter clock."""
    report = check_saved_models(models, inputs, expected, pairs=pairs, **options)
    clocked = comparison(0.5)
    return replace(report, latency={"full": clocked.a, "slim": clocked.b}, ratio=clocked.ratio)
