"""Measured k-space without true images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from spade_keras import data
from spade_keras.errors import SpadeError
from spade_keras.finetuning import split_kspace
from spade_keras.finetuning.splitting import HELD_OUT, held_out_measurements
from spade_keras.operators import LinearOperator
from spade_keras.tasks.sources import Source
from spade_keras.tasks.task import SPLITS, DataFacts, Samples

_SCAN = "scan.npy"
_REPEATS_OF_ONE = 32


class KSpace(Source):
    """Slices of a scan; images are judged by samples that no network gets.

    In every slice two disjoint sets of sampled points are held out: one to select by, one to report
    on. The networks see the rest, in training too. A scan of one slice is all three splits.
    """

    convention_name = "held-out k-space"
    convention = (
        "no true image is known: images are measured again, where samples were taken but given to "
        "no network (held-out) and where they were given; per slice, then mean and standard "
        "deviation over slices; NMSE = ||error||^2 / ||samples||^2, noise included; SNR = "
        "-10 log10(NMSE)"
    )
    columns = {  # noqa: RUF012
        "kspace_snr_db": "held-out SNR / dB",
        "kspace_nmse": "held-out NMSE",
        "given_nmse": "given NMSE",
    }

    def make(self, folder: Path, say: Callable[[str], None]) -> DataFacts:
        """Reads the scan, or simulates one and forgets its images, and splits it."""
        if self.settings.path is None:
            path, maps = folder / _SCAN, self._simulate(folder / _SCAN)
            inputs = {**data.load_kspace(path).inputs, "sensitivities": maps}
        else:
            path = Path(self.settings.path).expanduser()
            estimate = functools.partial(
                data.espirit_maps,
                calibration=self.settings.calibration,
                kernel_width=self.settings.kernel_width,
            )
            inputs = data.load_kspace(path, coil_maps=estimate).inputs
            _check_maps(inputs["sensitivities"])
        slices = len(inputs["mask"])
        for split, part in zip(SPLITS, self._parts(slices), strict=True):
            chosen = {name: array[part] for name, array in inputs.items()}
            given = data.MeasuredSlices(self._hold_out(chosen, part, split))
            given.save(folder / f"{split}.npz")
            say(f"{split}: {len(given)} slices, given every {given.true_acceleration:.2f}th sample")
        return DataFacts(self._note(slices, path))

    def load(self, folder: Path, split: str) -> Samples:
        """Reads the inputs of a split, and separately the samples that judge the images."""
        inputs, held_out = _separate(super().load(folder, split).inputs)
        if split == "train":
            slices = len(inputs["mask"])
            repeats = self.settings.repeats or (_REPEATS_OF_ONE if slices == 1 else 1)
            repeated = np.tile(np.arange(slices), repeats)
            return Samples({name: array[repeated] for name, array in inputs.items()})
        return Samples(inputs, held_out=held_out)

    def scores(self, samples: Samples, outputs: np.ndarray) -> dict[str, float]:
        """Returns SNR and NMSE of the held-out samples, and NMSE of the given ones."""
        operator = self.operator(samples)
        nmse = []
        for index in range(len(samples)):
            sample = samples.take(index, 1).judged_inputs
            image = outputs[index : index + 1]
            judges = (held_out_measurements(sample), sample)
            nmse.append([_nmse(operator, image, judge) for judge in judges])
        held_out, given = np.array(nmse).T
        values = {
            "kspace_snr_db": -10 * np.log10(held_out),
            "kspace_nmse": held_out,
            "given_nmse": given,
        }
        means = {name: float(np.mean(v)) for name, v in values.items()}
        return means | {f"{name}_std": float(np.std(v)) for name, v in values.items()}

    def _simulate(self, path: Path) -> np.ndarray:
        """Writes undersampled k-space of the brain template; returns its coil maps alone."""
        settings = self.settings
        template = data.load_brain_template(settings.height, settings.width)
        first = (len(template) - settings.slices) // 2
        slices = data.simulate_multicoil(
            template[first : first + settings.slices],
            coils=settings.coils,
            acceleration=1,
            acs_lines=0,
            noise_std=settings.noise_std,
            seed=self.seed,
        )
        draw = data.get_mask(
            settings.mask, acceleration=settings.acceleration, acs_lines=settings.acs_lines
        )
        seeds = range(self.seed * settings.slices, (self.seed + 1) * settings.slices)
        masks = [draw((settings.height, settings.width), seed=seed) for seed in seeds]
        measurements = slices.inputs["measurements"]
        kspace = (measurements[..., 0] + 1j * measurements[..., 1]) * np.stack(masks)[:, None]
        np.save(path, kspace.astype("complex64"))
        return slices.inputs["sensitivities"]

    def _parts(self, slices: int) -> data.Split:
        settings = self.settings
        if slices == 1:
            return data.Split(*[slice(0, 1)] * len(SPLITS))
        try:
            return data.slab_split(
                slices,
                validation=settings.validation_slices,
                test=settings.test_slices,
                gap=settings.gap_slices,
            )
        except ValueError as error:
            raise SpadeError(
                f"The scan has too few slices for this split: {error}. Lower "
                "`data.validation_slices`, `data.test_slices` or `data.gap_slices`, or give one "
                "slice alone."
            ) from error

    def _hold_out(
        self, inputs: dict[str, np.ndarray], part: slice, split: str
    ) -> dict[str, np.ndarray]:
        """Takes the samples for validation and for test away, and keeps those of the split."""
        share, center = self.settings.held_out, self.settings.acs_lines
        # Seeded by the slab, so that all splits of a single slice hold out the same.
        rng = np.random.default_rng((self.seed, part.start or 0))
        given, validation = _separate(split_kspace(inputs, share, rng, center=center))
        # The same share of all samples, although some are gone.
        given, test = _separate(split_kspace(given, share / (1 - share), rng, center=center))
        return {**given, **{"train": {}, "validation": validation, "test": test}[split]}

    def _note(self, slices: int, path: Path) -> str:
        settings = self.settings
        if settings.path is None:
            origin = (
                "K-space simulated from the MNI152 T1 template, one image averaged from many "
                "brains, with coils, phase and noise; the true images were thrown away, and the "
                "coil maps are known exactly"
            )
        else:
            origin = (
                f"Measured k-space of {path.name}, for which no true image is known; coil maps by "
                "ESPIRiT from its center"
            )
        if slices == 1:
            split = (
                "Training, validation and test are the same slice: the figures say how well its "
                "missing samples are predicted, not how well the network does on another scan"
            )
        else:
            split = "Training, validation and test are slabs of slices with gaps between them"
        return (
            f"{origin}. {split}. Outside the center, {settings.held_out:.0%} of the samples are "
            f"held out for validation, {settings.held_out:.0%} for test, and given to no network."
        )


def _separate(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], ...]:
    """Returns the inputs of networks, and the held-out arrays."""
    held_out = {name: array for name, array in arrays.items() if name.startswith(HELD_OUT)}
    return {name: array for name, array in arrays.items() if name not in held_out}, held_out


def _nmse(operator: LinearOperator, image: np.ndarray, sample: dict[str, np.ndarray]) -> float:
    measured = operator.forward(image, **operator.parameters(sample))
    error = keras.ops.convert_to_numpy(measured) - sample["measurements"]
    return float(np.sum(error**2) / np.sum(sample["measurements"] ** 2))


def _check_maps(maps: np.ndarray) -> None:
    empty = [index for index, of_slice in enumerate(maps) if not of_slice.any()]
    if empty:
        raise SpadeError(
            "ESPIRiT found no coil maps in some slices: its kernels are too large for the sampled "
            "center, or there is no signal. Lower `data.kernel_width`, or sample more of the "
            f"center. Received: slices {empty}"
        )
