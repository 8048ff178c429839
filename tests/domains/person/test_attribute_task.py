"""Attributes learned from drawn pedestrians: measures written out, tables, care, and what `flip` changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import vladapt
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import build_metric, load_adapter
from vladapt.domains.person import Person, domain
from vladapt.domains.person.attribute_words import attribute_sentences, pair_of
from vladapt.domains.person.metrics.attribute_recognition import AttributeRecognition

NAN = float("nan")


def written_out(said: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The measures as the paper says them, image by image and attribute by attribute."""
    rates = []
    for c in range(true.shape[1]):
        known = ~np.isnan(true[:, c])
        positive, negative = known & (true[:, c] == 1), known & (true[:, c] == 0)
        if positive.any() and negative.any():
            rates.append((said[positive, c].mean() + (~said[negative, c]).mean()) / 2)
    rows = []
    for i in range(len(true)):
        known = ~np.isnan(true[i])
        y, f = set(np.flatnonzero(known & (true[i] == 1))), set(np.flatnonzero(known & said[i]))
        if y:
            rows.append((len(y & f) / len(y | f), len(y & f) / len(f) if f else 0, len(y & f) / len(y)))
    accuracy, precision, recall = np.mean(rows, axis=0)
    f1 = 2 * precision * recall / (precision + recall)
    return dict(
        zip(
            ("mean_accuracy", "instance_accuracy", "instance_precision", "instance_recall", "instance_f1"),
            (np.mean(rates), accuracy, precision, recall, f1),
            strict=True,
        )
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_measures_are_those_written_out(seed):
    rng = np.random.default_rng(seed)
    true = rng.choice([0.0, 1.0, NAN], (40, 6), p=[0.5, 0.35, 0.15])
    logits = rng.normal(size=(40, 6))
    true[:2] = 0  # images of whom nothing is true are left out
    logits[3] = -1  # and one of whom nothing is said has precision 0
    metric = build_metric("attribute-recognition")
    got = metric.values(torch.tensor(logits), torch.tensor(true), list("abcdef"))
    assert got == pytest.approx(written_out(logits > 0, true))


def test_attributes_that_cannot_be_told_are_left_out():
    labels = torch.tensor([[1.0, 1.0, NAN], [0.0, 1.0, NAN]])
    logits = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    got = AttributeRecognition().values(logits, labels, list("abc"))
    assert got["mean_accuracy"] == 1 and got["instance_precision"] == 1 and got["instance_recall"] == 0.75
    nothing = AttributeRecognition().values(logits, torch.full((2, 3), NAN), list("abc"))
    assert nothing == {}


def test_attributes_of_published_sets_are_asked_by_pairs_of_sentences():
    assert pair_of("upperBodyShortSleeve") == pair_of("ShortSleeve") == pair_of("short sleeves")
    assert attribute_sentences("Female") == (["a photo of a woman."], ["a photo of a man."])
    assert attribute_sentences("a red upper garment") is None
    assert Person().sentences("Female", "person-search") is None


@pytest.fixture(scope="module")
def fitted(small_clip_spec, tmp_path_factory):
    """A fit of `person/flip` with the small tower, on few people and three attributes."""
    folder = tmp_path_factory.mktemp("attributes")
    flags = {"backbone": small_clip_spec, "out": str(folder), "classes": "trousers,boots,long hair"}
    recipe = resolve(recipe="person/flip", config=None, sets=["adapter.epochs=3"], flags=flags)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domain, "SAMPLE", {"identities": 10, "images_per_identity": 2, "cameras": 3, "seed": 0})
        return vladapt.fit(recipe)


def test_a_fit_has_the_measures_and_tables_and_shows_nobody(fitted):
    metrics = json.loads((fitted.run / "metrics.json").read_text())
    assert {"mean_accuracy", "instance_f1", "auroc"} <= set(metrics["adapted"])
    assert set(metrics["cameras"]) <= {"c1", "c2", "c3"} and len(metrics["cameras"]) > 1
    assert sum(of["images"] for of in metrics["cameras"].values()) == metrics["test_images"]
    rates = [of["mean_accuracy"] for of in metrics["attributes"].values() if of["mean_accuracy"] is not None]
    assert np.mean(rates) == pytest.approx(metrics["adapted"]["mean_accuracy"])
    report = (fitted.run / "report.html").read_text()
    assert "Camera by camera" in report and "Attribute by attribute" in report and "Before you use it" in report
    written = report + (fitted.run / "run.json").read_text() + (fitted.run / "log.txt").read_text()
    assert "data:image/jpeg" not in report and "person-000" not in written
    assert "8 identities in 16 pictures of 3 cameras" in (fitted.run / "CARD.md").read_text()


def test_flip_changes_the_last_linear_layer_and_nothing_else(fitted, small_clip_spec):
    backbone = vladapt.load_backbone(small_clip_spec, "cpu")
    adapter = load_adapter(fitted.run / "adapter.safetensors", backbone)
    before, after = (each.model.state_dict() for each in (backbone, adapter.tuned(backbone)))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["visual.proj"]


def test_pairs_of_sentences_reach_the_classifier(small_clip_spec):
    """What stands in place of templates, unless the user gives some."""
    from vladapt.core.prompts.classifier import build_classifier

    backbone = vladapt.load_backbone(small_clip_spec, "cpu")
    names, said = ["Female", "cap"], {"Female": attribute_sentences("Female")}
    asked = {"negative_templates": ["no {}."], "sentences": said}
    made = build_classifier(backbone, names, ["a {}."], **asked)
    assert made.texts == (("a photo of a woman.",), ("a cap.",))
    plain = build_classifier(backbone, ["a photo of a man.", "no cap."], ["{}"])
    assert torch.allclose(made.negative, plain.weights, atol=1e-5)
