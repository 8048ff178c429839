"""The open-vocab domain: things found by their names, as boxes or as masks, by models of mmdet and mmsegmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.contracts.domain import Domain, DomainData, Evaluation
from ...core.contracts.errors import ConfigError
from ...core.contracts.options import option, settle
from .data.classes import choose_classes
from .data.few_shot import draw_shots
from .data.novel import hold_out, split_novel
from .vocabulary import described_classes, named_templates

DETECTION, SEGMENTATION = "detection", "segmentation"
DEFAULT_RECIPES = {DETECTION: "faster-rcnn", SEGMENTATION: "fpn"}
UNUSED = {
    "descriptions": "give descriptions with the names, --classes FILE.json",
    "image_size": "images are resized by the config's pipelines; change those",
}
OF_MASKS = ("reduce_zero_label", "background")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options of `OpenVocab.read`, given as `data.NAME` in a recipe."""

    class_names: tuple[str, ...] | None = option(None, "which classes, in which order; names by number where none are")
    reduce_zero_label: bool = option(False, "masks: 0 is no class but what has none, and 1 is the first class")
    background: bool = option(True, "masks of COCO outlines: the pixels outside are a class, the first one")

    def __post_init__(self):
        settle(self)


class OpenVocab(Domain):
    """Open-vocabulary detection and segmentation.

    Both tasks are trained by mmengine's Runner from a packaged config (`recipes`) or the user's own.
    """

    name = "open-vocab"
    tasks = (DETECTION, SEGMENTATION)
    reading = Reading

    def read(self, path: str | Path, task: str, **options: Any) -> DomainData:
        """A set with boxes or masks.

        Args:
            path: file or folder, see `data.detection.read_detection` and `data.segmentation.read_segmentation`.
            task: "detection" or "segmentation".
            options: fields of `Reading`.

        Raises:
            DataError: nothing there that can be read.
            UnknownNameError: no such option. ConfigError: a value that is not usable, or an option of another task.
        """
        from .data.detection import read_detection
        from .data.segmentation import read_segmentation

        reading = self.reading_of(options)
        if task == SEGMENTATION:
            return read_segmentation(path, **vars(reading))
        for name in OF_MASKS:
            if options.get(name) is not None:
                raise ConfigError(f"--set data.{name}: boxes are read without it; omit it, or give --task segmentation")
        return read_detection(path, class_names=reading.class_names)

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

    def owns(self, task: str) -> bool:
        """Both tasks."""
        return True

    def metrics(self, task: str) -> list[str]:
        """The one that decides first."""
        return ["AP", "AP50"] if task == DETECTION else ["mIoU", "pixel_accuracy"]

    def backbone_spec(self, task: str, recipe) -> str:
        """The recipe's, or that of the config where the recipe has the default."""
        from .plans.vision import backbone_of

        own = backbone_of(self._config(task, recipe)["model"])
        return own if own and recipe.backbone == "embedded" else recipe.backbone

    def choose(self, task: str, recipe, data: DomainData) -> DomainData:
        """The classes that are asked for, without novel ones in training, and so many shots of each."""
        if recipe.classes not in (None, "all"):
            data = choose_classes(data, list(self._described(recipe)))
        if recipe.novel:
            if recipe.novel is True:
                raise ConfigError('--novel: name what is tested and not trained, --novel "a,b", or give coco or lvis')
            data = hold_out(data, split_novel(data.class_names, recipe.novel, data.frequency))
        return draw_shots(data, recipe.shots, recipe.seed)

    def read_plan(self, task: str, recipe) -> DomainData | None:
        """The data sets of the user's own config."""
        from .plans.data import read_config_data

        return read_config_data(recipe.plan.to_dict(), task)

    def plan(self, task: str, recipe, data: DomainData, backbone):
        """The packaged config, or the user's own, with this data, these classes and these flags."""
        from .plans.plan import make_plan

        for key, cure in UNUSED.items():
            if recipe[key] is not None:
                raise ConfigError(f"--set {key}={recipe[key]}: {cure}")
        said = {} if recipe.classes in (None, "all") else self._described(recipe)
        return make_plan(self._config(task, recipe), task, recipe, data, said if any(said.values()) else None)

    def evaluate(self, task: str, model, data: DomainData, backbone) -> Evaluation:
        """AP and its kin, or mIoU and its kin."""
        from .tasks.detection import evaluate_detection
        from .tasks.segmentation import evaluate_segmentation

        score = {DETECTION: evaluate_detection, SEGMENTATION: evaluate_segmentation}[task]
        return score(model, data, self.progress)

    def predict(self, task: str, model, data: DomainData, backbone) -> list[dict[str, Any]]:
        """Boxes, or a mask a class, of each image."""
        from .tasks.detection import predict_detection
        from .tasks.segmentation import predict_segmentation

        look = {DETECTION: predict_detection, SEGMENTATION: predict_segmentation}[task]
        return look(model, data, self.progress)

    def save_predictions(
        self, task: str, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Pictures, and COCO JSON or mask PNGs."""
        from .tasks.saving import save_boxes, save_maps

        return {DETECTION: save_boxes, SEGMENTATION: save_maps}[task](rows, data, class_names, folder)

    def set_classes(self, task: str, model, classes: Any) -> tuple[str, ...]:
        """Other names for a model with texts as classes."""
        from .tasks.naming import ask_for, refuse_fixed, with_background

        refuse_fixed(model)
        return ask_for(model, with_background(model, classes))

    def _config(self, task: str, recipe) -> Mapping[str, Any]:
        """The user's config, or the packaged one for the task, with the parts of it that `--set plan...` names."""
        from mmengine import Config

        given = recipe.plan.to_dict() if hasattr(recipe.plan, "to_dict") else dict(recipe.plan)
        if "type" in (given.get("model") or {}):
            return given
        packaged = Config.fromfile(str(self.recipes[DEFAULT_RECIPES[task]]))
        packaged.merge_from_dict(given)
        return packaged.to_dict()

    def _described(self, recipe) -> dict[str, dict[str, list[str]]]:
        """Class name -> {"synonyms", "descriptions"} of `--classes`, empty where nothing is said."""
        return described_classes(recipe.classes)
