"""Pages that open offline: templates filled in, pictures inside, values in words."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from spade_keras import __version__
from spade_keras.errors import importing
from spade_keras.files import write_bytes_atomic


def write_page(folder: str | Path, template: str, **values: Any) -> Path:
    """Writes `report.html` whole or not at all, and returns its path.

    Args:
        folder: An existing folder.
        template: Name of a template of this package, such as "run".
        **values: What the template shows, escaped; a missing value is an error.
    """
    with importing("jinja2", "report"):
        import jinja2
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"flat": flat, "short": short_count, "median": statistics.median}
    page = environment.get_template(f"{template}.html.jinja").render(version=__version__, **values)
    path = Path(folder) / "report.html"
    write_bytes_atomic(path, page.encode())
    return path


def data_uri(content: bytes) -> str:
    """Returns a PNG file as the address of an image inside a page."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def picture(array: np.ndarray, *, colors: str, top: float) -> bytes:
    """Renders an array `(height, width)` as a PNG file, one pixel per value from 0 to `top`.

    `colors` is a color map of matplotlib.
    """
    with importing("matplotlib", "report"):
        from matplotlib.image import imsave
    file = io.BytesIO()
    imsave(file, np.asarray(array, "float64"), cmap=colors, vmin=0, vmax=top, format="png")
    return file.getvalue()


def table_of(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: int = 0,
    gap: int = 0,
    **texts: Any,
) -> Table:
    """Returns a table of numbers, whose column `words` holds text that may be wrapped.

    `texts` are its title and caption, `gap` is the space between columns beside the box's own.
    """
    style: dict[str, Any] = {"box": SIMPLE, "padding": (0, gap, 0, 0), "pad_edge": False}
    table = Table(title_justify="left", caption_justify="left", **style, **texts)
    for index, column in enumerate(columns):
        numbers = index != words % len(columns)
        table.add_column(column, justify="right" if numbers else "left", no_wrap=numbers)
    for row in rows:
        table.add_row(*row)
    return table


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the entries of a fingerprint, nested ones included, as names and values in words."""
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


def interval(value: float, low: float, high: float) -> str:
    """Writes "0.470 (0.460 to 0.480)"."""
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


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
