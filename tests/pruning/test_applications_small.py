"""Four small applications under every backend; all forty are in sweep_applications.py."""

import keras
import pytest

from spade_keras.pruning import make_plan
from spade_keras.pruning.groups import find_groups
from spade_keras.pruning.verify import verify_plan

FIXED = {
    "MobileNet": {"conv_preds"},
    "MobileNetV2": {"predictions"},
    "MobileNetV3Small": {"logits"},
    "EfficientNetV2B0": {"predictions"},
}
SETTINGS = {"MobileNet": {"alpha": 0.25}, "MobileNetV2": {"alpha": 0.35}}


@pytest.mark.parametrize("name", list(FIXED))
def test_application_is_pruned_by_half_and_equal(name):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(32, 32, 3), classes=10, **SETTINGS.get(name, {}))
    assert {group.name for group in find_groups(model) if group.fixed} == FIXED[name]
    plan = make_plan(model, ratio=0.5, importance="random")
    report = verify_plan(model, plan)
    assert report.slim_parameters < 0.45 * report.parameters
    keras.backend.clear_session()
