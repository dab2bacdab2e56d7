"""Latency receipts: what they keep, what they refuse, and what replaying them says."""

import json

import keras
import numpy as np
import pytest

from spade_keras import pruning, search
from spade_keras.errors import ReceiptError
from spade_keras.search.finalists import compare_for
from spade_keras.search.receipt import ModelIdentity, Quality, Receipt, read_receipt, write_receipt
from spade_keras.search.replay import replay
from tests.parameter_clock import ParameterClock, comparison

INPUTS = np.zeros((1, 8, 8, 2), "float32")


def make_model(seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 2))
    hidden = keras.layers.Conv2D(16, 3, name="first")(image)
    return keras.Model(image, keras.layers.Conv2D(3, 3, name="second")(hidden))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = make_model()
    plan = pruning.make_plan(model, widths={"first": 4})
    model.save(folder / "full.keras")
    pruning.rebuild(model, plan).save(folder / "slim.keras")
    return folder, plan


@pytest.fixture
def receipt(files):
    folder, plan = files
    return Receipt(
        budget=search.LatencyBudget(0.5),
        comparison=comparison(0.3, INPUTS),
        plan=plan,
        configuration=search.Configuration(plan.widths),
        full=ModelIdentity.of(folder / "full.keras"),
        slim=ModelIdentity.of(folder / "slim.keras"),
        trial=3,
        quality=Quality("agreement", 31.0, 20.0, 31.0),
    )


def test_what_is_written_is_read(receipt, tmp_path):
    path = tmp_path / "receipt.json"
    write_receipt(path, receipt)
    again = read_receipt(path)
    assert again == receipt
    assert again.holds
    assert again.plan.widths == {"first": 4, "second": 3}
    assert again.configuration.widths == again.plan.widths
    assert again.comparison.b.samples == (3.0, 3.0, 3.0)
    content = json.loads(path.read_text())
    assert content["verdict"].startswith("meets the budget: 0.5 of the full network's latency")
    assert content["ratio"]["high"] == pytest.approx(0.31)
    assert content["fingerprint"]["backend"] == keras.backend.backend()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace('"high": 0.31', '"high": 0.21'), "damaged or edited"),
        (lambda text: text[: len(text) // 2], "must be a JSON file"),
        (lambda text: "[1]", "which is none"),
        (lambda text: text.replace('"format_version": 2', '"format_version": 9', 1), "version 9"),
        (lambda text: "\0", "must be a JSON file"),
    ],
)
def test_a_changed_or_damaged_receipt_is_refused(receipt, tmp_path, edit, message):
    path = tmp_path / "receipt.json"
    write_receipt(path, receipt)
    text = path.read_text()
    assert edit(text) != text
    path.write_text(edit(text))
    with pytest.raises(ReceiptError, match=message):
        read_receipt(path)
    with pytest.raises(ReceiptError, match=r"absent\.json"):
        read_receipt(tmp_path / "absent.json")


def test_replaying_rebuilds_the_slim_model_from_the_plan(receipt, files):
    folder, _ = files
    clock = ParameterClock()
    verdict = replay(receipt, folder / "full.keras", compare=clock.compare)
    # 3x3x2x4 + 4 and 3x3x4x3 + 3 of 3x3x2x16 + 16 and 3x3x16x3 + 3 parameters.
    assert verdict.comparison.ratio.value == pytest.approx((76 + 111) / (304 + 435))
    assert verdict.holds and verdict.same_device and verdict.rebuilt and not verdict.differences
    assert "Holds on the receipt's device" in str(verdict)
    with_slim = replay(receipt, folder / "full.keras", folder / "slim.keras", compare=clock.compare)
    assert with_slim.comparison.ratio == verdict.comparison.ratio
    assert not with_slim.rebuilt


