"""Mask2Former with texts as classes, for panoptic, instance and semantic segmentation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.detectors import Mask2Former
from mmengine.config import ConfigDict
from mmseg.models.decode_heads import Mask2FormerHead as Mask2FormerDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor, nn

from .....core.contracts import require
from .....core.errors import ConfigError
from .....registry import MODELS
from ...vocabulary import NamedClasses, Vocabulary
from .cosine import CosineTextClassifier, count_classes
from .frozen_tower import FrozenTowerClassifier, combined_logits, raw_images

NAMED_BY = ("both", "queries", "pixels")
TEMPERATURE = 0.07
NO_OBJECT_WEIGHT = 0.1
MOST_INSTANCES = 100
"""Of an image, where test_cfg says nothing; mmdet's."""
HALF = 1 / (1 + math.exp(-0.5))
"""mmseg's threshold where there is but one class: it takes the sigmoid of a score, which here is a probability."""
EPSILON = 1e-8


class QueryClassifier(CosineTextClassifier):
    """`CosineTextClassifier` with one more row after all classes: the embedding of "no object", which is learned.

    It is what queries that outline nothing are compared with. A background that masks have as a class is another
    thing, and stays where it is among the classes (`background`, `background_class`).
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.no_object = nn.Parameter(F.normalize(torch.randn(self.text.embed_dim), dim=0))

    def rows(self) -> Tensor:
        """(C + 1, D): what features are compared with."""
        return torch.cat([super().rows(), F.normalize(self.no_object, dim=0)[None]])


class MaskPooling(nn.Module):
    """The mean of pixel embeddings inside each query's own mask, projected.

    Args:
        in_channels: of the pixel embeddings.
        out_channels: of the queries.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(in_channels), nn.Linear(in_channels, out_channels))

    def forward(self, pixels: Tensor, masks: Tensor) -> Tensor:
        """(B, C, H, W) and mask logits (B, Q, H, W) -> (B, Q, out_channels); the masks get no gradient."""
        inside = (masks.detach() > 0).to(pixels.dtype)
        means = torch.einsum("bchw,bqhw->bqc", pixels, inside)
        return self.project(means / (inside.sum(dim=(-2, -1))[..., None] + EPSILON))


