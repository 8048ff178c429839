"""RT-DETR: DETRs Beat YOLOs on Real-time Object Detection, 2023, arXiv 2304.08069."""

from __future__ import annotations

from .rt_detr_v2 import Model as RTDetrV2


class Model(RTDetrV2):
    """RT-DETRv2's first version: the same head, losses, rates and processor."""

    model_class = "RTDetrForObjectDetection"
