"""Where the measurements of a reconstruction come from, and how its images are judged."""

from spade_keras.tasks.sources.brain_template import BrainTemplate
from spade_keras.tasks.sources.fastmri import FastMRI
from spade_keras.tasks.sources.kspace import KSpace
from spade_keras.tasks.sources.photographs import Photographs
from spade_keras.tasks.sources.source import IMAGE_COLUMNS, Source

SOURCES: dict[str, type[Source]] = {
    "fastmri": FastMRI,
    "kspace": KSpace,
    "mni152": BrainTemplate,
    "photographs": Photographs,
}

__all__ = [
    "IMAGE_COLUMNS",
    "SOURCES",
    "BrainTemplate",
    "FastMRI",
    "KSpace",
    "Photographs",
    "Source",
]
