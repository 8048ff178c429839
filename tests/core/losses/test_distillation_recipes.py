"""MobileCLIP, TinyCLIP, DistilBERT and R2D2 beside the reference's numbers, and what each of their terms does."""

import pytest
import torch
import torch.nn.functional as F
from parity_checks.distillation import distilbert, mobile_clip, r2d2, tiny_clip

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.backbones.load import load_backbone
from vladapt.core.losses.r2d2 import log_negative_weights
from vladapt.core.registry import loss_class
from vladapt.core.testing.loss_steps import DIMS, example_outputs
from vladapt.core.training.model import dims_of
from vladapt.core.training.teachers import need_same_words

NARROW = {"r2d2": {"layers": 1, "heads": 2}}


def value_of(name, dims=None, seed=0, **options):
    """The loss of example outputs, its heads drawn alike."""
    cls = loss_class(name)
    torch.manual_seed(0)
    loss = build_loss(name, {**DIMS, **(dims or {})}, **{**NARROW.get(name, {}), **options})
    return loss(example_outputs(loss.needs, seed, cls.outputs))["loss"].item()


@pytest.mark.parametrize("comparison", [tiny_clip, mobile_clip, distilbert, r2d2], ids=lambda each: each.method)
def test_values_and_gradients_are_the_references(agrees, comparison):
    agrees(comparison)


@pytest.mark.parametrize(
    ("name", "option", "other"),
    [
        ("mobile-clip", "contrastive", 0.5),
        ("mobile-clip", "distill", 0.5),
        ("mobile-clip", "synthetic", 0.0),
        ("mobile-clip", "scales", (20.0,)),
        ("distilbert", "ce", 0.0),
        ("distilbert", "mlm", 0.0),
        ("distilbert", "mse", 1.0),
        ("distilbert", "cos", 0.0),
        ("distilbert", "temperature", 1.0),
        ("distilbert", "restrict", True),
        ("r2d2", "gcpr", 0.0),
        ("r2d2", "fgr", 0.0),
        ("r2d2", "positive", 1.0),
        ("r2d2", "layers", 2),
        ("r2d2", "width", 8),
        ("r2d2", "heads", 3),
        ("distill", "interactive", 1.0),
    ],
)
def test_every_option_changes_the_value(name, option, other):
    assert value_of(name, **{option: other}) != pytest.approx(value_of(name), rel=1e-5)


def two_teachers(seed=0, batch=5):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda width: F.normalize(torch.randn(batch, width, generator=generator), dim=1)  # noqa: E731
    out = {name: draw(6) for name in ("image_features", "text_features", "text_synthetic")}
    of_first, of_second = ({name: draw(width) for name in ("image", "text", "text_synthetic")} for width in (4, 3))
    out |= {f"teacher.{name}": torch.cat([of_first[name], of_second[name]], dim=1) / 2**0.5 for name in of_first}
    return {**out, "logit_scale": torch.tensor(9.0)}, of_first, of_second


def test_the_target_is_the_mean_of_both_teachers_softmaxes_each_at_its_scale():
    out, *teachers = two_teachers()
    scales = (30.0, 70.0)
    loss = build_loss("mobile-clip", {"teacher_dim_1": 4, "teacher_dim_2": 3}, scales=scales)
    by_hand = 0.0
    for ours, theirs in (("text_features", "text"), ("text_synthetic", "text_synthetic")):
        student = 9 * out["image_features"] @ out[ours].T
        for turn in (lambda x: x, lambda x: x.T):
            targets = sum((s * turn(t["image"] @ t[theirs].T)).softmax(1) for s, t in zip(scales, teachers)) / 2
            by_hand -= (targets * turn(student).log_softmax(1)).sum(1).mean() / 2
    torch.testing.assert_close(loss(out)["loss"], by_hand)
    swapped = build_loss("mobile-clip", {"teacher_dim_1": 4, "teacher_dim_2": 3}, scales=scales[::-1])
    assert float(swapped(out)["loss"]) != pytest.approx(float(by_hand), rel=1e-4)


def test_mobile_clip_refuses_scales_and_widths_that_do_not_fit():
    with pytest.raises(ConfigError, match="scales has 3 numbers, and there are 2 teachers"):
        build_loss("mobile-clip", {"teacher_dim_1": 4, "teacher_dim_2": 3}, scales=(1.0, 2.0, 3.0))
    out, *_ = two_teachers()
    with pytest.raises(CapabilityError, match=r"built for teachers of widths \[4, 4\]"):
        build_loss("mobile-clip", {"teacher_dim_1": 4, "teacher_dim_2": 4})(out)


def test_a_training_tells_the_loss_how_wide_each_teacher_is(small_clip):
    dims = dims_of(small_clip, 3, teachers=[small_clip, small_clip])
    assert dims["teacher_dim_1"] == dims["teacher_dim_2"] == small_clip.embed_dim
    assert "teacher_dim_1" not in dims_of(small_clip, 3, teachers=[small_clip])


