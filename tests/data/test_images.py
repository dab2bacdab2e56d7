"""Photographs, stacks and volumes from files."""

import numpy as np
import pytest
from PIL import Image

from spade_keras import data
from spade_keras.data.array_files import AXES

pytestmark = pytest.mark.once


def pixels(shape=(10, 14, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "jpg"])
@pytest.mark.parametrize("shape", [(10, 14, 3), (10, 14)])
def test_every_format(tmp_path, suffix, shape):
    smooth = np.add.outer(np.arange(10), np.arange(14))[..., None] * 8 + np.arange(3)
    values = (smooth if len(shape) == 3 else smooth[..., 0]).astype("uint8")
    Image.fromarray(values).save(tmp_path / f"image.{suffix}", quality=98)
    opened = data.open_images(tmp_path)
    assert opened.images.shape == (1, 10, 14, 3)
    assert opened.images.dtype == np.float32
    expected = (values if len(shape) == 3 else values[..., None].repeat(3, -1)) / 255
    tolerance = 0.03 if suffix == "jpg" else 1e-6
    np.testing.assert_allclose(opened.images[0], expected, atol=tolerance)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 255]], "uint8"), [0, 1]),
        (np.array([[0, 65535, 257]], "uint16"), [0, 1, 257 / 65535]),
        (np.array([[0.25, 1.0]], "float32"), [0.25, 1]),
        (np.array([[True, False]]), [1, 0]),
    ],
)
def test_scale_is_that_of_the_type(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "image.tif")
    image = data.read_image(tmp_path / "image.tif", channels=1)
    np.testing.assert_allclose(image[0, :, 0], expected, atol=1e-7)


def test_modes(tmp_path):
    color = pixels()
    Image.fromarray(np.dstack([color, color[..., :1]])).save(tmp_path / "rgba.png")
    Image.fromarray(color[..., 0]).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(color[..., 0]).convert("LA").save(tmp_path / "la.png")
    grey = np.repeat(color[..., :1], 3, -1) / 255
    np.testing.assert_allclose(data.read_image(tmp_path / "rgba.png"), color / 255, atol=1e-6)
    np.testing.assert_allclose(data.read_image(tmp_path / "palette.png"), grey, atol=1e-6)
    np.testing.assert_allclose(data.read_image(tmp_path / "la.png"), grey, atol=1e-6)
    luma = data.read_image(tmp_path / "rgba.png", channels=1)
    expected = color @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(luma[..., 0], expected, atol=1e-6)


def test_rotation_of_the_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels()).save(tmp_path / "turned.png", exif=exif)
    opened = data.open_images(tmp_path)
    assert opened.images.shape == (1, 14, 10, 3)
    np.testing.assert_allclose(opened.images[0], np.rot90(pixels(), -1) / 255, atol=1e-6)


def test_folder_is_read_in_the_order_of_names_and_lazily(tmp_path):
    (tmp_path / "sub").mkdir()
    for seed, name in enumerate(["b.png", "a.PNG", "sub/c.bmp", "note.txt"]):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image")
        else:
            Image.fromarray(pixels((8, 6 + seed), seed)).save(tmp_path / name)
    opened = data.open_images(tmp_path, channels=1)
    assert [file.name for file in opened.files] == ["a.PNG", "b.png", "c.bmp"]
    assert opened.images.shape == (3, None, None, 1)
    assert [image.shape for image in opened.images] == [(8, 7, 1), (8, 6, 1), (8, 8, 1)]
    np.testing.assert_allclose(opened.images[2][..., 0], pixels((8, 8), 2) / 255, atol=1e-6)


def test_bad_images(tmp_path):
    Image.fromarray(pixels((40, 40, 3))).save(tmp_path / "bad.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "bad.png").read_bytes()[:1000])
    Image.fromarray(pixels()).save(tmp_path / "good.png")
    Image.fromarray(np.array([[np.nan, 2.0]], "float32")).save(tmp_path / "nan.tif")
    Image.fromarray(np.array([[0.5, 2.0]], "float32")).save(tmp_path / "range.tif")
    for name, message in (("bad", "whole image"), ("nan", "finite"), ("range", r"in \[0, 1\]")):
        (file,) = tmp_path.glob(f"{name}.*")
        with pytest.raises(
            data.BadFileError, match=rf"{file.name}`: `content` must be .*{message}"
        ):
            data.open_images(file).images[0]
    opened = data.open_images(tmp_path, skip_bad=True)
    assert [file.name for file in opened.files] == ["good.png"]
    assert len(opened.skipped) == 3
    with pytest.raises(ValueError, match="channels=2"):
        data.open_images(tmp_path, channels=2)


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


def test_photographs_are_bundled():
    pytest.importorskip("skimage")
    photographs = data.load_photographs()
    assert list(photographs) == list(data.PHOTOGRAPHS)
    for image in photographs.values():
        assert image.shape[-1] == 3
        assert 0 <= image.min() < 0.1
        assert 0.8 < image.max() <= 1
    assert data.load_photographs(["cat"], channels=1)["cat"].shape == (300, 451, 1)
    with pytest.raises(ValueError, match=r"some of \['astronaut'"):
        data.load_photographs(["dog"])


def test_patches_are_cut_from_the_images():
    flat = np.arange(12 * 17.0).reshape(12, 17, 1)
    images = [flat, np.zeros((4, 4, 1)), 1000 + flat[:9, :9]]
    patches = data.random_patches(images, 200, 5, seed=1)
    assert patches.shape == (200, 5, 5, 1)
    assert patches.dtype == np.float32
    # Pixels of a patch differ by 1 and 17 along its sides, in either order and direction.
    steps = {(abs(p[1, 0, 0] - p[0, 0, 0]), abs(p[0, 1, 0] - p[0, 0, 0])) for p in patches}
    assert steps == {(17, 1), (1, 17)}
    turns = {(p[1, 0, 0] - p[0, 0, 0], p[0, 1, 0] - p[0, 0, 0]) for p in patches}
    assert len(turns) == 8
    share = (patches[:, 0, 0, 0] >= 1000).mean()  # by the number of places
    assert share == pytest.approx(25 / (25 + 8 * 13), abs=0.08)
    np.testing.assert_array_equal(patches, data.random_patches(images, 200, 5, seed=1))
    assert (patches != data.random_patches(images, 200, 5, seed=2)).any()
    assert data.random_patches(images, 3, (2, 6)).shape == (3, 2, 6, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 20), "at least 20 x 20"), ((0, 5), "count=0"), ((1, 0), "size=0")],
)
def test_wrong_patches(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.random_patches([np.zeros((12, 17, 1))], *arguments)
