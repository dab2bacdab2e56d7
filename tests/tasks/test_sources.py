"""Sources of a reconstruction: what is split how, what is left out, and who judges."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from spade_keras import data, tasks
from spade_keras.errors import SpadeError
from spade_keras.finetuning import split_kspace
from spade_keras.recipe import load_recipe
from spade_keras.tasks.sources import SOURCES, Source

pytestmark = pytest.mark.once
KSPACE = [
    "data.height=32",
    "data.width=32",
    "data.acs_lines=8",
    "data.slices=1",
]


def made(recipe, folder, *overrides):
    """The task of a recipe whose data are in a folder, and their facts."""
    task = tasks.get(load_recipe(recipe, overrides))
    folder.mkdir(exist_ok=True)
    lines = []
    facts = task.make_data(folder, lines.append)
    assert len(lines) == len(tasks.SPLITS)
    return task, facts


def scan(slices=None):
    """Undersampled k-space of discs, sampled in points around a full center."""
    y, x = np.mgrid[-1:1:24j, -1:1:20j]
    discs = np.stack([x**2 + y**2 < 0.8] * (slices or 1)).astype("float32")
    simulated = data.simulate_multicoil(discs, acceleration=1, acs_lines=0)
    kspace = (
        simulated.inputs["measurements"][..., 0] + 1j * simulated.inputs["measurements"][..., 1]
    )
    mask = np.random.default_rng(0).random((24, 20)) < 0.4
    mask[6:18, 4:16] = True
    kspace = (kspace * mask).astype("complex64")
    return kspace if slices else kspace[0]


def test_a_single_scan_is_judged_by_samples_that_no_network_is_given(tmp_path):
    np.save(tmp_path / "scan.npy", scan())
    task, facts = made(
        "mri_self_supervised",
        tmp_path / "data",
        f'data.path="{tmp_path / "scan.npy"}"',
        "data.repeats=3",
        "data.acs_lines=12",
        "data.kernel_width=4",
    )
    train, validation, test = (task.load(tmp_path / "data", split) for split in tasks.SPLITS)
    assert len(train) == 3 and len(validation) == len(test) == 1
    assert train.targets is validation.targets is test.targets is None
    assert "same slice" in facts.note and "scan.npy" in facts.note

    given = test.inputs["mask"][0] != 0
    judging = [samples.held_out["held_out_mask"][0] != 0 for samples in (validation, test)]
    sampled = scan()[0] != 0
    assert not (given & judging[0]).any() and not (given & judging[1]).any()
    assert not (judging[0] & judging[1]).any()
    np.testing.assert_array_equal(given | judging[0] | judging[1], sampled)
    assert not judging[0][6:18, 4:16].any()
    outside = sampled.sum() - 144
    assert [mask.sum() for mask in judging] == pytest.approx([0.1 * outside] * 2, abs=1)
    for samples in (train, validation):
        np.testing.assert_array_equal(samples.inputs["mask"][-1], test.inputs["mask"][0])
    assert not (test.inputs["measurements"][0] * ~given[..., None]).any()
    assert set(test.inputs) == {"measurements", "mask", "sensitivities"}


def test_the_scores_without_truth_are_those_of_the_held_out_samples(tmp_path):
    task, _ = made("mri_self_supervised", tmp_path, *KSPACE)
    test = task.load(tmp_path, "test")
    nothing = np.zeros((1, 32, 32, 2), "float32")
    assert task.scores(test, nothing)["kspace_nmse"] == pytest.approx(1)
    assert task.scores(test, nothing)["kspace_snr_db"] == pytest.approx(0, abs=1e-5)
    zero_filled = task.baselines(test)["zero_filled"]

    maps, image, samples = (
        array[0, ..., 0] + 1j * array[0, ..., 1]
        for array in (
            test.inputs["sensitivities"],
            zero_filled,
            test.held_out["held_out_measurements"],
        )
    )
    taken = test.held_out["held_out_mask"][0]
    measured = taken * np.fft.fftshift(
        np.fft.fft2(np.fft.ifftshift(maps * image, axes=(1, 2)), norm="ortho"), axes=(1, 2)
    )
    nmse = np.sum(np.abs(measured - samples) ** 2) / np.sum(np.abs(samples) ** 2)
    assert task.scores(test, zero_filled)["kspace_nmse"] == pytest.approx(nmse, rel=1e-4)
    changed = {**test.inputs, "measurements": test.inputs["measurements"] * 2}
    scores = task.scores(tasks.Samples(changed, held_out=test.held_out), zero_filled)
    assert scores["kspace_nmse"] == task.scores(test, zero_filled)["kspace_nmse"]
    assert scores["given_nmse"] > task.scores(test, zero_filled)["given_nmse"]


def test_no_file_of_the_data_holds_a_simulated_scans_image(tmp_path):
    made("mri_self_supervised", tmp_path, *KSPACE)
    for file in tmp_path.glob("*.npz"):
        with np.load(file) as arrays:
            assert "targets" not in arrays.files


def test_a_scan_without_signal_in_the_center_says_what_to_change(tmp_path):
    np.save(tmp_path / "scan.npy", scan() * (np.arange(20) > 17))
    with pytest.raises(SpadeError, match="center"):
        made("mri_self_supervised", tmp_path / "data", f'data.path="{tmp_path / "scan.npy"}"')


def test_several_slices_are_slabs(tmp_path):
    np.save(tmp_path / "scan.npy", scan(slices=6))
    common = [
        f'data.path="{tmp_path / "scan.npy"}"',
        "data.acs_lines=12",
        "data.kernel_width=4",
        "data.gap_slices=1",
    ]
    sizes = ["data.validation_slices=1", "data.test_slices=1"]
    task, facts = made("mri_self_supervised", tmp_path / "data", *common, *sizes)
    splits = [task.load(tmp_path / "data", split) for split in tasks.SPLITS]
    assert [len(samples) for samples in splits] == [2, 1, 1]
    assert "slabs" in facts.note
    with pytest.raises(SpadeError, match="too few slices"):
        made("mri_self_supervised", tmp_path / "more", *common, "data.test_slices=9")


def test_splitting_keeps_the_center_and_every_sample_once():
    rng = np.random.default_rng(0)
    mask = np.zeros((2, 1, 20), "float32")
    mask[..., ::2] = mask[..., 8:12] = 1
    y = rng.standard_normal((2, 3, 5, 20, 2)).astype("float32") * mask[:, None, ..., None]
    split = split_kspace({"measurements": y, "mask": mask}, 0.5, rng, center=4)
    held_out = split["held_out_mask"]
    np.testing.assert_array_equal(split["mask"] + held_out, mask)
    assert held_out.sum(axis=(1, 2)).tolist() == [4, 4]  # half of the 8 lines outside
    assert not held_out[..., 8:12].any()
    np.testing.assert_array_equal(split["measurements"] + split["held_out_measurements"], y)
    assert (split["held_out_measurements"] != 0).sum() == 2 * 4 * 3 * 5 * 2
    with pytest.raises(ValueError, match="points outside"):
        split_kspace({"measurements": y, "mask": mask}, 0.5, rng, center=20)


def test_fastmri_files_are_split_by_patient_and_bad_ones_listed(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        patient = f"patient_{max(index, 1)}"  # the first two are of one
        images = rng.random((2, 16, 16))
        data.write_fastmri_like(
            files / f"{index}.h5", images, layout=data.FastMRILayout(coils=2), patient_id=patient
        )
    (files / "broken.h5").write_bytes(b"no HDF5")
    options = [f'data.path="{files}"', "data.acs_lines=4"]
    options += ["data.validation_volumes=1", "data.test_volumes=1"]
    with pytest.raises(SpadeError, match=r"broken\.h5"):
        made("mri_e2e_varnet_fastmri", tmp_path / "strict", *options)
    task, facts = made("mri_e2e_varnet_fastmri", tmp_path / "data", *options, "data.skip_bad=true")
    assert [file.endswith("broken.h5") for file in facts.skipped] == [True]
    splits = [task.load(tmp_path / "data", split) for split in tasks.SPLITS]
    assert sum(len(samples) for samples in splits) == 8
    for samples in splits:
        assert samples.inputs["measurements"].shape[1:] == (2, 16, 16, 2)
        assert samples.targets.shape[1:] == (16, 16, 1)
    one = splits[2].take(1, 1)
    assert one.inputs["mask"].shape == (1, 1, 16) and one.targets.shape == (1, 16, 16, 1)
    perfect = task.scores(splits[2], np.asarray(splits[2].targets))
    assert perfect["ssim"] == pytest.approx(1) and perfect["convention"] == "fastmri"


def test_too_few_patients_in_enough_volumes_are_an_error(tmp_path):
    for index in range(4):
        data.write_fastmri_like(
            tmp_path / f"{index}.h5", np.ones((1, 16, 16)), patient_id=f"patient_{index % 2}"
        )
    with pytest.raises(SpadeError, match=r"number of patients \(2 in 4 volumes\).*test_volumes=1"):
        made(
            "mri_e2e_varnet_fastmri",
            tmp_path / "data",
            f'data.path="{tmp_path}"',
            "data.validation_volumes=1",
            "data.test_volumes=1",
        )


def test_zero_filled_fastmri_images_are_the_stored_ones_when_nothing_is_missing(tmp_path):
    overrides = ["data.volumes=3", "data.validation_volumes=1", "data.test_volumes=1"]
    overrides += ["data.slices=1", "data.height=16", "data.width=16"]
    task, facts = made("mri_e2e_varnet_fastmri", tmp_path, *overrides, "data.acceleration=1")
    test = task.load(tmp_path, "test")
    np.testing.assert_allclose(task.baselines(test)["zero_filled"], test.targets, atol=1e-4)
    assert "template" in facts.note
    with h5py.File(tmp_path / "volumes" / "volume_0.h5") as file:
        assert {"kspace", "reconstruction_rss", "ismrmrd_header"} <= set(file)


def test_photographs_of_a_folder_through_the_kernels_of_a_file(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        pixels = rng.integers(0, 255, (40, 50, 3), "uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no PNG")
    kernels = rng.random((3, 9, 9)).astype("float32")
    np.save(tmp_path / "kernels.npy", kernels / kernels.sum((1, 2), keepdims=True))
    options = [
        f'data.path="{folder}"',
        f'data.kernels="{tmp_path / "kernels.npy"}"',
        "data.patch=16",
        "data.patches=5",
        "data.image_size=32",
        "data.skip_bad=true",
        "data.test_images=2",
    ]
    task, facts = made("sr_usrnet_quickstart", tmp_path / "data", *options)
    train, _, test = (task.load(tmp_path / "data", split) for split in tasks.SPLITS)
    assert len(facts.skipped) == 1 and "kernels.npy" in facts.note
    assert train.targets.shape == (5, 16, 16, 3)
    assert test.targets.shape == (6, 32, 32, 3)  # two images, each through all three kernels
    assert test.inputs["measurements"].shape == (6, 16, 16, 3)
    assert test.inputs["kernel"].shape == (6, 9, 9)
    with pytest.raises(SpadeError, match=r"`data\.image_size` must be at most"):
        made("sr_usrnet_quickstart", tmp_path / "large", *options, "data.image_size=48")


def test_interpolation_is_a_fair_baseline(tmp_path):
    """It is aligned with the pixels that are kept: of a blurred image it is nearly right."""
    options = ["data.patches=2", "data.patch=26", "data.image_size=64", "data.noise_std=0"]
    task, _ = made("sr_usrnet_quickstart", tmp_path, *options)
    test = task.load(tmp_path, "test")
    image = task.baselines(test)["interpolated"]
    np.testing.assert_allclose(image[:, ::2, ::2], test.inputs["measurements"], atol=1e-4)
    shifted = np.roll(image, 1, axis=1)
    assert task.scores(test, image)["psnr_db"] > task.scores(test, shifted)["psnr_db"]


def test_a_registered_source_works_by_name(tmp_path):
    class Mine(Source):
        convention_name = convention = "mine"

        def make(self, folder, say):
            data.simulate_multicoil(np.ones((2, 16, 16))).save(folder / "test.npz")
            return tasks.DataFacts("of mine")

        def scores(self, samples, outputs):
            return {"error": float(np.abs(outputs - samples.targets).max())}

    SOURCES.register("mine", Mine)
    try:
        settings = SimpleNamespace(source="mine", path="scan")
        run = SimpleNamespace(task="reconstruction", seed=0)
        task = tasks.get(SimpleNamespace(run=run, data=settings))
        assert task.make_data(tmp_path, print).note == "of mine"
        test = task.load(tmp_path, "test")
        assert task.scores(test, np.asarray(test.targets)) == {"error": 0}
        assert task.baselines(test)["zero_filled"].shape == (2, 16, 16, 2)
        assert 1 < task.facts(test)["true_acceleration"] < 4
    finally:
        SOURCES.unregister("mine")


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_states_its_convention(name):
    source = SOURCES[name]
    assert source.convention_name and source.convention
    assert next(iter(source.columns))
