"""Forward passes that stop before a call, and hold what the calls after it still read."""

from __future__ import annotations

import copy
import inspect
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.compensation.readers import Reader, Rows
from spade_keras.pruning.graph.analysis import Analysis
from spade_keras.pruning.graph.trace import Call, Graph
from spade_keras.pruning.proof import to_numpy, to_tensors


@dataclass(frozen=True)
class Step:
    """One call of a model whose nested models are opened.

    Tensors are numbered, from those of the model's inputs on, as a nested model that is called
    twice makes each of its tensors twice.
    """

    path: str
    call: Call
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def steps_of(analysis: Analysis) -> list[Step]:
    """The calls of a model in running order, nested models opened."""
    steps: list[Step] = []

    def walk(graph: Graph, numbers: dict[int, int], count: int) -> int:
        for call in graph.calls:
            inputs = tuple(numbers[id(x)] for x in call.inputs)
            nested = graph.inside(call)
            if nested is None:
                outputs = tuple(range(count, count + len(call.outputs)))
                count += len(outputs)
                steps.append(Step(analysis.paths[id(call.operation)], call, inputs, outputs))
            else:
                inner = dict(zip(map(id, nested.inputs), inputs, strict=False))
                count = walk(nested, inner, count)
                outputs = tuple(inner[id(x)] for x in nested.outputs)
            numbers |= zip(map(id, call.outputs), outputs, strict=True)
        return count

    inputs = analysis.graph.inputs
    walk(analysis.graph, {id(x): i for i, x in enumerate(inputs)}, len(inputs))
    return steps


class Pass:
    """The run of a model on one batch, eagerly; `position` is the number of calls made."""

    def __init__(self, analysis: Analysis, steps: list[Step], batch: Any) -> None:
        self.steps = steps
        self.position = 0
        self._tensors = dict(enumerate(to_tensors(analysis.graph, batch)))
        self._readings = Counter(x for step in steps for x in step.inputs)

    @property
    def bytes(self) -> int:
        """Memory of the tensors held, taken as 4 bytes a number."""
        return sum(4 * math.prod(x.shape) for x in self._tensors.values())

    def advance(self, position: int) -> None:
        """Makes all calls before the one of that number."""
        while self.position < position:
            self._step(())

    def ahead(self, wanted: Iterable[int]) -> Pass:
        """A copy that ran on until it holds the tensors of these numbers; this one stays."""
        wanted = set(wanted)
        made = copy.copy(self)
        made._tensors, made._readings = dict(self._tensors), self._readings.copy()
        while not wanted <= made._tensors.keys():
            made._step(wanted)
        return made

    def array(self, number: int) -> np.ndarray:
        """The tensor of that number."""
        return to_numpy(self._tensors[number])

    def patches(self, step: Step, reader: Reader, rows: Rows) -> np.ndarray:
        """What a reader sees in a call whose inputs are held."""
        if not reader.whole:
            return reader.patches(self.array(step.inputs[0]), rows)
        args, kwargs = self._filled(step)
        bound = inspect.signature(step.call.operation.call).bind(*args, **kwargs)
        with keras.StatelessScope():
            return reader.patches(bound.arguments, rows)

    def _step(self, wanted: Collection[int]) -> None:
        step = self.steps[self.position]
        args, kwargs = self._filled(step)
        with keras.StatelessScope():  # a stateful layer must not keep what it saw here
            results = keras.tree.flatten(step.call.operation(*args, **kwargs))
        self.position += 1
        self._tensors |= zip(step.outputs, results, strict=True)
        self._readings.subtract(step.inputs)
        for number in {*step.inputs, *step.outputs}:
            if not self._readings[number] and number not in wanted:
                del self._tensors[number]

    def _filled(self, step: Step) -> Any:
        """The arguments of a call, with tensors in the place of symbols."""
        known: Mapping[int, int] = dict(zip(map(id, step.call.inputs), step.inputs, strict=True))

        def fill(value: Any) -> Any:
            is_symbol = isinstance(value, keras.KerasTensor)
            return self._tensors[known[id(value)]] if is_symbol else value

        return keras.tree.map_structure(fill, (step.call.args, step.call.kwargs))
