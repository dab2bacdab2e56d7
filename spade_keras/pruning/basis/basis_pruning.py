"""Pruning of basis components while a decomposed model trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from spade_keras.pruning.basis.importance import BasisImportance
from spade_keras.pruning.basis.scaling import BasisScaling, Pair, check_pairs
from spade_keras.registry import COMPONENT_IMPORTANCES


@dataclass(frozen=True)
class PruningRound:
    """One epoch of `BasisPruning`, and whether its value was within the allowed loss.

    `components` were alive while the value of the monitored metric was measured.
    """

    epoch: int
    value: float
    components: int
    met: bool


class BasisPruning(keras.callbacks.Callback):
    """Prunes the least important components of the whole network after each epoch.

    The first `warmup` epochs set the reference: the best value of the monitored metric. Then
    each epoch that ends within `max_loss` of it is saved and followed by a round of pruning;
    when `patience` epochs in a row have failed, training stops. At the end the model is the last
    one that met the limit. Pruned components are masked; `merge` removes them.

    The paper prunes during training by a first-order Taylor criterion; rounds per epoch, the
    ranking over the whole network and the stopping rule are our choice.

    Args:
        per_epoch: Components to prune per round; below 1, as a share of those at the start.
        monitor: Metric to watch, as Keras names it in the logs.
        mode: Whether more of it is better, `"max"`, or less, `"min"`; `"auto"`: more for names
            with `acc`, `auc`, `psnr` or `ssim`, less for all others.
        max_loss: How far the metric may fall below the reference, or rise above it, in its own
            units: 0.01 is one point of accuracy.
        reference: The value to compare with. None: the best of the warm-up.
        warmup: Epochs of training before the first round.
        patience: Epochs that may fail before training stops; meanwhile nothing is pruned.
        stop_at: Share of the decomposed layers' parameters, in [0, 1): training ends once `merge`
            would leave no more of them.
        importance: Name in `COMPONENT_IMPORTANCES`, or a `BasisImportance`.
        model: The decomposed model. None: the model being trained; give the inner one if a
            wrapper is trained.

    Example:
        >>> callback = BasisPruning(0.1, monitor="val_accuracy", max_loss=0.01)

    Reference:
        Wong, Kashyap, Moradi, arXiv 2108.02893.
    """

    def __init__(  # noqa: PLR0913 - every setting is a keyword of its own
        self,
        per_epoch: float = 0.05,
        *,
        monitor: str = "val_accuracy",
        mode: Literal["auto", "max", "min"] = "auto",
        max_loss: float = 0.01,
        reference: float | None = None,
        warmup: int = 1,
        patience: int = 0,
        stop_at: float = 0.0,
        importance: str | BasisImportance = "taylor",
        model: Any = None,
    ) -> None:
        super().__init__()
        whole = isinstance(per_epoch, int | np.integer) and not isinstance(per_epoch, bool)
        counted = per_epoch >= 1 if whole else 0 < per_epoch < 1
        either = "a number of components of at least 1, or a share in (0, 1)"
        needed = "be at least 1 when there is no `reference`"
        for name, value, fine, allowed in (
            ("per_epoch", per_epoch, counted, f"be {either}"),
            ("mode", mode, mode in ("auto", "max", "min"), "be 'auto', 'max' or 'min'"),
            ("max_loss", max_loss, math.isfinite(max_loss) and max_loss >= 0, "not be negative"),
            ("warmup", warmup, _is_count(warmup), "be a count"),
            ("patience", patience, _is_count(patience), "be a count"),
            ("stop_at", stop_at, 0 <= stop_at < 1, "be a share in [0, 1)"),
            ("warmup", warmup, warmup or reference is not None, needed),
        ):
            if not fine:
                raise ValueError(f"`{name}` must {allowed}. Received: {name}={value!r}.")
        is_more_better = any(word in monitor for word in ("acc", "auc", "psnr", "ssim"))
        self._sign = 1 if mode == "max" or (mode == "auto" and is_more_better) else -1
        self.per_epoch = per_epoch
        self.monitor = monitor
        self.max_loss = max_loss
        self.reference = reference
        self.warmup = warmup
        self.patience = patience
        self.stop_at = stop_at
        self.importance: BasisImportance = (
            COMPONENT_IMPORTANCES.make(importance) if isinstance(importance, str) else importance
        )
        self.history: list[PruningRound] = []
        """The record of each epoch."""
        self._target = model

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the pairs and starts to record gradients."""
        self._decomposed = self.model if self._target is None else self._target
        self._pairs = check_pairs(self._decomposed)
        self._recorder: GradientRecorder | None = None
        # The value to compare with, its sign such that more is better; NaN until there is one.
        self._limit = math.nan if self.reference is None else self._sign * self.reference
        self._failed = 0
        self._good: list[np.ndarray] | None = None
        self._per_round = int(self.per_epoch) or max(1, round(self.per_epoch * self._alive()))
        self.history = []
        if getattr(self.importance, "needs_gradients", False):
            self._recorder = GradientRecorder([pair.scaling for pair in self._pairs])
            self._recorder.attach(self.model)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Judges the epoch and prunes, or stops."""
        logs = logs or {}
        if self.monitor not in logs:
            raise ValueError(
                f"`monitor` must be one of the logged {sorted(logs)}. Received: "
                f"monitor={self.monitor!r}. Pass `validation_data` to `fit` for names with 'val_'."
            )
        value = float(logs[self.monitor])
        none = [None] * len(self._pairs)
        effects = none if self._recorder is None else self._recorder.read()
        warming = len(self.history) < self.warmup
        signed = self._sign * value
        met = signed >= self._limit - self.max_loss
        if warming and self.reference is None:
            met = True
            if math.isnan(self._limit) or signed > self._limit:
                self._limit = signed
        self.history.append(PruningRound(epoch, value, self._alive(), met))
        if met:
            self._failed = 0
            self._good = [np.array(ops.convert_to_numpy(v)) for v in self._weights()]
            if self.stop_at and self._share_left() <= self.stop_at:
                self.model.stop_training = True
            elif len(self.history) >= self.warmup:
                prune_components(self._pairs, self._per_round, self._scores(effects))
        elif not warming:
            self._failed += 1
            if self._failed > self.patience:
                self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Restores the last state that met the limit and leaves the optimizer as it was."""
        if self._recorder is not None:
            self._recorder.detach()
        if self._good is not None:
            for variable, value in zip(self._weights(), self._good, strict=True):
                variable.assign(value)

    def _weights(self) -> list[Any]:
        # A wrapper may train more than the decomposed model, such as the head around it.
        weights = {id(v): v for v in (*self._decomposed.weights, *self.model.weights)}
        return list(weights.values())

    def _alive(self) -> int:
        return sum(len(pair.scaling.alive) for pair in self._pairs)

    def _share_left(self) -> float:
        """Parameters of the decomposed layers after a merge, as a share of the whole layers'."""
        whole = left = 0
        for pair in self._pairs:
            group, kept = pair.group, pair.scaling.alive
            one = group.groups * group.rows * group.columns
            whole += one
            left += one - group.plan(kept, group.cheaper_form(len(kept))).parameters_saved
        return left / whole

    def _scores(self, effects: Sequence[Any]) -> dict[str, np.ndarray]:
        scores = {}
        for pair, effect in zip(self._pairs, effects, strict=True):
            members = np.asarray(self.importance(pair, effect), np.float64)
            expected, finite = (pair.scaling.groups, pair.scaling.rank), np.isfinite(members).all()
            if members.shape != expected or not finite:
                raise ValueError(
                    f"`importance` must give finite scores of shape {expected} for layer "
                    f"{pair.name!r}. Received: shape={members.shape}, finite={bool(finite)}. "
                    "Look for NaN in the loss."
                )
            scores[pair.name] = members.sum(axis=0)
        return scores


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def prune_components(pairs: Sequence[Pair], count: int, scores: Mapping[str, np.ndarray]) -> int:
    """Masks the components of the lowest scores in the whole network; every layer keeps one.

    Args:
        pairs: The pairs of a decomposed model.
        count: Components to prune.
        scores: One score per component, by the name of the pair.

    Returns:
        How many were pruned, fewer than `count` when every layer is down to one.
    """
    alive = {pair.name: set(pair.scaling.alive) for pair in pairs}
    order = sorted(
        (float(scores[name][i]), number, i, name)
        for number, name in enumerate(alive)
        for i in alive[name]
    )
    pruned = 0
    for _, _, component, name in order:
        if pruned == count:
            break
        if len(alive[name]) > 1:
            alive[name].remove(component)
            pruned += 1
    for pair in pairs:
        pair.scaling.keep(sorted(alive[pair.name]))
    return pruned


