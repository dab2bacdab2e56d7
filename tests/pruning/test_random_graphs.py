"""Random graphs of branches, residuals, concats, splits, shuffles, gates, shared and nested layers.

Every graph is pruned, rebuilt and proved equal to its masked original; one kept channel swapped
must be noticed.
"""

from itertools import islice

import keras
import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from keras import layers, ops

from spade_keras.errors import VerificationError
from spade_keras.pruning.verify import measure_difference, verify_plan
from tests.pruning.random_plans import random_plan, swaps

EXAMPLES = 200 if keras.backend.backend() == "tensorflow" else 30
SIZE = 4
SEEN = {"graphs": 0, "quiet": 0, "narrowed": 0, "mutations": 0}


class Builder:
    """Grows a graph step by step from drawn choices."""

    def __init__(self, draw):
        self.draw = draw
        self.shared = {}
        self.inputs = [keras.Input((SIZE, SIZE, 3))]
        self.tensors = [self.conv(self.inputs[0])]

    def width(self):
        return self.draw(st.sampled_from([4, 8]))

    def conv(self, x, filters=None, size=1):
        return layers.Conv2D(filters or self.width(), size, padding="same")(x)

    def pick(self):
        return self.draw(st.sampled_from(self.tensors))

    def same_shape(self, x):
        return [t for t in self.tensors if t.shape == x.shape]

    def step(self):
        name = self.draw(st.sampled_from(STEPS))
        x = self.pick()
        self.tensors.append(getattr(self, name)(self.conv(x) if x.shape[-1] % 2 else x))

    def plain(self, x):
        return self.conv(x, size=self.draw(st.sampled_from([1, 3])))

    def normalized(self, x):
        kinds = [
            layers.BatchNormalization,
            layers.LayerNormalization,
            lambda: layers.GroupNormalization(2),
            lambda: layers.PReLU(shared_axes=[1, 2]),
        ]
        return self.draw(st.sampled_from(kinds))()(x)

    def activation(self, x):
        return layers.Activation(self.draw(st.sampled_from(["gelu", "tanh", "relu"])))(x)

    def residual(self, x):
        return layers.Add()([x, self.conv(x, filters=x.shape[-1], size=3)])

    def merge(self, x):
        kind = self.draw(st.sampled_from([layers.Add, layers.Multiply, layers.Maximum]))
        return kind()([x, self.draw(st.sampled_from(self.same_shape(x)))])

    def concat(self, x):
        return layers.Concatenate()([x, self.pick()]) if x.shape[-1] <= 16 else x

    def split(self, x):
        first, second = ops.split(x, 2, axis=-1)
        return first if self.draw(st.booleans()) else ops.concatenate([second, first], axis=-1)

    def slice(self, x):
        return x[..., : x.shape[-1] // 2]

    def shuffle(self, x):
        c = x.shape[-1]
        y = layers.Permute((1, 2, 4, 3))(layers.Reshape((SIZE, SIZE, 2, c // 2))(x))
        return layers.Reshape((SIZE, SIZE, c))(y)

    def pixels(self, x):
        return ops.space_to_depth(ops.depth_to_space(x, 2), 2) if x.shape[-1] % 4 == 0 else x

    def depthwise(self, x):
        return layers.DepthwiseConv2D(3, padding="same")(x)

    def grouped(self, x):
        return layers.Conv2D(4, 1, groups=2)(x) if x.shape[-1] % 2 == 0 else x

    def gate(self, x):
        return layers.Multiply()([x, layers.Conv2D(1, 1, activation="sigmoid")(x)])

    def squeeze(self, x):
        y = layers.GlobalAveragePooling2D(keepdims=True)(x)
        return layers.Multiply()([x, self.conv(self.conv(y, 4), x.shape[-1])])

    def shared_conv(self, x):
        key = x.shape[-1]
        if key not in self.shared:
            self.shared[key] = layers.Conv2D(4, 1)
        return self.shared[key](x)

    def nested(self, x):
        inner = keras.Sequential(
            [keras.Input(tuple(x.shape[1:])), layers.Conv2D(4, 1), layers.BatchNormalization()]
        )
        return inner(x)

    def rolled(self, x):
        return ops.roll(ops.flip(x, axis=-1), 1, axis=-1)

    def mean(self, x):
        return x * ops.mean(x, axis=-1, keepdims=True)

    def finish(self):
        x = self.tensors[-1]
        y = layers.Concatenate()([layers.Flatten()(x), layers.Flatten()(self.pick())])
        z = layers.GlobalMaxPooling2D()(self.pick())
        return keras.Model(self.inputs, [layers.Dense(3)(y), layers.Dense(2)(z)])


STEPS = [
    name
    for name in vars(Builder)
    if not name.startswith("_")
    and name not in ("width", "conv", "pick", "same_shape", "step", "finish")
]


@st.composite
def graphs(draw):
    builder = Builder(draw)
    for _ in range(draw(st.integers(2, 7))):
        builder.step()
    return builder.finish()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(graphs(), st.integers(0, 2**16))
def check_graph(model, seed):
    generator = np.random.default_rng(seed)
    plan = random_plan(model, generator, lambda size: generator.integers(1, max(size, 2)))
    try:
        verify_plan(model, plan, tolerance=1e-3, seed=seed)
    except VerificationError as error:
        # An output that hardly varies cannot show a mistake: such a graph counts as not drawn.
        quiet = "proves nothing" in str(error)
        SEEN["quiet"] += quiet
        assume(not quiet)
        raise
    SEEN["graphs"] += 1
    narrowed = any(len(group.kept) < group.width for group in plan.groups)
    SEEN["narrowed"] += narrowed
    if SEEN["graphs"] % 10 == 0:
        # Some channels are dead: a swap of one of several must be noticed.
        errors = [
            measure_difference(model, plan, mutated, seed=seed).largest_error
            for _, mutated in islice(swaps(model, plan), 3)
        ]
        assert not errors or max(errors) > 1e-3
        SEEN["mutations"] += bool(errors)
    keras.backend.clear_session(free_memory=False)


def test_random_graphs():
    check_graph()
    assert SEEN["graphs"] >= EXAMPLES
    assert SEEN["quiet"] < 0.1 * SEEN["graphs"]
    assert SEEN["narrowed"] > 0.8 * SEEN["graphs"]
    assert SEEN["mutations"] > 0
