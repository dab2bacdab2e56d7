"""The photographs that scikit-image bundles, and random patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from spade_keras.data.image_files import open_images
from spade_keras.errors import MissingExtraError

PHOTOGRAPHS: dict[str, str] = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "hubble": "hubble_deep_field.jpg",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
"""Photographs that lie in scikit-image's wheel, so that none is downloaded; name -> file."""


def load_photographs(
    names: Iterable[str] | None = None, *, channels: int = 3
) -> dict[str, np.ndarray]:
    """Loads photographs that scikit-image bundles.

    Args:
        names: Keys of `PHOTOGRAPHS`; None: all.
        channels: 3 or 1; see `open_images`.

    Returns:
        Name -> float32 image `(height, width, channels)` in [0, 1].

    Raises:
        ValueError: If a name is unknown.
        MissingExtraError: If scikit-image is not installed.

    Example:
        >>> load_photographs(["cat"])["cat"].shape
        (300, 451, 3)
    """
    try:
        import skimage.data
    except ImportError as error:
        raise MissingExtraError("scikit-image", "recipes") from error

    chosen = list(PHOTOGRAPHS if names is None else names)
    unknown = sorted(set(chosen) - set(PHOTOGRAPHS))
    if unknown or not chosen:
        raise ValueError(f"`names` must be some of {sorted(PHOTOGRAPHS)}. Received: names={chosen}")
    folder = Path(skimage.data.__file__).parent
    images = open_images([folder / PHOTOGRAPHS[name] for name in chosen], channels=channels).images
    return dict(zip(chosen, images, strict=True))


def random_patches(
    images: Sequence[np.ndarray], count: int, size: int | tuple[int, int], *, seed: int = 0
) -> np.ndarray:
    """Cuts patches out of images, at random places, turned and mirrored at random.

    Larger images give more patches: every place of every image is equally likely.

    Args:
        images: Images `(height, width, channels)` of any sizes, an array or a `LazyArray`; those
            smaller than a patch give none.
        count: Number of patches.
        size: Side, or `(height, width)`; patches that are not square are not turned.
        seed: Of everything random.

    Returns:
        float32 array `(count, height, width, channels)`.

    Raises:
        ValueError: If no image is large enough, or `count` is below 1.

    Example:
        >>> random_patches([np.zeros((9, 12, 3))], 5, 8).shape
        (5, 8, 8, 3)
    """
    height, width = (size, size) if isinstance(size, int) else size
    if count < 1 or min(height, width) < 1:
        raise ValueError(
            f"`count` and `size` must be at least 1. Received: count={count}, size={size}"
        )
    rng = np.random.default_rng(seed)
    shapes = [image.shape for image in images]
    places = [max(h - height + 1, 0) * max(w - width + 1, 0) for h, w, _ in shapes]
    if not sum(places):
        raise ValueError(
            f"`images` must hold one of at least {height} x {width} pixels. "
            f"Received: shapes {sorted(set(shapes))}"
        )
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
