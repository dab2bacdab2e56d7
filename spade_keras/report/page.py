"""Pages that open offline: templates filled in, pictures inside, values in words."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from spade_keras.errors import MissingExtraError

if TYPE_CHECKING:
    import jinja2


def template(name: str) -> jinja2.Template:
    """Loads a template of this package; it escapes values, and a missing value is an error.

    Args:
        name: Name of the page, such as "run".

    Raises:
        MissingExtraError: If jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(f"{name}.html.jinja")


def data_uri(content: bytes) -> str:
    """Returns a PNG file as the address of an image inside a page."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def picture(array: np.ndarray, *, colors: str, top: float) -> bytes:
    """Renders an array as a PNG file, one pixel per value.

    Args:
        array: `(height, width)`.
        colors: A color map of matplotlib.
        top: The value that gets the last color; 0 gets the first.

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


def closing_table_of(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str, caption: str
) -> Table:
    """Returns the closing table of a run: a name and numbers in every row."""
    table = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE,
        padding=(0, 0),
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index > 0)
    for row in rows:
        table.add_row(*row)
    return table


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the entries of a fingerprint, nested ones included, as names and values in words.

    Args:
        values: May hold mappings.
        prefix: Put before every name.
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}".replace("_", " "), _plain(str(key), value)


def percent(share: float) -> str:
    """Writes "47 %"."""
    return f"{100 * share:.0f} %"


def counted(count: int, noun: str) -> str:
    """Writes "1 trial", "2 trials"."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def short_count(count: float) -> str:
    """Returns a count in three digits, with k, M, G or T for thousands and more."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.3g}"


def _plain(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB ({value:,})"
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return "; ".join(" ".join(str(part) for part in item.values()) for item in value)
    return str(value)
