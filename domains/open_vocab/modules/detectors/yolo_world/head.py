"""YOLO-World's head: what a region shows is compared with texts, at a scale and with a shift that are learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmdet.models.dense_heads import RTMDetSepBNHead
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ......core.contracts import require
from ......core.errors import ConfigError
from ......registry import MODELS
from ....vocabulary import NamedClasses, Vocabulary

NORMS = ("l2", "bn")
TEMPERATURE = 0.07
FIRST_LOG_SCALE = {"l2": math.log(1 / TEMPERATURE), "bn": -1.0}
EPSILON = 1e-12
PRIOR = 0.01
"""Of RTMDet's and RetinaNet's heads: what a sigmoid says at first where region and text are orthogonal."""


class TextContrast(nn.Module):
    """scale * region . text + shift (YOLO-World, arXiv 2401.17270, eq. 1), the same for every name.

    Args:
        text_channels: D.
        norm: of a region's embedding: "l2", its length is 1, as in the paper; "bn", a batch norm, as the authors'
            second release has it. Texts are always of length 1.
        norm_cfg: of the batch norm.

    Raises:
        ConfigError: norm "bn" with another norm in `norm_cfg`.
    """

    def __init__(self, text_channels: int, norm: str, norm_cfg: Mapping[str, Any]):
        super().__init__()
        self.norm = build_norm_layer(dict(norm_cfg), text_channels)[1] if norm == "bn" else None
        batched = self.norm is None or isinstance(self.norm, _BatchNorm)
        require(batched, "norm_cfg", dict(norm_cfg), "norm='bn' is a batch norm; give a type of these, or norm='l2'")
        self.log_scale = nn.Parameter(torch.tensor(FIRST_LOG_SCALE[norm]))
        self.shift = nn.Parameter(torch.tensor(math.log(PRIOR / (1 - PRIOR))))

    def forward(self, regions: Tensor, texts: Tensor) -> Tensor:
        """(B, D, H, W) and texts (B or 1, C, D) -> logits (B, C, H, W), in float32."""
        with torch.autocast(regions.device.type, enabled=False):
            regions, texts = regions.float(), texts.float()
            regions = F.normalize(regions, dim=1) if self.norm is None else self.norm(regions)
            alike = torch.einsum("bdhw,bcd->bchw", regions, F.normalize(texts, dim=-1))
            return self.log_scale.exp() * alike + self.shift

    def weights(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Texts (C, D) -> weight (C, D) and bias (C,) of the same for embeddings before a batch norm in evaluation, or
        divided by their length."""
        weight = self.log_scale.exp() * F.normalize(texts, dim=-1)
        bias = self.shift.expand(len(texts))
        if self.norm is None:
            return weight, bias
        slope = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        bias = bias + weight @ (self.norm.bias - self.norm.running_mean * slope)
        return weight * slope, bias