class TextQueries(NamedClasses):
    """Goes before a Mask2Former head: what a query outlines is named by its embedding's cosine with the texts.

    "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP" (FC-CLIP), 2023, arXiv
    2308.02487: its classifier of the trained decoder. A query and the pixel embeddings pooled under its mask are added,
    go through three layers, and are compared with texts and a learned "no object" (as in ODISE, 2023, arXiv
    2303.04803) at a learned temperature that starts at 0.07. FC-CLIP's second classifier, of the frozen tower, is
    `frozen_tower`.

    Args:
        classifier: options of `CosineTextClassifier`: `backbone` and `classes` at least. Where masks have a class
            "background", `background='learned', background_class='background'` learns it in place of its text.
        named_by: "both", queries and pooled pixel embeddings added, as published; "queries", as Mask2Former has it;
            "pixels", the pooled embeddings alone, which says least of the classes that were trained.
        class_layers: how many hidden layers are before the projection; published 2. None memorise few names less.
        no_object_weight: of queries that outline nothing, in the classification loss.
        frozen_tower: options of `FrozenTowerClassifier`, which has a say where the model predicts, published dict();
            None leaves it out, as for a tower that was never shown an image with its text.
        num_things_classes, num_stuff_classes, num_classes: what a base config says of them counts for nothing here:
            classes are counted. So do `loss_cls.class_weight`.
        options: of the head.

    Raises:
        ConfigError: the classifier's options, or a background that is none of the classes.
    """

    stuff: Sequence[str] = ()

    def __init__(
        self,
        *args: Any,
        feat_channels: int,
        out_channels: int,
        loss_cls: Mapping[str, Any],
        classifier: Mapping[str, Any] | None = None,
        named_by: str = "both",
        class_layers: int = 2,
        no_object_weight: float = NO_OBJECT_WEIGHT,
        frozen_tower: Mapping[str, Any] | None = None,
        num_things_classes: int | None = None,
        num_stuff_classes: int | None = None,
        **options: Any,
    ):
        name = type(self).__name__
        require(named_by in NAMED_BY, "named_by", named_by, f"give one of {', '.join(NAMED_BY)}")
        require(class_layers >= 0, "class_layers", class_layers, "give 0 or more")
        count = count_classes(name, classifier)
        self.no_object_weight = no_object_weight
        super().__init__(
            *args,
            feat_channels=feat_channels,
            out_channels=out_channels,
            num_things_classes=count,
            num_stuff_classes=0,
            loss_cls=ConfigDict({**loss_cls, "class_weight": self._weights(count)}),
            **options,
        )
        if classifier.get("background") is not None and classifier.get("background_class") is None:
            raise ConfigError(
                f"{name}: it has a learned 'no object' after the classes; a background is one of them: give "
                "background_class, the name it has in the masks, or omit background"
            )
        self.cls_embed = nn.Identity()  # the decoder's states pass; they are named where their masks are known
        self.named_by = named_by
        self.mask_pooling = None if named_by == "queries" else MaskPooling(out_channels, feat_channels)
        layers = ((nn.Linear(feat_channels, feat_channels), nn.ReLU()) for _ in range(class_layers))
        self.class_layers = nn.Sequential(*chain.from_iterable(layers))
        self.classifier = QueryClassifier(
            feat_channels, **{"temperature": TEMPERATURE, "learn_temperature": True, **classifier}
        )
        self.trained = frozenset(self.classifier.text.names)
        self.frozen_tower, self._images = None, None
        if frozen_tower is not None:
            self.frozen_tower = FrozenTowerClassifier(classifier["backbone"], **frozen_tower)
        self.take_classes(self.classifier.text.vocabulary)

    @contextmanager
    def seeing(self, inputs: Tensor, preprocessor: nn.Module) -> Iterator[None]:
        """Within it, the frozen tower has its say of what is outlined in (B, 3, H, W) that a preprocessor made."""
        self._images = None if self.frozen_tower is None else raw_images(inputs, preprocessor)
        try:
            yield
        finally:
            self._images = None

    def forward(self, x: Sequence[Tensor], batch_data_samples: Sequence[Any]) -> tuple[list[Tensor], list[Tensor]]:
        """After each layer of the decoder: logits (B, Q, C + 1) and mask logits (B, Q, H, W)."""
        classes, masks = super().forward(x, batch_data_samples)
        if self._images is not None:
            classes[-1] = self._with_tower(classes[-1], masks[-1])
        return classes, masks

    def _with_tower(self, logits: Tensor, masks: Tensor) -> Tensor:
        text, tower, device = self.classifier.text, self.frozen_tower, logits.device
        said, covered = tower.logits(self._images, masks, text())
        trained = torch.tensor([name in self.trained for name in text.names], device=device)
        named = torch.tensor([name != self.classifier.background_class for name in text.names], device=device)
        return combined_logits(logits, said, trained, covered, named, tower.alpha, tower.beta)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Count the classes that the classifier now has, and weigh them."""
        self.num_classes = len(vocabulary)
        self.class_weight = self.loss_cls.class_weight = self._weights(self.num_classes)

    def _weights(self, classes: int) -> list[float]:
        return [1.0] * classes + [self.no_object_weight]

    def _forward_head(self, decoder_out: Tensor, mask_feature: Tensor, attn_mask_target_size: tuple[int, int]):
        """After each layer of the decoder: logits (B, Q, C + 1), mask logits (B, Q, H, W), and where to look next."""
        queries, masks, attention = super()._forward_head(decoder_out, mask_feature, attn_mask_target_size)
        if self.mask_pooling is not None:
            pooled = self.mask_pooling(mask_feature, masks)
            queries = pooled if self.named_by == "pixels" else queries + pooled
        return self.classifier(self.class_layers(queries)), masks, attention


@MODELS.register_module()
class TextMask2FormerDecodeHead(TextQueries, Mask2FormerDecodeHead):
    """mmseg's Mask2FormerHead (Masked-attention Mask Transformer for Universal Image Segmentation, 2021, arXiv
    2112.01527), for semantic segmentation, with texts as classes. Arguments as of `TextQueries`."""

    threshold = HALF

    def __init__(self, *args: Any, num_classes: int | None = None, **options: Any):
        super().__init__(*args, num_classes=count_classes(type(self).__name__, options.get("classifier")), **options)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Count the classes, also as mmseg's segmentors do."""
        super().take_classes(vocabulary)
        self.out_channels = self.num_classes


