"""Where the measurements of a reconstruction come from, and how its images are judged."""

from spade_keras.registry import SOURCES
from spade_keras.tasks.sources.source import IMAGE_COLUMNS, Source

__all__ = ["IMAGE_COLUMNS", "SOURCES", "Source"]
