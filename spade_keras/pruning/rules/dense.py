"""Dense layers and embeddings: the last axis is contracted, a new one is made."""

from __future__ import annotations

from typing import Any

from spade_keras.pruning.graph.labels import Labels
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule


class DenseRule(ChannelRule):
    """`Dense`: kernel (inputs, units)."""

    width = ("units", "kernel", 1)

    def propagate(self, call: ChannelCall) -> Labels:
        """Contracts the last axis and makes `units` channels."""
        layer = call.operation
        call.contract(layer.kernel, 0, call.vector(-1))
        labels = call.produce(layer.kernel, 1)
        call.parameter(layer.bias, 0, labels)
        source = call.labels[0]
        if source.size > 1 and source.shape[-1] == 1:
            call.store.freeze(labels, f"a second channel axis beside the one at {call.path}")
            return source
        return call.output(labels, -1)


class EinsumDenseRule(ChannelRule):
    """`EinsumDense`: one input axis is contracted, one new axis carries the channels."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Reads the axes from the equation; shared letters tie, lost ones contract."""
        layer = call.operation
        parsed = _parse(layer.equation, len(call.shape()), len(call.outputs[0].shape))
        if parsed is None:
            return call.freeze_all(f"the equation {layer.equation!r} of {call.path}")
        source, kernel, target = parsed
        labels = call.labels[0]
        lost = [x for x in kernel if x in source and x not in target]
        if any(x in source and x in target for x in kernel):
            return call.freeze_all(f"a batch axis in the equation of {call.path}")
        varying = [x for x in source if labels.shape[source.index(x)] > 1]
        for letter in lost:
            call.contract(layer.kernel, kernel.index(letter), call.vector(source.index(letter)))
        if any(x not in lost for x in varying) or len(varying) > 1:
            call.store.freeze(labels, f"several channel axes at {call.path}")
        made = [x for x in kernel if x not in source]
        if not made:
            return call.guard(call.store.constant(len(target)))
        place = target.index(made[-1])
        vector = call.produce(layer.kernel, kernel.index(made[-1]))
        if layer.bias is not None:
            # The bias aligns with the last axes of the output.
            axis = len(layer.bias.shape) - (len(target) - place)
            if axis >= 0 and layer.bias.shape[axis] == len(vector):
                call.parameter(layer.bias, axis, vector)
            elif axis >= 0 and layer.bias.shape[axis] > 1:
                call.store.freeze(vector, f"the bias axes of {call.path}")
        return call.output(vector, place)

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Replaces the made size in `output_shape`."""
        old, new = change.outputs[0]
        stated = config["output_shape"]
        stated = stated if isinstance(stated, (list, tuple)) else [stated]
        tail = zip(stated, old[-len(stated) :], new[-len(stated) :], strict=True)
        sizes = tuple(size if before == after else after for size, before, after in tail)
        return {**config, "output_shape": sizes}


def _parse(equation: str, rank_in: int, rank_out: int) -> tuple[str, str, str] | None:
    """Letters of input, kernel and output, with an ellipsis spelled out in capitals."""
    left, _, target = equation.replace(" ", "").partition("->")
    source, _, kernel = left.partition(",")
    if source.count("...") > 1 or target.count("...") > 1:
        return None
    extra = "ZYXWVUTSRQ"[: max(0, rank_in - len(source.replace("...", "")))]
    source = source.replace("...", extra)
    target = target.replace("...", extra)
    if len(source) != rank_in or len(target) != rank_out or "." in kernel:
        return None
    return source, kernel, target


class EmbeddingRule(ChannelRule):
    """`Embedding` and `ReversibleEmbedding`: a table (tokens, channels)."""

    width = ("output_dim", "embeddings", 1)

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Makes `output_dim` channels, or contracts them when called in reverse."""
        layer = call.operation
        table = layer.embeddings
        if call.argument(1, "reverse"):
            reverse = getattr(layer, "reverse_embeddings", None)
            tied = layer.tie_weights or reverse is None
            call.contract(table if tied else reverse, 1 if tied else 0, call.vector(-1))
            return call.store.constant(len(call.shape()), "the tokens of an embedding")
        return call.output(call.produce(table, 1), -1)
