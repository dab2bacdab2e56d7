"""Models as graphs of labeled channels."""
