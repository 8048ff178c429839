"""What predict.py makes of the queries of a graph, beside what the types themselves make of them."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import torch

from vladapt.core.export.scripts import boxes
from vladapt.domains.open_vocab.data.outlines import decode, encode
from vladapt.domains.open_vocab.hub_models.boxes import BoxRanking
from vladapt.domains.open_vocab.hub_models.families.eomt import Model as Eomt
from vladapt.domains.open_vocab.hub_models.families.mask2former import Model as Mask2Former
from vladapt.domains.open_vocab.hub_models.families.maskformer import Model as MaskFormer
from vladapt.domains.open_vocab.hub_models.families.rf_detr import Model as RfDetr

QUERIES, CLASSES, WHOLE = 9, 4, (37, 52)


@pytest.fixture
def drawn():
    made = torch.Generator().manual_seed(3)
    boxes = torch.rand(1, QUERIES, 4, generator=made) * 0.4 + 0.1
    masks = torch.nn.functional.interpolate(torch.randn(1, QUERIES, 3, 4, generator=made), (12, 16), mode="bicubic")
    return torch.randn(1, QUERIES, CLASSES, generator=made) * 2, boxes, masks * 3


def rule(**changes):
    usual = {"softmax": False, "per_query": False, "most": None, "rows": None, "raster": None, "score_thr": 0.0}
    return {**usual, "learned_together": [True] * CLASSES, **changes}


def numbers(**tensors):
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("chosen", [None, [2, 0]])
@pytest.mark.parametrize(
    "ranking", [BoxRanking(), BoxRanking(most=5), BoxRanking(most=100), BoxRanking(per_query=True)]
)
def test_boxes_are_ranked_as_the_type_ranks_them(drawn, ranking, chosen):
    logits, places, _ = drawn
    rows = None if chosen is None else torch.tensor(chosen)
    (wanted,) = ranking.best(logits, places, [WHOLE], rows)
    how = rule(softmax=ranking.per_query, per_query=ranking.per_query, most=ranking.most, rows=chosen)
    corners, scores, labels, masks = boxes.boxes_of_queries(numbers(logits=logits, boxes=places), WHOLE, how)
    order = torch.argsort(-wanted.scores, stable=True)
    assert masks is None and len(scores) == len(wanted)
    np.testing.assert_allclose(scores, wanted.scores[order], atol=1e-6)
    np.testing.assert_allclose(corners, wanted.bboxes[order], atol=1e-4)
    np.testing.assert_array_equal(labels, wanted.labels[order])


def test_a_score_and_names_that_were_not_learned_together_leave_boxes_out(drawn):
    logits, places, _ = drawn
    outputs = numbers(logits=logits, boxes=places)
    every = boxes.boxes_of_queries(outputs, WHOLE, rule(most=30))
    sure = boxes.boxes_of_queries(outputs, WHOLE, rule(most=30, score_thr=0.6))
    apart = boxes.boxes_of_queries(outputs, WHOLE, rule(most=30, learned_together=[False] * CLASSES))
    assert 0 < len(sure[1]) == (every[1] >= 0.6).sum() < len(every[1])
    assert len(apart[1]) <= QUERIES and len(apart[1]) < len(every[1])  # a query has one name


def test_masks_beside_boxes_are_cut_at_the_size_of_the_image(drawn):
    logits, places, masks = drawn
    answer = boxes.boxes_of_queries(numbers(logits=logits, boxes=places, masks=masks), WHOLE, rule())
    (wanted,) = BoxRanking().best(logits, places, [WHOLE])
    outlines = RfDetr.masks(None, SimpleNamespace(pred_masks=masks), 0, wanted.queries, WHOLE)
    for encoded, outline in zip(answer[3], outlines.numpy(), strict=True):
        assert (decode(encoded) != outline).mean() < 1e-3  # one pixel, whose logit is nearly 0
    row = boxes.row_of("x", answer, list("abcd"), 0.5)
    assert len(row["masks"]) == len(row["boxes"]) == (answer[1] >= 0.5).sum() > 0


@pytest.mark.parametrize("family", [Mask2Former, MaskFormer, Eomt])
def test_objects_of_masks_are_those_of_the_type(drawn, family):
    """None is padded: a graph is of processors that give every image the same sides."""
    logits, _, masks = drawn
    masks[0, 4] = -1  # of one that is nowhere
    outputs = SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks)
    kind = family({"model_type": family.__module__.rpartition(".")[2]}, CLASSES - 1)
    (wanted,) = kind.found(outputs, [WHOLE])
    outlines = kind.masks(outputs, 0, wanted.queries, WHOLE)
    how = rule(softmax=True, raster=kind.raster, learned_together=[True] * (CLASSES - 1), per_query=kind.best_only)
    how["cut_at_image"] = kind.cut_at_image
    corners, scores, labels, encoded = boxes.boxes_of_queries(numbers(logits=logits, masks=masks), WHOLE, how)
    order = torch.argsort(-wanted.scores, stable=True)
    np.testing.assert_allclose(scores, wanted.scores[order], atol=1e-5)
    np.testing.assert_array_equal(labels, wanted.labels[order])
    np.testing.assert_allclose(corners, wanted.bboxes[order], atol=1)
    for own, outline in zip(encoded, outlines[order].numpy(), strict=True):
        assert (decode(own) != outline).mean() < 2e-3
    assert len(scores) > 0 and encode(outlines[order[0]].numpy())["size"] == encoded[0]["size"]
