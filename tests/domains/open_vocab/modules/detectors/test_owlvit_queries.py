"""What OWL-ViT asks an image for, and what an image's boxes are to it."""

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("open_clip", reason="extra open-clip is not installed")

from vladapt.domains.open_vocab.modules.detectors.owlvit.heads import box_targets, merge_overlapping
from vladapt.domains.open_vocab.modules.detectors.owlvit.queries import OWLQueries, canonical_text
from vladapt.domains.open_vocab.modules.losses.matching import BoxTargets
from vladapt.domains.open_vocab.text_embeddings import TextEmbeddings

NAMES = "cat, dog, red bird, tree"


@pytest.fixture
def spec(region_towers):
    """A CLIP, D = 24."""
    return region_towers["vit"]


# Queries --------------------------------------------------------------------------------------------------------------


def test_an_image_is_asked_for_what_it_shows_and_for_random_others(spec):
    names = [f"thing {i}" for i in range(30)]
    torch.manual_seed(0)
    queries = OWLQueries(spec, names, "photo", negatives=5)
    drawn = queries.draw([torch.tensor([3, 3, 7]), torch.tensor([], dtype=torch.long)])
    first, second = drawn.classes
    assert first[:2].tolist() == [3, 7] and len(first) == 7 and len(set(first.tolist())) == 7
    assert len(second) == 5 and drawn.embeddings.shape == (2, 7, 24)
    assert drawn.mask.sum(dim=1).tolist() == [7, 5]
    assert len(OWLQueries(spec, NAMES, "photo").draw([torch.tensor([1])]).classes[0]) == 4, "no more are there"
    assert len(OWLQueries(spec, names, "photo", max_queries=3).draw([torch.tensor([9, 4])]).classes[0]) == 3


def test_classes_known_to_be_absent_come_before_random_ones(spec):
    queries = OWLQueries(spec, [f"thing {i}" for i in range(30)], "photo", negatives=3)
    chosen = queries.draw([torch.tensor([3])], [[20, 3, 21]]).classes[0].tolist()
    assert chosen[:3] == [3, 20, 21] and len(chosen) == 4


def test_negatives_are_drawn_as_often_as_they_were_met(spec):
    torch.manual_seed(0)
    queries = OWLQueries(spec, [f"thing {i}" for i in range(30)], "photo", None, negatives=1)
    queries.draw([torch.full((2000,), 5)])
    drawn = [queries.draw([torch.tensor([0])]).classes[0][1].item() for _ in range(20)]
    assert drawn.count(5) >= 15


def test_training_draws_a_prompt_a_query_and_the_test_takes_their_mean(spec):
    torch.manual_seed(0)
    queries = OWLQueries(spec, "cat, dog", ["{} one.", "{} two."], ["art {}", "{}"])
    texts = {canonical_text(text) for text in ("art cat", "cat", "cat one.", "cat two.")}
    assert set(queries._pool(0)) == texts
    rows = torch.stack([queries.draw([torch.tensor([0, 1])]).embeddings[0, 0] for _ in range(40)])
    assert len(torch.unique(rows.round(decimals=4), dim=0)) == 4
    expected = TextEmbeddings(spec, "cat, dog", ["{} one", "{} two"]).embeddings
    torch.testing.assert_close(queries(), expected)
    fixed = OWLQueries(spec, "cat, dog", ["{} one.", "{} two."], None).draw([torch.tensor([0, 1])])
    torch.testing.assert_close(fixed.embeddings[0], expected)


def test_the_published_prompts_are_the_name_and_clips_eighty(spec):
    queries = OWLQueries(spec, "cat")
    pool = queries._pool(0)
    assert len(pool) == 81 and {"cat", "itap of a cat", "a plushie cat"} <= set(pool)


def test_descriptions_and_synonyms_are_drawn_too(spec):
    pool = OWLQueries(spec, {"cat": {"synonyms": ["puss"], "descriptions": ["It purrs."]}}, "name", ["the {}"])._pool(0)
    assert pool == ["the cat", "cat", "it purrs", "puss"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A photo of a Bow_(weapon).", "a photo of a bow weapon"),
        ("ping--pong  ball", "ping-pong ball"),
        ("猫", "猫"),
        ("!", "!"),
    ],
)
def test_canonical_texts_are_lower_case_words(text, wanted):
    assert canonical_text(text) == wanted


def test_texts_are_taken_as_they_are_on_demand(spec):
    given = OWLQueries(spec, "cat", "a photo, of a {}!", None, canonical=False)
    assert given.vocabulary.queries == (("a photo, of a cat!",),)
    assert not torch.allclose(given(), OWLQueries(spec, "cat", "a photo, of a {}!", None)())


# Targets --------------------------------------------------------------------------------------------------------------


def test_targets_are_shares_of_the_square_and_queries_of_the_image():
    boxes = torch.tensor([[0.0, 0, 16, 8], [8, 8, 16, 16], [1, 1, 2, 2]])
    found = box_targets(boxes, torch.tensor([5, 2, 9]), torch.tensor([2, 5, 7]), (32, 32))
    torch.testing.assert_close(found.boxes, torch.tensor([[0.25, 0.125, 0.5, 0.25], [0.375, 0.375, 0.25, 0.25]]))
    assert found.labels.tolist() == [[0, 1, 0], [1, 0, 0]], "what is not asked for is no target"


def test_boxes_that_overlap_become_one_with_the_labels_of_both():
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.4, 0.39], [0.5, 0.5, 0.3, 0.4]])
    given = BoxTargets(boxes, torch.eye(4))
    merged = merge_overlapping(given, 0.9)
    assert merged.labels.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert merged.boxes[0].tolist() in (boxes[0].tolist(), boxes[2].tolist())
    assert len(merge_overlapping(given, 0.7).boxes) == 2 and len(merge_overlapping(given, 0.999).boxes) == 4
    assert torch.equal(given.labels, torch.eye(4)), "the labels given stay as they were"
