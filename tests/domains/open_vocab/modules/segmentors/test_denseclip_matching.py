"""How DenseCLIP's texts meet its pixels: the reference's numbers, prompts, and what every option does."""

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.modules.segmentors.denseclip.context import ContextDecoder
from vladapt.domains.open_vocab.modules.segmentors.denseclip.matching import PixelTextMatching, cosine_map
from vladapt.domains.open_vocab.modules.segmentors.denseclip.parts import with_score_maps
from vladapt.domains.open_vocab.modules.segmentors.denseclip.prompts import ClassPrompts
from vladapt.domains.open_vocab.vocabulary import Vocabulary, text_backbone

DECODER = {"width": 16, "heads": 2, "layers": 1, "dropout": 0.0}


def matching(spec, names="cat, dog", **options):
    torch.manual_seed(0)
    options = {"decoder": DECODER, **options}
    return PixelTextMatching(spec, Vocabulary.of(names, "name"), 24, **options).eval()


@pytest.fixture
def seen():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 24, generator=generator), torch.randn(2, 24, 3, 4, generator=generator)


# The published numbers ------------------------------------------------------------------------------------------------


def test_texts_that_saw_the_image_and_score_maps_are_the_references(references):
    for ref in references("denseclip"):
        names = {"width": "transformer_width", "heads": "heads", "layers": "layers"}
        options = {ours: ref.setting(theirs) for ours, theirs in names.items()}
        decoder = ContextDecoder(ref.setting("visual_dim"), **options).eval()
        decoder.load_state_dict({name[2:]: value for name, value in ref.tensors.items() if name.startswith("w.")})
        places, level = ref["visual_embeddings"], ref.setting("score_concat_index")
        visual = torch.cat([ref["global_feature"][:, None], places.flatten(2).transpose(1, 2)], dim=1)
        bare = PixelTextMatching.__new__(PixelTextMatching)
        torch.nn.Module.__init__(bare)
        bare.gamma, bare.context_decoder = ref["gamma"], decoder
        texts = bare.texts_after(ref["text"].expand(len(places), -1, -1), visual)
        scores = cosine_map(places, texts)
        maps = [*torch.zeros(level, 1), ref["x_last"]]
        ref.assert_close(texts, "text_after")
        ref.assert_close(scores, "score_map")
        ref.assert_close(with_score_maps(maps, scores, level)[level], "x_last_concat")


def test_defaults_are_the_published_ones(small_clip_spec):
    made = PixelTextMatching(small_clip_spec, Vocabulary.of("cat", "name"), 24)
    assert made.prompting == "after" and made.contexts.shape == (1, 8, 32)
    assert 0.5 < made.contexts.std() < 1.2 and made.contexts.abs().max() <= 2
    assert torch.equal(made.gamma, torch.full((24,), 1e-4))
    decoder = made.context_decoder
    assert decoder.text_proj[1].out_features == 256 and len(decoder.decoder) == 3
    assert decoder.decoder[0].self_attn.heads == 4 and decoder.decoder[0].dropout.p == 0.1


# Prompts ------------------------------------------------------------------------------------------------------------


def test_contexts_stand_between_the_start_and_the_name(small_clip_spec):
    tower = text_backbone(small_clip_spec)
    contexts = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    tokens = tower.tokenize(["red car"])
    words = tower.embed_tokens(tokens)
    length = int(tower.token_mask(tokens).sum())
    prompts = ClassPrompts(small_clip_spec, Vocabulary.of("red_car, dog", "name"), n_ctx=3)
    for context, ours in zip(contexts, prompts(contexts)):
        by_hand = torch.cat([words[:, :1], context[None], words[:, 1:length]], dim=1)
        expected = tower.encode_prompt(by_hand, torch.ones(1, length + 3, dtype=torch.bool), normalize=False)
        torch.testing.assert_close(ours[0], expected[0], atol=1e-5, rtol=1e-4)


def test_a_class_of_several_texts_has_their_mean(small_clip_spec):
    contexts = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(0))
    several = ClassPrompts(small_clip_spec, Vocabulary.of({"cat": {"synonyms": ["tiger"]}}, "name"), n_ctx=2)
    apart = ClassPrompts(small_clip_spec, Vocabulary.of("cat, tiger", "name"), n_ctx=2)
    torch.testing.assert_close(several(contexts)[0, 0], apart(contexts)[0].mean(dim=0), atol=1e-5, rtol=1e-4)


