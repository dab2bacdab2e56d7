"""The run of a transfer: from a source task to pruned networks for a small target task."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import data, latency, pruning
from spade_keras.backend.batches import predict
from spade_keras.errors import SpadeError
from spade_keras.export import check_saved_models, export_model
from spade_keras.files import read_npz, write_bytes_atomic, write_json_atomic
from spade_keras.pipeline.progress import epochs_shown
from spade_keras.pipeline.steps import Stage, StageJob
from spade_keras.pruning import PruningPlan
from spade_keras.recipe import TransferRecipe
from spade_keras.report import transfer_table, write_transfer_report
from spade_keras.tasks import transfer

ARMS = {
    "original": "the transferred network",
    "basis": "components pruned",
    "channel": "channels pruned to the same size",
    "double": "channels, then components pruned",
    "scratch": "as large as the pruned one, from scratch",
}
"""The networks that a transfer compares, each made by a stage, and their descriptions."""
SHIPPED = ("basis", "double")

_DATA_LAYOUT = 1
"""Changes when the data stage writes other files for the same recipe."""
# Training from scratch takes this multiple of the transfer's epochs.
_SCRATCH = 3
_MOST_CHECKED = 256


@dataclass
class TransferJob(StageJob):
    """A run of a transfer; what its stages share."""

    recipe: TransferRecipe

    results = ("metrics.json", "report.html", "ranks.png")
    table = staticmethod(transfer_table)

    @cached_property
    def target(self) -> transfer.Tasks:
        """The samples of the target task: "train", "validation" and "test"."""
        return {name: self.samples(name) for name in ("train", "validation", "test")}

    @cached_property
    def taught(self) -> transfer.Tasks:
        """The target task, its training labels mixed with the original's answers."""
        settings = self.recipe.pruning
        if not settings.teacher_share:
            return self.target
        train = transfer.soft_labels(
            self.model("original"),
            self.target["train"],
            share=settings.teacher_share,
            temperature=settings.temperature,
        )
        return {**self.target, "train": train}

    @property
    def classes(self) -> int:
        """Number of target classes."""
        return len(self.recipe.data.target_classes)

    @property
    def component_options(self) -> dict[str, Any]:
        """The options of `transfer.prune_components`."""
        settings = self.recipe.pruning
        phases = zip(settings.shares, settings.patience, settings.learning_rates, strict=True)
        return {
            "allowed_loss": settings.allowed_loss,
            "stop_at": settings.stop_at,
            "phases": [transfer.PruningPhase(*phase) for phase in phases],
            "importance": settings.component_importance,
            "phase_epochs": settings.phase_epochs,
            "closing_epochs": settings.closing_epochs,
            "batch_size": self.recipe.training.batch_size,
        }

    def order(self) -> tuple[Stage, ...]:
        """The stages in order, each with the part of the recipe and the stages it depends on."""
        recipe = self.recipe
        common = {"seed": recipe.run.seed, "backend": keras.backend.backend()}
        training = {**common, "training": recipe.training, "network": recipe.network}
        pruned = {**training, "pruning": recipe.pruning}
        timing = {"fingerprint": latency.fingerprint(), "evaluation": recipe.evaluation}
        origin = {"weights": recipe.network.weights, "path": recipe.network.path}
        return (
            Stage("data", "source and target task", make_data,
                  {"task": recipe.run.task, "data": recipe.data, "seed": recipe.run.seed,
                   **origin, "layout": _DATA_LAYOUT}),
            Stage("source", "the network that is transferred", make_source, training, ("data",)),
            Stage("original", ARMS["original"], make_original, training, ("data", "source")),
            Stage("basis", ARMS["basis"], make_basis, pruned, ("data", "original")),
            Stage("channel", ARMS["channel"], make_channel, pruned, ("data", "original", "basis")),
            Stage("double", ARMS["double"], make_double, pruned, ("data", "original")),
            Stage("scratch", ARMS["scratch"], make_scratch,
                  {**training, "rivals": recipe.evaluation.rivals}, ("data", "basis")),
            Stage("evaluate", "on the test data, timed interleaved with the original", evaluate,
                  timing, ("data", *ARMS)),
            Stage("export", "SavedModels, checked and timed without Keras", export,
                  {**timing, "export": recipe.export}, ("data", "original", "basis", "double")),
        )  # fmt: skip

    def samples(self, name: str) -> transfer.LabeledSamples:
        """Loads inputs and classes that the data stage wrote."""
        arrays = read_npz(self.stages.folder / "data" / f"{name}.npz")
        return arrays["x"], arrays["y"]

    def fit(
        self, model: keras.Model, tasks: transfer.Tasks, epochs: int, label: str = "epoch"
    ) -> keras.Model:
        """Trains all weights of a network, with progress."""
        settings = self.recipe.training
        rate = settings.learning_rate or transfer.LEARNING_RATES[self.recipe.network.weights]
        with epochs_shown(self.console, label, epochs) as show:
            return transfer.fit(
                model,
                tasks["train"],
                tasks.get("validation"),
                epochs=epochs,
                learning_rate=rate,
                batch_size=settings.batch_size,
                callbacks=[show],
            )

    def report(self) -> dict[str, Any]:
        """Writes `metrics.json`, `report.html` and its picture to the run's folder."""
        metrics = _collect_metrics(self)
        write_transfer_report(self.recipe.run_folder, metrics)
        write_json_atomic(self.recipe.run_folder / "metrics.json", metrics)
        return metrics


