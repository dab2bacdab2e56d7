"""Sources of measurements for reconstruction, with splits, scores and pictures."""

from spade_keras.registry import SOURCES
from spade_keras.tasks.sources.source import IMAGE_COLUMNS, Source

__all__ = ["IMAGE_COLUMNS", "SOURCES", "Source"]
