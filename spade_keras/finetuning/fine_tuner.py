"""Fine-tuning as a Keras model: the base, strategies that compare outputs, and their distances."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from spade_keras import backend
from spade_keras.registry import STRATEGIES

IMAGE_CLIP_NORM = 0.01
"""Length to which gradients are cut for images scaled to [0, 1]."""


class FineTuner(keras.Model):
    """Trains a network by a strategy's loss, through `compile` and `fit`.

    The wrapped network is trained in place; saving a tuner, or its weights, saves the network, so
    that callbacks such as `ModelCheckpoint` write the network to ship.

    A strategy implements `strategy_loss`. Data may come with or without targets; metrics are
    computed only when there are targets. The `distance` is called with `(y_true, y_pred)` and gives
    a scalar; None stands for `mean_squared_error`.
    """

    judged_as = "school"
    """The strategy whose score judges what this one trains, and whose targets it is given:
    "supervised" for a strategy that may see the ground truth."""

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
        self, inputs: Mapping[str, Any], targets: Any, prediction: Any, training: bool
    ) -> Any:
        """Returns the scalar to minimize, of one batch; `targets` may be None."""

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
        """Updates the compiled metrics if there are targets, else reports the loss alone."""
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


class Supervised(FineTuner):
    """l(f(y), x): the network's output against the ground truth."""

    judged_as = "supervised"

    def strategy_loss(
        self, inputs: Mapping[str, Any], targets: Any, prediction: Any, training: bool
    ) -> Any:
        """Returns l(f(y), x)."""
        if targets is None:
            raise ValueError(
                "Supervised fine-tuning needs targets. Give data as (inputs, targets), or use "
                "School or SelfSupervised. Received: targets=None"
            )
        return self.distance(targets, prediction)


class School(FineTuner):
    """l(f_slim(y), f(y)): the slim network learns the unpruned one's output.

    Uses measurements only; targets are ignored.

    A frozen copy of `teacher`, the unpruned network, is kept, so that itself stays trainable.

    Reference:
        Park et al., "Efficient model-based deep learning via network pruning and fine-tuning",
        arXiv 2311.02003.
    """

    def __init__(self, network: keras.Model, teacher: keras.Model, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        # Tracked by Keras, the copy's weights are arguments of the compiled step; hidden, they
        # would be constants of the program, which makes it slower and larger.
        self.teacher = frozen_copy(teacher)

    def strategy_loss(
        self, inputs: Mapping[str, Any], targets: Any, prediction: Any, training: bool
    ) -> Any:
        """Returns l(f_slim(y), stop_gradient(f(y)))."""
        lesson = ops.stop_gradient(self.teacher(inputs, training=False))
        return self.distance(lesson, prediction)


def judged_as(strategy: str) -> str:
    """Returns the strategy whose score judges a network that `strategy` trained; both are names."""
    return str(getattr(STRATEGIES[strategy], "judged_as", FineTuner.judged_as))


def frozen_copy(model: keras.Model) -> keras.Model:
    """Returns a non-trainable copy with the same weights."""
    copy = keras.models.clone_model(model)
    if not copy.built:
        copy.build_from_config(model.get_build_config())
    copy.set_weights(model.get_weights())
    copy.trainable = False
    return copy


def mean_squared_error(y_true: Any, y_pred: Any) -> Any:
    """Returns the mean of (y_true - y_pred)^2 over all elements."""
    difference = ops.cast(y_true, "float32") - ops.cast(y_pred, "float32")
    return ops.mean(difference * difference)


def cross_entropy(y_true: Any, y_pred: Any, *, from_logits: bool = True) -> Any:
    """Mean of -log p(label): the `distance` of `Supervised` for classifiers.

    `y_true` are integers `(batch,)`, `y_pred` logits, or else probabilities, `(batch, classes)`.
    """
    losses = keras.losses.sparse_categorical_crossentropy(
        y_true, ops.cast(y_pred, "float32"), from_logits=from_logits
    )
    return ops.mean(losses)


def divergence(
    y_true: Any, y_pred: Any, *, from_logits: bool = True, temperature: float = 2.0
) -> Any:
    """T^2 KL(softmax(y_true / T) || softmax(y_pred / T)): the `distance` of `School`.

    Both are logits, or else probabilities, `(batch, classes)`. At a temperature T above 1 unlikely
    classes count more, which carry the teacher's knowledge.

    Reference:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """
    student = _log_softened(y_pred, from_logits, temperature)
    teacher = _log_softened(y_true, from_logits, temperature)
    terms = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
    return temperature**2 * ops.mean(terms)


def _log_softened(scores: Any, from_logits: bool, temperature: float) -> Any:
    scores = ops.cast(scores, "float32")
    logits = scores if from_logits else ops.log(ops.maximum(scores, 1e-7))
    return ops.log_softmax(logits / temperature, axis=-1)


def tuning_options(
    *, learning_rate: float, steps: int, warmup: int, clip_norm: float = IMAGE_CLIP_NORM
) -> dict[str, Any]:
    """Returns arguments of `compile`: Adam on clipped gradients, and how a step is compiled.

    The learning rate rises linearly from a twentieth of `learning_rate` over `warmup` of the
    `steps`, then falls to zero by a cosine. The norm of gradients varies widely just after pruning
    and in small batches; clipping allows a learning rate several times higher.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 20, max(1, steps - warmup), warmup_target=learning_rate, warmup_steps=warmup
    )
    # On a CPU TensorFlow's own kernels beat XLA's, twofold for convolutions.
    on_tf_cpu = keras.backend.backend() == "tensorflow" and backend.device().kind == "cpu"
    return {
        "optimizer": keras.optimizers.Adam(schedule, global_clipnorm=clip_norm),
        "jit_compile": False if on_tf_cpu else "auto",
    }
