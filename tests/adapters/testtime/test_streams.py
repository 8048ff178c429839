"""Streams: what each image finds, what an image outside the stream leaves behind, and their orders."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.contracts import FeatureSet
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import build_adapter, load_adapter

STREAMS = ("dmn", "onzeta", "tda")
HARD = {"noise": 1.6, "dim": 24}


@pytest.fixture(scope="module")
def task(make_task):
    return make_task(**HARD)


def streamed(name, images, text, *, seed=0, **options):
    adapter = build_adapter(name, **options)
    adapter.report = adapter.fit(None, text, unlabeled=images.without_labels(), seed=seed)
    return adapter


@pytest.mark.parametrize("name", STREAMS)
def test_images_that_come_next_are_as_if_the_stream_had_been_longer(task, name):
    whole = streamed(name, task.test, task.text, shuffle=False)
    first = streamed(name, task.test.select(list(range(25))), task.text, shuffle=False)
    if name == "onzeta":
        first.length = whole.length  # its weights depend on how long the stream is going to be
        first.proxies, first.rho, first.seen = first.text.clone(), torch.zeros(len(first.text)), 0
        first.stream(task.test.features[:25])
    torch.testing.assert_close(first.stream(task.test.features[25:]), whole.logits(task.test)[25:])


@pytest.mark.parametrize("name", STREAMS)
def test_an_image_outside_the_stream_is_answered_as_the_next_and_leaves_nothing(task, name):
    adapter = streamed(name, task.test, task.text)
    before = {each: getattr(adapter, each).clone() for each in adapter.memory}
    outside = adapter.logits(task.val)
    assert adapter.seen == len(task.test)
    assert all(torch.equal(getattr(adapter, each), value) for each, value in before.items())
    torch.testing.assert_close(outside.flip(0), adapter.logits(task.val.features.flip(0)))
    torch.testing.assert_close(adapter.stream(task.val.features)[:1], outside[:1])
    assert adapter.seen == len(task.test) + len(task.val) and not torch.equal(adapter.logits(task.val), outside)


@pytest.mark.parametrize("name", STREAMS)
def test_the_seed_draws_the_order_and_the_order_counts(task, name):
    seeds = [streamed(name, task.test, task.text, seed=seed).logits(task.test) for seed in (0, 0, 1)]
    assert torch.equal(seeds[0], seeds[1]) and not torch.allclose(seeds[0], seeds[2], atol=1e-3)
    given = [streamed(name, task.test, task.text, seed=seed, shuffle=False).logits(task.test) for seed in (0, 1)]
    assert torch.equal(*given)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_goes_on_from_a_file(task, name, tmp_path):
    adapter = streamed(name, task.test, task.text)
    again = load_adapter(adapter.save(tmp_path / "adapter.safetensors"))
    torch.testing.assert_close(again.stream(task.val.features), adapter.stream(task.val.features))
    assert again.seen == adapter.seen


@pytest.mark.parametrize("name", STREAMS)
def test_copies_of_one_image_have_one_answer(task, name):
    twice = FeatureSet(torch.cat([task.test.features, task.test.features[:5]]))
    logits = streamed(name, twice, task.text).logits(twice)
    assert torch.equal(logits[:5], logits[-5:])


@pytest.mark.parametrize("name", STREAMS)
def test_it_says_what_it_did_and_refuses_a_stream_of_nothing(task, name):
    (note,) = [line for line in streamed(name, task.test, task.text).report.notes if "one after the other" in line]
    assert note.startswith("40 unlabelled images, one after the other in an order drawn by the seed")
    assert "as they were given" in streamed(name, task.test, task.text, shuffle=False).report.notes[0]
    with pytest.raises(CapabilityError, match="classifies unlabelled images together"):
        build_adapter(name).fit(None, task.text)
