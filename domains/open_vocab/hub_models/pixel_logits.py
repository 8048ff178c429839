"""Types whose heads give every pixel a logit of every class: what they are trained by, and their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from ....core.errors import ConfigError
from .family import MAP, Family

IGNORED = 255
"""The value of pixels that teach nothing."""


class PixelLogits(Family):
    """Base of types with logits of pixels.

    The loss is that of transformers: the cross entropy of each head's logits, enlarged to the size of the truth, over
    the pixels that are not ignored; the auxiliary head's times its weight. For a batch that is ignored whole it is 0;
    transformers divides by no pixel at all, which gives NaN.

    Class attributes:
        heads: names of the modules that give logits -> the configuration's key of their weight, None for 1.
        any_size: whether torch's exporter makes a graph for images of any size.
        idle: beginnings of the names of weights that take no part in the logits, and so are not trained.
    """

    gives = MAP
    heads: ClassVar[Mapping[str, str | None]]
    any_size: ClassVar[bool] = False
    idle: ClassVar[tuple[str, ...]] = ()

    def build(self) -> nn.Module:
        if self.classes < 2:
            raise ConfigError(
                f"{self.model_class}: it chooses a class for every pixel, so it needs two or more; give the rest of "
                'the image a class too, "background"'
            )
        model = self.built(_with_heads(self.class_of_model(), tuple(self.heads)))
        return without_idle(model, self.idle)

    def settings(self) -> dict[str, Any]:
        return {}

    def inputs(self, pixels, pixel_mask, prompt=None):
        return {"pixel_values": pixels}

    def targets(self, samples: Sequence[Any], shape: tuple[int, int]) -> list[dict[str, Tensor]]:
        return pixel_labels(samples, shape)

    def truth(self, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """Nothing: transformers' own loss lacks the parts."""
        return {}

    def losses(self, outputs: Any, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """A part per head; on several processes, the mean over all pixels of all."""
        labels = torch.stack([target["labels"] for target in targets])  # (B, H, W)
        pixels = mean_over_processes((labels != IGNORED).sum().float()).clamp(min=1)
        parts = {}
        for name, key in self.heads.items():
            if name in outputs.head_logits:
                logits = enlarged_logits(outputs.head_logits[name], labels.shape[-2:])
                total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
                weight = 1.0 if key is None else getattr(self.stated, key)
                parts[f"loss_{name}"] = weight * total / pixels
        return parts

    def scores(self, model: nn.Module, pixels: Tensor) -> Tensor:
        """(B, C, h, w) logits of images without padding. Where they are enlarged to an image, the largest is the class,
        as the processors choose it."""
        return model(**self.inputs(pixels, None)).logits


def enlarged_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), bilinear."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def padded(labels: Tensor, shape: tuple[int, int]) -> Tensor:
    """(h, w) -> (H, W), `IGNORED` to the right and below."""
    margins = (0, shape[1] - labels.shape[1], 0, shape[0] - labels.shape[0])
    return F.pad(labels, margins, value=IGNORED)


def pixel_labels(samples: Sequence[Any], shape: tuple[int, int]) -> list[dict[str, Tensor]]:
    """labels (H, W) of each image of mmseg, `IGNORED` where it was padded."""
    return [{"labels": padded(sample.gt_sem_seg.data[0].long(), shape)} for sample in samples]


def without_idle(model: nn.Module, idle: Sequence[str]) -> nn.Module:
    """The model, in which weights that take part in nothing ask for no gradient: DistributedDataParallel would wait for
    it."""
    for name, weight in model.named_parameters():
        if name.startswith(tuple(idle)):
            weight.requires_grad_(False)
    return model


def mean_over_processes(count: Tensor) -> Tensor:
    """The mean of a count over all processes, in place."""
    if get_world_size() > 1:
        all_reduce(count, "mean")
    return count


@cache
def _with_heads(base: type[nn.Module], heads: tuple[str, ...]) -> type[nn.Module]:
    """A model of transformers whose outputs have `head_logits`: of each head that it has, in the head's own size."""

    class WithHeads(base):
        def forward(self, *args, **kwargs):
            logits: dict[str, Tensor] = {}
            modules = {name: getattr(self, name) for name in heads if getattr(self, name, None) is not None}
            hooks = [
                module.register_forward_hook(lambda module, given, made, name=name: logits.update({name: made}))
                for name, module in modules.items()
            ]
            try:
                outputs = super().forward(*args, **kwargs)
            finally:
                for hook in hooks:
                    hook.remove()
            outputs.head_logits = logits
            return outputs

    WithHeads.__name__ = base.__name__
    return WithHeads
