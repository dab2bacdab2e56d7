"""The fully sampled lines in the center of k-space."""

from __future__ import annotations

from typing import Any

from keras import ops


def autocalibration_window(mask: Any, acs_lines: Any = None) -> Any:
    """Finds the fully sampled center of a mask.

    Along the width, with the zero frequency in column c = floor(width / 2), let l sampled columns
    touch c from the left and r follow each other from c on to the right. The window has
    n = max(2 min(l, r), 1) columns, from (width - n + 1) // 2 on: as in fastMRI, sampled lines that
    happen to touch the block on one side are not taken for a part of it. A mask with rows is read
    along its middle row and its middle column, and the window is a rectangle.

    Args:
        mask: Tensor of shape `(batch, 1 or height, width)`, nonzero where sampled.
        acs_lines: Numbers of columns, one per sample, if they are known; rows are then not limited.

    Returns:
        float32 tensor, 1 inside the window and 0 outside: of shape `(batch, 1, width)`, or of the
        mask's where it has rows.

    Example:
        >>> import numpy as np
        >>> mask = np.array([[[1, 0, 1, 1, 1, 1, 0, 0]]], "float32")
        >>> np.asarray(autocalibration_window(mask))[0, 0].astype(int)
        array([0, 0, 1, 1, 1, 1, 0, 0])
    """
    sampled = ops.cast(ops.not_equal(mask, 0), "float32")
    rows, width = ops.shape(sampled)[1:3]
    middle = sampled[:, rows // 2]
    if acs_lines is None:
        count = _center_run(middle, width)
    else:
        count = ops.cast(ops.reshape(acs_lines, (-1,)), "int32")
    window = _window(count, width)[:, None]
    if acs_lines is None and mask.shape[1] != 1:
        column = sampled[:, :, width // 2]
        window = _window(_center_run(column, rows), rows)[:, :, None] * window
    return window


def _center_run(line: Any, size: Any) -> Any:
    center = size // 2
    left = ops.sum(ops.cumprod(ops.flip(line[:, :center], axis=1), axis=1), axis=1)
    right = ops.sum(ops.cumprod(line[:, center:], axis=1), axis=1)
    return ops.cast(ops.maximum(2 * ops.minimum(left, right), 1), "int32")


def _window(count: Any, size: Any) -> Any:
    first = (size - count + 1) // 2
    index = ops.arange(size, dtype="int32")[None]
    inside = ops.logical_and(index >= first[:, None], index < (first + count)[:, None])
    return ops.cast(inside, "float32")
