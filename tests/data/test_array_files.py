"""Stacks, volumes, measured k-space and labeled samples from files."""

import numpy as np
import pytest

from spade_keras import data
from spade_keras.data import masks
from spade_keras.data.array_files import AXES
from spade_keras.data.multicoil import coil_sensitivities, fft2c
from spade_keras.errors import SpadeError

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("array", "shape", "peak"),
    [
        (np.arange(24, dtype="float64").reshape(2, 3, 4), (2, 3, 4, 1), 23),
        (np.full((2, 3, 4, 3), 255, "uint8"), (2, 3, 4, 3), 1),
        (np.full((2, 3, 4), 3 + 4j, "complex64"), (2, 3, 4, 2), 4),
    ],
)
def test_stacks(tmp_path, array, shape, peak):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", images=array)
    np.savez(tmp_path / "b.npz", images=array, others=array[:1])
    stack = data.load_stack(tmp_path / "a.npy")
    assert (stack.shape, stack.dtype) == (shape, np.float32)
    assert stack.max() == peak
    np.testing.assert_array_equal(data.load_stack(tmp_path / "a.npz"), stack)
    np.testing.assert_array_equal(data.load_stack(tmp_path / "b.npz", key="images"), stack)
    scaled = data.load_stack(tmp_path / "a.npy", peak=2.0)
    largest = np.linalg.norm(scaled, axis=-1).max() if shape[-1] == 2 else scaled.max()
    assert largest == pytest.approx(2)
    with pytest.raises(data.BadFileError, match=r"`key`.*\['images', 'others'\]"):
        data.load_stack(tmp_path / "b.npz")
    with pytest.raises(data.BadFileError, match=r"`x` must be an array of the file"):
        data.load_stack(tmp_path / "b.npz", key="x")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), r"shape \(3, 4\)"),
        (np.array([[["a"]]]), "numbers"),
        (np.full((1, 2, 2), np.inf), "finite"),
        (np.zeros((1, 2, 2, 2), complex), "where complex"),
        (np.zeros((0, 2, 2)), "numbers"),
    ],
)
def test_wrong_stacks(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(data.BadFileError, match=rf"a\.npy`: `content` must be .*{message}"):
        data.load_stack(tmp_path / "a.npy")


def test_zeros_cannot_be_scaled(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 2, 2)))
    with pytest.raises(data.BadFileError, match="more than zeros"):
        data.load_stack(tmp_path / "a.npy", peak=1.0)


@pytest.mark.parametrize("slices", sorted(AXES))
@pytest.mark.parametrize("turned", [False, True])
def test_nifti_is_turned_to_the_patient(tmp_path, slices, turned):
    nibabel = pytest.importorskip("nibabel")
    # Brightness grows to the right, the front and the top, at different rates.
    right, front, top = np.mgrid[:4, :5, :6]
    volume = (1.0 * right + 10 * front + 100 * top).astype("float32")
    stored, affine = volume, np.eye(4)
    if turned:  # stored as top, left, front
        stored = np.moveaxis(volume[::-1], 2, 0)
        affine = np.array([[0, -1, 0, 3], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(stored, affine), tmp_path / "volume.nii.gz")
    stack = data.load_nifti(tmp_path / "volume.nii.gz", slices=slices, peak=None)
    expected = {"sagittal": volume, "coronal": volume.swapaxes(0, 1)}
    np.testing.assert_array_equal(stack, expected.get(slices, np.moveaxis(volume, 2, 0)))
    assert stack.dtype == np.float32
    assert data.load_nifti(tmp_path / "volume.nii.gz").max() == pytest.approx(1)


def test_wrong_nifti(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    file = tmp_path / "a.nii"
    for array, message in (
        (np.zeros((3, 4, 5, 2), "float32"), "three axes"),
        (np.full((2, 2, 2), np.nan, "float32"), "finite"),
        (np.zeros((2, 2, 2), "float32"), "more than zeros"),
    ):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), file)
        with pytest.raises(data.BadFileError, match=rf"a\.nii`: `content` must be .*{message}"):
            data.load_nifti(file)
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4, 1), "float32"), np.eye(4)), file)
    assert data.load_nifti(file).shape == (4, 2, 3)
    with pytest.raises(ValueError, match="slices='oblique'"):
        data.load_nifti(file, slices="oblique")


