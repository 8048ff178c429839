"""A ResNet's last stage at stride 1: a feature map of twice the height and width from the same weights.

As "Bag of Tricks and A Strong Baseline for Deep Person Re-identification" (Luo et al. 2019, arXiv 1903.07071) and
CLIP-ReID (2022, arXiv 2211.13977) have it, after "Beyond Part Models: Person Retrieval with Refined Part Pooling" (Sun
et al. 2018, arXiv 1711.09349). No dilation makes up for the stride.
"""

from __future__ import annotations

from torch import nn

from ..errors import CapabilityError

STAGE = "layer4"
"""Of the ResNets of torchvision, timm and open_clip."""


def is_timm_resnet(architecture: str) -> bool:
    """Whether an architecture of timm is a ResNet.

    Args:
        architecture: its name, with or without a tag.
    """
    import timm

    name = architecture.partition(".")[0]
    return timm.is_model(name) and timm.models.model_entrypoint(name).__module__ == "timm.models.resnet"


def at_stride_one(resnet: nn.Module, spec: str) -> None:
    """Let the last stage keep the size of its input, in place. No weight changes.

    Args:
        resnet: has a last stage `layer4`, whose first block goes two cells at a time.

    Raises:
        CapabilityError: that block makes maps smaller by something else than convolutions and mean pooling.
    """
    block = getattr(resnet, STAGE)[0]
    for name, module in list(block.named_modules()):
        if not name or _step(module) == 1:
            continue
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d):
            block.set_submodule(name, nn.Identity())
        else:
            raise CapabilityError(
                f"backbone '{spec}': the last stride is that of a {type(module).__name__}, which cannot change; omit "
                "last_stride"
            )
    if hasattr(block, "stride"):
        block.stride = 1


def _step(module: nn.Module) -> int:
    stride = getattr(module, "stride", 1)
    return max(stride) if isinstance(stride, tuple) else stride
