"""Ranks of equal scores, and both ways of counting several sentences per video, against public code."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.metrics import sentences_of_videos

from vladapt.core.errors import DataError
from vladapt.core.metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from vladapt.core.metrics.sentence_ranks import BEST_SENTENCE, LOWER, MEAN, OWN_SENTENCES, sentence_video_metrics


def test_agrees_with_the_reference(agrees):
    """Without ties CLIP4Clip, its medians of an even count included; with ties collaborative-experts."""
    agrees(sentences_of_videos)


def test_a_video_is_as_near_as_its_best_sentence(references):
    for ref in references("metrics_retrieval_multi"):
        video_of = torch.arange(len(ref["counts"])).repeat_interleave(ref["counts"])
        one_each = sentence_video_metrics(ref["clip4clip.v2t_sim"].T.contiguous(), torch.arange(len(ref["counts"])))
        several = sentence_video_metrics(ref["similarity"], video_of)
        assert one_each[IMAGE_TO_TEXT] == several[IMAGE_TO_TEXT]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), videos=st.integers(1, 6), levels=st.integers(1, 4))
def test_ranks_are_means_over_all_orders_of_equal_scores(seed, videos, levels):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 4, (videos,), generator=generator)
    video_of = torch.arange(videos).repeat_interleave(counts)
    scores = torch.randint(0, levels, (len(video_of), videos), generator=generator).float()
    places = []
    for sentence, video in enumerate(video_of.tolist()):
        above = sum(float(s) > float(scores[sentence, video]) for s in scores[sentence])
        equal = sum(float(s) == float(scores[sentence, video]) for s in scores[sentence])
        places.append(sum(above + k + 1 for k in range(equal)) / equal)
    ours = sentence_video_metrics(scores, video_of)[TEXT_TO_IMAGE]
    assert ours["mean_rank"] == pytest.approx(sum(places) / len(places))
    assert ours["r1"] == pytest.approx(sum(place <= 1 for place in places) / len(places))
    turned = sentence_video_metrics(scores.flip(1), videos - 1 - video_of)
    assert turned == sentence_video_metrics(scores, video_of), "the order of the gallery says nothing"


def test_the_two_rules_differ_and_a_constant_model_finds_nothing():
    scores = torch.tensor([[3.0, 1.0], [0.0, 2.0], [0.5, 2.5]])
    video_of = torch.tensor([0, 0, 1])
    ranks = {
        rule: sentence_video_metrics(scores, video_of, rule=rule)[IMAGE_TO_TEXT]
        for rule in (BEST_SENTENCE, OWN_SENTENCES)
    }
    assert ranks[BEST_SENTENCE]["r1"] == ranks[OWN_SENTENCES]["r1"] == 1.0
    scores[1, 1] = 9.0  # a sentence of the first video is nearer to the second than its own
    assert sentence_video_metrics(scores, video_of, rule=BEST_SENTENCE)[IMAGE_TO_TEXT]["r1"] == 0.5
    flat = sentence_video_metrics(torch.zeros(4, 4), torch.arange(4))
    assert flat[TEXT_TO_IMAGE] == {"r1": 0.0, "r5": 1.0, "r10": 1.0, "median_rank": 2.5, "mean_rank": 2.5}


def test_the_lower_middle_or_the_mean_of_both():
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    medians = [
        sentence_video_metrics(scores, torch.arange(2), median=m)[TEXT_TO_IMAGE]["median_rank"] for m in (LOWER, MEAN)
    ]
    assert medians == [1.0, 1.5]


def test_what_does_not_fit_is_refused():
    for similarity, video_of, how in (
        (torch.zeros(2, 2), torch.tensor([0]), {}),
        (torch.zeros(2, 2), torch.tensor([0, 2]), {}),
        (torch.full((1, 1), torch.nan), torch.tensor([0]), {}),
        (torch.zeros(1, 1), torch.tensor([0]), {"rule": "other"}),
    ):
        with pytest.raises(DataError):
            sentence_video_metrics(similarity, video_of, **how)
