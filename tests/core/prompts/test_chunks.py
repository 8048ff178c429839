from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import ConfigError
from vladapt.core.prompts.context import POSITIONS, PromptLearner, TokenLayout

NAMES = ["sea", "polka_dotted", "X-ray", "Boeing 737-800", "a rather long name of a thing", "cat"]
OPEN = ("prompt", "trim", "text_blocks")


def watched(backbone) -> list[tuple[int, int]]:
    """(prompts, length) of what is embedded, call by call."""
    calls, embed = [], backbone.embed_tokens

    def embed_tokens(tokens):
        calls.append(tuple(tokens.shape))
        return embed(tokens)

    backbone.embed_tokens = embed_tokens
    return calls


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 13), st.booleans())
def test_chunks_give_what_one_pass_gives(lengths, chunk, recompute):
    weight = torch.randn(len(lengths), 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    sizes = []

    def encode(rows):
        sizes.append(len(rows))
        return weight[rows].exp()[None]

    rows = torch.arange(len(lengths)).flip(0)
    made = PromptLearner.encoded_in_chunks(encode, rows, torch.tensor(lengths), chunk, recompute=recompute)
    assert torch.equal(made, weight[rows].exp()[None])
    assert max(sizes) <= chunk and sum(sizes) == len(lengths)
    made.sum().backward()
    assert torch.equal(weight.grad, weight.detach().exp())
    assert sum(sizes) == len(lengths) * (2 if recompute else 1)


def test_nothing_is_run_again_where_no_gradient_is_wanted():
    weight, rows = torch.ones(4, 3, requires_grad=True), torch.arange(4)
    with torch.no_grad():
        made = PromptLearner.encoded_in_chunks(lambda part: weight[part], rows, torch.ones(4), 2, recompute=True)
    assert not made.requires_grad and torch.equal(made, weight)


@pytest.mark.parametrize("options", [{"class_chunk": 2}, {"class_chunk": 4, "checkpointing": True}], ids=str)
@pytest.mark.parametrize("capabilities", [("prompt",), ("prompt", "trim"), OPEN], ids=str)
@pytest.mark.parametrize("csc", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_features_and_gradients_do_not_depend_on_the_chunks(toy, position, csc, capabilities, options):
    whole, chunked = (
        PromptLearner(toy(capabilities), NAMES, n_ctx=3, csc=csc, position=position, seed=1, **given)
        for given in ({}, options)
    )
    for learner in (whole, chunked):
        learner.encode().cumsum(dim=0).sin().sum().backward()
    assert whole.ctx.grad.abs().max() > 1e-3
    assert torch.allclose(whole.encode(), chunked.encode(), atol=1e-6)
    assert torch.allclose(whole.ctx.grad, chunked.ctx.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("csc", [False, True])
def test_some_classes_are_encoded_alone(toy, csc):
    backbone = toy(OPEN)
    learner = PromptLearner(backbone, NAMES, n_ctx=3, csc=csc)
    rows = torch.tensor([3, 0, 5])
    calls = watched(backbone)
    some = learner.encode(rows=rows)
    assert sum(prompts for prompts, _ in calls) == 3
    assert torch.allclose(some, learner.encode()[rows], atol=1e-6)
    assert torch.equal(learner(rows), learner()[rows])


@pytest.mark.parametrize("options", [{}, {"class_chunk": 3}, {"class_chunk": 2, "checkpointing": True}], ids=str)
@pytest.mark.parametrize("capabilities", [("prompt", "trim"), OPEN], ids=str)
@pytest.mark.parametrize("position", POSITIONS)
def test_several_contexts_at_once_are_each_context_alone(toy, position, capabilities, options):
    learner = PromptLearner(toy(capabilities), NAMES, n_ctx=3, position=position, **options)
    ctx = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(3), requires_grad=True)
    each = learner.encode_each(ctx)
    alone = torch.stack([PromptLearner(toy(capabilities), NAMES, position=position, ctx=one).encode() for one in ctx])
    assert each.shape == (2, len(NAMES), 6)
    assert torch.allclose(each, alone, atol=1e-6)
    each[1].cumsum(dim=0).sin().sum().backward()
    own = PromptLearner(toy(capabilities), NAMES, position=position, ctx=ctx[1])
    own.encode().cumsum(dim=0).sin().sum().backward()
    assert torch.allclose(ctx.grad[1], own.ctx.grad, atol=1e-5, rtol=1e-5)
    assert ctx.grad[0].abs().max() == 0


def test_chunks_hold_prompts_of_like_length_and_are_cut_to_them(toy):
    backbone = toy(OPEN)
    learner = PromptLearner(backbone, NAMES, n_ctx=3, class_chunk=2)
    lengths = sorted(learner.mask.sum(dim=1).tolist())
    calls = watched(backbone)
    with torch.no_grad():
        learner.encode()
    assert calls == [(2, lengths[1]), (2, lengths[3]), (2, lengths[5])]
    assert lengths[1] < lengths[5]


def test_how_many_go_at_once_unless_told(toy):
    backbone = toy(OPEN)
    learner = PromptLearner(backbone, ["sea"] * 2000, n_ctx=3)
    length = learner.mask.shape[1]
    calls = watched(backbone)
    learner.encode()  # for a backward pass that keeps all of it anyway
    assert calls == [(2000, length)]
    calls.clear()
    with torch.no_grad():
        learner.encode()
    assert calls[0] == (TokenLayout.CHUNK_TOKENS // length, length) and len(calls) > 2
    calls.clear()
    with torch.no_grad():
        learner.encode_each(learner.ctx[None].expand(10, -1, -1))
    assert calls[0] == (TokenLayout.CHUNK_TOKENS // length // 10, length)


def test_no_embeddings_are_kept(toy):
    learner = PromptLearner(toy(), NAMES, n_ctx=3)
    assert all(not buffer.is_floating_point() for buffer in learner.buffers())


def test_a_chunk_is_a_number_of_prompts(toy):
    with pytest.raises(ConfigError, match="class_chunk"):
        PromptLearner(toy(), NAMES, class_chunk=0)
