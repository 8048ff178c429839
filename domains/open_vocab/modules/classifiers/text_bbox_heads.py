"""Box heads of two-stage detectors with texts as classes: Faster R-CNN, Cascade R-CNN, Mask R-CNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead

from .....core.contracts.errors import ConfigError
from .....registry import MODELS
from ...vocabulary import Vocabulary
from .cosine import classifier_of, count_classes


@MODELS.register_module()
class TextConvFCBBoxHead(ConvFCBBoxHead):
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