def make_data(job: TransferJob, folder: Path) -> None:
    """Makes the samples of both tasks, and a note about them."""
    settings = job.recipe.data
    if settings.path is not None:
        x, y = data.load_labeled_arrays(Path(settings.path).expanduser())
        if x.ndim != 4:
            raise SpadeError(
                "`data.path` must hold pictures x of shape (samples, height, width, channels). "
                f"Received: data.path={settings.path}, x of shape {x.shape}"
            )
        x = transfer.scale_pictures(x, settings.size)
    else:
        x, y = transfer.load_pictures(settings.source, settings.size)
    if job.recipe.network.weights == "imagenet":
        x = transfer.prepare_for_imagenet(x)
    tasks = transfer.split_tasks(
        x,
        y,
        source_classes=settings.source_classes if job.recipe.network.learns_source else (),
        target_classes=settings.target_classes,
        train=settings.train_per_class,
        validation=settings.validation_per_class,
        seed=job.recipe.run.seed,
    )
    for name, (inputs, labels) in tasks.items():
        np.savez(folder / f"{name}.npz", x=inputs, y=labels)
        classes = len(np.unique(labels))
        job.say(f"{name}: {len(labels)} samples of {classes} classes")
    samples = {name: len(labels) for name, (_, labels) in tasks.items()}
    facts = {"note": _note(job), "samples": samples, "shape": x.shape[1:]}
    write_json_atomic(folder / "facts.json", facts)


def make_source(job: TransferJob, folder: Path) -> None:
    """Makes the network to transfer: trained on the source task, or elsewhere."""
    job.seed(1)
    settings = job.recipe.network
    shape = job.target["train"][0].shape[1:]
    if settings.path is not None:
        sample = job.target["train"][0][:1]
        source = transfer.load_network(settings.path, sample, job.classes)
    elif settings.weights == "imagenet":
        source = transfer.imagenet_network(settings.name, shape)
    else:
        classes = len(job.recipe.data.source_classes)
        try:
            source = transfer.make_network(settings.name, shape, settings.filters, classes=classes)
        except ValueError as error:
            raise SpadeError(f"The pictures of `data.path` are too small. {error}") from error
        epochs = job.recipe.training.source_epochs
        job.fit(source, {"train": job.samples("source")}, epochs, "epoch of the source task")
    source.save(folder / "network.keras")


