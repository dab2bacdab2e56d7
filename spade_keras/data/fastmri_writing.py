"""Simulated volumes in the layout of fastMRI's files."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from spade_keras.data.fastmri_file import NAMESPACE, TARGETS, FastMRIHeader
from spade_keras.data.multicoil import (
    center_crop,
    coil_sensitivities,
    fft2c,
    ifft2c,
    root_sum_of_squares,
    smooth_phase,
)
from spade_keras.errors import require
from spade_keras.files import write_atomic


@dataclass(frozen=True)
class FastMRILayout:
    """The acquisition of a simulated volume, with `coils=None` of a single-coil file.

    `width` counts the columns of k-space, at least those of the images; None: 1/8 more. `padding`
    columns on either side are not acquired, but padded with zeros. `noise_std` is the standard
    deviation of real and imaginary part of the noise in every sample of the unitary k-space, in the
    unit of the images, which are multiplied by `scale`: raw data of scanners peak far below 1.
    """

    coils: int | None = 4
    width: int | None = None
    padding: tuple[int, int] = (0, 0)
    noise_std: float = 0.0
    scale: float = 1e-4


def write_fastmri_like(
    path: str | Path,
    images: np.ndarray,
    *,
    layout: FastMRILayout | None = None,
    mask: np.ndarray | None = None,
    acquisition: str = "AXT1",
    patient_id: str | None = None,
    seed: int = 0,
) -> None:
    """Writes a file exactly as fastMRI's are laid out, whole or not at all.

    `images` are magnitudes `(slices, height, width)`, scaled to about [0, 1]. Rows are oversampled
    twofold, as scanners do along the readout. The stored images are the center crop of
    |ifft2c(kspace)|, with the noise and the loss by padding. A `mask` `(width of k-space,)`, 1
    where sampled, gives an undersampled file with its `mask` and without stored images, as the test
    sets are. `patient_id` is by default the name of the file, `*.h5`.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "volume.h5"
        >>> write_fastmri_like(file, np.ones((2, 16, 16)))
        >>> with h5py.File(file) as opened:
        ...     opened["kspace"].shape, opened["reconstruction_rss"].shape
        ((2, 4, 32, 18), (2, 16, 16))
    """
    layout = layout or FastMRILayout()
    path = Path(path)
    rule = "`images` must have the shape (slices, height, width)."
    require(images.ndim == 3, rule, shape=images.shape)
    _, height, width = images.shape
    full = layout.width or width + width // 8
    left, right = layout.padding
    fits = full >= width and min(layout.padding) >= 0 and left + right < full
    rule = f"`layout` must have at least the {width} columns of the images, and padding that leaves"
    require(fits, rule + " some of them.", layout=layout)
    rule = f"`mask` must have the shape ({full},), the columns of k-space."
    if mask is not None:
        require(np.shape(mask) == (full,), rule, shape=np.shape(mask))
    acquired = np.zeros(full, bool)
    acquired[left : full - right] = True
    kspace = _acquire(center_crop(images, 2 * height, full), layout, seed) * acquired
    # fastMRI counts its steps from 0 at the first acquired column.
    header = FastMRIHeader(
        (2 * height, full), (height, width), 0, full - right - left - 1, full // 2 - left
    )

    def write(partial: Path) -> None:
        with h5py.File(partial, "w") as file:
            file["ismrmrd_header"] = write_header(header)
            if mask is None:
                file["kspace"] = kspace
                stored = center_crop(ifft2c(kspace), height, width)
                single = kspace.ndim == 3
                target = np.abs(stored) if single else root_sum_of_squares(stored)
                target = target.astype("float32")
                file[TARGETS[kspace.ndim]] = target
                file.attrs["max"] = float(target.max())
                file.attrs["norm"] = float(np.linalg.norm(target))
            else:
                file["kspace"] = kspace * (np.asarray(mask) != 0)
                file["mask"] = (np.asarray(mask) != 0).astype("float32")
            file.attrs["acquisition"] = acquisition
            file.attrs["patient_id"] = patient_id or path.stem

    write_atomic(path, write)


def write_header(header: FastMRIHeader) -> str:
    """Returns the XML that `parse_header` reads."""
    spaces = "".join(
        f"<{name}><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize></{name}>"
        for name, (x, y) in (("encodedSpace", header.encoded), ("reconSpace", header.recon))
    )
    numbers = {"minimum": header.first, "maximum": header.last, "center": header.center}
    limits = "".join(f"<{name}>{number}</{name}>" for name, number in numbers.items())
    return (
        f'<ismrmrdHeader xmlns="{NAMESPACE}"><encoding>{spaces}<encodingLimits>'
        f"<kspace_encoding_step_1>{limits}</kspace_encoding_step_1></encodingLimits>"
        "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )


def _acquire(images: np.ndarray, layout: FastMRILayout, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    slices, height, width = images.shape
    phase = np.stack([smooth_phase(height, width, rng) for _ in range(slices)])
    x = layout.scale * images * np.exp(1j * phase)
    if layout.coils is not None:
        x = x[:, None] * coil_sensitivities(layout.coils, height, width, rng)
    noise = rng.standard_normal((2, *x.shape)) * layout.noise_std * layout.scale
    return (fft2c(x) + noise[0] + 1j * noise[1]).astype("complex64")
