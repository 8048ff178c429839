"""Segmentation: a class for every pixel, by names, by models of mmsegmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ....core.contracts import DomainData, Evaluation, LabelMap, OutputKind, Recipe, Use, option, settle
from ....core.errors import ConfigError
from ..plans.kinds import SEGMENTATION
from ._by_names import ByNames, NovelOptions


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions(NovelOptions):
    """What a segmentor starts from."""

    start: str | None = option(
        None, "model of transformers, hf:OWNER/NAME or hf:FOLDER, or a run of one, to start from"
    )

    def __post_init__(self):
        settle(self, "the task segmentation")


class Segmentation(ByNames):
    """Things outlined by their names, as masks."""

    name = "segmentation"
    deciding: ClassVar = "mIoU"
    default_recipe: ClassVar = "fpn"
    configs: ClassVar = SEGMENTATION
    writes: ClassVar = (".png", ".json")
    gives: ClassVar = frozenset({OutputKind.ROWS, OutputKind.MASKS, OutputKind.BOXES})
    options: ClassVar = SegmentationOptions

    def check(self, recipe: Recipe) -> None:
        """And that the start is a model of transformers."""
        super().check(recipe)
        from ..hub_models.starting import source_at

        start = recipe.task_options.get("start")
        if start is not None and source_at(start) is None:
            raise ConfigError(
                f"--start {start}: no model of transformers; give hf:OWNER/NAME, hf:FOLDER, or the run of one"
            )

    def score(self, model, data: DomainData, backbone, progress) -> Evaluation:
        """mIoU and its kin, and what the domain scores besides."""
        from ..inference.segmentation import evaluate_segmentation

        return evaluate_segmentation(model, data, progress, self.domain.mask_scorer(data))

    def look(self, model, data: DomainData, backbone, progress) -> list[dict[str, Any]]:
        """A mask of each class in each image."""
        from ..inference.segmentation import predict_segmentation

        return predict_segmentation(model, data, progress)

    def save(
        self, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Pictures, and mask PNGs."""
        from ..inference.saving import save_maps

        return save_maps(rows, data, class_names, folder)

    def label_map(self, row: Mapping[str, Any], class_names: Sequence[str]) -> LabelMap:
        """Each class by its place among the names, from 1; "background" is none."""
        from ..inference.saving import labels_of

        return labels_of(row, class_names)

    def finder(self, model):
        """A mask of each class in each image of a request."""
        from ..inference.finding import MapFinder

        return MapFinder(model)

    def labels(self, model, rows: list[dict[str, Any]], data: DomainData, use: Use, own: DomainData | None) -> Any:
        """Each class of an image as an object with its outline."""
        from ..labels.asked_for import labels_of_segmentor

        return labels_of_segmentor(model, rows, data, use, own)

    def form(self, model):
        """The graph of a segmentor."""
        from ..exporting.segmentors import HFSegmentor, HFTextSegmentor, HubMaps, Maps, TextMaps

        return {HFSegmentor: HubMaps, HFTextSegmentor: TextMaps}.get(type(model), Maps)(model)