def make_original(job: TransferJob, folder: Path) -> None:
    """Transfers the source network to the target task."""
    job.seed(2)
    seed = job.recipe.run.seed
    original = transfer.replace_head(job.model("source"), job.classes, seed=seed)
    job.fit(original, job.target, job.recipe.training.epochs).save(folder / "network.keras")


def make_basis(job: TransferJob, folder: Path) -> None:
    """Prunes components of the original."""
    job.seed(3)
    _prune_components(job, job.model("original"), folder)


def make_channel(job: TransferJob, folder: Path) -> None:
    """Prunes channels of the original to the size of the basis network."""
    job.seed(4)
    size = pruning.count_parameters(job.model("basis"))
    narrow, plan = _prune_channels(job, target={"parameters": size})
    narrow.save(folder / "network.keras")
    write_bytes_atomic(folder / "plan.json", plan.to_json().encode())


def make_double(job: TransferJob, folder: Path) -> None:
    """Prunes channels of the original, trains, and prunes components of the result."""
    job.seed(5)
    narrow, plan = _prune_channels(job, ratio=job.recipe.pruning.channel_ratio)
    narrow.save(folder / "channels.keras")
    _prune_components(job, narrow, folder, plan)


def make_scratch(job: TransferJob, folder: Path) -> None:
    """Trains a network as large as the basis network on the target task alone."""
    if not job.recipe.evaluation.rivals:
        return
    job.seed(6)
    size = pruning.count_parameters(job.model("basis"))
    kind, shape = job.recipe.network.name, job.target["train"][0].shape[1:]
    model = transfer.make_network_of_size(kind, shape, size, classes=job.classes)
    job.fit(model, job.target, _SCRATCH * job.recipe.training.epochs).save(folder / "network.keras")


def evaluate(job: TransferJob, folder: Path) -> None:
    """Scores every network on the test data, and times each interleaved with the original."""
    settings = job.recipe.evaluation
    original = job.model("original")
    options = {"batch_size": settings.batch_size, "pairs": settings.pairs}
    costs = {
        name: transfer.measure_cost(job.model(name), original, job.target, **options)
        for name in ARMS
        if name != "scratch" or settings.rivals
    }
    sample = job.target["test"][0][: settings.batch_size]
    content = {"networks": costs, "fingerprint": latency.fingerprint(sample)}
    write_json_atomic(folder / "evaluation.json", content)


def export(job: TransferJob, folder: Path) -> None:
    """Exports the pruned networks and plans; checks and times them in a process without Keras."""
    test = job.target["test"][0]
    batch = job.recipe.evaluation.batch_size
    inputs = latency.fill_batch(test[:_MOST_CHECKED], max(batch, min(len(test), _MOST_CHECKED)))
    expected = {}
    for name in ("original", *SHIPPED):
        network = job.model(name)
        export_model(network, folder / name, inputs[:1])
        expected[name] = predict(network, inputs, batch_size=batch)
    checks = {}
    for name in SHIPPED:
        stage = job.stages.folder / name
        shutil.copyfile(stage / "network.keras", folder / f"{name}.keras")
        shutil.copyfile(stage / "plan.json", folder / f"{name}_plan.json")
        pair = ("original", name)
        checks[name] = check_saved_models(
            {arm: folder / arm for arm in pair},
            inputs,
            {arm: expected[arm] for arm in pair},
            pairs=job.recipe.export.pairs,
            timing_batch=batch,
        ).as_dict()
    write_json_atomic(folder / "check.json", checks)


