"""Fine-tuning on measurements alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from spade_keras.finetuning.fine_tuner import FineTuner
from spade_keras.finetuning.splitting import all_measurements
from spade_keras.operators import TRANSFORMS, LinearOperator


class SelfSupervised(FineTuner):
    """w_c l(A f(y), y) + w_e l(f(A phi x1), phi x1), with x1 = f(y): consistency and equivariance.

    phi is a random transform from the operator's informative ones, which do not commute with
    A^H A and so teach the network the part that its own measurements miss. Images that are not
    square get only the transforms that keep their shape. No gradient flows through phi x1 as a
    target. Targets of the data are ignored.

    Consistency includes measurements held out from the network (see `split_kspace`), which it
    cannot fit by repeating its inputs.

    For evaluation phi is always the first transform, so that a held-out loss is repeatable. A is
    by default `network.operator`; the `seed` is that of the transforms.

    Reference:
        Chen, Tachella and Davies, "Equivariant imaging: learning beyond the range space", 2021.
    """

    judged_as = "self_supervised"

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
        self, inputs: Mapping[str, Any], targets: Any, prediction: Any, training: bool
    ) -> Any:
        """Returns w_c l(A f(y), y) + w_e l(f(A phi x1), phi x1)."""
        full = all_measurements(inputs)
        measured = self.operator.forward(prediction, **self.operator.parameters(full))
        consistency = self.distance(full["measurements"], measured)
        if not self.equivariance_weight:
            return self.consistency_weight * consistency
        parameters = self.operator.parameters(inputs)
        image = ops.stop_gradient(self._transform(prediction, training))
        virtual = {**inputs, "measurements": self.operator.forward(image, **parameters)}
        equivariance = self.distance(image, self.network(virtual, training=training))
        return self.consistency_weight * consistency + self.equivariance_weight * equivariance

    def _transform(self, image: Any, training: bool) -> Any:
        candidates = (_transformed(transform, image) for transform in self.transforms)
        images = [candidate for candidate in candidates if candidate is not None]
        if not images:
            raise ValueError(
                "Images must be square for the transforms "
                f"{self.operator.informative_transforms} of the operator. Pad them, or pass "
                f"equivariance_weight=0. Received: images of {tuple(image.shape[1:3])}"
            )
        if not training or len(images) == 1:
            return images[0]
        choice = keras.random.randint((), 0, len(images), seed=self.seed_generator)
        return ops.take(ops.stack(images), choice, axis=0)


def _transformed(transform: Callable[[Any], Any], image: Any) -> Any:
    """The transformed image; None where the transform would change its shape."""
    try:
        transformed = transform(image)
    except ValueError:  # a rotation of an image that is not square
        return None
    return transformed if tuple(transformed.shape) == tuple(image.shape) else None
