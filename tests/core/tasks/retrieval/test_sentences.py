"""Several sentences per image, counted as text-video work counts, and the dual softmax."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from vladapt.core.metrics.sentence_ranks import BEST_SENTENCE, OWN_SENTENCES, Similarity, sentence_video_metrics
from vladapt.core.tasks.retrieval.sentences import DUAL, KEY, sentence_scores, sentence_section, sentence_table


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), videos=st.integers(2, 6), at_once=st.integers(1, 40))
def test_blocks_of_any_size_say_the_same(seed, videos, at_once):
    generator = torch.Generator().manual_seed(seed)
    video_of = torch.randint(0, videos, (9,), generator=generator)
    scores = torch.randint(0, 5, (9, videos), generator=generator).float()
    for rule in (BEST_SENTENCE, OWN_SENTENCES):
        whole, parts = (
            sentence_video_metrics(scores, video_of, rule=rule, **how) for how in ({}, {"numbers_at_once": at_once})
        )
        assert whole == parts
    similarity = Similarity(lambda rows: scores[rows], video_of, videos)
    dual = similarity.dual_softmax(2.0, TEXT_TO_IMAGE, numbers_at_once=at_once).rows(torch.arange(9))
    torch.testing.assert_close(dual, 2 * scores * (2 * scores).softmax(dim=0))
    dual = similarity.dual_softmax(2.0, IMAGE_TO_TEXT).rows(torch.arange(9))
    torch.testing.assert_close(dual, 2 * scores * (2 * scores).softmax(dim=1))


def test_a_dual_softmax_takes_back_what_fits_every_query():
    """The first image is the nearest of every text; the softmax over texts leaves it to the one that fits it best."""
    images = torch.eye(2)
    texts = torch.tensor([[0.9, 0.1], [0.6, 0.5]])
    scores = sentence_scores(Similarity.of_features(texts, images, torch.arange(2)), 10.0, dual_softmax=True)
    assert scores[TEXT_TO_IMAGE]["r1"] == 0.5 and scores[f"{DUAL}/{TEXT_TO_IMAGE}"]["r1"] == 1.0
    assert scores[TEXT_TO_IMAGE]["mean_rank"] == 1.5 and scores[f"{DUAL}/{TEXT_TO_IMAGE}"]["mean_rank"] == 1.0
    assert not any(
        way.startswith(DUAL)
        for way in sentence_scores(Similarity.of_features(texts, images, torch.arange(2)), 10.0, False)
    )


def test_equal_features_have_equal_ranks_wherever_they_stand():
    generator = torch.Generator().manual_seed(3)
    row = torch.nn.functional.normalize(torch.randn(64, generator=generator), dim=0)
    images, texts = row.repeat(37, 1), row.repeat(53, 1)
    scores = sentence_scores(Similarity.of_features(texts, images, torch.arange(53) % 37), 100.0, dual_softmax=True)
    assert all(way["r1"] == 0 for way in scores.values())
    assert scores[TEXT_TO_IMAGE]["mean_rank"] == 19 and scores[f"{IMAGE_TO_TEXT}/{OWN_SENTENCES}"]["mean_rank"] == 27


def test_tables_say_how_ties_count_and_what_reads_all_queries():
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (4, 8))
    told = sentence_scores(Similarity.of_features(texts, images, torch.arange(8) % 4), 10.0, dual_softmax=True)
    metrics = {KEY: {"adapted": told, "zero_shot": told}}
    section, table = sentence_section(metrics), sentence_table(metrics)
    assert len(section.rows) == table.row_count == 12
    for words in (section.note, table.caption):
        assert "Equal scores share the mean of their places" in words and "lower one of the two in the middle" in words
        assert "the dual softmax reads all queries before it answers one" in words
    only = {KEY: {"adapted": {way: of for way, of in told.items() if not way.startswith(DUAL)}, "zero_shot": None}}
    assert sentence_table(only).row_count == 3 and "dual softmax" not in sentence_table(only).caption
    assert sentence_section({}) is None and sentence_table({}) is None
