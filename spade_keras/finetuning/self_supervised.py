"""Fine-tuning on measurements alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from spade_keras.finetuning.fine_tuner import FineTuner
from spade_keras.operators import LinearOperator


class SelfSupervised(FineTuner):
    """w_c l(A f(y), y) + w_e l(f(A phi x1), phi x1), with x1 = f(y): consistency and equivariance.

    phi is a random transform that the operator calls informative: one that does not commute with
    A^H A, so that it shows the network what its own measurements miss. No gradient flows through
    phi x1 as a target. Targets, where the data have any, are ignored.

    For evaluation phi is always the first transform, so that a held-out loss is repeatable.

    Args:
        network: The slim network, trained in place.
        operator: The forward model A; by default `network.operator`.
        consistency_weight: w_c.
        equivariance_weight: w_e.
        seed: Of the random transforms.
        **kwargs: Of `FineTuner`.

    Raises:
        ValueError: If there is no operator, or it names no informative transform known here.

    Reference:
        Chen, Tachella and Davies, "Equivariant imaging: learning beyond the range space", 2021.
    """

    def __init__(
        self,
        network: keras.Model,
        operator: LinearOperator | None = None,
        *,
        consistency_weight: float = 1.0,
        equivariance_weight: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        operator = operator if operator is not None else getattr(network, "operator", None)
        if not isinstance(operator, LinearOperator):
            raise ValueError(
                "`operator` must be a LinearOperator, since the network has none of its own. "
                f"Received: operator={operator!r}"
            )
        known = [name for name in operator.informative_transforms if name in TRANSFORMS]
        if not known:
            raise ValueError(
                f"`operator` must name an informative transform among {sorted(TRANSFORMS)}. "
                f"Received: {type(operator).__name__} with {operator.informative_transforms}"
            )
        self.operator = operator
        self.transforms = tuple(t for name in known for t in TRANSFORMS[name])
        self.consistency_weight = consistency_weight
        self.equivariance_weight = equivariance_weight
        self.seed_generator = keras.random.SeedGenerator(seed)

    def strategy_loss(
        self, inputs: Mapping[str, Any], target: Any, prediction: Any, training: bool
    ) -> Any:
        """Returns w_c l(A f(y), y) + w_e l(f(A phi x1), phi x1)."""
        parameters = self.operator.parameters(inputs)
        measured = self.operator.forward(prediction, **parameters)
        consistency = self.distance(measured, inputs["measurements"])
        image = ops.stop_gradient(self._transform(prediction, training))
        virtual = {**inputs, "measurements": self.operator.forward(image, **parameters)}
        equivariance = self.distance(self.network(virtual, training=training), image)
        return self.consistency_weight * consistency + self.equivariance_weight * equivariance

    def _transform(self, image: Any, training: bool) -> Any:
        if not training or len(self.transforms) == 1:
            return self.transforms[0](image)
        choice = keras.random.randint((), 0, len(self.transforms), seed=self.seed_generator)
        candidates = ops.stack([transform(image) for transform in self.transforms])
        return ops.take(candidates, choice, axis=0)


def _rotation(quarters: int) -> Callable[[Any], Any]:
    def rotate(image: Any) -> Any:
        height, width = image.shape[1:3]
        if quarters % 2 and height != width:
            raise ValueError(
                "Rotations by 90 degrees need square images; pad them to a square. "
                f"Received: height={height}, width={width}"
            )
        return ops.rot90(image, k=quarters, axes=(1, 2))

    return rotate


TRANSFORMS: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "rotate90": (_rotation(1), _rotation(2), _rotation(3)),
}
"""Image transforms by the names that operators use."""
