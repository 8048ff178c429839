import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.modules.segmentors.queries import Queries, published_templates
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.domains.open_vocab.vocabulary import Vocabulary, embed_queries, text_backbone

SYNONYMS = {"background": [], "cat": {"synonyms": ["kitten", "tom"]}, "sea": {"synonyms": ["ocean"]}}


def embedded(spec, *names):
    return embed_queries(Vocabulary.of(list(names), "name"), text_backbone(spec))


def test_each_name_of_a_class_is_a_query(deep_clip):
    queries = Queries(deep_clip, SYNONYMS, "name")
    assert queries.counts == [1, 3, 2]
    torch.testing.assert_close(queries(), embedded(deep_clip, "background", "cat", "kitten", "tom", "sea", "ocean"))


def test_a_class_has_the_best_of_its_queries(deep_clip):
    queries = Queries(deep_clip, SYNONYMS, "name")
    scores = torch.tensor([0.1, 0.3, 0.9, 0.2, 0.4, 0.5])[:, None, None].expand(6, 2, 3)
    assert queries.best_of_each(scores)[:, 0, 0].tolist() == pytest.approx([0.1, 0.9, 0.5])


def test_background_words_stand_in_place_of_its_name(deep_clip):
    queries = Queries(deep_clip, SYNONYMS, "name", background_words="sky, wall")
    assert (queries.counts, queries.background_index) == ([2, 3, 2], 0)
    torch.testing.assert_close(queries()[:3], embedded(deep_clip, "sky", "wall", "cat"))


def test_background_words_without_a_background_are_no_class(deep_clip):
    queries = Queries(deep_clip, "cat, sea", "name", background_words=["sky", "wall"])
    assert (queries.counts, queries.background_index, len(queries())) == ([1, 1], None, 4)
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None, None]
    assert queries.best_of_each(scores).flatten().tolist() == pytest.approx([0.1, 0.2])


def test_any_class_may_be_the_background(deep_clip):
    queries = Queries(deep_clip, "cat, all_else, sea", "name", background="All else", background_words="sky, wall")
    assert (queries.counts, queries.background_index) == ([1, 2, 1], 1)
    with pytest.raises(ConfigError, match=r"prob_thd=0.1 .* no class is named 'void'"):
        Queries(deep_clip, "cat, sea", "name", background="void").need_background("prob_thd=0.1")


def test_new_names_replace_the_old_ones_and_keep_the_words_of_the_background(deep_clip):
    queries = Queries(deep_clip, "cat, background", "name", background_words="sky, wall")
    set_classes(queries, "background, boat, bird")
    assert (queries.names, queries.counts) == (("background", "boat", "bird"), [2, 1, 1])
    torch.testing.assert_close(queries(), embedded(deep_clip, "sky", "wall", "boat", "bird"))


def test_checkpoints_hold_no_words(deep_clip):
    assert not Queries(deep_clip, "cat, sea", "name").state_dict()


def test_the_published_templates_are_eighty_where_they_are_installed(monkeypatch):
    assert published_templates() == "imagenet-80"
    monkeypatch.setattr("vladapt.domains.open_vocab.modules.segmentors.queries.find_spec", lambda name: None)
    assert published_templates() == "imagenet-7"
