"""Every score against scikit-image and against its definition in NumPy, in fit and after."""

import keras
import numpy as np
import pytest
from keras import ops
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from spade_keras import metrics

METRICS = {"psnr_db": metrics.PSNR, "ssim": metrics.SSIM, "nmse": metrics.NMSE}


def pairs(channels=1, count=4, seed=0, level=0.5):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:26j, -1:1:31j]
    smooth = [np.exp(-((x - 0.1 * i) ** 2) - y**2) * (1 + 0.2 * i) for i in range(count)]
    truth = level * np.stack(smooth)[..., None] * rng.uniform(0.5, 1.2, (count, 1, 1, channels))
    noise = rng.normal(scale=0.05 * level, size=truth.shape)
    return truth.astype("float32"), (truth + noise).astype("float32")


def of_fastmri(truth, prediction, volumes=None):
    """The definitions of fastMRI's evaluation, by volume, of (slices, height, width)."""
    psnr, ssim, nmse = [], [], []
    for volume in np.unique(volumes):
        t, p = (array[volumes == volume].astype("float64") for array in (truth, prediction))
        peak = t.max()
        psnr.append(20 * np.log10(peak) - 10 * np.log10(((t - p) ** 2).mean()))
        nmse.append(np.linalg.norm(t - p) ** 2 / np.linalg.norm(t) ** 2)
        similar = [structural_similarity(a, b, data_range=peak) for a, b in zip(t, p, strict=True)]
        ssim.append(sum(similar) / len(similar))
    return {"psnr_db": psnr, "ssim": ssim, "nmse": nmse}


def of_images(truth, prediction, data_range):
    """scikit-image, image by image, of (images, height, width, channels)."""
    t, p = truth.astype("float64"), prediction.astype("float64")
    both = list(zip(t, p, strict=True))
    return {
        "psnr_db": [peak_signal_noise_ratio(a, b, data_range=data_range) for a, b in both],
        "ssim": [
            structural_similarity(a, b, data_range=data_range, channel_axis=-1) for a, b in both
        ],
        "nmse": [((a - b) ** 2).sum() / (a**2).sum() for a, b in both],
    }


