"""Whether an exported graph answers as the model that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..metrics.classification import check_scores

LARGEST_SHARE = 1e-3
"""Difference that a graph in 32 bits may have, as a share of the range of the logits."""
SAME_ANSWERS = 0.995
"""Share of answers that a graph in 8 bits is to keep."""


@dataclass(frozen=True)
class Agreement:
    """Logits of the same images by the model and by a graph.

    Attributes:
        images: how many.
        difference: largest.
        share: the same, as a share of the range that the model gives.
        same: share of images whose answer is the same; with several labels, share of all answers.
        accuracy: of the model and of the graph, where labels are known; of several labels, over the known ones.
        values: what was compared, one of them.
        answers: what is the same or not.
    """

    images: int
    difference: float
    share: float
    same: float
    accuracy: tuple[float, float] | None = None
    values: str = "logit"
    answers: str = "answers"

    @classmethod
    def of(cls, model: Tensor, graph: Tensor, labels: Tensor | None, thresholds: Tensor | None = None) -> Agreement:
        """Compare (N, C) logits.

        Args:
            labels: (N,), or (N, C) 0/1 with NaN where unknown; None where not known.
            thresholds: (C,) probabilities from which on an image has a label; None where it has one.

        Raises:
            DataError: the model gives NaN or infinity.
        """
        model, graph = model.double().cpu(), graph.double().cpu()
        check_scores([f"image {row + 1} of {len(model)}" for row in range(len(model))], model)
        difference, range_ = float((model - graph).abs().max()), float(model.max() - model.min())
        answers = [_answers(each, thresholds) for each in (model, graph)]
        accuracy = None
        if labels is not None:
            labels = labels.cpu()
            known = ~labels.isnan() if labels.is_floating_point() else torch.ones_like(labels, dtype=torch.bool)
            before, after = (float((each == labels)[known].double().mean()) for each in answers)
            accuracy = (before, after)
        same = float((answers[0] == answers[1]).double().mean())
        return cls(len(model), difference, difference / (range_ or 1.0), same, accuracy)

    @property
    def is_close(self) -> bool:
        """Whether they differ by no more than is usual in 32 bits."""
        return self.share <= LARGEST_SHARE

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able."""
        told = {"images": self.images, "largest_difference": self.difference, f"of_{self.values}_range": self.share}
        told[f"same_{self.answers}"] = self.same
        if self.accuracy is not None:
            told["accuracy"] = {"model": self.accuracy[0], "graph": self.accuracy[1]}
        return told

    @property
    def words(self) -> str:
        """A sentence without its end."""
        return agreement_sentence(self.facts)


def agreement_sentence(facts: Mapping[str, Any]) -> str:
    """The facts of an agreement in a sentence without its end."""
    values, share = next((name[3:-6], share) for name, share in facts.items() if name.startswith("of_"))
    answers, same = next((name[5:], same) for name, same in facts.items() if name.startswith("same_"))
    images = "one image" if facts["images"] == 1 else f"{facts['images']} images"
    text = f"on {images} the largest difference is {share:.1e} of the range of the {values}s, "
    text += f"{same:.1%} of the {answers} are the same"
    if right := facts.get("accuracy"):
        text += f"; {right['model']:.1%} are right with the model, {right['graph']:.1%} with the graph"
    return text


def _answers(logits: Tensor, thresholds: Tensor | None) -> Tensor:
    return logits.argmax(dim=1) if thresholds is None else logits.sigmoid() >= thresholds
