"""Detection: boxes of things found by their names, by models of mmdet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ....core.contracts.domain import DomainData, Evaluation
from ..by_names import ByNames
from ..plans.kinds import DETECTION


class Detection(ByNames):
    """Things found by their names, as boxes."""

    name = "detection"
    deciding: ClassVar = "AP"
    default_recipe: ClassVar = "faster-rcnn"
    configs: ClassVar = DETECTION
    writes: ClassVar = (".png", ".json")

    def score(self, model, data: DomainData, backbone, progress) -> Evaluation:
        """AP and its kin."""
        from ..inference.detection import evaluate_detection

        return evaluate_detection(model, data, progress)

    def look(self, model, data: DomainData, backbone, progress) -> list[dict[str, Any]]:
        """Boxes of each image."""
        from ..inference.detection import predict_detection

        return predict_detection(model, data, progress)

    def save(
        self, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Pictures, and COCO JSON."""
        from ..inference.saving import save_boxes

        return save_boxes(rows, data, class_names, folder)
