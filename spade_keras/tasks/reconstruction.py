"""Reconstruction of images from measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.finetuning import mean_squared_error
from spade_keras.metrics import PSNR
from spade_keras.networks import DeepEquilibrium
from spade_keras.operators.complex_pair import magnitude
from spade_keras.tasks.reconstruction_networks import make_network
from spade_keras.tasks.sources import SOURCES
from spade_keras.tasks.task import DataFacts, Samples, Task

_MOST_EQUILIBRIA = 16


class Reconstruction(Task):
    """Images from the measurements of a source, by a network with a learned prior."""

    # A just pruned network and a batch of one slice give gradients of very different lengths; cut
    # to this one (for images scaled to [0, 1]) they allow a learning rate several times higher.
    clip_norm = 0.01
    imports = ("spade_keras.networks",)

    def __init__(self, recipe: Any) -> None:
        super().__init__(recipe)
        self.source = SOURCES[recipe.data.source](recipe.data, recipe.run.seed)
        self.convention_name = self.source.convention_name
        self.convention = self.source.convention
        self.columns = self.source.columns

    def make_data(self, folder: Path, say: Callable[[str], None]) -> DataFacts:
        """Makes or finds the three splits of the source."""
        return self.source.make(folder, say)

    def load(self, folder: Path, split: str) -> Samples:
        """Reads the measurements of a split, and their true images where there are any."""
        return self.source.load(folder, split)

    def new_network(self, train: Samples) -> keras.Model:
        """Makes the network and its priors with new weights."""
        return make_network(self.recipe.network, self.source.operator(train), self.source.channels)

    def training_options(self, network: keras.Model, inputs: Any) -> dict[str, Any]:
        """Returns the mean squared error, and the PSNR as a metric."""
        complex_images = getattr(self.recipe.network, "output", "image") == "image"
        loss = image_distance if self.source.magnitudes and complex_images else "mse"
        return {"loss": loss, "metrics": [PSNR()]}

    def distance(
        self, strategy: str, network: keras.Model, inputs: Any
    ) -> Callable[[Any, Any], Any]:
        """Returns the mean squared error."""
        return image_distance

    def scores(self, samples: Samples, outputs: np.ndarray) -> dict[str, Any]:
        """Returns the scores of the source, each with its standard deviation."""
        return self.source.scores(samples, outputs)

    def baselines(self, samples: Samples) -> dict[str, np.ndarray]:
        """Returns the source's baseline images, which need no network."""
        return self.source.baselines(samples)

    def timed(self, network: keras.Model) -> keras.Model:
        """Returns the equilibrium network truncated to its reference iteration count."""
        if not isinstance(network, DeepEquilibrium):
            return network
        return network.with_iterations(network.iterations)

    def network_facts(self, network: keras.Model, samples: Samples) -> dict[str, Any]:
        """Returns how well the equilibria of the first samples were solved."""
        if not isinstance(network, DeepEquilibrium):
            return {}
        return network.report(samples.take(0, _MOST_EQUILIBRIA).inputs).as_dict()

    def panel(self, samples: Samples, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns pictures of the middle sample."""
        middle = len(samples) // 2
        images = dict(outputs)
        if samples.targets is not None:
            images = {"truth": samples.targets, **images}
        return {name: self.source.picture(image[middle]) for name, image in images.items()}

    def facts(self, test: Samples) -> dict[str, Any]:
        """Returns the facts of the source."""
        return self.source.facts(test)


@keras.saving.register_keras_serializable(package="spade_keras")
def image_distance(y_true: Any, y_pred: Any) -> Any:
    """Mean squared error `(batch, height, width, channels)`; of magnitudes for one true channel."""
    if y_pred.shape[-1] == 2 and y_true.shape[-1] == 1:
        y_pred = magnitude(y_pred)[..., None]
    return mean_squared_error(y_true, y_pred)
