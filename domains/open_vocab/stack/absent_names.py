"""Names that modules of mm packages take from others and that are not there: put in place where these are imported.

Layers of DETR's kin and of Grounding DINO are recomputed in the backward pass by fairscale, which is no longer
maintained and is not installed: torch does it. The metric of YouTube-VIS asks numpy for `float`, which numpy dropped.
Every dense head of mmdet 3.3 that predicts asks for its `loss_cls`, and that of SSD has none. Cascade RPN, trained
alone, gets from its config a word of mmdet 2, `sampling`, in whose place samplers stand, and no number of classes.
mmpretrain, where it is installed, brings models of images and text that want transformers 4, and without which its
backbones (ConvNeXt, PoolFormer, timm's) would not be imported either: they are left out, as mmpretrain itself does
where transformers is missing.
"""

from __future__ import annotations

from functools import cache, wraps
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
import torch
from packaging.specifiers import SpecifierSet
from torch import nn
from torch.utils.checkpoint import checkpoint

from .import_hooks import after_import

LAYERS = ("detr_layers", "deformable_detr_layers", "grounding_dino_layers")


def mend_absent_names() -> None:
    """Mend these modules where they are imported; what is installed is left to it."""
    for name in LAYERS:
        after_import(f"mmdet.models.layers.transformer.{name}", _mend_layers)
    after_import("mmdet.evaluation.functional.ytviseval", _mend_metric)
    after_import("mmdet.models.dense_heads.ssd_head", _mend_ssd)
    after_import("mmdet.models.dense_heads.cascade_rpn_head", _mend_cascade_rpn)
    after_import("mmpretrain.utils.dependency", _leave_out_multimodal)


def recomputed(module: nn.Module, **options: Any) -> nn.Module:
    """The module itself, which from now on holds of a training step only what goes into it.

    Its class becomes a kind of its own, so that a copy of the module recomputes itself and not the one it is of.

    Args:
        options: of fairscale, on where activations are kept; of no use here.
    """
    module.__class__ = _recomputing(type(module))
    return module


def _mend_layers(module: ModuleType) -> None:
    if module.checkpoint_wrapper is None:
        module.checkpoint_wrapper = recomputed


def _mend_metric(module: ModuleType) -> None:
    if "float" not in vars(np):
        module.np = _Numpy("numpy")


def _mend_ssd(module: ModuleType) -> None:
    if not hasattr(module.SSDHead, "loss_cls"):
        module.SSDHead.loss_cls = None


def _mend_cascade_rpn(module: ModuleType) -> None:
    build_stage, build = module.StageCascadeRPNHead.__init__, module.CascadeRPNHead.__init__

    @wraps(build_stage)
    def stage_built(self, *args, sampling: bool | None = None, **options) -> None:
        build_stage(self, *args, **options)

    @wraps(build)
    def built(self, num_classes: int = 1, *args, **options) -> None:
        build(self, num_classes, *args, **options)

    module.StageCascadeRPNHead.__init__, module.CascadeRPNHead.__init__ = stage_built, built


def _leave_out_multimodal(module: ModuleType) -> None:
    if module.WITH_MULTIMODAL and SpecifierSet(">=5").contains(version("transformers"), prereleases=True):
        module.WITH_MULTIMODAL = False


class _Numpy(ModuleType):
    """numpy with the name it dropped."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@cache
def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    class Recomputed(kind):
        def forward(self, *args, **kwargs):
            if not torch.is_grad_enabled():
                return super().forward(*args, **kwargs)
            return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)

    for name in ("__name__", "__qualname__", "__module__"):
        setattr(Recomputed, name, getattr(kind, name))
    return Recomputed
