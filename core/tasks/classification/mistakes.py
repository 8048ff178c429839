"""The mistakes of a classification that it is surest of, and why it made them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ...contracts.adapter import Adapter
from ...contracts.items import Decoded
from ...contracts.prepared import PreparedData, on_adapted
from ...errors import DataError
from ...explanation.nearest import Example, LabelledImages
from ...metrics.classification import top_label_mistakes, top_mistakes
from ...runs.sections import MistakeSection, Reasons
from .explaining import Asked, Explainer
from .results import ClassificationResults, Explain

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
    prepared: PreparedData,
    adapter: Adapter,
    labelled: LabelledImages | None,
    features: Tensor,
    decoded: Callable[[int], Decoded] | None,
    picture_of: Callable[[Example], Decoded | None],
) -> Explain:
    """What explains scored rows.

    Args:
        labelled: the images that the adapter learned from, or None.
        features: (N, D), of the rows that were scored, by the towers of `prepared`.
        decoded: a row -> its decoded image; None: there are no images.
        picture_of: a labelled image -> its decoded picture, or None.
    """

    def explain(asked: Sequence[tuple[int, int]]) -> tuple[Sequence[Reasons], str]:
        towers, transform, moved = None, None, on_adapted(prepared, adapter)
        if prepared.backbone is not None:
            towers = moved.backbone
            transform = prepared.domain.transforms(towers, False, prepared.task)
        explainer = Explainer(adapter, towers, labelled, picture_of, transform, quick=True)
        images = [
            Asked(
                None if decoded is None else lambda row=row: decoded(row),
                target,
                features[row] if moved is prepared else None,
            )
            for row, target in asked
        ]
        reasons = explainer.reasons(images, prepared.reporter, EXAMPLES)
        exact = any(each.examples_add is not None for each in reasons)
        return [each.shown() for each in reasons], explainer.note(exact)

    return explain


def picture_in(prepared: PreparedData) -> Callable[[Example], Decoded | None]:
    """What decodes the labelled images of a fit, which are among its data; None of one that cannot be read."""
    items = {item.id: item for item in prepared.data.items}

    def picture(example: Example) -> Decoded | None:
        try:
            return None if prepared.backbone is None else prepared.data.load(items[example.id])
        except (DataError, KeyError):
            return None

    return picture
