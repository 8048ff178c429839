"""Losses of words and patches: one pass of the text tower, and no padding that all texts share."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.training import model as of_model
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train


def trained(backbone, source, loss="gloria", **options):
    """The towers after two steps of a loss, what was read at each step, and how often."""
    read = []
    encode = type(backbone).run_blocks

    def counted(self, tower, x, *args, **kwargs):
        if tower == "text" and torch.is_grad_enabled():
            read.append(tuple(x.shape[:2]))
        return encode(self, tower, x, *args, **kwargs)

    backbone.run_blocks = counted.__get__(backbone)
    settings = TrainingSettings(epochs=1, batch_size=8, lr=1e-3, optimizer="sgd", warmup=0, crop_scale=(0.9, 1.0))
    done = train(backbone, TrainingTask(source, {loss: 1.0}, {loss: options}), settings, None)
    return backbone.model.state_dict(), read, done.history[0]["loss"]


def test_padding_is_cut_and_texts_are_read_once(small_clip_spec, toy_pairs, monkeypatch):
    from vladapt.core.backbones.load import load_backbone

    whole_texts = [load_backbone(small_clip_spec, device="cpu") for _ in range(2)]
    state, read, loss = trained(whole_texts[0], toy_pairs(16))
    longest = int(whole_texts[0].token_mask(whole_texts[0].tokenize(["a yellow area on the right"])).sum())
    assert read == [(8, longest)] * 2  # a pass a step, of words alone
    monkeypatch.setattr(of_model, "cut_to_longest", lambda batch: batch)
    padded, read, same = trained(whole_texts[1], toy_pairs(16))
    assert read == [(8, whole_texts[1].context_length)] * 2
    assert loss == pytest.approx(same, rel=1e-5)
    assert max(float((state[name] - padded[name]).abs().max()) for name in state) < 1e-6


def test_padding_that_a_loss_reads_stays(fresh_clip, toy_pairs):
    assert trained(fresh_clip, toy_pairs(8), "filip", mask_padding=False)[1] == [(8, fresh_clip.context_length)]


def test_features_of_that_pass_are_the_towers_own(small_clip_spec, toy_pairs):
    from vladapt.core.backbones.load import load_backbone
    from vladapt.core.training.tower_outputs import Outputs

    backbone = load_backbone(small_clip_spec, device="cpu")
    tokens = backbone.tokenize(["a red area on the left", "blue"])
    batch = {"tokens": tokens, "pixels": backbone.blank_image().expand(2, -1, -1, -1)}
    out = Outputs(backbone, {"text_tokens", "text_features", "text_embedding"}).per_sample(batch)
    assert torch.allclose(out["text_features"], backbone.encode_text(tokens), atol=1e-6)
    assert torch.allclose(out["text_embedding"], backbone.encode_text(tokens, normalize=False), atol=1e-6)
