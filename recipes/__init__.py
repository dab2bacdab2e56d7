"""The recipes that ship with spade-keras, found through `importlib.resources`."""
