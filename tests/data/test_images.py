"""Images from files, and patches of them."""

import numpy as np
import pytest
from PIL import Image

from spade_keras import data

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
