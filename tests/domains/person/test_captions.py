"""Sentences about people: from lists of attributes, with CelebA's traps, and from what a tower sees in pictures."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.person import Person
from vladapt.domains.person.captions.combine import Captioning, Description, described_person, sentences
from vladapt.domains.person.captions.conquer import AttributeBelief, kept_answers, without_mixed_up
from vladapt.domains.person.captions.divide import QuestionTexts, coloured
from vladapt.domains.person.captions.faces import GROUPINGS, are_faces, face_sentences
from vladapt.domains.person.captions.lists import description_of
from vladapt.domains.person.captions.make import _safe, caption_people
from vladapt.domains.person.captions.questions import contradictions, questions_with, usual_questions

CELEBA = json.loads((Path(__file__).with_name("celeba_names.json")).read_text())
PEOPLE_WORDS = re.compile(
    r"\b(wom[ae]n|m[ae]n|girl|boy|she|he|male|female|young|old|asian|black person)\b", re.IGNORECASE
)


def face(*present: str, **others: float) -> dict[str, float]:
    return {**dict.fromkeys(CELEBA, 0.0), **dict.fromkeys(present, 1.0), **others}


def said(*present: str, grouping: str = GROUPINGS[0], **others: float) -> str:
    return " ".join(face_sentences(face(*present, **others), 6, 0, "a.jpg", grouping)).lower()


# Faces


def test_a_face_is_described_group_by_group_with_the_pronoun_of_the_label():
    text = said("Male", "Oval_Face", "Mustache", "Wavy_Hair", "Eyeglasses")
    for words in ("a man", "he ", "oval face", "mustache", "glasses"):
        assert words in text
    assert "she" not in text.split() and "a woman" in said("Oval_Face")
    unknown = said("Oval_Face", "Wavy_Hair", Male=float("nan"))
    assert "a person" in unknown and "this person" in unknown and not {"he", "she"} & set(unknown.split())


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_every_attribute_but_two_is_said_in_both_groupings(grouping):
    for name in set(CELEBA) - {"Attractive", "Blurry", "Male", "Young"}:
        assert said(name, grouping=grouping), name
    assert said("Attractive", "Blurry", grouping=grouping) == ""
    assert "attractive" not in said("Attractive", "Blurry", "Smiling", grouping=grouping)
    assert "young" in said("Young", "Smiling", grouping=grouping)


def test_what_is_absent_is_not_said():
    text = said("Smiling")
    assert "without" not in text and "no " not in text and "hat" not in text.split() and "old" not in text


def test_contradicting_labels_say_nothing():
    for beard in ("Goatee", "Mustache"):
        assert said("No_Beard", beard) == "" and "beard" in said("No_Beard")
    assert "hair" not in said("Straight_Hair", "Wavy_Hair", "Smiling")
    assert "hair" not in said("Black_Hair", "Blond_Hair", "Smiling")
    assert "bald" not in said("Bald", "Bangs", "Smiling") and "bald" in said("Bald")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=40, max_size=40), st.integers(0, 5))
def test_any_labels_make_whole_sentences_and_the_same_ones_again(values, seed):
    labels = {name: float("nan") if value < 0 else float(value) for name, value in zip(CELEBA, values)}
    made = face_sentences(labels, 3, seed, "x.jpg")
    assert made == face_sentences(labels, 3, seed, "x.jpg") and len(set(made)) == len(made) <= 3
    for text in made:
        assert text[0].isupper() and text.endswith(".") and "  " not in text and "and and" not in text


def test_names_in_another_order_or_spelling_mean_the_same():
    shuffled = dict(reversed(list(face("Mustache", "Oval_Face").items())))
    assert face_sentences(shuffled, 2, 0, "a") == face_sentences(face("Mustache", "Oval_Face"), 2, 0, "a")
    assert are_faces([name.lower().replace("_", " ") for name in CELEBA]) and not are_faces(["Hat", "Female"])


# Lists of bodies


def test_lists_of_bodies_say_what_they_know():
    values = {
        "Female": 1.0,
        "Backpack": 1.0,
        "Hat": 0.0,
        "AgeOver60": 1.0,
        "black upper-body clothing": 1.0,
        "Front": 1,
    }
    texts = sentences(description_of(values), 4, 0, "a")
    assert all("old woman" in text.lower() and "backpack" in text for text in texts) and len(texts) == 4
    assert all("black upper-body clothing" in text.lower() for text in texts)
    assert not any(word in " ".join(texts).lower() for word in ("hat", "front", "without"))
    assert description_of({"Female": float("nan"), "Hat": 0.0}).says_nothing
    assert description_of({"Female": 0.0}).subject == ("a man",)


# Divide, conquer, combine


def test_nothing_usual_asks_for_gender_age_or_ethnicity():
    for question in usual_questions():
        texts = [text for value in question.values for text in question.prompts(value)]
        texts += [word for words in question.values.values() for word in words]
        assert not any(PEOPLE_WORDS.search(text) for text in texts)


@pytest.fixture(scope="module")
def world():
    """Texts as bags of words on axes of their own, a picture as the text of what it shows: a tower that sees well."""
    axes: dict[str, int] = {}

    def encode(texts: list[str]) -> torch.Tensor:
        rows = torch.zeros(len(texts), 400)
        for row, text in zip(rows, texts):
            words = re.findall(r"[a-z]+", text.lower())
            for word in [*words, *(f"{one} {other}" for one, other in pairwise(words))]:
                row[axes.setdefault(word, len(axes))] = 1.0
        return rows

    return encode


def answers_of(world, shown: str, least: float = 0.2, questions=None):
    questions = questions or usual_questions()
    asked = QuestionTexts.of(type("Tower", (), {"logit_scale": 30.0}), questions, world)
    unit = F.normalize(world([shown]), dim=1)
    found = asked.probabilities(unit)
    for name, shares in found.items():
        assert torch.allclose(shares.flatten(1).sum(dim=1), torch.ones(1)), name
    kept = kept_answers(questions, found, 0, least, contradictions())
    return without_mixed_up([kept], unit, questions, world)[0]


def test_a_picture_is_asked_attribute_by_attribute(world):
    found = answers_of(world, "a photo of a person wearing a red jacket and blue jeans with a backpack")
    values = {name: answer.value for name, answer in found.items()}
    assert values["upper"] == "jacket" and values["upper colour"] == "red"
    assert values["lower"] == "jeans" and values["bag"] == "backpack"
    assert all(0.2 <= answer.confidence <= 1 for answer in found.values())
    fewer = answers_of(world, "a photo of a person wearing a red jacket and blue jeans with a backpack", least=0.999)
    assert len(fewer) < len(found)


def test_answers_that_contradict_one_another_lose_the_less_sure_one():
    questions = [q for q in usual_questions() if q.name in ("upper", "lower", "lower colour")]
    upper, lower, colour = (next(q for q in questions if q.name == name) for name in ("upper", "lower", "lower colour"))

    def shares(question, value, share):
        names = list(question.values)
        row = torch.full((1, len(names)), (1 - share) / (len(names) - 1))
        row[0, names.index(value)] = share
        return row

    pairs = shares(colour, "red", 0.9)[:, :, None] * shares(lower, "jeans", 0.7)[:, None, :]
    found = {"upper": shares(upper, "dress", 0.9), "lower": shares(lower, "jeans", 0.7)}
    found |= {"lower colour": shares(colour, "red", 0.9), "lower colour, lower": pairs}
    kept = kept_answers(questions, found, 0, 0.5, contradictions())
    assert {name: answer.value for name, answer in kept.items()} == {"upper": "dress"}  # its colour goes with the jeans
    assert kept["upper"].confidence == pytest.approx(0.9)
    without = kept_answers(questions, found, 0, 0.5, [])
    assert without["lower"].confidence == pytest.approx(0.7) and without["lower colour"].value == "red"
    other = {**found, "lower colour, lower": shares(colour, "blue", 0.9)[:, :, None] * torch.full((1, 1, 4), 0.25)}
    assert "lower colour" not in kept_answers(questions, other, 0, 0.5, [])  # told apart red, with the garment blue


def test_colours_that_fit_better_the_other_way_round_go(world):
    answers = {"upper": "jacket", "upper colour": "blue", "lower": "jeans", "lower colour": "red"}
    answers = {name: AttributeBelief(value, 0.9) for name, value in answers.items()}
    for shown, left in (("a red jacket and blue jeans", 2), ("a blue jacket and red jeans", 4)):
        unit = F.normalize(world([f"a photo of a person wearing {shown}."]), dim=1)
        assert len(without_mixed_up([answers], unit, usual_questions(), world)[0]) == left


def test_sentences_vary_in_order_and_words_and_say_a_person():
    answers = {"upper": "jacket", "upper colour": "grey", "lower": "trousers", "shoes": "boots", "bag": "backpack"}
    description = described_person(
        {name: AttributeBelief(value, 1.0) for name, value in answers.items()}, usual_questions()
    )
    made = sentences(description, 12, 0, "a.png")
    assert len(made) == 12 and made == sentences(description, 12, 0, "a.png") != sentences(description, 12, 1, "a.png")
    assert all("person" in text.lower() and "boots" in text.lower() for text in made)
    assert {word for text in made for word in ("grey", "gray") if word in text.lower()} == {"grey", "gray"}
    assert coloured("orange", "a jacket") == "an orange jacket" and coloured("blue", "jeans") == "blue jeans"
    assert coloured("orange", "a long coat") == "a long orange coat"
    assert coloured("red", "long pants") == "long red pants"
    assert Description().says_nothing and sentences(Description(), 3, 0, "a") == ["A person."]


# The command's work


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("0002_c1s1_000451_03", "0007_c2s1_000001_01", "walk"):
        Image.fromarray(rng.integers(0, 255, (32, 16, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_captions_of_pictures_are_read_back_by_the_domain(pictures, small_clip_spec):
    out, page = pictures / "captions.jsonl", pictures / "page.html"
    how = Captioning(sentences=2, min_confidence=0.0, html=page)
    made = caption_people([pictures], out, how, backbone=small_clip_spec, device="cpu")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert made.pictures == len(rows) == 3 and made.root == pictures
    assert (rows[0]["image"], rows[0]["identity"]) == ("0002_c1s1_000451_03.png", "2")
    assert rows[0]["camera"] == "1" and rows[2]["identity"] == "walk.png"
    assert all(set(row["attributes"]) == set(row["confidence"]) for row in rows)
    assert not any(PEOPLE_WORDS.search(text) for row in rows for text in row["captions"])
    html = page.read_text()
    assert html.count("data:image/jpeg") == 3 and rows[0]["captions"][0] in html and "0002_c1s1" not in html
    assert re.findall(r'(?:src|href)="(?!data:)', html) == []
    again = Person().read(out, "person-search")
    assert sorted(item.captions() for item in again.items) == sorted(tuple(row["captions"]) for row in rows)


def test_a_picture_in_deep_folders_has_a_file_name():
    assert len(f"{_safe(60 * 'folder/' + 'a.png#box3')}.png") < 255
    assert _safe(60 * "folder/" + "a.png#box3").endswith("a.png-box3")


def test_further_questions_need_a_file(pictures, small_clip_spec, tmp_path):
    asked = tmp_path / "more.json"
    asked.write_text(
        json.dumps(
            {"gender": {"ask": ["a photo of {}."], "values": {"w": ["a woman"], "m": ["a man"]}, "subject": True}}
        )
    )
    out = pictures / "c.jsonl"
    how = Captioning(attributes=asked, min_confidence=0.0)
    caption_people([pictures], out, how, backbone=small_clip_spec, device="cpu")
    assert all(re.search(r"\ba (wo)?man\b", text, re.IGNORECASE) for text in out.read_text().splitlines())
    for content, words in (({}, "not a JSON object"), ({"x": {"ask": ["a"]}}, "ask or values is missing")):
        asked.write_text(json.dumps(content))
        with pytest.raises(DataError, match=words):
            questions_with(asked)


def test_captions_come_from_celebas_list_without_a_tower(tmp_path):
    for number in (1, 2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"00000{number}.jpg")
    names = list(CELEBA)
    lines = [["1" if name in has else "-1" for name in names] for has in (("Smiling", "Male"), ("Attractive",))]
    text = "\n".join(f"00000{n}.jpg {' '.join(line)}" for n, line in enumerate(lines, 1))
    (tmp_path / "list_attr_celeba.txt").write_text(f"2\n{' '.join(names)}\n{text}\n")
    how = Captioning(attributes=tmp_path / "list_attr_celeba.txt", sentences=1)
    made = caption_people([], tmp_path / "c.jsonl", how)
    row = json.loads((tmp_path / "c.jsonl").read_text())
    assert (made.pictures, made.silent) == (1, 1) and row["captions"][0].startswith("A man is smiling")
    assert row["attributes"] == {"Smiling": "yes", "Male": "yes"} and row["confidence"]["Smiling"] == 1.0


@pytest.mark.parametrize(
    ("out", "options", "said"),
    [
        ("c.json", {}, "give a .jsonl file"),
        ("c.jsonl", {"paths": []}, "give pictures of people"),
        ("c.jsonl", {"paths": ["a", "b"], "attributes": "list.csv"}, "already names the pictures"),
    ],
)
def test_what_cannot_be_captioned_is_one_line(tmp_path, out, options, said):
    with pytest.raises(ConfigError, match=said):
        caption_people(options.pop("paths", ["x"]), tmp_path / out, Captioning(**options))


@pytest.mark.parametrize(
    "options", [{"sentences": 0}, {"min_confidence": 1.0}, {"grouping": "seven"}, {"shown": 0}, {"seed": -1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=f"option {next(iter(options))}=.* is not usable; give"):
        Captioning(**options)
