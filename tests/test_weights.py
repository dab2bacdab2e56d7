"""The trained networks that ship with the package."""

import shutil

import numpy as np
import pytest

import spade_keras as sk
from spade_keras import tasks, weights
from spade_keras.backend.batches import predict
from spade_keras.errors import RecipeError, WeightsError
from spade_keras.recipe import load_recipe

SHIPPED = [
    ("mri_unrolled_quickstart", "unrolled_pgd", "mni152"),
    ("mri_deq_quickstart", "deep_equilibrium", "mni152"),
    ("sr_usrnet_quickstart", "usrnet", "photographs"),
]
TRAINED = ["network.weights=mni152", "training.epochs=0"]
QUICKSTART = "mri_unrolled_quickstart"


def test_all_that_ship_are_tested():
    files = {path.stem for path in weights.FOLDER.glob("*.keras")}
    assert files == {f"{network}-{name}" for _, network, name in SHIPPED}
    assert all(weights.weights_of(network) == (name,) for _, network, name in SHIPPED)


@pytest.mark.parametrize(("recipe", "network", "name"), SHIPPED)
def test_scores_are_those_of_the_record(recipe, network, name, tmp_path):
    record = weights.record(network, name)
    assert record["recipe"] == recipe
    assert weights.path(network, name).stat().st_size < 1e6
    settings = load_recipe(recipe, [f"network.weights={name}", "training.epochs=0"])
    task = tasks.get(settings)
    task.make_data(tmp_path, lambda line: None)
    test = task.load(tmp_path, "test")
    model = task.new_network(test)
    scores = task.scores(test, predict(model, test.inputs))
    for key in ("psnr_db", "ssim"):
        assert scores[key] == pytest.approx(record["full"]["scores"][key], rel=1e-3)
    saved = sk.load_model(weights.path(network, name))
    for made, expected in zip(model.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(made, expected)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for file in weights.FOLDER.glob("unrolled_pgd-mni152.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.once
def test_one_flipped_bit_is_noticed(folder):
    file = weights.path("unrolled_pgd", "mni152")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged.*make pretrained"):
        weights.path("unrolled_pgd", "mni152")


@pytest.mark.once
@pytest.mark.parametrize("call", [weights.path, weights.record])
def test_unknown_weights_list_the_known_ones(call):
    with pytest.raises(WeightsError, match=r'\("mni152"\).*weights="imagenet"'):
        call("unrolled_pgd", "imagenet")


@pytest.mark.once
@pytest.mark.parametrize(
    "override",
    [
        "network.iterations=4",
        "network.prior.filters=[48,48,48,32]",
        "network.prior.kernel_size=5",
        "data.test_slices=20",  # slices that were trained on would be tested on
        "data.gap_slices=0",
        "data.validation_slices=4",
    ],
)
def test_recipes_that_do_not_fit_the_weights_say_which_key(override):
    with pytest.raises(RecipeError) as error:
        load_recipe(QUICKSTART, [*TRAINED, override])
    key = override.partition("=")[0]
    assert f"`{key}` must be" in str(error.value)
    assert 'network.weights="none"' in str(error.value)


@pytest.mark.once
def test_images_of_ones_own_were_not_trained_on(tmp_path):
    np.save(tmp_path / "stack.npy", np.ones((60, 96, 96), "float32"))
    path = f'data.path="{tmp_path / "stack.npy"}"'
    load_recipe(QUICKSTART, [*TRAINED, path, "data.test_slices=20"])
    with pytest.raises(RecipeError, match=r"`network.iterations` must be 5"):
        load_recipe(QUICKSTART, [*TRAINED, path, "network.iterations=4"])


@pytest.mark.once
def test_weights_need_no_training_and_new_ones_do():
    assert load_recipe(QUICKSTART, TRAINED).training.epochs == 0
    load_recipe(QUICKSTART, [*TRAINED, "data.noise_std=0.02", "training.epochs=2"])
    with pytest.raises(RecipeError, match=r"`training.epochs` must be at least 1.*mni152"):
        load_recipe(QUICKSTART, ["network.weights=none", "training.epochs=0"])
    with pytest.raises(RecipeError, match=r'`network.weights` must be .*"none", "mni152"'):
        load_recipe(QUICKSTART, ["network.weights=imagenet"])
