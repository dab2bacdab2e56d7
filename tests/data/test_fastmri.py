"""fastMRI files: the convention of the stored images, laziness, masks, splits and handles."""

import multiprocessing
import os
import pickle
import threading
from functools import partial

import h5py
import numpy as np
import pytest

from spade_keras import data
from spade_keras.data import fastmri
from spade_keras.data.fastmri_file import FastMRIHeader, parse_header
from spade_keras.data.fastmri_writing import write_header
from spade_keras.operators import CartesianMRI

pytestmark = pytest.mark.once

LAYOUT = data.FastMRILayout(coils=3, width=30, padding=(3, 2), noise_std=0.02)


def phantom(slices=3, height=20, width=24, seed=0):
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    stack = [((x**2 + (y / 0.9) ** 2 < 0.5 + 0.1 * i) * (1 + 0.3 * x)) for i in range(slices)]
    return np.stack(stack) * (1 + 0.1 * seed)


def write(folder, name="one.h5", *, slices=3, seed=0, **options):
    options = {"layout": LAYOUT} | options
    data.write_fastmri_like(folder / name, phantom(slices, seed=seed), seed=seed, **options)
    return folder / name


def plain_fft(x, inverse=False, axes=(-2, -1)):
    transform = np.fft.ifftn if inverse else np.fft.fftn
    shifted = np.fft.ifftshift(x.astype("complex128"), axes=axes)
    return np.fft.fftshift(transform(shifted, axes=axes, norm="ortho"), axes=axes)


def complex_of(channels):
    return channels[..., 0] + 1j * channels[..., 1]


@pytest.mark.parametrize("coils", [3, None])
def test_layout_is_that_of_fastmri(tmp_path, coils):
    layout = data.FastMRILayout(coils=coils, width=30, padding=(3, 2), noise_std=0.02)
    file = write(tmp_path, layout=layout)
    with h5py.File(file) as opened:
        kspace = opened["kspace"][()]
        key = "reconstruction_esc" if coils is None else "reconstruction_rss"
        target = opened[key][()]
        header = opened["ismrmrd_header"][()]
        attributes = dict(opened.attrs)
    assert kspace.dtype == np.complex64
    assert kspace.shape == (3, *([] if coils is None else [coils]), 40, 30)
    # |center crop of ifft2c(kspace)| is the target.
    images = np.abs(plain_fft(kspace, inverse=True))[..., 10:30, 3:27]
    expected = images if coils is None else np.sqrt((images**2).sum(1))
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-6 * target.max())
    # What fastMRI's own code reads from the header.
    sizes = parse_header(header)
    assert (sizes.encoded, sizes.recon) == ((40, 30), (20, 24))
    padding_left = sizes.encoded[1] // 2 - sizes.center
    assert (padding_left, padding_left + sizes.last + 1) == (3, 28)
    assert not kspace[..., :3].any()
    assert not kspace[..., 28:].any()
    assert kspace[..., 3].all()
    assert kspace[..., 27].all()
    assert attributes["max"] == pytest.approx(target.max())
    assert attributes["norm"] == pytest.approx(np.linalg.norm(target), rel=1e-5)
    assert (attributes["acquisition"], attributes["patient_id"]) == ("AXT1", "one")


@pytest.mark.parametrize("coils", [3, None])
@pytest.mark.parametrize("crop", fastmri.CROPS)
def test_unmasked_measurements_give_the_stored_images(tmp_path, crop, coils):
    layout = data.FastMRILayout(coils=coils, width=29, noise_std=0.02)
    opened = data.open_fastmri(write(tmp_path, layout=layout), crop=crop)
    assert len(opened) == 3
    kspace = complex_of(np.asarray(opened.inputs["measurements"]))
    assert kspace.shape[-2:] == {"recon": (20, 24), "readout": (20, 29), "none": (40, 29)}[crop]
    images = np.abs(plain_fft(kspace, inverse=True))
    images = images if coils is None else np.sqrt((images**2).sum(1))
    truth = np.asarray(opened.targets)
    assert truth.shape == (3, 20, 24, 1)
    assert truth.dtype == np.float32
    height, width = images.shape[1:]
    top, left = (height - 20) // 2, (width - 24) // 2
    cropped = images[:, top : top + 20, left : left + 24]
    np.testing.assert_allclose(cropped, truth[..., 0], atol=1e-5)
    # Scaled by one number per volume, such that the middle slice peaks at 1.
    assert images[1].max() == pytest.approx(1, rel=1e-5)
    assert len(set(opened.scales[:].tolist())) == 1
    raw = data.open_fastmri(opened.volumes[0].file, crop=crop, scaling="none")
    np.testing.assert_allclose(truth * opened.scales[0], raw.targets[:], rtol=1e-5)