def test_a_slower_or_other_device_is_told(receipt, files):
    folder, _ = files
    clock = ParameterClock(slowdown=3.0)
    verdict = replay(receipt, folder / "full.keras", compare=clock.compare)
    assert not verdict.holds
    shown = str(verdict)
    assert "Does not hold" in shown and "0.300 of" in shown and "0.759 of" in shown
    there = json.loads(json.dumps(receipt.as_dict()))
    there["fingerprint"]["device"]["name"] = "another processor"
    there["fingerprint"]["versions"]["keras"] = "3.0"
    moved = replay(
        Receipt.from_dict(there), folder / "full.keras", compare=ParameterClock().compare
    )
    assert moved.holds and not moved.same_device
    assert set(moved.differences) == {"device.name", "versions.keras"}
    assert moved.differences["versions.keras"] == ("3.0", keras.__version__)
    assert "on another device" in str(moved) and "another processor ->" in str(moved)


def test_other_files_are_refused_and_the_same_model_saved_again_is_not(receipt, files, tmp_path):
    folder, _ = files
    compare = ParameterClock().compare
    make_model(seed=1).save(tmp_path / "other.keras")
    with pytest.raises(ReceiptError, match="`full` must be the file"):
        replay(receipt, tmp_path / "other.keras", compare=compare)
    with pytest.raises(ReceiptError, match="`slim` must be the file"):
        replay(receipt, folder / "full.keras", folder / "full.keras", compare=compare)
    with pytest.raises(ReceiptError, match="`full` cannot be checked"):
        replay(receipt, tmp_path / "absent.keras", compare=compare)
    again = keras.saving.load_model(folder / "full.keras")
    again.compile("adam", "mse")
    again.save(tmp_path / "again.keras")
    saved, first = (
        ModelIdentity.of(tmp_path / "again.keras"),
        ModelIdentity.of(folder / "full.keras"),
    )
    assert saved.sha256 != first.sha256
    assert saved.weights_sha256 == first.weights_sha256
    assert replay(receipt, tmp_path / "again.keras", compare=compare).holds
    with pytest.raises(ReceiptError, match="shapes and dtypes of the receipt"):
        replay(receipt, folder / "full.keras", inputs=INPUTS[:, :4], compare=compare)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.5", "0.300 of the full network's latency (95 % interval 0.290 to 0.310)"),
        ("8ms", "median 3 ms (95 % interval 3 to 3)"),
        ("p99<=8ms", "p99 3 ms (95 % interval 3 to 3)"),
        ("throughput>=200/s", "333.3 samples per second (95 % interval 333.3 to 333.3)"),
    ],
)
def test_measurements_are_told_in_the_terms_of_the_budget(text, words):
    assert search.LatencyBudget.parse(text).describe(comparison(0.3)) == words


@pytest.mark.parametrize(
    ("ratios", "processes", "met"),
    [
        ([0.45, 0.451, 0.449], 3, True),
        ([0.47, 0.49, 0.48, 0.48, 0.48, 0.48], 6, True),  # more evidence decides
        ([0.47, 0.49, 0.48, *[0.45, 0.53, 0.48] * 2], 9, False),  # never the best of several
        ([0.55, 0.551, 0.549], 3, False),
    ],
)
def test_a_close_call_is_timed_in_more_processes_all_of_which_count(ratios, processes, met):
    asked = []

    def compare(a, b, inputs, **options):
        asked.append((options["pairs"], options["single_calls"]))
        return comparison(ratios[len(asked) - 1], spread=0.001)

    budget = search.LatencyBudget(0.5)
    pooled = compare_for(budget, None, None, None, compare=compare)
    assert asked == [(10, False)] * processes
    assert pooled.ratio.processes == processes
    assert (budget.excess(pooled) <= 0) == met


def test_a_tail_is_timed_in_single_calls():
    asked = []

    def compare(a, b, inputs, **options):
        asked.append((options["pairs"], options["single_calls"]))
        return comparison(0.45)

    compare_for(search.LatencyBudget.parse("p99<=8ms"), None, None, None, compare=compare)
    assert asked == [(200, True)] * 3
