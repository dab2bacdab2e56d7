"""Lazy arrays, and bad files: named by file, key and expectation, or skipped and listed."""

import pickle
import shutil
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import io

from spade_keras import data
from spade_keras.errors import SpadeError

pytestmark = pytest.mark.once


def volume(folder, name="good.h5"):
    images = np.random.default_rng(0).uniform(0.1, 1, (2, 8, 8))
    data.write_fastmri_like(folder / name, images, layout=data.FastMRILayout(coils=2))
    return folder / name


def replace(key, value):
    def change(file):
        with h5py.File(file, "r+") as opened:
            del opened[key]
            if value is not None:
                opened[key] = value

    return change


def poke(key, value):
    def change(file):
        with h5py.File(file, "r+") as opened:
            index = (1,) + (0,) * (opened[key].ndim - 1)
            opened[key][index] = value

    return change


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def attribute(file):
    with h5py.File(file, "r+") as opened:
        opened.attrs["max"] = np.inf


SHAPE = (2, 2, 16, 9)


FAULTS = {
    "empty": (lambda file: file.write_bytes(b""), "content", "a whole HDF5 file.*an empty file"),
    "truncated": (truncate, "content", "a whole HDF5 file.*truncated"),
    "text": (lambda file: file.write_text("no data"), "content", "a whole HDF5 file"),
    "no k-space": (replace("kspace", None), "kspace", r"a data set.*\['ismrmrd_header', 'recon"),
    "real k-space": (
        replace("kspace", np.zeros(SHAPE, "float32")),
        "kspace",
        r"complex64 of shape \(slices, coils, height, width\).*float32",
    ),
    "double k-space": (replace("kspace", np.zeros(SHAPE, "complex128")), "kspace", "complex128"),
    "two axes": (replace("kspace", np.zeros((4, 4), "complex64")), "kspace", r"shape \(4, 4\)"),
    "no slices": (replace("kspace", np.zeros((0, 2, 16, 9), "complex64")), "kspace", r"\(0, 2"),
    "no header": (replace("ismrmrd_header", None), "ismrmrd_header", "a data set"),
    "damaged header": (
        replace("ismrmrd_header", "<a><b>"),
        "ismrmrd_header",
        "ISMRMRD's XML.*no element",
    ),
    "other header": (replace("ismrmrd_header", "<a/>"), "ismrmrd_header", "no encoding/encoded"),
    "number as header": (replace("ismrmrd_header", 3.0), "ismrmrd_header", "ISMRMRD's XML"),
    "no truth": (replace("reconstruction_rss", None), "reconstruction_rss", "target=None"),
    "truth of other slices": (
        replace("reconstruction_rss", np.zeros((3, 8, 8), "float32")),
        "reconstruction_rss",
        r"of shape \(2, height, width\).*\(3, 8, 8\)",
    ),
    "truth too large": (
        replace("reconstruction_rss", np.zeros((2, 8, 10), "float32")),
        "reconstruction_rss",
        "at most 16 x 9",
    ),
    "complex truth": (
        replace("reconstruction_rss", np.zeros((2, 8, 8), "complex64")),
        "reconstruction_rss",
        "real",
    ),
    "NaN in k-space": (poke("kspace", np.nan), "kspace", "finite.*1 of 288 values"),
    "infinite truth": (poke("reconstruction_rss", np.inf), "reconstruction_rss", "1 of 64 values"),
    "infinite attribute": (attribute, "max", "a finite attribute.*inf"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faulty_volume_is_named_or_skipped(tmp_path, fault):
    change, key, message = FAULTS[fault]
    change(volume(tmp_path, "bad.h5"))
    volume(tmp_path)
    with pytest.raises(
        data.BadFileError, match=rf"bad\.h5`: `{key}` must be .*{message}"
    ) as caught:
        opened = data.open_fastmri(tmp_path)
        np.asarray(opened.inputs["measurements"])  # numbers are looked at when they are read
        np.asarray(opened.targets)
    assert (caught.value.file, caught.value.key) == (str(tmp_path / "bad.h5"), key)
    assert isinstance(caught.value, SpadeError)
    opened = data.open_fastmri(tmp_path, skip_bad=True)
    assert [v.file.name for v in opened.volumes] == ["good.h5"]
    (reason,) = opened.skipped.values()
    assert list(opened.skipped) == [str(tmp_path / "bad.h5")]
    assert f"`{key}` must be" in reason
    assert len(np.asarray(opened.targets)) == 2


def test_errors_cross_processes(tmp_path):
    truncate(volume(tmp_path))
    with pytest.raises(data.BadFileError) as caught:
        data.open_fastmri(tmp_path)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.key == "content"


def test_nothing_left():
    with pytest.raises(SpadeError, match=r"does not exist"):
        data.open_fastmri("/nowhere")


def test_empty_folder_and_only_bad_files(tmp_path):
    with pytest.raises(SpadeError, match=r"ending in \.h5, \.hdf5.*holds none"):
        data.open_fastmri(tmp_path)
    truncate(volume(tmp_path))
    with pytest.raises(SpadeError, match=r"No file can be used.*good\.h5"):
        data.open_fastmri(tmp_path, skip_bad=True)


def test_a_file_that_vanishes_is_named(tmp_path):
    file = volume(tmp_path)
    opened = data.open_fastmri(file)
    file.unlink()
    with pytest.raises(
        data.BadFileError, match=r"good\.h5`: `reconstruction_rss` must be readable"
    ):
        opened.targets[0]


def image_file(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype="uint8")
    Image.fromarray(pixels).save(folder / "one.png")
    return folder / "one.png", lambda file: data.open_images(file).images[0]


def npz_file(folder):
    np.savez_compressed(folder / "one.npz", x=np.arange(24.0).reshape(2, 3, 4))
    return folder / "one.npz", data.load_stack


def npy_file(folder):
    np.save(folder / "one.npy", np.ones((2, 3, 4, 4), "complex64"))
    return folder / "one.npy", data.load_kspace


def mat_file(folder):
    kernels = np.empty((1, 2), object)
    kernels[0, 0] = kernels[0, 1] = data.gaussian_kernel(1.0, size=7)
    io.savemat(folder / "one.mat", {"kernels": kernels}, do_compression=True)
    return folder / "one.mat", data.load_kernels


def nifti_file(folder):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(
        nibabel.Nifti1Image(np.ones((4, 5, 6), "float32"), np.eye(4)), folder / "one.nii.gz"
    )
    return folder / "one.nii.gz", data.load_nifti


def fastmri_file(folder):
    return volume(folder), lambda file: np.asarray(data.open_fastmri(file).targets)


KINDS = [fastmri_file, image_file, mat_file, nifti_file, npy_file, npz_file]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_cut_anywhere_gives_an_error_that_names_the_file(make):
    folder = Path(tempfile.mkdtemp())
    file, read = make(folder)
    content = file.read_bytes()
    read(file)

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(st.floats(0, 1, exclude_max=True))
    def cut(fraction):
        # The last bytes of some formats may be missing without harm.
        length = int(fraction * (len(content) - 16))
        file.write_bytes(content[:length])
        with pytest.raises(SpadeError, match=file.name):
            read(file)

    try:
        cut()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("make", KINDS[1:], ids=lambda make: make.__name__)
def test_flipped_bytes_give_an_error_that_names_the_file_or_other_numbers(make):
    folder = Path(tempfile.mkdtemp())
    file, read = make(folder)
    content = file.read_bytes()

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, len(content) - 1), st.integers(1, 255))
    def flip(position, change):
        damaged = bytearray(content)
        damaged[position] ^= change
        file.write_bytes(damaged)
        try:
            read(file)
        except SpadeError as error:
            assert file.name in str(error)

    try:
        flip()
    finally:
        shutil.rmtree(folder)


