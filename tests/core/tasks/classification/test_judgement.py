"""The verdict compares with the strongest baseline, by the metric that fits the classes, and praises no guess."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vladapt import FeatureSet
from vladapt.core.contracts.features import TextClassifier
from vladapt.core.contracts.judgement import Scores
from vladapt.core.judgements.baselines import BaselineComparison, Baselines, compared
from vladapt.core.metrics import classification_metrics, multilabel_metrics
from vladapt.core.metrics.score_intervals import Aurocs, auroc_difference
from vladapt.core.registry import build_adapter
from vladapt.core.tasks.classification.contest import Tested as _Tested
from vladapt.core.tasks.classification.scoring import fitted_probe, metrics_table, warnings_of

NAMES = ["neutrophil", "monocyte", "basophil"]


def answers(labels, recall, seed):
    """Logits that are right on a share of each class, and say the next class elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor(recall)[labels]
    right = torch.rand(len(labels), generator=generator) < share
    said = torch.where(right, labels, (labels + 1) % len(recall))
    return torch.nn.functional.one_hot(said, len(recall)).float() * 3


def metrics(labels, adapted, zero_shot=None, probe=None, groups=None):
    def scores(logits):
        return None if logits is None else classification_metrics(logits, labels, len(NAMES))

    found = {"zero_shot": scores(zero_shot), "adapted": scores(adapted), "test_images": len(labels)}
    return found | compared(Scores(labels, zero_shot, adapted, found, groups, probe), NAMES).to_json()


def verdict(found):
    return BaselineComparison.from_json(found).sentence


def verdict_section(found):
    return BaselineComparison.from_json(found).section()


EQUAL = torch.arange(240) % 3
UNEQUAL = torch.repeat_interleave(torch.arange(3), torch.tensor([200, 40, 20]))


