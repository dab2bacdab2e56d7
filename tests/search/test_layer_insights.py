import keras
import numpy as np
import pytest

from spade_keras.search.layer_insights import latency_by_group

pytestmark = pytest.mark.once


def model():
    image = keras.Input((8, 8, 2), name="image")
    x = keras.layers.Conv2D(16, 1, name="first")(image)
    x = keras.layers.Conv2D(12, 1, name="second")(x)
    return keras.Model(image, keras.layers.Conv2D(2, 1, name="last")(x), name="small")


def fake_timer(calls):
    """A millisecond for every eight input channels times every eight output channels begun."""

    def time(call):
        if call.kind is not keras.layers.Conv2D:
            return 0.0
        *_, inside, outside = call.weights[0]
        return float(-(-inside // 8) * -(-outside // 8))

    return {call.signature: time(call) for call in calls}


def inspected(**options):
    return latency_by_group(model(), np.ones((1, 8, 8, 2), "float32"), timer=fake_timer, **options)


def test_groups_are_listed_with_their_milliseconds_and_free_widenings():
    title, head, *rows = (line.split("  ") for line in inspected(multiple=4).splitlines())
    assert title[0].startswith("Latency of 'small' by group on ")
    assert "1x8x8x2 float32" in title[0]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in [head, *rows]]
    assert cells[0] == [
        "group",
        "width",
        "ms",
        "narrowest",
        "widths worth choosing",
        "widenings that cost nothing",
    ]
    # first: 2 -> 16 and 16 -> 12 channels, 2 + 4 ms; second: 16 -> 12 and 12 -> 2, 4 + 2 ms.
    assert cells[1] == ["first", "16", "6", "3 at 4", "8 16", "4 -> 8, 12 -> 16"]
    assert cells[2] == ["second", "12", "6", "3 at 4", "8 12", "4 -> 8"]
    assert cells[3] == ["last: fixed, a model output"]


def test_by_default_an_eighth_of_the_width_is_a_step():
    row = next(line for line in inspected().splitlines() if line.startswith("first"))
    assert "3 at 2" in row
    assert "2 -> 8, 10 -> 16" in row


def test_steps_below_one_are_refused():
    with pytest.raises(ValueError, match=r"`multiple` must be at least 1.*multiple=0"):
        inspected(multiple=0)
