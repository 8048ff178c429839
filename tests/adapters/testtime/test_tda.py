"""TDA: its caches written out as lists, each of its terms, and the published settings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from parity_checks.testtime import tda as released

from vladapt.core.contracts import FeatureSet
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.registry import build_adapter

NARROW = {"entropy_bounds": (0.05, 0.6), "mask_bounds": (0.02, 0.9)}


def test_agrees_with_the_released_code(agrees):
    agrees(released)


def lists(images, text, *, drop="", slots=3, negative_slots=2, bounds=(0.05, 0.6), mask=(0.02, 0.9)):
    """(N, C) the stream as the paper tells it, in double precision, without the term `drop`."""
    positive, negative, answers = {}, {}, []
    for x in images.unit.double():
        scores = text.logit_scale * x @ text.weights.double().T
        p = scores.softmax(dim=0)
        entropy, label = float(-(p * p.log()).sum()), int(p.argmax())
        offers = [
            (positive, slots, True),
            (negative, negative_slots, bounds[0] < entropy / math.log2(len(p)) < bounds[1]),
        ]
        for cache, size, offered in offers:
            if not offered:
                continue
            held = cache.setdefault(label, [])
            held.append((entropy, x, p))
            held.sort(key=lambda each: each[0])
            del held[size:]
        if drop != "positive":
            for label, held in positive.items():
                for _, key, _ in held:
                    scores[label] = scores[label] + 2 * (-5 * (1 - x @ key)).exp()
        if drop != "negative":
            for held in negative.values():
                for _, key, told in held:
                    against = (told > mask[0]) & (told < mask[1]) if drop != "mask" else torch.ones_like(told)
                    scores = scores - 0.117 * (-1 * (1 - x @ key)).exp() * against
        answers.append(scores)
    return torch.stack(answers)


@pytest.fixture(scope="module")
def unsure(make_task):
    """Text that is often unsure, so that the negative cache fills."""
    task = make_task(noise=1.6, dim=24)
    return replace(task, text=replace(task.text, logit_scale=6.0))


def streamed(task, **options):
    adapter = build_adapter("tda", shuffle=False, **{**NARROW, **options})
    adapter.fit(None, task.text, unlabeled=task.test.without_labels())
    return adapter


def test_the_lists_written_out(unsure):
    torch.testing.assert_close(
        streamed(unsure).logits(unsure.test).double(), lists(unsure.test, unsure.text), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("term", ["positive", "negative", "mask"])
def test_without_a_term_the_answers_are_others(unsure, term):
    apart = streamed(unsure).logits(unsure.test).double() - lists(unsure.test, unsure.text, drop=term)
    assert apart.abs().max() > 0.05


def test_a_cache_of_no_slots_is_none(unsure):
    without = streamed(unsure, slots=0, negative_slots=0).logits(unsure.test)
    torch.testing.assert_close(without, unsure.text.logits(unsure.test.unit))


def test_a_fuller_cache_takes_only_surer_images(unsure):
    adapter = streamed(unsure)
    entropies = adapter.positive_entropy
    assert (entropies.diff(dim=1) >= 0).all()  # surest first
    least = adapter.positive_entropy.clone()
    adapter.stream(unsure.test.features)
    assert (adapter.positive_entropy <= least).all()


def test_a_bag_counts_by_its_surest_views(unsure):
    generator = torch.Generator().manual_seed(0)
    noisy = unsure.test.features[:, None] + torch.randn(len(unsure.test), 20, 24, generator=generator)
    bags = FeatureSet(unsure.test.features, views=torch.cat([unsure.test.features[:, None], noisy], dim=1))
    adapter = build_adapter("tda", slots=0, negative_slots=0)
    adapter.fit(None, unsure.text, unlabeled=bags)
    scores = unsure.text.logits(torch.nn.functional.normalize(bags.views, dim=-1))  # (N, V, C)
    entropy = torch.distributions.Categorical(logits=scores).entropy()
    kept = entropy.argsort(dim=1)[:, : int(0.1 * 21)]
    mean = scores.gather(1, kept[..., None].expand(-1, -1, scores.shape[2])).mean(dim=1)
    torch.testing.assert_close(adapter.logits(bags), mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("preset", "alpha", "beta"), [(None, 2, 5), ("dtd", 2, 3), ("EuroSAT", 4, 8), ("pets", 2, 7)])
def test_published_settings_of_a_set(unsure, preset, alpha, beta):
    adapter = streamed(unsure, preset=preset)
    assert (adapter.alpha_, adapter.beta_) == (alpha, beta)
    assert streamed(unsure, preset=preset, beta=1.5).beta_ == 1.5


def test_bounds_in_the_wrong_order_and_unknown_sets_are_refused():
    with pytest.raises(ConfigError, match="entropy_bounds"):
        build_adapter("tda", entropy_bounds=(0.5, 0.2))
    with pytest.raises(UnknownNameError):
        build_adapter("tda", preset="cub")
