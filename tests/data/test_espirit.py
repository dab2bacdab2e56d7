"""Coil maps from undersampled data, kept on disk."""

import warnings

import numpy as np
import pytest

from spade_keras import data
from spade_keras.data import masks
from spade_keras.data.espirit import calibration_side
from spade_keras.data.multicoil import coil_sensitivities, fft2c
from spade_keras.errors import SpadeError

pytestmark = pytest.mark.once


def scan(coils=4, height=40, width=36, acs_lines=12, seed=0):
    """Maps, mask and masked k-space of a disc."""
    maps = coil_sensitivities(coils, height, width, np.random.default_rng(seed))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    disc = (x**2 + y**2 < 0.6) * (1 + 0.3 * x) * np.exp(1j * y)
    mask = masks.equispaced((height, width), acceleration=3, acs_lines=acs_lines, offset=0)
    return maps, disc, mask, (fft2c(maps * disc) * mask).astype("complex64")


def aligned(maps):
    return maps * np.conj(maps[0] / np.abs(maps[0]))


def test_maps_are_those_of_the_coils():
    pytest.importorskip("sigpy")
    maps, disc, mask, kspace = scan()
    found = data.espirit_maps(kspace, mask)
    assert found.dtype == np.complex64
    assert found.shape == maps.shape
    inside = np.abs(disc) > 0
    energy = (np.abs(found) ** 2).sum(0)
    assert (energy[inside] > 0.999).mean() > 0.98
    assert energy.max() < 1.001
    known = inside & (energy > 0.5)
    error = np.abs(found - aligned(maps))[:, known]
    assert np.sqrt((error**2).sum(0)).mean() < 0.03


def test_nothing_but_the_center_is_used():
    pytest.importorskip("sigpy")
    _, _, mask, kspace = scan()
    sampled = np.broadcast_to(mask > 0, kspace.shape[1:])
    side = calibration_side(sampled)
    assert side == 13
    found = data.espirit_maps(kspace, mask)
    # What a fully sampled scan would hold elsewhere must not be seen: that would be a leak.
    leaking = np.where(sampled, kspace, 1.0)
    np.testing.assert_array_equal(data.espirit_maps(leaking, mask), found)
    changed = kspace.copy()
    changed[:, :, 0] *= 3
    np.testing.assert_allclose(data.espirit_maps(changed, mask), found, atol=1e-6)


@pytest.fixture
def calls(monkeypatch):
    """Puts constant maps in the place of ESPIRiT's; holds the sides of the calibrations."""
    sides = []

    class Calibration:
        def __init__(self, kspace, calib_width, **settings):
            sides.append(calib_width)
            self.shape = kspace.shape

        def run(self):
            return np.full(self.shape, 0.5, "complex64")

    monkeypatch.setattr(pytest.importorskip("sigpy.mri.app"), "EspiritCalib", Calibration)
    return sides


def test_maps_are_kept_by_data_and_parameters(tmp_path, calls):
    _, _, mask, kspace = scan()
    first = data.espirit_maps(kspace, mask, cache_folder=tmp_path / "maps")
    again = data.espirit_maps(kspace, mask, cache_folder=tmp_path / "maps")
    np.testing.assert_array_equal(first, again)
    assert calls == [13]
    for changed in (
        {"kspace": kspace * 2, "mask": mask},
        {"kspace": kspace, "mask": mask, "crop": 0.9},
        {"kspace": kspace, "mask": mask, "calibration": 11},
        {"kspace": kspace, "mask": mask, "kernel_width": 5},
        {"kspace": kspace, "mask": mask, "threshold": 0.01},
    ):
        data.espirit_maps(**changed, cache_folder=tmp_path / "maps")
    assert len(calls) == 6
    kept = sorted((tmp_path / "maps").iterdir())
    assert len(kept) == 6
    assert all(file.suffix == ".npy" for file in kept)  # no partial file is left


@pytest.mark.usefixtures("calls")
def test_damaged_cache_is_made_again(tmp_path):
    _, _, mask, kspace = scan()
    data.espirit_maps(kspace, mask, cache_folder=tmp_path)
    (file,) = tmp_path.iterdir()
    for content in (b"", file.read_bytes()[:200], b"no array"):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=r"could not be read.*espirit-"):
            found = data.espirit_maps(kspace, mask, cache_folder=tmp_path)
        assert found.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.espirit_maps(kspace, mask, cache_folder=tmp_path)


@pytest.mark.usefixtures("calls")
def test_cache_that_cannot_be_written_warns(tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    _, _, mask, kspace = scan()
    with pytest.warns(UserWarning, match="could not be kept"):
        found = data.espirit_maps(kspace, mask, cache_folder=tmp_path / "file")
    assert found.all()


def test_small_center():
    _, _, mask, kspace = scan(acs_lines=2)
    with pytest.raises(SpadeError, match=r"center of more than 6 x 6.*acs_lines.*center of"):
        data.espirit_maps(kspace, mask)


@pytest.mark.parametrize("shape", [(9, 12), (8, 8), (7, 7)])
def test_calibration_side(shape):
    assert calibration_side(np.ones(shape, bool)) == min(shape)
    sampled = np.zeros(shape, bool)
    assert calibration_side(sampled) == 0
    y, x = shape[0] // 2, shape[1] // 2
    sampled[y - 2 : y + 2, x - 2 : x + 2] = True
    assert calibration_side(sampled) == 4
    sampled[y - 2, x] = False
    assert calibration_side(sampled) == 3
