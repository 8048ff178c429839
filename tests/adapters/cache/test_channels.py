"""APE's criterion in closed form against the paper's sums over pairs of samples."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt.adapters.cache.ape import channel_criterion, channel_similarity, select_channels
from vladapt.core.errors import ConfigError


def literal_similarity(samples: list[torch.Tensor]) -> torch.Tensor:
    """Mean over ordered pairs of classes of the mean over pairs of their samples, one product at a time."""
    classes, total = len(samples), torch.zeros(samples[0].shape[1], dtype=torch.float64)
    for i in range(classes):
        for j in range(classes):
            if i == j:
                continue
            pair = torch.zeros_like(total)
            for one in samples[i].double():
                for other in samples[j].double():
                    pair += one * other
            total += pair / (len(samples[i]) * len(samples[j]))
    return total / (classes * (classes - 1))


@pytest.mark.parametrize("shots", [[3, 3, 3, 3], [1, 1], [5, 1, 0, 2]])
def test_similarity_is_the_quadruple_loop(shots):
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(len(shots), 9, generator=generator), dim=-1)
    labels = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    keys = F.normalize(torch.randn(len(labels), 9, generator=generator), dim=-1)
    samples = [torch.cat([text[i : i + 1], keys[labels == i]]) for i in range(len(shots))]
    ours = channel_similarity(text, keys, F.one_hot(labels, len(shots)).float())
    torch.testing.assert_close(ours, literal_similarity(samples), atol=1e-15, rtol=1e-12)


def test_text_alone_is_the_loop_over_text():
    text = F.normalize(torch.randn(4, 9, generator=torch.Generator().manual_seed(1)), dim=-1)
    torch.testing.assert_close(channel_similarity(text), literal_similarity(list(text[:, None])))


def test_criterion_weighs_similarity_down_and_variance_up():
    text = F.normalize(torch.randn(4, 9, generator=torch.Generator().manual_seed(2)), dim=-1)
    variance = ((text - text.mean(dim=0)) ** 2).sum(dim=0).double() / 3
    expected = -0.3 * channel_similarity(text) + 0.7 * variance
    torch.testing.assert_close(channel_criterion(text, (0.3, 0.7)), expected, rtol=1e-5, atol=0)


def test_channels_come_largest_first():
    assert select_channels(torch.tensor([0.1, 3.0, -1.0, 2.0]), 3).tolist() == [1, 3, 0]


def test_more_channels_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="top_q"):
        select_channels(torch.ones(4), 5)