def of_luma(truth, prediction, border):
    """Rounded to 8 bits, luma, border cropped, range 255; a Gaussian window as Wang et al. had."""

    def luma(image):
        r, g, b = np.moveaxis(np.round(np.clip(image, 0, 1) * 255), -1, 0).astype("float64")
        y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
        return y[:, border:-border, border:-border]

    t, p = luma(truth), luma(prediction)
    similar = [
        structural_similarity(
            a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(t, p, strict=True)
    ]
    error = ((t - p) ** 2).mean((1, 2))
    return {
        "psnr_db": 10 * np.log10(255**2 / error),
        "ssim": similar,
        "nmse": error / (t**2).mean((1, 2)),
    }


def check(quality, expected):
    for name, values in expected.items():
        np.testing.assert_allclose(quality[name], values, rtol=1e-5, err_msg=name)


@pytest.mark.once
def test_fastmri_is_per_volume():
    truth, image = pairs(count=5, level=1e-4)
    volumes = [1, 0, 1, 1, 0]
    quality = metrics.evaluate(truth[..., 0], image[..., 0], convention="fastmri", volumes=volumes)
    check(quality, of_fastmri(truth[..., 0], image[..., 0], np.array(volumes)))
    per_slice = of_fastmri(truth[..., 0], image[..., 0], np.arange(5))
    assert abs(np.mean(per_slice["psnr_db"]) - quality["psnr_db"].mean()) > 0.3  # it matters


@pytest.mark.once
def test_fastmri_crops_larger_predictions():
    truth, image = pairs()
    larger = np.pad(image, [(0, 0), (3, 3), (4, 5), (0, 0)], constant_values=9)
    quality = metrics.evaluate(truth, larger, convention="fastmri")
    check(quality, of_fastmri(truth[..., 0], image[..., 0], np.zeros(4)))
    with pytest.raises(ValueError, match="one shape"):
        metrics.evaluate(larger, truth, convention="fastmri")
    with pytest.raises(ValueError, match="one shape"):
        metrics.evaluate(truth, larger, convention="image")


@pytest.mark.once
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("data_range", [1.0, 2.5])
def test_image_is_per_image(channels, data_range):
    truth, image = pairs(channels)
    quality = metrics.evaluate(truth, image, convention="image", data_range=data_range)
    check(quality, of_images(truth, image, data_range))
    cut = metrics.evaluate(truth, image, convention="image", border=4)
    check(cut, of_images(truth[:, 4:-4, 4:-4], image[:, 4:-4, 4:-4], 1.0))


@pytest.mark.once
def test_sr_y_is_of_the_luma():
    truth, image = pairs(3, level=0.9)
    assert image.max() > 1  # clipped
    quality = metrics.evaluate(truth, image, convention="sr_y", border=3)
    check(quality, of_luma(truth, image, 3))
    white, black = np.ones((1, 16, 16, 3)), np.zeros((1, 16, 16, 3))
    difference = metrics.evaluate(white, black, convention="sr_y")
    assert difference["psnr_db"][0] == pytest.approx(20 * np.log10(255 / 219), rel=1e-6)  # 235 - 16
    # Differences below half a level are rounded away; grey images are their own luma.
    levels = np.round(pairs(level=0.5)[0].clip(0, 0.9) * 255) / 255
    assert np.isinf(metrics.evaluate(levels, levels + 0.001, convention="sr_y")["psnr_db"]).all()
    grey = metrics.evaluate(levels, levels + 1 / 255, convention="sr_y")
    np.testing.assert_allclose(grey["psnr_db"], 20 * np.log10(255), rtol=1e-6)


@pytest.mark.once
def test_images_of_different_sizes():
    truth, image = pairs(3)
    lists = [truth[0], truth[1, :20]], [image[0], image[1, :20]]
    quality = metrics.evaluate(*lists, convention="image")
    first = metrics.evaluate(truth[:1], image[:1], convention="image")
    second = metrics.evaluate(truth[1:2, :20], image[1:2, :20], convention="image")
    np.testing.assert_allclose(quality["psnr_db"], [*first["psnr_db"], *second["psnr_db"]])


@pytest.mark.parametrize("convention", sorted(metrics.CONVENTIONS))
@pytest.mark.parametrize("name", sorted(METRICS))
def test_metrics_in_fit_equal_the_evaluation(name, convention):
    truth, image = pairs(3 if convention == "sr_y" else 1, level=0.9)
    border = 2 if convention == "sr_y" else 0
    metric = METRICS[name](convention=convention, border=border)
    volumes = {"volumes": [0, 0, 1, 1]} if convention == "fastmri" else {}
    for batch in (slice(0, 2), slice(2, 4)):
        metric.update_state(truth[batch], image[batch])
    quality = metrics.evaluate(truth, image, convention=convention, border=border, **volumes)
    assert float(metric.result()) == pytest.approx(quality.as_dict()[name], rel=1e-5)
    expected = name if (name, convention) == ("psnr_db", "image") else f"{name}_{convention}"
    assert metric.name == expected
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    again.update_state(truth, image)
    metric.reset_state()
    metric.update_state(truth, image)
    assert float(again.result()) == float(metric.result())
    assert again.name == metric.name


@pytest.mark.parametrize("convention", ["fastmri", "image"])
@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("level", [1e-4, 0.5])
def test_complex_images_are_magnitudes(name, convention, level):
    truth, image = pairs(level=level)
    angle = np.random.default_rng(1).uniform(0, 6, (2, *truth.shape))
    truth = np.abs(truth)
    turned = [
        np.concatenate([np.cos(a) * x, np.sin(a) * x], -1).astype("float32")
        for a, x in zip(angle, (truth, image), strict=True)
    ]
    quality = metrics.evaluate(truth, np.abs(image), convention=convention)
    # Both complex, and a real target of one channel beside a complex prediction.
    for target in (turned[0], truth):
        again = metrics.evaluate(target, turned[1], convention=convention)
        np.testing.assert_allclose(again[name], quality[name], rtol=1e-4)
        metric = METRICS[name](convention=convention)
        metric.update_state(target, turned[1])
        assert float(metric.result()) == pytest.approx(quality.as_dict()[name], rel=1e-4)
    complex_dtype = metrics.evaluate(
        (turned[0][..., 0] + 1j * turned[0][..., 1]), np.abs(image), convention=convention
    )
    np.testing.assert_allclose(complex_dtype[name], quality[name], rtol=1e-4)


def test_metrics_run_in_fit_under_mixed_precision():
    policy = keras.config.dtype_policy()
    truth, image = pairs()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.layers.Lambda(lambda x: ops.cast(x, "float32"))])
        model.compile("sgd", "mse", metrics=[m() for m in METRICS.values()])
        logs = model.evaluate(image, truth, batch_size=2, verbose=0, return_dict=True)
    finally:
        keras.config.set_dtype_policy(policy)
    halves = image.astype("float16").astype("float32")
    quality = metrics.evaluate(truth, halves, convention="image").as_dict()
    for name in METRICS:
        shown = "psnr_db" if name == "psnr_db" else f"{name}_image"
        assert logs[shown] == pytest.approx(quality[name], rel=2e-3)


