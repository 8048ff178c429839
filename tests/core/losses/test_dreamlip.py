"""DreamLIP beside the reference's numbers, term by term, and the local term written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.caption_losses import DREAMLIP_INPUTS, dreamlip
from parity_checks.losses import logit_scale
from torch.nn.functional import normalize

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.losses.dreamlip import circle_loss, group_patches


def test_each_term_and_its_gradients_are_the_references(agrees):
    """The fixture documents the released order of texts; see the class's docstring."""
    agrees(dreamlip)


def test_the_right_order_is_the_references_on_texts_mixed_the_other_way(references):
    """The local term by default differs from the reference's number by nothing but which text meets which image."""
    for ref in references(dreamlip):
        key, out = "fine_finegrained_loss", {**ref.leaves(DREAMLIP_INPUTS), "logit_scale": logit_scale(ref)}
        options = {name: ref.setting(name) for name in ("sgl_delta", "scale_local")}
        loss = build_loss("dreamlip", clip_weight=0.0, **options)
        assert not torch.allclose(loss(out)["local"], ref[key], rtol=0.01)
        mixed = ref["texts"].transpose(0, 1).reshape(ref["texts"].shape).requires_grad_()
        value = loss({**out, "text_positives": mixed})["local"]
        value.backward()
        ref.assert_close(value, key)
        ref.assert_close(out["image_tokens"].grad, f"{key}_grad_local_image")


def local_equation(patches, texts, delta, norm, scale):
    """Zheng et al., one sentence at a time."""
    groups, sentences = [], []
    for image, captions in zip(patches, texts, strict=True):
        image = [patch / patch.norm() for patch in image]
        for caption in captions:
            caption = caption / caption.norm()
            cosines = torch.stack([caption @ patch for patch in image])
            if norm == "minmax":
                weights = (cosines - cosines.min()) / (cosines.max() - cosines.min())
            else:
                weights = cosines.exp() / cosines.exp().sum()
            kept = [w if w >= (delta if delta >= 0 else 1 / len(image)) else 0 * w for w in weights]
            group = sum(w * patch for w, patch in zip(kept, image, strict=True)) / sum(kept)
            groups.append(group / group.norm())
            sentences.append(caption)
    total = 0.0
    for i in range(len(groups)):
        own = (scale * groups[i] @ sentences[i]).exp()
        total -= (own / sum((scale * groups[i] @ s).exp() for s in sentences)).log()
        total -= (own / sum((scale * g @ sentences[i]).exp() for g in groups)).log()
    return total / (2 * len(groups))


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([(0.3, "minmax"), (-1.0, "minmax"), (-1.0, "softmax"), (0.0, "softmax")]),
)
def test_the_local_term_is_the_equation(seed, images, sentences, how):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(images, 4, 5, generator=generator, dtype=torch.float64)
    texts = normalize(torch.randn(images, sentences, 5, generator=generator, dtype=torch.float64), dim=-1)
    delta, norm = how
    loss = build_loss("dreamlip", clip_weight=0.0, sgl_delta=delta, sgl_norm=norm, scale_local=7.0).double()
    out = {"image_features": texts[:, 0], "text_positives": texts, "image_tokens": patches}
    got = loss({**out, "logit_scale": torch.tensor(1.0)})["local"]
    torch.testing.assert_close(got, local_equation(patches, texts, delta, norm, 7.0), rtol=1e-6, atol=1e-8)


def test_a_sentence_finds_its_patch():
    patches = torch.eye(4)[None] + 0.01
    group = group_patches(patches, normalize(torch.eye(4)[None, 2:3] + 0.01, dim=-1), delta=0.1, norm="minmax")
    assert group[0, 0].argmax() == 2 and group[0, 0, 2] > 0.99


