"""The model compiled by torch.compile, with the plain model to fall back on.

A compiled call fuses what lies between the products (norms, rotations, residuals, activations) into few kernels; on a
GPU a CUDA graph per shape replays them without the host. The first call of each shape runs plain: it makes the model's
tables, and a shape that occurs once is never compiled.
"""

import os
from importlib.util import find_spec
from typing import Any

import torch

from varestorer_cli.core.engine.tile_model import TileModel, TokenModel, is_out_of_memory
from varestorer_cli.core.folders import cache_folder

_SHAPES = 64  # more than torch's own limit: tiles that are fitted to images have many sides


class CompiledModel:
    """Calls a model, compiled where that is wanted.

    Args:
        model: the network, on the device, in eval mode.
        device: torch device string.
        mode: ``on``, ``off``, or ``auto``: on for models with tokens on a CUDA device that has Triton. On a CPU
            compiled code gains too little to pay for minutes of compiling.

    Attributes:
        failure: why the plain model is called although a compiled one is wanted, "" if it is not so.
    """

    def __init__(self, model: TileModel, device: str, mode: str) -> None:
        self.model = model
        self.failure = ""
        self._seen: set[tuple[object, ...]] = set()
        self._cuda = device.startswith("cuda")
        wanted = mode == "on" or (
            mode == "auto" and self._cuda and isinstance(model, TokenModel) and find_spec("triton") is not None
        )
        self._compiled: Any = self._compile() if wanted else None

    @property
    def is_compiled(self) -> bool:
        """Whether repeated shapes run compiled."""
        return self._compiled is not None

    def __call__(self, tiles: torch.Tensor, **settings: Any) -> Any:
        """Arguments and result of the model."""
        if self._compiled is None:
            return self.model(tiles, **settings)
        key = (tuple(tiles.shape), torch.is_autocast_enabled(tiles.device.type))
        if key not in self._seen:
            self._seen.add(key)
            return self.model(tiles, **settings)
        try:
            if self._cuda:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            return self._compiled(tiles, **settings)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._compiled = None
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self.failure = f"the model cannot be compiled here ({reason}); it goes on uncompiled (--compile off)"
        return self.model(tiles, **settings)

    def _compile(self) -> Any:
        folder = cache_folder()
        if folder is not None:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "compiled"))
        import torch._dynamo.config as dynamo

        dynamo.recompile_limit = max(dynamo.recompile_limit, _SHAPES)
        # reduce-overhead: kernels of a shape as one CUDA graph
        mode = "reduce-overhead" if self._cuda else None
        return torch.compile(self.model, fullgraph=True, dynamic=False, mode=mode)
