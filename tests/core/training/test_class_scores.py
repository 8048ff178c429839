"""Scores of all classes: means of unequal numbers of prompts, negatives, texts that stay, precision, clips."""

from __future__ import annotations

import copy
import tempfile

import pytest
import torch
import torch.nn.functional as F

from vladapt import CapabilityError, build_classifier
from vladapt.core.contracts.loss import Loss
from vladapt.core.training.class_scores import ClassScores
from vladapt.core.training.layers import TowerLayers
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.tower_outputs import Outputs, image_features
from vladapt.core.training.train import TrainingTask, train

PROMPTS = [["a red thing", "red", "very red"], ["a green thing"]]


@pytest.fixture
def unit():
    return F.normalize(torch.randn(5, 24, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_scores_are_those_of_the_zero_shot_classifier(small_clip, unit):
    """Each prompt counts alike within its class, whatever number of them the others have."""
    classifier = build_classifier(small_clip, ["x", "y"], [], descriptions={"x": PROMPTS[0], "y": PROMPTS[1]})
    torch.testing.assert_close(ClassScores(small_clip, PROMPTS)(unit), classifier.logits(unit), atol=1e-4, rtol=1e-5)


def test_negative_prompts_make_differences(small_clip, unit):
    negative = [["nothing red"], ["no green", "without green"]]
    classifier = build_classifier(
        small_clip, ["red", "green"], ["a {}", "{}"], negative_templates=["no {}", "without {}"]
    )
    prompts = [["a red", "red"], ["a green", "green"]]
    scores = ClassScores(small_clip, prompts, [["no red", "without red"], ["no green", "without green"]])(unit)
    torch.testing.assert_close(scores, classifier.logits(unit), atol=1e-4, rtol=1e-5)
    assert not torch.allclose(scores, ClassScores(small_clip, prompts, negative)(unit), atol=1e-2)


def test_texts_are_encoded_once_where_they_stay(small_clip, unit, monkeypatch):
    backbone = copy.deepcopy(small_clip)
    TowerLayers(backbone).set_trainable(lock="text")
    scores, calls = ClassScores(backbone, PROMPTS), []
    original = type(backbone).encode_text
    monkeypatch.setattr(type(backbone), "encode_text", lambda self, *a, **k: calls.append(1) or original(self, *a, **k))
    scores(unit)
    assert not calls
    TowerLayers(backbone).set_trainable()
    trained = ClassScores(backbone, PROMPTS)
    calls.clear()
    out = trained(unit)
    assert calls == [1] and out.requires_grad
    torch.testing.assert_close(scores(unit), out, atol=1e-4, rtol=1e-5)


def test_scores_keep_full_precision_under_autocast(small_clip, unit):
    backbone = copy.deepcopy(small_clip)
    TowerLayers(backbone).set_trainable(lock="text")
    scores = ClassScores(backbone, PROMPTS)
    with torch.autocast("cpu", torch.bfloat16):
        half = scores(unit)
    assert half.dtype == torch.float32 and torch.equal(half, scores(unit))


def test_frames_of_clips_are_averaged(small_clip):
    clips = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    frames = torch.stack([small_clip.encode_image(clip, normalize=False).mean(dim=0) for clip in clips])
    torch.testing.assert_close(image_features(small_clip, clips), F.normalize(frames, dim=-1))
    with pytest.raises(CapabilityError, match=r"image_tokens.*clips"):
        Outputs(small_clip, ["image_tokens"]).per_sample({"pixels": clips})


def test_no_folder_keeps_no_checkpoint(fresh_clip, toy_pairs, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    from vladapt.core.training import resume

    monkeypatch.setattr(resume, "save_checkpoint", lambda *a: pytest.fail("a checkpoint was written"))
    done = train(fresh_clip, TrainingTask(toy_pairs(), {"clip": 1.0}), TrainingSettings(epochs=1, batch_size=8), None)
    assert done.steps == 3 and not list((tmp_path / "temporary").iterdir())


def test_images_of_several_labels_have_no_text_of_their_own():
    from vladapt import Item, Label, Labels
    from vladapt.core.training.fields import fields_of
    from vladapt.core.training.sources import LabelledSource
    from vladapt.domains.medical.targets import SoftFindings

    one = LabelledSource([Item("a", "a.png", target=Label(1))], None, PROMPTS)
    several = LabelledSource([Item("a", "a.png", target=Labels((1.0, float("nan"))))], None, PROMPTS)
    assert one.text("caption", 0, 0) == "a green thing" and one.label(0) == 1
    assert several.label(0)[0] == 1.0 and fields_of({"logits", "labels"}, several, "x") == {"pixels", "labels"}
    soft = Item("a", "a.png", target=SoftFindings((1.0, float("nan")), smoothed=(1.0, 0.7)))
    assert LabelledSource([soft], None, PROMPTS).label(0) == (1.0, 0.7)
    with pytest.raises(CapabilityError, match=r"loss 'clip' needs.*one label per image"):
        fields_of({"image_features", "text_features"}, several, "loss 'clip'")


def test_losses_see_the_features_of_the_classes(small_clip):
    """Those of the classes themselves, without the negative prompts, and one encoding serves scores and features."""
    backbone = copy.deepcopy(small_clip)
    TowerLayers(backbone).set_trainable()
    scores = ClassScores(backbone, PROMPTS, [["nothing red"], ["no green"]])
    outputs = Outputs(backbone, ["logits", "class_features"], class_scores=scores)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = {**outputs.per_sample({"pixels": pixels}, known := outputs.classes()), **outputs.shared(known)}
    assert made["class_features"].shape == (2, 24) and made["class_features"].requires_grad
    torch.testing.assert_close(made["class_features"], ClassScores(backbone, PROMPTS).weights())
    torch.testing.assert_close(made["logits"], scores(backbone.encode_image(pixels)))
    torch.testing.assert_close(outputs.shared()["class_features"], made["class_features"])
    assert Outputs(backbone, ["logits"], class_scores=scores).classes() is None


class Anchor(Loss):
    """Class features stay near a teacher's."""

    needs = frozenset({"class_features", "teacher.class_features"})
    teacher = "frozen"

    def compute(self, out, progress):
        return {"loss": (out["class_features"] - out["teacher.class_features"]).square().sum()}


class Followed(Anchor):
    teacher = "ema"


def test_a_teachers_classes_are_its_own_or_given(small_clip_spec, toy_pairs, monkeypatch):
    from vladapt.core.backbones.load import load_backbone
    from vladapt.core.training import objective

    given = F.normalize(torch.ones(2, 24), dim=-1)

    def first_loss(kind=Anchor, prompts=PROMPTS, **task):
        monkeypatch.setattr(objective, "build_loss", lambda name, dims, **options: kind(dims))
        backbone, teacher = (load_backbone(small_clip_spec, device="cpu") for _ in range(2))
        teachers = [teacher] if kind is Anchor else []
        task = TrainingTask(toy_pairs(), {"distill": 1.0}, class_prompts=prompts, teachers=teachers, **task)
        settings = TrainingSettings(epochs=1, batch_size=24, lr=1e-3)
        return train(backbone, task, settings, None).history[0]["loss"], ClassScores(teacher, PROMPTS).weights()

    assert first_loss()[0] == pytest.approx(0, abs=1e-9)
    found, own = first_loss(teacher_classes=given)
    assert found == pytest.approx(float((own - given).square().sum()), rel=1e-4)
    with pytest.raises(CapabilityError, match=r"'class_features' .*, 'teacher\.class_features' .*; pairs have no"):
        first_loss(prompts=None)
    with pytest.raises(CapabilityError, match=r"'teacher\.class_features', which only a fixed teacher has"):
        first_loss(Followed)
