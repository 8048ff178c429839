"""Questions: one text of several images, one image of several texts, pairs of both."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts.items import Question, Questions
from vladapt.core.errors import DataError
from vladapt.core.tasks.retrieval.encoding import EncodedPairs, PairScores
from vladapt.core.tasks.retrieval.multiple_choice import choice_scores

IMAGES, TEXTS = ("a", "b", "c"), ("one", "two", "three")
WRONG = {"not one": 3, "not two": 4}


def rows(count, seed):
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


VECTORS = rows(5, 1)


def features(**changes):
    own = {"images": rows(3, 0), "texts": VECTORS[:3], "image_of_text": torch.arange(3), "ids": IMAGES}
    return EncodedPairs(**{**own, "captions": TEXTS, **changes})


def asked_scores(questions, *args):
    """What the metric is given, and the record."""
    seen = {}

    def metric(scores, answers, kinds):
        seen.update(scores=scores, answers=answers.tolist(), kinds=list(kinds))
        return {}

    seen["record"] = choice_scores(Questions("Q", questions, metric), *args)
    return seen


def encode(texts):
    return VECTORS[[WRONG[text] for text in texts]]


def test_one_image_is_asked_with_captions_that_are_wrong():
    asked = [Question(("a",), ("one", "not one"), 0, "swap"), Question(("b",), ("not two", "two"), 1, "add")]
    seen = asked_scores(asked, features(), encode)
    images = features().images
    expected = [[images[0] @ VECTORS[[0, 3]].T], [images[1] @ VECTORS[[4, 1]].T]]
    torch.testing.assert_close(seen["scores"], torch.stack([row[0][None] for row in expected]))
    assert seen["answers"] == [0, 1] and seen["kinds"] == ["swap", "add"]


def test_pairs_are_asked_against_pairs():
    seen = asked_scores([Question(("a", "b"), ("one", "two"))], features())
    torch.testing.assert_close(seen["scores"], (features().images[:2] @ VECTORS[:2].T)[None])


def test_a_head_that_looks_at_pairs_scores_them():
    table = torch.arange(9.0).view(3, 3)
    scores = PairScores(table, torch.arange(3), torch.arange(3))
    seen = asked_scores([Question(("c", "a"), ("two", "one"))], features(scores=scores))
    assert seen["scores"].tolist() == [[[7.0, 6.0], [1.0, 0.0]]]
    with pytest.raises(DataError, match="'not one' is not a caption"):
        asked_scores([Question(("a",), ("one", "not one"))], features(scores=scores), encode)


def test_a_question_whose_image_is_missing_is_left_out():
    asked = [Question(("a",), ("one", "two")), Question(("gone",), ("one", "two"))]
    assert asked_scores(asked, features())["record"] == {"name": "Q", "questions": 1, "left_out": 1, "scores": {}}
    with pytest.raises(DataError, match="every question lacks a sample"):
        asked_scores(asked[1:], features())
