"""Questions with images to choose from: by their similarity to the sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ...contracts.items import Questions
from ...errors import DataError
from ...runs.sections import Measure, TableSection, plural
from ..tower_training.comparison import table_of
from .encoding import PairFeatures

KEY = "multiple_choice"
SIDES = {"zero_shot": "Zero-shot", "adapted": "Adapted"}
SHARE = Measure("share of questions answered correctly")


def choice_scores(questions: Questions, features: PairFeatures) -> dict[str, Any]:
    """{"name", "questions": how many, "left_out": how many of which a sample could not be read, "scores": by name}.

    Raises:
        DataError: no question is left, or its sentence is no caption of the right sample.
    """
    row_of = {name: row for row, name in enumerate(features.ids)}
    asked = [each for each in questions.asked if all(option in row_of for option in each.options)]
    if not asked:
        raise DataError(
            f"{questions.name}: every question lacks a sample, which is missing or unreadable; give all of them"
        )
    described = zip(features.image_of_text.tolist(), features.captions)
    text_of = {pair: row for row, pair in enumerate(described)}
    keys = [(row_of[each.options[each.answer]], each.text) for each in asked]
    if (unknown := next((key for key in keys if key not in text_of), None)) is not None:
        raise DataError(
            f"{questions.name}: '{unknown[1]}' is not a caption of {features.ids[unknown[0]]}; read it again"
        )
    texts = torch.tensor([text_of[key] for key in keys])  # (Q,)
    options = torch.tensor([[row_of[option] for option in each.options] for each in asked])  # (Q, O)
    parts = [_scores(features, some, rows) for some, rows in zip(texts.split(1024), options.split(1024))]
    answers = torch.tensor([each.answer for each in asked])
    return {
        "name": questions.name,
        "questions": len(asked),
        "left_out": len(questions.asked) - len(asked),
        "scores": questions.metric(torch.cat(parts), answers, [each.kind for each in asked]),
    }


def _scores(features: PairFeatures, texts: Tensor, images: Tensor) -> Tensor:
    """(Q,) texts and the (Q, O) images of each -> (Q, O)."""
    if features.scores is not None:
        return features.scores.of_texts(texts).gather(1, images)
    return torch.einsum("qd,qod->qo", features.texts[texts], features.images[images])


def choice_section(metrics: Mapping[str, Any]) -> TableSection | None:
    """For the report; None where nothing was asked."""
    if not (told := metrics.get(KEY)):
        return None
    header, rows = _cells(told)
    return TableSection(told["adapted"]["name"], header, rows, _words(told["adapted"]), sub=True)


def choice_table(metrics: Mapping[str, Any]) -> Table | None:
    """For a terminal; None where nothing was asked."""
    if not (told := metrics.get(KEY)):
        return None
    header, rows = _cells(told)
    by_name = {name: dict(zip(header[1:], cells)) for name, *cells in rows}
    table = table_of(told["adapted"]["name"], _words(told["adapted"]), by_name, of=header[0])
    table.min_width = 72  # for the words below
    return table


def _cells(told: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    sides = [side for side in SIDES if told.get(side)]
    names = told["adapted"]["scores"]
    rows = [(name, *(SHARE.text(told[side]["scores"].get(name)) for side in sides)) for name in names]
    return ("Questions", *(SIDES[side] for side in sides)), rows


def _words(told: Mapping[str, Any]) -> str:
    why = "left out, because a sample of theirs is missing or unreadable"
    left_out = f"; {told['left_out']} {why}" if told["left_out"] else ""
    return f"The {SHARE.name}; {plural(told['questions'], 'question')}{left_out}."
