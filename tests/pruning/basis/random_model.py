"""Random weights under which a model's input is felt at its logits, and these logits."""

import keras
import numpy as np

from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.trace import trace
from spade_keras.pruning.proof import LayerwiseScaling, Replay, random_inputs, random_values


def example_inputs(model, seed):
    """Random inputs of a model, flat."""
    graph = analyze(model).graph
    return [
        keras.ops.convert_to_tensor(array, dtype=x.dtype)
        for array, x in zip(random_inputs(graph, seed), graph.inputs, strict=True)
    ]


def randomize_weights(model, seed):
    """Draws the weights and statistics of a model, in place."""
    analysis = analyze(model)
    values = random_values(model.variables, analysis, seed)
    for variable in model.variables:
        values.setdefault(id(variable), keras.ops.convert_to_numpy(variable))
    replay = Replay(values, lambda call, results: None, scaling=LayerwiseScaling(values))
    replay.run(analysis.graph, example_inputs(model, seed), model.variables)
    for variable in model.variables:
        variable.assign(values[id(variable)])


def logits(model, inputs):
    """Outputs of a model, a final softmax left out."""
    outputs = Replay(None, lambda call, results: None).run(trace(model), inputs, [])
    return [np.asarray(keras.ops.convert_to_numpy(x), np.float64) for x in outputs]
