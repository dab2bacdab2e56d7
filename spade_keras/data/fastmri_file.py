"""One fastMRI file: what it holds, whether it is sound, and reading slices from it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spade_keras.data.bad_files import check_finite, reading
from spade_keras.data.fastmri_header import FastMRIHeader, parse_header
from spade_keras.errors import BadFileError

TARGETS = {4: "reconstruction_rss", 3: "reconstruction_esc"}
"""Key of the stored images, by the number of axes of `kspace`: multi-coil, single-coil."""


@dataclass(frozen=True)
class FastMRIVolume:
    """One file.

    Attributes:
        file: Where it lies.
        shape: Of `kspace`: `(slices, coils, height, width)` or `(slices, height, width)`.
        recon_shape: `(height, width)` of the stored images; without any, of the header.
        acquired: First acquired column, and the one after the last; the others hold zeros.
        target_key: Data set of the stored images, or None.
        mask: The sampled columns `(width,)` of a file that was undersampled, or None.
        attributes: Those stored with the file: `max`, `norm`, `acquisition`, `patient_id`.
    """

    file: Path
    shape: tuple[int, ...]
    recon_shape: tuple[int, int]
    acquired: tuple[int, int]
    target_key: str | None
    mask: np.ndarray | None
    attributes: dict[str, Any]

    @property
    def slices(self) -> int:
        """Number of slices."""
        return self.shape[0]

    @property
    def coils(self) -> int | None:
        """Number of coils; None for a single-coil file."""
        return self.shape[1] if len(self.shape) == 4 else None

    @property
    def patient(self) -> str:
        """What tells patients apart: the attribute `patient_id`, else the file's name."""
        return str(self.attributes.get("patient_id", self.file.name))


def inspect_volume(file: Path, *, with_target: bool, check_values: bool) -> FastMRIVolume:
    """Checks the layout of a file, and every number if that is wanted.

    Args:
        file: The HDF5 file.
        with_target: Whether it must hold the stored images.
        check_values: Whether to read all slices and look for NaN; else only the layout is read.

    Returns:
        A `FastMRIVolume`.

    Raises:
        BadFileError: If something is missing or wrong.
    """
    with reading(file, "content", "a whole HDF5 file"), h5py.File(file, "r") as opened:
        volume = _inspect(file, opened, with_target)
        if check_values:
            _check_values(volume, opened)
    return volume


class FastMRIReader:
    """Reads slices, keeping one file open per thread and process.

    An open file is neither pickled nor used after a fork: every process opens its own. All are
    closed with the reader, or with their thread.
    """

    def __init__(self) -> None:
        self._open = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def read(self, file: Path, key: str, index: int) -> np.ndarray:
        """Reads one slice.

        Args:
            file: The HDF5 file.
            key: Data set.
            index: Slice.

        Raises:
            BadFileError: If it cannot be read, or holds NaN.
        """
        with reading(file, key, f"readable at slice {index}"):
            values = self._file(file)[key][index]
        check_finite(file, key, values)
        return values

    def close(self) -> None:
        """Closes the file that this thread has open."""
        opened = getattr(self._open, "file", None)
        if opened is not None and self._open.process == os.getpid():
            opened.close()
        self._open = threading.local()

    def _file(self, file: Path) -> h5py.File:
        key = (os.getpid(), file)
        if getattr(self._open, "key", None) != key:
            previous = getattr(self._open, "file", None)
            if previous is not None and self._open.process == os.getpid():
                previous.close()
            self._open.key = self._open.file = None
            self._open.file = h5py.File(file, "r")
            self._open.key, self._open.process = key, os.getpid()
        return self._open.file


def _inspect(file: Path, opened: h5py.File, with_target: bool) -> FastMRIVolume:
    kspace = _dataset(file, opened, "kspace")
    if kspace.ndim not in TARGETS or 0 in kspace.shape or kspace.dtype != np.complex64:
        raise BadFileError(
            file,
            "kspace",
            "complex64 of shape (slices, coils, height, width) or (slices, height, width)",
            f"{kspace.dtype} of shape {kspace.shape}",
        )
    header = _header(file, opened)
    height, width = kspace.shape[-2:]
    target_key = TARGETS[kspace.ndim] if TARGETS[kspace.ndim] in opened else None
    if with_target or target_key is not None:
        recon_shape = _target_shape(file, opened, kspace)
    else:
        recon_shape = min(header.recon[0], height), min(header.recon[1], width)
    acquired = header.acquired(width)
    if acquired[0] >= acquired[1]:
        raise BadFileError(
            file, "ismrmrd_header", "of limits within the width of kspace", f"columns {acquired}"
        )
    names = ("max", "norm", "acquisition", "patient_id")
    attributes = {name: opened.attrs[name] for name in names if name in opened.attrs}
    for name in ("max", "norm"):
        if name in attributes and not np.isfinite(np.asarray(attributes[name], float)).all():
            raise BadFileError(file, name, "a finite attribute", str(attributes[name]))
    return FastMRIVolume(
        file,
        kspace.shape,
        recon_shape,
        acquired,
        target_key,
        _mask(file, opened, width),
        attributes,
    )


def _dataset(file: Path, opened: h5py.File, key: str) -> h5py.Dataset:
    found = opened.get(key)
    if not isinstance(found, h5py.Dataset):
        raise BadFileError(file, key, "a data set of the file", f"the keys {sorted(opened)}")
    return found


def _header(file: Path, opened: h5py.File) -> FastMRIHeader:
    content = _dataset(file, opened, "ismrmrd_header")[()]
    try:
        return parse_header(content)
    except (ValueError, TypeError) as error:
        raise BadFileError(
            file,
            "ismrmrd_header",
            "ISMRMRD's XML with encodedSpace, reconSpace and encodingLimits",
            str(error),
        ) from error


def _target_shape(file: Path, opened: h5py.File, kspace: h5py.Dataset) -> tuple[int, int]:
    key = TARGETS[kspace.ndim]
    slices, (height, width) = kspace.shape[0], kspace.shape[-2:]
    if key not in opened:
        raise BadFileError(
            file,
            key,
            "stored, as the true images",
            f"the keys {sorted(opened)}",
            "For data without truth pass target=None.",
        )
    target = _dataset(file, opened, key)
    fits = target.ndim == 3 and target.shape[0] == slices and 0 not in target.shape
    if not fits or target.dtype.kind != "f" or target.shape[1] > height or target.shape[2] > width:
        raise BadFileError(
            file,
            key,
            f"real, of shape ({slices}, height, width) with at most {height} x {width} pixels",
            f"{target.dtype} of shape {target.shape}",
        )
    return target.shape[1], target.shape[2]


def _mask(file: Path, opened: h5py.File, width: int) -> np.ndarray | None:
    if "mask" not in opened:
        return None
    mask = np.asarray(_dataset(file, opened, "mask")[()])
    if mask.shape != (width,) or mask.dtype.kind not in "biuf" or not mask.any():
        raise BadFileError(
            file, "mask", f"the {width} columns, not all 0", f"{mask.dtype} of shape {mask.shape}"
        )
    return (mask != 0).astype("float32")


def _check_values(volume: FastMRIVolume, opened: h5py.File) -> None:
    for key in filter(None, ("kspace", volume.target_key)):
        for index in range(volume.slices):
            check_finite(volume.file, key, opened[key][index])
