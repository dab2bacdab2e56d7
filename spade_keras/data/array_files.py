"""Arrays from files: stacks of images, volumes, measured k-space, and samples with classes."""

from pathlib import Path

import numpy as np

from spade_keras.data.fastmri import CoilMapFunction
from spade_keras.data.multicoil import ifft2c, root_sum_of_squares, to_channels
from spade_keras.data.reading import DataFile
from spade_keras.data.slices import MeasuredSlices
from spade_keras.errors import importing, require
from spade_keras.files import read_npz

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis across the slices: to the right, to the front, to the top of the patient."""

_REMEDY = "Repair or replace the file."
_KSPACE_REMEDY = "Write one with numpy.save(path, kspace)."


def load_stack(
    path: str | Path, *, key: str | None = None, peak: float | None = None
) -> np.ndarray:
    """Reads images from an `.npy` or `.npz` file: `(images, height, width[, channels])`.

    `key` is the array of an `.npz` file, by default its only one. `peak` is the largest magnitude
    to scale to; by default integers are divided by the largest their type holds, and floating-point
    numbers stay as they are. Returns a float32 array `(images, height, width, channels)`; complex
    images have two channels.

    Raises:
        BadFileError: If the file does not hold such an array.
    """
    file = DataFile(Path(path).expanduser(), _REMEDY)
    name, array = file.read_array(key)
    fits = array.dtype.kind in "biufc" and array.ndim in (3, 4) and 0 not in array.shape
    file.check_array(fits, name, "numbers of shape (images, height, width[, channels])", array)
    fits = array.dtype.kind != "c" or array.ndim == 3
    file.check_array(fits, name, "of shape (images, height, width) where complex", array)
    file.check_finite(name, array)
    if array.dtype.kind in "iu" and peak is None:
        array = array.astype("float32") / np.iinfo(array.dtype).max
    if array.dtype.kind == "c":
        stack = to_channels(array)
    else:
        stack = (array if array.ndim == 4 else array[..., None]).astype("float32")
    return stack if peak is None else _scale(file, name, stack, peak)


def load_nifti(path: str | Path, *, slices: str = "axial", peak: float | None = 1.0) -> np.ndarray:
    """Reads the slices of a NIfTI volume in one orientation, independent of the file's.

    The volume is turned to the nearest of the orientations right-anterior-superior: axis 0 goes to
    the patient's right, axis 1 to the front, axis 2 to the top. `slices`, a key of `AXES`, go along
    the named axis; rows and columns are the other two, in that order, as in `load_brain_template`.
    `peak` is the largest magnitude to scale to; None: values as stored. Returns a float32 array
    `(slices, height, width)`.

    Raises:
        BadFileError: If the file holds no three-dimensional volume.
        MissingExtraError: If nibabel is not installed.
    """
    require(slices in AXES, f"`slices` must be one of {sorted(AXES)}.", slices=slices)
    with importing("nibabel", "recipes"):
        import nibabel

    file = DataFile(Path(path).expanduser(), _REMEDY)
    with file.reading("content", "a whole NIfTI volume"):
        image = nibabel.as_closest_canonical(nibabel.load(file.path))
        volume = np.asarray(image.dataobj, "float32")
    while volume.ndim > 3 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    fits = volume.ndim == 3 and 0 not in volume.shape
    file.check_array(fits, "content", "a volume of three axes", volume)
    file.check_finite("content", volume)
    stack = np.ascontiguousarray(np.moveaxis(volume, AXES[slices], 0))
    return stack if peak is None else _scale(file, "content", stack, peak)


def load_kspace(path: str | Path, *, coil_maps: CoilMapFunction | None = None) -> MeasuredSlices:
    """Reads measured k-space, without true images; points that are 0 in all coils are unsampled.

    It is an `.npy` file, or an `.npz` file of one array: complex, of shape `(coils, height, width)`
    or `(slices, coils, height, width)`, and centered, as in `operators.CartesianMRI`. It is divided
    by the maximum of the zero-filled magnitude image over all slices, so that images are about
    [0, 1]. `coil_maps` estimates coil maps from k-space and mask, such as `espirit_maps`, and adds
    the input `sensitivities`.

    Returns:
        `MeasuredSlices`: inputs `measurements` and `sensitivities`
        `(slices, coils, height, width, 2)` and `mask` `(slices, 1 or height, width)`, of one row if
        all its rows are the same; no targets.

    Raises:
        BadFileError: If the file does not hold such an array.
    """
    file = DataFile(Path(path).expanduser(), _KSPACE_REMEDY)
    name, kspace = file.read_array()
    fits = kspace.dtype.kind == "c" and kspace.ndim in (3, 4) and 0 not in kspace.shape
    expected = "complex, of shape (coils, height, width) or (slices, coils, height, width)"
    file.check_array(fits, name, expected, kspace)
    file.check_finite(name, kspace)
    kspace = kspace.reshape(-1, *kspace.shape[-3:]).astype("complex64")
    sampled = np.any(kspace != 0, axis=1)
    if not sampled.any(axis=(1, 2)).all():
        raise file.error(name, "sampled in every slice", "a slice of zeros")
    mask = sampled.astype("float32")
    if (mask == mask[:, :1]).all():
        mask = mask[:, :1]
    scale = float(root_sum_of_squares(ifft2c(kspace)).max())
    inputs = {"measurements": to_channels(kspace / scale), "mask": mask}
    if coil_maps is not None:
        maps = [coil_maps(k, m) for k, m in zip(kspace, mask, strict=True)]
        inputs["sensitivities"] = to_channels(np.stack(maps))
    return MeasuredSlices(inputs, scale=scale)


def load_labeled_arrays(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads float32 samples with an int32 class each: the arrays `x` and `y` of an `.npz` file.

    `x` holds the samples on its first axis, `y` their classes 0, 1, 2, ...

    Raises:
        BadFileError: If the file cannot be read or its arrays do not fit together.
    """
    file = DataFile(Path(path), "Write one with numpy.savez(path, x=samples, y=classes).")
    with file.reading("content", "an .npz file of samples x and classes y"):
        arrays = read_npz(path, required=("x", "y"))
        x, y = arrays["x"].astype("float32"), np.squeeze(arrays["y"])
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y):
        received = f"x of shape {x.shape}, y of shape {arrays['y'].shape}"
        raise file.error("x", "samples on its first axis, with a class for each in `y`", received)
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        received = f"{y.dtype} from {y.min()} to {y.max()}"
        raise file.error("y", "the classes 0, 1, 2, ... as integers", received)
    file.check_finite("x", x)
    return x, y.astype("int32")


def _scale(file: DataFile, name: str, stack: np.ndarray, peak: float) -> np.ndarray:
    largest = float(np.abs(stack).max())
    if stack.shape[-1] == 2 and stack.ndim == 4:
        largest = float(np.linalg.norm(stack, axis=-1).max())
    if not largest > 0:
        raise file.error(name, "more than zeros, to be scaled", "zeros")
    return (stack * (peak / largest)).astype("float32")