def test_gradients_and_no_gradients_give_the_same_features(small_clip_spec):
    contexts = torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(0))
    prompts = ClassPrompts(small_clip_spec, Vocabulary.of("cat, red fire truck", "name"), n_ctx=2)
    with torch.no_grad():
        chunked = prompts(contexts)
    torch.testing.assert_close(prompts(contexts), chunked, atol=1e-5, rtol=1e-4)


def test_a_text_that_leaves_no_room_is_named(small_clip_spec):
    with pytest.raises(ConfigError, match=r"'(a ?){70}' takes 72 tokens, 69 are left beside n_ctx=8"):
        ClassPrompts(small_clip_spec, Vocabulary.of([" ".join(["a"] * 70)], "name"))


# Matching -----------------------------------------------------------------------------------------------------------


def test_the_image_changes_texts_after_and_before_but_not_without(small_clip_spec, seen):
    for prompting, sees in (("after", True), ("before", True), ("none", False)):
        with torch.no_grad():
            texts = matching(small_clip_spec, prompting=prompting, gamma=1.0)(*seen)[0]
        assert torch.allclose(texts[0], texts[1], atol=1e-6) != sees, prompting


def test_gamma_zero_leaves_out_what_the_image_says(small_clip_spec, seen):
    with torch.no_grad():
        without = matching(small_clip_spec, gamma=0.0)(*seen)[1]
        plain = matching(small_clip_spec, prompting="none")(*seen)[1]
        seeing = matching(small_clip_spec, gamma=1.0)(*seen)[1]
    torch.testing.assert_close(without, plain)
    assert not torch.allclose(seeing, plain, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 4},
        {"context_std": 0.1},
        {"gamma": 0.5},
        {"prompting": "before"},
        {"decoder": {**DECODER, "width": 32}},
        {"decoder": {**DECODER, "heads": 4}},
        {"decoder": {**DECODER, "layers": 2}},
    ],
    ids=str,
)
def test_every_option_of_the_matching_changes_its_scores(small_clip_spec, seen, options):
    with torch.no_grad():
        before = matching(small_clip_spec, gamma=1.0)(*seen)[1]
        after = matching(small_clip_spec, **{"gamma": 1.0, **options})(*seen)[1]
    assert not torch.allclose(before, after, atol=1e-6)


def test_dropout_acts_in_training(small_clip_spec, seen):
    learns = matching(small_clip_spec, gamma=1.0, decoder={**DECODER, "dropout": 0.5})
    calm = learns(*seen)[1]
    assert torch.equal(calm, learns(*seen)[1])
    assert not torch.equal(calm, learns.train()(*seen)[1])


@pytest.mark.parametrize("prompting", ["after", "before", "none"])
def test_every_parameter_learns_through_the_frozen_text_tower(small_clip_spec, seen, prompting):
    learns = matching(small_clip_spec, prompting=prompting)
    learns(*seen)[1].square().sum().backward()
    assert all(parameter.grad is not None for parameter in learns.parameters())
    context = learns.context_queries if prompting == "before" else learns.contexts
    assert context.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in text_backbone(small_clip_spec).model.parameters())


def test_texts_are_read_once_between_predictions_and_again_once_they_changed(small_clip_spec, seen, monkeypatch):
    learned, calls = matching(small_clip_spec), []
    encode = learned.prompts._encode
    monkeypatch.setattr(learned.prompts, "_encode", lambda contexts: calls.append(1) or encode(contexts))
    with torch.no_grad():
        first = learned(*seen)[1]
        assert torch.equal(learned(*seen)[1], first) and len(calls) == 1
        learned.contexts.add_(1)  # as an optimiser does
        changed = learned(*seen)[1]
        assert not torch.allclose(changed, first) and len(calls) == 2
        learned.contexts.data.sub_(1)  # as averaged weights are swapped in
        torch.testing.assert_close(learned.eval()(*seen)[1], first, atol=1e-5, rtol=1e-4)
        learned.take(Vocabulary.of("bus, tree", "name"))
        assert not torch.allclose(learned(*seen)[1], first)


def test_bad_options_are_named(small_clip_spec):
    for options, line in (
        ({"prompting": "both"}, 'option prompting="both" is not usable; there are after, before, none'),
        ({"n_ctx": 0}, "option n_ctx=0 is not usable"),
        ({"context_std": 0}, "option context_std=0 is not usable"),
        ({"decoder": {"width": 10, "heads": 4}}, "option heads=4 is not usable"),
        ({"decoder": {"dropout": 1.0}}, "option dropout=1.0 is not usable"),
        ({"decoder": {"layers": 0}}, "option layers=0 is not usable"),
    ):
        with pytest.raises(ConfigError, match=line):
            matching(small_clip_spec, **options)
