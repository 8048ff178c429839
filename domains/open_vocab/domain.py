"""The open-vocab domain: things found by their names, as boxes or as masks, by models of mmdet and mmsegmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.contracts.domain import Domain, DomainData
from ...core.contracts.errors import UnknownNameError, did_you_mean
from .vocabulary import named_templates

DETECTION, SEGMENTATION = "detection", "segmentation"
READING = {
    DETECTION: ("class_names",),
    SEGMENTATION: ("class_names", "reduce_zero_label", "background"),
}


class OpenVocab(Domain):
    """Open-vocabulary detection and segmentation.

    Both tasks (`tasks/`) are trained by mmengine's Runner from a packaged config (`recipes`) or the user's own.
    """

    name = "open-vocab"
    tasks = (DETECTION, SEGMENTATION)

    def read(self, path: str | Path, task: str, **options: Any) -> DomainData:
        """A set with boxes or masks.

        Args:
            path: file or folder, see `data.detection.read_detection` and `data.segmentation.read_segmentation`.
            task: "detection" or "segmentation".
            options: `class_names`; of masks also `reduce_zero_label` and `background`.

        Raises:
            DataError: nothing there that can be read. UnknownNameError: no such option.
        """
        from .data.detection import read_detection
        from .data.segmentation import read_segmentation

        for option in options:
            if option not in READING[task]:
                raise UnknownNameError(f"--set data.{option}: {did_you_mean(option, READING[task])}")
        if isinstance(options.get("class_names"), str):
            options["class_names"] = [name.strip() for name in options["class_names"].split(",")]
        return {DETECTION: read_detection, SEGMENTATION: read_segmentation}[task](path, **options)

    def sample(self, task: str) -> DomainData:
        """Drawn shapes of 16 kinds, every colour with every shape; no download."""
        from .shapes import shapes_folder

        data = self.read(shapes_folder(), task)
        data.name, data.licence = "shapes", "CC0-1.0"
        data.notes = [*data.notes, "These images are drawn, not photographs."]
        return data

    def templates(self, task: str) -> list[str]:
        """What a class is asked by."""
        return named_templates("photo")