def test_equal_classes_are_judged_by_accuracy_and_unequal_ones_by_balanced_accuracy():
    recall = (0.9, 0.8, 0.8)
    equal, unequal = (metrics(labels, answers(labels, recall, 0), answers(labels, (0.5, 0.4, 0.4), 1))
                      for labels in (EQUAL, UNEQUAL))  # fmt: skip
    assert equal["deciding"] == "accuracy" and "McNemar’s test, p" in verdict(equal)
    assert unequal["deciding"] == "balanced_accuracy" and "score test class by class" in verdict(unequal)
    assert "the classes of the test set are unequal (20 to 200 images)" in verdict(unequal)
    assert unequal["baselines"]["largest_class"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert unequal["baselines"]["largest_class"]["accuracy"] == pytest.approx(200 / 260)


def test_the_strongest_baseline_is_the_one_to_beat():
    weak, strong = answers(EQUAL, (0.5, 0.5, 0.5), 1), answers(EQUAL, (0.95, 0.95, 0.95), 2)
    adapted = answers(EQUAL, (0.8, 0.8, 0.8), 3)
    by_probe = metrics(EQUAL, adapted, zero_shot=weak, probe=strong)
    assert by_probe["strongest"] == "linear_probe"
    assert verdict_section(by_probe).title == "A linear probe on the same images does better, by more than chance"
    assert "Against zero-shot" in verdict_section(by_probe).text
    same = metrics(EQUAL, adapted, zero_shot=weak, probe=adapted)
    assert verdict_section(same).title == "No difference"
    close = metrics(EQUAL, adapted, zero_shot=weak, probe=answers(EQUAL, (0.81, 0.81, 0.81), 4))
    assert verdict_section(close).title.startswith("Better than zero-shot, but not shown to be better than a linear")
    ahead = metrics(EQUAL, strong, zero_shot=weak, probe=adapted)
    assert (verdict_section(ahead).tone, ahead["strongest"]) == ("good", "linear_probe")


@pytest.mark.parametrize("labels", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_what_guessing_would_reach_is_not_praised(labels):
    generator = torch.Generator().manual_seed(0)
    guessed = torch.randn(len(labels), 3, generator=generator)
    worse = answers(labels, (0.05, 0.05, 0.05), 1)
    found = metrics(labels, guessed, zero_shot=worse)  # a gain over zero-shot, and yet a guess
    assert (
        found["baselines"]["zero_shot"]["p_value"] < 0.05
        and BaselineComparison.from_json(found).above_guessing is False
    )
    assert verdict_section(found).title == "Not shown to be better than always answering “neutrophil”"
    assert verdict_section(found).tone == "open"
    probed = metrics(labels, guessed, zero_shot=worse, probe=answers(labels, (0.8, 0.8, 0.8), 2))
    assert probed["strongest"] == "linear_probe" and "Against always answering “neutrophil”" in verdict(probed)


def test_always_the_largest_class_is_not_praised_for_its_accuracy():
    largest = torch.nn.functional.one_hot(torch.zeros_like(UNEQUAL), 3).float()
    found = metrics(UNEQUAL, largest, zero_shot=answers(UNEQUAL, (0.1, 0.1, 0.1), 1))
    assert found["adapted"]["accuracy"] > found["zero_shot"]["accuracy"] + 0.5
    assert "Not shown to be better than always answering" in verdict(found)


def test_groups_widen_every_interval_and_are_counted():
    groups = tuple(str(i // 20) for i in range(240))
    right = torch.rand(12, generator=torch.Generator().manual_seed(5)).lt(0.7).repeat_interleave(20)
    logits = torch.nn.functional.one_hot(torch.where(right, EQUAL, (EQUAL + 1) % 3), 3).float()
    other = answers(EQUAL, (0.55, 0.55, 0.55), 6)
    alone, grouped = (metrics(EQUAL, logits, zero_shot=other, groups=each) for each in (None, groups))
    assert "test_groups" not in alone and grouped["test_groups"] == 12
    for name, (low, high) in alone["metric_intervals"]["adapted"].items():
        wide = grouped["metric_intervals"]["adapted"][name]
        assert wide[1] - wide[0] > 1.5 * (high - low), name
    assert grouped["mcnemar"]["p_value"] > alone["mcnemar"]["p_value"]
    assert "McNemar’s test over 12 groups" in verdict(grouped)
    assert metrics_table(grouped).title == "240 test images of 12 groups, accuracy decides"
    said = " ".join(warnings_of(BaselineComparison.from_json(grouped), EQUAL, NAMES, []))
    assert "240 test images come from only 12 groups" in said


def test_few_images_of_a_class_are_said():
    unequal = BaselineComparison.from_json(metrics(UNEQUAL, answers(UNEQUAL, (0.9, 0.9, 0.9), 0)))
    few = warnings_of(unequal, UNEQUAL, NAMES, [])
    assert any(said.startswith("Fewer than 30 test images: basophil (20).") for said in few)
    many = BaselineComparison.from_json(metrics(EQUAL, answers(EQUAL, (0.9, 0.9, 0.9), 0)))
    assert not any("Fewer than 30" in said for said in warnings_of(many, EQUAL, NAMES, []))


@pytest.mark.parametrize(("recall", "at_chance"), [(1 / 3, True), (0.8, False)])
def test_a_fit_notes_that_zero_shot_is_at_chance(recall, at_chance):
    zero_shot, adapted = answers(EQUAL, (recall,) * 3, 5), answers(EQUAL, (0.9,) * 3, 6)
    values = {"zero_shot": classification_metrics(zero_shot, EQUAL, 3)}
    values["adapted"] = classification_metrics(adapted, EQUAL, 3)
    computed = Baselines().compute(
        SimpleNamespace(
            scores=Scores(EQUAL, zero_shot, adapted, values), class_names=NAMES, deciding="", metrics=values
        )
    )
    assert ("cannot be told from guessing among 3 classes" in computed.note()) == at_chance
    assert computed.classes == 3 and "classes" not in computed.to_json()
    assert replace(computed, classes=0).note() == ""  # of a run that is read: it has its notes


def test_several_labels_are_judged_by_macro_auroc_against_guessing_too():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(150, 3, generator=generator) < 0.4).float()
    noise, good = torch.randn(150, 3, generator=generator), torch.randn(150, 3, generator=generator) + 2 * labels
    for adapted, title in ((good, "The gain is more than chance"), (noise, "Not shown to be better than guessing")):
        found = {"adapted": multilabel_metrics(adapted, labels, NAMES), "test_images": 150}
        found |= compared(Scores(labels, noise.flip(0), adapted, found), NAMES).to_json()
        assert found["deciding"] == "auroc" and verdict_section(found).title == title
        assert found["baselines"]["guessing"]["auroc"] == 0.5
        between = found["metric_intervals"]["adapted"]
        assert set(between) >= {"auroc", "mean_average_precision", "macro_f1", "ece", *(f"auroc/{n}" for n in NAMES)}
        low, high = between[f"auroc/{NAMES[0]}"]
        assert low < found["adapted"][f"auroc/{NAMES[0]}"] < high


def rare_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """60 images, one of which has a third label; logits that name it, and little else."""
    generator = torch.Generator().manual_seed(3)
    labels = (torch.rand(60, 3, generator=generator) < 0.4).float()
    labels[:, 2] = torch.arange(60) == 0
    logits = torch.randn(60, 3, generator=generator)
    logits[:, 2] = 9 * labels[:, 2] - 4
    return labels, logits


def test_the_interval_of_several_labels_is_around_the_difference_on_all_images():
    labels, logits = rare_labels()
    adapted, zero_shot = (multilabel_metrics(of, labels, NAMES) for of in (logits, torch.zeros(60, 3)))
    metrics = {"adapted": adapted, "zero_shot": zero_shot}
    found = compared(Scores(labels, torch.zeros(60, 3), logits, metrics), NAMES).to_json()
    for name in ("guessing", "zero_shot"):
        one = found["baselines"][name]
        assert one["difference"] == pytest.approx(adapted["auroc"] - 0.5)
        low, high = one["interval"]
        assert low < one["difference"] < high and (one["p_value"] < 0.05) == (not low <= 0 <= high)
    low, high = found["metric_intervals"]["adapted"][f"auroc/{NAMES[2]}"]
    assert low == pytest.approx(0.025) and high == 1  # one image has the label


def test_a_comparison_of_several_labels_takes_the_difference_on_all_images():
    labels, logits = rare_labels()
    tested, entries = _Tested(), [{"adapter": name, "shots": 4} for name in ("zero-shot", "ape") for _ in range(2)]
    for name, of in (("zero-shot", torch.zeros(60, 3)), ("ape", logits)):
        for seed in range(2):
            moved = of + 0.1 * seed * torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
            tested.add(name, 4, Scores(labels, None, moved if name == "ape" else of, {}))
    (one,) = tested.judged(entries, ("guessing", "zero-shot"))
    fits = tested.logits["ape", 4]
    difference = sum(multilabel_metrics(of, labels, NAMES)["auroc"] for of in fits) / 2 - 0.5
    assert one["difference"] == pytest.approx(difference)
    guessing = auroc_difference(None, Aurocs.of(torch.stack(fits), labels))
    assert one["interval"] == pytest.approx(guessing.interval()) and one["p_value"] == guessing.p_value


def test_the_probe_is_fitted_on_the_same_few_images_and_not_beside_itself():
    labels = torch.arange(30) % 3
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) + 4 * torch.eye(8)[labels]
    support, classifier = (
        FeatureSet(features, labels, tuple(NAMES)),
        TextClassifier(torch.eye(8)[:3], class_names=NAMES),
    )
    ape, itself = build_adapter("ape"), build_adapter("linear-probe")
    probe = fitted_probe(ape, support, classifier, None, 1)
    itself.fit(support, classifier, seed=1)
    assert torch.equal(probe.logits(features), itself.logits(features))
    assert fitted_probe(itself, support, classifier, None, 1) is None
    assert fitted_probe(ape, support.select(labels == 0), classifier, None, 1) is None
    assert fitted_probe(ape, support.select([]), classifier, None, 1) is None
    many = support.select(torch.arange(30).repeat(34))
    assert len(many) > 1000 and fitted_probe(ape, many, classifier, None, 1) is None


def test_a_calibrated_error_stands_beside_no_raw_one():
    sides = {"ece": 0.2, "ece_uncalibrated": 0.2, "accuracy": 0.5}
    adapted = {"ece": 0.03, "ece_uncalibrated": 0.18, "accuracy": 0.6}
    baselines = {"zero_shot": dict(sides), "linear_probe": {**sides, "ece": 0.3, "ece_uncalibrated": 0.3}}
    metrics = {"adapted": adapted, "zero_shot": sides, "baselines": baselines, "test_images": 9}
    table = metrics_table(metrics)
    columns = [list(column.cells) for column in table.columns]
    rows = {row[0]: row[1:] for row in zip(*columns)}
    calibrated, raw = (
        next(row for name, row in rows.items() if name.startswith(key))
        for key in ("Calibration error ", "Calibration error, raw")
    )
    assert calibrated[2] == "0.030" and calibrated[0] in ("", "–") and calibrated[1] in ("", "–")
    assert raw[:3] == ("0.200", "0.300", "0.180")
    adapted.pop("ece_uncalibrated")  # nothing is calibrated: like is beside like
    columns = [list(column.cells) for column in metrics_table(metrics).columns]
    calibrated = next(row for row in zip(*columns) if row[0].startswith("Calibration error "))
    assert calibrated[1:4] == ("0.200", "0.300", "0.030")
