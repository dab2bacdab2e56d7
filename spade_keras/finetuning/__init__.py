"""Fine-tuning of a slim network: supervised, by its teacher, or from measurements alone."""

from spade_keras.finetuning.fine_tuner import (
    IMAGE_CLIP_NORM,
    FineTuner,
    School,
    Supervised,
    cross_entropy,
    divergence,
    judged_as,
    mean_squared_error,
    tuning_options,
)
from spade_keras.finetuning.self_supervised import SelfSupervised
from spade_keras.finetuning.splitting import SplitBatches, split_kspace
from spade_keras.registry import STRATEGIES

__all__ = [
    "IMAGE_CLIP_NORM",
    "STRATEGIES",
    "FineTuner",
    "School",
    "SelfSupervised",
    "SplitBatches",
    "Supervised",
    "cross_entropy",
    "divergence",
    "judged_as",
    "mean_squared_error",
    "split_kspace",
    "tuning_options",
]