@MODELS.register_module()
class TextMask2FormerSegmentor(EncoderDecoder):
    """mmseg's EncoderDecoder with a `TextMask2FormerDecodeHead` whose frozen tower sees the images; else as mmseg's."""

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W) scores of the classes."""
        with self.decode_head.seeing(inputs, self.data_preprocessor):
            return super().encode_decode(inputs, batch_img_metas)


@MODELS.register_module()
class TextMask2FormerHead(TextQueries, Mask2FormerHead):
    """mmdet's Mask2FormerHead (arXiv 2112.01527), for instance and panoptic segmentation, with texts as classes.

    Args:
        stuff: names that have one region per image, such as sky. In the classes they stand after all things, as mmdet's
            labels do; names given later may leave them out.
        options: as of `TextQueries`.

    Raises:
        ConfigError: a thing stands after stuff; else as `TextQueries`.
    """

    def __init__(self, *args: Any, stuff: Sequence[str] = (), **options: Any):
        self.stuff = tuple(stuff)
        super().__init__(*args, **options)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Count the things and the stuff among the classes."""
        names = vocabulary.names
        things = len(names) - sum(name in self.stuff for name in names)
        if misplaced := [name for name in names[:things] if name in self.stuff]:
            raise ConfigError(
                f"{type(self).__name__}: '{misplaced[0]}' is stuff and stands before things; name all stuff "
                f"({', '.join(self.stuff)}) after the last thing"
            )
        self.num_things_classes, self.num_stuff_classes = things, len(names) - things
        super().take_classes(vocabulary)


@MODELS.register_module()
class TextMask2Former(Mask2Former, NamedClasses):
    """mmdet's Mask2Former (arXiv 2112.01527) with a `TextMask2FormerHead`; what fuses its masks counts as it does.

    Args:
        options: of mmdet's Mask2Former. What `panoptic_fusion_head` says of numbers of classes counts for nothing.

    Raises:
        ConfigError: the head has no texts.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if not isinstance(self.panoptic_head, TextMask2FormerHead):
            raise ConfigError(
                f"{type(self).__name__}: panoptic_head has no texts as classes; give type='vladapt.TextMask2FormerHead'"
            )
        self.most_instances = self.panoptic_fusion_head.test_cfg.get("max_per_image", MOST_INSTANCES)
        self.take_classes(self.panoptic_head.classifier.text.vocabulary)

    def predict(self, batch_inputs: Tensor, *args: Any, **options: Any):
        """As mmdet's; the frozen tower sees the images."""
        with self.panoptic_head.seeing(batch_inputs, self.data_preprocessor):
            return super().predict(batch_inputs, *args, **options)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Count the classes here and where masks are fused.

        Raises:
            ConfigError: stuff before things, or more names than mmdet's maps of segments can hold.
        """
        count, fusion = len(vocabulary), self.panoptic_fusion_head
        if fusion.test_cfg.get("panoptic_on", True) and count >= INSTANCE_OFFSET:
            raise ConfigError(
                f"{count} names: mmdet's panoptic maps hold {INSTANCE_OFFSET - 1}; ask for fewer, or set "
                "test_cfg.panoptic_on=False for instances alone"
            )
        self.panoptic_head.take_classes(vocabulary)
        fusion.test_cfg.max_per_image = min(self.most_instances, self.panoptic_head.num_queries * count)
        for part in (self, self.panoptic_fusion_head):
            part.num_things_classes = self.panoptic_head.num_things_classes
            part.num_stuff_classes = self.panoptic_head.num_stuff_classes
            part.num_classes = self.panoptic_head.num_classes
