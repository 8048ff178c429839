"""The mistakes of a classification that it is surest of, and why it made them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...contracts.adapter import Adapter
from ...errors import DataError
from ...explanation.nearest import LabelledImages
from ...metrics.classification import top_label_mistakes, top_mistakes
from ...runs.sections import MistakeSection, Reasons
from .explaining import Asked, Explainer
from .scoring import on_adapted

if TYPE_CHECKING:
    from .report import ClassificationResults

MISTAKES = 12
EXAMPLES = 4
"""Labelled images beside each."""


def mistakes_section(results: ClassificationResults) -> MistakeSection:
    """Those that it is surest of, each with its picture where there are any."""
    names, scores = results.class_names, (results.confident_logits, results.labels)
    if results.multilabel:
        answers = None if results.calibration is None else results.calibration.answers(results.adapted_logits)
        said = ("absent", "present")
        wrong = [
            (m, m.label, f"{names[m.label]}: {said[m.present]}", said[not m.present])
            for m in top_label_mistakes(*scores, MISTAKES, answers)
        ]
    else:
        wrong = [(m, m.predicted, names[m.true], names[m.predicted]) for m in top_mistakes(*scores, MISTAKES)]
    pictures = results.pictures
    shown = [(*pictures.of(m.index), true, called, m.confidence) for m, _, true, called in wrong]
    strips, pictured = bool(shown) and pictures.in_parts, results.thumbnails is not None
    reasons, note = [], ""
    if shown and results.explain is not None:
        reasons, note = results.explain([(m.index, target) for m, target, _, _ in wrong])
    return MistakeSection("Most confident mistakes", shown, pictured, strips, reasons, note)


def explained_mistakes(
    prepared, adapter: Adapter, labelled: LabelledImages | None
) -> Callable[[Sequence[tuple[int, int]]], tuple[Sequence[Reasons], str]]:
    """What explains test rows of a fit, (row, class index) each: reasons, and the words above them.

    Args:
        prepared: `Prepared` or `PreparedFeatures`.
    """

    def explain(asked: Sequence[tuple[int, int]]) -> tuple[Sequence[Reasons], str]:
        towers, transform, items = None, None, {item.id: item for item in prepared.data.items}
        moved = on_adapted(prepared, adapter)
        if prepared.backbone is not None:
            towers = moved.backbone
            transform = prepared.domain.transforms(towers, False, prepared.task)
        explainer = Explainer(adapter, towers, labelled, lambda each: picture(each.id), transform, quick=True)
        features = prepared.test.features if moved is prepared else None

        def picture(name: str):
            try:
                return None if prepared.backbone is None else prepared.data.load(items[name])
            except (DataError, KeyError):
                return None

        rows = [
            Asked(
                None if prepared.backbone is None else lambda row=row: prepared.thumbnail(row),
                target,
                None if features is None else features[row],
            )
            for row, target in asked
        ]
        reasons = explainer.reasons(rows, prepared.reporter, EXAMPLES)
        exact = any(each.examples_add is not None for each in reasons)
        return [each.shown() for each in reasons], explainer.note(exact)

    return explain
