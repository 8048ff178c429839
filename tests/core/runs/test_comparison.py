"""The verdict on a classifier, told from metrics.json."""

from __future__ import annotations

import pytest

from vladapt.core.judgements.baselines import BaselineComparison


def told(p_value: float, difference: float = 0.1, floor: float = 0.0001) -> BaselineComparison:
    """An adapted model that is `difference` above zero-shot, and above the largest class beyond chance."""
    baselines = {
        "zero_shot": {"accuracy": 0.6, "difference": difference, "interval": [0.0, 0.2], "p_value": p_value},
        "largest_class": {"accuracy": 0.3, "difference": 0.4, "interval": [0.3, 0.5], "p_value": floor, "class": "a"},
    }
    metrics = {"adapted": {"accuracy": 0.6 + difference}, "deciding": "accuracy", "baselines": baselines}
    return BaselineComparison.from_json({**metrics, "test_images": 100, "class_range": [25, 25]})


@pytest.mark.parametrize(
    ("p_value", "difference", "title"),
    [
        (0.049, 0.1, "The gain is more than chance"),
        (0.051, 0.1, "Could be chance"),
        (0.051, -0.1, "Could be chance"),
        (0.049, -0.1, "Adaptation made it worse, by more than chance"),
        (1.0, 0.0, "No difference"),
    ],
)
def test_a_difference_is_more_than_chance_below_five_percent(p_value, difference, title):
    assert told(p_value, difference).section().title == title


def test_a_model_that_is_not_shown_to_beat_guessing_is_not_good_whatever_its_gain():
    section = told(0.001, floor=0.051).section()
    assert section.tone == "open" and section.title == "Not shown to be better than always answering “a”"
