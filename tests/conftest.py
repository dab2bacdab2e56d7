"""Tests marked `once` do not depend on the Keras backend: they run under TensorFlow alone.

Processes of pytest-xdist that share the cores have one thread each, which must be set before a
backend is imported.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch and BLAS
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import keras


def pytest_collection_modifyitems(config, items):
    if keras.backend.backend() == "tensorflow":
        return
    once = [item for item in items if item.get_closest_marker("once")]
    if once:
        config.hook.pytest_deselected(items=once)
        items[:] = [item for item in items if item not in set(once)]
