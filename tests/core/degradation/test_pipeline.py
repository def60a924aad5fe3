import json
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from varestorer_cli.core.degradation import pipeline as degradation
from varestorer_cli.core.degradation.pipeline import RECIPES, DegradationConfig, degrade, load_recipe
from varestorer_cli.core.degradation.recipes import KERNELS, REALESRGAN, RELEASED
from varestorer_cli.core.errors import MissingDependencyError, UsageError


def pixels(height: int = 96, width: int = 128, cell: int = 8) -> np.ndarray:
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (height // cell, width // cell, 3), dtype=np.uint8))
    image = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    image[height // 4 : height // 2, width // 4 : width // 2] = (250, 240, 20)
    return image


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def kernel_of(kind: str, seed: int, **changes: object) -> np.ndarray:
    config = DegradationConfig(kernel_list=(kind,), kernel_prob=(1.0,), sinc_prob=0.0, **changes)
    kernel = degradation._draw_kernel(config, "", np.random.default_rng(seed))
    return np.outer(kernel, kernel) if kernel.ndim == 1 else kernel


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_result_is_exactly_scale_times_smaller(name, scale):
    out = degrade(pixels(96, 128), scale, RECIPES[name], np.random.default_rng(0))
    assert out.shape == (96 // scale, 128 // scale, 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_same_bytes_and_other_seed_other_bytes(name):
    image = pixels()
    runs = [degrade(image, 4, RECIPES[name], np.random.default_rng([7, i])) for i in range(6)]
    again = [degrade(image, 4, RECIPES[name], np.random.default_rng([7, i])) for i in range(6)]
    assert all(np.array_equal(a, b) for a, b in zip(runs, again, strict=True))
    assert len({run.tobytes() for run in runs}) == 6


def test_input_is_left_alone_and_float_equals_bytes():
    image = pixels()
    before = image.copy()
    from_bytes = degrade(image, 4, RECIPES["moderate"], np.random.default_rng(1))
    from_floats = degrade(image.astype(np.float32) / np.float32(255), 4, RECIPES["moderate"], np.random.default_rng(1))
    assert np.array_equal(image, before)
    assert np.array_equal(from_bytes, from_floats)


@pytest.mark.parametrize("shape", [(96, 130, 3), (95, 128, 3), (96, 128), (96, 128, 4), (0, 128, 3)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"got shape|multiples of the scale 4"):
        degrade(np.zeros(shape, np.uint8), 4, REALESRGAN, np.random.default_rng(0))


def test_recipes_are_ordered_by_strength():
    image = pixels(128, 128, cell=32)[..., :1].repeat(3, axis=-1)  # gray: no chroma loss in JPEG
    clean = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
    mean = {}
    for name, config in RECIPES.items():
        runs = [degrade(image, 4, config, np.random.default_rng(seed)) for seed in range(30)]
        mean[name] = np.mean([psnr(run, clean) for run in runs])
    assert mean["mild"] > mean["moderate"] + 1
    assert mean["moderate"] > mean["realesrgan"] + 1
    assert mean["moderate"] > mean["released"] + 1


def test_no_step_moves_the_image():
    # A blob off the centre keeps its centre of mass under every recipe, within a quarter of a small pixel.
    rows, columns = np.mgrid[0:128, 0:128]
    blob = 220 * np.exp(-((rows - 50.5) ** 2 + (columns - 77.5) ** 2) / (2 * 12.0**2))
    image = np.repeat(blob[..., None], 3, axis=-1).astype(np.uint8)
    for name, config in RECIPES.items():
        total = np.zeros((32, 32))
        for seed in range(8):
            total += degrade(image, 4, config, np.random.default_rng(seed)).mean(axis=-1)
        total = np.clip(total - np.median(total), 0, None) ** 2
        small_rows, small_columns = np.mgrid[0:32, 0:32]
        centre = [(small_rows * total).sum() / total.sum(), (small_columns * total).sum() / total.sum()]
        expected = [(50.5 + 0.5) / 4 - 0.5, (77.5 + 0.5) / 4 - 0.5]
        assert np.abs(np.subtract(centre, expected)).max() < 0.25, name


def test_no_degradation_is_a_clean_reduction():
    config = DegradationConfig(no_degradation_prob=1.0)
    out = degrade(pixels(), 4, config, np.random.default_rng(0))
    clean = np.asarray(Image.fromarray(pixels()).resize((32, 24), Image.Resampling.BICUBIC))
    assert np.abs(out.astype(int) - clean.astype(int)).max() <= 1


# ------------------------------------------------------------------ kernels


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_are_odd_normalised_and_point_symmetric(kind):
    for seed in range(20):
        kernel = kernel_of(kind, seed)
        assert kernel.shape[0] == kernel.shape[1]
        assert kernel.shape[0] % 2 == 1
        assert 7 <= kernel.shape[0] <= 21
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        assert np.allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
        assert kernel.min() >= 0


def test_isotropic_kernel_has_the_sigma_asked_for():
    for seed in range(10):
        kernel = kernel_of("iso", seed, blur_kernel_size=21, blur_sigma=(1.0, 1.0))
        offsets = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
        assert (kernel.sum(axis=0) * offsets**2).sum() == pytest.approx(1.0, abs=0.03)


def test_anisotropic_kernels_are_stretched_and_turned():
    stretches, angles = [], []
    for seed in range(40):
        kernel = kernel_of("aniso", seed, blur_sigma=(0.8, 2.5)).astype(float)
        y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
        moments = [[(kernel * x * x).sum(), (kernel * x * y).sum()], [0, (kernel * y * y).sum()]]
        moments[1][0] = moments[0][1]
        values, vectors = np.linalg.eigh(np.array(moments))
        stretches.append(values[1] / values[0])
        angles.append(np.arctan2(vectors[1, 1], vectors[0, 1]) % np.pi)
    assert max(stretches) > 2
    assert np.std(angles) > 0.5


@pytest.mark.parametrize(("sigma", "size"), [(1.0, 7), (1.4, 11), (2.2, 15), (9.0, 21)])
def test_trimming_changes_nothing_that_shows(sigma, size):
    # A sharp kernel on a large grid is cut to a small one; the filtered image agrees to half a level.
    whole = np.exp(-0.5 * degradation._ellipse(21, sigma, 0.9 * sigma, 0.3))
    whole = (whole / whole.sum()).astype(np.float32)
    trimmed = degradation._trim(whole)
    assert trimmed.shape[0] <= size
    assert trimmed.sum() == pytest.approx(1, abs=1e-6)
    work = pixels().astype(np.float32) / 255
    difference = degradation._filter(work, whole) - degradation._filter(work, trimmed)
    assert np.abs(difference).max() < 0.5 / 255


@pytest.mark.parametrize("window", [False, True])
def test_sinc_passes_below_and_stops_above_its_cutoff(window):
    kernel = degradation._sinc(21, 0.5, window).astype(float)
    if kernel.ndim == 1:
        kernel = np.outer(kernel, kernel)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    response = np.abs(np.fft.fft2(kernel, (128, 128)))
    assert response[0, 16] == pytest.approx(1, abs=0.12)  # a quarter of Nyquist
    assert response[0, 52] < 0.12  # 0.81 of Nyquist
    assert kernel.min() < 0, "a sinc rings"


# ------------------------------------------------------------------ resize, noise, JPEG


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 50), (120, 150), (40, 150)])
@pytest.mark.parametrize("antialias", [False, True])
def test_resize_keeps_a_flat_image_flat(mode, size, antialias):
    flat = np.full((96, 128, 3), (0.1, 0.5, 0.9), np.float32)
    out = degradation._resize(flat, size, mode, antialias)
    assert out.shape == (*size, 3)
    assert out.dtype == np.float32
    assert np.abs(out - flat[0, 0]).max() < 1e-5


def test_area_repeats_pixels_when_it_grows():
    small = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    grown = degradation._resize(small, (4, 4), "area", False)
    assert np.array_equal(grown, small.repeat(2, axis=0).repeat(2, axis=1))


def test_antialias_averages_what_plain_interpolation_skips():
    stripes = np.zeros((64, 64, 3), np.float32)
    stripes[:, ::2] = 1
    smooth = degradation._resize(stripes, (16, 16), "bicubic", True)[2:-2, 2:-2]
    assert np.abs(smooth - 0.5).max() < 0.05
    dots = np.zeros((64, 64, 3), np.float32)
    dots[:, ::4] = 1
    assert degradation._resize(dots, (16, 16), "bilinear", False).max() == 0, "falls between the dots"


@pytest.mark.parametrize("mean", [1.0, 3.0, 10.0, 200.0])
def test_poisson_counts_have_the_moments_of_poisson(mean):
    counts = degradation._poisson(np.full(200_000, mean, np.float32), np.random.default_rng(0))
    assert np.array_equal(counts, np.rint(counts))
    assert counts.min() >= 0
    assert counts.mean() == pytest.approx(mean, rel=0.03)
    assert counts.var() == pytest.approx(mean, rel=0.07)
    skewness = ((counts - counts.mean()) ** 3).mean() / counts.std() ** 3
    assert skewness == pytest.approx(mean**-0.5, abs=0.05)


@pytest.mark.parametrize("gaussian", [0.0, 1.0])
@pytest.mark.parametrize("gray", [0.0, 1.0])
def test_noise_is_gray_or_coloured_and_as_strong_as_asked(gaussian, gray):
    config = DegradationConfig(
        gaussian_noise_prob=gaussian,
        gray_noise_prob=gray,
        noise_range=(10.0, 10.0),
        poisson_scale_range=(1.0, 1.0),
    )
    flat = np.full((128, 128, 3), 0.4, np.float32)
    grain = (degradation._noise(flat, config, "", np.random.default_rng(0)) - flat) * 255
    assert grain.std() == pytest.approx(10.0 if gaussian else (0.4 * 255) ** 0.5, rel=0.05)
    assert (np.ptp(grain, axis=-1).max() < 1e-3) == bool(gray)


def test_jpeg_quality_matters_and_channels_keep_their_order():
    work = np.zeros((64, 64, 3), np.float32)
    work[..., 0] = 0.8
    out = degradation._jpeg(work, (95.0, 95.0), np.random.default_rng(0))
    assert np.abs(out - work).max() < 0.03
    textured = pixels().astype(np.float32) / 255
    errors = [
        np.abs(degradation._jpeg(textured, (q, q), np.random.default_rng(0)) - textured).mean()
        for q in (30.0, 60.0, 95.0)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_results_do_not_depend_on_the_number_of_threads():
    image, before = pixels(128, 128), cv2.getNumThreads()
    runs = []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            runs.append([degrade(image, 4, REALESRGAN, np.random.default_rng(i)) for i in range(5)])
    finally:
        cv2.setNumThreads(before)
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


# ------------------------------------------------------------------ recipes from mappings and files

REALESRGAN_FILE = {
    "scale": 4,
    "resize_prob": [0.2, 0.7, 0.1],
    "resize_range": [0.15, 1.5],
    "gaussian_noise_prob": 0.5,
    "noise_range": [1, 30],
    "poisson_scale_range": [0.05, 3],
    "gray_noise_prob": 0.4,
    "jpeg_range": [30, 95],
    "second_blur_prob": 0.8,
    "resize_prob2": [0.3, 0.4, 0.3],
    "resize_range2": [0.3, 1.2],
    "gaussian_noise_prob2": 0.5,
    "noise_range2": [1, 25],
    "poisson_scale_range2": [0.05, 2.5],
    "gray_noise_prob2": 0.4,
    "jpeg_range2": [30, 95],
    "gt_size": 512,
    "gray_prob": 0,
    "kernel_info": {
        "blur_kernel_size": 21,
        "kernel_list": list(KERNELS),
        "kernel_prob": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03],
        "sinc_prob": 0.1,
        "blur_sigma": [0.2, 3],
        "betag_range": [0.5, 4],
        "betap_range": [1, 2],
        "final_sinc_prob": 0.8,
    },
}


def test_the_known_files_give_the_named_recipes():
    assert DegradationConfig.from_mapping(REALESRGAN_FILE) == REALESRGAN
    diffbir = {
        "out_size": 512,
        "blur_kernel_size": 41,
        "kernel_list": ["iso", "aniso"],
        "kernel_prob": [0.5, 0.5],
        "blur_sigma": [0.1, 12],
        "downsample_range": [1, 12],
        "noise_range": [0, 15],
        "jpeg_range": [30, 100],
    }
    assert DegradationConfig.from_mapping(diffbir) == RELEASED


def test_a_changed_key_arrives():
    config = DegradationConfig.from_mapping({"noise_range2": [2, 3], "degradation": {"sinc_prob": 1}})
    assert config.noise_range2 == (2.0, 3.0)
    assert config.sinc_prob == 1.0
    assert config.noise_range == REALESRGAN.noise_range


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"noise_rnage": [1, 2]}, "Unknown key 'noise_rnage'"),
        ({"kernel_info": {"blur_size": 3}}, "Unknown key 'blur_size'"),
        ({"gray_prob": 0.1}, "gray_prob to 0.1; that is not supported"),
        ({"noise_range": [5, 1]}, "noise_range is .5.0, 1.0.: give .low, high."),
        ({"noise_range": [1, 2, 3]}, "noise_range"),
        ({"noise_range": 3}, "noise_range is 3: give a list"),
        ({"noise_range": ["a", "b"]}, "noise_range .* wrong type"),
        ({"sinc_prob": 1.5}, "sinc_prob is 1.5: a probability"),
        ({"sinc_prob": True}, "sinc_prob is True"),
        ({"sinc_prob": "often"}, "sinc_prob is 'often': expected float"),
        ({"blur_kernel_size": 20}, "blur_kernel_size is 20: a kernel size is odd"),
        ({"blur_kernel_size": 5}, "at least 7"),
        ({"kernel_list": ["iso", "round"]}, "has 'round'; known kernels: iso"),
        ({"kernel_prob": [1.0]}, "kernel_list has 6 names and kernel_prob 1 numbers"),
        ({"resize_prob": [0.5, 0.5]}, "resize_prob .* three numbers"),
        ({"resize_range": [0, 1]}, "resize_range .* above 0"),
        ({"downsample_range": [0, 4]}, "downsample_range .* above 0"),
        ({"jpeg_range": [30, 120]}, "jpeg_range .* ends at 100"),
        ({"final_order": "never"}, "final_order is 'never'"),
    ],
)
def test_wrong_keys_and_values_are_named(mapping, words):
    with pytest.raises(UsageError, match=words):
        DegradationConfig.from_mapping(mapping)


