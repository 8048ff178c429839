"""Classification by cosines with texts: the formula, its options, and what new names change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.domains.open_vocab.modules.classifiers.cosine import CosineTextClassifier, classifier_of
from vladapt.domains.open_vocab.text_embeddings import set_classes

NAMES = "cat, dog, lake"


@pytest.fixture
def classifier(small_clip_spec):
    """in_channels, options -> a classifier with seeded weights, D = 24."""

    def make(in_channels: int = 16, classes: str = NAMES, **options):
        torch.manual_seed(0)
        made = CosineTextClassifier(in_channels, small_clip_spec, classes, **options)
        for parameter in () if made.projection is None else (made.projection.bias,):
            torch.nn.init.normal_(parameter, std=0.1)
        return made

    return make


def features(channels: int = 16, *shape: int):
    return torch.randn(*(shape or (5,)), channels, generator=torch.Generator().manual_seed(1))


def test_logits_are_scaled_cosines_of_the_projection(classifier):
    for width in (16, 32):  # narrower and wider than the texts, which are computed in two ways
        made = classifier(width, temperature=0.1)
        projected = F.linear(features(width), made.projection.weight, made.projection.bias)
        texts = made.text.embeddings
        expected = 10 * F.cosine_similarity(projected[:, None], texts[None], dim=-1)
        torch.testing.assert_close(made(features(width)), expected, atol=1e-5, rtol=1e-5)
        assert made(features(width)).shape == (5, 3)


@pytest.mark.parametrize("anchors", [1, 3])
def test_narrow_features_have_the_same_gradients_without_their_embeddings(classifier, anchors):
    made = classifier(anchors=anchors, background="learned")
    x = features(16, 4, 7).requires_grad_()
    direct = (made.scale * (made.embed(x) @ made.rows().T)).flatten(-2)
    torch.testing.assert_close(made(x), direct, atol=1e-4, rtol=1e-4)
    wanted = [x, *made.parameters()]
    weight = torch.linspace(-1, 1, direct.numel()).view_as(direct)
    for mine, theirs in zip(
        torch.autograd.grad((made(x) * weight).sum(), wanted), torch.autograd.grad((direct * weight).sum(), wanted)
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_each_anchor_has_an_embedding_of_its_own(classifier):
    made = classifier(anchors=2)
    logits = made(features())
    assert logits.shape == (5, 6)
    assert made.embed(features()).shape == (5, 2, 24)
    torch.testing.assert_close(made.embed(features()).norm(dim=-1), torch.ones(5, 2))
    assert (logits[:, :3] - logits[:, 3:]).abs().max() > 0.1


def test_maps_are_classified_cell_by_cell(classifier):
    made = classifier(anchors=2)
    x = features(16, 2, 3, 4)
    torch.testing.assert_close(made.on_map(x.permute(0, 3, 1, 2)), made(x).permute(0, 3, 1, 2))


def test_an_mlp_has_a_hidden_layer(classifier):
    made = classifier(projection="mlp", hidden_channels=20)
    assert made.projection.in_features == 20
    x = F.gelu(made.hidden[0](features()))
    expected = made.scale * F.normalize(made.projection(x), dim=-1) @ made.text().T
    torch.testing.assert_close(made(features()), expected, atol=1e-4, rtol=1e-4)


def test_features_in_the_space_of_texts_need_no_projection(classifier):
    made = classifier(24, projection="none", temperature=0.5)
    assert list(made.parameters()) == []
    assert made(7 * made.text()).diagonal().tolist() == pytest.approx([2.0] * 3)


def test_a_background_comes_after_the_classes(classifier):
    plain, learned, zeros = (classifier(background=each) for each in (None, "learned", "zeros"))
    learned.projection.load_state_dict(plain.projection.state_dict())
    zeros.projection.load_state_dict(plain.projection.state_dict())
    for made in (learned, zeros):
        torch.testing.assert_close(made(features())[:, :3], plain(features()))
    assert zeros(features())[:, 3].abs().max() == 0
    assert learned(features())[:, 3].abs().max() > 0.1
    F.cross_entropy(learned(features()), torch.full((5,), 3)).backward()
    assert learned.background_embedding.grad.abs().max() > 0


def test_a_class_that_names_the_background_is_replaced_where_it_stands(classifier):
    options = {"background": "zeros", "background_class": "background"}
    made = classifier(classes="cat, background, dog", **options)
    logits = made(features())
    assert logits.shape == (5, 3)
    assert logits[:, 1].abs().max() == 0
    assert logits[:, 2].abs().max() > 0.1
    set_classes(made, "cat, lake")  # none of them is the background
    assert made(features()).shape == (5, 2)
    assert made(features()).abs().min() > 0


def test_temperature_trains_if_asked_and_stays_in_bounds(classifier):
    fixed, learned = classifier(temperature=0.1), classifier(temperature=0.1, learn_temperature=True)
    torch.testing.assert_close(fixed(features()), learned(features()))
    assert not any("scale" in name for name, _ in fixed.named_parameters())
    learned(features()).square().sum().backward()
    assert learned.log_scale.grad != 0
    with torch.no_grad():
        learned.log_scale.fill_(9.0)
    assert learned.scale == 100
    assert float(classifier(temperature=0.001, learn_temperature=True).scale) == pytest.approx(1000)


def test_a_prior_is_a_bias_that_all_classes_share(classifier):
    made, plain = classifier(prior=0.01), classifier()
    torch.testing.assert_close((made(features()) - plain(features())).sigmoid(), torch.full((5, 3), 0.01))
    assert made.logit_bias.shape == ()


def test_other_names_other_columns(classifier):
    made = classifier(background="learned")
    before = made(features())
    set_classes(made, "lake, cat, dog, sea")
    after = made(features())
    assert after.shape == (5, 5)
    torch.testing.assert_close(after[:, [1, 2, 0, 4]], before)


def test_templates_change_the_texts(classifier):
    assert (classifier(templates="name")(features()) - classifier()(features())).abs().max() > 1e-3


def test_checkpoints_hold_no_text_tower_and_serve_other_names(classifier):
    saved = classifier(background="learned")
    assert set(saved.state_dict()) == {
        "background_embedding", "projection.weight", "projection.bias", "text.embeddings"
    }  # fmt: skip
    for classes in ("lake, sea, dog, cat", "lake, sea, dog"):  # more, and as many
        other = classifier(classes=classes, background="learned")
        texts = other.text.embeddings.clone()
        with torch.no_grad():
            other.projection.weight.zero_()
        other.load_state_dict(saved.state_dict())
        assert torch.equal(other.text.embeddings, texts)
        column = other.text.names.index("lake")
        torch.testing.assert_close(other(features())[:, column], saved(features())[:, 2])


def test_logits_are_float32_in_16_bits(classifier):
    made = classifier(projection="mlp")
    with torch.autocast("cpu", torch.bfloat16):
        logits = made(features())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, made(features()), atol=1.0, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"projection": "conv"}, "linear, mlp, none"),
        ({"projection": "none"}, "24; give 'linear'"),
        ({"background": "text"}, "learned, zeros"),
        ({"background_class": "background"}, "give background too"),
        ({"hidden_channels": 8}, "mlp"),
        ({"temperature": 0}, "above 0"),
        ({"prior": 1.0}, "below 1"),
    ],
)
def test_options_out_of_range_are_said(classifier, options, says):
    with pytest.raises(ConfigError, match=says):
        classifier(**options)


def test_what_a_config_leaves_out_or_misspells_is_said(small_clip_spec):
    with pytest.raises(ConfigError, match="Head: classifier names no backbone and no classes"):
        classifier_of("Head", None, 8)
    with pytest.raises(UnknownNameError, match="did you mean temperature"):
        classifier_of("Head", {"backbone": small_clip_spec, "classes": "a, b", "temperatur": 1}, 8)
