"""What people wear and carry, picture by picture: a classification with several labels, with tables of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ....core.contracts import PreparedData, Recipe, RunInfo, Scores
from ....core.runs import Measure, Run, TableSection
from ....core.tasks import Classification
from ..care import PeopleHidden, PeopleOptions, care_section, write_card
from ..metrics.attribute_recognition import AttributeRecognition, balanced_rates
from ..pedestrian import cameras_of

RATE = Measure("rate")
OF_CAMERA = {
    "mean_accuracy": "Mean accuracy",
    "instance_accuracy": "Accuracy of images",
    "instance_f1": "F1 of images",
}


class Attributes(Classification):
    """Attributes of people, by all methods of classification that learn several labels per image."""

    name = "attributes"
    options: ClassVar = PeopleOptions

    def hidden(self, recipe: Recipe, prepared: PreparedData, info: RunInfo) -> RunInfo | None:
        """Nobody's picture and no file is shown or named, unless the user says `--show-people`."""
        if recipe.redact or prepared.backbone is None:
            return super().hidden(recipe, prepared, info)
        shown = recipe.task_options.get("show_people", False)
        return None if shown else PeopleHidden.of(prepared.data, info.skipped).info(info)

    def finish(self, run: Run, info: RunInfo, prepared: PreparedData, metrics: Mapping[str, Any]) -> None:
        if prepared.backbone is not None:
            after = metrics["adapted"]
            said = [f"{words}: {after[key]:.1%}." for key, words in OF_CAMERA.items() if key in after]
            write_card(run.path, info, prepared.data, said)

    def further_sections(self, prepared: PreparedData, scores: Scores) -> list[Any]:
        """A table per attribute and, where pictures name cameras, one per camera; both go into the metrics too."""
        if scores.labels is None or scores.labels.ndim != 2:
            return []
        sections = [self._of_attributes(prepared.class_names, scores)]
        cameras = cameras_of(getattr(prepared, "test_items", ()))
        if len(set(cameras) - {""}) > 1:
            sections.append(self._of_cameras(cameras, prepared.class_names, scores))
        return [*sections, care_section()]

    def _of_attributes(self, names, scores: Scores) -> TableSection:
        before = _rates(scores.zero_shot_logits, scores.labels)
        after, rows, kept = _rates(scores.adapted_logits, scores.labels), [], {}
        for place, name in enumerate(names):
            found, passed = after[:, place].tolist()
            mean = (found + passed) / 2
            old = None if before is None else float(before[:, place].mean())
            kept[name] = {"recall": _known(found), "specificity": _known(passed), "mean_accuracy": _known(mean)}
            change = [] if before is None else [RATE.text(old), RATE.change(_known(old), _known(mean))]
            rows.append((name, RATE.text(found), RATE.text(passed), RATE.text(mean), *change))
        scores.metrics["attributes"] = kept
        header = ("Attribute", "Found", "Rightly absent", "Mean accuracy")
        header += () if before is None else ("Zero-shot", "Change")
        note = (
            "Found: share of the people with it for whom it is predicted. Rightly absent: share of those without it "
            "for whom it is not. Mean accuracy is the mean of the two; –: the test images cannot tell."
        )
        return TableSection("Attribute by attribute", header, rows, note)

    def _of_cameras(self, cameras: list[str], names, scores: Scores) -> TableSection:
        metric, rows, kept = AttributeRecognition(), [], {}
        for camera in sorted(set(cameras)):
            of = [place for place, each in enumerate(cameras) if each == camera]
            values = metric.values(scores.adapted_logits[of], scores.labels[of], names)
            kept[camera] = {"images": len(of), **values}
            rows.append((camera or "unknown", len(of), *(RATE.text(values.get(key)) for key in OF_CAMERA)))
        scores.metrics["cameras"] = kept
        note = "Scores of the adapted model. It fails more often on cameras with lower numbers."
        return TableSection("Camera by camera", ("Camera", "Images", *OF_CAMERA.values()), rows, note)


def _rates(logits: Tensor | None, labels: Tensor) -> Tensor | None:
    """(2, C) of `balanced_rates`."""
    return None if logits is None else balanced_rates(logits > 0, labels == 1, ~labels.isnan())


def _known(value: float | None) -> float | None:
    return None if value is None or value != value else value
