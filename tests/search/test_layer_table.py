import itertools
import json
import math

import keras
import numpy as np
import pytest

from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.pruning.graph.forward_pass import layer_calls
from spade_keras.search import layer_timing
from spade_keras.search.candidate import build
from spade_keras.search.layer_table import LayerTable, latency_by_group
from spade_keras.search.layer_timing import LayerCall
from spade_keras.search.space import Configuration

pytestmark = pytest.mark.once

FLOOR_MS = 0.1


def fake_time(call, step=8):
    """Convolutions take as long as at the next multiple of `step`, everything else nothing."""
    if call.kind is not keras.layers.Conv2D:
        return FLOOR_MS
    *_, inside, outside = call.weights[0]
    pixels = math.prod(call.tensors[0].shape[:3])
    rounded = math.ceil(inside / step) * math.ceil(outside / step)
    return FLOOR_MS + pixels * rounded / 100


class FakeTimer:
    def __init__(self, time=fake_time):
        self.time = time
        self.seen = []

    def __call__(self, calls):
        self.seen += calls
        return {call.signature: self.time(call) for call in calls}


def conv(filters, name):
    return keras.layers.Conv2D(filters, 3, padding="same", name=name)


def chain(filters=(24, 32, 16)):
    image = x = keras.Input((8, 8, 2), name="image")
    for index, width in enumerate(filters):
        x = keras.layers.ReLU(name=f"relu_{index}")(conv(width, f"conv_{index}")(x))
    return keras.Model(image, conv(2, "last")(x), name="chain")


def residual():
    image = keras.Input((8, 8, 2), name="image")
    x = conv(16, "stem")(image)
    for index in range(2):
        y = conv(24, f"wide_{index}")(x)
        y = keras.layers.BatchNormalization(name=f"norm_{index}")(y)
        x = keras.layers.Add(name=f"sum_{index}")([x, conv(16, f"narrow_{index}")(y)])
    return keras.Model(image, conv(2, "last")(x), name="residual")


def unrolled(iterations=4):
    return UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[16, 24]), iterations=iterations)


MRI = {
    "measurements": np.ones((1, 2, 8, 8, 2), "float32"),
    "mask": np.ones((1, 8, 8), "float32"),
    "sensitivities": np.ones((1, 2, 8, 8, 2), "float32"),
}
IMAGE = np.ones((1, 8, 8, 2), "float32")
CHAIN_WIDTHS = {"conv_0": range(4, 25, 4), "conv_1": range(4, 33, 4), "conv_2": (8, 12, 16)}
RESIDUAL_WIDTHS = {"stem": (4, 8, 12), "wide_0": (8, 16), "wide_1": (8, 16)}


@pytest.fixture(scope="module")
def table():
    return LayerTable.measure(chain(), IMAGE, CHAIN_WIDTHS, timer=FakeTimer())


def built_ms(network, inputs, configuration):
    """The sum over the layers of the network that really has the configuration."""
    calls = layer_calls(build(network, configuration), inputs)
    return sum(fake_time(LayerCall.of(call)) - FLOOR_MS for call in calls)


def test_the_prediction_is_the_sum_over_the_layers(table):
    network = chain()
    rng = np.random.default_rng(0)
    for _ in range(5):
        widths = {g: int(rng.choice(sizes)) for g, sizes in table.widths.items()}
        predicted = table.predict_ms(Configuration(widths))
        # Other layers keep 5 % of the floor each.
        assert predicted == pytest.approx(
            built_ms(network, IMAGE, Configuration(widths)) + 3 * 0.05 * FLOOR_MS
        )
    assert table.predict_ms(Configuration({})) == table.predict_ms(
        Configuration({"conv_0": 24, "conv_1": 32, "conv_2": 16})
    )


def test_between_two_widths_the_time_is_interpolated(table):
    at = {w: table.group_ms("conv_1", w) for w in (16, 18, 20)}
    assert at[18] == pytest.approx((at[16] + at[20]) / 2)
    assert at[16] < at[18] < at[20]


def test_staircases_show_where_a_wider_layer_costs_nothing(table):
    stairs = table.staircase("conv_1")
    assert stairs.widths == tuple(range(4, 33, 4))
    assert stairs.edges == (8, 16, 24, 32)
    assert stairs.free_widening(12) == 16
    # conv_1 has 24 -> 32 channels and conv_2 32 -> 16; of the floor, relu_1 keeps 5 %.
    assert table.group_ms("conv_1") == pytest.approx(64 / 100 * (12 + 8) + 0.05 * FLOOR_MS)


