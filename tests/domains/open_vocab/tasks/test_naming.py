"""Which names a model knows, and its numbers turned into those of the data."""

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt import CapabilityError, ConfigError
from vladapt.domains.open_vocab.inference.running import (
    as_in_data,
    ask_for,
    known_names,
    names_with_background,
    refuse_fixed,
)


def test_a_model_knows_what_it_learned_until_it_is_asked_for_others(text_model):
    model = text_model(None, ["cat", "dog"])
    assert known_names(model) == ("cat", "dog")
    assert ask_for(model, "emu, fox, cat") == ("emu", "fox", "cat") == known_names(model) == model.taken.names


def test_numbers_follow_the_names_where_the_data_have_another_order(answering, text_model):
    for model in (answering(None, ["cat", "dog", "emu"]), text_model(None, ["cat", "dog", "emu"])):
        assert as_in_data(model, ["emu", "cat", "dog"]).tolist() == [1, 2, 0]


def test_names_that_differ_in_spelling_alone_are_the_same(answering, text_model):
    fixed = answering(None, ["traffic_light", "cat"])
    assert as_in_data(fixed, ["cat", "Traffic light"]).tolist() == [1, 0]
    assert as_in_data(text_model(None, ["traffic_light", "cat"]), ["cat", "Traffic light"]).tolist() == [0, 1]


def test_a_model_that_takes_names_is_asked_for_the_datas(text_model):
    model = text_model(None, ["cat", "dog"])
    assert as_in_data(model, ["dog", "red panda", "cat"]).tolist() == [0, 1, 2]
    assert model.taken.names == ("dog", "red panda", "cat")


def test_the_datas_own_names_leave_a_model_as_it_was_trained(text_model):
    model = text_model(None, ["cat", "dog"])
    as_in_data(model, ["dog", "cat"])
    assert model.taken is None and known_names(model) == ("cat", "dog")


def test_what_training_said_of_classes_is_said_again(text_model):
    described = {"cat": {"synonyms": ["kitten"], "descriptions": []}, "dog": {}}
    model = text_model(None, ["cat"], described=described)
    as_in_data(model, ["dog", "cat", "emu"])
    queries = dict(zip(("dog", "cat", "kitten", "emu"), model.taken.queries, strict=True))
    assert model.taken.owners == (0, 1, 1, 2) and queries["kitten"] == ("a photo of a kitten.",)


@pytest.mark.parametrize("asked", ["cat, fox", "cat", "cat, dog, emu"])
def test_other_names_than_the_datas_are_refused_with_both_lists(text_model, asked):
    model = text_model(None, ["cat", "dog"])
    ask_for(model, asked)
    with pytest.raises(ConfigError, match=r"annotation has 2 classes \(cat, dog\) and the prompt has \d \(cat"):
        as_in_data(model, ["cat", "dog"])
    assert model.taken.names == tuple(asked.split(", "))


@pytest.mark.parametrize("names", [["cat", "emu"], ["cat"], ["cat", "dog", "emu"]])
def test_a_model_with_fixed_classes_is_refused_on_other_data_with_both_lists(answering, names):
    with pytest.raises(ConfigError, match=r"config has 2 classes \(cat, dog\) and the annotation has \d \(cat"):
        as_in_data(answering(None, ["cat", "dog"]), names)


def test_fixed_classes_are_named_where_others_are_asked_for(answering, text_model):
    with pytest.raises(CapabilityError, match=r"--classes: this model takes no class names, its classes are cat, dog;"):
        refuse_fixed(answering(None, ["cat", "dog"]))
    refuse_fixed(text_model(None, ["cat", "dog"]))


@pytest.mark.parametrize(
    ("learned", "classes", "expected"),
    [
        ("background", "cat, dog", ["background", "cat", "dog"]),
        ("background", {"cat": ["furry."]}, ["background", "cat"]),
        ("background", "cat, background", "cat, background"),
        ("other", "cat, dog", "cat, dog"),
        (None, "cat, dog", "cat, dog"),
    ],
)
def test_a_learned_background_stays_with_new_names(text_model, learned, classes, expected):
    model = text_model(None, ["background", "cow"], task="segmentation")
    model.background_class = learned
    kept = names_with_background(model, classes)
    assert (list(kept) if isinstance(expected, list) else kept) == expected
    assert not isinstance(classes, dict) or kept["cat"]["descriptions"] == ["furry."]
