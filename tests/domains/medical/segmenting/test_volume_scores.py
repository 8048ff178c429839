"""Scores of structures: MONAI's definitions by the fixture, and a missed structure that counts."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt.domains.medical.segmenting import case_intervals, case_scores, mean_scores
from vladapt.domains.medical.segmenting.scores import DICE, HD95, SURFACE, structure_scores

NAMES = ("organ", "tumour")


def test_the_definitions_are_those_of_monai(parity):
    reference = parity.reference("clinical_metrics")
    settings, tensors = reference.given, reference.tensors
    truth, found = (tensors[name].numpy() > 0 for name in ("mask_gt", "mask_pred"))
    for tolerance, surface in zip(settings["tolerance"], tensors["monai.nsd"].flatten().tolist(), strict=True):
        dice, distance, share = structure_scores(truth, found, settings["spacing"], tolerance)
        assert dice == pytest.approx(float(tensors["deepmind.dice"]), rel=1e-5)
        assert distance == pytest.approx(float(tensors["monai.hd95"]), rel=1e-5)
        assert share == pytest.approx(surface, rel=1e-5)


def scored(truth, found):
    return case_scores(truth, found, [(1,), (2,)], [(1,), (2,)], (1.0, 2.0, 2.0), 1.0)


def volume(organ=True, tumour=True):
    made = np.zeros((6, 8, 8), np.uint8)
    made[1:4, 1:6, 1:6] = organ
    made[4, 2:5, 2:5] = 2 * tumour
    return made


def test_missing_a_structure_makes_every_score_worse():
    found = scored(volume(), volume())
    missed, invented = scored(volume(), volume(tumour=False)), scored(volume(tumour=False), volume())
    assert mean_scores([found], NAMES) == {DICE: 1, HD95: 0, SURFACE: 1, "dice_organ": 1, "dice_tumour": 1, "missed": 0}
    for wrong in (missed, invented):
        assert wrong.values[1].tolist() == [0, pytest.approx(np.sqrt(6**2 + 16**2 + 16**2)), 0] and set(
            wrong.wrong
        ) == {1}
        means = mean_scores([found, wrong], NAMES)
        assert means[DICE] == 0.75 and means["dice_tumour"] == 0.5 and means[HD95] > 5 and means["missed"] == 1


def test_what_is_neither_there_nor_found_has_no_score():
    without = scored(volume(tumour=False), volume(tumour=False))
    assert np.isnan(without.values[1]).all() and not without.wrong
    assert mean_scores([without, scored(volume(), volume())], NAMES)["dice_tumour"] == 1
    unknown = case_scores(volume(), volume(), [(1,), ()], [(1,), (2,)], (1, 1, 1), 1.0)
    assert np.isnan(unknown.values[1]).all() and "dice_tumour" not in mean_scores([unknown], NAMES)


def test_intervals_draw_patients():
    cases = [scored(volume(), volume(tumour=n % 3 > 0)) for n in range(12)]
    alone, units = case_intervals(cases, NAMES, [str(n) for n in range(12)])
    together, patients = case_intervals(cases, NAMES, [str(n % 3) for n in range(12)])
    assert (units, patients) == (12, 3)
    for found in (alone, together):
        assert found["dice_tumour"][0] <= 8 / 12 <= found["dice_tumour"][1]
    assert np.ptp(together["dice_tumour"]) > np.ptp(alone["dice_tumour"]) > 0
    assert case_intervals(cases[:2], NAMES, ["a", "a"]) == ({}, 1)


def test_scores_that_are_all_alike_claim_no_certainty():
    truth = np.zeros((6, 6, 6), np.uint8)
    truth[2:4, 2:4, 2:4] = 1
    found = np.zeros_like(truth)
    found[2:4, 2:4, 2:5] = 1
    cases = [case_scores(truth, found, ((1,),), ((1,),), (1, 1, 1), 1.0) for _ in range(5)]
    intervals, units = case_intervals(cases, ("core",), [str(number) for number in range(5)])
    assert units == 5 and intervals.keys().isdisjoint({"hd95_mm", "dice", "dice_core"})
    assert intervals["surface_dice"][0] < 1
