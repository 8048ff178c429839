"""Decode heads of mmsegmentation with texts as classes: Semantic FPN, UPerNet, and the FCN beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg.models.decode_heads import FCNHead, FPNHead, UPerHead
from torch import Tensor

from .....core.contracts.errors import ConfigError
from .....registry import MODELS
from ...vocabulary import Vocabulary
from .cosine import classifier_of, count_classes

THRESHOLD = 0.3
"""From which probability mmseg takes a pixel for the class where there is but one."""


class TextDecodeHead:
    """Goes before a decode head of mmseg: its `conv_seg` becomes a `CosineTextClassifier` of each pixel's features.

    Args:
        classifier: options of `CosineTextClassifier`: `backbone` and `classes` at least. Where masks have a class
            "background", `background='learned', background_class='background'` learns it in place of its text.
        num_classes, out_channels: what a base config says of them counts for nothing here: classes are counted.
        options: of mmseg's head.

    Raises:
        ConfigError: the classifier's options, or a background that is none of the classes.
    """

    def __init__(
        self,
        *args: Any,
        classifier: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        out_channels: int | None = None,
        **options: Any,
    ):
        name = type(self).__name__
        count = count_classes(name, classifier)
        super().__init__(*args, num_classes=count, out_channels=count, **options)
        self.conv_seg = classifier_of(name, classifier, self.channels)
        if self.conv_seg.background is not None and self.conv_seg.background_class is None:
            raise ConfigError(
                f"{name}: masks have no class after the last; give background_class, the name it has in them"
            )

    def cls_seg(self, feat: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, C, H, W)."""
        return self.conv_seg.on_map(feat if self.dropout is None else self.dropout(feat))

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Count the classes that the classifier now has."""
        self.num_classes = self.out_channels = len(vocabulary)
        if self.out_channels == 1 and self.threshold is None:
            self.threshold = THRESHOLD


@MODELS.register_module()
class TextFPNHead(TextDecodeHead, FPNHead):
    """Semantic FPN's head (Panoptic Feature Pyramid Networks, 2019, arXiv 1901.02446) with texts as classes."""


@MODELS.register_module()
class TextUPerHead(TextDecodeHead, UPerHead):
    """UPerNet's head (Unified Perceptual Parsing for Scene Understanding, 2018, arXiv 1807.10221), texts as classes."""


@MODELS.register_module()
class TextFCNHead(TextDecodeHead, FCNHead):
    """mmseg's FCNHead, UPerNet's auxiliary head, with texts as classes."""
