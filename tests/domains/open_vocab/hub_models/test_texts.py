"""Models with texts against transformers' own: inputs, outputs, losses, gradients and what is detected."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vladapt.core.errors import ConfigError, DataError

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

from vladapt.domains.open_vocab.hub_models.captions import PhraseCaption, caption_of, captions_of, drawn, phrases_of
from vladapt.domains.open_vocab.hub_models.family import family_of, plain_config
from vladapt.domains.open_vocab.hub_models.text_family import placed_in_prompt
from vladapt.domains.open_vocab.hub_models.tokens import HeldTokenizer
from vladapt.domains.open_vocab.vocabulary import Vocabulary

from . import tiny_texts as tiny

GROUNDED = ("mm-grounding-dino", "grounding-dino")
OWLS = ("owlv2", "owlvit")
NAMES = ["red square", "blue", "Circle-ish"]
SIZES = [(48, 64), (48, 64)]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    tiny.bert_tokenizer().save_pretrained(folder / "bert")
    tiny.clip_tokenizer(16).save_pretrained(folder / "clip")
    return {name: HeldTokenizer(folder / name) for name in ("bert", "clip")}


@pytest.fixture(scope="module")
def models():
    """Model type -> transformers' model, its family with the same weights, and the family's own copy."""
    built = {}

    def get(model_type: str):
        if model_type not in built:
            torch.manual_seed(0)
            family = family_of(plain_config(tiny.config_of(model_type).to_dict()), 0)
            own = family.build().eval()
            theirs = (
                tiny.model_of(model_type, auxiliary_loss=True) if model_type in GROUNDED else tiny.model_of(model_type)
            )
            theirs.load_state_dict(own.state_dict())
            built[model_type] = theirs, family, own
        return built[model_type]

    return get


def words(names, templates="name") -> Vocabulary:
    return Vocabulary.of(names, templates)


def images(count: int = 2) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


def targets(*boxes_of_images) -> list[dict]:
    """Per image (class, cx, cy, w, h)."""
    rows = [torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5) for boxes in boxes_of_images]
    return [{"class_labels": each[:, 0].long(), "boxes": each[:, 1:]} for each in rows]


TRUTH = targets([(2, 0.3, 0.4, 0.2, 0.3), (0, 0.6, 0.6, 0.3, 0.2)], [(1, 0.5, 0.5, 0.4, 0.4)])


# captions -------------------------------------------------------------------------------------------------------------


def test_a_caption_is_the_processors_text(tokenizers):
    processor = tiny.processor_of("mm-grounding-dino")
    caption = caption_of(phrases_of(words(NAMES), tokenizers["bert"], 256), tokenizers["bert"])
    theirs = processor(images=images(1), text=[NAMES], return_tensors="pt").input_ids
    assert caption.numbers == tuple(theirs[0].tolist())


def test_the_map_of_a_caption_is_transformers_own(tokenizers):
    from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import build_label_maps

    caption = caption_of(phrases_of(words(NAMES), tokenizers["bert"], 256), tokenizers["bert"])
    (theirs,) = build_label_maps(torch.zeros(1, 1, 40), torch.tensor([caption.numbers]))
    assert torch.equal(caption.label_map(40), theirs)


@pytest.mark.parametrize("name", ["St. Bernard", "st bernard?", "St . Bernard."])
def test_a_name_with_a_delimiter_is_one_phrase(tokenizers, name):
    phrases = phrases_of(words([name, "blue"]), tokenizers["bert"], 256)
    plain = phrases_of(words(["st bernard", "blue"]), tokenizers["bert"], 256)
    assert [phrase.tokens for phrase in phrases] == [phrase.tokens for phrase in plain]
    assert len(caption_of(phrases, tokenizers["bert"]).spans) == 2


def test_a_name_that_cannot_be_read_is_refused(tokenizers):
    with pytest.raises(ConfigError, match=r"--classes: '\.\.\.' has nothing"):
        phrases_of(words(["..."]), tokenizers["bert"], 256)


def test_captions_hold_all_names_once_and_none_is_too_long(tokenizers):
    names = [f"name number {number}" for number in range(40)]
    captions = captions_of(phrases_of(words(names), tokenizers["bert"], 64), tokenizers["bert"], 64)
    assert len(captions) > 1
    assert all(len(caption.numbers) <= 64 for caption in captions)
    assert [index for caption in captions for index in caption.classes] == list(range(40))


def test_synonyms_are_phrases_of_one_class_and_a_description_is_not_the_name(tokenizers):
    vocabulary = words({"dog": {"synonyms": ["st bernard"], "descriptions": ["red"]}, "cat": []})
    caption = caption_of(phrases_of(vocabulary, tokenizers["bert"], 256), tokenizers["bert"])
    assert caption.owners == (0, 0, 1)
    start, stop = caption.spans[0]
    assert caption.numbers[start:stop] == tuple(tokenizers["bert"].bare("dog"))
    assert caption.numbers[stop : stop + 2] == tuple(tokenizers["bert"].bare(", red"))
    logits = torch.full((1, 1, 256), -9.0)
    logits[0, 0, caption.spans[1][0] : caption.spans[1][1]] = 9.0
    assert caption.scores(logits)[0, 0].tolist() == pytest.approx([0.9999, 0.0001], abs=1e-4)


def test_the_score_of_a_name_is_the_mean_of_its_own_tokens():
    caption = PhraseCaption((101, 5, 6, 1012, 7, 1012, 102), ((1, 3), (4, 5)), (0, 1))
    logits = torch.tensor([[[9.0, 0.0, -50.0, 9.0, 1.0, 9.0, 9.0, -torch.inf]]])
    assert torch.allclose(caption.scores(logits), torch.tensor([[[0.25, torch.tensor(1.0).sigmoid()]]]))


def test_the_score_of_a_class_is_the_best_of_its_phrases_which_may_lie_apart():
    caption = PhraseCaption(tuple(range(9)), ((1, 2), (3, 5), (6, 8)), (7, 2, 7))
    assert caption.label_map(9).nonzero().tolist() == [[0, 1], [1, 3], [1, 4], [2, 6], [2, 7]]
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    tokens = logits.sigmoid()
    of_seven = torch.maximum(tokens[..., 1], tokens[..., 6:8].mean(dim=-1))
    wanted = torch.stack([tokens[..., 3:5].mean(dim=-1), of_seven], dim=-1)  # 2 comes before 7
    torch.testing.assert_close(caption.scores(logits), wanted)


def test_what_a_batch_shows_is_not_asked_for_where_all_classes_fit():
    """It lies on the device, which would be waited for in every step."""

    def shown():
        read.append(1)
        yield 1

    read = []
    assert drawn([1, 1], shown(), [], 2) == [0, 1] and not read
    assert drawn([1, 1], shown(), [], 1) == [1] and read


def test_what_is_drawn_fits_and_holds_what_is_shown_first():
    torch.manual_seed(0)
    lengths = [3] * 100
    chosen = [drawn(lengths, present=[7, 50], absent=[3, 7], room=30) for _ in range(20)]
    assert all(sum(lengths[index] for index in row) <= 30 and len(set(row)) == len(row) for row in chosen)
    assert all(set(row[:2]) == {7, 50} and row[2] == 3 for row in chosen)
    assert len({tuple(sorted(row)) for row in chosen}) > 1
    assert drawn([3] * 10, present=[7], absent=[], room=30) == list(range(10))
    assert len(drawn(lengths, present=range(100), absent=[], room=30)) == 10


# tokenizers -----------------------------------------------------------------------------------------------------------


def test_a_tokenizer_comes_back_with_the_weights(tokenizers):
    empty = HeldTokenizer()
    with pytest.raises(DataError, match="hold no tokenizer"):
        empty.bare("red")
    empty.load_state_dict(tokenizers["bert"].state_dict())
    assert empty.bare("red squares") == tokenizers["bert"].bare("red squares")
    assert copy.deepcopy(empty).bare("red") == empty.bare("red")


def test_bytes_that_are_no_tokenizer_are_refused(tokenizers):
    damaged = HeldTokenizer()
    damaged.load_state_dict({"file": torch.zeros(10, dtype=torch.uint8)})
    with pytest.raises(DataError):
        damaged.bare("red")


def test_padded_texts_are_the_processors(tokenizers):
    processor = tiny.processor_of("owlv2")
    theirs = processor(text=[["a photo of a red square", "blue"]], return_tensors="pt")
    numbers, mask = tokenizers["clip"].padded(["a photo of a red square", "blue"], 16)
    assert torch.equal(numbers, theirs.input_ids)
    assert torch.equal(mask, theirs.attention_mask)
    cut, _ = tokenizers["clip"].padded(["red " * 40], 16)
    assert cut[0, -1] == numbers.max()


# grounded -------------------------------------------------------------------------------------------------------------


def grounded(models, tokenizers, model_type, names=NAMES, truth=TRUTH):
    theirs, family, own = models(model_type)
    caption = family.training_prompt(words(names), tokenizers["bert"], [0], [])
    inputs = tiny.processor_of(model_type)(images=images(), text=[names, names], return_tensors="pt")
    labels = placed_in_prompt(truth, caption)
    expected = theirs(**inputs, labels=labels)
    outputs = family.outputs(own, inputs.pixel_values, inputs.pixel_mask, caption, labels=labels)
    return expected, outputs, family, own, theirs, labels


@pytest.mark.parametrize("model_type", GROUNDED)
def test_a_grounded_loss_and_its_gradient_are_transformers(models, tokenizers, model_type):
    expected, outputs, family, own, theirs, labels = grounded(models, tokenizers, model_type)
    parts = family.losses(outputs, labels)
    assert torch.allclose(outputs.logits, expected.logits)
    assert torch.allclose(sum(parts.values()), expected.loss, rtol=1e-6)
    assert {"loss_ce", "loss_ce_0", "loss_bbox_0", "loss_ce_enc", "loss_giou"} <= set(parts)
    own.zero_grad(), theirs.zero_grad()
    sum(parts.values()).backward()
    expected.loss.backward()
    compared = 0
    for (name, mine), (_, hers) in zip(own.named_parameters(), theirs.named_parameters(), strict=True):
        if mine.requires_grad and hers.grad is not None:
            assert torch.allclose(mine.grad, hers.grad, atol=1e-6), name
            compared += 1
        assert mine.requires_grad == (mine.grad is not None), name
    assert compared > 100


@pytest.mark.parametrize("truth", [targets([], []), targets([(1, 0.5, 0.5, 0.4, 0.4)], [])])
def test_a_grounded_loss_without_objects_is_a_number(models, tokenizers, truth):
    expected, outputs, family, *_, labels = grounded(models, tokenizers, GROUNDED[0], truth=truth)
    parts = family.losses(outputs, labels)
    assert torch.allclose(sum(parts.values()), expected.loss)
    assert all(part.isfinite() for part in parts.values())


def test_boxes_of_classes_that_are_not_asked_for_are_left_out():
    caption = SimpleNamespace(classes=(2, 0))
    left = placed_in_prompt(TRUTH, caption)
    assert [each["class_labels"].tolist() for each in left] == [[0, 1], []]
    assert left[1]["boxes"].shape == (0, 4)


@pytest.mark.parametrize("model_type", GROUNDED)
def test_what_is_detected_is_the_processors(models, tokenizers, model_type):
    """Of names of one token, where the surest token of a box is a name's."""
    theirs, family, own = models(model_type)
    names = ["red", "blue", "circle"]
    processor = tiny.processor_of(model_type)
    inputs = processor(images=images(), text=[names, names], return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs)
        (caption,) = family.prompts(words(names), tokenizers["bert"])
        outputs = family.outputs(own, inputs.pixel_values, inputs.pixel_mask, caption)
    rows = processor.post_process_grounded_object_detection(expected, threshold=0, text_threshold=1, target_sizes=SIZES)
    ours = family.best_of_prompts([(*family.answers(outputs, caption), caption)], SIZES, 60)
    tokens = [start for start, _ in caption.spans]
    surest = expected.logits.argmax(dim=-1)  # (B, Q)
    compared = 0
    for image, row in enumerate(rows):
        for query in range(len(row["scores"])):
            if surest[image, query] in tokens:
                label = tokens.index(surest[image, query])
                same = ours[image].labels == label
                same &= (ours[image].scores - row["scores"][query]).abs() < 1e-6
                same &= (ours[image].bboxes - row["boxes"][query]).abs().amax(dim=1) < 1e-3
                assert same.any()
                compared += 1
    assert compared > 3