def scan(coils=4, height=40, width=36, acs_lines=12, seed=0):
    """Maps, mask and masked k-space of a disc."""
    maps = coil_sensitivities(coils, height, width, np.random.default_rng(seed))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    disc = (x**2 + y**2 < 0.6) * (1 + 0.3 * x) * np.exp(1j * y)
    mask = masks.equispaced((height, width), acceleration=3, acs_lines=acs_lines, offset=0)
    return maps, disc, mask, (fft2c(maps * disc) * mask).astype("complex64")


def individual(tmp_path, slices=None):
    disc = masks.poisson_disc((40, 36), acceleration=3, acs_lines=12)
    kspace = (scan(acs_lines=36)[3] * 40 * disc).astype("complex64")
    stack = kspace if slices is None else np.stack([kspace] * slices)
    np.save(tmp_path / "scan.npy", stack)
    return tmp_path / "scan.npy", kspace, disc


@pytest.mark.parametrize("slices", [None, 2])
def test_scan_of_an_individual(tmp_path, slices):
    pytest.importorskip("sigpy")
    file, kspace, disc = individual(tmp_path, slices)
    read = data.load_kspace(file, coil_maps=data.espirit_maps)
    assert len(read) == (slices or 1)
    assert read.targets is None
    np.testing.assert_array_equal(read.inputs["mask"], np.stack([disc] * len(read)))
    assert read.true_acceleration == pytest.approx(3, rel=0.01)
    measured = read.inputs["measurements"]
    assert measured.dtype == np.float32
    complex_values = measured[..., 0] + 1j * measured[..., 1]
    np.testing.assert_allclose(complex_values[0] * read.scale, kspace, atol=1e-4)
    images = np.fft.ifft2(np.fft.ifftshift(complex_values, axes=(-2, -1)), norm="ortho")
    assert np.sqrt((np.abs(images) ** 2).sum(1)).max() == pytest.approx(1, rel=1e-5)
    maps = read.inputs["sensitivities"]
    assert maps.shape == measured.shape
    assert (maps**2).sum((1, -1)).max() == pytest.approx(1, rel=1e-4)


def test_columns_make_a_mask_of_one_row(tmp_path):
    _, _, mask, kspace = scan()
    np.save(tmp_path / "scan.npy", kspace.astype("complex128"))
    read = data.load_kspace(tmp_path / "scan.npy")
    np.testing.assert_array_equal(read.inputs["mask"], mask[None])
    assert sorted(read.inputs) == ["mask", "measurements"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 4)), "must be complex.*float64"),
        (np.ones((4, 4), complex), r"coils, height, width.*shape \(4, 4\)"),
        (np.full((2, 4, 4), np.nan + 0j), "finite.*32 of 32"),
        (np.zeros((2, 4, 4), complex), "sampled in every slice"),
        (np.zeros((0, 4, 4), complex), r"shape \(0, 4, 4\)"),
        (np.array([None]), "an .npy or .npz file of arrays"),
    ],
)
def test_faulty_scans_are_named(tmp_path, array, message):
    np.save(tmp_path / "scan.npy", array)
    with pytest.raises(data.BadFileError, match=message) as caught:
        data.load_kspace(tmp_path / "scan.npy")
    assert str(caught.value).startswith(f"`{tmp_path / 'scan.npy'}`: `content` must be ")


def test_a_file_gives_samples_and_classes(tmp_path):
    x = np.arange(12, dtype="uint8").reshape(3, 2, 2)
    np.savez(tmp_path / "some.npz", x=x, y=np.array([[2], [0], [1]]), more=x)
    samples, classes = data.load_labeled_arrays(tmp_path / "some.npz")
    np.testing.assert_array_equal(samples, x)
    assert samples.dtype == np.float32
    assert classes.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 3))}, r"must hold the arrays x, y\. .* Received: \['x'\]"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(3, int)}, r"shape \(2, 3\), y of shape \(3,\)"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, "as integers"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, -1])}, "int64 from -1 to 0"),
        ({"x": np.full((2, 3), np.nan), "y": np.zeros(2, int)}, "must be finite"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, None])}, "cannot be read"),
    ],
)
def test_a_faulty_file_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(SpadeError, match=message) as caught:
        data.load_labeled_arrays(tmp_path / "some.npz")
    assert "some.npz" in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(SpadeError, match=r"text\.npz` cannot be read"):
        data.load_labeled_arrays(tmp_path / "text.npz")
