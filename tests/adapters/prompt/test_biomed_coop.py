from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.prompt import biomed_coop

from vladapt.adapters.prompt._shared_context import Step
from vladapt.adapters.prompt.biomed_coop import PUBLISHED, divergence, kept_sentences, teacher_of
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.registry import build_adapter, load_adapter

NAMES = ("sea", "polka_dotted", "X-ray", "Boeing 737-800")
FAST = {"epochs": 4, "lr": 0.05, "batch_size": 8}
WORDS = ("a blurry {} drawing", "an image of {}", "{} as seen from above", "the weather is fine", "{}, in grey")
SENTENCES = tuple(tuple(text.format(name) for text in WORDS) for name in NAMES)


def fitted(support, classifier, backbone, *, name="biomed-coop", seed=0, sentences=SENTENCES, **options):
    adapter = build_adapter(name, **{**FAST, **options})
    resources = {} if sentences is None else {"descriptions": sentences}
    adapter.report = adapter.fit(support, classifier, backbone=backbone, seed=seed, resources=resources)
    return adapter


def test_agrees_with_the_reference_losses_gradients_and_selections(agrees):
    agrees(biomed_coop)


def test_published_settings():
    adapter = build_adapter("biomed-coop")
    assert (adapter.lr, adapter.batch_size, adapter.ctx_init, adapter.select) == (2.5e-3, 4, "a photo of a", "zscore")
    assert adapter.default_epochs == ((1, 100),) and adapter._settings() == (1.0, 1.0, 1.5)
    assert build_adapter("biomed-coop", preset="KneeXray")._settings() == (5.0, 20.0, 1.75)
    assert build_adapter("biomed-coop", preset="RETINA base to new", kdsp=0)._settings() == (5.0, 0.0, 2.0)
    assert len(PUBLISHED) == 1 + 11 + 10


def test_without_its_terms_it_is_coop(small_clip, support, classifier):
    ours = fitted(support, classifier, small_clip, sccm=0.0, kdsp=0.0)
    coop = fitted(support, classifier, small_clip, name="coop", ctx_init="a photo of a", sentences=None)
    assert torch.equal(ours.ctx, coop.ctx)


@pytest.mark.parametrize("term", ["sccm", "kdsp"])
def test_each_term_draws_the_text_features_to_the_sentences(small_clip, support, classifier, term):
    with torch.no_grad():
        mean = sum(F.normalize(small_clip.encode_text([of[p] for of in SENTENCES]), dim=-1) for p in range(len(WORDS)))

    def away(**weights):
        text = fitted(
            support, classifier, small_clip, **{"sccm": 0.0, "kdsp": 0.0, "epochs": 40, **weights}
        ).text_features
        if term == "sccm":
            return float((text - F.normalize(mean, dim=-1)).square().sum())
        logits, teacher = (support.unit @ rows.T * classifier.logit_scale for rows in (text, F.normalize(mean, dim=-1)))
        return float(divergence(logits, teacher))

    assert away() > 1.3 * away(**{term: 30.0})


def test_an_outlying_sentence_is_left_out_of_the_teacher_alone():
    """What it says matters to the mean over all sentences, and to nothing else."""
    generator = torch.Generator().manual_seed(0)
    unit, text = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (6, 3))
    sentences = F.normalize(text[:, None] + 0.1 * torch.randn(3, 7, 8, generator=generator), dim=-1)
    adapter = build_adapter("biomed-coop", sccm=0.0)
    adapter.logit_scale, adapter.offset, adapter.negative = 20.0, torch.zeros(3), None
    adapter._text = lambda learner: text

    def loss(of_first) -> float:
        rows = torch.cat([of_first.expand(3, 1, 8), sentences], dim=1)
        about = TextClassifier(text, prototypes=tuple(rows), logit_scale=20.0)
        return float(adapter._loss(Step(None, about, unit, torch.arange(6) % 3, F.cross_entropy, None, generator)))

    away, far_away = F.normalize(-unit.sum(dim=0), dim=-1), F.normalize(-unit.sum(dim=0) - 2 * unit[0], dim=-1)
    assert loss(away) == loss(far_away)
    adapter.tau = 100.0
    assert loss(away) != loss(far_away)
    adapter.tau, adapter.sccm = None, 1.0
    assert loss(away) != loss(far_away)


@settings(max_examples=25)
@given(
    scores=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12),
    tau=st.floats(1e-3, 4),
    select=st.sampled_from(["zscore", "mad"]),
)
def test_some_sentence_is_always_kept_whatever_the_scale(scores, tau, select):
    scores = torch.tensor(scores, dtype=torch.float64)
    kept = kept_sentences(scores, tau, select)
    assert kept.any() and torch.equal(kept, kept_sentences(4.0 * scores, tau, select))
    assert torch.isfinite(teacher_of(torch.ones(2, len(scores), 3, dtype=torch.float64), kept)).all()


def test_the_two_rules():
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 30.0])
    assert kept_sentences(scores, 2.0).tolist() == [True] * 5 + [False]
    assert kept_sentences(scores, 1.0, "mad").tolist() == [False, True, True, True, False, False]
    assert kept_sentences(torch.tensor([1.0, 1.0, 1.0, 5.0]), 1.5, "mad").tolist() == [True] * 3 + [False]  # MAD is 0
    assert kept_sentences(torch.full((4,), 2.0), 1.5).all()


def test_the_teacher_gets_no_gradient_and_prediction_needs_no_sentence(small_clip, support, classifier, tmp_path):
    adapter = fitted(support, classifier, small_clip)
    reread = load_adapter(adapter.save(tmp_path / "a.safetensors"))
    assert torch.equal(reread.logits(support), adapter.logits(support))
    assert {"sccm", "kdsp", "tau"} <= adapter.report.chosen.keys()
    assert "5 sentences per class (published: 50)" in adapter.report.notes
    assert "descriptions" not in adapter.at_predict
    other = adapter.for_classes(small_clip, ("sushi", "sea"))
    assert torch.allclose(other.logits(support)[:, 1], adapter.logits(support)[:, 0], atol=1e-4)


def test_what_cannot_be_is_said(small_clip, support, classifier, several_labels):
    with pytest.raises(ConfigError, match="tau"):
        build_adapter("biomed-coop", tau=0)
    with pytest.raises(ConfigError, match=r"preset=derma .*did you mean dermamnist"):
        build_adapter("biomed-coop", preset="derma")
    with pytest.raises(CapabilityError, match="sentences about each class"):
        fitted(support, classifier, small_clip, sentences=None)
    with pytest.raises(DataError, match="class 'X-ray' has none"):
        fitted(support, classifier, small_clip, sentences=(*SENTENCES[:2], (), SENTENCES[3]))
    with pytest.raises(DataError, match="class 'sea' has 5 sentences and class 'X-ray' 4"):
        fitted(support, classifier, small_clip, sentences=(*SENTENCES[:2], SENTENCES[2][1:], SENTENCES[3]))
    with pytest.raises(CapabilityError):
        fitted(several_labels, classifier, small_clip)
    with pytest.raises(ConfigError, match="biomed-coop writes prompts around class names"):
        fitted(FeatureSet(support.features, support.labels), TextClassifier(classifier.weights), small_clip)
