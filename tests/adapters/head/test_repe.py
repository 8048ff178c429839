"""REPE: class texts moved towards retrieved captions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vladapt import TextClassifier, build_adapter
from vladapt.core.contracts.resources import TextPool
from vladapt.core.errors import ConfigError, DataError

NAMES = ("black_cat", "dog", "owl")
TEXTS = ("a CAT on a mat", "my dog", "a black dog", "the sea", "dogs and a cat", "a hotdog", "nothing")


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def text() -> TextClassifier:
    """Two prompts per class."""
    prototypes = torch.nn.functional.normalize(drawn(3, 2, 8, seed=0), dim=-1)
    mean = prototypes.mean(dim=1)
    return TextClassifier(mean, raw=mean, prototypes=tuple(prototypes), class_names=NAMES, logit_scale=20.0)


@pytest.fixture(scope="module")
def pool() -> TextPool:
    return TextPool(TEXTS, 3 * drawn(len(TEXTS), 8, seed=1))


def fitted(text, pool, **options):
    adapter = build_adapter("repe", **options)
    adapter.report = adapter.fit(None, text, resources={"captions": pool})
    return adapter


def written_out(text, pool, shift, top_k, retrieved):
    """(C, D) by loops over classes, captions and prompts."""
    classes = []
    for name, weight, prompts in zip(NAMES, text.weights, text.prototypes):
        captions = [caption / caption.norm() for caption in pool.features]
        order = sorted(range(len(captions)), key=lambda i: -float(captions[i] @ weight))[:retrieved]
        words = name.split("_")
        kept = [i for i in order if any(word in pool.texts[i].lower() for word in words)][:top_k]
        total = torch.zeros(8)
        for prompt in prompts:
            mean = sum(captions[i] for i in kept) / len(kept) if kept else prompt
            mixed = (1 - shift) * prompt + shift * mean
            total = total + mixed / mixed.norm()
        classes.append(total / total.norm())
    return torch.stack(classes)


@pytest.mark.parametrize(("shift", "top_k", "retrieved"), [(0.25, 100, 1000), (0.7, 2, 1000), (0.25, 1, 5)])
def test_it_is_the_loop_written_out(text, pool, shift, top_k, retrieved):
    adapter = fitted(text, pool, shift=shift, top_k=top_k, retrieved=retrieved)
    expected = written_out(text, pool, shift, top_k, retrieved)
    torch.testing.assert_close(adapter.text, expected)
    images = torch.nn.functional.normalize(drawn(4, 8, seed=2), dim=1)
    torch.testing.assert_close(adapter.logits(images), 20 * images @ expected.T)
    assert (expected - text.weights).abs().max() > 0.02


def test_the_published_settings_are_the_defaults():
    adapter = build_adapter("repe")
    assert (adapter.shift, adapter.top_k, adapter.retrieved) == (0.25, 100, 1000)


def test_a_class_that_retrieves_nothing_keeps_its_text_and_is_named(text, pool):
    adapter = fitted(text, pool)
    torch.testing.assert_close(adapter.text[2], text.weights[2])
    assert adapter.report.notes == [
        "2 of 3 classes moved towards captions of 7",
        "no caption near them holds a word of their names: owl, 1 in all",
    ]


def test_a_class_does_not_depend_on_the_others(text, pool):
    torch.testing.assert_close(fitted(text.select([1]), pool).text[0], fitted(text, pool).text[1])


def test_what_it_cannot_use_is_refused_in_one_line(text, pool):
    with pytest.raises(ConfigError, match="name the classes"):
        fitted(replace(text, class_names=()), pool)
    with pytest.raises(DataError, match="the pool is empty"):
        fitted(text, TextPool((), torch.zeros(0, 8)))
    with pytest.raises(DataError, match="5 wide, class texts 8"):
        fitted(text, TextPool(("a",), torch.zeros(1, 5)))
