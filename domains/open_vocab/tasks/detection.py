"""Detection: boxes of things found by their names, by models of mmdet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ....core.contracts.domain import DomainData, Evaluation
from ....core.contracts.options import option, settle
from ..by_names import ByNames
from ..plans.kinds import DETECTION


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """What a detector's predictions leave out."""

    suppress: str = option(
        "untrained",
        "which names share no thing, the surest alone is kept: those not trained together; all; none",
        choices=("untrained", "all", "none"),
    )

    def __post_init__(self):
        settle(self, "the task detection")


class Detection(ByNames):
    """Things found by their names, as boxes."""

    name = "detection"
    deciding: ClassVar = "AP"
    default_recipe: ClassVar = "faster-rcnn"
    configs: ClassVar = DETECTION
    writes: ClassVar = (".png", ".json")
    options: ClassVar = DetectionOptions

    def score(self, model, data: DomainData, backbone, progress) -> Evaluation:
        """AP and its kin."""
        from ..inference.detection import evaluate_detection

        return evaluate_detection(model, data, progress)

    def look(self, model, data: DomainData, backbone, progress) -> list[dict[str, Any]]:
        """Boxes of each image."""
        from ..inference.detection import predict_detection

        return predict_detection(model, data, progress)

    def notes_on(self, model) -> list[str]:
        """Where it was trained on too few names to tell others."""
        from ..inference.detection import notes_on_names

        return notes_on_names(model)

    def save(
        self, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Pictures, and COCO JSON."""
        from ..inference.saving import save_boxes

        return save_boxes(rows, data, class_names, folder)
