"""The convolutional stem of a hybrid ViT: the first stages of a published network in front of the vision layers.

A hybrid ViT (Dosovitskiy et al., 2021, section 3.1) cuts its patches from the feature map of a convolutional network
instead of the image. The stages here are those of MobileNetV2 (Sandler et al., 2018) and EfficientNet-Lite: inverted
residuals with ReLU6 and without squeeze-and-excitation. Batch norm is part of the weights: `from_backbones` folds it
into the convolutions, so that a stem behaves alike in training and in inference.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration_pjvlt import PJVLTConfig

CACHED_CROPS = 4  # crops that a CPU processes at once: more do not fit its caches, and take 1.5 times as long each


class PJVLTSameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, of mirrored maps: the weights are mirrored as they are used.

    Where that padding is odd, which it is for a stride of 2, its larger part is right and bottom, and torch would have
    to copy each map into a larger one first. Mirrored, the larger part is left and top, which symmetric padding does
    as well: a stride of 2 over an even side never reaches the last row and column. In an export nothing is mirrored:
    other runtimes pad unevenly without a copy. Takes maps whose sides are multiples of the stride, as all maps of a
    stem are.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, groups=groups)

    def forward(self, inputs: Tensor) -> Tensor:  # (B, c, S, S) to (B, c', S / stride, S / stride)
        weight, padding = mirrored(self.weight), self.padding
        if torch.compiler.is_exporting():
            low, odd = divmod(self.kernel_size[0] - self.stride[0], 2)
            inputs, padding = functional.pad(inputs, (low, low + odd, low, low + odd)), 0
        return functional.conv2d(inputs, weight, self.bias, self.stride, padding, groups=self.groups)


def mirrored(maps: Tensor) -> Tensor:
    """Left and right, and top and bottom, swapped in (..., S, S); in an export, and for one pixel, as they are."""
    return maps if torch.compiler.is_exporting() or maps.shape[-1] == 1 else maps.flip(-2, -1)


class PJVLTInvertedResidual(nn.Module):
    """Expand the channels, filter each of them, project back; with a residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = inputs * expansion
        self.expand = PJVLTSameConv(inputs, width, 1) if expansion > 1 else None
        self.depthwise = PJVLTSameConv(width, width, kernel, stride, groups=width)
        self.project = PJVLTSameConv(width, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:  # (B, c, S, S) to (B, c', S / stride, S / stride)
        hidden = inputs if self.expand is None else functional.relu6(self.expand(inputs), inplace=True)
        outputs = self.project(functional.relu6(self.depthwise(hidden), inplace=True))
        return outputs.add_(inputs) if self.residual else outputs


class PJVLTConvStem(nn.Module):
    """One convolution of stride 2 and the stages of `stem_stages`."""

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        channels, self.fine_stage = config.stem_channels[0], config.stem_fine_stage
        self.first = PJVLTSameConv(config.num_channels, channels, 3, 2)
        self.stages = nn.ModuleList()
        for repeats, kernel, stride, expansion, outputs in config.stem_stages:
            blocks = []
            for number in range(repeats):
                blocks.append(
                    PJVLTInvertedResidual(channels, outputs, kernel, stride if number == 0 else 1, expansion)
                )
                channels = outputs
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, S, S) to the map of the last stage and, where the config names one, that of a finer stage."""
        pixels = mirrored(pixels).contiguous(memory_format=torch.channels_last)
        if torch.compiler.is_compiling() or pixels.device.type != "cpu":
            return self._maps(pixels)
        trained = torch.is_grad_enabled() and self.first.weight.requires_grad
        if trained or len(pixels) <= CACHED_CROPS:
            return self._maps(pixels)
        maps = [self._maps(part) for part in pixels.split(CACHED_CROPS)]
        last, fine = zip(*maps, strict=True)
        return torch.cat(last), None if self.fine_stage is None else torch.cat(fine)

    def _maps(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The maps of mirrored pixels, mirrored back."""
        hidden, fine = functional.relu6(self.first(pixels), inplace=True), None
        for number, stage in enumerate(self.stages):
            hidden = stage(hidden)
            if number == self.fine_stage:
                fine = mirrored(hidden)
        return mirrored(hidden), fine


__all__ = ["PJVLTConvStem", "PJVLTInvertedResidual", "PJVLTSameConv", "mirrored"]