@pytest.mark.parametrize("target", ["stored", "magnitude", "complex"])
def test_targets(tmp_path, target):
    file = write(tmp_path)
    maps = partial(constant_maps, coils=3)
    opened = data.open_fastmri(file, target=target, crop="readout", coil_maps=maps)
    truth = opened.targets[1]
    assert truth.shape == {"stored": (20, 24, 1), "magnitude": (20, 30, 1)}.get(target, (20, 30, 2))
    images = plain_fft(complex_of(opened.inputs["measurements"][1]), inverse=True)
    root = np.sqrt((np.abs(images) ** 2).sum(0))
    expected = {"stored": root[:, 3:27], "magnitude": root, "complex": images.sum(0) / np.sqrt(3)}
    found = complex_of(truth) if target == "complex" else truth[..., 0]
    np.testing.assert_allclose(found, expected[target], atol=1e-5)


def constant_maps(kspace, mask, coils):
    assert not kspace[:, np.broadcast_to(mask == 0, kspace.shape[1:])].any()
    return np.full(kspace.shape, coils**-0.5, "complex64")


def test_masks_are_drawn_by_the_name_of_the_file(tmp_path):
    mask = data.get_mask("random", acceleration=3, acs_lines=4)
    for seed, name in enumerate(["one.h5", "two.h5"]):
        write(tmp_path, name, seed=seed)
    (tmp_path / "moved").mkdir()
    write(tmp_path / "moved", "two.h5", seed=1)
    opened = data.open_fastmri([tmp_path / "one.h5", tmp_path / "two.h5"], mask=mask)
    moved = data.open_fastmri(tmp_path / "moved", mask=mask)
    masks = np.asarray(opened.inputs["mask"])
    assert masks.shape == (6, 1, 24)
    assert (masks[:3] == masks[0]).all()
    assert (masks[0] != masks[3]).any()
    np.testing.assert_array_equal(moved.inputs["mask"][0], masks[3])
    other = data.open_fastmri(tmp_path / "moved", mask=mask, seed=1)
    assert (other.inputs["mask"][0] != masks[3]).any()
    measured = np.asarray(opened.inputs["measurements"])
    for i in range(6):
        sampled = np.broadcast_to(masks[i] > 0, measured.shape[2:4])
        assert not measured[i, :, ~sampled].any()
        assert (measured[i, :, sampled] != 0).all()


def test_padding_is_not_sampled(tmp_path):
    file = write(tmp_path)  # columns 3 to 27 of 30
    full = data.open_fastmri(file, crop="readout")
    np.testing.assert_array_equal(np.flatnonzero(full.inputs["mask"][0]), np.arange(3, 28))
    assert full.true_acceleration == pytest.approx(1)
    # A field of view of 24 columns samples k-space more coarsely: 30 / 24 columns apart.
    cropped = data.open_fastmri(file)
    columns = 15 + (np.arange(24) - 12) * 30 / 24
    sampled = cropped.inputs["mask"][0][0] > 0
    np.testing.assert_array_equal(sampled, (columns >= 2.5) & (columns <= 27.5))
    assert 0 < sampled.sum() < 24
    every_fourth = data.get_mask("equispaced", acceleration=4, acs_lines=6)
    opened = data.open_fastmri(file, mask=every_fourth, crop="readout")
    assert opened.true_acceleration == pytest.approx(25 / opened.inputs["mask"][0].sum())


