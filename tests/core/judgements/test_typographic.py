"""`eval --holistic`: a word of another class drawn into each image, by models that read and that do not."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vladapt.core.contracts.features import FeatureSet
from vladapt.core.judgements import typographic as module
from vladapt.core.judgements.typographic import Typographic, TypographicScores
from vladapt.core.robustness.typographic import drawn_word, has_letters
from vladapt.core.runtime.progress import Reporter

NAMES, COUNT = ("red_fox", "dog", "bird"), 60


def judged(reads, groups=None, **changes):
    """A fit that has every tenth image wrong, and answers a word where `reads` says of its row that it does; zero-shot
    answers every word."""
    labels = torch.arange(COUNT) % len(NAMES)
    ids = tuple(f"image {n}" for n in range(COUNT))

    def seen_through(some, change):
        kind = change(lambda decoded: decoded).spec["corruption"]
        rows = [ids.index(name) for name in some]
        own = torch.tensor([(n % 3 + (n % 10 == 0)) % 3 for n in rows])
        word = None if kind is None else NAMES.index(kind.removeprefix("the word "))
        after = (
            own if word is None else torch.tensor([word if reads(n) else int(answer) for n, answer in zip(rows, own)])
        )
        before = own if word is None else torch.full_like(own, word)
        assert word is None or all(labels[n] != word for n in rows)
        return tuple(torch.nn.functional.one_hot(each, len(NAMES)).float() for each in (before, after))

    tower = SimpleNamespace(channels=None, image_size=64)
    fit = SimpleNamespace(before=tower, several_labels=False, class_names=NAMES, seed=3, labels=labels)
    fit.test, fit.scores = FeatureSet(torch.zeros(COUNT, 2), ids=ids), SimpleNamespace(groups=groups)
    fit.reporter, fit.answers_seen_through = Reporter(quiet=True), seen_through
    vars(fit).update(changes)
    return fit


def test_a_model_that_reads_follows_the_word_and_one_that_does_not_does_not():
    reader, blind, half = (
        Typographic(holistic=True).compute(judged(reads))
        for reads in (lambda n: True, lambda n: False, lambda n: n % 2)
    )
    assert reader.follows == 1 and reader.scores.accuracy == 0 and reader.clean == pytest.approx(0.9)
    assert reader.scores.change == pytest.approx(-0.9) and len(reader.worst) == 10
    assert blind.follows == blind.follows_clean < 0.1 and blind.scores.change == 0 and not blind.worst
    assert half.follows == pytest.approx(0.5, abs=0.1) and half.scores.zero_shot == 0 and half.follows_zero_shot == 1
    assert half.scores.gain == half.scores.accuracy and half.follows_interval[0] < half.follows
    assert all(word in ("red fox", "dog", "bird") for _, word in half.worst)
    read = TypographicScores.from_json(json.loads(json.dumps(half.to_json())))
    assert json.dumps(read.to_json()) == json.dumps(half.to_json())
    assert half.axis_scores()["typographic"].score == half.scores.accuracy
    assert "answers are the drawn word" in half.note() and half.table().row_count == len(half.section().rows) == 3


def test_words_are_of_the_seed_and_of_all_other_classes():
    labels, ids = torch.arange(300) % 5, [f"image {n}" for n in range(300)]
    words = module._other_classes(ids, labels, 5, 0)
    assert (words != labels).all() and torch.equal(words, module._other_classes(ids, labels, 5, 0))
    assert not torch.equal(words, module._other_classes(ids, labels, 5, 1))
    assert all(len(words[labels == own].unique()) == 4 for own in range(5))


def test_what_cannot_be_judged_is_said():
    def lacking(**changes):
        return Typographic(holistic=True).compute(judged(lambda n: True, **changes)).lacking

    assert lacking(before=None) == "drawn words: not tested, since a features file holds no images"
    assert "several labels" in lacking(several_labels=True)
    assert "letters of class '狐'" in lacking(class_names=("狐", "dog", "bird"))
    assert "smaller than 32 pixels" in lacking(before=SimpleNamespace(channels=None, image_size=16))
    none = Typographic(holistic=True).compute(judged(lambda n: True, before=None))
    assert none.axis_scores() == {"typographic": none.lacking} and none.table() is None


def test_a_drawn_word_is_of_the_seed_and_lies_within_the_image():
    grey = np.full((64, 80, 3), 128, np.uint8)
    once = drawn_word("dog", grey, 1, 0)
    assert np.array_equal(once, drawn_word("dog", grey, 1, 0)) and once.shape == grey.shape
    assert not np.array_equal(once, drawn_word("dog", grey, 1, 1)) and not np.array_equal(
        once, drawn_word("cat", grey, 1, 0)
    )
    for seed in range(20):
        for word in ("i", "dog", "a rather long name of a class"):
            changed = (drawn_word(word, grey, 1, seed) != grey).any(axis=2)
            rows, columns = changed.nonzero()
            assert 20 < changed.sum() < changed.size / 3
            whole = drawn_word(word, np.full((164, 480, 3), 128, np.uint8), 1, seed)
            assert columns.max() - columns.min() < 0.96 * 80 and rows.max() - rows.min() < 20 and whole.shape[1] == 480
    assert drawn_word("dog", grey[..., 0], 1, 0).shape == (64, 80)
    assert has_letters("naïve café") and not has_letters("狐") and not has_letters(" ")