class RegionEmbedding(nn.Conv2d):
    """A convolution into the space of the texts, which can be multiplied with what it is compared with (`fold`): its
    output, much wider than its input, is then never computed."""

    folded: tuple[Tensor, Tensor] | None = None
    length: tuple[Tensor, Tensor] | None = None
    shift: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, H, W) -> (B, D, H, W), or (B, C, H, W) where it is folded."""
        if self.folded is None:
            return super().forward(x)
        alike = self._conv_forward(x, *self.folded)
        if self.length is None:
            return alike
        return alike / self._conv_forward(x, *self.length).norm(dim=1, keepdim=True).clamp(min=EPSILON) + self.shift

    def fold(self, weight: Tensor, bias: Tensor, unit: bool) -> None:
        """From now on weight (C, D) @ output + bias (C,); with `unit`, of the output divided by its length.

        The length of an embedding is that of R x, where QR is the convolution's own matrix: as many rows as x has.
        """
        inner = weight @ self.bias
        self.folded = torch.einsum("cd,dfhw->cfhw", weight, self.weight), inner if unit else inner + bias
        if not unit:
            return
        whole = torch.cat([self.weight.flatten(1), self.bias[:, None]], dim=1)  # (D, F * k * k + 1)
        rows = torch.linalg.qr(whole.double(), mode="r").R.to(whole.dtype)
        self.length = rows[:, :-1].unflatten(1, self.weight.shape[1:]).contiguous(), rows[:, -1].contiguous()
        self.shift = bias[:, None, None]

    def unfold(self) -> None:
        """As before `fold`."""
        self.folded = self.length = self.shift = None


@MODELS.register_module()
class YOLOWorldHead(RTMDetSepBNHead, NamedClasses):
    """RTMDet's head (arXiv 2212.07784) whose classes are texts: at each level a `TextContrast` after what RTMDet has in
    place of it. Boxes and their assignment to objects are RTMDet's, in place of YOLOv8's.

    Its features are a pair: maps, and texts (B or 1, C, D).

    Args:
        in_channels: of each map.
        text_channels: D; the detector says it.
        num_classes: the detector says it; of a base config it counts for nothing.
        norm: of `TextContrast`, "l2" or "bn".
        options: of mmdet's head, with `loss_cls` a sigmoid's: `vladapt.RegionTextContrastiveLoss` as published.

    Raises:
        ConfigError: an option is not usable, an objectness, or a loss that is not a sigmoid's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        text_channels: int,
        *,
        norm: str = "l2",
        with_objectness: bool = False,
        **options: Any,
    ):
        require(norm in NORMS, "norm", norm, f"give one of {', '.join(NORMS)}")
        require(not with_objectness, "with_objectness", with_objectness, "omit it: names say what is an object")
        self.text_channels, self.contrast_norm = text_channels, norm
        super().__init__(num_classes, in_channels, with_objectness=False, **options)
        if not self.use_sigmoid_cls:
            raise ConfigError(
                "YOLOWorldHead: loss_cls is not a sigmoid for each class; give "
                "dict(type='vladapt.RegionTextContrastiveLoss', use_sigmoid=True)"
            )

    def _init_layers(self) -> None:
        super()._init_layers()
        size = self.pred_kernel_size
        levels = range(len(self.prior_generator.strides))
        self.rtm_cls = nn.ModuleList(
            RegionEmbedding(self.feat_channels, self.text_channels, size, padding=size // 2) for _ in levels
        )
        self.contrasts = nn.ModuleList(
            TextContrast(self.text_channels, self.contrast_norm, self.norm_cfg) for _ in levels
        )

    def init_weights(self) -> None:
        """RTMDet's, but for the embeddings, which carry no prior."""
        super().init_weights()
        for embedding in self.rtm_cls:
            embedding.reset_parameters()
            nn.init.zeros_(embedding.bias)

    def forward(self, features: tuple[Sequence[Tensor], Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Maps and texts -> of each level logits (B, C, h, w) and distances to a box's sides (B, 4, h, w)."""
        maps, texts = features
        embeddings, distances = super().forward(maps)
        if self.rtm_cls[0].folded is not None:
            return embeddings, distances
        pairs = zip(self.contrasts, embeddings, strict=True)
        return tuple(contrast(embedded, texts) for contrast, embedded in pairs), distances

    def loss(self, features: tuple[Sequence[Tensor], Tensor], batch_data_samples: list) -> dict[str, Any]:
        """Of the names that each image was compared with, which may be others for each."""
        known = self.num_classes
        self._count(features[1].shape[1])
        try:
            return super().loss(features, batch_data_samples)
        finally:
            self._count(known)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Count the classes."""
        self._count(len(vocabulary))

    @torch.no_grad()
    def fold(self, texts: Tensor) -> None:
        """What texts (C, D) say is multiplied into the embeddings' weights."""
        for embedding, contrast in zip(self.rtm_cls, self.contrasts, strict=True):
            embedding.fold(*contrast.weights(texts), unit=contrast.norm is None)

    def unfold(self) -> None:
        """As before `fold`."""
        for embedding in self.rtm_cls:
            embedding.unfold()

    def _count(self, classes: int) -> None:
        self.num_classes = self.cls_out_channels = classes
