"""Texts and facts of a backbone are computed once and found again."""

from __future__ import annotations

import pytest
import torch
from tiny_tower import DIM, TinyTower, Unbuildable

from vladapt import DataError, FeatureStore
from vladapt.core.features import store as store_module


def test_texts_are_encoded_once_each_in_their_order(tower):
    texts = ["a cat", "a dog", "a cat"]
    first = FeatureStore().text_features(tower, texts)
    assert tower.texts == 2 and torch.equal(first[0], first[2])
    torch.testing.assert_close(first, tower.encode_text(texts, normalize=False))
    assert torch.equal(FeatureStore().text_features(Unbuildable(), ["a dog", "a cat"]), first[[1, 0]])
    more = FeatureStore().text_features(TinyTower("another", seed=3), texts)
    assert not torch.equal(more, first)
    assert FeatureStore().text_features(Unbuildable(), []).shape == (0, DIM)


def test_a_text_without_numbers_is_named_and_not_stored(tower, monkeypatch):
    encode = tower.encode_text
    rows = torch.tensor([[1.0], [torch.nan]])
    monkeypatch.setattr(tower, "encode_text", lambda texts, normalize: encode(texts, normalize=normalize) * rows)
    with pytest.raises(DataError, match="text 'a dog': the backbone gives NaN or infinity for it; give another text"):
        FeatureStore().text_features(tower, ["a cat", "a dog"])
    monkeypatch.setattr(tower, "encode_text", encode)
    assert FeatureStore().text_features(tower, ["a cat", "a dog"]).isfinite().all()


def test_many_texts_go_in_several_batches(tower, monkeypatch):
    monkeypatch.setattr(store_module, "TEXTS_AT_ONCE", 4)
    texts = [f"text {i}" for i in range(11)]
    found = FeatureStore().text_features(tower, texts)
    torch.testing.assert_close(found, tower.encode_text(texts, normalize=False))


def test_backbone_facts_are_known_without_the_model_and_made_again_when_damaged(tower):
    assert FeatureStore().backbone_facts(tower) == {"logit_scale": 50.0, "logit_bias": None}
    assert FeatureStore().backbone_facts(Unbuildable()) == {"logit_scale": 50.0, "logit_bias": None}
    (file,) = (FeatureStore().root / "facts").iterdir()
    file.write_text('{"logit_scale": 5')
    assert FeatureStore().backbone_facts(tower)["logit_scale"] == 50.0
