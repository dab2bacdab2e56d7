"""fastMRI volumes, or small simulated ones in their layout."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import data
from spade_keras.errors import SpadeError
from spade_keras.files import write_json_atomic
from spade_keras.metrics import evaluate, get_convention
from spade_keras.operators import CartesianMRI, LinearOperator, SingleCoilMRI
from spade_keras.tasks.sources.source import Source
from spade_keras.tasks.task import SPLITS, DataFacts, Samples

_MADE_NOTE = (
    "Files in the layout of fastMRI, made of the MNI152 T1 template: one image averaged from many "
    "brains, smoother than any patient's. The volumes are slabs of that one brain with coils, "
    "phase and noise of their own, so the figures show how the steps work, not how well a network "
    "does on patients."
)


class FastMRI(Source):
    """Slices of many volumes, read on demand; no patient is in two splits."""

    magnitudes = True
    convention_name = "fastmri"
    convention = get_convention("fastmri").description

    def make(self, folder: Path, say: Callable[[str], None]) -> DataFacts:
        """Finds the volumes, or makes some, and lists those of each split."""
        settings = self.settings
        made = settings.path is None
        if made:
            self._make_volumes(folder / "volumes")
        path = folder / "volumes" if made else Path(settings.path).expanduser()
        opened = self._open(path, folder, skip_bad=settings.skip_bad)
        held_out = settings.validation_volumes + settings.test_volumes
        patients = {volume.patient for volume in opened.volumes}
        if len(patients) <= held_out:
            raise SpadeError(
                "`data.validation_volumes` + `data.test_volumes`, which count patients, must be "
                f"below the number of patients ({len(patients)} in {len(opened.volumes)} volumes), "
                "so that some are left to train on. Received: "
                f"data.validation_volumes={settings.validation_volumes}, "
                f"data.test_volumes={settings.test_volumes}"
            )
        parts = opened.split(
            validation=settings.validation_volumes, test=settings.test_volumes, seed=self.seed
        )
        files = {}
        for split, part in zip(SPLITS, parts, strict=True):
            names = [volume.file.resolve() for volume in part.volumes]
            # The folder moves when the stage is finished.
            files[split] = [str(n.relative_to(folder.resolve())) if made else str(n) for n in names]
            say(
                f"{split}: {len(part)} slices of {len(part.volumes)} volumes, "
                f"true acceleration {part.true_acceleration:.2f}"
            )
        write_json_atomic(folder / "files.json", files)
        return DataFacts(_MADE_NOTE if made else self._note(opened), opened.skipped)

    def load(self, folder: Path, split: str) -> Samples:
        """Opens the volumes of a split."""
        files = json.loads((folder / "files.json").read_text())[split]
        opened = self._open([folder / file for file in files], folder)
        return Samples(opened.inputs, opened.targets, volumes=opened.volume_index)

    def operator(self, samples: Samples) -> LinearOperator:
        """Returns the forward model, of one coil or several."""
        return SingleCoilMRI() if samples.inputs["measurements"].ndim == 4 else CartesianMRI()

    def scores(self, samples: Samples, outputs: np.ndarray) -> dict[str, Any]:
        """Returns PSNR, SSIM and NMSE of magnitudes, each per volume."""
        volumes = None if samples.volumes is None else samples.volumes.tolist()
        return evaluate(
            [*np.asarray(samples.truth)], [*outputs], convention="fastmri", volumes=volumes
        ).as_dict()

    def baselines(self, samples: Samples) -> dict[str, np.ndarray]:
        """Returns the root of the sum of squares over the coils of the zero-filled images."""
        images = []
        for index in range(len(samples)):
            inputs = samples.take(index, 1).inputs
            y = np.asarray(inputs["measurements"])
            single = y.ndim == 4
            coils = y if single else y[0]
            mask = np.ones((len(coils), 1, y.shape[-2]), "float32")
            image = keras.ops.convert_to_numpy(SingleCoilMRI().adjoint(coils, mask=mask))
            images.append(np.sqrt((image**2).sum(axis=(0, -1)))[None, ..., None])
        return {"zero_filled": np.concatenate(images)}

    def _open(
        self, files: Path | list[Path], folder: Path, *, skip_bad: bool = False
    ) -> data.FastMRIData:
        settings = self.settings
        maps = None
        if settings.coil_maps == "espirit":
            maps = functools.partial(data.espirit_maps, cache_folder=folder / "coil_maps")
        return data.open_fastmri(
            files,
            mask=data.get_mask(
                settings.mask, acceleration=settings.acceleration, acs_lines=settings.acs_lines
            ),
            coil_maps=maps,
            seed=self.seed,
            skip_bad=skip_bad,
        )

    def _make_volumes(self, folder: Path) -> None:
        settings = self.settings
        template = data.load_brain_template(settings.height, settings.width)
        folder.mkdir()
        starts = np.linspace(0, len(template) - settings.slices, settings.volumes).round()
        for index, start in enumerate(starts.astype(int)):
            data.write_fastmri_like(
                folder / f"volume_{index}.h5",
                template[start : start + settings.slices],
                layout=data.FastMRILayout(coils=settings.coils, noise_std=settings.noise_std),
                seed=settings.volumes * self.seed + index,
            )

    def _note(self, opened: data.FastMRIData) -> str:
        return (
            f"{len(opened.volumes)} volumes of {Path(self.settings.path).name}, split at random "
            "by patient. Retrospectively undersampled, unless the files are already."
        )
