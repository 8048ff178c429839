"""MONAI's networks by their names, as configs ask for them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .....registry import MODELS


@MODELS.register_module("DynUNet")
def dyn_unet(**options: Any) -> nn.Module:
    """The U-Net of nnU-Net ("nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
    Isensee et al. 2021, arXiv 1904.08128).

    Args:
        options: of `monai.networks.nets.DynUNet`.
    """
    from monai.networks.nets.dynunet import DynUNet

    return DynUNet(**options)


@MODELS.register_module("SegResNetDS")
def seg_res_net_ds(**options: Any) -> nn.Module:
    """A residual encoder and decoder with scores at several resolutions ("3D MRI brain tumor segmentation using
    autoencoder regularization", Myronenko 2018, arXiv 1810.11654).

    Args:
        options: of `monai.networks.nets.SegResNetDS`.
    """
    from monai.networks.nets.segresnet_ds import SegResNetDS

    return SegResNetDS(**options)


@MODELS.register_module("SwinUNETR")
def swin_unetr(**options: Any) -> nn.Module:
    """A Swin transformer with a convolutional decoder ("Swin UNETR: Swin Transformers for Semantic Segmentation of
    Brain Tumors in MRI Images", Hatamizadeh et al. 2022, arXiv 2201.01266).

    Args:
        options: of `monai.networks.nets.SwinUNETR`.
    """
    from monai.networks.nets.swin_unetr import SwinUNETR

    return SwinUNETR(**options)


@MODELS.register_module()
class DynUNetFeatures(nn.Module):
    """MONAI's DynUNet without its last convolution.

    Args:
        options: of `DynUNet`, without `out_channels`.

    Attributes:
        widths: channels of both maps that it gives.
    """

    def __init__(self, **options: Any):
        super().__init__()
        whole = dyn_unet(out_channels=1, **options)
        self.input_block, self.downsamples = whole.input_block, whole.downsamples
        self.bottleneck, self.upsamples = whole.bottleneck, whole.upsamples
        self.widths = (whole.filters[len(whole.strides) - 1], whole.filters[0])

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The deepest map of the encoder and the last one of the decoder."""
        skips = [self.input_block(inputs)]
        for down in self.downsamples:
            skips.append(down(skips[-1]))
        deep = fine = self.bottleneck(skips[-1])
        for up, skip in zip(self.upsamples, skips[::-1]):
            fine = up(fine, skip)
        return deep, fine
