"""Precision at K by finding: the measure, the images that count, the draws of published protocols, and a fit."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import chest_xrays

import vladapt
from vladapt.core.contracts import DomainData, Item, Label, Labels
from vladapt.core.errors import ConfigError
from vladapt.core.metrics import Ranking
from vladapt.core.registry.build import judgements_of, task_class
from vladapt.core.tasks import DomainPairs, Retrieval
from vladapt.domains.medical import Medical
from vladapt.domains.medical.drawn_radiographs import drawn_radiographs
from vladapt.domains.medical.judgements.finding_precision import (
    PROTOCOLS,
    FindingPrecision,
    FindingPrecisions,
    sole_finding,
)
from vladapt.domains.medical.targets import Reported, Viewed
from vladapt.domains.natural import Natural

NAN = math.nan
NAMES = ("No Finding", "Edema", "Mass")


@pytest.mark.parametrize("comparison", chest_xrays.GROUPS[1:], ids=lambda each: each.method)
def test_scores_are_those_of_the_released_code(agrees, comparison):
    agrees(comparison)


# the measure ----------------------------------------------------------------------------------------------------------


def test_precision_counts_the_first_and_of_equal_scores_the_others_first():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.5, 0.5, 0.5, 0.5]])
    found = Ranking.precision_at(scores, torch.tensor([0, 0]), torch.tensor([0, 1, 0, 1]), [1, 2, 3, 9])
    assert {k: of.tolist() for k, of in found.items()} == {
        1: [1, 0], 2: [0.5, 0], 3: [pytest.approx(2 / 3), pytest.approx(1 / 3)], 9: [0.5, 0.5],
    }  # fmt: skip
    own = Ranking.precision_at(scores[:1], torch.tensor([0]), torch.tensor([0, 1, 0, 1]), [1, 3, 4], torch.tensor([0]))
    assert {k: of.tolist() for k, of in own.items()} == {1: [0], 3: [pytest.approx(1 / 3)], 4: [pytest.approx(1 / 3)]}


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_precision_is_that_of_a_sorted_list(seed, k):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(5, 12, generator=generator)
    asked, gallery = torch.randint(3, (5,), generator=generator), torch.randint(3, (12,), generator=generator)
    for row, value in enumerate(Ranking.precision_at(scores, asked, gallery, [k])[k].tolist()):
        order = sorted(range(12), key=lambda place, row=row: -float(scores[row, place]))
        assert value == pytest.approx(sum(int(gallery[place] == asked[row]) for place in order[:k]) / k)


# the images that count ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Labels((0.0, 1.0, 0.0)), "Edema"),
        (Labels((0.0, 1.0, NAN)), None),
        (Labels((0.0, 1.0, 1.0)), None),
        (Labels((NAN, 0.0, 1.0)), "Mass"),
        (Labels((1.0, 0.0, 0.0)), "No Finding"),
        (Labels((0.0, 0.0, 0.0)), None),
        (Label(1), "Edema"),
        (Reported(("t",), None, (NAN, 1.0, NAN)), "Edema"),
        (Reported(("t",), None, (NAN, 1.0, 0.0)), None),
        (Reported(("t",), Labels((0.0, 0.0, 1.0)), (NAN, 1.0, -1.0)), "Edema"),
        (Reported(("t",), Labels((0.0, 0.0, 1.0))), "Mass"),
        (Viewed(Labels((0.0, 1.0, 0.0)), "PA"), "Edema"),
        (Viewed(Labels((0.0, 1.0, 0.0)), "LATERAL"), None),
        (None, None),
    ],
)
def test_an_image_counts_for_the_one_finding_that_it_is_known_to_have(target, name):
    assert sole_finding(Item("i", Path("i.png"), target=target), NAMES) == name


# a fit that is judged -------------------------------------------------------------------------------------------------


def judged(names, labels, images, texts=None, groups=None, seed=0):
    """A fit on images of one finding each, with a text each."""
    targets = [Labels(tuple(float(place == label) for place in range(len(names)))) for label in labels]
    groups = groups or [None] * len(labels)
    items = [
        Item(str(row), Path("x"), target=Reported(("t",), target), group=group)
        for row, (target, group) in enumerate(zip(targets, groups, strict=True))
    ]
    pairs = DomainPairs(DomainData(items, tuple(names), lambda item: None), tuple(items))
    texts = images if texts is None else texts
    features = SimpleNamespace(images=images, texts=texts, image_of_text=torch.arange(len(items)), scores=None)
    scores = SimpleNamespace(ids=tuple(item.id for item in items), features=features)
    return SimpleNamespace(data=SimpleNamespace(pairs=pairs), scores_before=None, scores_after=scores, seed=seed)


def test_towers_that_tell_findings_apart_find_nothing_else():
    labels = [0, 1, 2] * 7
    images = F.one_hot(torch.tensor(labels)).float()
    record = FindingPrecision().compute(judged(NAMES, labels, images, images.roll(1, dims=1)))
    assert record.images == dict.fromkeys(NAMES, 7) and record.queries == 21 and record.guessing == pytest.approx(1 / 3)
    alike = record.directions["image_to_image"]["adapted"]
    assert alike["p5"] == 1 and alike["p10"] == pytest.approx(0.6), "itself is not found, 6 of 10 are right"
    assert record.directions["image_to_text"]["adapted"]["p5"] == 0
    assert alike["by_finding"]["Mass"]["p5"] == 1 and alike["intervals"]["p5"][0] < 1
    assert "Edema" in str(record.section().rows) and record.note() == ""
    assert FindingPrecisions.from_json(record.to_json()).to_json() == record.to_json()


def test_a_protocol_draws_its_queries_and_candidates_by_the_seed():
    names, generator = PROTOCOLS["8x200"].findings, torch.Generator().manual_seed(0)
    labels = [place for place in range(8) for _ in range(215)]
    images = F.normalize(F.one_hot(torch.tensor(labels)) + torch.randn(len(labels), 8, generator=generator), dim=1)
    first = FindingPrecision(precision_of="8x200").compute(judged(names, labels, images))
    assert set(first.images.values()) == {200} and first.queries == 80 and first.short == []
    assert set(first.directions) == {"image_to_image", "text_to_image"} and first.guessing == pytest.approx(1 / 8)
    assert set(first.measures) == {"p5", "p10", "p50"} and "ConVIRT" in first.section().note
    again, other = (
        FindingPrecision(precision_of="8x200").compute(judged(names, labels, images, seed=seed)) for seed in (0, 1)
    )
    assert again.directions == first.directions != other.directions
    few = FindingPrecision(precision_of="8x200").compute(judged(names, labels[:-20], images[:-20]))
    assert few.images["Pneumothorax"] == 185 and "fewer than 200 images of Pneumothorax" in few.note()


def test_five_findings_of_gloria_are_asked_for_and_a_set_without_them_is_refused():
    names = PROTOCOLS["5x200"].findings
    labels = [place for place in range(5) for _ in range(4)]
    record = FindingPrecision(precision_of="5x200").compute(
        judged(names, labels, F.one_hot(torch.tensor(labels)).float())
    )
    assert set(record.measures) == {"p5", "p10", "p100"} and record.queries == 20 == sum(record.images.values())
    assert record.directions["image_to_text"]["adapted"]["p5"] == pytest.approx(0.8) and len(record.short) == 5
    with pytest.raises(ConfigError, match="--precision-of 5x200: this set does not tell Atelectasis"):
        FindingPrecision(precision_of="5x200").compute(judged(NAMES, [0, 1], torch.eye(2)))


def test_one_finding_alone_says_nothing():
    assert FindingPrecision().compute(judged(NAMES, [1, 1], torch.eye(2))) is None


def test_only_medical_retrieval_has_it():
    retrieval = task_class("retrieval")
    assert "finding-precision" in judgements_of(retrieval(Medical()))
    assert "finding-precision" not in judgements_of(retrieval(Natural())) and "finding-precision" not in judgements_of(
        retrieval
    )


def test_a_fit_and_an_evaluation_tell_it(small_clip_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(Retrieval, "judgements", ())  # that of the domain is made
    monkeypatch.setattr(Medical, "sample", lambda self, task: drawn_radiographs({"train": 12, "val": 4, "test": 40}))
    fitted = vladapt.fit(
        domain="medical", task="retrieval", data="sample", backbone=small_clip_spec, generic=None, out=str(tmp_path),
        adapter={"name": "full", "epochs": 1, "lr": 1e-3, "workers": 0},
    )  # fmt: skip
    told = fitted.metrics["finding_precision"]
    assert told["protocol"] == "all" and set(told["directions"]) == {"image_to_text", "text_to_image", "image_to_image"}
    assert {"zero_shot", "adapted"} == set(told["directions"]["image_to_text"])
    assert "What the first results show" in (fitted.run / "report.html").read_text(encoding="utf-8")
    assert vladapt.evaluate(fitted.run)["finding_precision"] == told


def test_a_protocol_that_the_set_does_not_have_is_refused_before_anything_is_trained(small_clip_spec, tmp_path):
    with pytest.raises(ConfigError, match="--precision-of 5x200: this set does not tell Atelectasis, Edema"):
        vladapt.fit(
            domain="medical", task="retrieval", data="sample", backbone=small_clip_spec, out=str(tmp_path / "runs"),
            adapter={"name": "lora", "epochs": 1}, precision_of="5x200",
        )  # fmt: skip
    assert not list(tmp_path.rglob("*"))
