"""The mistakes a model is surest of: the ones to look at first, often wrong labels or odd images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .classification import probabilities


@dataclass(frozen=True)
class Mistake:
    """An image called by a wrong class: its row, the true and the predicted class index, the confidence in 0..1."""

    index: int
    true: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class LabelMistake:
    """A label got wrong: image row, label column, whether the label holds, and the confidence in the wrong answer."""

    index: int
    label: int
    present: bool
    confidence: float


def top_mistakes(logits: Tensor, labels: Tensor, k: int) -> list[Mistake]:
    """The `k` most confident wrong answers, the surest first.

    Args:
        logits: (N, C).
        labels: (N,) class indices.
        k: at most how many.

    Raises:
        DataError: as `probabilities`.
    """
    probs, labels = probabilities(logits, labels)
    predicted = logits.detach().cpu().argmax(dim=1)  # (N,)
    confidence = probs.gather(1, predicted[:, None]).squeeze(1)  # (N,)
    wrong = (predicted != labels).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:k]
    return [Mistake(i, int(labels[i]), int(predicted[i]), float(confidence[i])) for i in order.tolist()]


def top_label_mistakes(logits: Tensor, labels: Tensor, k: int) -> list[LabelMistake]:
    """The `k` most confident wrong labels where images have several, the surest first.

    Args:
        logits: (N, C).
        labels: (N, C) 0, 1 or NaN; unknown ones are never a mistake.
        k: at most how many.

    Raises:
        DataError: as `probabilities`.
    """
    probs, labels = probabilities(logits, labels)
    said = probs > 0.5  # as the accuracy counts
    wrong = (~labels.isnan()) & (said != (labels == 1))  # (N, C)
    rows, columns = wrong.nonzero(as_tuple=True)
    confidence = probs.where(said, 1 - probs)[rows, columns]  # (M,)
    order = confidence.argsort(descending=True, stable=True)[:k].tolist()
    return [
        LabelMistake(int(rows[i]), int(columns[i]), bool(labels[rows[i], columns[i]] == 1), float(confidence[i]))
        for i in order
    ]