def test_names_in_several_captions_are_one_ranking(models, tokenizers):
    _, family, own = models(GROUNDED[0])
    pixels, mask = torch.randn(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.long)
    names = [f"red {letter}" for letter in "abcdefgh"]
    captions = captions_of(phrases_of(words(names), tokenizers["bert"], 14), tokenizers["bert"], 14)
    with torch.no_grad():
        answers = [
            (*family.answers(family.outputs(own, pixels, mask, caption), caption), caption) for caption in captions
        ]
    best = family.best_of_prompts(answers, SIZES, 1000)
    assert len(captions) > 1
    assert all(len(each) == 20 * len(names) and (each.scores.diff() <= 0).all() for each in best)
    scores, boxes, caption = answers[-1]
    place = int(scores[0].flatten().argmax())
    query, label = place // scores.shape[2], caption.classes[place % scores.shape[2]]
    row = int((best[0].scores == scores[0].max()).nonzero()[0])
    assert best[0].labels[row] == label
    height, width = SIZES[0]
    centre = (best[0].bboxes[row, :2] + best[0].bboxes[row, 2:]) / 2
    assert torch.allclose(centre, boxes[0, query, :2] * torch.tensor([width, height]), atol=1e-3)
    assert [len(each) for each in family.best_of_prompts(answers, SIZES, 7)] == [7, 7]


