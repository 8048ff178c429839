"""RetinaNet's head with texts as classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.models.dense_heads import RetinaHead
from torch import Tensor

from .....core.contracts.errors import ConfigError
from .....registry import MODELS
from ...vocabulary import Vocabulary
from .cosine import classifier_of, count_classes

PRIOR = 0.01
"""Of RetinaNet: Focal Loss for Dense Object Detection, 2017, arXiv 1708.02002."""


@MODELS.register_module()
class TextRetinaHead(RetinaHead):
    """mmdet's RetinaHead; what follows its stacked convolutions, `retina_cls`, is a `CosineTextClassifier` with one
    embedding for each anchor of a cell. No class has a background; the bias starts at the prior of RetinaNet, 0.01.

    Args:
        classifier: options of `CosineTextClassifier`: `backbone` and `classes` at least.
        num_classes: what a base config says of it counts for nothing here: classes are counted.
        options: of mmdet's head.

    Raises:
        ConfigError: the classifier's options, a background, or a loss that is not a sigmoid's.
    """

    def __init__(
        self,
        *args: Any,
        classifier: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        init_cfg: Any = None,
        **options: Any,
    ):
        name = type(self).__name__
        count = count_classes(name, classifier)
        # RetinaHead's own initialisation would put the prior into the projection.
        super().__init__(
            count, *args, init_cfg=init_cfg or {"type": "Normal", "layer": "Conv2d", "std": 0.01}, **options
        )
        if not self.use_sigmoid_cls:
            raise ConfigError(
                f"{name}: loss_cls is not a sigmoid for each class; give a focal loss with use_sigmoid=True"
            )
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.retina_cls = classifier_of(name, classifier, channels, anchors=self.num_base_priors, prior=PRIOR)
        if self.retina_cls.background is not None:
            raise ConfigError(f"{name}: a sigmoid for each class has no background; leave the option background out")

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, H, W) of a level -> class logits (B, A * C, H, W) and box deltas (B, A * 4, H, W)."""
        of_class = of_box = x
        for conv in self.cls_convs:
            of_class = conv(of_class)
        for conv in self.reg_convs:
            of_box = conv(of_box)
        return self.retina_cls.on_map(of_class), self.retina_reg(of_box)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Count the classes that the classifier now has."""
        self.num_classes = self.cls_out_channels = len(vocabulary)