def test_patches_that_are_all_alike_give_no_nan():
    patches = torch.ones(2, 3, 4, requires_grad=True)
    texts = normalize(torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    group_patches(patches, texts, delta=0.1, norm="minmax").sum().backward()
    assert torch.isfinite(patches.grad).all()


def test_within_a_sample_sentences_choose_among_its_own_groups(example_out):
    out = example_out(build_loss("dreamlip").needs)
    got = build_loss("dreamlip", local_negatives="sample", scale_local=5.0)(out)["local"]
    groups = group_patches(out["image_tokens"], out["text_positives"], 0.1, "minmax")
    total = 0.0
    for i in range(8):
        for n in range(3):
            scores = 5.0 * groups[i] @ out["text_positives"][i, n]
            total -= scores.log_softmax(dim=0)[n] / 24
    torch.testing.assert_close(got, total)


def test_the_circle_loss_pulls_own_captions_and_pushes_others():
    image = torch.eye(2)
    near, far = torch.eye(2)[:, None].expand(2, 3, 2), torch.eye(2).flip(0)[:, None].expand(2, 3, 2)
    assert circle_loss(image, near, 32.0, 0.25) < 0.2 < 10 < circle_loss(image, far, 32.0, 0.25)
    assert torch.isfinite(circle_loss(image[:1], near[:1], 32.0, 0.25))


def test_all_captions_count_alike(example_out):
    """The global term is the mean over sub-captions, in whatever order they come."""
    out = example_out(build_loss("dreamlip").needs)
    ours, turned = (
        build_loss("dreamlip")(out),
        build_loss("dreamlip")({**out, "text_positives": out["text_positives"].flip(1)}),
    )
    torch.testing.assert_close(ours["loss"], turned["loss"])
    assert not torch.allclose(ours["clip"], turned["clip"])


@pytest.mark.parametrize(
    "changed",
    [
        {"clip_weight": 0.5},
        {"local_weight": 0.5},
        {"circle_weight": 0.1},
        {"multi_positive": False},
        {"sgl_delta": 0.6},
        {"sgl_norm": "softmax"},
        {"local_negatives": "sample"},
        {"scale_local": 3.0},
        {"released_order": True},
        {"circle_weight": 0.1, "gamma": 64.0},
        {"circle_weight": 0.1, "margin": 0.5},
    ],
)
def test_each_option_changes_the_loss(changed, example_out):
    out = example_out(build_loss("dreamlip").needs)
    without = {name: value for name, value in changed.items() if name == "circle_weight" and len(changed) > 1}
    ours, other = build_loss("dreamlip", **without)(out), build_loss("dreamlip", **changed)(out)
    assert not torch.allclose(ours["loss"], other["loss"], rtol=1e-4)


def test_patches_are_needed_for_the_local_term_alone(example_out):
    out = example_out({"image_features", "text_positives", "logit_scale"})
    assert set(build_loss("dreamlip", local_weight=0.0)(out)) == {"loss", "clip", "other_captions"}
    with pytest.raises(CapabilityError, match="'image_tokens'"):
        build_loss("dreamlip")(out)


def test_the_local_scale_learns_within_its_bounds(example_out):
    loss = build_loss("dreamlip")
    loss(example_out(loss.needs))["loss"].backward()
    assert loss.log_scale_local.grad.abs() > 0
    loss.log_scale_local.data.fill_(9.0)
    loss.after_step(None)
    assert loss.log_scale_local.exp().item() == pytest.approx(100.0)


def test_gradients_by_differences():
    generator = torch.Generator().manual_seed(0)
    shapes = {"image_features": (2, 4), "text_positives": (2, 2, 4), "image_tokens": (2, 3, 4), "logit_scale": ()}
    values = [torch.randn(s, generator=generator, dtype=torch.float64).abs().requires_grad_() for s in shapes.values()]
    loss = build_loss("dreamlip").double()
    assert torch.autograd.gradcheck(lambda *given_: loss(dict(zip(shapes, given_, strict=True)))["loss"], values)


def test_weights_of_nothing_are_refused():
    with pytest.raises(ConfigError, match="clip_weight"):
        build_loss("dreamlip", clip_weight=0.0, local_weight=0.0)
