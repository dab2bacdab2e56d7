"""Fine-tuning on ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spade_keras.finetuning.fine_tuner import FineTuner


class Supervised(FineTuner):
    """l(f(y), x): the network's output against the ground truth."""

    def strategy_loss(
        self, inputs: Mapping[str, Any], target: Any, prediction: Any, training: bool
    ) -> Any:
        """Returns l(f(y), x).

        Raises:
            ValueError: If the data have no targets.
        """
        if target is None:
            raise ValueError(
                "Supervised fine-tuning needs targets. Give data as (inputs, targets), or use "
                "School or SelfSupervised. Received: target=None"
            )
        return self.distance(target, prediction)
