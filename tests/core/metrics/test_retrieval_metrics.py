"""Ranks, recall and average precision against reference outputs and against a literal, slow count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.metrics import person_search, ranked_from, retrieval

from vladapt.core.errors import DataError
from vladapt.core.metrics import exact_interval
from vladapt.core.metrics.retrieval import (
    Ranking,
    image_text_rankings,
    rankings,
    retrieval_metrics,
)

KEYS = ["r1", "r5", "r10", "median_rank", "mean_rank", "map"]


def literal(similarity, query_labels, gallery_labels):
    """(query, best, last, average precision), one query and one item after another, worst order among equals."""
    rows = []
    for q, label in enumerate(query_labels):
        items = [(-float(s), g == label) for s, g in zip(similarity[q], gallery_labels)]
        hits = [relevant for _, relevant in sorted(items)]  # of equal scores False, the irrelevant, comes first
        ranks = [place for place, relevant in enumerate(hits, start=1) if relevant]
        if ranks:
            precision = sum(k / rank for k, rank in enumerate(ranks, start=1)) / len(ranks)
            rows.append((q, ranks[0], ranks[-1], precision))
    return rows


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


# Reference outputs


@pytest.mark.parametrize("comparison", [retrieval, person_search], ids=["retrieval", "person search"])
def test_agrees_with_the_reference(agrees, comparison):
    agrees(comparison)


def test_the_inverse_penalty_is_of_the_last_that_is_relevant():
    """Of two relevant items at ranks 1 and 4, and of one at rank 2: (2 / 4 + 1 / 2) / 2."""
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]])
    found = ranked_from(similarity, [0, 1], [0, 1, 2, 0])
    assert found.inverse_penalty.tolist() == [0.5, 0.5]
    assert found.metrics(penalty=True)["minp"] == 0.5 and "minp" not in found.metrics()


# Against a literal count


@st.composite
def labelled_scores(draw):
    """Few values, so that ties are the rule, and labels of which some occur on one side only."""
    queries, items = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    score = st.integers(-2, 2).map(float)
    rows = draw(st.lists(st.lists(score, min_size=items, max_size=items), min_size=queries, max_size=queries))
    labels = st.integers(0, 3)
    query_labels = draw(st.lists(labels, min_size=queries, max_size=queries))
    return torch.tensor(rows), query_labels, draw(st.lists(labels, min_size=items, max_size=items))


@given(labelled_scores(), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_ranks_are_those_of_a_literal_count_whatever_the_chunk(scores, at_once):
    similarity, query_labels, gallery_labels = scores
    wanted = literal(similarity, query_labels, gallery_labels)
    if not wanted:
        with pytest.raises(DataError, match="no query has a relevant item"):
            ranked_from(similarity, query_labels, gallery_labels)
        return
    found = ranked_from(similarity, query_labels, gallery_labels, numbers_at_once=at_once)
    assert found.query.tolist() == [row[0] for row in wanted]
    assert found.best.tolist() == [row[1] for row in wanted]
    assert found.last.tolist() == [row[2] for row in wanted]
    assert found.average_precision.tolist() == pytest.approx([row[3] for row in wanted], abs=1e-12)
    assert found.relevant.tolist() == [gallery_labels.count(query_labels[q]) for q in found.query.tolist()]


@given(labelled_scores(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_gallery_changes_nothing(scores, random):
    similarity, query_labels, gallery_labels = scores
    if not set(query_labels) & set(gallery_labels):
        return
    order = list(range(len(gallery_labels)))
    random.shuffle(order)
    one = ranked_from(similarity, query_labels, gallery_labels)
    other = ranked_from(similarity[:, order], query_labels, [gallery_labels[i] for i in order])
    assert torch.equal(one.best, other.best) and torch.equal(one.last, other.last)
    assert torch.allclose(one.average_precision, other.average_precision)


# The rules, one by one


def test_of_equal_scores_the_irrelevant_come_first():
    found = ranked_from(torch.tensor([[0.5, 0.5, 0.5, 0.1]]), [1], [0, 1, 2, 3])
    assert found.best.tolist() == [3]
    alike = torch.ones(20, 4) / 2
    metrics = retrieval_metrics(alike, alike, torch.arange(20))
    assert metrics["text_to_image"]["r10"] == 0 and metrics["text_to_image"]["mean_rank"] == 20


def test_equal_features_tie_wherever_they_stand():
    """A float32 product would round some columns of a block differently from others."""
    images = unit(64, 333)
    texts = images[:1].expand(7, 333).contiguous()
    found = rankings(images, texts, torch.zeros(64), torch.tensor([0] + [1] * 6))
    assert found.best.tolist() == [7] * 64


def test_an_image_counts_by_its_best_caption_and_average_precision_by_all():
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
    metrics = retrieval_metrics(images, texts, torch.tensor([0, 0, 1, 1]))
    # Image 0 finds its captions at ranks 1 and 4, image 1 at 2 and 3.
    assert metrics["image_to_text"]["r1"] == 0.5
    assert metrics["image_to_text"]["mean_rank"] == 1.5 and metrics["image_to_text"]["median_rank"] == 1.5
    assert metrics["image_to_text"]["map"] == pytest.approx(((1 + 2 / 4) / 2 + (1 / 2 + 2 / 3) / 2) / 2)


def test_one_per_image_gives_an_image_with_many_captions_one_place():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.9, 0.1]]), dim=1)
    owner = torch.tensor([0, 1, 1])
    assert retrieval_metrics(image, texts, owner)["image_to_text"]["mean_rank"] == pytest.approx((3 + 2) / 2)
    once = retrieval_metrics(image, texts, owner, one_per_image=True)["image_to_text"]
    assert once["mean_rank"] == pytest.approx(2)


def test_an_image_without_caption_is_no_query_but_stays_in_the_gallery():
    found = image_text_rankings(torch.eye(3), torch.eye(3)[:2], torch.tensor([0, 1]))
    assert len(found["image_to_text"]) == 2 and found["image_to_text"].query.tolist() == [0, 1]
    text = torch.tensor([[0.0, 0.0, 1.0]])
    assert image_text_rankings(torch.eye(3), text, torch.tensor([0]))["text_to_image"].best.tolist() == [3]


def test_metrics_have_their_names_and_lie_between_0_and_1():
    metrics = retrieval_metrics(unit(30, 8), unit(60, 8, seed=1), torch.arange(60) % 30)
    for side in ("image_to_text", "text_to_image"):
        assert list(metrics[side]) == KEYS
        assert all(0 <= metrics[side][key] <= 1 for key in ("r1", "r5", "r10", "map"))
        assert metrics[side]["r1"] <= metrics[side]["r5"] <= metrics[side]["r10"]


def test_the_interval_of_recall_is_exact():
    found = ranked_from(torch.eye(8) - 2 * torch.diag(torch.tensor([1.0] * 2 + [0.0] * 6)), range(8), range(8))
    assert found.recall(1) == 6 / 8 and found.recall_interval() == exact_interval(6, 8)
    assert found.recall_interval(k=8) == exact_interval(8, 8)


@pytest.mark.parametrize(
    ("images", "texts", "owner", "said"),
    [
        (torch.eye(2), torch.eye(2), [0, 5], "outside 0..1"),
        (torch.eye(2), torch.eye(2), [0], r"labels \(1,\)"),
        (torch.eye(2), torch.ones(2, 3), [0, 1], "2 wide, the gallery 3"),
        (torch.eye(2), torch.tensor([[torch.nan, 0.0]]), [0], "NaN or infinity"),
        (torch.eye(2), torch.zeros(0, 2), [], "n of 1 or more"),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_one_line(images, texts, owner, said):
    with pytest.raises(DataError, match=said):
        retrieval_metrics(images, texts, torch.tensor(owner))


def test_the_whole_matrix_is_never_held(monkeypatch):
    """Every block of scores stays below what is asked for."""
    from vladapt.core.metrics import retrieval

    held = []
    scores = retrieval._scores

    def watched(query, distinct, place):
        block = scores(query, distinct, place)
        held.append(block.numel())
        return block

    monkeypatch.setattr(retrieval, "_scores", watched)
    rankings(unit(500, 4), unit(300, 4, seed=1), torch.arange(500) % 300, torch.arange(300), numbers_at_once=3000)
    assert max(held) <= 3000 and sum(held) == 500 * 300


def test_captions_of_one_image_are_drawn_together():
    found = torch.rand(40, generator=torch.Generator().manual_seed(0)).lt(0.6).repeat_interleave(5)
    best = torch.where(found, 1, 20)
    every = torch.arange(200)
    ranking = Ranking(every, best, best, torch.ones(200).long(), 1 / best.double())
    alone, together = ranking.intervals(every), ranking.intervals(every // 5)
    assert alone["r1"] == list(ranking.recall_interval(1)) and set(alone) == {"r1", "r5", "r10", "map"}
    for name in alone:
        assert together[name][1] - together[name][0] > 1.8 * (alone[name][1] - alone[name][0])
        assert together[name][0] < ranking.metrics()[name] < together[name][1]
