"""The fully sampled center of a mask."""

import numpy as np
import pytest
from keras import ops

from spade_keras.data.masks import equispaced
from spade_keras.networks.autocalibration import autocalibration_window


def window(mask, acs_lines=None):
    return ops.convert_to_numpy(autocalibration_window(np.asarray(mask, "float32"), acs_lines))


def written_out(line):
    """fastMRI's rule by loops."""
    width, center = len(line), len(line) // 2
    left = right = 0
    while center - left - 1 >= 0 and line[center - left - 1]:
        left += 1
    while center + right < width and line[center + right]:
        right += 1
    count = max(2 * min(left, right), 1)
    first = (width - count + 1) // 2
    return [float(first <= column < first + count) for column in range(width)]


@pytest.mark.parametrize("width", [15, 16])
def test_equals_the_rule_written_out(width):
    rng = np.random.default_rng(0)
    lines = (rng.random((40, width)) < 0.8).astype("float32")
    lines[0], lines[1] = 0, 1
    found = window(lines[:, None])
    assert found.shape == (40, 1, width)
    np.testing.assert_array_equal(found[:, 0], [written_out(line) for line in lines])
    assert len({row.sum() for row in found[:, 0]}) > 4


def test_lines_that_happen_to_touch_the_block_are_left_out():
    mask = equispaced((1, 32), acceleration=4, acs_lines=6, offset=0)[0]
    assert mask[11:20].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]
    columns = np.flatnonzero(window(mask[None, None])[0, 0])
    np.testing.assert_array_equal(columns, np.arange(13, 19))


def test_a_given_number_of_lines_is_taken():
    options = {"shape": (1, 17), "offset": 0, "acceleration": 4}
    masks = np.stack([equispaced(**options, acs_lines=lines) for lines in (3, 4, 5)])
    found = window(masks, np.array([3, 4, 5]))
    for row, lines in zip(found[:, 0], (3, 4, 5), strict=True):
        only = equispaced((1, 17), acceleration=17, acs_lines=lines, offset=16)[0]
        only[16] = 0
        np.testing.assert_array_equal(row, only)
    np.testing.assert_array_equal(window(masks, np.array([[3], [4], [5]])), found)


def test_a_mask_with_rows_gives_a_rectangle():
    mask = np.zeros((1, 9, 12))
    mask[0, 2:7, 4:8] = 1
    mask[0, ::4, ::5] = 1
    wanted = np.zeros((1, 9, 12))
    wanted[0, 3:7, 4:8] = 1  # 2 rows above the middle one, 3 from it on: 4 from (9 - 4 + 1) // 2 on
    np.testing.assert_array_equal(window(mask), wanted)
    assert window(mask, np.array([4])).shape == (1, 1, 12)
