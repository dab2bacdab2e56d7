"""Tests marked `once` do not depend on the Keras backend: they run under TensorFlow alone."""

import keras


def pytest_collection_modifyitems(config, items):
    if keras.backend.backend() == "tensorflow":
        return
    once = [item for item in items if item.get_closest_marker("once")]
    if once:
        config.hook.pytest_deselected(items=once)
        items[:] = [item for item in items if item not in set(once)]
