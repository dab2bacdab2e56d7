"""What may go wrong on the way to an exported model."""

from __future__ import annotations

from spade_keras.errors import SpadeError


class ExportError(SpadeError):
    """A model could not be exported, or what was exported cannot be trusted."""
