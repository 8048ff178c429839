"""Queries and what they find: chosen by the seed alone, ranked as the scores are, towers left as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.data.pairs.builder import PairBuilder
from vladapt.core.data.pairs.sample import sample_pairs
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.tasks.pretraining.examples import RetrievalExamples
from vladapt.core.tasks.retrieval.scoring import evaluate_retrieval


@pytest.fixture(scope="module")
def pairs():
    return sample_pairs(40)


@pytest.fixture(scope="module")
def examples(pairs):
    return RetrievalExamples(pairs, count=5, among=30, seed=3)


@pytest.fixture(scope="module")
def found(examples, small_clip):
    return examples.top(small_clip, k=30)


class Shades:
    """Images of one grey each, by the number in their name; some cannot be read."""

    def __init__(self, broken=()):
        self.broken = broken

    def read(self, source, offset, size):
        raise AssertionError("nothing is encoded")

    def decode(self, source, offset, size):
        number = int(source.rsplit("-", 1)[1])
        if number in self.broken:
            raise DataError(f"{source}: damaged image")
        return np.full((20, 20, 3), 12 * number % 256, np.uint8)


def shades(captions: list[list[str]], broken=()):
    builder = PairBuilder("", "shades")
    for number, texts in enumerate(captions):
        builder.add(f"shade-{number}", texts)
    return builder.build(name="shades", images=Shades(broken))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 12), among=st.integers(12, 60), seed=st.integers(0, 2**31))
def test_queries_are_different_captions_of_different_images_that_are_searched(count, among, seed):
    pairs = sample_pairs(40)
    chosen = RetrievalExamples(pairs, count=count, among=among, seed=seed)
    rows = [query.row for query in chosen.queries]
    assert len(rows) == len(set(rows)) == len({query.caption for query in chosen.queries}) == count
    assert len(chosen.gallery) == min(among, 40) == len(set(chosen.gallery))
    assert set(rows) <= set(chosen.gallery) and list(chosen.gallery) == sorted(chosen.gallery)
    assert all(query.caption in pairs[query.row].captions for query in chosen.queries)


def test_the_seed_chooses_queries_captions_and_gallery(pairs):
    first, again = (RetrievalExamples(pairs, count=5, among=30, seed=3) for _ in range(2))
    assert (first.queries, first.gallery) == (again.queries, again.gallery)
    other = RetrievalExamples(pairs, count=5, among=30, seed=4)
    assert first.queries != other.queries and first.gallery != other.gallery
    places = {
        pairs[q.row].captions.index(q.caption) for s in range(6) for q in RetrievalExamples(pairs, seed=s).queries
    }
    assert len(places) > 1  # not always the first caption


def test_small_sets_give_fewer_queries_and_images():
    chosen = RetrievalExamples(shades([["one"], ["two"], ["two"]]), count=6, among=200)
    assert sorted(query.caption for query in chosen.queries) == ["one", "two"]
    assert chosen.gallery == (0, 1, 2)


def test_an_image_of_several_rows_is_searched_once(pairs):
    assert RetrievalExamples(pairs.select([4, 4, 9, 9, 9, 2]), count=2, among=10).gallery in [(0, 2, 5)]


def test_scores_are_cosines_of_the_towers(examples, found, small_clip, pairs):
    pixels = torch.stack([small_clip.preprocess()(pairs.load_image(row)) for row in examples.gallery])
    with torch.no_grad():
        images = small_clip.encode_image(pixels)
        texts = small_clip.encode_text([query.caption for query in examples.queries])
    wanted = (texts @ images.T).sort(dim=1, descending=True).values  # (Q, G)
    assert torch.tensor([[one.score for one in row] for row in found]) == pytest.approx(wanted.numpy(), abs=1e-5)


def test_the_best_come_first_and_the_right_one_has_its_rank(examples, found):
    for query, row in zip(examples.queries, found):
        assert sorted(one.row for one in row) == list(examples.gallery)
        assert [one.score for one in row] == sorted((one.score for one in row), reverse=True)
        (place,) = [i for i, one in enumerate(row) if one.right]
        assert row[place].row == query.row
        assert {one.right_rank for one in row} == {place + 1}


def test_k_says_how_many_and_changes_no_rank(examples, found, small_clip):
    assert examples.top(small_clip) == [row[:4] for row in found]
    assert examples.top(small_clip, k=1) == [row[:1] for row in found]


def test_ranks_are_those_of_the_scores(small_clip):
    """Every caption of a set is a query: then R@1 is that of `evaluate_retrieval`."""
    pairs = sample_pairs(24)
    builder = PairBuilder("", "first captions")
    for pair in pairs:
        builder.add(pair.source, pair.captions[:1])
    first_only = builder.build(name="first captions", images=pairs.images)
    found = RetrievalExamples(first_only, count=24, among=24).top(small_clip)
    scores = evaluate_retrieval(small_clip, first_only, split=None)
    ranks = [row[0].right_rank for row in found]
    assert np.mean([rank == 1 for rank in ranks]) == pytest.approx(scores.metrics["text_to_image"]["r1"])
    assert np.mean(ranks) == pytest.approx(scores.metrics["text_to_image"]["mean_rank"])


def test_of_equal_scores_the_wrong_images_come_first(small_clip, monkeypatch):
    """A tower that gives everything the same feature finds nothing."""
    examples = RetrievalExamples(shades([[f"grey {i}"] for i in range(8)]), count=3)
    constant = torch.linspace(-1, 1, small_clip.embed_dim)
    monkeypatch.setattr(small_clip, "encode_image", lambda pixels, normalize: constant.repeat(len(pixels), 1))
    for row in examples.top(small_clip, k=8):
        assert [one.right for one in row] == [False] * 7 + [True]
        assert row[0].right_rank == 8


def test_other_images_of_the_same_words_are_marked(small_clip):
    examples = RetrievalExamples(shades([["a grey sheet"]] * 3 + [["another"]]), count=2)
    rows = dict(zip((query.caption for query in examples.queries), examples.top(small_clip)))
    assert sorted((one.right, one.same_words) for one in rows["a grey sheet"]) == [
        (False, False),
        (False, True),
        (False, True),
        (True, False),
    ]
    assert not any(one.same_words for one in rows["another"])


def test_an_image_that_cannot_be_read_is_not_searched_and_asks_nothing(small_clip):
    pairs = shades([[f"grey {i}"] for i in range(6)], broken=(2,))
    examples = RetrievalExamples(pairs, count=6)
    found = examples.top(small_clip, k=6)
    for query, row in zip(examples.queries, found):
        assert len(row) == (0 if query.row == 2 else 5)
        assert all(one.row != 2 and one.right_rank <= 5 for one in row)
    with pytest.raises(DataError, match="damaged"):
        examples.load_image(2)
    assert examples.load_image(1).shape == (20, 20, 3)


def test_batches_and_threads_change_nothing(examples, found, small_clip):
    again = examples.top(small_clip, k=30, batch_size=1, workers=1)
    assert [[one.row for one in row] for row in again] == [[one.row for one in row] for row in found]


def test_batch_size_and_precision_reach_the_towers(examples, found, small_clip, monkeypatch):
    sizes, encode = [], small_clip.encode_image

    def counted(pixels, normalize=True):
        sizes.append(len(pixels))
        return encode(pixels, normalize)

    monkeypatch.setattr(small_clip, "encode_image", counted)
    assert [one.score for one in examples.top(small_clip, amp="bf16", batch_size=7)[0]] != [
        one.score for one in found[0][:4]
    ]
    assert sizes == [7, 7, 7, 7, 2]


def test_towers_may_be_in_training_and_end_as_they_were(examples, found, small_clip_spec):
    from vladapt.core.backbones.load import load_backbone

    backbone = load_backbone(small_clip_spec, device="cpu")
    backbone.model.requires_grad_(True).train()
    backbone.model.transformer.eval()
    modes, seen = [module.training for module in backbone.model.modules()], []
    backbone.model.visual.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    assert examples.top(backbone, k=30) == found
    assert seen and not any(seen)
    assert [module.training for module in backbone.model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in backbone.model.parameters())
    loss = backbone.encode_text(["a red circle"]).sum() + backbone.encode_image(torch.zeros(1, 3, 16, 16)).sum()
    loss.backward()  # nothing that the towers keep stands in the way


def test_modes_come_back_after_an_error(examples, small_clip, monkeypatch):
    monkeypatch.setattr(small_clip, "encode_text", lambda *args, **kwargs: 1 / 0)
    small_clip.model.train()
    try:
        with pytest.raises(ZeroDivisionError):
            examples.top(small_clip)
        assert small_clip.model.training
    finally:
        small_clip.model.eval()


def test_what_is_not_usable_is_refused_in_one_line(examples, small_clip, pairs):
    for changes, said in (({"count": 0}, "count=0"), ({"count": 3, "among": 2}, "among=2")):
        with pytest.raises(ConfigError, match=said):
            RetrievalExamples(pairs, **changes)
    with pytest.raises(ConfigError, match="k=0"):
        examples.top(small_clip, k=0)
    with pytest.raises(ConfigError, match="--amp int4"):
        examples.top(small_clip, amp="int4")
    with pytest.raises(ConfigError, match="--batch-size 0"):
        examples.top(small_clip, batch_size=0)
    with pytest.raises(DataError, match="holds no pairs"):
        RetrievalExamples(replace(pairs, name="mine").split(""))
