"""Hidden words are gathered by as many places as there can be of them where counting would make a GPU wait."""

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import build_loss
from vladapt.core.losses import _hidden_words
from vladapt.core.losses._hidden_words import HiddenWords, first_places, most_hidden

DIMS = {"embed_dim": 6, "text_width": 5, "vocab_size": 13}


def bounded_words(labels, share):
    """As on a GPU."""
    with mock.patch.object(_hidden_words, "places_of", first_places):
        return HiddenWords(labels, share)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 6), length=st.integers(2, 9), seed=st.integers(0, 99), share=st.floats(0.05, 1))
def test_places_are_those_of_a_mask_and_the_error_is_that_of_its_words(rows, length, seed, share):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 7, (rows, length), generator=generator)
    labels = words.where(torch.rand(rows, length, generator=generator) < share, torch.tensor(-100))
    labels[:, 1] = words[:, 1]  # one of each caption at least
    scores = torch.randn(rows * length, 7, generator=generator)
    wanted = F.cross_entropy(scores[(labels >= 0).flatten()], labels[labels >= 0], reduction="sum")
    counted, bounded = HiddenWords(labels, share), bounded_words(labels, share)
    assert torch.equal(counted.places, (labels >= 0).flatten().nonzero()[:, 0])
    first = bounded.places[: len(counted.places)]
    assert torch.equal(first, counted.places) and len(bounded.places.unique()) == len(bounded.places)
    assert torch.equal(counted.error(scores[counted.places]), wanted)
    torch.testing.assert_close(bounded.error(scores[bounded.places]), wanted)


def test_as_many_places_as_words_can_be_drawn():
    assert most_hidden(2, 3, 1.0) == most_hidden(2, 3, 0.15) == 6  # never more than there are
    assert most_hidden(64, 77, 0.15) == 64 + math.ceil(64 * 77 * 0.15 + 12 * math.sqrt(64 * 77 * 0.15 * 0.85)) < 1200
    few = HiddenWords(torch.zeros(1, 40, dtype=torch.int64))
    few.places = torch.arange(39)
    assert few.error(torch.zeros(39, 3)).isnan()  # rather than an error of some words alone


def test_as_on_another_device(monkeypatch):
    torch.manual_seed(0)
    loss = build_loss("declip", DIMS)
    labels = torch.randint(0, 13, (3, 8)).where(torch.rand(3, 8) < 0.3, torch.tensor(-100))
    out = {"masked_tokens": torch.randn(3, 8, 5, requires_grad=True), "masked_labels": labels}
    wanted = loss._hidden_words(out)
    monkeypatch.setattr(_hidden_words, "places_of", first_places)
    found = loss._hidden_words(out)
    torch.testing.assert_close(found, wanted)
    gradients = (torch.autograd.grad(each, out["masked_tokens"])[0] for each in (found, wanted))
    torch.testing.assert_close(*gradients)
    monkeypatch.undo()
    there = {name: value.to("meta") for name, value in out.items()}
    assert loss.to("meta")._hidden_words(there).shape == ()  # it has no values, so nothing can ask for one
    with pytest.raises((NotImplementedError, RuntimeError)):
        there["masked_tokens"][there["masked_labels"] >= 0]
