"""The heads of OWL-ViT beside their formulas."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.modules.detectors.owlvit.heads import (
    ClassHead,
    PatchMLP,
    box_bias,
    most_typical,
)


def test_a_logit_is_a_cosine_shifted_and_scaled_by_its_patch():
    torch.manual_seed(0)
    head = ClassHead(6, 4)
    torch.nn.init.normal_(head.dense0.weight)
    patches, queries = torch.randn(1, 3, 6), torch.randn(5, 4)
    logits = head(patches, queries)
    for row in range(3):
        for column in range(5):
            cosine = F.cosine_similarity(head.dense0(patches[0, row]), queries[column], dim=0)
            patch = patches[0, row]
            wanted = (cosine + head.logit_shift(patch)) * (F.elu(head.logit_scale(patch)) + 1)
            torch.testing.assert_close(logits[0, row, column], wanted[0], rtol=1e-4, atol=1e-4)


def test_queries_that_an_image_has_not_are_never_found():
    mask = torch.tensor([[True, False]])
    patches, queries = torch.randn(1, 3, 6), torch.randn(1, 2, 4)
    assert (ClassHead(6, 4)(patches, queries, mask)[..., 1] == -1e6).all()
    lowest = ClassHead(6, 4, masked_logit=None)(patches, queries, mask)[..., 1]
    assert (lowest == torch.finfo(torch.float32).min).all()


@pytest.mark.parametrize("prior", [0.01, 0.2])
def test_the_shift_begins_at_the_prior(prior):
    head = ClassHead(6, 4, prior)
    patch = torch.zeros(1, 1, 6)
    with torch.no_grad():
        chance = head(patch, torch.zeros(1, 4)).sigmoid()  # no cosine, and a scale of 1
    torch.testing.assert_close(chance, torch.full_like(chance, prior))


def test_the_box_bias_is_of_place_of_size_or_of_both():
    both, place, size = (box_bias((2, 4), kind) for kind in ("both", "location", "size"))
    torch.testing.assert_close(both, place + size)
    assert not place[:, 2:].any() and not size[:, :2].any()
    assert both[0].sigmoid().tolist() == pytest.approx([0.25, 0.5, 0.25, 0.5], abs=1e-3)


def test_of_patches_on_the_thing_the_one_least_like_the_image_stands_for_it():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
    assert most_typical(embeddings, torch.tensor([0.9, 0.1, 0.8, 1.0])) == 2
    assert most_typical(embeddings, torch.tensor([0.9, 0.1, 0.7, 1.0])) == 3, "0.7 is below 0.8 of the best"
    assert most_typical(embeddings, torch.tensor([-0.9, -0.1, -0.7, -1.0])) == 1


def test_an_mlp_begins_with_zero():
    assert not PatchMLP(8, 4)(torch.randn(1, 3, 8)).any()
