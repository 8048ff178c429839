"""The tokens of texts that losses on words compare: padding is not computed, and has a place all the same."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.training.parts import Parts
from vladapt.core.training.samples import length_field, lengths_of
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.tower_outputs import Outputs
from vladapt.core.training.train import Task

WORDS = {"text_tokens", "text_mask"}


@pytest.fixture
def batch(small_clip):
    tokens = small_clip.tokenize(["a red area on the left", "blue"])
    return {"tokens": tokens, length_field("tokens"): lengths_of(tokens, small_clip.token_mask)}


def test_padding_behind_the_longest_text_is_not_computed(small_clip, batch, monkeypatch):
    widths = []
    made = type(small_clip).text_tokens
    monkeypatch.setattr(
        type(small_clip), "text_tokens", lambda self, t, *more: widths.append(t.shape[1]) or made(self, t, *more)
    )
    outputs, longest = Outputs(small_clip, WORDS), int(batch[length_field("tokens")].max())
    with torch.no_grad():
        trimmed = outputs.per_sample(batch)
        whole = outputs.per_sample({"tokens": batch["tokens"]})
        told = outputs.per_sample({**batch, length_field("tokens"): longest})  # of compiled towers
    assert widths == [longest, small_clip.context_length, longest] and longest < small_clip.context_length
    mask = whole["text_mask"]
    for one in (trimmed, told):
        assert one["text_tokens"].shape == whole["text_tokens"].shape and torch.equal(one["text_mask"], mask)
        torch.testing.assert_close(one["text_tokens"][mask], whole["text_tokens"][mask])
        assert not one["text_tokens"][:, longest:].any() and whole["text_tokens"][:, longest:].any()


@pytest.mark.parametrize(
    ("losses", "options", "padding"),
    [
        ({"gloria": 1.0}, {}, False),
        ({"filip": 1.0}, {}, False),
        ({"gloria": 1.0, "filip": 1.0}, {"filip": {"mask_padding": False}}, True),
    ],
)
def test_padding_is_computed_for_losses_that_read_it(fresh_clip, toy_pairs, batch, losses, options, padding):
    task = Task(toy_pairs(), losses, options)
    outputs = Parts(fresh_clip, task, TrainingSettings(epochs=1, batch_size=8)).outputs
    longest = int(batch[length_field("tokens")].max())
    with torch.no_grad():
        tokens = outputs._text_tokens(batch["tokens"], batch[length_field("tokens")])
    assert bool(tokens[:, longest:].any()) == padding
