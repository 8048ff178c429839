"""Divide: each attribute of a picture is asked by itself, by prompts, and so is each garment with its colour.

"Unified Pre-training with Pseudo Texts for Text-To-Image Person Re-identification" (UniPT; Shao et al. 2023, arXiv
2309.01420). The prompts are ours: the released code does not have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.contracts import Backbone
from .questions import NONE, AttributeQuestion

WORN = "a photo of a person wearing {}."
LENGTHS = ("long", "short")


@dataclass(frozen=True)
class QuestionTexts:
    """Texts of all questions in the space of the pictures.

    Args:
        questions: Q of them.
        of_question: (V, D) unit per question, a row per value.
        pairs: (name of a colour's question, of its thing's) -> (colours, values, D) unit.
        logit_scale: of the tower.
    """

    questions: tuple[AttributeQuestion, ...]
    of_question: tuple[Tensor, ...]
    pairs: dict[tuple[str, str], Tensor]
    logit_scale: float

    @classmethod
    def of(
        cls, backbone: Backbone, questions: Sequence[AttributeQuestion], encode: Callable[[list[str]], Tensor]
    ) -> QuestionTexts:
        """Encode the texts.

        Args:
            encode: n texts -> (n, D).
        """
        by_name = {each.name: each for each in questions}
        rows = [torch.stack([_mean(encode(q.prompts(value))) for value in q.values]) for q in questions]
        pairs = {
            (q.name, q.colour_of): _pairs(q, by_name[q.colour_of], encode) for q in questions if q.colour_of in by_name
        }
        return cls(tuple(questions), tuple(rows), pairs, float(backbone.logit_scale))

    def probabilities(self, unit: Tensor) -> dict[str, Tensor]:
        """(N, values) per question, and of each colour and its thing asked together (N, colours, values) by
        "colour, thing": softmax of the scaled cosines.

        Args:
            unit: (N, D) features of pictures.
        """
        found = {
            question.name: (self.logit_scale * unit @ rows.T).softmax(dim=1)
            for question, rows in zip(self.questions, self.of_question, strict=True)
        }
        for (colour, thing), rows in self.pairs.items():
            logits = self.logit_scale * torch.einsum("nd,cvd->ncv", unit, rows)
            found[pair_name(colour, thing)] = logits.flatten(1).softmax(dim=1).view_as(logits)
        return found


def pair_name(colour: str, thing: str) -> str:
    """The key of a colour and its thing asked together."""
    return f"{colour}, {thing}"


def coloured(colour: str, thing: str) -> str:
    """ "red", "a jacket" -> "a red jacket"; a length stands before the colour: "a long red coat"."""
    words = thing.split(" ")
    article = words.pop(0) if words[0] in ("a", "an") else ""
    place = 1 if len(words) > 1 and words[0] in LENGTHS else 0
    words.insert(place, colour)
    if article:
        article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words]).strip()


def _pairs(colours: AttributeQuestion, things: AttributeQuestion, encode: Callable[[list[str]], Tensor]) -> Tensor:
    values = [value for value in things.values if value != NONE]
    texts = [
        WORN.replace("{}", coloured(words[0], things.values[value][0]))
        for words in colours.values.values()
        for value in values
    ]
    return F.normalize(encode(texts).float(), dim=-1).view(len(colours.values), len(values), -1)


def _mean(features: Tensor) -> Tensor:
    """(T, D) -> (D,), the direction of the mean of unit rows."""
    return F.normalize(F.normalize(features.float(), dim=-1).mean(dim=0), dim=-1)
