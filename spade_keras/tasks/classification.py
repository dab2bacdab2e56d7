"""Classification: one class per sample."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import data
from spade_keras.backend.batches import predict
from spade_keras.errors import SpadeError
from spade_keras.finetuning import cross_entropy, divergence
from spade_keras.metrics import CLASS_CONVENTION, are_probabilities, class_quality
from spade_keras.registry import CLASSIFIERS
from spade_keras.tasks.classifiers import load_classifier
from spade_keras.tasks.task import SPLITS, DataFacts, Samples, Task, check_some_left


class Classification(Task):
    """Any classifier, bundled or from a `.keras` file, whether it gives logits or probabilities."""

    convention_name = "classes"
    convention = CLASS_CONVENTION
    columns = {"accuracy": "accuracy", "cross_entropy": "cross-entropy"}  # noqa: RUF012
    clip_norm = 1.0

    def _note(self) -> str:
        settings = self.recipe.data
        if settings.path is not None:
            return f"Samples of {Path(settings.path).name}, split at random by the seed of the run."
        return (
            "Handwritten digits of scikit-learn (UCI, 8 x 8 pixels, enlarged), split at random by "
            "the seed of the run: the same writers may be in training and test."
        )

    def make_data(self, folder: Path, say: Callable[[str], None]) -> DataFacts:
        """Splits the samples at random."""
        settings = self.recipe.data
        if settings.path is not None:
            x, y = data.load_labeled_arrays(Path(settings.path).expanduser())
        else:
            x, y = data.LABELED_SOURCES[settings.source](settings.size)
        check_some_left(settings, "samples", len(y), f"samples ({len(y)})")
        parts = data.random_split(
            len(y),
            validation=settings.validation_samples,
            test=settings.test_samples,
            seed=self.recipe.run.seed,
        )
        for split, chosen in zip(SPLITS, parts, strict=True):
            np.savez(folder / f"{split}.npz", x=x[chosen], y=y[chosen])
            say(f"{split}: {len(chosen)} samples of {len(np.unique(y[chosen]))} classes")
        return DataFacts(self._note())

    def load(self, folder: Path, split: str) -> Samples:
        """Reads the inputs and labels of a split."""
        with np.load(folder / f"{split}.npz") as arrays:
            return Samples(arrays["x"], arrays["y"])

    def new_network(self, train: Samples) -> keras.Model:
        """Makes the bundled network, or loads the one of `network.path` with its weights."""
        settings = self.recipe.network
        classes = int(self._labels(train).max()) + 1
        if settings.path is None:
            widths = {"filters": settings.filters, "kernel_size": settings.kernel_size}
            return CLASSIFIERS[settings.name](train.inputs.shape[1:], classes, **widths)
        network, shape = load_classifier(settings.path, train.inputs[:1])
        if len(shape) != 2 or shape[1] < classes:
            raise SpadeError(
                f"`network.path` must hold a classifier of at least {classes} classes, the largest "
                f"label being {classes - 1}. Received: network.path={settings.path}, with outputs "
                f"of shape {shape}"
            )
        return network

    def training_options(self, network: keras.Model, inputs: Any) -> dict[str, Any]:
        """Returns the cross-entropy with the labels, and the accuracy as a metric."""
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=_logits(network, inputs))
        return {"loss": loss, "metrics": ["accuracy"]}

    def distance(
        self, strategy: str, network: keras.Model, inputs: Any
    ) -> Callable[[Any, Any], Any]:
        """Returns the cross-entropy with labels, or the divergence from a teacher's outputs."""
        kind = divergence if strategy == "school" else cross_entropy
        return functools.partial(kind, from_logits=_logits(network, inputs))

    def scores(self, samples: Samples, outputs: np.ndarray) -> dict[str, float]:
        """Returns accuracy and cross-entropy."""
        return class_quality(self._labels(samples), outputs).as_dict()

    def facts(self, test: Samples) -> dict[str, Any]:
        """Returns the number of test samples and of their classes."""
        return {"test_samples": len(test), "classes": len(np.unique(self._labels(test)))}

    def _labels(self, samples: Samples) -> np.ndarray:
        return np.asarray(samples.targets)


def _logits(network: keras.Model, inputs: Any) -> bool:
    """Whether a network gives logits: outputs that are no probabilities count as logits."""
    return not are_probabilities(predict(network, inputs[:8]))
