"""Write metrics_pyiqa.json and metrics_skimage.json: what pyiqa 0.1.16 and scikit-image 0.26 say about small crops.

    python tests/data/metrics_make.py            # where both are installed
    python tests/data/metrics_make.py skimage    # scikit-image's alone

The crops are integer arithmetic, the same on any machine and library version.
"""

import json
import sys
from pathlib import Path

import numpy as np

# (seed, height, width, change)
CASES = (
    (1, 48, 40, "one step"),
    (2, 48, 40, "noise 8"),
    (3, 64, 33, "noise 64"),
    (4, 33, 64, "shift"),
    (5, 32, 32, "inverted"),
    (6, 11, 11, "noise 64"),
    (7, 24, 24, "darker"),
    (8, 40, 24, "channels swapped"),
)
PYIQA = {
    "psnr_y": ("psnr", {"test_y_channel": True, "color_space": "ycbcr"}),
    "ssim_y": ("ssim", {"test_y_channel": True, "color_space": "ycbcr"}),
    "psnr_rgb": ("psnr", {}),
    "ssim_rgb": ("ssimc", {}),
    "ssim_yiq": ("ssim", {}),
}


def crop(seed, height, width, change):
    """A reference with edges, ramps and grain, and a changed copy: two uint8 (height, width, 3)."""
    y, x, c = np.meshgrid(*(np.arange(n, dtype=np.int64) for n in (height, width, 3)), indexing="ij")
    grain = (x * 374761393 + y * 668265263 + c * 2147483647 + seed * 974711) % 2**32
    grain = (grain ^ (grain >> 13)) * 1274126177 % 2**32 >> 16
    reference = (16 + (x * 3 + y * 2 + c * 40 + ((x // 8 + y // 8) % 2) * 60) % 200 + grain % 16).astype(np.uint8)
    strong = {"one step": 2, "noise 8": 17, "noise 64": 129}.get(change)
    if strong:
        changed = reference + (grain >> 4) % strong - strong // 2
    elif change == "shift":
        changed = np.roll(reference, 1, axis=1)
    elif change == "inverted":
        changed = 255 - reference.astype(np.int64)
    elif change == "darker":
        changed = reference.astype(np.int64) * 3 // 4
    else:
        changed = reference[..., ::-1]
    return np.clip(changed, 0, 255).astype(np.uint8), reference


def main_skimage():
    """PSNR without pyiqa's epsilon; SSIM of the crops where no window has negative structure, which pyiqa cuts at 0."""
    import skimage
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    rows = []
    for case in CASES:
        restored, reference = (image.astype(np.float64) for image in crop(*case))
        weights = np.asarray((65.481, 128.553, 24.966)) / 255
        luma = [16 + image @ weights for image in (restored, reference)]
        scores = {
            "psnr_rgb": peak_signal_noise_ratio(reference, restored, data_range=255),
            "psnr_y": peak_signal_noise_ratio(luma[1], luma[0], data_range=255),
        }
        if case[3] in ("one step", "noise 8", "darker"):
            scores["ssim_rgb"] = structural_similarity(reference, restored, channel_axis=2, **settings)
            scores["ssim_y"] = structural_similarity(np.rint(luma[1]), np.rint(luma[0]), **settings)
        rows.append({"case": case, "scores": {name: float(score) for name, score in scores.items()}})
    content = {"skimage": skimage.__version__, "rows": rows}
    Path(__file__).with_name("metrics_skimage.json").write_text(json.dumps(content, indent=1) + "\n")


def main():
    import pyiqa
    import torch

    metrics = {
        name: pyiqa.create_metric(theirs, device="cpu", **settings) for name, (theirs, settings) in PYIQA.items()
    }
    rows = []
    for case in CASES:
        tensors = [torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None] for image in crop(*case)]
        rows.append({"case": case, "scores": {name: float(metric(*tensors)) for name, metric in metrics.items()}})
    content = {"pyiqa": pyiqa.__version__, "torch": torch.__version__, "rows": rows}
    Path(__file__).with_name("metrics_pyiqa.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main_skimage()
    if sys.argv[1:] != ["skimage"]:
        main()
