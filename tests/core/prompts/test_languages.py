"""Names of classes and prompts in a language, from files."""

from __future__ import annotations

import json

import pytest

from vladapt.core.contracts import DomainData
from vladapt.core.errors import ConfigError, DataError, UnknownNameError
from vladapt.core.prompts.languages import ClassWords, read_language

GERMAN = {
    "code": "de",
    "language": "German",
    "templates": ["ein Foto von {}."],
    "negative": ["ein Foto ohne {}."],
    "classes": {"red fox": "Rotfuchs", "boots": "Stiefel"},
    "sentences": {"boots": [["mit Stiefeln."], ["ohne Stiefel."]]},
    "kinds": {"radiology": {"templates": ["Röntgenbild: {}."], "negative": ["kein {}."]}},
}


def data_of(*names: str, kind: str = "labels") -> DomainData:
    return DomainData([], names, load=lambda item: None, kind=kind)


@pytest.fixture
def german(tmp_path):
    file = tmp_path / "de.json"
    file.write_text(json.dumps(GERMAN), encoding="utf-8")
    return file


def test_a_code_names_the_packaged_file_and_a_path_ones_own(german, tmp_path):
    own = tmp_path / "sächsisch.json"
    own.write_text('{"classes": {"apple": "Abbl"}}', encoding="utf-8")
    assert read_language("DE", {"de": german}, "toys") == GERMAN
    read = read_language(str(own), {"de": german}, "toys")
    assert read == {"code": "sächsisch", "language": "sächsisch", "classes": {"apple": "Abbl"}}


def test_a_language_that_the_domain_lacks_is_answered_with_those_it_has(german):
    with pytest.raises(UnknownNameError, match="domain 'toys' has no prompts in this language; it has de, fr; or give"):
        read_language("it", {"fr": german, "de": german}, "toys")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([], "neither templates nor classes"),
        ({"negative": ["kein {}"]}, "neither templates nor classes"),
        ({"templates": ["ein Foto"]}, "has no {}"),
        ({"templates": "ein {}"}, "'templates' is not a list"),
        ({"templates": ["{}"], "classes": {"a": 3}}, "'classes' gives each class its name"),
        ({"templates": ["{}"], "classes": {"a": " "}}, "'classes' gives each class its name"),
        ({"templates": ["{}"], "template": ["{}"]}, "unknown key 'template'; did you mean"),
        ({"templates": ["{}"], "language": 3}, "'language' is not a text"),
        ({"templates": ["{}"], "kinds": {"x": ["{}"]}}, "'kinds' gives each kind"),
        ({"templates": ["{}"], "kinds": {"x": {"negative": ["no"]}}}, "has no {}"),
        ({"templates": ["{}"], "sentences": {"a": [["b"]]}}, "'sentences' are pairs"),
        ({"templates": ["{}"], "sentences": {"a": [["b"], [3]]}}, "'sentences' are pairs"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, content, what):
    file = tmp_path / "own.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=what) as error:
        read_language(str(file), {}, "toys")
    assert str(file) in str(error.value)


def test_classes_are_called_as_the_file_says_in_any_spelling():
    data = ClassWords.of(GERMAN).applied(data_of("Red_Fox", "boots", "owl", "Rotwild"))
    assert data.class_names == ("Rotfuchs", "Stiefel", "owl", "Rotwild")
    assert data.notes == ["Classes without a name in German, which keep theirs: 2 (owl, Rotwild)."]


def test_names_that_are_of_the_language_already_stay_without_a_note():
    assert ClassWords.of(GERMAN).applied(data_of("Rotfuchs", "stiefel")).notes == []


def test_sentences_go_by_what_a_class_is_called():
    assert ClassWords.of(GERMAN).sentences == {"Stiefel": (["mit Stiefeln."], ["ohne Stiefel."])}


def test_a_kind_of_images_has_prompts_of_its_own():
    assert ClassWords.of(GERMAN, "radiology").templates == ("Röntgenbild: {}.",)
    assert ClassWords.of(GERMAN, "histology").templates == ("ein Foto von {}.",)


def test_two_classes_with_one_name_are_refused():
    words = ClassWords.of({"code": "de", "templates": ["{}"], "classes": {"crane": "Kran", "derrick": "Kran"}})
    with pytest.raises(DataError, match="'crane' and 'derrick' are both called 'Kran'"):
        words.applied(data_of("crane", "derrick"))


def test_several_labels_need_prompts_of_their_absence():
    words = ClassWords.of({key: GERMAN[key] for key in ("code", "templates", "classes")})
    with pytest.raises(ConfigError, match="add 'negative' templates"):
        words.applied(data_of("boots", kind="multilabel"))


def test_a_file_of_names_alone_says_whose_prompts_are_used():
    words = ClassWords.of({"code": "own", "classes": {"boots": "Stiefel"}})
    assert words.applied(data_of("boots")).notes == ["--language own has no templates: the domain's are used."]
