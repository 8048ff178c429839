from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize_scalar

from vladapt.core.confidence import calibration_error
from vladapt.core.confidence.calibration import Calibration, Scaling
from vladapt.core.errors import DataError


def drawn(rows=400, classes=5, sharpness=6.0, seed=0):
    """Logits that are `sharpness` times too large, and labels drawn from the right ones."""
    generator = torch.Generator().manual_seed(seed)
    right = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(right.softmax(dim=1), 1, generator=generator).squeeze(1)
    return sharpness * right, labels


@pytest.mark.parametrize("sharpness", [0.05, 1.0, 40.0])
def test_the_temperature_has_the_least_negative_log_likelihood(sharpness):
    logits, labels = drawn(sharpness=sharpness)

    def loss(log_t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / 10**log_t, labels))

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x
    assert float(Scaling.fit(logits, labels).temperature) == pytest.approx(10**best, rel=1e-4)
    assert float(Scaling.fit(logits, labels).temperature) == pytest.approx(sharpness, rel=0.25)


def test_a_scaling_that_does_worse_on_rows_held_out_is_not_applied():
    """20 rows: logits that are right stay as they are more often than not, and are less wrong on other images than
    scaled ones; those that are six times too large are scaled."""
    kept, changed = 0, 0.0
    for seed in range(20):
        logits, labels = drawn(rows=1020, sharpness=1.0, seed=seed)
        always, asked = (make(logits[:20], labels[:20]) for make in (Scaling.fit, Scaling.fit_if_better))
        kept += float(asked.temperature) == 1
        losses = [torch.nn.functional.cross_entropy(each.logits(logits[20:]), labels[20:]) for each in (always, asked)]
        changed += float(losses[1] - losses[0])
        assert asked.words.startswith("temperature 1, since") == (float(asked.temperature) == 1)
        too_sure = Scaling.fit_if_better(6 * logits[:20], labels[:20])
        assert float(too_sure.temperature) == float(Scaling.fit(6 * logits[:20], labels[:20]).temperature) > 1
    assert kept >= 10 and changed < 0


def test_labels_are_scaled_one_by_one_where_that_helps_rows_held_out():
    generator = torch.Generator().manual_seed(0)
    right = 2 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    labels = (torch.rand(60, 3, generator=generator) < right.sigmoid()).float()
    labels[::7, 1] = torch.nan
    assert torch.equal(Scaling.fit_if_better(right, labels).offset, torch.zeros(3, dtype=torch.float64))
    wrong = Scaling.fit_if_better(5 * right + 4, labels)
    assert torch.equal(wrong.offset, Scaling.fit(5 * right + 4, labels).offset) and bool((wrong.offset != 0).all())


def test_the_calibration_error_falls_on_other_images_and_no_answer_changes():
    logits, labels = drawn(rows=2000)
    scaling = Scaling.fit(logits[:1000], labels[:1000])
    scaled = scaling.logits(logits[1000:])
    assert calibration_error(logits[1000:], labels[1000:]) > 0.1
    assert calibration_error(scaled, labels[1000:]) < 0.05
    assert torch.equal(scaled.argmax(dim=1), logits[1000:].argmax(dim=1))


def test_rows_that_are_all_right_do_not_make_an_answer_certain():
    logits = 3 * torch.eye(4).repeat(5, 1)
    scaling = Scaling.fit(logits, torch.arange(4).repeat(5))
    sure = float(scaling.probabilities(logits, False).max())
    assert sure == pytest.approx(1 - 1 / 22, abs=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 3000.0])
def test_rows_that_are_all_right_leave_room_for_one_mistake_whatever_the_gaps(scale):
    """Rows of very unequal gaps, and logits as large as a Gaussian classifier's: a likelihood of softened targets made
    confidences of 88 % of them, and a bound on the temperature others of 100 %."""
    gaps = torch.linspace(1, 30, 40)
    logits = scale * gaps[:, None] * torch.eye(4).repeat(10, 1)
    labels = torch.arange(4).repeat(10)
    scaling = Scaling.fit_if_better(logits, labels)
    assert float(scaling.probabilities(logits, False).amax(dim=1).mean()) == pytest.approx(41 / 42, abs=1e-6)
    made = Calibration.of_rows(logits, labels, ("a", "b", "c", "d"), "40 images")
    assert made.words.endswith(": all 40 are right, which allows a mean confidence of 41/42")


def test_only_differences_of_logits_count_where_all_rows_are_right_too():
    logits, labels = 3 * torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5)
    shifted = Scaling.fit(logits + 2, labels).temperature
    assert float(shifted) == pytest.approx(float(Scaling.fit(logits, labels).temperature), rel=1e-6)


def test_the_temperature_stays_within_its_bounds():
    logits, labels = drawn(rows=200)
    assert float(Scaling.fit(-logits, labels).temperature) == pytest.approx(1e5)
    assert 1e-6 <= float(Scaling.fit(1e-9 * logits, labels).temperature) <= 1e5


def test_tiny_logits_become_the_confidences_of_large_ones():
    """A strong penalty leaves a linear probe logits of 1e-4; its answers may be as sure as any."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=draw)
    logits = 3 * torch.nn.functional.one_hot(labels, 4) + 2 * torch.randn(200, 4, generator=draw)
    tiny = 1e-4 * logits
    large, small = (Scaling.fit(each, labels).probabilities(each, False) for each in (logits, tiny))
    assert torch.allclose(small, large, atol=1e-4)


def test_weights_count_like_copies():
    logits, labels = drawn(rows=60)
    weights = torch.tensor([1, 2, 3] * 20)
    copied = Scaling.fit(logits.repeat_interleave(weights, 0), labels.repeat_interleave(weights))
    assert torch.allclose(Scaling.fit(logits, labels, weights).temperature, copied.temperature)


def test_each_label_gets_a_slope_and_an_offset():
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(3000, 2, generator=generator, dtype=torch.float64) - 1.5
    labels = (torch.rand(3000, 2, generator=generator) < right.sigmoid()).double()
    labels[::7, 0] = torch.nan
    logits = right * torch.tensor([20.0, 0.1]) + torch.tensor([180.0, -3.0])  # as caches give them
    scaling = Scaling.fit(logits, labels)
    assert torch.allclose(scaling.logits(logits), right, atol=0.5)
    assert calibration_error(scaling.logits(logits), labels) < 0.03 < calibration_error(logits, labels)


def test_a_label_with_too_few_positives_is_left_as_it_is():
    labels = torch.zeros(30, 2)
    labels[:2, 0] = labels[:15, 1] = 1
    scaling = Scaling.fit(torch.randn(30, 2, generator=torch.Generator().manual_seed(1)), labels)
    assert (float(scaling.temperature[0]), float(scaling.offset[0])) == (1.0, 0.0)
    assert float(scaling.offset[1]) != 0.0


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="finite"):
        Scaling.fit(torch.tensor([[0.0, torch.nan]]), torch.tensor([0]))


def test_a_temperature_at_its_limit_is_told_without_an_exponent():
    one = torch.tensor([1000.0], dtype=torch.float64)
    assert Scaling(one, torch.zeros_like(one)).words == "temperature 1000"
    assert Scaling(torch.tensor([2.3149, 41.87]), torch.zeros(2)).words == "temperatures 2.31 to 41.9"
