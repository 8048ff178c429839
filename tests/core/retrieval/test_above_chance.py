"""A query among drawn ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt.core.data.pairs.augment_text import FUNCTION_WORDS
from vladapt.core.retrieval.above_chance import DRAWN, AmongDrawn, among_drawn, drawn_queries


def ranked(of_query, of_drawn, images):
    """The rank of a query whose text has one feature, among drawn ones with others."""
    rows = F.normalize(torch.cat([of_query[None], of_drawn]), dim=-1)
    return among_drawn(rows[0], rows[1:], lambda q: (q @ images.T).max(dim=1).values, images.mean(0))


def some_images(seed=0, count=50, dims=16):
    return F.normalize(torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_drawn_queries_have_as_many_words_name_nothing_and_are_the_same_each_time():
    drawn = drawn_queries("a dog on the beach")
    assert len(drawn) == DRAWN == len(set(drawn)) and {len(query.split()) for query in drawn} == {5}
    assert drawn == drawn_queries("five words and no more") != drawn_queries("four words no more")
    assert {len(query.split()) for query in drawn_queries("word " * 200)} == {40}
    assert {word for query in drawn for word in query.split()} <= FUNCTION_WORDS


@pytest.mark.parametrize(("rank", "stands_out"), [(1, True), (2, True), (3, False), (40, False)])
def test_it_stands_out_above_all_but_one_in_twenty(rank, stands_out):
    among = AmongDrawn(rank, DRAWN)
    assert among.stands_out is stands_out and bool(among.warning) is not stands_out
    assert stands_out or f"{rank - 1} of 39 queries of as many random words" in among.warning


def test_a_query_that_an_image_answers_stands_out():
    images, drawn = some_images(), some_images(1, DRAWN)
    assert ranked(images[3] + 0.1, drawn, images) == AmongDrawn(1, DRAWN)


def test_words_that_are_close_to_every_image_do_not_stand_out():
    """Their cosine is the highest, but no image is closer than another."""
    common = F.normalize(torch.ones(16), dim=0)
    images, drawn = F.normalize(some_images() + 3 * common, dim=-1), some_images(1, DRAWN)
    assert float((images @ common).max()) > float((drawn @ images.T).max())
    assert not ranked(common, drawn, images).stands_out


def test_an_image_that_is_close_to_all_words_is_no_answer():
    """All queries lie around that image, the query no closer than drawn ones."""
    images = some_images()
    drawn = 3 * images[0] + some_images(1, DRAWN)
    ranks = [ranked(3 * images[0] + some_images(seed, 1)[0], drawn, images).rank for seed in range(2, 22)]
    assert np.mean(ranks) > 10
    assert ranked(3 * images[0] + 2 * images[5], drawn, images).stands_out


def test_equal_queries_do_not_stand_out():
    images = some_images()
    assert ranked(images[0], images[:1].expand(DRAWN, -1), images).rank == DRAWN + 1


def test_words_that_mean_nothing_stand_out_once_in_twenty():
    """The query's feature is drawn from where those of drawn queries are."""
    images = some_images(dims=8)
    flags = [
        ranked(rows[0], rows[1:], images).stands_out
        for rows in (some_images(seed, DRAWN + 1, 8) for seed in range(1, 801))
    ]
    assert 0.03 < np.mean(flags) < 0.07
