"""Coil maps by ESPIRiT, from the autocalibration block of undersampled k-space."""

import hashlib
import warnings
from itertools import takewhile
from pathlib import Path

import numpy as np

from spade_keras.data.reading import DataFile
from spade_keras.errors import BadFileError, SpadeError, importing
from spade_keras.files import write_atomic

_METHOD = "sigpy, 1"
"""Part of the cache's key; change it when the same data and parameters give other maps."""


def espirit_maps(
    kspace: np.ndarray,
    mask: np.ndarray,
    *,
    calibration: int = 24,
    kernel_width: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    cache_folder: str | Path | None = None,
) -> np.ndarray:
    """Estimates coil maps from the fully sampled center of the measurements alone.

    Args:
        kspace: Masked k-space `(coils, height, width)`, complex.
        mask: `(1 or height, width)`, not 0 where sampled.
        calibration: Side of the central square to use, limited to the fully sampled one.
        kernel_width: Side of the kernels, in samples.
        threshold: Singular values of the calibration matrix below this fraction of the largest
            count as noise.
        crop: Maps are 0 where the eigenvalue is not above it: outside of the object.
        cache_folder: Keeps maps by a hash of the data and of these parameters, since computing them
            takes seconds per slice; None: no cache.

    Returns:
        complex64 array `(coils, height, width)`; the sum of squares over coils is 1 in the
        object and 0 outside, so that the norm of S is at most 1.

    Raises:
        SpadeError: If the fully sampled center is too small.
        MissingExtraError: If sigpy is not installed.

    Reference:
        Uecker et al., "ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI", 2014.
    """
    kspace = np.ascontiguousarray(kspace, "complex64")
    sampled = np.broadcast_to(np.asarray(mask) != 0, kspace.shape[-2:])
    side = min(calibration, calibration_side(sampled))
    if side <= kernel_width:
        raise SpadeError(
            f"ESPIRiT needs a fully sampled center of more than {kernel_width} x {kernel_width} "
            f"samples. Take more `acs_lines` or a smaller `kernel_width`. Received: a mask with a "
            f"center of {side} x {side}"
        )
    kspace = kspace * sampled
    path = None
    if cache_folder is not None:
        settings = repr((kspace.shape, side, kernel_width, threshold, crop, _METHOD))
        name = hashlib.sha256(settings.encode() + kspace.tobytes()).hexdigest()[:32]
        path = Path(cache_folder).expanduser() / f"espirit-{name}.npy"
        kept = _read(path, kspace.shape)
        if kept is not None:
            return kept
    with importing("sigpy", "recipes"):
        from sigpy.mri.app import EspiritCalib

    options = {"thresh": threshold, "kernel_width": kernel_width, "crop": crop}
    with np.errstate(divide="ignore", invalid="ignore"):  # the phase of pixels without signal
        maps = EspiritCalib(kspace, calib_width=side, show_pbar=False, **options).run()
    maps = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0).astype("complex64")
    if path is not None:
        _keep(path, maps)
    return maps


def calibration_side(sampled: np.ndarray) -> int:
    """Returns the side of the largest fully sampled square around the zero frequency."""
    height, width = sampled.shape

    def full(side: int) -> bool:
        top, left = height // 2 - side // 2, width // 2 - side // 2
        return bool(sampled[top : top + side, left : left + side].all())

    return len(list(takewhile(full, range(1, min(sampled.shape) + 1))))


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    if not path.exists():
        return None
    file = DataFile(path, "They are estimated again.")
    try:
        _, maps = file.read_array()
        fits = maps.shape == shape and maps.dtype == np.complex64
        file.check_array(fits, "content", f"complex64 of shape {shape}", maps)
        file.check_finite("content", maps)
        return maps
    except BadFileError as error:
        warnings.warn(f"Cached coil maps could not be read: {error}", stacklevel=3)
        return None


def _keep(path: Path, maps: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda written: np.save(written, maps))
    except OSError as error:
        warnings.warn(
            f"Coil maps could not be kept in {path.parent} and will be estimated again: {error}. "
            "Make the folder writable, or pass another `cache_folder`.",
            stacklevel=3,
        )
