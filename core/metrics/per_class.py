"""Each class by itself: where adaptation helped, and where it hurt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .classification import confusion_matrix


@dataclass(frozen=True)
class ClassRow:
    """Scores of one class; None where the test set cannot tell.

    Attributes:
        name: of the class.
        images: test images of it.
        zero_shot_recall: share of them that zero-shot finds.
        recall: share of them that the adapted model finds.
        precision: share of the adapted model's answers with this name that are right; None if it never answers so.
        f1: harmonic mean of the two.
    """

    name: str
    images: int
    zero_shot_recall: float | None
    recall: float | None
    precision: float | None
    f1: float | None


def per_class_table(
    labels: Tensor, zero_shot_logits: Tensor | None, adapted_logits: Tensor, class_names: Sequence[str]
) -> list[ClassRow]:
    """One row a class, in the order of `class_names`.

    Args:
        labels: (N,) class indices.
        zero_shot_logits: (N, C), or None.
        adapted_logits: (N, C).
        class_names: C names.

    Raises:
        DataError: sizes disagree.
    """
    after = confusion_matrix(adapted_logits, labels, len(class_names))  # (C, C)
    before = None if zero_shot_logits is None else confusion_matrix(zero_shot_logits, labels, len(class_names))
    rows = []
    for c, name in enumerate(class_names):
        hits, images, answers = int(after[c, c]), int(after[c].sum()), int(after[:, c].sum())
        rows.append(
            ClassRow(
                name=name,
                images=images,
                zero_shot_recall=None if before is None else _share(int(before[c, c]), images),
                recall=_share(hits, images),
                precision=_share(hits, answers),
                f1=_share(2 * hits, images + answers) if images else None,
            )
        )
    return rows


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
