"""The first stage computed by OpenVINO (extra ``openvino``) instead of PyTorch, on a CPU.

The same network with the same weights, written as an OpenVINO graph: OpenVINO fuses activations and sums into the
convolutions and takes a nearest upsampling with the convolution behind it as one transposed convolution. Shapes of
tensors: B batch, H W sides of a tile, I and O input and output channels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from varestorer_cli.core.errors import MissingDependencyError, UsageError
from varestorer_cli.core.extras import install_command, is_installed
from varestorer_models.first_stage import FirstStageRestorer
from varestorer_models.rrdb import RRDB, RRDBConfig, RRDBNet

_SLOPE = 0.2  # of the leaky ReLUs


def with_openvino(restorer: Any, name: str, device: str, threads: int) -> FirstStageRestorer:
    """The restorer with its network computed by OpenVINO.

    Args:
        restorer: its weights must be final: the graph has a copy of them.
        name: the model's, for messages.
        device: torch device of the run.
        threads: that compute.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        UsageError: the model or the device is none that it computes.
    """
    if not is_installed("openvino"):
        raise MissingDependencyError(f"--engine openvino needs OpenVINO; {install_command('openvino')}")
    if device != "cpu":
        raise UsageError(f"--engine openvino computes on the CPU, not on {device}; add --device cpu, or leave it out")
    network = getattr(restorer, "prerestorer", None)
    if not isinstance(restorer, FirstStageRestorer) or hasattr(restorer, "uniforms_shape"):
        raise UsageError(
            f"--engine openvino: {name} has tokens; it computes models of the first stage alone, like fine"
        )
    if not isinstance(network, RRDBNet):
        raise UsageError(f"--engine openvino: the network of {name} is a {type(network).__name__}, not an RRDBNet")
    return FirstStageRestorer(restorer.config, OpenVinoRRDB(network, threads)).eval()


class OpenVinoRRDB(nn.Module):
    """An :class:`RRDBNet` computed by OpenVINO; results differ by rounding. It has no parameters and no gradients.

    Args:
        network: whose weights are taken over.
        threads: that compute.
    """

    def __init__(self, network: RRDBNet, threads: int) -> None:
        super().__init__()
        self.config: RRDBConfig = network.config
        self._graph = _graph_of(network)
        self._threads = threads
        self._requests: dict[str, Any] = {}

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """As :meth:`RRDBNet.forward`, in the arithmetic that autocast asks for where the processor has it.

        Args:
            image_B3HW: float32 on the CPU; sides multiples of ``unshuffle``.

        Raises:
            ValueError: the sides are no multiples.
        """
        if any(side % self.config.unshuffle for side in image_B3HW.shape[-2:]):
            raise ValueError(f"sides {tuple(image_B3HW.shape[-2:])} are no multiples of {self.config.unshuffle}")
        narrow = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
        request = self._request("bf16" if narrow else "f32")
        results = request.infer([image_B3HW.float().contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(results[0])

    def _request(self, precision: str) -> Any:
        if precision not in self._requests:
            import openvino

            settings = {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": self._threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            }
            compiled = openvino.Core().compile_model(self._graph, "CPU", settings)
            self._requests[precision] = compiled.create_infer_request()
        return self._requests[precision]


def _graph_of(network: RRDBNet) -> Any:
    """The network for any number of tiles of any sides."""
    import openvino
    from openvino import opset13 as ops

    def convolution(x: Any, layer: nn.Conv2d) -> Any:
        """3x3, padded by one."""
        return ops.add(ops.convolution(x, _array(layer.weight), [1, 1], [1, 1], [1, 1], [1, 1]), _bias(layer))

    def upsampling(x: Any, layer: nn.Conv2d) -> Any:
        """Nearest upsampling by two and a 3x3 convolution."""
        kernel = _array(transposed_kernel(layer.weight))
        return ops.add(ops.convolution_backprop_data(x, kernel, [2, 2], None, [1, 1], [1, 1], [1, 1]), _bias(layer))

    def active(x: Any) -> Any:
        return ops.prelu(x, np.array([_SLOPE], np.float32))

    def residual(x: Any, branch: Any, scale: float) -> Any:
        return ops.add(x, ops.multiply(branch, np.array(scale, np.float32)))

    def dense_block(x: Any, block: Any) -> Any:
        seen = x
        for layer in (block.conv1, block.conv2, block.conv3, block.conv4):
            seen = ops.concat([seen, active(convolution(seen, layer))], 1)
        return residual(x, convolution(seen, block.conv5), block.scale)

    image = ops.parameter([-1, 3, -1, -1], np.float32)
    unshuffle = network.config.unshuffle
    x = first = convolution(ops.space_to_depth(image, "depth_first", unshuffle), network.conv_first)
    for block in network.body:
        assert isinstance(block, RRDB)
        branch = x
        for dense in (block.rdb1, block.rdb2, block.rdb3):
            branch = dense_block(branch, dense)
        x = residual(x, branch, block.scale)
    x = ops.add(first, convolution(x, network.conv_body))
    for layer in (network.conv_up1, network.conv_up2):
        x = active(upsampling(x, layer))
    return openvino.Model([convolution(active(convolution(x, network.conv_hr)), network.conv_last)], [image])


def transposed_kernel(weight_OI33: Tensor) -> Tensor:
    """Weights behind a nearest upsampling by two -> those of one transposed convolution, (I, O, 4, 4).

    Its stride is two, its padding one. A small value is seen twice in a row of the large map; along an axis, the four
    output values that it reaches see it with the weights (w2, w1 + w2, w0 + w1, w0).
    """
    kernel = weight_OI33.detach()
    for axis in (2, 3):
        first, middle, last = kernel.unbind(axis)
        kernel = torch.stack([last, middle + last, first + middle, first], axis)
    return kernel.transpose(0, 1)


def _array(tensor: Tensor) -> Any:
    return tensor.detach().float().contiguous().numpy()


def _bias(layer: nn.Conv2d) -> Any:
    assert layer.bias is not None
    return _array(layer.bias.view(1, -1, 1, 1))
