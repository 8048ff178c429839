"""The packaged language files of every domain."""

from __future__ import annotations

import pytest

from vladapt import CapabilityError, load_domain
from vladapt.core.contracts import DomainData
from vladapt.core.prompts.languages import ClassWords, read_language
from vladapt.domains.medical.reading import prompts
from vladapt.domains.medical.synthetic_cells import KINDS as CELLS
from vladapt.domains.natural.drawn_things import KINDS as THINGS
from vladapt.domains.open_vocab.shapes import NAMES as SHAPES
from vladapt.domains.person.pedestrian_outfits import ATTRIBUTES
from vladapt.domains.remote_sensing.drawn_scenes import KINDS as SCENES
from vladapt.domains.video.drawn_clips import MOTIONS

CODES = {"de", "es", "fr", "ja", "zh"}
DRAWN = {
    "medical": CELLS,
    "natural": THINGS,
    "open-vocab": ("background", *SHAPES),
    "person": ATTRIBUTES,
    "remote-sensing": SCENES,
    "video": MOTIONS,
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_language_names_the_classes_of_the_sample_and_asks_in_its_own_words(name):
    try:
        domain = load_domain(name)
    except CapabilityError as error:
        pytest.skip(str(error))
    assert set(domain.languages) == CODES
    kind = "multilabel" if name == "person" else "labels"
    for code in CODES:
        read = read_language(code, domain.languages, name)
        words = ClassWords.of(read)
        called = words.applied(DomainData([], tuple(DRAWN[name]), load=lambda item: None, kind=kind))
        assert read["code"] == code and not called.notes
        assert not set(called.class_names) & set(DRAWN[name])
        assert words.negative and len(set(words.templates)) == len(words.templates)
        assert not set(words.templates) & (set(domain.templates(domain.task_names[-1])) - {"{}."})


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_kind_of_medical_images_has_prompts_of_its_own(code):
    read = read_language(code, load_domain("medical").languages, "medical")
    assert set(read["kinds"]) == {*prompts(), "pair"} - {"general"}
    asked = [ClassWords.of(read, kind).templates for kind in ("", *read["kinds"])]
    assert len(set(asked)) == len(asked)
