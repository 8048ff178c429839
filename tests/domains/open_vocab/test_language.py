"""Things found by their names in another language: names of the data, prompts of the model."""

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.core.recipes.resolve import resolve, task_in
from vladapt.domains.open_vocab import OpenVocab, shapes


@pytest.mark.parametrize("given", [{}, {"language": "de"}])
def test_a_detector_is_asked_in_the_words_of_the_language(given, monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 2, "val": 1, "test": 1})
    task = task_in(OpenVocab(), "detection")
    recipe = task.settled(resolve(flags={"domain": "open-vocab", "classes": None, **given}))
    data = task._read(recipe)
    classifier = task.plan(recipe, data, None).model.roi_head.bbox_head.classifier
    german = bool(given)
    assert ("roter Kreis" in data.class_names) == german and ("red circle" in data.class_names) != german
    assert classifier.classes == list(data.class_names)
    assert classifier.templates == (["ein Foto: {}."] if german else "photo")
    assert (recipe.to_dict().get("language") or {}).get("language") == ("German" if german else None)
    assert task.settled(recipe).language == recipe.language
