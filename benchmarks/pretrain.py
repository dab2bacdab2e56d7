"""Trains the networks that ship as `[network] weights`, and writes down how.

    make pretrained                              # all quickstarts, about an hour on two cores
    python benchmarks/pretrain.py mri_unrolled_quickstart

For each recipe: the full network from scratch, and a rival of half its widths for the same steps.
Writes `<network>-<data>.keras` into spade_keras/weights and, beside it, a JSON that says where it
comes from: recipe, commit, seed, steps, seconds, scores, versions.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import tempfile
import time
from pathlib import Path

import keras

from spade_keras import latency, tasks, weights
from spade_keras.backend.batches import predict
from spade_keras.data import SliceDataset
from spade_keras.files import save_model, write_json_atomic
from spade_keras.pipeline.training import fit_best
from spade_keras.recipe import load_recipe

EPOCHS = {"mri_unrolled_quickstart": 60, "mri_deq_quickstart": 40, "sr_usrnet_quickstart": 80}
# The keys of a recipe that give the weights their shapes, and those that choose what is trained on.
SHAPES = "name iterations hidden prior.name prior.filters prior.kernel_size"
SPLITS = {
    "mni152": "data.source data.validation_slices data.test_slices data.gap_slices",
    "photographs": "data.source data.channels data.validation_images data.test_images run.seed",
}


def batches(task, folder, split, recipe):
    samples = task.load(folder, split)
    return SliceDataset(
        samples.inputs,
        samples.targets,
        batch_size=min(recipe.training.batch_size, len(samples)),
        shuffle_seed=recipe.run.seed if split == "train" else None,
    )


def train(recipe, folder):
    """Trains the network of a recipe; returns it and the JSON's entry of it."""
    keras.utils.set_random_seed(recipe.run.seed + 1)
    task = tasks.get(recipe)
    network = task.new_network(task.load(folder, "train"))
    held_out = batches(task, folder, "validation", recipe)
    started = time.perf_counter()
    show = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: print(
            f"epoch {epoch + 1} of {recipe.training.epochs}, {time.perf_counter() - started:.0f} s:"
            f" loss {logs['loss']:.3e}, validation {logs['val_loss']:.3e}",
            flush=True,
        )
    )
    history = fit_best(
        network,
        batches(task, folder, "train", recipe),
        held_out,
        epochs=recipe.training.epochs,
        learning_rate=recipe.training.learning_rate,
        checkpoint=folder / "best.weights.h5",
        clip_norm=task.clip_norm,
        compile_options=task.training_options(network, held_out[0][0]),
        callbacks=(show,),
    )
    seconds = time.perf_counter() - started
    test = task.load(folder, "test")
    return network, {
        "filters": list(recipe.network.prior.filters),
        "epochs": recipe.training.epochs,
        "steps": recipe.training.epochs * len(batches(task, folder, "train", recipe)),
        "seconds": round(seconds, 1),
        "scores": task.scores(test, predict(network, test.inputs)),
        "validation_loss": history["val_loss"],
    }


def pretrain(name, epochs, half):
    recipe = load_recipe(name, [f"training.epochs={epochs}", "network.weights=none"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tasks.get(recipe).make_data(folder, print)
        network, full = train(recipe, folder)
        path = weights.FOLDER / f"{recipe.network.name}-{recipe.data.source}.keras"
        # As made again: the trained one would save its optimizer too.
        plain = type(network).from_config(network.get_config())
        plain.set_weights(network.get_weights())
        save_model(plain, path)
        content = {
            "made_by": f"python benchmarks/pretrain.py {name}",
            "recipe": name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "commit": commit(),
            "seed": recipe.run.seed,
            "training": recipe.training.model_dump(mode="json"),
            "data": recipe.data.model_dump(mode="json"),
            "requires": requirements(recipe),
            "convention": tasks.get(recipe).convention,
            "full": full,
            "fingerprint": latency.fingerprint(),
        }
        write_json_atomic(path.with_suffix(".json"), content)
        print(name, full["scores"], full["seconds"], flush=True)
        if half:
            widths = [width // 2 for width in recipe.network.prior.filters]
            slim = load_recipe(
                name,
                [
                    f"training.epochs={epochs}",
                    f"network.prior.filters={widths}",
                    "network.weights=none",
                ],
            )
            _, content["half_width_from_scratch"] = train(slim, folder)
            write_json_atomic(path.with_suffix(".json"), content)
            print(name, content["half_width_from_scratch"]["scores"], flush=True)


def requirements(recipe):
    """Returns key -> value of what a recipe must have to start from the weights."""
    keys = [f"network.{key}" for key in SHAPES.split()] + SPLITS[recipe.data.source].split()
    plain = recipe.model_dump(mode="json")
    required = {}
    for key in keys:
        table = plain
        for part in key.split("."):
            table = table.get(part) if isinstance(table, dict) else None
        if table is not None:
            required[key] = table
    return required


def commit():
    return subprocess.check_output(
        ["git", "rev-parse", "HEAD"], text=True, cwd=weights.FOLDER
    ).strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=list(EPOCHS))
    parser.add_argument("--epochs", type=int, help="instead of those of the table")
    parser.add_argument("--no-half", action="store_true", help="leave the rivals out")
    arguments = parser.parse_args()
    for name in arguments.recipes:
        pretrain(name, arguments.epochs or EPOCHS[name], not arguments.no_half)


if __name__ == "__main__":
    main()