def test_a_tokenizer_of_another_model_is_refused(models, tokenizers):
    _, family, own = models(GROUNDED[0])
    family.check_tokenizer(own, tokenizers["bert"])
    own.model.special_tokens[2] = 5
    with pytest.raises(DataError, match="of another model"):
        family.check_tokenizer(own, tokenizers["bert"])
    own.model.special_tokens[2] = 1012


# OWL ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", OWLS)
def test_what_an_owl_detects_is_the_processors(models, tokenizers, model_type):
    theirs, family, own = models(model_type)
    texts = [f"a photo of a {name}" for name in ("red square", "blue")]
    processor = tiny.processor_of(model_type)
    inputs = processor(images=images(), text=[texts, texts], return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs)
        (prompt,) = family.prompts(words(["red square", "blue"], "a photo of a {}"), tokenizers["clip"])
        outputs = family.outputs(own, inputs.pixel_values, None, prompt, family.embedded(own, prompt))
    assert torch.allclose(outputs.logits, expected.logits, atol=1e-5)
    rows = processor.post_process_grounded_object_detection(expected, threshold=-1, target_sizes=torch.tensor(SIZES))
    ours = family.best_of_prompts([(*family.answers(outputs, prompt), prompt)], SIZES, 1000)
    for row, own_rows in zip(rows, ours, strict=True):
        assert len(row["scores"]) == 64
        for score, label, box in zip(row["scores"], row["labels"], row["boxes"], strict=True):
            near = (own_rows.bboxes - box).abs().amax(dim=1) < 1e-3
            assert (near & (own_rows.labels == label) & ((own_rows.scores - score).abs() < 1e-5)).any()


