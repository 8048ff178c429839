"""Conquer: of the answers about a picture those are kept that are sure enough and agree with one another.

* By score: an answer's probability reaches the least that is asked for.
* A garment and its colour asked together must give the garment and the colour that were told apart; the confidence is
  the lower of both.
* Colours above and below that stand the other way round when the garments are asked with them tell nothing, since
  towers mix up which garment has which colour: both go.
* Of two answers that do not go together (a dress and trousers) the less sure one goes. A colour goes with its garment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch.nn.functional as F
from torch import Tensor

from .divide import WORN, coloured, pair_name
from .questions import NONE, AttributeQuestion


@dataclass(frozen=True)
class AttributeBelief:
    """What is believed of one attribute.

    Args:
        value: of it.
        confidence: probability, 0..1.
    """

    value: str
    confidence: float


def kept_answers(
    questions: Sequence[AttributeQuestion],
    probabilities: Mapping[str, Tensor],
    row: int,
    least: float,
    contradictions: Sequence[tuple[tuple[str, str], tuple[str, str]]],
) -> dict[str, AttributeBelief]:
    """The answers about one picture that survive.

    Args:
        probabilities: as `Asked.probabilities`.
        row: of the picture.
        least: probability from which an answer counts.
        contradictions: pairs of (question, value).
    """
    by_name = {each.name: each for each in questions}
    answers = {name: _best(list(each.values), probabilities[name][row]) for name, each in by_name.items()}
    for each in questions:
        if each.colour_of in by_name:
            _compare(answers, each, by_name[each.colour_of], probabilities, row)
    answers = {name: answer for name, answer in answers.items() if answer.confidence >= least}
    for one, other in contradictions:
        sides = [name for name, value in (one, other) if name in answers and answers[name].value == value]
        if len(sides) == 2:
            answers.pop(min(sides, key=lambda name: answers[name].confidence))
    answers = {name: answer for name, answer in answers.items() if answer.value != NONE}
    return {
        name: answer
        for name, answer in answers.items()
        if by_name[name].colour_of not in by_name or by_name[name].colour_of in answers
    }


def without_mixed_up(
    answers: Sequence[dict[str, AttributeBelief]],
    unit: Tensor,
    questions: Sequence[AttributeQuestion],
    encode: Callable[[list[str]], Tensor],
) -> list[dict[str, AttributeBelief]]:
    """The answers without colours that fit better the other way round.

    Args:
        answers: of N pictures.
        unit: (N, D) their features.
        encode: n texts -> (n, D).
    """
    colours = [each for each in questions if each.colour_of]
    kept = [dict(each) for each in answers]
    for one, other in combinations(colours, 2):
        asked = [
            (row, *_both_ways(each, one, other, questions))
            for row, each in enumerate(answers)
            if one.name in each and other.name in each and each[one.name].value != each[other.name].value
        ]
        if not asked:
            continue
        texts = list(dict.fromkeys(text for _, *both in asked for text in both))
        features = dict(zip(texts, F.normalize(encode(texts).float(), dim=-1), strict=True))
        for row, said, swapped in asked:
            if float(unit[row] @ features[swapped]) > float(unit[row] @ features[said]):
                kept[row] = {name: answer for name, answer in kept[row].items() if name not in (one.name, other.name)}
    return kept


def _both_ways(
    answers: Mapping[str, AttributeBelief], one: AttributeQuestion, other: AttributeQuestion, questions
) -> tuple[str, str]:
    """The sentence of both garments with their colours, and with each other's."""
    by_name = {each.name: each for each in questions}
    words = [each.values[answers[each.name].value][0] for each in (one, other)]
    things = [by_name[each.colour_of].values[answers[each.colour_of].value][0] for each in (one, other)]
    pairs = [[coloured(word, thing) for word, thing in zip(order, things)] for order in (words, words[::-1])]
    said, swapped = (WORN.replace("{}", " and ".join(pair)) for pair in pairs)
    return said, swapped


def _compare(
    answers: dict[str, AttributeBelief], colour: AttributeQuestion, thing: AttributeQuestion, probabilities, row: int
) -> None:
    """Lower the confidence of a colour and its thing to what both asked together give them."""
    together = probabilities[pair_name(colour.name, thing.name)][row]  # (colours, values)
    colours, values = list(colour.values), [value for value in thing.values if value != NONE]
    for question, names, shares in ((colour, colours, together.sum(dim=1)), (thing, values, together.sum(dim=0))):
        said = answers[question.name]
        if said.value == NONE:
            continue
        agrees = names[int(shares.argmax())] == said.value
        share = float(shares[names.index(said.value)]) if agrees else 0.0
        answers[question.name] = AttributeBelief(said.value, min(said.confidence, share))


def _best(values: list[str], shares: Tensor) -> AttributeBelief:
    place = int(shares.argmax())
    return AttributeBelief(values[place], float(shares[place]))
