"""Class names in every form a user writes them, and their embeddings against literal means."""

import json

import pytest
import torch
import torch.nn.functional as F

from vladapt import CapabilityError, ConfigError, DataError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.features import store
from vladapt.domains.open_vocab.vocabulary import (
    IMAGENET_SEVEN,
    Vocabulary,
    described_classes,
    embed_classes,
    embed_queries,
    named_templates,
    text_backbone,
)

TWO = ("a {}.", "the {} here.")


@pytest.fixture
def written(tmp_path):
    """written("names.txt", text or JSON-able) -> the file."""

    def write(name, content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def encoded(small_clip_spec, monkeypatch):
    """A backbone that has built nothing yet, and the lists of texts it was asked to encode."""
    backbone = load_backbone(small_clip_spec, device="cpu")
    asked, encode = [], backbone.encode_text

    def listening(texts, *args, **kwargs):
        asked.append(list(texts))
        return encode(texts, *args, **kwargs)

    monkeypatch.setattr(backbone, "encode_text", listening)
    return backbone, asked


# Forms


@pytest.mark.parametrize("classes", ["cat, traffic_light", ["cat", " traffic_light "], ("cat", "traffic_light")])
def test_names_alone_have_a_query_each_of_all_templates(classes):
    found = Vocabulary.of(classes, TWO)
    assert found.names == ("cat", "traffic_light") and found.owners == (0, 1) and len(found) == 2
    assert found.queries == (("a cat.", "the cat here."), ("a traffic light.", "the traffic light here."))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_text_file_has_a_class_a_line_and_its_synonyms_after_it(written, mark):
    file = written("names.txt", f"{mark}cat, kitten , cat\n\n  dog\n")
    for given in (file, str(file)):
        found = Vocabulary.of(given, TWO)
        assert found.names == ("cat", "dog") and found.owners == (0, 0, 1)
        assert [query[0] for query in found.queries] == ["a cat.", "a kitten.", "a dog."]


def test_a_json_file_and_a_mapping_give_descriptions_and_synonyms(written):
    said = {
        "cat": ["has  whiskers"],
        "dog": {"synonyms": ["hound"], "descriptions": ["barks."]},
        "emu": [],
        "fox": {"synonyms": ["vixen"]},
    }
    found = Vocabulary.of(said, "name")
    assert found.names == tuple(said) and found.owners == (0, 1, 1, 2, 3, 3)
    assert found.queries == (
        ("cat", "has whiskers"),
        ("dog", "barks."),
        ("hound", "barks."),
        ("emu",),
        ("fox",),
        ("vixen",),
    )
    assert Vocabulary.of(written("classes.json", said), "name") == found
    assert Vocabulary.of(written("windows.json", f"\ufeff{json.dumps(said)}"), "name") == found


def test_a_name_with_a_comma_or_a_dot_is_one_name_in_a_list():
    assert Vocabulary.of(["cup, filled", "St. Bernard.txt"]).names == ("cup, filled", "St. Bernard.txt")


def test_what_is_said_of_classes_is_kept_where_something_is_said():
    said = described_classes({"cat": {"synonyms": ["kitten"]}, "dog": []})
    assert said == {"cat": {"synonyms": ["kitten"], "descriptions": []}, "dog": {}}
    assert described_classes("a, b") == {"a": {}, "b": {}}


def test_sets_of_templates_have_names():
    assert named_templates("name") == ["{}"] and named_templates("photo") == ["a photo of a {}."]
    assert named_templates("imagenet-7") == list(IMAGENET_SEVEN) and len(set(IMAGENET_SEVEN)) == 7
    assert named_templates("a {}") == ["a {}"] and named_templates(["a {}", "{}"]) == ["a {}", "{}"]


def test_eighty_templates_are_open_clips(monkeypatch):
    open_clip = pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    eighty = named_templates("imagenet-80")
    assert eighty == [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES] and len(eighty) == 80
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(CapabilityError, match=r"pip install 'vladapt\[open-clip\]'"):
        named_templates("imagenet-80")


# What cannot be used


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "names no class"),
        (" , ", "names no class"),
        ([], "names no class"),
        ({}, "names no class"),
        ({" ": []}, "names no class"),
        ("cat, dog, cat", "'cat' and 'cat' are the same class"),
        ("traffic_light, Traffic light", "'traffic_light' and 'Traffic light' are the same class"),
        ({"cat": [], "Cat": []}, "'cat' and 'Cat' are the same class"),
    ],
)
def test_no_name_or_a_name_twice_is_refused(classes, message):
    with pytest.raises(ConfigError, match=message):
        Vocabulary.of(classes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '{"cat": [', r"x\.json: not valid JSON"),
        ("x.json", ["cat"], r"x\.json: holds no object of classes"),
        ("x.json", {"cat": "furry"}, r"x\.json: class 'cat' is described in another form; write"),
        ("x.json", {"cat": {"synonym": ["kitten"]}}, "described in another form"),
        ("x.json", {"cat": [1]}, "described in another form"),
        ("x.json", {"cat": [""]}, "described in another form"),
        ("x.csv", "cat,dog", r"x\.csv: names come from a \.txt or \.json file"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(written, name, content, message):
    with pytest.raises(DataError, match=message):
        Vocabulary.of(written(name, content))


def test_an_empty_text_file_names_no_class(written):
    with pytest.raises(ConfigError, match="names no class"):
        Vocabulary.of(written("x.txt", "\n  \n"))


@pytest.mark.parametrize("name", ["absent.txt", "absent.json"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(No such file or directory\)"):
        Vocabulary.of(str(tmp_path / name))


def test_a_file_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"x\.txt: cannot be read .*one class per line"):
        Vocabulary.of(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("foto", "'foto': give a text with {}, or a set; did you mean photo"),
        (["a photo"], "no place for the class name"),
        ([3], "no place"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(templates, message):
    with pytest.raises(ConfigError, match=message):
        Vocabulary.of("cat", templates)


# Embeddings


def test_embeddings_are_means_of_means_of_unit_texts(small_clip):
    vocabulary = Vocabulary.of({"cat": {"synonyms": ["kitten"], "descriptions": ["furry."]}, "dog": []}, TWO)

    def mean(*texts):
        return F.normalize(F.normalize(small_clip.encode_text(list(texts)), dim=-1).mean(dim=0), dim=0)

    cat = mean("a cat.", "the cat here.", "furry.")
    kitten = mean("a kitten.", "the kitten here.", "furry.")
    dog = mean("a dog.", "the dog here.")
    torch.testing.assert_close(embed_queries(vocabulary, small_clip), torch.stack([cat, kitten, dog]))
    classes = torch.stack([F.normalize(cat + kitten, dim=0), dog])
    torch.testing.assert_close(embed_classes(vocabulary, small_clip), classes)
    assert not embed_classes(vocabulary, small_clip).requires_grad


def test_each_text_is_encoded_once_and_stored_for_the_next_time(encoded, small_clip_spec, monkeypatch):
    backbone, asked = encoded
    vocabulary = Vocabulary.of({"cat": ["furry."], "dog": ["furry."]}, "name")
    first = embed_classes(vocabulary, backbone)
    assert sorted(text for texts in asked for text in texts) == ["cat", "dog", "furry."]
    another = load_backbone(small_clip_spec, device="cpu")
    monkeypatch.setattr(type(another), "encode_text", lambda *args, **kwargs: pytest.fail("built a model"))
    assert torch.equal(embed_classes(vocabulary, another), first)


def test_more_names_encode_the_new_ones_alone(encoded):
    backbone, asked = encoded
    embed_classes(Vocabulary.of("cat, dog"), backbone)
    asked.clear()
    embed_classes(Vocabulary.of("dog, emu, cat"), backbone)
    assert asked == [["a photo of a emu."]]


def test_as_many_names_as_lvis_has_go_through_the_tower_in_chunks(encoded):
    backbone, asked = encoded
    names = [f"thing {number}" for number in range(1203)]
    found = embed_classes(Vocabulary.of(names, "name"), backbone)
    assert found.shape == (1203, 24) and max(map(len, asked)) <= store.TEXTS_AT_ONCE < 1203
    assert sum(map(len, asked)) == 1203
    alone = F.normalize(backbone.encode_text(["thing 7"]), dim=-1)
    torch.testing.assert_close(found[7:8], alone)


def test_one_backbone_serves_all_who_ask_for_texts(small_clip_spec):
    assert text_backbone(small_clip_spec) is text_backbone(small_clip_spec)