def test_an_owl_class_is_the_mean_of_its_texts(models, tokenizers):
    _, family, own = models("owlv2")
    with torch.no_grad():
        both = family.embedded(
            own, *family.prompts(words(["red", "blue"], ["{}", "a photo of a {}"]), tokenizers["clip"])
        )
        single = [
            family.embedded(own, *family.prompts(words(["red", "blue"], each), tokenizers["clip"]))
            for each in ("{}", "a photo of a {}")
        ]
    assert torch.allclose(both, torch.nn.functional.normalize(sum(single), dim=-1), atol=1e-6)


def test_an_owl_class_is_the_mean_of_its_queries_and_a_query_of_its_texts(models, tokenizers):
    _, family, own = models("owlv2")
    vocabulary = words({"red": {"synonyms": ["blue"], "descriptions": ["circle"]}, "square": []})
    (prompt,) = family.prompts(vocabulary, tokenizers["clip"])
    assert [len(queries) for queries in prompt.texts] == [2, 1] and len(prompt.texts[0][0]) > 1
    rows = family.embedded(own, prompt)
    each = [
        [
            [family.embedded(own, replace(prompt, classes=(0,), texts=(((text,),),)))[0] for text in query]
            for query in own_queries
        ]
        for own_queries in prompt.texts
    ]
    unit = torch.nn.functional.normalize
    queries = [[unit(torch.stack(texts).mean(0), dim=0) for texts in own_queries] for own_queries in each]
    wanted = torch.stack([unit(torch.stack(own_queries).mean(0), dim=0) for own_queries in queries])
    torch.testing.assert_close(rows, wanted, rtol=1e-4, atol=1e-6)
    assert rows.requires_grad