def test_the_interactive_term_contrasts_with_the_teacher():
    generator = torch.Generator().manual_seed(3)
    draw = lambda: F.normalize(torch.randn(4, 6, generator=generator), dim=1)  # noqa: E731
    image, text, of_image, of_text = draw(), draw(), draw(), draw()
    loss = build_loss("distill", feature=0, similarity=0, interactive=1)
    assert loss.needs == {"image_features", "text_features", "teacher.image", "teacher.text", "logit_scale"}
    out = {"image_features": image, "text_features": text, "teacher.image": of_image, "teacher.text": of_text}
    by_hand = sum(
        float(-torch.log_softmax(7 * student[i] @ teacher.T, 0)[i]) / 8
        for i in range(4)
        for student, teacher in ((image, of_text), (text, of_image))
    )
    assert float(loss({**out, "logit_scale": torch.tensor(7.0)})["loss"]) == pytest.approx(by_hand, rel=1e-5)


def test_distilbert_refuses_towers_of_other_words_and_other_widths():
    loss = build_loss("distilbert")
    out = example_outputs(loss.needs, 0, loss.outputs)
    with pytest.raises(CapabilityError, match="compares 50 words with a teacher's 49"):
        loss({**out, "teacher.word_logits": out["teacher.word_logits"][..., 1:]})
    with pytest.raises(CapabilityError, match="hidden states of width 16 with a teacher's of 15"):
        loss({**out, "teacher.word_states": out["teacher.word_states"][..., 1:]})
    without = build_loss("distilbert", cos=0)
    assert "word_states" not in without.needs and float(without(out)["loss"]) > 0


def test_a_teacher_of_another_width_is_refused_before_anything_is_computed(small_clip, write_clip):
    teacher = load_backbone(write_clip(width=12, heads=2), device="cpu")
    with pytest.raises(CapabilityError, match=r"of width 32 with a teacher's of 12; .* --set loss.distilbert.cos=0"):
        need_same_words([teacher], small_clip, build_loss("distilbert").needs, "loss distilbert")
    need_same_words([teacher], small_clip, build_loss("distilbert", cos=0).needs, "loss distilbert")


def test_words_are_asked_for_as_often_as_share_says(small_clip):
    tokens, draws = small_clip.tokenize(["a photo of a dog beside a red house"] * 40), torch.rand(40, 4, 64)
    hidden = {}
    for share in (0.15, 0.6):
        loss = build_loss("distilbert", share=share)
        made = loss.further_outputs({"tokens": tokens, "draws": draws}, small_clip)
        asked = made["word_labels"] >= 0
        assert (made["word_labels"][asked] == tokens[asked]).all()
        assert made["word_logits"].shape[-1] == small_clip.vocab_size
        hidden[share] = float(asked.sum() / small_clip.word_mask(tokens).sum())
    assert hidden[0.15] == pytest.approx(0.15, abs=0.06) and hidden[0.6] == pytest.approx(0.6, abs=0.1)


def test_negatives_are_drawn_by_their_similarity_and_never_a_positive():
    torch.manual_seed(0)
    loss = build_loss("r2d2", DIMS, layers=1, heads=2)
    generator = torch.Generator().manual_seed(1)
    images, texts = (F.normalize(torch.randn(4, 24, generator=generator), dim=1) for _ in range(2))
    ids = torch.tensor([0, 1, 2, 0])
    out = {"image_features": images, "text_features": texts, "image_ids": ids, "logit_scale": torch.tensor(4.0)}
    wanted = log_negative_weights(4 * images @ texts.T, ids[:, None] == ids).exp()
    counts = torch.zeros(4, 4)
    for _ in range(400):
        _, of_texts, has_other = loss._negatives({**out, "index": torch.arange(4)}, ranks())
        counts[torch.arange(4), of_texts] += 1
        loss.after_step(None)
    assert has_other.all()
    torch.testing.assert_close(counts / 400, wanted / wanted.sum(1, keepdim=True), atol=0.09, rtol=0)


def test_a_negative_is_drawn_where_its_share_is_too_small_for_a_float():
    loss = build_loss("r2d2", DIMS, layers=1, heads=2)
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    out = {"image_features": images, "text_features": images, "image_ids": torch.tensor([0, 0, 1])}
    out |= {"logit_scale": torch.tensor(1000.0), "index": torch.arange(3)}
    of_images, of_texts, has_other = loss._negatives(out, ranks())
    assert has_other.all() and of_images[:2].tolist() == of_texts[:2].tolist() == [2, 2]
    assert of_images[2] < 2 and of_texts[2] < 2


def test_one_image_alone_has_no_negatives_and_a_finite_loss():
    loss = build_loss("r2d2", DIMS, layers=1, heads=2)
    out = example_outputs(loss.needs, 0)
    value = loss({**out, "image_ids": torch.zeros(8, dtype=torch.int64)})["loss"]
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(p.grad).all() for p in loss.parameters() if p.grad is not None)


def ranks():
    from vladapt.core.runtime.ranks import ONE

    return ONE
