"""Losses of this domain that hide words ask no device how many it hid: they run where nothing has a value."""

import torch

from vladapt import build_loss
from vladapt.core.runtime.ranks import ONE

DIMS = {"embed_dim": 16, "text_width": 5, "vocab_size": 13, "num_labels": 3}


def on_meta(out):
    return {name: value.to("meta") for name, value in out.items()}


def test_words_found_by_looking_and_by_reading():
    words = torch.randint(0, 13, (4, 6)).where(torch.rand(4, 6) < 0.4, torch.tensor(-100))
    looked = {"image_embedding": torch.zeros(4, 16), "image_tokens": torch.zeros(4, 3, 16)}
    looked |= {"hidden_caption": torch.zeros(4, 6, 16), "hidden_words": words}
    looking = build_loss("masked-words", DIMS, width=8, depth=1).to("meta")
    assert looking.compute_rows(on_meta(looked), ONE, 0.0)["loss"].shape == ()
    read = {"masked_tokens": torch.zeros(4, 6, 5), "masked_labels": words}
    reading = build_loss("unipt", DIMS, contrast=0, patches=0).to("meta")
    assert reading.compute_rows(on_meta(read), ONE, 0.0)["loss"].shape == ()


def test_words_of_plip(fresh_clip):
    loss = build_loss("plip", DIMS, identity=0, colours=0)
    loss.prepare(fresh_clip)
    tokens = fresh_clip.tokenize(["a red coat", "a hat"])
    batch = {"tokens": tokens, "draws": torch.rand(2, 4, tokens.shape[1]), "pixels": torch.zeros(2, 3, 32, 32)}
    here = loss.further_outputs(batch, fresh_clip)["word_errors"]
    fresh_clip.model.to("meta")
    fresh_clip.device = torch.device("meta")
    assert loss.to("meta").further_outputs(on_meta(batch), fresh_clip)["word_errors"].shape == here.shape == (2, 1)