def test_undersampled_files_keep_their_mask(tmp_path):
    mask = np.zeros(30)
    mask[[4, 9, 13, 14, 15, 16, 21]] = 1
    file = write(tmp_path, mask=mask)
    with h5py.File(file) as opened:
        assert sorted(opened) == ["ismrmrd_header", "kspace", "mask"]
        assert not opened["kspace"][..., mask == 0].any()
    drawn = data.get_mask("random", acceleration=2, acs_lines=2)
    read = data.open_fastmri(file, mask=drawn, target=None, crop="readout")
    np.testing.assert_array_equal(read.inputs["mask"][0][0], mask)
    assert read.targets is None
    with pytest.raises(data.BadFileError, match=r"`reconstruction_rss`.*target=None"):
        data.open_fastmri(file, crop="readout")
    with pytest.raises(data.BadFileError, match=r"`mask`.*crop='readout'"):
        data.open_fastmri(file, target=None)
    with pytest.raises(data.BadFileError, match=r"`mask`.*Pass target=None"):
        data.open_fastmri(file, target="magnitude", crop="readout")


def test_two_dimensional_masks(tmp_path):
    disc = data.get_mask("poisson_disc", acceleration=3, acs_lines=4)
    opened = data.open_fastmri(write(tmp_path), mask=disc)
    assert opened.inputs["mask"].shape == (3, 20, 24)
    mask = opened.inputs["mask"][0]
    assert ((opened.inputs["measurements"][0] != 0).any((0, -1)) == (mask > 0)).all()


def test_inputs_are_those_of_the_operator(tmp_path):
    mask = data.get_mask("equispaced", acceleration=3, acs_lines=6)
    maps = partial(constant_maps, coils=3)
    opened = data.open_fastmri(
        write(tmp_path), mask=mask, coil_maps=maps, crop="readout", target="complex"
    )
    batches = data.SliceDataset(opened.inputs, opened.targets, batch_size=2)
    inputs, truth = batches[0]
    assert {k: v.shape for k, v in inputs.items()} == {
        "measurements": (2, 3, 20, 30, 2),
        "mask": (2, 1, 30),
        "sensitivities": (2, 3, 20, 30, 2),
    }
    assert truth.shape == (2, 20, 30, 2)
    operator = CartesianMRI()
    zero_filled = operator.adjoint(inputs["measurements"], **operator.parameters(inputs))
    kspace = complex_of(inputs["measurements"])
    expected = plain_fft(kspace, inverse=True).sum(1) / np.sqrt(3)
    np.testing.assert_allclose(complex_of(np.asarray(zero_filled)), expected, atol=1e-5)


def test_opening_reads_no_kspace(tmp_path, monkeypatch):
    write(tmp_path)
    reads = []
    original = h5py.Dataset.__getitem__

    def counted(self, *args, **kwargs):
        reads.append((self.name, args[0]))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    opened = data.open_fastmri(tmp_path, scaling="none")
    inputs, truth = opened.inputs, opened.targets
    assert inputs["measurements"].shape == (3, 3, 20, 24, 2)
    assert {name for name, _ in reads} == {"/ismrmrd_header"}
    reads.clear()
    assert truth[2].shape == (20, 24, 1)
    assert inputs["measurements"][[1]].shape == (1, 3, 20, 24, 2)
    assert reads == [("/reconstruction_rss", 2), ("/kspace", 1)]


def test_volumes_of_different_sizes(tmp_path):
    write(tmp_path, "a.h5", layout=data.FastMRILayout(coils=3, width=30))
    write(tmp_path, "b.h5", layout=data.FastMRILayout(coils=3, width=26), slices=2)
    opened = data.open_fastmri(tmp_path, crop="readout")
    assert opened.inputs["measurements"].shape == (5, 3, 20, None, 2)
    assert opened.volume_index.tolist() == [0, 0, 0, 1, 1]
    assert [opened.inputs["measurements"][i].shape[2] for i in (2, 3)] == [30, 26]
    with pytest.raises(ValueError, match="batch_size=1"):
        opened.inputs["measurements"][2:4]
    cropped = data.open_fastmri(tmp_path)
    assert cropped.inputs["measurements"][:].shape == (5, 3, 20, 24, 2)


