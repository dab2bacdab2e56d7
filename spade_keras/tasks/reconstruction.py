"""Reconstruction of images from simulated measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import data, search
from spade_keras.finetuning import mean_squared_error
from spade_keras.metrics import CONVENTION, PSNR, image_quality
from spade_keras.networks import NETWORKS, priors
from spade_keras.operators import CartesianMRI
from spade_keras.tasks.task import SPLITS, Samples, Task


class Reconstruction(Task):
    """Multi-coil MRI of a brain template, reconstructed by a network with a learned prior."""

    convention = CONVENTION
    data_note = (
        "MNI152 T1 template: one image averaged from many brains, smoother than any patient's. "
        "Training, validation and test are slabs of that one volume with gaps between them, so "
        "the figures show generalization along one brain, not across subjects. Coils, phase and "
        "noise are simulated, and the coil maps are known exactly."
    )
    columns = {"psnr_db": "PSNR / dB", "ssim": "SSIM", "nmse": "NMSE"}  # noqa: RUF012
    # A just pruned network and a batch of one slice give gradients of very different lengths; cut
    # to this one (for images scaled to [0, 1]) they allow a learning rate several times higher.
    clip_norm = 0.01
    imports = ("spade_keras.networks",)

    def make_data(self, folder: Path, say: Callable[[str], None]) -> None:
        """Simulates the acquisition of three disjoint slabs of the template."""
        settings = self.recipe.data
        volume = data.load_brain_template(settings.height, settings.width)
        slabs = data.slab_split(
            len(volume),
            validation=settings.validation_slices,
            test=settings.test_slices,
            gap=settings.gap_slices,
        )
        for index, split in enumerate(SPLITS):
            slices = data.simulate_multicoil(
                volume[getattr(slabs, split)],
                coils=settings.coils,
                acceleration=settings.acceleration,
                acs_lines=settings.acs_lines,
                noise_std=settings.noise_std,
                seed=len(SPLITS) * self.recipe.run.seed + index,
            )
            slices.save(str(folder / f"{split}.npz"))
            say(f"{split}: {len(slices)} slices, true acceleration {slices.true_acceleration:.2f}")

    def load(self, folder: Path, split: str) -> Samples:
        """Reads the measurements and true images of a slab."""
        slices = data.MulticoilSlices.load(str(folder / f"{split}.npz"))
        return Samples(slices.inputs, slices.truth)

    def new_network(self, train: Samples) -> keras.Model:
        """Makes the network and its prior with new weights."""
        settings = self.recipe.network
        prior = priors.get(**settings.prior.model_dump())
        return NETWORKS[settings.name](CartesianMRI(), prior, iterations=settings.iterations)

    def training_options(self, network: keras.Model, inputs: Any) -> dict[str, Any]:
        """Returns the mean squared error, and the PSNR as a metric."""
        return {"loss": "mse", "metrics": [PSNR()]}

    def distance(
        self, strategy: str, network: keras.Model, inputs: Any
    ) -> Callable[[Any, Any], Any]:
        """Returns the mean squared error, whatever images are compared."""
        return mean_squared_error

    def quality(
        self,
        strategy: str,
        inputs: Any,
        *,
        targets: np.ndarray | None = None,
        teacher: keras.Model | None = None,
    ) -> search.Quality:
        """Returns the PSNR against truth or teacher, or the held-out self-supervised loss."""
        return search.strategy_quality(strategy, inputs, targets=targets, teacher=teacher)

    def scores(self, truth: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Returns PSNR, SSIM and NMSE of the magnitudes, each with its standard deviation."""
        return image_quality(_magnitude(truth), _magnitude(outputs)).as_dict()

    def baselines(self, samples: Samples) -> dict[str, np.ndarray]:
        """Returns the zero-filled reconstructions."""
        operator = CartesianMRI()
        parameters = operator.parameters(samples.inputs)
        images = operator.adjoint(samples.inputs["measurements"], **parameters)
        return {"zero_filled": keras.ops.convert_to_numpy(images)}

    def panel(self, samples: Samples, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the magnitudes of the middle slice, turned so that the front is up."""
        middle = len(samples) // 2
        images = {"truth": samples.truth, **outputs}
        return {name: np.rot90(_magnitude(image[middle])) for name, image in images.items()}

    def facts(self, test: Samples) -> dict[str, Any]:
        """Returns the true acceleration of the test slab."""
        mask = test.inputs["mask"]
        return {"true_acceleration": float(mask.size / mask.sum())}


def _magnitude(image: np.ndarray) -> np.ndarray:
    return np.linalg.norm(image, axis=-1)
