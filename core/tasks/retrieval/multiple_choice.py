"""Questions with images or texts to choose from: by their similarity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ...contracts.items import Questions
from ...errors import DataError
from ...runs.sections import Measure, TableSection, plural
from ..tower_training.comparison import table_of
from .encoding import EncodedPairs

KEY = "multiple_choice"
SIDES = {"zero_shot": "Zero-shot", "adapted": "Adapted"}
SHARE = Measure("share of questions answered correctly")


def choice_scores(
    questions: Questions, features: EncodedPairs, encode: Callable[[Sequence[str]], Tensor] | None = None
) -> dict[str, Any]:
    """{"name", "questions": how many, "left_out": how many of which a sample could not be read, "scores": by name}.

    Args:
        encode: texts -> (N, D) unit rows, for texts that are no caption of any sample, as wrong ones are; None: there
            may be none.

    Raises:
        DataError: no question is left, or a text is no caption and cannot be encoded.
    """
    row_of = {name: row for row, name in enumerate(features.ids)}
    asked = [each for each in questions.asked if all(image in row_of for image in each.images)]
    if not asked:
        raise DataError(
            f"{questions.name}: every question lacks a sample, which is missing or unreadable; give all of them"
        )
    text_of = {text: row for row, text in enumerate(features.captions)}
    further = dict.fromkeys(text for each in asked for text in each.texts if text not in text_of)
    vectors = features.texts
    if further:
        if encode is None or features.scores is not None:
            raise DataError(f"{questions.name}: '{next(iter(further))}' is not a caption of any sample; read it again")
        text_of |= {text: len(vectors) + row for row, text in enumerate(further)}
        vectors = torch.cat([vectors, encode(list(further)).to(vectors)])
    images = torch.tensor([[row_of[image] for image in each.images] for each in asked])  # (Q, I)
    texts = torch.tensor([[text_of[text] for text in each.texts] for each in asked])  # (Q, T)
    parts = [_scores(features, vectors, *some) for some in zip(images.split(1024), texts.split(1024))]
    answers = torch.tensor([each.answer for each in asked])
    return {
        "name": questions.name,
        "questions": len(asked),
        "left_out": len(questions.asked) - len(asked),
        "scores": questions.metric(torch.cat(parts), answers, [each.kind for each in asked]),
    }


def _scores(features: EncodedPairs, vectors: Tensor, images: Tensor, texts: Tensor) -> Tensor:
    """The (Q, I) images and the (Q, T) texts of each question -> (Q, I, T)."""
    if features.scores is not None:
        columns = [features.scores.of_texts(of).gather(1, images) for of in texts.T]  # T times (Q, I)
        return torch.stack(columns, dim=2)
    return torch.einsum("qid,qtd->qit", features.images[images], vectors[texts])


def choice_section(metrics: Mapping[str, Any]) -> TableSection | None:
    """For the report; None where nothing was asked."""
    if not (choice := metrics.get(KEY)):
        return None
    header, rows = _cells(choice)
    return TableSection(choice["adapted"]["name"], header, rows, _words(choice["adapted"]), sub=True)


def choice_table(metrics: Mapping[str, Any]) -> Table | None:
    """For a terminal; None where nothing was asked."""
    if not (choice := metrics.get(KEY)):
        return None
    header, rows = _cells(choice)
    by_name = {name: dict(zip(header[1:], cells)) for name, *cells in rows}
    table = table_of(choice["adapted"]["name"], _words(choice["adapted"]), by_name, of=header[0])
    table.min_width = 72  # for the words below
    return table


def _cells(choice: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    sides = [side for side in SIDES if choice.get(side)]
    names = choice["adapted"]["scores"]
    rows = [(name, *(SHARE.text(choice[side]["scores"].get(name)) for side in sides)) for name in names]
    return ("Questions", *(SIDES[side] for side in sides)), rows


def _words(adapted: Mapping[str, Any]) -> str:
    why = "left out, because a sample of theirs is missing or unreadable"
    left_out = f"; {adapted['left_out']} {why}" if adapted["left_out"] else ""
    return f"The {SHARE.name}; {plural(adapted['questions'], 'question')}{left_out}."
