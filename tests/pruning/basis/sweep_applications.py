"""One model of every family of keras.applications: decomposed, and its outputs compared.

Run with the TensorFlow backend:

    KERAS_BACKEND=tensorflow python tests/pruning/basis/sweep_applications.py [NAME ...]

Weights and statistics are random. The comparison is made in double precision, where the
allowed relative error of 1e-5 tells a wrong pair from rounding; the error in single precision,
which deep networks amplify, stands beside it. Dense layers of more than 1024 components, whose
decomposition takes minutes, are left out. Exits with 1 if any model fails.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from spade_keras.pruning.basis import decompose, find_pairs, find_rank_groups
from spade_keras.pruning.basis.verification import example_inputs, logits, randomize_weights

SMALLEST = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}
NAMES = """
    MobileNet MobileNetV2 MobileNetV3Small EfficientNetB0 EfficientNetV2B0 NASNetMobile DenseNet121
    ResNet50 ResNet50V2 ConvNeXtTiny Xception InceptionV3 InceptionResNetV2 VGG16
"""
LARGEST_RANK = 1024
TOLERANCE = 1e-5


def error_of(name, precision):
    """Relative error of the decomposed model, and how many layers it has decomposed."""
    keras.config.set_floatx(precision)
    size = SMALLEST.get(name, 32)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10)
    randomize_weights(model, seed=0)
    groups = find_rank_groups(model)
    chosen = [g.name for g in groups if g.fixed is None and g.rank <= LARGEST_RANK]
    low = decompose(model, chosen)
    inputs = example_inputs(model, seed=0)
    (wanted,), (found,) = logits(model, inputs), logits(low, inputs)
    error = np.abs(wanted - found).max() / wanted.std()
    return error, len(find_pairs(low)), len(groups)


def sweep_one(name):
    """Line of figures for one application; raises where something is wrong."""
    start = time.perf_counter()
    error, pairs, layers = error_of(name, "float64")
    keras.backend.clear_session()
    single, _, _ = error_of(name, "float32")
    seconds = time.perf_counter() - start
    line = f"{name:18s} {pairs:3d} of {layers:3d} layers  error {error:.1e}  single {single:.1e}"
    if not error <= TOLERANCE:
        raise AssertionError(line)
    return f"{line}  {seconds:.0f} s"


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES.split(), metavar="NAME")
    failed = []
    for name in parser.parse_args().names:
        try:
            say(sweep_one(name))
        except Exception as error:
            failed.append(name)
            say(f"{name:18s} FAILED {type(error).__name__}: {error}")
        keras.backend.clear_session()
    say(f"{len(failed)} failed {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
