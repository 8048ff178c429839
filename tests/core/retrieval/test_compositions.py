"""An image and words become one query: by the reference outputs, by closed forms, and on indices of every kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.composed import composed_queries, of_fixture

from vladapt.core.contracts.composition import ImagesAndWords
from vladapt.core.engine.queries import EncodedQuery, IndexGallery, search_encoded
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.registry import catalogue
from vladapt.core.registry.build import build_composition
from vladapt.core.retrieval import RetrievalIndex
from vladapt.core.retrieval.changes import IndexChange
from vladapt.core.retrieval.compositions.slerp import slerp
from vladapt.core.retrieval.kinds import KINDS
from vladapt.core.retrieval.wanted import Wanted

from .conftest import unit_rows

WORDS = ("dog", "cat", "bus", "sea", "hat", "owl", "ship", "tree", "lamp", "road", "moon", "fork")


class Tower:
    """Texts are drawn rows, by their first word and by all of them."""

    of_parts = False

    def encode_text(self, texts):
        return torch.stack([self._row(text.split()[0]) + 0.3 * self._row(text) for text in texts])

    def _row(self, text):
        return torch.randn(8, generator=torch.Generator().manual_seed(sum(map(ord, text))))


class Gallery:
    """Images and a vocabulary in memory."""

    def __init__(self, rows):
        self.rows = rows

    def nearest(self, queries, count):
        cosines, places = (queries @ self.rows.T).topk(count)
        return cosines, self.rows[places]

    def encode(self, texts):
        return torch.nn.functional.normalize(Tower().encode_text(texts), dim=-1)

    def vocabulary(self):
        return WORDS, self.encode(WORDS)


@pytest.fixture
def gallery():
    return Gallery(torch.from_numpy(unit_rows(60)))


def asked(count: int = 3, words=("red",)) -> ImagesAndWords:
    return ImagesAndWords(
        torch.from_numpy(unit_rows(count, seed=5)), Tower().encode_text(["red"] * count), [words] * count
    )


# Against reference outputs


def test_all_agree_with_the_released_code(agrees):
    agrees(composed_queries)


def test_by_the_rule_for_each_query_the_fixtures_images_are_asked_alone(references):
    """Each of the fixture's images is judged by its own nearest: what others are asked with changes nothing."""
    for ref in references(composed_queries, None):
        queries, table = of_fixture(ref)
        sizes = {"neighbours": "kappa", "words_each": "ni", "words": "miu"}
        freedom = build_composition("freedom", **{ours: int(ref.setting(name)) for ours, name in sizes.items()})
        together = freedom.compose(queries, table).factors
        alone = [
            freedom.compose(
                ImagesAndWords(queries.image[i : i + 1], queries.text[i : i + 1], [queries.words[i]]), table
            )
            for i in range(len(together))
        ]
        assert torch.allclose(torch.cat([each.factors for each in alone]), together, atol=1e-6)


# Closed forms


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_slerp_goes_along_the_arc_at_an_even_pace(seed, share):
    start, end = torch.nn.functional.normalize(torch.from_numpy(unit_rows(2, seed=seed)).double(), dim=-1)
    angle, point = (start @ end).acos(), slerp(start[None], end[None], share)[0]
    assert float(point.norm()) == pytest.approx(1)
    assert float(start @ point) == pytest.approx(float((share * angle).cos()))
    assert float(end @ point) == pytest.approx(float(((1 - share) * angle).cos()))


def test_slerp_of_nearly_equal_rows_is_a_number():
    row = torch.tensor([[1.0, 0.0]])
    assert slerp(row, row, 0.3).tolist() == [[1, 0]]
    assert slerp(row, torch.tensor([[0.0, 1.0]]), 1 / 3)[0, 0].item() == pytest.approx(math.cos(math.pi / 6))