def test_each_distinct_layer_is_timed_once():
    timer = FakeTimer()
    LayerTable.measure(chain((16, 16, 16, 16)), IMAGE, {"conv_1": (8,)}, timer=timer)
    convolutions = {c.signature for c in timer.seen if c.kind is keras.layers.Conv2D}
    # 2 -> 16, 16 -> 16, 16 -> 2 at full width; 16 -> 8 and 8 -> 16 around the narrow group.
    assert len(convolutions) == 5


@pytest.mark.parametrize(
    ("network", "widths"), [(residual, RESIDUAL_WIDTHS), (chain, {"conv_0": (8,), "conv_2": (8,)})]
)
def test_groups_narrowed_together_are_timed_as_if_each_were_alone(network, widths, monkeypatch):
    network = network()
    together = LayerTable.measure(network, IMAGE, widths, timer=FakeTimer())
    monkeypatch.setattr(layer_timing, "_independent", lambda reach: [[group] for group in reach])
    assert LayerTable.measure(network, IMAGE, widths, timer=FakeTimer()) == together


def test_groups_of_one_class_share_no_call():
    reach = {"a": {1, 2}, "b": {2, 3}, "c": {3, 4}, "d": {5}}
    classes = layer_timing._independent(reach)
    assert sorted(itertools.chain(*classes)) == ["a", "b", "c", "d"]
    assert len(classes) == 2
    for members in classes:
        for one, other in itertools.combinations(members, 2):
            assert not reach[one] & reach[other]


def test_a_trunk_changes_every_layer_on_it():
    table = LayerTable.measure(residual(), IMAGE, RESIDUAL_WIDTHS, timer=FakeTimer())
    changed = {layer.path for layer in table.layers if "stem" in layer.by_group}
    inner = {f"{name}_{index}" for name in ("wide", "sum", "narrow") for index in range(2)}
    assert changed == {"stem", "last", *inner}
    assert {x.path for x in table.layers if "wide_0" in x.by_group} == {
        "wide_0",
        "norm_0",
        "narrow_0",
    }


def test_dropped_blocks_leave_their_layers_out():
    table = LayerTable.measure(residual(), IMAGE, RESIDUAL_WIDTHS, timer=FakeTimer())
    widths = {"stem": 8, "wide_1": 16}
    both, one = (table.predict_ms(Configuration(widths, dropped=d)) for d in [(), ("sum_0",)])
    # wide_0 has 8 -> 24 channels here and narrow_0 24 -> 8; norm and sum are all but free.
    assert both - one == pytest.approx(64 / 100 * (3 + 3) + 2 * 0.05 * FLOOR_MS)
    with pytest.raises(ValueError, match=r"drop blocks.*'sum_0'.*dropped=\['sum_9'\]"):
        table.predict_ms(Configuration({}, dropped=("sum_9",)))


def test_priors_count_as_often_as_they_are_called():
    table = LayerTable.measure(unrolled(), MRI, {"prior/conv_1": (8, 16)}, timer=FakeTimer())
    assert {layer.calls for layer in table.layers} == {4}
    full = Configuration({})
    assert table.predict_ms(full) == pytest.approx(
        4 * (64 / 100 * (2 + 6 + 3) + 3 * 0.05 * FLOOR_MS)
    )
    half = Configuration({}, iterations=2)
    assert table.predict_ms(half) == pytest.approx(table.predict_ms(full) / 2)


def test_shared_layers_are_timed_at_the_shape_of_each_call():
    image = keras.Input((8, 8, 2), name="image")
    shared = conv(16, "shared")
    both = [
        shared(image),
        keras.layers.UpSampling2D(2)(shared(keras.layers.AveragePooling2D(2)(image))),
    ]
    network = keras.Model(image, conv(2, "last")(keras.layers.Concatenate()(both)))
    table = LayerTable.measure(network, IMAGE, {"shared": (8,)}, timer=FakeTimer())
    times = sorted(layer.ms for layer in table.layers if layer.path == "shared")
    assert times == pytest.approx([16 / 100 * 2, 64 / 100 * 2])