@pytest.mark.once
@pytest.mark.parametrize("convention", sorted(metrics.CONVENTIONS))
def test_numbers_carry_the_name_of_their_convention(convention):
    truth, image = pairs(3 if convention == "sr_y" else 1)
    quality = metrics.evaluate(truth, image, convention=convention)
    assert quality.as_dict()["convention"] == convention
    assert f"convention {convention}" in str(quality)
    assert str(quality).startswith(f"PSNR {quality['psnr_db'].mean():.2f} dB, SSIM ")
    assert metrics.CONVENTIONS[convention].name == convention
    assert len(metrics.CONVENTIONS[convention].description) > 40


@pytest.mark.once
def test_a_perfect_image():
    truth, _ = pairs()
    quality = metrics.evaluate(truth, truth, convention="image")
    assert np.isinf(quality["psnr_db"]).all()
    assert quality["ssim"] == pytest.approx([1] * 4)
    assert not quality["nmse"].any()
    metric = metrics.PSNR()
    metric.update_state(truth, truth)
    assert float(metric.result()) == pytest.approx(120, rel=1e-5)


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"convention": "psnr"}, r"one of \['fastmri', 'image', 'sr_y'\]"),
        ({"data_range": 0}, "data_range=0"),
        ({"border": -1}, "border=-1"),
        ({"border": 10}, "at least 7 x 7"),
        ({"volumes": [0, 0, 1, 1]}, "belongs to the convention 'fastmri'"),
        ({"volumes": [0], "convention": "fastmri"}, r"shape \(4,\)"),
        ({"y_pred": pairs()[1][:3]}, "same number of images"),
        ({"y_pred": pairs()[1] * np.nan}, "finite"),
        ({"y_true": pairs()[0] * 0}, "only zeros"),
        ({"y_true": pairs(3)[0]}, "one shape"),
    ],
)
def test_wrong_evaluation(change, message):
    truth, image = pairs()
    arguments = {"y_true": truth, "y_pred": image, "convention": "image"} | change
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(**arguments)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_wrong_metrics(name):
    with pytest.raises(ValueError, match="convention='none'"):
        METRICS[name](convention="none")
    with pytest.raises(ValueError, match="border=-1"):
        METRICS[name](border=-1)
    with pytest.raises(ValueError, match="data_range=-1"):
        METRICS[name](data_range=-1)
    with pytest.raises(ValueError, match="same number of channels"):
        METRICS[name]().update_state(pairs(3)[0], pairs()[1])