STORED = np.random.default_rng(0).normal(size=(7, 3, 2)).astype("float32")


def lazy():
    reads = []

    def read(index):
        reads.append(index)
        return STORED[index]

    return data.LazyArray(read, 7, (3, 2)), reads


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        np.int64(3),
        slice(2, 5),
        slice(None, None, -2),
        slice(9, 12),
        [1, 1, -2],
        np.array([6, 0]),
        np.array([], int),
        [],
        np.arange(7) % 2 == 0,
    ],
)
def test_indexes_as_numpy_does(index):
    array, reads = lazy()
    found, expected = array[index], STORED[index]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert len(reads) == expected.size // 6  # nothing else was read


def test_looks_like_an_array():
    array, reads = lazy()
    assert (array.shape, array.ndim, array.dtype, len(array)) == ((7, 3, 2), 3, np.float32, 7)
    assert not reads
    np.testing.assert_array_equal(np.asarray(array), STORED)
    np.testing.assert_array_equal(np.asarray(array, "float64"), STORED.astype("float64"))
    np.testing.assert_array_equal(np.stack(list(array)), STORED)
    doubled = keras.tree.map_structure(lambda a: a[:2] * 2, {"x": array})
    np.testing.assert_array_equal(doubled["x"], STORED[:2] * 2)


def test_batches_read_their_own_slices_alone():
    array, reads = lazy()
    batches = data.SliceDataset({"x": array}, array, batch_size=2)
    inputs, targets = batches[1]
    np.testing.assert_array_equal(inputs["x"], STORED[2:4])
    np.testing.assert_array_equal(targets, STORED[2:4])
    assert reads == [2, 3, 2, 3]


@pytest.mark.parametrize(
    "index", [7, -8, [7], 1.0, "a", (0, 1), None, [[0]], [0.5], np.ones(6, bool)]
)
def test_wrong_index(index):
    with pytest.raises(IndexError, match="index"):
        lazy()[0][index]


def test_entries_of_different_shapes():
    ragged = data.LazyArray(lambda i: np.zeros((i, 2)), 4, (None, 2))
    assert ragged.shape == (4, None, 2)
    assert ragged[3:].shape == (1, 3, 2)
    with pytest.raises(ValueError, match=r"batch_size=1.*\(1, 2\), \(2, 2\)"):
        ragged[1:3]
    with pytest.raises(ValueError, match="copy"):
        np.array(ragged, copy=False)
