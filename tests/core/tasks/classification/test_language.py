"""Fits whose classes are named in a language: answers, prompts and stored words follow it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import vladapt
from vladapt.core.contracts import DomainData
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.features.store import FeatureStore
from vladapt.core.prompts.languages import ClassWords, read_language
from vladapt.core.recipes.resolve import check_recipe, resolve, task_of
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.prepared import Prepared

GERMAN = {
    "language": "German",
    "templates": ["ein Foto von {}.", "{} im Bild."],
    "classes": {"sea": "Meer", "leaf": "Blatt"},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, name in enumerate(("crimson", "leaf", "sea")):
        (folder / name).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}-{i}.png")
    return folder


@pytest.fixture(scope="module")
def run_of(photos, small_clip_spec, tmp_path_factory):
    """run.json of a fit of zero-shot, and its folder."""
    out = tmp_path_factory.mktemp("runs")

    def fit(**flags):
        fitted = vladapt.fit(
            domain="natural", backbone=small_clip_spec, data=str(photos), adapter="zero-shot", out=str(out), **flags
        )
        return json.loads((fitted.run / "run.json").read_text(encoding="utf-8")), fitted.run

    return fit


@pytest.fixture(scope="module")
def german(run_of, tmp_path_factory):
    file = tmp_path_factory.mktemp("words") / "de.json"
    file.write_text(json.dumps(GERMAN), encoding="utf-8")
    read = run_of(language=str(file))
    file.unlink()
    return read


def test_the_run_keeps_names_prompts_and_the_file_itself(german):
    info, _ = german
    assert info["class_names"] == ["crimson", "Blatt", "Meer"]
    assert info["templates"] == GERMAN["templates"]
    assert info["recipe"]["language"] == {"code": "de", **GERMAN}
    assert "Classes without a name in German, which keep theirs: 1 (crimson)." in info["notes"]
    assert any("not known to have learned German" in note for note in info["notes"])


def test_scores_are_those_of_other_texts(german, run_of):
    info, _ = run_of()
    assert info["class_names"] == ["crimson", "leaf", "sea"] and "language" not in info["recipe"]
    assert info["metrics"]["zero_shot"]["auroc"] != german[0]["metrics"]["zero_shot"]["auroc"]


def test_predict_answers_and_eval_reads_in_the_language_without_the_file(german, photos):
    rows = vladapt.predict(german[1], [str(photos / "sea")]).rows()
    assert {row["label"] for row in rows} <= {"crimson", "Blatt", "Meer"}
    again = vladapt.evaluate(german[1], data=str(photos), split="all")
    assert again["adapted"]["accuracy"] == again["zero_shot"]["accuracy"]


def test_classes_that_are_left_out_are_found_under_their_own_names(photos, small_clip_spec, tmp_path):
    file = tmp_path / "de.json"
    file.write_text(json.dumps(GERMAN), encoding="utf-8")
    recipe = resolve(
        flags={"backbone": small_clip_spec, "data.path": str(photos), "language": str(file), "classes": "leaf,crimson"}
    )
    task = task_of(recipe)
    prepared = task.prepared(recipe, Reporter(quiet=True))
    assert prepared.class_names == ("Blatt", "crimson") and task._left_out(recipe, prepared) == ["sea"]
    prompts = [text for texts in prepared.classifier.texts for text in texts]
    assert prompts == ["ein Foto von Blatt.", "Blatt im Bild.", "ein Foto von crimson.", "crimson im Bild."]


def test_several_labels_are_asked_for_and_denied_in_the_language(small_clip, tmp_path):
    domain, names = vladapt.load_domain("person"), ("long hair", "a t-shirt")
    words = ClassWords.of(read_language("fr", domain.languages, "person"))
    data = words.applied(DomainData([], names, load=lambda item: None, kind="multilabel"))

    def prepared(**how):
        of_data = {"domain": domain, "task": "attributes", "data": data, "backbone": small_clip, "words": words}
        return Prepared(**of_data, store=FeatureStore(tmp_path / "features"), reporter=Reporter(quiet=True), **how)

    french, own = prepared(), prepared(given_templates=["{}!"])
    person = "une photo d'une personne"
    assert french.classifier.texts == ((f"{person} aux cheveux longs.",), (f"{person} avec un t-shirt.",))
    assert own.classifier.texts == (("les cheveux longs!",), ("un t-shirt!",))
    hair, shirt = small_clip.encode_text([f"{person} aux cheveux courts.", f"{person} sans t-shirt."])
    assert torch.allclose(french.classifier.negative, torch.stack([hair, shirt]), atol=1e-5)
    denied = ClassWords.of({"code": "fr", "templates": ["{}"], "negative": ["pas {}"]})
    assert prepared().negative_templates == list(words.negative)
    assert replace(french, words=denied).negative_templates == ["pas {}"]


def test_what_cannot_be_is_refused_before_data_are_read():
    with pytest.raises(UnknownNameError, match="domain 'natural' has no prompts in this language; it has de, es"):
        check_recipe(resolve(flags={"domain": "natural", "language": "tlh"}))
    with pytest.raises(ConfigError, match="--language and --set templates"):
        vladapt.fit(domain="natural", language="de", templates=["{}"])


def test_a_packaged_recipe_gives_way_to_the_prompts_of_the_language():
    recipe = resolve(recipe="medical/chest-xray", flags={"language": "de"})
    assert recipe.templates is None and resolve(recipe="medical/chest-xray").templates


def test_captions_of_a_language_are_an_option_of_their_reader():
    flags = {"domain": "remote-sensing", "task": "retrieval", "language": "de"}
    recipe = resolve(flags=flags)
    assert recipe.language is None and recipe.reading["language"] == "de"
    assert resolve(flags={**flags, "task": "classification"}).language == "de"
