"""Box heads of two-stage detectors with texts as classes: Faster R-CNN, Cascade R-CNN, Mask R-CNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.models.dense_heads import RetinaHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmseg.models.decode_heads import FCNHead, FPNHead, UPerHead
from torch import Tensor

from .....core.errors import ConfigError
from .....registry import MODELS
from ...vocabulary import NamedClasses, Vocabulary
from .cosine import classifier_of, count_classes

THRESHOLD = 0.3
"""From which probability mmseg takes a pixel for the class where there is but one."""
PRIOR = 0.01
"""Of RetinaNet: Focal Loss for Dense Object Detection, 2017, arXiv 1708.02002."""


@MODELS.register_module()
class TextConvFCBBoxHead(ConvFCBBoxHead, NamedClasses):
    """mmdet's ConvFCBBoxHead whose `fc_cls` is a `CosineTextClassifier` and whose boxes are the same for all classes.

    Args:
        classifier: options of `CosineTextClassifier`: `backbone` and `classes` at least. Its background, by default
            learned, comes after the classes.
        num_classes, reg_class_agnostic: what a base config says of them counts for nothing here: classes are counted,
            and regression knows none.
        options: of mmdet's head.

    Raises:
        ConfigError: the classifier's options, no background, or a loss that is not a softmax's.
    """

    def __init__(
        self,
        *args: Any,
        classifier: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        reg_class_agnostic: bool = True,
        **options: Any,
    ):
        name = type(self).__name__
        count = count_classes(name, classifier)
        super().__init__(*args, num_classes=count, reg_class_agnostic=True, **options)
        self.fc_cls = classifier_of(name, classifier, self.cls_last_dim, background="learned")
        if self.fc_cls.background is None or self.fc_cls.background_class is not None:
            raise ConfigError(
                f"{name}: mmdet's box heads have a background after the classes; give 'learned' or 'zeros'"
            )
        if self.custom_cls_channels or getattr(self.loss_cls, "use_sigmoid", False):
            raise ConfigError(
                f"{name}: loss_cls is not a softmax; give dict(type='CrossEntropyLoss', use_sigmoid=False)"
            )

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Count the classes that the classifier now has."""
        self.num_classes = len(vocabulary)


@MODELS.register_module()
class TextShared2FCBBoxHead(TextConvFCBBoxHead):
    """`TextConvFCBBoxHead` with two shared fully connected layers, as in Faster R-CNN and Mask R-CNN."""

    def __init__(self, fc_out_channels: int = 1024, *args: Any, **options: Any):
        super().__init__(*args, num_shared_fcs=2, fc_out_channels=fc_out_channels, **options)


@MODELS.register_module()
class TextShared4Conv1FCBBoxHead(TextConvFCBBoxHead):
    """`TextConvFCBBoxHead` with four shared convolutions and a fully connected layer, as in ViTDet."""

    def __init__(self, fc_out_channels: int = 1024, *args: Any, **options: Any):
        super().__init__(*args, num_shared_convs=4, num_shared_fcs=1, fc_out_channels=fc_out_channels, **options)


@MODELS.register_module()
class ClassAgnosticMaskHead(FCNMaskHead):
    """mmdet's FCNMaskHead with one mask for all classes, so that names it never saw have masks too.

    Args:
        num_classes, class_agnostic: what a base config says of them counts for nothing here.
        options: of mmdet's head.
    """

    def __init__(self, *args: Any, num_classes: int | None = None, class_agnostic: bool = True, **options: Any):
        super().__init__(*args, num_classes=1, class_agnostic=True, **options)


class TextDecodeHead(NamedClasses):
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


@MODELS.register_module()
class TextRetinaHead(RetinaHead, NamedClasses):
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
            raise ConfigError(f"{name}: a sigmoid for each class has no background; omit the option background")

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
