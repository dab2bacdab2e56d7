"""Stacks of images from `.npy`, `.npz` and NIfTI files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spade_keras.data.bad_files import check_finite, reading
from spade_keras.data.multicoil_simulation import to_channels
from spade_keras.errors import BadFileError, MissingExtraError

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis across the slices: to the right, to the front, to the top of the patient."""


def load_stack(
    path: str | Path, *, key: str | None = None, peak: float | None = None
) -> np.ndarray:
    """Reads images from an `.npy` or `.npz` file.

    Args:
        path: The file, with an array `(images, height, width)`, real or complex, or
            `(images, height, width, channels)`, real.
        key: The array of an `.npz` file; None: its only one.
        peak: The largest magnitude to scale to; None: integers are divided by the largest their
            type holds, floating-point numbers stay as they are.

    Returns:
        float32 array `(images, height, width, channels)`; complex images have two channels.

    Raises:
        BadFileError: If the file does not hold such an array.
    """
    path = Path(path).expanduser()
    name, array = _read_array(path, key)
    if array.dtype.kind not in "biufc" or array.ndim not in (3, 4) or 0 in array.shape:
        received = f"{array.dtype} of shape {array.shape}"
        raise BadFileError(
            path, name, "numbers of shape (images, height, width[, channels])", received
        )
    if array.dtype.kind == "c" and array.ndim == 4:
        received = f"{array.dtype} of shape {array.shape}"
        raise BadFileError(path, name, "of shape (images, height, width) where complex", received)
    check_finite(path, name, array)
    if array.dtype.kind in "iu" and peak is None:
        array = array.astype("float32") / np.iinfo(array.dtype).max
    if array.dtype.kind == "c":
        stack = to_channels(array)
    else:
        stack = (array if array.ndim == 4 else array[..., None]).astype("float32")
    return stack if peak is None else _scale(path, name, stack, peak)


def load_nifti(path: str | Path, *, slices: str = "axial", peak: float | None = 1.0) -> np.ndarray:
    """Reads the slices of a NIfTI volume in one orientation, whatever that of the file.

    The volume is turned to the nearest of the orientations right-anterior-superior: axis 0 goes to
    the patient's right, axis 1 to the front, axis 2 to the top. Slices go along the named axis;
    rows and columns are the other two, in that order, so that rows of axial slices go from left to
    right and columns from back to front, as those of `load_brain_template`.

    Args:
        path: The file, `.nii` or `.nii.gz`.
        slices: A key of `AXES`.
        peak: The largest magnitude to scale to; None: values as stored.

    Returns:
        float32 array `(slices, height, width)`.

    Raises:
        BadFileError: If the file holds no three-dimensional volume.
        ValueError: If `slices` is unknown.
        MissingExtraError: If nibabel is not installed.
    """
    if slices not in AXES:
        raise ValueError(f"`slices` must be one of {sorted(AXES)}. Received: slices={slices!r}")
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("nibabel", "recipes") from error

    path = Path(path).expanduser()
    with reading(path, "content", "a whole NIfTI volume"):
        image = nibabel.as_closest_canonical(nibabel.load(path))
        volume = np.asarray(image.dataobj, "float32")
    while volume.ndim > 3 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim != 3 or 0 in volume.shape:
        received = f"shape {volume.shape}"
        raise BadFileError(path, "content", "a volume of three axes", received)
    check_finite(path, "content", volume)
    stack = np.ascontiguousarray(np.moveaxis(volume, AXES[slices], 0))
    return stack if peak is None else _scale(path, "content", stack, peak)


def _read_array(path: Path, key: str | None) -> tuple[str, np.ndarray]:
    with reading(path, key or "content", "an .npy or .npz file of arrays"):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return "content", found
        with found:
            names = list(found.files)
            name = names[0] if key is None and len(names) == 1 else key
            if name in names:
                return str(name), found[name]
    remedy = "Pass the name of one of its arrays as `key`."
    raise BadFileError(path, key or "key", "an array of the file", f"the arrays {names}", remedy)


def _scale(path: Path, name: str, stack: np.ndarray, peak: float) -> np.ndarray:
    largest = float(np.abs(stack).max())
    if stack.shape[-1] == 2 and stack.ndim == 4:
        largest = float(np.linalg.norm(stack, axis=-1).max())
    if not largest > 0:
        raise BadFileError(path, name, "more than zeros, to be scaled", "zeros")
    return (stack * (peak / largest)).astype("float32")