def test_equal_weights_rank_by_the_sum_of_cosines_and_slerp_leans_to_the_words(gallery):
    queries = asked()
    both = queries.unit_image @ gallery.rows.T + queries.unit_text @ gallery.rows.T
    by_sum = build_composition("sum").compose(queries, gallery).factors[:, 0] @ gallery.rows.T
    assert torch.equal(by_sum.argsort(dim=1), both.argsort(dim=1))
    for name in ("sum", "slerp"):
        all_words = build_composition(name, weight=1).compose(queries, gallery).factors[:, 0]
        assert torch.allclose(all_words, queries.unit_text, atol=1e-6)
    leans = build_composition("slerp").compose(queries, gallery).factors[:, 0]
    assert ((leans * queries.unit_text).sum(1) > (leans * queries.unit_image).sum(1)).all()


# Freedom


def test_freedom_is_the_weighted_sum_of_its_words_with_the_text_not_brought_to_unit_length(gallery):
    composed = build_composition("freedom", words=3).compose(asked(1), gallery)
    (words,) = composed.words
    assert len(words) == 3 and words[0][1] == 1 and all(0 < weight <= 1 for _, weight in words)
    wanted = sum(weight * gallery.encode([f"{word} red"])[0] for word, weight in words)
    assert torch.allclose(composed.factors[0, 0], wanted, atol=1e-6)
    assert float(wanted.norm()) > 1


def test_an_image_that_is_not_in_the_gallery_is_put_into_words_itself():
    """All images of the gallery look like the first word; the query's, which does not, is asked by its own too."""
    words = Gallery(None).encode(WORDS)
    gallery = Gallery(words[:1].expand(6, -1))
    queries = ImagesAndWords(words[-1:], Tower().encode_text(["red"]), [("red",)])
    freedom = build_composition("freedom", neighbours=4, words_each=1)
    assert dict(freedom.compose(queries, gallery).words[0]) == {"dog": 1.0, "fork": pytest.approx(1 / 3)}
    gallery.rows = torch.cat([words[:1].expand(6, -1), words[-1:]])  # now it is there, and first
    assert dict(freedom.compose(queries, gallery).words[0]) == {"fork": pytest.approx(1 / 3), "dog": 1.0}
    freedom.is_absent = lambda cosines: torch.zeros(len(cosines), dtype=torch.bool)
    gallery.rows = words[:1].expand(6, -1)
    assert dict(freedom.compose(queries, gallery).words[0]) == {"dog": 1.0}


def test_of_words_met_equally_often_the_first_is_kept(gallery):
    freedom, words = build_composition("freedom", neighbours=2, words_each=2, words=2), torch.eye(4)
    nearest = torch.tensor([[[0.1, 0.9, 0.0, 0.5], [0.9, 0.0, 0.5, 0.1]]])
    counted = freedom.words_of(nearest[:, 0], torch.ones(1, 2), nearest, words)
    assert counted == [[(1, 1), (3, 1)]]


def test_places_that_an_approximate_index_leaves_empty_give_no_words():
    freedom, words = build_composition("freedom", neighbours=2, words_each=1), torch.eye(3)
    nearest = torch.stack([words[0], words[2]])[None]
    assert freedom.words_of(nearest[:, 0], torch.tensor([[1.0, -torch.inf]]), nearest, words) == [[(0, 1)]]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sum", {"weight": 0.8}),
        ("slerp", {"weight": 0.4}),
        ("freedom", {"neighbours": 2}),
        ("freedom", {"words_each": 1}),
        ("freedom", {"words": 2}),
    ],
)
def test_each_option_changes_the_query(gallery, name, options):
    usual, other = (build_composition(name, **given).compose(asked(), gallery).factors for given in ({}, options))
    assert not torch.allclose(usual, other)


def test_each_way_ranks_differently(gallery):
    scores = [
        torch.einsum("qfd,gd->qfg", build_composition(name).compose(asked(1), gallery).factors, gallery.rows).prod(1)
        for name in sorted(catalogue.compositions())
    ]
    orders = {tuple(each[0].argsort(descending=True).tolist()) for each in scores}
    assert sorted(catalogue.compositions()) == ["freedom", "product", "slerp", "sum"] and len(orders) == 4