def test_calibration_recovers_overhead_and_factor(table):
    configurations = [Configuration({"conv_1": w}) for w in (8, 16, 24, 32)]
    measured = [(c, 3.0 + 0.7 * table.predict_ms(c)) for c in configurations]
    fitted = table.calibrated(measured)
    assert fitted.calibration.per_iteration == pytest.approx(3.0)
    assert fitted.calibration.factor == pytest.approx(0.7)
    assert fitted.error(measured).maximum == pytest.approx(0.0, abs=1e-9)
    assert table.error(measured).median > 0.05
    # Fitting again starts from the layers, not from the last fit.
    assert fitted.calibrated(measured).calibration.factor == pytest.approx(0.7)


def test_overhead_outside_of_iterations_is_told_apart_where_these_vary():
    table = LayerTable.measure(unrolled(), MRI, {"prior/conv_1": (8, 16)}, timer=FakeTimer())
    configurations = [
        Configuration({"prior/conv_1": w}, iterations=k) for w in (8, 24) for k in (1, 2, 4)
    ]
    measured = [(c, 5.0 + 2.0 * c.iterations + 1.5 * table.predict_ms(c)) for c in configurations]
    found = table.calibrated(measured).calibration
    assert (found.constant, found.per_iteration, found.factor) == pytest.approx((5.0, 2.0, 1.5))


def test_a_single_measurement_gives_the_factor(table):
    full = Configuration({})
    fitted = table.calibrated([(full, 2 * table.predict_ms(full))])
    assert fitted.calibration.factor == pytest.approx(2.0)
    assert fitted.calibration.per_iteration == 0


def test_no_term_is_negative(table):
    # Narrower and slower: no sum of times explains that, so all is overhead.
    measured = [(Configuration({"conv_1": w}), 100.0 / w) for w in (8, 16, 32)]
    found = table.calibrated(measured).calibration
    assert found.factor >= 0
    assert found.per_iteration >= 0


def test_the_error_is_relative_to_the_measured_time(table):
    full = Configuration({})
    ms = table.predict_ms(full)
    error = table.error([(full, ms / 1.1), (full, ms / 0.8), (full, ms)])
    assert (error.median, error.maximum) == pytest.approx((0.1, 0.2))
    assert str(error) == "median error 10.0%, at most 20.0% over 3 configurations"


def test_a_table_survives_json(table):
    full = Configuration({})
    calibrated = table.calibrated([(full, 7.0)])
    stored = json.loads(json.dumps(calibrated.as_dict()))
    assert LayerTable.from_dict(stored) == calibrated
    assert stored["staircases"]["conv_1"]["edges"] == [8, 16, 24, 32]


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (Configuration({"conv_9": 8}), r"`group` must be one of.*'conv_0'.*group='conv_9'"),
        (Configuration({"conv_0": 2}), r"within those measured, 4 to 24.*width=2"),
        (Configuration({"conv_0": 99}), r"within those measured.*width=99"),
        (Configuration({}, ranks={"conv_1": 4}), r"must keep all ranks.*'conv_1': 4"),
        (Configuration({}, dtype="bfloat16"), r"compute in float32.*dtype='bfloat16'"),
    ],
)
def test_what_was_not_measured_is_not_predicted(table, configuration, message):
    with pytest.raises(ValueError, match=message):
        table.predict_ms(configuration)


def test_mistaken_widths_and_measurements_are_refused(table):
    with pytest.raises(ValueError, match=r"name groups of 'chain'.*'conv_0'.*\['conv_9'\]"):
        LayerTable.measure(chain(), IMAGE, {"conv_9": (8,)}, timer=FakeTimer())
    with pytest.raises(ValueError, match=r"from 1 to the full width.*'conv_0': \(24, 40\)"):
        LayerTable.measure(chain(), IMAGE, {"conv_0": (40,)}, timer=FakeTimer())
    with pytest.raises(ValueError, match="at least one configuration"):
        table.calibrated([])
    with pytest.raises(ValueError, match=r"above 0.*times=\[nan\]"):
        table.error([(Configuration({}), float("nan"))])


def small():
    image = keras.Input((8, 8, 2), name="image")
    x = keras.layers.Conv2D(16, 1, name="first")(image)
    x = keras.layers.Conv2D(12, 1, name="second")(x)
    return keras.Model(image, keras.layers.Conv2D(2, 1, name="last")(x), name="small")


def whole_steps(calls):
    """A millisecond for every eight input channels times every eight output channels begun."""
    own = {call.signature: fake_time(call) - FLOOR_MS for call in calls}
    return {signature: ms / 64 * 100 for signature, ms in own.items()}


def inspected(**options):
    return latency_by_group(small(), IMAGE, timer=whole_steps, **options)


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
