"""The drawn set: what a bag of words, and what a model that knows the captions reaches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.bench.places import sets_at
from vladapt.core.contracts.bench import BenchTowers
from vladapt.core.data.pairs.compositions import KINDS

WIDTH, QUESTIONS = 64, 6


def vector(name):
    seed = sum(ord(letter) * 131**place for place, letter in enumerate(name)) % 2**31
    return F.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)), dim=0)


class Reader(BenchTowers):
    """Images are their captions; `weigh(place)` says how much a word counts at its place, alike: not at all."""

    def __init__(self, benchmark, weigh=None):
        self.benchmark, self.weigh, self.seed, self.skipped = benchmark, weigh, 1, []

    def images(self, data):
        scenes = [self.benchmark.scenes[item.decode["scene"]] for item in data.items]
        return self.texts([each.caption for each in scenes]), list(range(len(scenes)))

    def texts(self, texts):
        return torch.stack([self.of_text(text) for text in texts])

    def of_text(self, text):
        words = text.replace("an ", "a ").split()
        if self.weigh is None:
            return F.normalize(torch.stack([vector(word) for word in sorted(words)]).sum(dim=0), dim=0)
        return F.normalize(sum(self.weigh(place) * vector(word) for place, word in enumerate(words)), dim=0)

    def read(self, folder):
        raise AssertionError("drawn")


@pytest.fixture
def benchmark():
    (benchmark,) = sets_at(["sample:composition"], {"composition": {"questions": QUESTIONS}})
    return benchmark


def scored(benchmark, towers):
    benchmark.check(towers)
    return {(score.part, score.measure): score for score in benchmark.score(towers)}


def test_a_bag_of_words_cannot_answer(benchmark):
    scores = scored(benchmark, Reader(benchmark))
    for kind in ("colour", "size", "place", "action"):
        assert all(scores[kind, name].value == 0 for name in ("text", "image", "group"))


def test_order_of_words_answers(benchmark):
    scores = scored(benchmark, Reader(benchmark, lambda place: 1.0 / (1 + place)))
    for kind in KINDS:
        assert scores[kind, "group"].value == 1 and scores[kind, "group"].count == QUESTIONS
    assert scores["", "group"].value == 1 and scores["", "group"].count == QUESTIONS * len(KINDS)
    assert scores["named in turn", "group"].value < 1  # images are read by the other caption
    assert (scores["", "text"].guessing, scores["", "group"].guessing) == (0.25, 1 / 6)


@pytest.mark.parametrize(("weigh", "share"), [(lambda n: 0.5**n, 1.0), (lambda n: 2.0**n, 0.0)])
def test_a_lean_to_what_is_named_first_is_seen(benchmark, weigh, share):
    score = scored(benchmark, Reader(benchmark, weigh))["", "first_named"]
    assert score.value == share and score.count == 4 * QUESTIONS and len(score.units.unique()) == QUESTIONS


def test_a_lean_to_the_larger_thing_is_seen(benchmark):
    class Larger(Reader):
        def images(self, data):
            scenes = [self.benchmark.scenes[item.decode["scene"]] for item in data.items]
            large = [max(each.parts, key=lambda part: (part.size == "large", part.shape)) for each in scenes]
            return self.texts([f"a {part.colour} {part.shape}" for part in large]), list(range(len(scenes)))

    assert scored(benchmark, Larger(benchmark))["", "larger"].value == 1.0


def test_the_seed_draws_other_scenes_and_a_set_is_drawn_again_the_same(benchmark, towers):
    benchmark.check(towers)
    (again,) = sets_at(["sample:composition"], {"composition": {"questions": QUESTIONS}})
    other = Reader(again)
    other.seed = 2
    again.check(other)
    assert benchmark.asked != again.asked and benchmark.size == 2 * QUESTIONS * len(KINDS)
    scores = benchmark.score(towers)  # through the small CLIP: images are drawn, and keyed by what they show
    assert len(scores) == 3 * (len(KINDS) + 2) + 2 and all(0 <= score.value <= 1 for score in scores)
    assert [score.value for score in benchmark.score(towers)] == [score.value for score in scores]
