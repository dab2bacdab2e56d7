"""Pages that open offline: templates filled in, pictures inside."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spade_keras.errors import MissingExtraError

if TYPE_CHECKING:
    import jinja2


def template(name: str) -> jinja2.Template:
    """Loads a template of this package; it escapes values, and a missing one is an error.

    Args:
        name: Name of the file.

    Raises:
        MissingExtraError: If jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def data_uri(content: bytes) -> str:
    """Returns a PNG file as the address of an image inside a page."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def picture(array: np.ndarray, *, colors: str, top: float) -> bytes:
    """Renders an array as a PNG file, one pixel per value.

    Args:
        array: `(height, width)`.
        colors: A color map of matplotlib's.
        top: The value that gets the last color; 0 gets the first.

    Returns:
        The file's content.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.image import imsave
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    file = io.BytesIO()
    imsave(file, np.asarray(array, "float64"), cmap=colors, vmin=0, vmax=top, format="png")
    return file.getvalue()