def test_split_keeps_patients_apart(tmp_path):
    for i in range(8):
        write(tmp_path, f"{i}.h5", slices=1 + i % 2, patient_id=f"patient {i // 2}")
    opened = data.open_fastmri(tmp_path)
    parts = opened.split(validation=1, test=1, seed=2)
    patients = [{volume.patient for volume in part.volumes} for part in parts]
    assert [len(p) for p in patients] == [2, 1, 1]
    assert set.union(*patients) == {f"patient {i}" for i in range(4)}
    assert sum(len(part) for part in parts) == len(opened) == 12
    again = opened.split(validation=1, test=1, seed=2)
    assert [v.file for v in again[2].volumes] == [v.file for v in parts[2].volumes]
    tests = {opened.split(validation=1, test=1, seed=s)[2].volumes[0].patient for s in range(9)}
    assert len(tests) > 1
    with pytest.raises(ValueError, match="leave some to train on"):
        opened.split(validation=2, test=2)


needs_descriptors = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux lists them"
)


def open_files(folder):
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    found = [os.path.realpath(link) for link in links if os.path.exists(link)]
    return sum(path.startswith(str(folder)) for path in found)


@needs_descriptors
def test_no_file_stays_open(tmp_path):
    for i in range(2):
        write(tmp_path, f"{i}.h5", slices=1)
    opened = data.open_fastmri(tmp_path)
    np.asarray(opened.targets)
    np.asarray(opened.inputs["measurements"])
    assert open_files(tmp_path) == 0


def test_threads_and_forks_read_the_same(tmp_path):
    for i in range(2):
        write(tmp_path, f"{i}.h5", slices=2, seed=i)
    opened = data.open_fastmri(tmp_path)
    expected = np.asarray(opened.targets).sum()

    def read(put):
        put(np.asarray(opened.targets).sum())

    context = multiprocessing.get_context("fork")
    found, sums = context.Queue(), []
    workers = [context.Process(target=read, args=(found.put,)) for _ in range(2)]
    workers += [threading.Thread(target=read, args=(sums.append,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    sums += [found.get(timeout=60) for _ in range(2)]
    for worker in workers:
        worker.join(60)
    assert sums == pytest.approx([expected] * 4)


def test_pickles(tmp_path):
    mask = data.get_mask("random", acceleration=2, acs_lines=4)
    opened = data.open_fastmri(write(tmp_path), mask=mask)
    first = opened.inputs["measurements"][:]
    again = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(again.inputs["measurements"][:], first)
    truth = pickle.loads(pickle.dumps(opened.targets))
    np.testing.assert_array_equal(truth[:], opened.targets[:])


def test_header_round_trips():
    header = FastMRIHeader((640, 372), (320, 320), 0, 332, 166)
    assert parse_header(write_header(header)) == header
    assert header.acquired(372) == (20, 353)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "all"}, "`crop` must be one of"),
        ({"target": "rss"}, "`target` must be one of"),
        ({"scaling": 3}, "`scaling` must be one of"),
        ({"target": "complex"}, "coil_maps=None"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        data.open_fastmri(write(tmp_path), **options)


def test_kinds_of_files_are_not_mixed(tmp_path):
    write(tmp_path, "a.h5")
    write(tmp_path, "b.h5", layout=data.FastMRILayout(coils=None, width=30))
    with pytest.raises(ValueError, match="not both"):
        data.open_fastmri(tmp_path)
    with pytest.raises(ValueError, match="no coil maps"):
        data.open_fastmri(tmp_path / "b.h5", coil_maps=constant_maps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": data.FastMRILayout(width=20)}, "at least the 24 columns"),
        ({"layout": data.FastMRILayout(width=24, padding=(20, 4))}, "padding that leaves"),
        ({"mask": np.ones(24)}, r"shape \(30,\)"),
    ],
)
def test_wrong_writing(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="slices, height, width"):
        data.write_fastmri_like(tmp_path / "a.h5", np.zeros((4, 4)))
