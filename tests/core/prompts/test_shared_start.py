from __future__ import annotations

import pytest
import torch

from vladapt.core.prompts.context import POSITIONS, PromptLearner, encode_sharing, is_causal

NAMES = ["sea", "polka_dotted", "X-ray", "Boeing 737-800"]
OPEN = ("prompt", "trim", "text_blocks")


def counted(backbone) -> list[int]:
    """Tokens that go through the tower's blocks, call by call."""
    tokens, run = [], backbone.run_blocks

    def run_blocks(tower, x, *args, **kwargs):
        tokens.append(x.shape[0] * x.shape[1])
        return run(tower, x, *args, **kwargs)

    backbone.run_blocks = run_blocks
    return tokens


@pytest.mark.parametrize("csc", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_sharing_changes_neither_features_nor_gradients(toy, position, csc):
    apart, shared = (
        PromptLearner(toy(OPEN), NAMES, n_ctx=6, csc=csc, position=position, share=share, seed=1)
        for share in (False, True)
    )
    for learner in (apart, shared):
        learner.encode().square().cumsum(dim=0).log().sum().backward()
    largest = float(apart.ctx.grad.abs().max())
    assert largest > 1e-3
    assert torch.allclose(apart.encode(), shared.encode(), atol=1e-5)
    assert torch.allclose(apart.ctx.grad, shared.ctx.grad, atol=1e-5 * largest, rtol=1e-5)  # sums round so


def test_sharing_runs_the_common_context_once(toy):
    backbone = toy(OPEN)
    learner = PromptLearner(backbone, NAMES, n_ctx=6)
    tokens = counted(backbone)
    learner.encode()
    length = learner.mask.shape[1]
    assert tokens == [7 + len(NAMES) * (length - 7)]


def test_towers_that_look_ahead_or_are_closed_are_not_shared(toy):
    assert is_causal(toy(OPEN), torch.randn(1, 5, 8))
    assert not is_causal(toy(OPEN, causal=False), torch.randn(1, 5, 8))
    assert not is_causal(toy(("prompt", "trim")), torch.randn(1, 5, 8))
    for backbone in (toy(OPEN, causal=False), toy(("prompt", "trim"))):
        learner = PromptLearner(backbone, NAMES, n_ctx=6)
        assert torch.equal(learner.encode(), backbone.encode_prompt(learner(), learner.mask))


def test_only_what_is_alike_may_be_shared(toy):
    """The beginning of the first prompt stands for all: with other beginnings the result is another one."""
    backbone = toy(OPEN)
    learner = PromptLearner(backbone, NAMES, n_ctx=6, csc=True)
    with torch.no_grad():
        learner.ctx.mul_(30)
        wrong = encode_sharing(backbone, learner()[None], learner.mask, 7, True)[0]
    assert torch.allclose(wrong[0], learner.encode()[0], atol=1e-5)
    assert not torch.allclose(wrong[1:], learner.encode()[1:], atol=1e-3)
