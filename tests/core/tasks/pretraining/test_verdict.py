"""Verdicts on a training on pairs: a gain is told from chance, traps are pointed out."""

from __future__ import annotations

import pytest

from vladapt.core.tasks.retrieval.comparison import RetrievalComparison
from vladapt.core.tasks.retrieval.report import warnings_of_training

GAIN = {"gained": 30, "lost": 1, "p_value": 1e-6}
LOSS = {"gained": 1, "lost": 30, "p_value": 1e-6}
CHANCE = {"gained": 3, "lost": 2, "p_value": 0.9}
ABOVE, AT_CHANCE = [0.3, 0.5], [0.001, 0.02]


def retrieval(image_to_text=GAIN, text_to_image=GAIN) -> dict:
    tests = {"image_to_text": image_to_text, "text_to_image": text_to_image}
    return {"adapted": {"image_to_text/r1": 0.4}, "mcnemar": tests}


def intervals(before, after, images: int = 200) -> dict:
    """Of both directions alike."""
    sides = ("image_to_text", "text_to_image")
    both = {key: dict.fromkeys(sides, bounds) for key, bounds in (("zero_shot", before), ("adapted", after)) if bounds}
    return {"adapted": {"image_to_text/r1": 0.4}, "test_images": images, "intervals": both}


@pytest.mark.parametrize(
    ("tests", "tone", "title"),
    [
        ((GAIN, GAIN), "good", "The gain is more than chance"),
        ((GAIN, CHANCE), "good", "The gain is more than chance, at image to text"),
        ((CHANCE, GAIN), "good", "The gain is more than chance, at text to image"),
        ((LOSS, LOSS), "bad", "The training made it worse, by more than chance"),
        ((CHANCE, LOSS), "bad", "The training made it worse at text to image, by more than chance"),
        ((GAIN, LOSS), "bad", "Better at image to text, worse at text to image, both by more than chance"),
        ((CHANCE, CHANCE), "open", "Could be chance"),
    ],
)
def test_gains_and_losses_of_both_directions_make_one_verdict(tests, tone, title):
    compared = RetrievalComparison.from_json(retrieval(*tests))
    verdict = compared.section()
    assert (verdict.tone, verdict.title, verdict.text) == (tone, title, compared.sentence)


def test_without_scores_before_or_at_all_nothing_is_judged():
    assert RetrievalComparison().section().title == "Not measured"
    assert RetrievalComparison.from_json({"adapted": None}).section().title == "Not measured"
    alone = RetrievalComparison.from_json({"adapted": {"image_to_text/r1": 0.4}, "mcnemar": None}).section()
    assert (alone.tone, alone.title) == ("open", "Nothing to compare with")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (AT_CHANCE, ABOVE, "Before the training, finding"),
        (ABOVE, AT_CHANCE, "After the training, finding"),
        (AT_CHANCE, AT_CHANCE, "Before and after the training, finding"),
        (None, AT_CHANCE, "After the training, finding"),
        (ABOVE, ABOVE, None),
    ],
)
def test_guessing_is_told_before_and_after(before, after, said):
    found = warnings_of_training(RetrievalComparison.from_json(intervals(before, after)), [], [])
    assert len(found) == (said is not None)
    if said:
        assert found[0].startswith(said) and "guessing among 200 images" in found[0]


def test_one_direction_above_chance_is_no_guessing():
    metrics = intervals(AT_CHANCE, ABOVE)
    metrics["intervals"]["zero_shot"]["text_to_image"] = ABOVE
    assert warnings_of_training(RetrievalComparison.from_json(metrics), [], []) == []


def test_a_small_test_set_says_so_once():
    (said,) = warnings_of_training(RetrievalComparison.from_json(intervals(ABOVE, ABOVE, images=40)), [], [])
    assert "The test set has 40 images, fewer than 100" in said
    known = ["The test set has 40 images; with fewer than 100 the interval is wide."]
    assert warnings_of_training(RetrievalComparison.from_json(intervals(ABOVE, ABOVE, images=40)), [], known) == []


@pytest.mark.parametrize(("losses", "told"), [((3.0, 2.0), 0), ((2.0, 3.0), 1), ((2.0, 2.0), 1), ((2.0,), 0), ((), 0)])
def test_a_loss_that_does_not_fall_is_told(losses, told):
    found = warnings_of_training(RetrievalComparison(), [{"loss": value} for value in losses], [])
    assert len(found) == told
    if told:
        assert found[0].startswith(f"The loss did not fall: 2 in the first epoch, {losses[-1]:.4g} in the last.")
