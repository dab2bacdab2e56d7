"""Folders of images, read one by one, and random patches of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spade_keras.data.reading import DataFile, LazyArray, list_files, read_all
from spade_keras.errors import importing, require

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_EXPECTED = "a whole image in one of the formats png, jpg, bmp and tif"
_REMEDY = "Repair or remove the file; `open_images` with skip_bad=True leaves it out."
_GREY = np.array([0.299, 0.587, 0.114], "float32")
"""Luma of ITU-R BT.601."""


@dataclass(frozen=True)
class ImageSet:
    """Images of `files`; `skipped` maps each file that was left out to the reason.

    `images` are float32 in [0, 1], read lazily: `(images, height, width, channels)`, where height
    and width are None if they differ.
    """

    images: LazyArray
    files: tuple[Path, ...]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.files)


def open_images(
    path: str | Path | Sequence[str | Path], *, channels: int = 3, skip_bad: bool = False
) -> ImageSet:
    """Opens images, grey or color, in the order of their file names, without reading their pixels.

    `path` is a file, a folder (with its subfolders), or a list of files. 8- and 16-bit values are
    divided by the largest their type holds; floating-point images must lie in [0, 1]. Transparency
    is dropped, palettes and EXIF rotations are applied. 3 `channels` repeat the values of grey
    images; 1 turns color into luma (ITU-R BT.601). `skip_bad` reads every file once, leaves out bad
    ones and lists them in `skipped`.

    Raises:
        BadFileError: If a file is damaged or holds something unexpected.
        MissingExtraError: If Pillow is not installed.
    """
    _pillow()
    require(channels in (1, 3), "`channels` must be 1 or 3.", channels=channels)
    look = partial(_look, decode=skip_bad)
    found, skipped = read_all(list_files(path, IMAGE_SUFFIXES), look, skip_bad=skip_bad)
    names = tuple(file for file, _ in found)
    sizes = {size for _, size in found}
    shape: tuple[int | None, int | None] = sizes.pop() if len(sizes) == 1 else (None, None)
    read = partial(_read_one, names, channels)
    return ImageSet(LazyArray(read, len(names), (*shape, channels)), names, skipped)


def read_image(file: str | Path, *, channels: int = 3) -> np.ndarray:
    """Reads one image, float32 `(height, width, channels)` in [0, 1]; see `open_images`."""
    source = DataFile(Path(file), _REMEDY)
    image, image_ops = _pillow()
    with source.reading("content", _EXPECTED), image.open(source.path) as opened:
        opened.load()
        turned = image_ops.exif_transpose(opened)
        if turned.mode in ("P", "PA", "LA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa"):
            turned = turned.convert("L" if turned.mode == "LA" else "RGB")
        pixels = np.asarray(turned)
    return _to_channels(source, _to_unit(source, pixels), channels)


def random_patches(
    images: Sequence[np.ndarray], count: int, size: int | tuple[int, int], *, seed: int = 0
) -> np.ndarray:
    """Cuts patches out of images, at random places, turned and mirrored at random.

    Larger images give more patches: every place of every image is equally likely.

    `images` are `(height, width, channels)` of any sizes, an array or a `LazyArray`; those smaller
    than a patch give none. `size` is the side of a patch or `(height, width)`; patches that are not
    square are not turned. Returns a float32 array `(count, height, width, channels)`.

    Example:
        >>> random_patches([np.zeros((9, 12, 3))], 5, 8).shape
        (5, 8, 8, 3)
    """
    height, width = (size, size) if isinstance(size, int) else size
    rule = "`count` and `size` must be at least 1."
    require(count >= 1 and min(height, width) >= 1, rule, count=count, size=size)
    rng = np.random.default_rng(seed)
    shapes = [image.shape for image in images]
    places = [max(h - height + 1, 0) * max(w - width + 1, 0) for h, w, _ in shapes]
    rule = f"`images` must hold one of at least {height} x {width} pixels."
    require(sum(places), rule, shapes=sorted(set(shapes)))
    chosen = rng.choice(len(shapes), count, p=np.array(places) / sum(places))
    patches: dict[int, np.ndarray] = {}
    # Image by image, so that few of a lazy set are held at once.
    for index in np.unique(chosen):
        image = np.asarray(images[int(index)], "float32")
        for patch in np.flatnonzero(chosen == index):
            top = rng.integers(image.shape[0] - height + 1)
            left = rng.integers(image.shape[1] - width + 1)
            cut = image[top : top + height, left : left + width]
            if height == width:
                cut = np.rot90(cut, int(rng.integers(4)))
            patches[int(patch)] = cut[:, ::-1] if rng.integers(2) else cut
    return np.stack([patches[patch] for patch in range(count)])


def _to_unit(file: DataFile, pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == bool:
        return pixels.astype("float32")
    if pixels.dtype == np.uint8:
        return pixels.astype("float32") / 255
    if pixels.dtype.kind in "iu":
        # 16-bit grey values may come as 32-bit integers.
        if pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
            return pixels.astype("float32") / 65535
        received = f"{pixels.dtype} from {pixels.min()} to {pixels.max()}"
        raise file.error("content", "of 8 or 16 bits a value", received)
    values = pixels.astype("float32")
    file.check_finite("content", values)
    if values.min() < 0 or values.max() > 1:
        received = f"{pixels.dtype} from {values.min():g} to {values.max():g}"
        raise file.error("content", "in [0, 1] where it is floating-point", received)
    return values


def _to_channels(file: DataFile, values: np.ndarray, channels: int) -> np.ndarray:
    if values.ndim == 2:
        values = values[..., None]
    fits = values.ndim == 3 and 0 not in values.shape and values.shape[-1] in (1, 3, 4)
    file.check_array(fits, "content", "a grey or color image", values)
    values = values[..., :3] if values.shape[-1] == 4 else values
    if values.shape[-1] == channels:
        return np.ascontiguousarray(values)
    if channels == 1:
        return (values @ _GREY)[..., None]
    return np.repeat(values, 3, axis=-1)


def _look(file: Path, *, decode: bool) -> tuple[Path, tuple[int, int]]:
    """The size of an image, from its first bytes alone unless it is to be decoded."""
    if decode:
        height, width, _ = read_image(file).shape
        return file, (height, width)
    image, _ = _pillow()
    source = DataFile(file, _REMEDY)
    with source.reading("content", _EXPECTED), image.open(file) as opened:
        turned = opened.getexif().get(274, 1) >= 5  # the tag of the orientation
        width, height = opened.size[::-1] if turned else opened.size
    return file, (height, width)


def _read_one(files: Sequence[Path], channels: int, index: int) -> np.ndarray:
    return read_image(files[index], channels=channels)


def _pillow() -> tuple[Any, Any]:
    with importing("pillow", "recipes"):
        from PIL import Image, ImageOps
    return Image, ImageOps
