"""Detection: boxes of things found by their names, by models of mmdet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mmengine import Config

from ....core.contracts import DomainData, Evaluation, OutputKind, Recipe, Use, option, settle
from ....core.errors import CapabilityError
from ..plans.kinds import DETECTION
from ._by_names import ByNames, NovelOptions

MODEL = "plan.model."


@dataclass(frozen=True, kw_only=True)
class DetectionOptions(NovelOptions):
    """What a detector goes on from and remembers, and what of its predictions counts."""

    suppress: str = option(
        "untrained",
        "overlapping boxes, of which only the best is kept: of names not trained together; all; none",
        choices=("untrained", "all", "none"),
    )
    dets_per_class: int = option(
        10_000, "LVIS: detections per class, in all test images, that count in fixed AP", low=1, high=10**6
    )
    start: str | None = option(
        None,
        "run, checkpoint of the config's model, or model of transformers (hf:ID or hf:FOLDER) to start from",
    )
    remember: tuple[str, ...] | None = option(
        None, "names, or a file of names, that the start knows and must not forget"
    )
    remember_images: str | None = option(
        None, "folder of images without the new classes, by which to remember", metavar="DIR"
    )
    remember_score: float | None = option(
        None, "score from which what the start finds is learned as a box; 0.5 by default", low=0, high=1
    )
    wise_alpha: float | None = option(
        None,
        "how much of the training to keep: 1 all of it, 0 the weights of the start; by default chosen on val",
        low=0,
        high=1,
    )
    lora_rank: int | None = option(
        None, "rank of the matrices trained in place of the start's weights", low=1, high=4096
    )

    def __post_init__(self):
        settle(self, "the task detection")


class DetectionByNames(ByNames):
    """Things found by their names, as boxes."""

    name = "detection"
    deciding: ClassVar = "AP"
    default_recipe: ClassVar = "faster-rcnn"
    configs: ClassVar = DETECTION
    writes: ClassVar = (".png", ".json")
    gives: ClassVar = frozenset({OutputKind.ROWS, OutputKind.BOXES})
    at_prediction: ClassVar = ByNames.at_prediction | {"threshold", "prompts", "masks_by"}
    options: ClassVar = DetectionOptions
    _drawn_from: float | None = None
    """Score of the boxes of an answer that are drawn; None for the usual one."""

    def filled(self, recipe: Recipe) -> Recipe:
        """With the names to remember in place of a file of them."""
        from ..remembering.fitting import names_to_remember

        recipe = super().filled(recipe)
        names = names_to_remember(recipe.task_options.get("remember"))
        return recipe if names is None else recipe.with_(task_options={**recipe.task_options, "remember": names})

    def check(self, recipe: Recipe) -> None:
        """And that there is a start that knows what is to be remembered."""
        super().check(recipe)
        from ..remembering.fitting import check_options

        check_options(self._remembering(recipe), recipe.task_options, super()._config(recipe), recipe.novel)

    def wanted(self, recipe: Recipe, data: DomainData) -> DomainData:
        """And those to remember."""
        from ..data.remembered import with_remembered

        names = recipe.task_options.get("remember")
        return with_remembered(data, self.asked_for(recipe, data), names) if names else super().wanted(recipe, data)

    def check_data(self, recipe: Recipe, data: DomainData) -> None:
        """Outlines, for a config that learns them."""
        super().check_data(recipe, data)
        from ..plans.plan import check_outlines

        check_outlines(super()._config(recipe), self.configs, data)

    def taught(self, recipe: Recipe, data: DomainData, device, reporter) -> DomainData:
        """With what the detector before finds of the names to remember."""
        from ..remembering.fitting import with_boxes_before

        how = self._remembering(recipe), self._config(recipe)
        return with_boxes_before(*how, data, lambda folder: self.images([folder], recipe), device, reporter)

    def plan(self, recipe: Recipe, data: DomainData, backbone) -> Config:
        """Without options that only the training itself is to know."""
        from ..remembering.fitting import without_options_of_training

        return without_options_of_training(super().plan(recipe, data, backbone))

    def described(self, recipe: Recipe) -> dict[str, Any]:
        """And what the start was told of those to remember."""
        from ..remembering.fitting import described_before

        return {**described_before(self._remembering(recipe)), **super().described(recipe)}

    def train(self, plan: Config, folder: Path, recipe: Recipe, data: DomainData, device, reporter):
        """As low-rank matrices where they are asked for; what is to be remembered is kept afterwards."""
        from ..remembering.fitting import trained_and_kept

        train = partial(super().train, plan, folder, recipe, data, device, reporter)
        return trained_and_kept(train, self._remembering(recipe), self._config(recipe), data, device, reporter)

    def _config(self, recipe: Recipe):
        """And on the model of the start."""
        return self._remembering(recipe).started(super()._config(recipe))

    def _remembering(self, recipe: Recipe):
        """What the recipe says of the start and of the names to remember."""
        from ..remembering.fitting import SURE, Remembering

        options = recipe.task_options
        score = options.get("remember_score")
        return Remembering(
            start=options.get("start"),
            names=tuple(options.get("remember") or ()),
            images=options.get("remember_images"),
            score=SURE if score is None else score,
            wise_alpha=options.get("wise_alpha"),
            lora_rank=options.get("lora_rank"),
            changes=_changes_of_model(recipe),
            backbone=recipe.backbone if recipe.gave("backbone") else None,
            classes=recipe.classes,
        )

    def score(self, model, data: DomainData, backbone, progress) -> Evaluation:
        """AP and its kin."""
        from ..inference.detection import evaluate_detection

        return evaluate_detection(model, data, progress, getattr(model, "memory", None))

    def look(self, model, data: DomainData, backbone, progress) -> list[dict[str, Any]]:
        """Boxes of each image."""
        from ..inference.detection import predict_detection

        return predict_detection(model, data, progress)

    def sure(self, rows: list[dict[str, Any]], threshold: float | None) -> list[dict[str, Any]]:
        """Without boxes that score less."""
        from ..inference.predictions import without_unsure

        return rows if threshold is None else [without_unsure(row, threshold) for row in rows]

    def check_model(self, model, data: DomainData, use: Use, own: DomainData | None) -> None:
        """That it gives outlines where these are asked for: the first image tells."""
        from ..inference.detection import gives_outlines

        super().check_model(model, data, use, own)
        if use.masks and use.masks_by is None and not gives_outlines(model, data):
            raise CapabilityError(
                f"--masks: {use.run.shown} finds boxes alone; omit it, have them outlined (--masks-by hf:MODEL), or "
                "use a run of a recipe with outlines (mask-rcnn, mask2former)"
            )

    def settle_on_val(self, plan: Config, model, data: DomainData, progress) -> None:
        """The score from which on its boxes are labels."""
        from ..inference.detection import confidence_on_val
        from ..inference.running import shown_regions

        chosen = None if shown_regions(model) else confidence_on_val(model, data, progress)
        if chosen is not None:
            plan.vladapt["confidence"] = vars(chosen)

    def labels(self, model, rows: list[dict[str, Any]], data: DomainData, use: Use, own: DomainData | None) -> Any:
        """The sure boxes of each image."""
        from ..labels.asked_for import labels_of_detector

        return labels_of_detector(model, rows, data, use, own)

    def deciding_of(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Of outlines, where boxes were shown."""
        return self.deciding if any(self.deciding in row for row in rows) else f"mask_{self.deciding}"

    def check_use(self, use: Use, command: str) -> None:
        """And that what is to outline boxes does."""
        super().check_use(use, command)
        if use.masks_by is not None:
            from ..inference.outlining import check_segmenter

            check_segmenter(use.masks_by)

    def predict(self, use: Use, reporter):
        """With the names of what is shown."""
        from ..inference.outlining import with_prompt_names

        return super().predict(with_prompt_names(use), reporter)

    def answer(self, use: Use, model, data: DomainData, backbone, progress) -> list[dict[str, Any]]:
        """Of what is shown, where something is; with outlines of the boxes, where a model for them is named."""
        from ..inference.outlining import segmenter_of, with_outlines, with_prompts
        from ..inference.running import outlines_alone

        self._drawn_from = 0.0 if outlines_alone(model) else use.threshold
        data = with_prompts(model, data, use.prompts)
        segmenter = None if use.masks_by is None else segmenter_of(use.masks_by, backbone.device)
        rows = self.look(model, data, backbone, progress)
        return rows if segmenter is None else with_outlines(rows, data, segmenter, progress)

    def notes_on(self, model) -> list[str]:
        """Where it was trained on too few names to tell others."""
        from ..inference.detection import notes_on_names

        return [*super().notes_on(model), *notes_on_names(model)]

    def save(
        self, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Pictures of what was shown, or of boxes from the score on that a user names; and COCO JSON."""
        from ..inference.saving import save_boxes

        return save_boxes(rows, data, class_names, folder, self._drawn_from)

    def finder(self, model):
        """Boxes of each image of a request."""
        from ..inference.finding import BoxFinder, PromptedFinder
        from ..inference.running import takes_prompts

        return (PromptedFinder if takes_prompts(model) else BoxFinder)(model)

    def form(self, model):
        """The graph of a detector."""
        from ..exporting.detectors import BoxForm
        from ..exporting.queries import QueryBoxes
        from ..exporting.texts import TextBoxes
        from ..modules.detectors.hf_detector import HFDetector
        from ..modules.detectors.hf_text_detector import HFTextDetector

        forms = {HFDetector: QueryBoxes, HFTextDetector: TextBoxes}
        return forms.get(type(model), BoxForm)(model)


def _changes_of_model(recipe: Recipe) -> dict[str, Any]:
    """Dotted name inside the config's model -> value, of what was given by `--set plan.model.NAME=VALUE`."""
    changes = {}
    for key in recipe.given:
        if key.startswith(MODEL):
            value: Any = recipe.plan["model"]
            for part in key.removeprefix(MODEL).split("."):
                value = value[int(part)] if isinstance(value, (list, tuple)) else value[part]
            changes[key.removeprefix(MODEL)] = value
    return changes
