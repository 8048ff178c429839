"""Offsets of classes are learned on images that were held out, and only where they are wanted."""

from __future__ import annotations

import torch

from vladapt import FeatureSet, build_adapter


def test_cross_fitted_offsets_are_of_images_that_were_held_out():
    """No image is scored by a fit that saw it, and classes of one image are always learned from."""
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2, 3, 3])
    support = FeatureSet(torch.arange(9.0)[:, None].expand(-1, 2), labels, tuple("abcd"))
    scored = []

    def logits_of(rest, held):
        assert set(rest.labels.tolist()) == {0, 1, 2, 3}
        assert not set(rest.features[:, 0].tolist()) & set(held.features[:, 0].tolist())
        scored.extend(held.features[:, 0].tolist())
        return torch.nn.functional.one_hot(held.labels, 4).float()

    assert build_adapter("linear-probe").weighting.cross_fitted_offsets(support, 4, 0, logits_of).shape == (4,)
    assert sorted(scored) == [1, 2, 3, 4, 5, 6, 7, 8]
    equal = support.select([1, 2, 3, 4, 7, 8])
    assert build_adapter("linear-probe").weighting.cross_fitted_offsets(equal, 4, 0, logits_of) is None
    unweighted = build_adapter("linear-probe", class_weight="none")
    assert unweighted.weighting.cross_fitted_offsets(support, 4, 0, logits_of) is None
