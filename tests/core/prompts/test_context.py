from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.prompts.classifier import arrange
from vladapt.core.prompts.context import POSITIONS, PromptLearner

NAMES = ["sea", "polka_dotted", "X-ray", "Boeing 737-800"]


def coop_text_features(backbone, ctx: torch.Tensor, position: str) -> torch.Tensor:
    """CoOp's prompt, written out class by class in float64: (C, D), not normalised."""
    features = []
    m = ctx.shape[-2]
    for c, name in enumerate(n.replace("_", " ") for n in NAMES):
        tokens = backbone.tokenize([" ".join(["X"] * m) + f" {name}."])
        words = backbone.words[tokens].double()  # (1, L, W)
        name_length = int((backbone.tokenize([name]) == 399).int().argmax()) - backbone.lead
        v = (ctx if ctx.ndim == 2 else ctx[c])[None]
        begin = backbone.lead
        prefix, suffix = words[:, :begin], words[:, begin + m :]
        if position == "end":
            row = [prefix, v, suffix]
        elif position == "middle":
            row = [prefix, v[:, : m // 2], suffix[:, :name_length], v[:, m // 2 :], suffix[:, name_length:]]
        else:
            row = [prefix, suffix[:, :name_length], v, suffix[:, name_length:]]
        features.append(backbone.tower(torch.cat(row, dim=1), backbone.token_mask(tokens)))
    return torch.cat(features)


def cross_entropy(text: torch.Tensor) -> torch.Tensor:
    """Of six fixed images."""
    images = torch.randn(6, text.shape[1], generator=torch.Generator().manual_seed(5)).to(text.dtype)
    logits = 20 * F.normalize(images, dim=-1) @ F.normalize(text, dim=-1).T
    return F.cross_entropy(logits, torch.arange(6) % len(text))


@pytest.mark.parametrize("lead", [0, 1, 2])
@pytest.mark.parametrize("csc", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_features_and_gradients_are_those_of_coop_written_out(toy, position, csc, lead):
    backbone = toy(lead=lead)
    learner = PromptLearner(backbone, NAMES, n_ctx=5, csc=csc, position=position, seed=3)
    with torch.no_grad():
        learner.ctx.mul_(20)
    ctx = learner.ctx.detach().double().requires_grad_()
    want = coop_text_features(backbone, ctx, position)
    assert torch.allclose(learner.encode(normalize=False).double(), want, atol=1e-5)
    cross_entropy(want).backward()
    cross_entropy(learner.encode()).backward()
    assert ctx.grad.abs().max() > 1e-3
    assert torch.allclose(learner.ctx.grad.double(), ctx.grad, atol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_trimming_changes_neither_features_nor_gradients(toy, position):
    whole, cut = (PromptLearner(toy(), NAMES, n_ctx=4, position=position, trim=trim, seed=1) for trim in (False, True))
    assert whole().shape[1] == 24
    assert cut().shape[1] == int(whole.mask.sum(dim=1).max()) < 24
    for learner in (whole, cut):
        cross_entropy(learner.encode()).backward()
    assert torch.allclose(whole.encode(), cut.encode(), atol=1e-6)
    assert torch.allclose(whole.ctx.grad, cut.ctx.grad, atol=1e-6)


def test_a_tower_that_may_not_be_trimmed_is_not(toy):
    assert PromptLearner(toy(["prompt"]), NAMES, n_ctx=4)().shape[1] == 24


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(POSITIONS),
    st.integers(1, 6),
    st.integers(0, 2),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_every_token_and_every_context_vector_has_one_place(position, n_ctx, lead, lengths):
    order, slots = arrange(position, torch.tensor(lengths), n_ctx, lead, 14)
    for row, places, length in zip(order.tolist(), slots.tolist(), lengths):
        assert len(set(places)) == n_ctx
        kept = [source for place, source in enumerate(row) if place not in places]
        assert kept == [*range(lead), *range(lead + n_ctx, 14)]
        before = sum(place < row.index(lead + n_ctx + length - 1) for place in places)
        assert before == {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]


def test_ctx_init_starts_from_its_words_and_sets_the_length(toy):
    backbone = toy()
    learner = PromptLearner(backbone, NAMES, n_ctx=16, ctx_init="a_photo of a")
    tokens = backbone.tokenize(["a photo of a"])
    assert learner.ctx.shape == (5, 8)  # "photo" takes two tokens here
    assert torch.equal(learner.ctx.data, backbone.words[tokens[0, 1:6]])
    texts = [f"a photo of a {n.replace('_', ' ')}." for n in NAMES]
    assert torch.allclose(learner.encode(), backbone.encode_text(texts), atol=1e-6)
    own = PromptLearner(backbone, NAMES, csc=True, ctx_init="a photo of a")
    assert own.ctx.shape == (4, 5, 8)
    assert torch.allclose(own.encode(), learner.encode(), atol=1e-6)


def test_random_start_is_small_seeded_and_one_a_class_where_asked(toy):
    first, again, other = (PromptLearner(toy(), NAMES, seed=s, n_ctx=9).ctx for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    many = PromptLearner(toy(context_length=80), NAMES, n_ctx=60, csc=True).ctx
    assert many.shape == (4, 60, 8)
    assert many.std().item() == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(many[0], many[1])


def test_a_given_context_is_used(toy):
    ctx = torch.ones(3, 8)
    assert torch.equal(PromptLearner(toy(), NAMES, n_ctx=16, ctx=ctx).ctx.data, ctx)


def test_only_the_context_is_trained_and_saved(toy):
    learner = PromptLearner(toy(), NAMES, n_ctx=2)
    assert [name for name, _ in learner.named_parameters()] == ["ctx"]
    assert list(learner.state_dict()) == ["ctx"]


def test_a_tokenizer_that_pads_with_its_end_of_text_token_is_understood(toy):
    plain, odd = (PromptLearner(toy(pad=pad), NAMES, n_ctx=4, position="front") for pad in (0, 399))
    assert torch.allclose(plain.encode(), odd.encode(), atol=1e-6)


def test_a_tokenizer_that_splits_the_first_word_otherwise_is_understood(toy):
    class Marked(toy):
        def tokenize(self, texts):
            return super().tokenize([text.replace(" ", " xx") for text in texts])

    backbone = Marked()
    learner = PromptLearner(backbone, ["sea", "lake"], n_ctx=2, position="front")
    words = backbone.words[backbone.tokenize(["X X sea."])][0]
    assert torch.equal(learner()[0][1:3], words[3:5])  # "xxsea" takes two tokens, "sea" one
    assert torch.equal(learner()[0][3:5], learner.ctx)


def test_a_name_that_does_not_fit_is_named_with_what_to_do(toy):
    room = 24 - 2 - 1 - 16
    assert PromptLearner(toy(), ["abc " * room, "sea"]).mask.all(dim=1).any()
    with pytest.raises(ConfigError, match=r"the class text 'way .* takes 6 tokens, 5 are left .*beside 16 .*n_ctx"):
        PromptLearner(toy(), ["sea", "way too long for the room"])
    with pytest.raises(ConfigError, match="0 are left"):
        PromptLearner(toy(), ["sea"], n_ctx=50)
    with pytest.raises(ConfigError, match=r"shorten .*ctx_init"):
        PromptLearner(toy(), ["sea"], ctx_init="word " * 30)


def test_what_cannot_be_is_refused(toy):
    with pytest.raises(CapabilityError, match=r"'toy' has no embed_tokens.*open_clip"):
        PromptLearner(toy([]), NAMES)
    with pytest.raises(ConfigError, match=r"position.*end, middle or front"):
        PromptLearner(toy(), NAMES, position="start")
    with pytest.raises(ConfigError, match="n_ctx"):
        PromptLearner(toy(), NAMES, n_ctx=0)
    with pytest.raises(ConfigError, match="ctx_init"):
        PromptLearner(toy(), NAMES, ctx_init=" ")
    with pytest.raises(DataError, match="no class names"):
        PromptLearner(toy(), [])


def test_a_tokenizer_without_a_token_for_the_placeholder_is_refused(toy):
    class Syllables(toy):
        def tokenize(self, texts):
            return super().tokenize([text.replace("X", "exists") for text in texts])

    with pytest.raises(CapabilityError, match="no token for 'X'"):
        PromptLearner(Syllables(), NAMES)
