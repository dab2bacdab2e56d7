"""Every model of keras.applications: pruned by half, rebuilt, called and proved equal.

Run with the TensorFlow backend:

    KERAS_BACKEND=tensorflow python tests/pruning/sweep_applications.py [NAME ...]

Prints one line per model and exits with 1 if any model fails, is not equal to its masked
original, or has another fixed group than its classifier.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from spade_keras.pruning import make_plan
from spade_keras.pruning.graph.analysis import label_graph
from spade_keras.pruning.graph.partition import partition
from spade_keras.pruning.graph.trace import trace
from spade_keras.pruning.groups import find_groups
from spade_keras.pruning.verify import verify_plan

SMALLEST = {
    "Xception": 71,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "NASNetMobile": 32,
    "NASNetLarge": 32,
}
NAMES = """
    Xception VGG16 VGG19 ResNet50 ResNet101 ResNet152 ResNet50V2 ResNet101V2 ResNet152V2
    InceptionV3 InceptionResNetV2 MobileNet MobileNetV2 MobileNetV3Small MobileNetV3Large
    DenseNet121 DenseNet169 DenseNet201 NASNetMobile NASNetLarge EfficientNetB0 EfficientNetB1
    EfficientNetB2 EfficientNetB3 EfficientNetB4 EfficientNetB5 EfficientNetB6 EfficientNetB7
    EfficientNetV2B0 EfficientNetV2B1 EfficientNetV2B2 EfficientNetV2B3 EfficientNetV2S
    EfficientNetV2M EfficientNetV2L ConvNeXtTiny ConvNeXtSmall ConvNeXtBase ConvNeXtLarge
    ConvNeXtXLarge
"""
FIXED = {
    "MobileNet": {"conv_preds"},
    "MobileNetV3Small": {"logits"},
    "MobileNetV3Large": {"logits"},
    "ConvNeXtTiny": {"convnext_tiny_head_dense"},
    "ConvNeXtSmall": {"convnext_small_head_dense"},
    "ConvNeXtBase": {"convnext_base_head_dense"},
    "ConvNeXtLarge": {"convnext_large_head_dense"},
    "ConvNeXtXLarge": {"convnext_xlarge_head_dense"},
}

# The deepest of them amplify the rounding of single precision a thousandfold; one wrong channel
# gives errors of 0.1 and more.
TOLERANCE = 5e-3


def build(name):
    """The application at its smallest legal input, freshly initialized."""
    size = SMALLEST.get(name, 32)
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))


def sweep_one(name):
    """Line of figures for one application; raises where something is wrong."""
    start = time.perf_counter()
    model = build(name)
    built = time.perf_counter()
    groups = find_groups(model)
    first = time.perf_counter()
    partition(label_graph(trace(model)))
    analyzed = time.perf_counter()
    fixed = {group.name for group in groups if group.fixed is not None}
    wanted = FIXED.get(name) or {"predictions"}
    if fixed != wanted:
        raise AssertionError(f"fixed groups are {sorted(fixed)}, expected {sorted(wanted)}")
    plan = make_plan(model, ratio=0.5, importance="random")
    planned = time.perf_counter()
    report = verify_plan(model, plan, tolerance=TOLERANCE)
    end = time.perf_counter()
    share = 1 - report.slim_parameters / report.parameters
    errors = " ".join(f"{error:.1e}/{report.spreads[k]:.1g}" for k, error in report.errors.items())
    return (
        f"{name:20s} removed {share:5.1%} of {report.parameters:>11,}  groups {len(groups):4d}  "
        f"fixed {','.join(sorted(fixed)):24s} build {built - start:5.1f} s  "
        f"analysis {(first - built) * 1e3:5.0f} {(analyzed - first) * 1e3:4.0f} ms  "
        f"plan {planned - analyzed:4.1f} s  "
        f"rebuild and check {end - planned:5.1f} s  "
        f"error/std {errors}"
    )


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES.split(), metavar="NAME")
    failed = []
    start = time.perf_counter()
    for name in parser.parse_args().names:
        try:
            say(sweep_one(name))
        except Exception as error:
            failed.append(name)
            say(f"{name:20s} FAILED {type(error).__name__}: {error}")
        keras.backend.clear_session()
    say(f"{len(failed)} failed {failed}, {time.perf_counter() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