@pytest.mark.parametrize("model_type", OWLS)
@pytest.mark.parametrize("truth", [TRUTH, targets([], [])])
def test_an_owl_learns_by_every_term(models, tokenizers, model_type, truth):
    _, family, own = models(model_type)
    torch.manual_seed(0)
    prompt = family.training_prompt(words(NAMES), tokenizers["clip"], [0], [])
    outputs = family.outputs(own, torch.randn(2, 3, 64, 64), None, prompt, labels=truth)
    parts = family.losses(outputs, placed_in_prompt(truth, prompt))
    names = {"loss_class", "loss_bbox", "loss_giou"} | ({"loss_objectness"} if model_type == "owlv2" else set())
    assert set(parts) == names
    assert outputs.logits.shape[1] == (7 if model_type == "owlv2" else 64)
    own.zero_grad()
    sum(parts.values()).backward()
    for name, parameter in own.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_an_owls_training_texts_are_drawn_from_templates(models, tokenizers):
    _, family, _ = models("owlv2")
    texts = {family.training_prompt(words(["red"]), tokenizers["clip"], [0], []).texts[0][0][0] for _ in range(30)}
    assert len(texts) > 3
    assert all("red" in text for text in texts)


# OmDet ----------------------------------------------------------------------------------------------------------------


def test_what_omdet_detects_is_the_processors(models, tokenizers):
    theirs, family, own = models("omdet-turbo")
    names = ["red square", "blue"]
    processor = tiny.processor_of("omdet-turbo")
    inputs = processor(images=images(), text=[names, names], return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs)
        (prompt,) = family.prompts(words(names), tokenizers["clip"])
        outputs = family.outputs(own, inputs.pixel_values, None, prompt)
    rows = processor.post_process_grounded_object_detection(
        expected, [names, names], threshold=0, target_sizes=SIZES, max_num_det=30
    )
    ours = family.best_of_prompts([(*family.answers(outputs, prompt), prompt)], SIZES, 30)
    for row, own_rows in zip(rows, ours, strict=True):
        assert torch.allclose(row["scores"], own_rows.scores, atol=1e-6)
        assert torch.equal(row["labels"], own_rows.labels)
        assert torch.allclose(row["boxes"], own_rows.bboxes, atol=1e-3)


# several processes ----------------------------------------------------------------------------------------------------


def test_a_grounded_loss_counts_the_boxes_of_all_processes(models, tokenizers, monkeypatch):
    """Three boxes here and five on average: every part is three fifths of what it is alone."""
    from vladapt.domains.open_vocab.hub_models import family as base

    _, outputs, family, *_, labels = grounded(models, tokenizers, GROUNDED[0])
    alone = family.losses(outputs, labels)
    monkeypatch.setattr(base, "get_world_size", lambda: 2)
    monkeypatch.setattr(base, "all_reduce", lambda count, _: count.copy_(torch.tensor(5.0)))
    together = family.losses(outputs, labels)
    assert {name: part.item() for name, part in together.items()} == pytest.approx(
        {name: part.item() * 3 / 5 for name, part in alone.items()}
    )
