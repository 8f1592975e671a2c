"""oneDNN's fused operations. torch has them under internal names only; no other file uses those names."""

import torch
from torch import Tensor

LINEAR_ROWS = 320  # rows of input for which the order of a matmul's weights is chosen; others work as well


class OneDNN:
    """A matmul or a 3x3 convolution together with its bias and what follows it, on a CPU.

    [`OneDNN.serves`] says where these operations are the fastest way. Elsewhere, and with a version of torch that
    does not have them, the layers use `torch.nn.functional`: the same results up to rounding, in more operations.
    """

    NAMES = (
        "_linear_pointwise",
        "_convolution_pointwise",
        "_reorder_linear_weight",
        "_reorder_convolution_weight",
        "_is_mkldnn_bf16_supported",
    )
    GELUS = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}  # transformers' names and torch's

    @staticmethod
    def serves(device: torch.device, dtype: torch.dtype) -> bool:
        """Whether this is a CPU on which oneDNN's fused operations in that type are the fastest way.

        In float32 that takes AVX-512: with AVX2 its matmul with a GELU runs at two thirds of the speed of one without,
        and torch's own is faster still. And it takes several threads: with one, torch's own operations are faster (by
        3 % in pjvlt-small, 7 % in pjvlt-tiny), with two these (by 5 % in PJVLT-B). In bfloat16 it takes a processor
        that computes in it; all else is very slow there.
        """
        if device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return False
        if not all(hasattr(torch.ops.mkldnn, name) for name in OneDNN.NAMES):
            return False
        if dtype == torch.float32:
            return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and torch.get_num_threads() > 1
        return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()

    @staticmethod
    def reorder_linear(weight: Tensor) -> Tensor:
        """A copy of W (c', c) in the order that suits the processor; `linear` takes either."""
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), LINEAR_ROWS)

    @staticmethod
    def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None = None) -> Tensor:
        """x W^T + b of x (rows, c), through a GELU if one of `GELUS` is named."""
        follows = ("none", [], "") if gelu is None else ("gelu", [], OneDNN.GELUS[gelu])
        return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, *follows)

    @staticmethod
    def linear_add(inputs: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor) -> Tensor:
        """x W^T + b + add, with `add` (rows, c')."""
        return torch.ops.mkldnn._linear_pointwise.binary(inputs, add, weight, bias, "add")

    @staticmethod
    def reorder_convolution(weight: Tensor, groups: int, grid: int) -> Tensor:
        """A copy of the weights (c', c / groups, 3, 3) in the order for maps of `grid` x `grid`."""
        shape = [1, weight.shape[1] * groups, grid, grid]
        return torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), [1, 1], [1, 1], [1, 1], groups, shape)

    @staticmethod
    def convolution_relu(inputs: Tensor, reordered: Tensor, bias: Tensor, groups: int) -> Tensor:
        """A 3x3 convolution with padding 1, and ReLU; the weights as `reorder_convolution` gives them."""
        padding = stride = dilation = [1, 1]
        settings = padding, stride, dilation, groups
        return torch.ops.mkldnn._convolution_pointwise(inputs, reordered, bias, *settings, "relu", [], "")
