"""What all fine-tuning strategies share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops


class FineTuner(keras.Model):
    """Trains a network by a loss of the strategy's own, through `compile` and `fit`.

    The wrapped network is trained in place; saving a tuner, or its weights, saves the network, so
    that callbacks such as `ModelCheckpoint` write what will be shipped.

    A strategy implements `strategy_loss`. Data may come with or without targets; metrics are
    computed only when there are targets.

    Args:
        network: The network to train.
        distance: Called with `(y_true, y_pred)`, gives a scalar to minimize.
        **kwargs: Of `keras.Model`.
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        distance: Callable[[Any, Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.distance = distance or mean_squared_error
        self.built = True

    @abstractmethod
    def strategy_loss(
        self, inputs: Mapping[str, Any], target: Any, prediction: Any, training: bool
    ) -> Any:
        """Returns the scalar to minimize.

        Args:
            inputs: The batch given to the network.
            target: The batch of targets, or None.
            prediction: The network's output for `inputs`.
            training: Whether weights are about to be updated.
        """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the network's output."""
        return self.network(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the strategy's loss; overrides the hook that every backend's `fit` calls."""
        loss = self.strategy_loss(x, y, y_pred, training)
        penalties = self.network.losses
        return loss + ops.sum(ops.stack(penalties)) if penalties else loss

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Updates the compiled metrics where there is a target, else reports the loss alone."""
        if y is None:
            return {m.name: m.result() for m in self.metrics if m.name == "loss"}
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the metrics seen so far; without targets the compiled ones are never built."""
        unbuilt = [m for m in self.metrics if not getattr(m, "built", True)]
        if not unbuilt:
            return super().get_metrics_result()
        return {m.name: m.result() for m in self.metrics if m not in unbuilt}

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the network."""
        self.network.save(filepath, overwrite=overwrite, **kwargs)

    def save_weights(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the network's weights."""
        self.network.save_weights(filepath, overwrite=overwrite, **kwargs)

    def load_weights(self, filepath: Any, **kwargs: Any) -> None:
        """Loads the network's weights."""
        self.network.load_weights(filepath, **kwargs)


def mean_squared_error(y_true: Any, y_pred: Any) -> Any:
    """Returns the mean of (y_true - y_pred)^2 over all elements."""
    difference = ops.cast(y_true, "float32") - ops.cast(y_pred, "float32")
    return ops.mean(difference * difference)
