"""What auto does where no image has a label: the best of what the images speak for, else zero-shot."""

from __future__ import annotations

import pytest
import torch

from vladapt import build_adapter, load_adapter
from vladapt.adapters.selection import _without_labels
from vladapt.adapters.selection._without_labels import CANDIDATES, METRIC
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.features.files import load_features

QUICK = ("stat-a", "transclip", "zlap")


@pytest.fixture
def task(make_task):
    """96 images of 12 classes that lie apart, on a quarter of which the texts lead astray."""
    return make_task(classes=12, shots=2, dim=64, noise=0.8, text_noise=3.0)


def accuracy(logits, labels):
    return float((logits.argmax(dim=1) == labels).double().mean())


def test_it_takes_what_does_better(task):
    adapter = build_adapter("auto", without_labels=QUICK)
    report = adapter.fit(None, task.text, unlabeled=task.test.without_labels())
    assert report.chosen["method"] in QUICK and adapter.transductive
    assert accuracy(adapter.logits(task.test), task.test.labels) > accuracy(
        task.text.logits(task.test.unit), task.test.labels
    )
    assert [row["method"] for row in report.judged] == list(QUICK) and report.judged[0]["metric"] == METRIC
    (taken,) = [row for row in report.judged if row["taken"]]
    assert taken["method"] == adapter.method and taken["score"] >= 0.7
    alone = build_adapter(adapter.method, **adapter.method_options)
    alone.fit(None, task.text, unlabeled=task.test.without_labels())
    assert torch.equal(alone.logits(task.test), adapter.logits(task.test))


def test_a_fit_with_labels_afterwards_reads_no_test_images(task):
    adapter = build_adapter("auto", without_labels=QUICK, candidates=("ridge",))
    adapter.fit(None, task.text, unlabeled=task.test.without_labels())
    adapter.fit(task.support, task.text)
    assert adapter.method == "ridge" and not adapter.transductive


def test_it_is_loaded_as_it_was_saved_and_builds_no_other_method(task, tmp_path):
    adapter = build_adapter("auto", without_labels=QUICK)
    adapter.fit(None, task.text, unlabeled=task.test.without_labels())
    again = load_adapter(adapter.save(tmp_path / "auto.safetensors"))
    assert torch.equal(again.logits(task.test), adapter.logits(task.test))
    again.method, again._method = "gta-clip", None
    again.method_options = {}
    with pytest.raises(ConfigError, match="gta-clip needs labels, or more than features"):
        again.logits(task.test)


def test_a_method_that_spreads_over_absent_classes_is_left(task):
    few = task.test.select((task.test.labels < 2).tolist())
    adapter = build_adapter("auto", without_labels=("transclip", "zlap"))
    report = adapter.fit(None, task.text, unlabeled=few.without_labels())
    assert report.chosen == {"method": "zero-shot"} and not adapter.transductive
    torch.testing.assert_close(adapter.logits(few), task.text.logits(few.unit))
    assert report.notes[0].startswith("auto took zero-shot: there are no labels")


@pytest.mark.parametrize("name", QUICK)
def test_its_notes_do_not_speak_against_what_it_took(task, name, monkeypatch):
    """A few of many classes: each candidate by itself says whether it is made for that."""
    some = task.test.select((task.test.labels < 4).tolist()).without_labels()
    monkeypatch.setattr(_without_labels.Evidence, "better", property(lambda evidence: True))
    report = build_adapter("auto", without_labels=(name,)).fit(None, task.text, unlabeled=some)
    assert report.chosen["method"] == name
    assert not any("use stat-a" in note or "worse than zero-shot" in note or "'auto'" in note for note in report.notes)
    assert any("seem to be absent" in note for note in report.notes) == (name == "stat-a")
    assert any("images classified together" in note or "one graph" in note for note in report.notes) or name == "zlap"


def test_what_half_of_the_prompts_leads_to_has_a_say(task, monkeypatch):
    images, text = task.test.without_labels(), task.text
    chosen = []
    for moved in (0, 40):
        adapter = build_adapter("auto", without_labels=("zlap",))

        def halves(method, classifier, unlabeled, seed, moved=moved):
            before, after = classifier.logits(unlabeled.unit), method.logits(unlabeled)
            return [(before, after.roll(moved, dims=0))] * 2

        monkeypatch.setattr(_without_labels.Evidence, "answers_by_halves", staticmethod(halves))
        chosen.append(adapter.fit(None, text, unlabeled=images).chosen["method"])
    assert chosen == ["zlap", "zero-shot"]


@pytest.mark.parametrize("name", ["ridge", "gta-clip", "auto", "zero-shot"])
def test_what_it_cannot_choose_among_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is none of them|cannot|auto"):
        build_adapter("auto", without_labels=(name,))


def test_neither_labels_nor_images_is_one_line(task):
    with pytest.raises(CapabilityError, match="labelled images, or images without labels"):
        build_adapter("auto").fit(None, task.text)


@pytest.mark.parametrize("name", ["CLIP_RN50", "RemoteCLIP_ViTB32"])
def test_on_real_features_it_gains_with_all_classes_and_loses_nothing_with_few(data_dir, name):
    """All 1,005 scenes of 19 classes, and 64 of three classes."""
    file = load_features(data_dir / "features" / "whurs19_clip" / f"whurs19_{name}.npz")
    some = torch.isin(file.features.labels, torch.tensor([2, 7, 11])).nonzero().flatten()[:64]
    for images, least in ((file.features, 0.02), (file.features.select(some), 0.0)):
        adapter = build_adapter("auto", without_labels=[each for each in CANDIDATES if each not in ("dmn", "tda")])
        adapter.fit(None, file.classifier, unlabeled=images.without_labels())
        gain = accuracy(adapter.logits(images), images.labels)
        assert gain >= accuracy(file.classifier.logits(images.unit), images.labels) + least
