"""One model of every family of keras.applications: decomposed, and its outputs compared.

Run with the TensorFlow backend:

    KERAS_BACKEND=tensorflow python tests/pruning/basis/sweep_applications.py [NAME ...]

Weights and statistics are random. The comparison is made in double precision, where the
allowed relative error of 1e-5 tells a wrong pair from rounding. Beside it stand the error in single
precision, which deep networks amplify, and how far the original itself is, in single precision,
from the same weights in double: no decomposition can be expected to be nearer. Dense layers of more
than 1024 components, whose SVD takes minutes, stay whole. Exits with 1 if any model fails.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from random_model import example_inputs, logits, randomize_weights

from spade_keras.pruning.basis import decompose, find_pairs, find_rank_groups

SMALLEST = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}
NAMES = """
    MobileNet MobileNetV2 MobileNetV3Small EfficientNetB0 EfficientNetV2B0 NASNetMobile DenseNet121
    ResNet50 ResNet50V2 ConvNeXtTiny Xception InceptionV3 InceptionResNetV2 VGG16
"""
LARGEST_RANK = 1024
TOLERANCE = 1e-5


def make(name, precision, weights=None):
    """An application in a precision, with these weights, or with random ones."""
    keras.config.set_floatx(precision)
    size = SMALLEST.get(name, 32)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10)
    if weights is None:
        randomize_weights(model, seed=0)
    else:
        model.set_weights(weights)
    return model


def outputs_of(model):
    """Logits of a model, those of it decomposed, and how many of its layers that splits."""
    groups = find_rank_groups(model)
    chosen = [g.name for g in groups if g.fixed is None and g.rank <= LARGEST_RANK]
    low = decompose(model, chosen)
    inputs = example_inputs(model, seed=0)
    (whole,), (split,) = logits(model, inputs), logits(low, inputs)
    return whole, split, f"{len(find_pairs(low)):3d} of {len(groups):3d} layers"


def sweep_one(name):
    """Line of figures for one application; raises where something is wrong."""
    start = time.perf_counter()
    model = make(name, "float64")
    weights = model.get_weights()
    whole, split, layers = outputs_of(model)
    keras.backend.clear_session()
    single, single_split, _ = outputs_of(make(name, "float32", weights))

    def error(found, wanted):
        return np.abs(found - wanted).max() / whole.std()

    line = (
        f"{name:18s} {layers}  error {error(split, whole):.1e}  "
        f"single {error(single_split, single):.1e}  own {error(single, whole):.1e}"
    )
    if not error(split, whole) <= TOLERANCE:
        raise AssertionError(line)
    return f"{line}  {time.perf_counter() - start:.0f} s"


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
