"""SAM 3: Segment Anything with Concepts, 2025, arXiv 2511.16719. Images alone, without its tracker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor

from ..family import MASKS, TEXTS, Family

DETECTOR = "detector_config"
MASK_THRESHOLD = 0.5


class Model(Family):
    """Queries that find every thing that a phrase names, with a score that it is there at all; boxes of examples may go
    with the phrase, and boxes of what is not meant."""

    model_class = "Sam3Model"
    processors = ("Sam3ImageProcessor",)
    gives = MASKS
    asked_by = TEXTS
    recipe = "sam3"
    why_not = "its training code is under a licence of its own and was not read"

    def settings(self) -> dict[str, Any]:
        return {}

    def transformers_config(self):
        """Of the detector, also where the checkpoint holds the whole SAM 3."""
        from transformers import Sam3Config

        stated = self.config.get(DETECTOR) or self.config
        return Sam3Config.from_dict({key: value for key, value in stated.items() if key != "model_type"})

    def found(
        self, outputs: Any, sizes: Sequence[tuple[int, int]], chosen: Tensor | None = None, least: float = 0.0
    ) -> list[InstanceData]:
        """Of one phrase, label 0: as the processor's `post_process_instance_segmentation`.

        Args:
            least: score above which a query counts; masks of others are not made.
        """
        scores = outputs.pred_logits.sigmoid()  # (B, Q)
        if outputs.presence_logits is not None:
            scores = scores * outputs.presence_logits.sigmoid()
        instances = []
        for of_image, boxes, masks, (height, width) in zip(
            scores, outputs.pred_boxes, outputs.pred_masks, sizes, strict=True
        ):
            counts = of_image > least
            shares = masks[counts].sigmoid()[None]
            shares = (
                F.interpolate(shares, (height, width), mode="bilinear")
                if counts.any()
                else shares[0].new_zeros(1, 0, height, width)
            )
            instances.append(
                InstanceData(
                    bboxes=boxes[counts] * boxes.new_tensor([width, height, width, height]),
                    scores=of_image[counts],
                    labels=torch.zeros(len(shares[0]), dtype=torch.long, device=boxes.device),
                    masks=shares[0] > MASK_THRESHOLD,
                )
            )
        return instances