def _note(job: TransferJob) -> str:
    settings = job.recipe.data
    name = settings.source if settings.path is None else Path(settings.path).name
    target = ", ".join(map(str, settings.target_classes))
    learned = "A network that was trained elsewhere"
    if job.recipe.network.weights == "imagenet":
        learned = "A network trained on ImageNet"
    elif job.recipe.network.learns_source:
        source = ", ".join(map(str, settings.source_classes))
        learned = f"A network that learned the classes {source} of {name}"
    return (
        f"{learned} is transferred to the classes {target} of {name}, with "
        f"{settings.train_per_class} samples per class to train on and "
        f"{settings.validation_per_class} to choose by; all others test."
    )


def _prune_channels(job: TransferJob, **amount: Any) -> tuple[keras.Model, PruningPlan]:
    """Removes channels of the original by `make_plan`, and trains all remaining weights."""
    original = job.model("original")
    plan = pruning.make_plan(original, importance=job.recipe.pruning.importance, **amount)
    narrow = pruning.rebuild(original, plan)
    return job.fit(narrow, job.taught, job.recipe.training.epochs), plan


def _prune_components(
    job: TransferJob, model: keras.Model, folder: Path, *before: PruningPlan
) -> None:
    """Prunes components and saves network, plan and history; `before` made the model."""
    options = job.component_options
    most = len(options["phases"]) * options["phase_epochs"] + options["closing_epochs"]
    with epochs_shown(job.console, "epoch, of at most", most) as show:
        pruned = transfer.prune_components(model, job.taught, **options, callbacks=[show])
    tuning_epochs = job.recipe.pruning.tuning_epochs
    if tuning_epochs:
        job.fit(pruned.model, job.taught, tuning_epochs, "epoch of all weights")
    pruned.model.save(folder / "network.keras")
    plan = reduce(PruningPlan.then, (*before, pruned.plan))
    write_bytes_atomic(folder / "plan.json", plan.to_json().encode())
    rounds = [[asdict(entry) for entry in phase] for phase in pruned.rounds]
    write_json_atomic(folder / "rounds.json", rounds)


def _collect_metrics(job: TransferJob) -> dict[str, Any]:
    """Gathers what the stages measured: times in milliseconds; ratios are network / original."""
    recipe, facts = job.recipe, job.json("data", "facts")
    evaluation, checks = job.json("evaluate", "evaluation"), job.json("export", "check")
    return {
        "task": recipe.run.task,
        "networks": evaluation["networks"],
        "ranks": _rank_rows(job),
        "rounds": {name: job.json(name, "rounds") for name in SHIPPED},
        "samples": facts["samples"],
        "batch_size": recipe.evaluation.batch_size,
        "allowed_loss": recipe.pruning.allowed_loss,
        "tuning_epochs": recipe.pruning.tuning_epochs,
        "teacher_share": recipe.pruning.teacher_share,
        "export": {
            name: {
                "format": recipe.export.format,
                "ratio": check["ratio"],
                "max_abs_error": max(check["max_abs_error"].values()),
                "relative_error": max(check["relative_error"].values()),
            }
            for name, check in checks.items()
        },
        "data_note": facts["note"],
        "seconds": job.stages.seconds(),
        "fingerprint": evaluation["fingerprint"],
    }


def _rank_rows(job: TransferJob) -> list[dict[str, Any]]:
    """Components of every layer: all, and those that stay in either pruned network."""
    kept: dict[str, dict[str, Any]] = {}
    for arm in SHIPPED:
        plan = PruningPlan.from_json((job.stages.folder / arm / "plan.json").read_text())
        ranks: Any = plan.steps[-1]  # either network ends with components
        kept[arm] = {layer.name: layer for layer in ranks.layers}
    rows = []
    for name, layer in kept["basis"].items():
        row: dict[str, Any] = {"layer": name, "components": layer.rank}
        for arm in SHIPPED:
            found = kept[arm].get(name)
            # A layer of a single channel has nothing to decompose.
            row[arm] = len(found.kept) if found else 1
            row[f"{arm}_of"] = found.rank if found else 1
            row[f"{arm}_form"] = found.form if found else "one"
        rows.append(row)
    return rows