def test_recipes_load_by_name_and_from_files(tmp_path):
    assert load_recipe("moderate") is RECIPES["moderate"]
    (tmp_path / "a.json").write_text(json.dumps(REALESRGAN_FILE))
    (tmp_path / "b.toml").write_text('jpeg_range = [40, 50]\n[kernel_info]\nkernel_list = ["iso"]\nkernel_prob = [1]\n')
    assert load_recipe(str(tmp_path / "a.json")) == REALESRGAN
    loaded = load_recipe(str(tmp_path / "b.toml"))
    assert (loaded.jpeg_range, loaded.kernel_list) == ((40.0, 50.0), ("iso",))


def test_yaml_needs_a_package_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "recipe.yml"
    path.write_text("jpeg_range: [40, 50]\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match=r"PyYAML.*pip install pyyaml.*TOML"):
        load_recipe(str(path))


def test_yaml_is_read_where_the_package_is_there(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "recipe.yml"
    path.write_text("jpeg_range: [40, 50]\n")
    assert load_recipe(str(path)).jpeg_range == (40.0, 50.0)
    path.write_text("jpeg_range: [40, 50\n")
    with pytest.raises(UsageError, match="Cannot read the degradation recipe"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "Cannot read the degradation recipe"),
        ("a.json", "[1]", "holds no keys"),
        ("a.toml", "=", "Cannot read the degradation recipe"),
        ("a.txt", "", "unknown suffix '.txt'"),
        (None, "", "No degradation recipe 'strong': give realesrgan, moderate, mild, released"),
    ],
)
def test_files_that_hold_no_recipe_are_refused(tmp_path, name, text, words):
    if name:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        load_recipe(str(tmp_path / name) if name else "strong")
