"""One answer per patient: pooled probabilities, and a calibration of rows pooled in the same way."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.confidence.calibration import Calibration
from vladapt.core.confidence.patients import Pooling, pooled
from vladapt.core.errors import DataError
from vladapt.core.metrics.intervals import units_of

NAMES = ("well", "sick")
UNIT = torch.tensor([0, 0, 1])


def drawn(
    patients: int, each: int, seed: int = 0, spread: float = 1.5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (N, 2), labels and patients, whose images share an error."""
    draw = torch.Generator().manual_seed(seed)
    patient = torch.arange(patients).repeat_interleave(each)
    labels = (torch.rand(patients, generator=draw) < 0.3).long()[patient]
    shared = spread * torch.randn(patients, generator=draw)[patient]
    odds = 2.0 * (2 * labels - 1) + shared + torch.randn(len(patient), generator=draw)
    return torch.stack((torch.zeros_like(odds), odds), dim=1), labels, patient


def calibration_of(patients: int, each: int, seed: int = 0) -> Calibration:
    logits, labels, patient = drawn(patients, each, seed)
    return Calibration.of_rows(logits, labels, NAMES, "rows", groups=patient)


def test_probabilities_of_a_patient_are_pooled():
    probs = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]], dtype=torch.float64)
    assert pooled(probs, UNIT, 2, "mean").flatten().tolist() == pytest.approx([0.6, 0.4, 0.1, 0.9])
    largest = Pooling("max", False, finding=1).logits(probs, UNIT, 2).softmax(dim=1)
    assert largest[:, 1].tolist() == pytest.approx([0.6, 0.9])
    mean = Pooling("mean", False, finding=1).logits(probs, UNIT, 2).softmax(dim=1)
    assert mean[:, 1].tolist() == pytest.approx([0.4, 0.9])
    several = Pooling("max", True).logits(probs, UNIT, 2).sigmoid()
    assert several.tolist()[0] == pytest.approx([0.8, 0.6])
    three = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6]], dtype=torch.float64)
    assert Pooling("mean", False).logits(three, UNIT, 2).softmax(dim=1)[0].tolist() == pytest.approx([0.3, 0.3, 0.4])


@pytest.mark.parametrize("how", ["mean", "max"])
def test_pooled_probabilities_are_calibrated_anew(how):
    """Plain means are too timid or too sure, the largest of many too high; after it they are as often right."""
    pooling, of_images = Pooling(how, False, finding=1), calibration_of(400, 8)
    of_patients = pooling.calibration(of_images)
    logits, labels, patient = drawn(4000, 8, seed=1)
    unit, units = units_of(patient, len(patient))
    rows, truth = pooling.logits(of_images.probabilities(logits), unit, units), labels[::8] == 1
    plain, anew = rows.softmax(dim=1)[:, 1], of_patients.probabilities(rows)[:, 1]
    assert of_patients.labels.tolist() == of_images.labels[::8].tolist() and len(of_patients.logits) == 400
    assert abs(float(anew.mean()) - float(truth.double().mean())) < 0.02
    assert float((anew - truth.double()).square().mean()) < float((plain - truth.double()).square().mean())
    if how == "max":
        assert float(plain.mean()) > float(truth.double().mean()) + 0.05


def test_sets_are_of_patients():
    sets = Pooling("mean", False, finding=1).calibration(calibration_of(60, 5)).conformal(0.9)
    logits, labels, patient = drawn(2000, 5, seed=1)
    pooling, of_images = Pooling("mean", False, finding=1), calibration_of(60, 5)
    rows = pooling.calibration(of_images).probabilities(
        pooling.logits(of_images.probabilities(logits), *units_of(patient, len(patient)))
    )
    held = sets.sets(rows)[torch.arange(2000), labels[::5]]
    assert float(held.double().mean()) > 0.87


def test_labels_that_nobody_knows_stay_unknown():
    labels = torch.tensor([[1.0, torch.nan], [1.0, 0.0], [0.0, torch.nan], [torch.nan, torch.nan]] * 5)
    patient = torch.arange(5).repeat_interleave(4) * 10 + torch.tensor([0, 0, 1, 1] * 5)
    rows = Calibration.of_rows(torch.randn(20, 2), labels, ("a", "b"), "rows", groups=patient)
    made = Pooling("max", True).calibration(rows).labels
    assert made[0].tolist() == [1, 0] and made[1, 0] == 0 and made[1, 1].isnan() and made.shape == (10, 2)


def test_patients_with_two_labels_are_counted_and_refused():
    logits, labels, patient = drawn(20, 3)
    labels[0], labels[3] = 1 - labels[0], 1 - labels[3]
    rows = Calibration.of_rows(logits, labels, NAMES, "rows", groups=patient)
    with pytest.raises(DataError, match="2 of 20 groups of the calibration rows have images of different labels"):
        Pooling("mean", False, finding=1).calibration(rows)


def test_rows_without_patients_are_refused():
    logits, labels, _ = drawn(20, 3)
    rows = Calibration.of_rows(logits, labels, NAMES, "rows")
    with pytest.raises(DataError, match=r"one image per patient, as far as is known; fit again .*--group-column"):
        Pooling("mean", False, finding=1).calibration(rows)