def stacks(seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.1, 2.0, (3, 20, 24))
    return truth, truth + rng.normal(scale=0.1, size=truth.shape)


def test_image_quality_equals_scikit_image():
    truth, image = stacks()
    quality = metrics.image_quality(truth, image)
    peak = truth.max()
    for i in range(3):
        assert quality["psnr_db"][i] == pytest.approx(
            peak_signal_noise_ratio(truth[i], image[i], data_range=peak), abs=1e-5
        )
        assert quality["ssim"][i] == pytest.approx(
            structural_similarity(truth[i], image[i], data_range=peak), abs=1e-5
        )
        assert quality["nmse"][i] == pytest.approx(
            np.linalg.norm(truth[i] - image[i]) ** 2 / np.linalg.norm(truth[i]) ** 2
        )
    summary = quality.as_dict()
    assert summary["convention"] == "slab"
    assert summary["psnr_db"] == pytest.approx(quality["psnr_db"].mean())
    assert summary["psnr_db_std"] == pytest.approx(quality["psnr_db"].std())


def test_keras_metric_is_the_mean_over_magnitude_images():
    truth, image = stacks()
    angle = np.random.default_rng(1).uniform(0, 6, truth.shape)

    def channels(z, phase):
        return np.stack([z * np.cos(phase), z * np.sin(phase)], -1).astype("float32")

    metric = metrics.PSNR(data_range=2.0)
    metric.update_state(channels(truth[:2], angle[:2]), channels(image[:2], 0 * angle[:2]))
    metric.update_state(channels(truth[2:], angle[2:]), channels(image[2:], 0 * angle[2:]))
    expected = np.mean(
        [
            peak_signal_noise_ratio(t, abs(i), data_range=2.0)
            for t, i in zip(truth, image, strict=True)
        ]
    )
    assert float(metric.result()) == pytest.approx(expected, abs=1e-3)


def test_keras_metric_round_trips():
    metric = metrics.PSNR(data_range=3.0, name="quality")
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert (again.data_range, again.name) == (3.0, "quality")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, p: (t, p[:2]), "shape"),
        (lambda t, p: (t * np.nan, p), "finite"),
        (lambda t, p: (t * np.array([0, 1, 1])[:, None, None], p), "only zeros"),
    ],
)
def test_wrong_slices(change, message):
    with pytest.raises(ValueError, match=message):
        metrics.image_quality(*change(*stacks()))


LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0], [1.0, 1.5, 0.0]])
LABELS = np.array([0, 1, 1])


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


@pytest.mark.once
def test_logits_and_their_probabilities_score_alike():
    quality = metrics.class_quality(LABELS, LOGITS)
    expected = -np.log(softmax(LOGITS)[range(3), LABELS]).mean()
    assert quality["accuracy"] == pytest.approx(2 / 3)
    assert quality["cross_entropy"] == pytest.approx(expected)
    probabilities = metrics.class_quality(LABELS, softmax(LOGITS))
    assert probabilities["cross_entropy"] == pytest.approx(expected)


@pytest.mark.once
def test_probabilities_are_told_from_logits():
    assert metrics.are_probabilities(softmax(LOGITS))
    assert metrics.are_probabilities(softmax(LOGITS).astype("float16"))
    assert not metrics.are_probabilities(LOGITS)
    assert not metrics.are_probabilities(softmax(LOGITS) + 0.01)
    assert not metrics.are_probabilities(np.array([[1.5, -0.5]]))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], LOGITS, "y_true of shape"),
        ([0, 1, 3], LOGITS, "from 0 to 2"),
        ([0.0, 1.0, 1.0], LOGITS, "must be integers"),
        ([-1, 1, 1], LOGITS, "from -1 to 1"),
        ([0, 1, 1], LOGITS * np.nan, "must be finite"),
    ],
)
def test_wrong_classes(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.class_quality(np.array(labels), scores)
