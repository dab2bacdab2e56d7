"""Fine-tuning with the unpruned network as the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from spade_keras.finetuning.fine_tuner import FineTuner


class School(FineTuner):
    """l(f_slim(y), f(y)): the slim network learns the unpruned one's output.

    Only measurements are used: targets, where the data have any, are ignored.

    Args:
        network: The slim network, trained in place.
        teacher: The unpruned network. A frozen copy is kept, so that the teacher itself stays
            trainable, and the copy's weights are arguments of the compiled step, not constants.
        **kwargs: Of `FineTuner`.

    Reference:
        Park et al., "Efficient model-based deep learning via network pruning and fine-tuning",
        arXiv 2311.02003.
    """

    def __init__(self, network: keras.Model, teacher: keras.Model, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        self.teacher = frozen_copy(teacher)

    def strategy_loss(
        self, inputs: Mapping[str, Any], target: Any, prediction: Any, training: bool
    ) -> Any:
        """Returns l(f_slim(y), stop_gradient(f(y)))."""
        lesson = ops.stop_gradient(self.teacher(inputs, training=False))
        return self.distance(lesson, prediction)


def frozen_copy(model: keras.Model) -> keras.Model:
    """Returns a non-trainable copy with the same weights."""
    copy = keras.models.clone_model(model)
    if not copy.built:
        copy.build_from_config(model.get_build_config())
    copy.set_weights(model.get_weights())
    copy.trainable = False
    return copy