def test_options_may_stand_behind_the_name_and_wrong_ones_are_one_line():
    assert build_composition("freedom:words=5:words-each=2").words == 5
    with pytest.raises(UnknownNameError, match="sum"):
        build_composition("summ")
    with pytest.raises(ConfigError, match="words"):
        build_composition("freedom:words=0")
    with pytest.raises(UnknownNameError, match="weight"):
        build_composition("product:weight=1")


# On an index


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_searched_exactly_by_every_kind_with_filters_and_without_what_is_deleted(
    make_index, monkeypatch, kind
):
    rows = unit_rows(100)
    path = make_index(rows, kind)
    with IndexChange(path) as change:
        change.add(unit_rows(30, seed=3), _entries(100, 130))
        change.append([], [])
    with IndexChange(path) as change:
        change.delete(["1.png", "100.png"])
    opened, everything = RetrievalIndex.open(path), np.concatenate([rows, unit_rows(30, seed=3)])
    everything = everything.astype(np.float16).astype(np.float32) if opened.is_quantised else everything
    factors = np.stack([unit_rows(2, seed=7), unit_rows(2, seed=8)])  # (Q, F, D)
    scores = np.matmul(factors, everything.T).prod(axis=1)
    scores[:, [1, 100]] = -np.inf
    monkeypatch.setattr("vladapt.core.retrieval.index.ROWS_AT_ONCE", 16)
    for wanted, kept in ((Wanted(), slice(None)), (Wanted({"camera": "c1"}), slice(1, None, 3))):
        only = np.full_like(scores, -np.inf)
        only[:, kept] = scores[:, kept]
        order = np.argsort(-only, axis=1, kind="stable")[:, :9]
        some, places = opened.best_products(factors, 9, wanted)
        np.testing.assert_array_equal(places, order)
        np.testing.assert_allclose(some, np.take_along_axis(only, order, 1), atol=1e-6)


def test_queries_of_several_kinds_are_found_together_as_alone(make_index):
    opened = RetrievalIndex.open(make_index(unit_rows(50)))
    rows = torch.from_numpy(unit_rows(5, seed=2))
    queries = [EncodedQuery(rows[:1]), EncodedQuery(rows[1:3]), EncodedQuery(rows[3:4]), EncodedQuery(rows[4:])]
    own = Wanted(other_than=opened.entries[int((rows[3] @ torch.from_numpy(unit_rows(50)).T).argmax())])
    wanted = [Wanted(), Wanted(), own, Wanted()]
    together = search_encoded(opened, queries, wanted, 4, True)
    alone = [search_encoded(opened, [query], [only], 4, True)[0] for query, only in zip(queries, wanted)]
    assert [[hit.place for hit in hits] for hits in together] == [[hit.place for hit in hits] for hits in alone]
    assert own.other_than.source not in {hit.entry.source for hit in together[2]}


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-pq"])
def test_freedom_asks_an_index_for_images_and_the_store_for_words(make_index, monkeypatch, kind):
    rows = unit_rows(100)
    gallery = IndexGallery(RetrievalIndex.open(make_index(rows, kind)), Tower(), WORDS)
    stored = []
    monkeypatch.setattr(
        "vladapt.core.engine.queries.FeatureStore.text_features",
        lambda self, tower, texts: stored.append(texts) or tower.encode_text(texts),
    )
    freedom = build_composition("freedom", neighbours=5)
    ours = freedom.compose(asked(), gallery)
    wanted = freedom.compose(asked(), Gallery(torch.from_numpy(rows)))
    assert freedom.compose(asked(), gallery).words == ours.words and stored == [WORDS]
    if kind == "flat":
        assert ours.words == wanted.words
        assert torch.allclose(ours.factors, wanted.factors, atol=1e-6)


def _entries(start, stop):
    from .conftest import entries_of

    return entries_of(range(start, stop))
