"""`eval --holistic`: corruptions, from which images are right under each."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from vladapt.core.contracts.corruption import Corruption
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.judgements import corruptions as module
from vladapt.core.judgements._condition import in_points
from vladapt.core.judgements.corruptions import Corruptions, CorruptionScores
from vladapt.core.metrics.intervals import paired_shares
from vladapt.core.runs.sections import Cell
from vladapt.core.runtime import process

KINDS = (
    Corruption("haze", lambda image, severity, seed: image),
    Corruption("rain", lambda image, severity, seed: image),
)
IMAGES = 200


@pytest.fixture(scope="module")
def right() -> torch.Tensor:
    """180 of 200 clean; haze takes none away, rain 8 a severity."""
    of = torch.ones(11, IMAGES, dtype=torch.bool)
    of[:, :20] = False
    for severity in range(1, 6):
        of[5 + severity, 20 : 20 + 8 * severity] = False
    return of


def scored(right, groups=None, before=None, imagenet=False) -> CorruptionScores:
    return module._scores(list(range(right.shape[1])), KINDS, right, before, groups, imagenet)


def test_means_rises_and_the_severity_from_which_a_kind_costs(right):
    made = scored(right, before=~right)
    assert made.clean == pytest.approx(0.9) and made.clean_zero_shot == pytest.approx(0.1)
    haze, rain = made.kinds["haze"], made.kinds["rain"]
    assert haze.rise == 0 and haze.costs_from is None and haze.mean == pytest.approx(0.9)
    assert rain.accuracy == pytest.approx([0.9 - 0.04 * s for s in range(1, 6)])
    assert rain.rise == pytest.approx(0.12) and rain.rise_interval[0] > 0
    assert made.error == pytest.approx(0.1 + 0.06) and made.rise == pytest.approx(0.06)
    for value, (low, high) in ((made.rise, made.rise_interval), (made.error, made.error_interval)):
        assert low < value < high
    assert made.zero_shot_error == pytest.approx(1 - 0.16) and made.mce is None
    limit = [paired_shares(right[0], right[5 + s]).interval(0.9)[1] for s in range(1, 6)]  # 95 % on one side
    assert next(s for s, high in enumerate(limit, start=1) if high < -0.05) == 2
    assert rain.costs_from == 3  # ten tests are adjusted for
    assert rain.p_values[0] > 0.5 and rain.p_values[4] < 1e-5 and list(rain.p_values) == sorted(rain.p_values)[::-1]


def test_one_wrong_answer_tells_hardly_more_than_none():
    """Shares of 10 conditions that are nearly all 1 have hardly any variance, and their mean would look certain."""
    none, one = torch.ones(11, IMAGES, dtype=torch.bool), torch.ones(11, IMAGES, dtype=torch.bool)
    one[1, 0] = False
    limits = [scored(each).error_interval for each in (none, one)]
    assert limits[0][0] == 0 and 0.015 < limits[0][1] < 1.1 * limits[1][1] < 0.033
    assert [scored(each).kinds["rain"].interval[0] for each in (none, one)] == [pytest.approx(1 - limits[0][1])] * 2


def test_patients_count_and_not_their_images(right):
    few = [f"patient {n // 20}" for n in range(IMAGES)]
    alone, together = scored(right), scored(right, few)
    assert together.kinds["rain"].rise == alone.kinds["rain"].rise
    width = [made.rise_interval[1] - made.rise_interval[0] for made in (alone, together)]
    assert width[1] > 1.5 * width[0]
    assert together.kinds["rain"].costs_from is None


@pytest.mark.parametrize("groups", [None, [f"patient {n // 4}" for n in range(IMAGES)]])
def test_a_kind_that_costs_almost_nothing_leaves_as_much_open_as_one_that_costs_nothing(groups):
    """Where no image differs the interval is that of so many images, and no leap follows with the first."""
    made = []
    for wrong in range(3):
        of = torch.ones(11, IMAGES, dtype=torch.bool)
        of[1, :wrong] = False
        made.append(scored(of, groups).kinds["haze"])
    for one, other in pairwise(made):
        assert all(abs(a - b) < 0.02 for a, b in zip(one.rise_interval, other.rise_interval))
    units = IMAGES if groups is None else IMAGES // 4
    low, high = made[0].rise_interval
    assert low == pytest.approx(-high) and 3 / units < high < 6 / units
    for each in made:
        assert each.rise_interval[0] < each.rise < each.rise_interval[1]


def test_images_of_a_single_patient_have_no_interval_of_a_rise(right):
    made = scored(right, ["patient"] * IMAGES)
    assert made.rise_interval is None and made.kinds["rain"].rise_interval is None
    assert set(made.kinds["rain"].p_values) == {1.0} and made.note() and len(list(made.rows())) == 2


def test_the_images_that_are_wrong_most_often_come_first(right):
    worst = scored(right).worst
    assert worst == [(n, 10) for n in range(10)] and scored(right).times == 10
    only = right.clone()
    only[:, :20] = True
    assert scored(only).pictured()[1][0] == (20, "wrong 5 of 10 times")
    none = scored(torch.ones_like(right))
    assert none.worst == [] and none.pictured() is None
    assert scored(only).worst == [*((n, 5) for n in range(20, 28)), (28, 4), (29, 4)]


def test_what_is_written_is_read_again_and_shown(right):
    made = scored(right, before=~right)
    again = CorruptionScores.from_json(json.loads(json.dumps(made.to_json())))
    assert again.to_json() == json.loads(json.dumps(made.to_json())) and list(again.rows()) == list(made.rows())
    assert [row[0] for row in made.rows()] == ["rain", "haze"] and made.table().row_count == 2
    assert "1 of 2 kinds costs more than 5 points, rain the most" in made.note()
    assert "severity 3" in {row[-1] for row in made.section().rows}
    assert in_points(-1e-9, [-0.0001, 0.2]) == Cell("+0.0", "+0.0 to +20.0")


def test_mce_is_given_for_imagenet_with_all_its_kinds_alone(right, monkeypatch):
    assert scored(right, imagenet=True).mce is None
    monkeypatch.setattr(module, "PUBLISHED", KINDS)
    monkeypatch.setattr(module, "mean_corruption_error", lambda errors: sum(errors.values()))
    assert scored(right, imagenet=True).mce == pytest.approx(0.1 + 0.22) and scored(right).mce is None


@pytest.mark.parametrize(
    ("published", "classes", "is_it"),
    [("imagenet", 1000, True), ("imagenet_sketch", 1000, False), ("imagenet_v2", 1000, False), ("imagenet", 9, False)],
)
def test_other_sets_of_imagenets_classes_have_no_mce(published, classes, is_it):
    data = SimpleNamespace(published=published)
    assert (
        module._of_imagenet(SimpleNamespace(class_names=[""] * classes, prepared=SimpleNamespace(data=data))) == is_it
    )


def test_a_package_that_lacks_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match="--holistic needs the package 'imagecorruptions-imaug'; install"):
        Corruptions(holistic=True).check_read(SimpleNamespace(kind="labels"))
    Corruptions(holistic=True).check_read(SimpleNamespace(kind="multilabel"))


@pytest.mark.parametrize("value", ["none of them", "0", "-3", "1.5"])
def test_a_number_of_images_is_a_number_or_all(value):
    with pytest.raises(ConfigError, match="give a number of test images"):
        Corruptions(holistic=True, holistic_images=value)