class GradientRecorder:
    """Adds up `(s dL/ds)^2` of scaling layers over the training steps of a model.

    `optimizer.apply` is the one place where every backend passes all gradients to Python code
    inside the training step; while attached, the recorder wraps it. Its sums are variables of
    the optimizer, which JAX carries through the compiled step. Gradients are those of the
    mini-batch, before clipping, in training mode.
    """

    def __init__(self, layers: Sequence[BasisScaling]) -> None:
        self.layers = list(layers)
        self._optimizer: Any = None
        self._model: Any = None
        self._sums: list[Any] = []
        self._count: Any = None

    def attach(self, model: keras.Model) -> None:
        """Starts recording the training of a compiled model, whose step is compiled again."""
        trained = {id(variable) for variable in model.trainable_variables}
        frozen = [layer.name for layer in self.layers if id(layer.scale) not in trained]
        if frozen:
            raise ValueError(
                "The scaling factors must be trainable to be ranked by their gradients. "
                f"Received: frozen factors in {frozen[:5]}. Set `trainable = True` on these layers "
                "or rank by 'sigma'."
            )
        outer = model.optimizer
        if not outer.built:
            outer.build(model.trainable_variables)
        # Under loss scaling the inner optimizer is the one that gets unscaled gradients.
        optimizer = getattr(outer, "inner_optimizer", outer)
        left_behind = getattr(vars(optimizer).get("apply"), "recorder", None)
        if left_behind is not None:
            left_behind.detach()
        self._sums = [
            optimizer.add_variable(layer.scale.shape, name=f"effects_{index}")
            for index, layer in enumerate(self.layers)
        ]
        self._count = optimizer.add_variable((), name="recorded_steps")
        self._optimizer, self._model = optimizer, model
        apply = optimizer.apply

        def record_and_apply(grads: Any, trainable_variables: Any = None) -> Any:
            grads = list(grads)
            if trainable_variables is None:
                variables = optimizer._trainable_variables
            else:
                trainable_variables = variables = list(trainable_variables)
            self._record(grads, variables)
            return apply(grads, trainable_variables)

        record_and_apply.recorder = self  # type: ignore[attr-defined]
        optimizer.apply = record_and_apply
        model.make_train_function(force=True)

    def detach(self) -> None:
        """Stops recording and leaves the optimizer as it was."""
        if self._optimizer is None:
            return
        vars(self._optimizer).pop("apply", None)
        mine = {id(variable) for variable in (*self._sums, self._count)}
        known = self._optimizer._variables
        for index in reversed(range(len(known))):
            if id(known[index]) in mine:
                del known[index]
        self._model.train_function = None
        self._optimizer = self._model = None

    def read(self) -> list[np.ndarray]:
        """Returns the mean of `(s dL/ds)^2` since the last reading, one array per layer."""
        count = max(float(ops.convert_to_numpy(self._count)), 1.0)
        means = [np.asarray(ops.convert_to_numpy(v), np.float64) / count for v in self._sums]
        for variable in (*self._sums, self._count):
            variable.assign(ops.zeros(variable.shape))
        return means

    def _record(self, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        gradients = {id(v): g for v, g in zip(variables, grads, strict=True)}
        for layer, total in zip(self.layers, self._sums, strict=True):
            gradient = gradients.get(id(layer.scale))
            if gradient is not None:
                effect = ops.multiply(ops.cast(gradient, total.dtype), layer.scale)
                total.assign_add(ops.square(effect))
        self._count.assign_add(ops.ones(()))
