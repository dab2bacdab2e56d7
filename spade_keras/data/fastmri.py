"""fastMRI files as arrays that are read slice by slice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from spade_keras.data.fastmri_file import REMEDY, FastMRIVolume, inspect_volume, read_slice
from spade_keras.data.masks import MaskFunction, seed_from_name
from spade_keras.data.multicoil import center_crop, fft2c, ifft2c, root_sum_of_squares, to_channels
from spade_keras.data.reading import DataFile, LazyArray, list_files, read_all
from spade_keras.data.slices import group_split
from spade_keras.errors import require

CROPS = ("recon", "readout", "none")
TARGETS = ("stored", "magnitude", "complex", None)
SCALINGS = ("volume", "none")

CoilMapFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Complex maps of masked k-space `(coils, height, width)` and its mask; see `espirit_maps`."""


@dataclass(eq=False, repr=False)
class FastMRIData:
    """Slices of many volumes, in the order of the files; made by `open_fastmri`, see there.

    `skipped` maps each file that was left out to the reason. `volume_index` holds, for every slice,
    the position of its volume in `volumes`, for metrics that are taken per volume, and `scales`,
    lazily, the divisor of its measurements and targets.
    """

    volumes: Sequence[FastMRIVolume]
    skipped: dict[str, str]
    mask: MaskFunction | None
    target: str | None
    crop: str
    scaling: str
    coil_maps: CoilMapFunction | None
    seed: int

    def __post_init__(self) -> None:
        counts = [volume.shape[0] for volume in self.volumes]
        self.volume_index = np.repeat(np.arange(len(counts)), counts)
        self.scales = LazyArray(self._scale, len(self), (), "float32")
        self._slice_index = np.concatenate([np.arange(count) for count in counts])
        self._masks: dict[int, np.ndarray] = {}
        self._factors: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.volume_index)

    @property
    def inputs(self) -> dict[str, LazyArray]:
        """The inputs of a network by name, as lazy arrays.

        `measurements`: masked k-space `(slices, coils, height, width, 2)`, of single-coil files
        `(slices, height, width, 2)`; `mask`: `(slices, 1 or height, width)`; `sensitivities`:
        `(slices, coils, height, width, 2)`, where coil maps are estimated.
        """
        grids = [(*v.shape[1:-2], *_cropped(v, self.crop)) for v in self.volumes]
        kspace = (*_common(grids), 2)
        # All masks have the rows of the first: drawing every mask here could take minutes.
        by_columns = self._mask(0).shape[0] == 1
        masks = _common(
            [
                (1 if by_columns or v.mask is not None else g[-2], g[-1])
                for v, g in zip(self.volumes, grids, strict=True)
            ]
        )
        inputs = {
            "measurements": LazyArray(self._measurements, len(self), kspace),
            "mask": LazyArray(self._slice_mask, len(self), masks),
        }
        if self.coil_maps is not None:
            inputs["sensitivities"] = LazyArray(self._sensitivities, len(self), kspace)
        return inputs

    @property
    def targets(self) -> LazyArray | None:
        """True images as a lazy array `(slices, height, width, 1 or 2)`; None without a target."""
        if self.target is None:
            return None
        stored = [v.recon_shape for v in self.volumes]
        full = [_cropped(v, self.crop) for v in self.volumes]
        shape = _common(stored if self.target == "stored" else full)
        return LazyArray(self._target, len(self), (*shape, 2 if self.target == "complex" else 1))

    @property
    def true_acceleration(self) -> float:
        """Acquired over sampled columns (points of a two-dimensional mask), over all volumes."""
        acquired = sampled = 0.0
        for i, volume in enumerate(self.volumes):
            mask = self._mask(i)
            acquired += _acquired(volume, mask.shape[-1]).mean()
            sampled += mask.mean()
        return float(acquired / sampled)

    def split(self, *, validation: int, test: int, seed: int = 0) -> tuple[Self, Self, Self]:
        """Splits into training, validation and test data; no patient's slices are in two parts."""
        patients = [volume.patient for volume in self.volumes]
        parts = group_split(patients, validation=validation, test=test, seed=seed)
        train, selection, report = (
            replace(self, volumes=[self.volumes[i] for i in part]) for part in parts
        )
        return train, selection, report

    def _kspace(self, i: int) -> np.ndarray:
        volume = self.volumes[self.volume_index[i]]
        kspace = read_slice(volume.file, "kspace", int(self._slice_index[i]))
        return _crop_kspace(kspace, _cropped(volume, self.crop))

    def _masked(self, i: int) -> np.ndarray:
        return self._kspace(i) * self._mask(int(self.volume_index[i]))

    def _measurements(self, i: int) -> np.ndarray:
        return to_channels(self._masked(i) / self._scale(i))

    def _slice_mask(self, i: int) -> np.ndarray:
        return self._mask(int(self.volume_index[i]))

    def _sensitivities(self, i: int) -> np.ndarray:
        return to_channels(self._maps(i))

    def _maps(self, i: int) -> np.ndarray:
        assert self.coil_maps is not None  # `open_fastmri` checks it
        return self.coil_maps(self._masked(i), self._slice_mask(i))

    def _target(self, i: int) -> np.ndarray:
        volume = self.volumes[self.volume_index[i]]
        if self.target == "stored":
            image = read_slice(volume.file, str(volume.target_key), int(self._slice_index[i]))
            return (image[..., None] / self._scale(i)).astype("float32")
        kspace = self._kspace(i)
        if self.target == "magnitude":
            return (_magnitude(volume, kspace)[..., None] / self._scale(i)).astype("float32")
        images = ifft2c(kspace)
        if volume.coils is not None:
            images = np.sum(np.conj(self._maps(i)) * images, axis=0)
        return to_channels(images / self._scale(i))

    def _mask(self, v: int) -> np.ndarray:
        """The mask of a volume; the same on every reading, since its seed is the file's name."""
        if v not in self._masks:
            volume = self.volumes[v]
            shape = _cropped(volume, self.crop)
            if volume.mask is not None:
                mask = volume.mask[None]
            elif self.mask is None:
                mask = np.ones((1, shape[1]), "float32")
            else:
                mask = self.mask(shape, seed=seed_from_name(volume.file.name, self.seed))
            self._masks[v] = (mask * _acquired(volume, shape[1])).astype("float32")
        return self._masks[v]

    def _scale(self, i: int) -> Any:
        """One factor per volume, so that metrics over a volume do not depend on it."""
        v = int(self.volume_index[i])
        if self.scaling == "none":
            return np.float32(1)
        if v not in self._factors:
            volume = self.volumes[v]
            middle = int(np.flatnonzero(self.volume_index == v)[volume.shape[0] // 2])
            peak = float(_magnitude(volume, self._masked(middle)).max())
            if not peak > 0:
                file = DataFile(volume.file, REMEDY)
                raise file.error("kspace", "more than zeros in its middle slice", "zeros")
            self._factors[v] = peak
        return np.float32(self._factors[v])


def open_fastmri(
    path: str | Path | Sequence[str | Path],
    *,
    mask: MaskFunction | None = None,
    target: str | None = "stored",
    crop: str = "recon",
    scaling: str = "volume",
    coil_maps: CoilMapFunction | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> FastMRIData:
    """Opens fastMRI volumes, multi-coil or single-coil, without reading their k-space.

    The convention is the files': |center crop of ifft2c(kspace)|, with the centered unitary
    transform and the root sum of squares over coils, equals the stored images. Columns of padding,
    as the header states them, count as not sampled.

    Args:
        path: A file, a folder (with its subfolders), or a list of files; `*.h5`.
        mask: Undersamples fully sampled volumes, each with a seed from its file's name; see
            `get_mask`. None: all acquired columns. A file with a `mask` of its own keeps that.
        target: `"stored"`: the images in the file, magnitudes of the size of the reconstruction;
            `"magnitude"`: those of the fully sampled k-space, of the size of the measurements;
            `"complex"`: the same as complex images, combined with the coil maps; None: no targets.
        crop: `"recon"`: k-space of the field of view of the reconstruction, in both directions,
            before it is undersampled: every volume has one size, and the stored images fit. It
            simulates a scanner of that field of view. `"readout"`: only the fully sampled rows'
            direction is cropped, which is exact: the acquired samples are undersampled, as in
            fastMRI's leaderboard. `"none"`: as stored.
        scaling: `"volume"`: measurements and targets are divided by the maximum of the zero-filled
            magnitude image of the volume's middle slice, so that images are about [0, 1]; no
            true image goes into it. `"none"`: as stored, about 1e-4.
        coil_maps: Estimates the input `sensitivities` of multi-coil files from the masked k-space,
            such as `espirit_maps`.
        seed: Gives other masks.
        skip_bad: Whether to leave out bad files, and list them in `skipped`. Then every file is
            read once to find NaN, which otherwise shows when its slice is read.

    Returns:
        A `FastMRIData`; its `inputs` and `targets` can be given to `SliceDataset`.

    Raises:
        BadFileError: If a file is damaged, lacks something or holds something unexpected.

    Reference:
        Zbontar et al., "fastMRI: an open dataset and benchmarks for accelerated MRI", 2018.
    """
    choices = {"crop": (crop, CROPS), "target": (target, TARGETS), "scaling": (scaling, SCALINGS)}
    for name, (value, allowed) in choices.items():
        require(value in allowed, f"`{name}` must be one of {allowed}.", **{name: value})
    inspect = partial(inspect_volume, target=target, crop=crop, check_values=skip_bad)
    volumes, skipped = read_all(list_files(path, (".h5", ".hdf5")), inspect, skip_bad=skip_bad)
    rule = "`path` must hold multi-coil or single-coil files, not both. Open them separately."
    mixed = len({volume.coils is None for volume in volumes}) > 1
    require(not mixed, rule, path=[str(volume.file) for volume in volumes])
    if volumes[0].coils is None:
        require(coil_maps is None, "Single-coil files have no coil maps.", coil_maps=coil_maps)
    elif target == "complex":
        rule = "`target='complex'` combines coils by `coil_maps`; pass data.espirit_maps."
        require(coil_maps is not None, rule, coil_maps=coil_maps)
    return FastMRIData(volumes, skipped, mask, target, crop, scaling, coil_maps, seed)


def _cropped(volume: FastMRIVolume, crop: str) -> tuple[int, int]:
    height, width = volume.shape[-2:]
    if crop == "none":
        return height, width
    return volume.recon_shape[0], width if crop == "readout" else volume.recon_shape[1]


def _magnitude(volume: FastMRIVolume, kspace: np.ndarray) -> np.ndarray:
    images = ifft2c(kspace)
    return np.abs(images) if volume.coils is None else root_sum_of_squares(images)


def _crop_kspace(kspace: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """K-space of the center of the image; axes of the right size are not transformed."""
    axes = [axis for axis in (-2, -1) if kspace.shape[axis] != shape[axis]]
    if not axes:
        return kspace
    return fft2c(center_crop(ifft2c(kspace, axes), *shape), axes)


def _acquired(volume: FastMRIVolume, width: int) -> np.ndarray:
    """Flags of the acquired columns; those of a cropped field of view lie farther apart."""
    full = volume.shape[-1]
    position = full // 2 + (np.arange(width) - width // 2) * (full / width)
    first, end = volume.acquired
    # Each column stands for an interval of its width.
    return (position >= first - 0.5) & (position <= end - 0.5)


def _common(shapes: Sequence[tuple[int, ...]]) -> tuple[int | None, ...]:
    """The common shape, with None where sizes differ."""
    rule = "`mask` must give masks of equally many axes for every volume."
    require(len({len(shape) for shape in shapes}) == 1, rule, shapes=sorted(set(shapes)))
    return tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True))
