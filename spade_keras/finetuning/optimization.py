"""How networks are trained here: Adam on clipped gradients, a rise and a cosine."""

from __future__ import annotations

from typing import Any

import keras

from spade_keras import backend

IMAGE_CLIP_NORM = 0.01
"""Length to which gradients are cut for images scaled to [0, 1]."""


def tuning_options(
    *, learning_rate: float, steps: int, warmup: int, clip_norm: float = IMAGE_CLIP_NORM
) -> dict[str, Any]:
    """Returns the optimizer and how a step is compiled, as arguments of `compile`.

    A just pruned network and a small batch give gradients of very different lengths; cut to a
    small one they allow a learning rate several times higher.

    Args:
        learning_rate: Of Adam after a linear rise; falls to zero by a cosine.
        steps: Steps of the whole training.
        warmup: Steps of the rise, which starts at a twentieth of `learning_rate`.
        clip_norm: Length to which gradients are cut.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 20,
        max(1, steps - warmup),
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    # On a CPU TensorFlow's own kernels beat XLA's, twofold for convolutions.
    on_tf_cpu = keras.backend.backend() == "tensorflow" and backend.device().kind == "cpu"
    return {
        "optimizer": keras.optimizers.Adam(schedule, global_clipnorm=clip_norm),
        "jit_compile": False if on_tf_cpu else "auto",
    }
