"""What a score may owe to images that belong together: both numbers, and the verdict by the lower."""

from types import SimpleNamespace

import pytest
import torch

from vladapt import FeatureSet
from vladapt.core.contracts.features import TextClassifier
from vladapt.core.contracts.groups import PossibleGroups as Found
from vladapt.core.contracts.judgement import JudgedClassifier, Scores
from vladapt.core.contracts.prepared import Shots
from vladapt.core.judgements.baselines import BaselineComparison, compared
from vladapt.core.judgements.possible_groups import GroupProbe, IfGrouped
from vladapt.core.metrics import classification_metrics

NAMES = ("a", "b")
GROUPS, EACH = 30, 8


class Fit(SimpleNamespace):
    """What the judgement sees of a fit."""

    possible_groups = JudgedClassifier.possible_groups


def fit_of(of_patient, of_class, used=False, several=False):
    """A fit on features of patients of one class each, divided at random."""
    draw = torch.Generator().manual_seed(0)
    patient = torch.arange(GROUPS).repeat_interleave(EACH)
    labels = patient % 2
    features = torch.randn(GROUPS, 64, generator=draw)[patient] * of_patient
    features = features + torch.randn(len(labels), 64, generator=draw) + of_class * labels[:, None]
    ids = tuple(f"x{p}/{n}" for n, p in enumerate(patient.tolist()))
    target = torch.nn.functional.one_hot(labels, 2).float() if several else labels
    rows = FeatureSet(features, target, NAMES, ids=ids)
    order = torch.randperm(len(labels), generator=draw)
    parts = [rows.select(order[at : at + size]) for at, size in ((0, 64), (64, 16), (80, 160))]
    groups = {name: name.partition("/")[0] for name in ids}
    data = SimpleNamespace(possible_groups=Found("folder", GROUPS, 0.001, used, groups))
    classifier = TextClassifier.without_texts(NAMES, 64)
    prepared = SimpleNamespace(data=data, classifier=classifier)
    return Fit(prepared=prepared, shots=Shots(*parts), class_names=NAMES, deciding="", seed=1)


def test_what_only_tells_patients_apart_falls_to_chance_in_whole_groups():
    found = GroupProbe().compute(fit_of(of_patient=3.0, of_class=0.0))
    assert found.by_image > 0.8 and found.by_group < 0.65 and found.tone != "good"
    assert (found.option, found.groups, found.images, found.deciding) == ("folder", GROUPS, 240, "accuracy")


def test_what_tells_classes_apart_stays():
    found = GroupProbe().compute(fit_of(of_patient=0.3, of_class=2.0))
    assert found.by_image > 0.9 and found.by_group > 0.9 and found.tone == "good"


def test_several_labels_are_judged_by_auroc():
    found = GroupProbe().compute(fit_of(of_patient=3.0, of_class=0.0, several=True))
    assert found.deciding == "auroc" and found.by_image > found.by_group + 0.15


def test_nothing_is_said_where_the_groups_are_used_or_there_are_none():
    assert GroupProbe().compute(fit_of(3.0, 0.0, used=True)) is None
    fit = fit_of(3.0, 0.0)
    fit.prepared.data.possible_groups = None
    assert GroupProbe().compute(fit) is None


def good_run(doubt):
    """metrics.json of a method that is right nine times of ten."""
    labels = torch.arange(200) % 2
    said = torch.where(torch.arange(200) % 10 == 0, 1 - labels, labels)
    logits = torch.nn.functional.one_hot(said, 2).float() * 3
    metrics = {"zero_shot": None, "adapted": classification_metrics(logits, labels, 2), "test_images": 200}
    metrics |= compared(Scores(labels, None, logits, metrics), NAMES).to_json()
    return metrics if doubt is None else metrics | doubt.to_json()


@pytest.mark.parametrize(
    "by_group, tone, title",
    [
        (0.52, "open", "Not shown, as images may belong together"),
        (0.85, "good", "The gain is more than chance"),
        (0.95, "open", "The gain is more than chance"),
    ],
)
def test_the_lower_number_is_taken_for_the_verdict(by_group, tone, title):
    doubt = IfGrouped("folder", 30, 240, "accuracy", 0.9, by_group, tone)
    found = BaselineComparison.from_json(good_run(doubt))
    section = found.section()
    assert section.title == title and section.title in found.sentence
    both = "90.0% where they are held out one by one, and"
    assert (both in section.text) is (both in found.sentence) is (by_group < 0.9)
    assert BaselineComparison.from_json(good_run(None)).section().title == "The gain is more than chance"


def test_the_record_is_read_as_it_was_written():
    doubt = IfGrouped("stem:^(x)", 30, 240, "accuracy", 0.9, 0.5, "open")
    again = IfGrouped.from_json(good_run(doubt))
    assert again.to_json() == doubt.to_json()
    assert again.section().rows[1][0].endswith("30, as of --group-column stem:^(x)")
