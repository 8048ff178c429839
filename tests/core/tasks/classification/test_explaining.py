"""Reasons beside the mistakes of a report, and where there are none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from vladapt import build_adapter
from vladapt.core.contracts.features import FeatureSet, TextClassifier
from vladapt.core.contracts.run_info import RunInfo
from vladapt.core.explanation.evidence import LabelledImages
from vladapt.core.runs.run_sections import Report, render_report
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification import explaining
from vladapt.core.tasks.classification.explaining import CAUTION, ExplainedClass, Explainer, Reason
from vladapt.core.tasks.classification.report import ClassificationResults, mistakes_section

NAMES = ("cat", "dog", "owl")
QUIET = Reporter(quiet=True)


def explainer(name: str, rows: int = 6) -> Explainer:
    """Of a method on features of a file, whose labelled images are drawn at random."""
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(rows, 8, generator=generator), torch.arange(rows) % 3
    support = FeatureSet(features, labels, NAMES, ids=tuple(f"row {n}" for n in range(rows)))
    adapter = build_adapter(name)
    adapter.fit(support, TextClassifier(torch.randn(3, 8, generator=generator), class_names=NAMES))
    labelled = LabelledImages.of(support, range(rows), rows, NAMES)
    return Explainer(adapter, None, labelled, lambda each: None, None)


def test_the_shares_of_a_cache_sum_to_its_part_of_the_logit():
    made = explainer("tip-adapter")
    reason = made.reasons([ExplainedClass(None, 1, torch.ones(8))], QUIET)[0]
    assert [each.labels for each in reason.examples] == [("dog",), ("dog",)], "the others add nothing"
    assert abs(sum(each.part for each in reason.examples) - reason.examples_add) < 1e-5
    of_text = float(made.adapter.logit_scale * made.adapter.text[1].sum() / 8**0.5)
    assert abs(reason.logit - reason.examples_add - of_text) < 1e-3
    assert "it is a sum over them" in made.note(True) and CAUTION in made.note(True)
    assert reason.words().startswith("The labelled images add ")


def test_other_methods_show_what_is_near_and_claim_no_more():
    made = explainer("linear-probe")
    reason = made.reasons([ExplainedClass(None, 1, torch.ones(8))], QUIET, 3)[0]
    similarities = [each.similarity for each in reason.examples]
    assert len(similarities) == 3 and similarities == sorted(similarities, reverse=True)
    assert reason.examples_add is None and "most similar features" in made.note(False)


def test_a_labelled_image_beside_several_others_is_decoded_once():
    made, decoded = explainer("linear-probe"), []
    made.picture_of = lambda example: decoded.append(example.row)
    reasons = made.reasons(
        [ExplainedClass(None, 0, torch.ones(8))] * 2 + [ExplainedClass(None, 0, -torch.ones(8))] * 2, QUIET, 4
    )
    shown = [example.row for reason in reasons for example in reason.examples]
    assert len(shown) == 16 and sorted(decoded) == sorted({*shown})


def test_a_run_of_features_has_no_heat_maps_and_says_so():
    made = explainer("linear-probe")
    assert made.reasons([ExplainedClass(None, 0, torch.ones(8))], QUIET)[0].heat is None
    assert "No heat maps: the run was made from a file of features" in made.note(False)


def test_why_no_mistake_has_a_heat_map_is_said_once(monkeypatch):
    def shown(*why):
        class OfClips(Explainer):
            def reasons(self, asked, reporter, count):
                self.no_maps, self.method = "", "grad-cam"
                return [Reason(no_map=each) for each in why]

        monkeypatch.setattr(explaining, "Explainer", OfClips)
        prepared = SimpleNamespace(backbone=None, reporter=QUIET)
        made = explainer("linear-probe")
        explain = explaining.explained_mistakes(prepared, made.adapter, None, torch.ones(2, 8), None, lambda each: None)
        reasons, note = explain([(0, 1), (1, 2)])
        return [each.words for each in reasons], note

    parts = "samples have several parts"
    reasons, note = shown(parts, parts)
    assert reasons == ["", ""] and "No heat maps: samples have several parts." in note and "are made by" not in note
    assert shown(parts, "")[0] == [f"No heat map: {parts}.", ""]


def test_each_mistake_in_a_report_has_its_reasons():
    made, asked = explainer("tip-adapter"), []

    def explain(pairs):
        asked.extend(pairs)
        reasons = made.reasons([ExplainedClass(None, target, torch.ones(8)) for _, target in pairs], QUIET)
        return [each.shown() for each in reasons], made.note(True)

    logits = torch.tensor([[3.0, 0, 0], [0, 5, 0], [0, 0, 4]])
    results = ClassificationResults(
        info=RunInfo(), class_names=NAMES, labels=torch.tensor([0, 2, 0]), zero_shot_logits=None, adapted_logits=logits,
        metrics={}, ids=("a", "b", "c"), thumbnails=lambda row: np.zeros((4, 4, 3), np.uint8), explain=explain,
    )  # fmt: skip
    section = mistakes_section(results)
    assert asked == [(1, 1), (2, 2)], "the class that it was called, the surest first"
    page = render_report(Report(kind="", title="", lead="", sections=[section]))
    assert page.count('class="why"') == 2 and "adds " in page and "An aid, not a proof" in page
    without = mistakes_section(replace(results, explain=None))
    page = render_report(Report(kind="", title="", lead="", sections=[without]))
    assert without.reasons == [] and 'class="why"' not in page
