"""Measured k-space of one scan, without a true image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spade_keras.data.bad_files import check_finite, reading
from spade_keras.data.centered_fourier import ifft2c, root_sum_of_squares
from spade_keras.data.fastmri import CoilMapFunction
from spade_keras.data.masks import true_acceleration
from spade_keras.data.multicoil_simulation import to_channels
from spade_keras.errors import BadFileError

_REMEDY = "Write one with numpy.save(path, kspace)."


@dataclass(frozen=True)
class MeasuredSlices:
    """Measured slices; float32 arrays, the first axis being the slice.

    Attributes:
        inputs: `measurements` `(slices, coils, height, width, 2)`, `mask`
            `(slices, 1 or height, width)` and, where coil maps were estimated, `sensitivities`
            `(slices, coils, height, width, 2)`.
        scale: What the measurements were divided by.
    """

    inputs: dict[str, np.ndarray]
    scale: float

    truth = None
    """There is none."""

    def __len__(self) -> int:
        return len(self.inputs["measurements"])

    @property
    def true_acceleration(self) -> float:
        """Points over sampled points."""
        return true_acceleration(self.inputs["mask"])


def load_kspace(path: str | Path, *, coil_maps: CoilMapFunction | None = None) -> MeasuredSlices:
    """Reads complex k-space from an `.npy` file; samples that are 0 in all coils were not taken.

    k-space is centered, as `operators.CartesianMRI` has it, and divided by the maximum of the
    zero-filled magnitude image over all slices, so that images are about [0, 1].

    Args:
        path: The file, with an array `(coils, height, width)` or `(slices, coils, height, width)`.
        coil_maps: Estimates coil maps from k-space and mask, such as `espirit_maps`; adds the
            input `sensitivities`.

    Returns:
        A `MeasuredSlices`. Masks that are the same in every row have one row.

    Raises:
        BadFileError: If the file does not hold such an array.
    """
    path = Path(path).expanduser()
    with reading(path, "content", "an .npy file", _REMEDY):
        kspace = np.load(path, allow_pickle=False)
    if not isinstance(kspace, np.ndarray):
        raise BadFileError(path, "content", "an .npy file", "an archive", _REMEDY)
    if kspace.dtype.kind != "c" or kspace.ndim not in (3, 4) or 0 in kspace.shape:
        raise BadFileError(
            path,
            "content",
            "complex, of shape (coils, height, width) or (slices, coils, height, width)",
            f"{kspace.dtype} of shape {kspace.shape}",
            _REMEDY,
        )
    check_finite(path, "content", kspace)
    kspace = kspace.reshape(-1, *kspace.shape[-3:]).astype("complex64")
    sampled = np.any(kspace != 0, axis=1)
    if not sampled.any(axis=(1, 2)).all():
        raise BadFileError(path, "content", "sampled in every slice", "a slice of zeros", _REMEDY)
    mask = sampled.astype("float32")
    if (mask == mask[:, :1]).all():
        mask = mask[:, :1]
    scale = float(root_sum_of_squares(ifft2c(kspace)).max())
    inputs = {"measurements": to_channels(kspace / scale), "mask": mask}
    if coil_maps is not None:
        maps = [coil_maps(k, m) for k, m in zip(kspace, mask, strict=True)]
        inputs["sensitivities"] = to_channels(np.stack(maps))
    return MeasuredSlices(inputs, scale)
