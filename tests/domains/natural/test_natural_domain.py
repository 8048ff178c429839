"""Published sets are recognised by name and number of classes together; their prompts are taken."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt import ConfigError, UnknownNameError
from vladapt.core.forgetting import draw
from vladapt.core.registry import load_domain
from vladapt.domains.natural import Natural
from vladapt.domains.natural.drawn_things import render_item
from vladapt.domains.natural.known_sets import known_set, set_names

EUROSAT = 10


def classes(photo, folder, count):
    for number in range(count):
        photo(f"{folder}/class {number}/1.jpg")


@pytest.mark.parametrize("folder", ["EuroSAT", "euro_sat", "eurosat/images"])
def test_a_published_set_is_recognised(photo, tmp_path, folder):
    classes(photo, folder, EUROSAT)
    domain = Natural()
    data = domain.read(tmp_path / folder)
    assert data.published == "eurosat"
    assert domain.of(data).templates() == ["a centered satellite photo of {}."]


def test_a_name_alone_is_not_enough(photo, tmp_path):
    classes(photo, "cars", 3)
    domain = Natural()
    data = domain.read(tmp_path / "cars")
    assert data.published is None
    assert domain.of(data).templates() == ["a photo of a {}."]


def test_a_number_of_classes_alone_is_not_enough(photo, tmp_path):
    classes(photo, "mine", EUROSAT)
    assert Natural().read(tmp_path / "mine").published is None


def test_prompts_of_the_users_choice():
    domain = Natural()
    domain.use_preset("Flowers102")
    assert domain.templates() == ["a photo of a {}, a type of flower."]
    domain.use_preset("none")
    assert domain.templates() == ["a photo of a {}."]
    with pytest.raises(UnknownNameError, match=r"flowers201.*oxford_flowers"):
        domain.use_preset("oxford_flowers201")


def test_one_domain_reads_several_sets_and_each_keeps_its_prompts(photo, tmp_path):
    classes(photo, "eurosat", EUROSAT)
    classes(photo, "mine", 2)
    domain = Natural()
    sets = [domain.read(tmp_path / "eurosat"), domain.read(tmp_path / "mine"), domain.sample()]
    prompts = [domain.of(data).templates() for data in sets]
    assert prompts == [["a centered satellite photo of {}."], ["a photo of a {}."], ["a photo of a {}."]]
    assert domain.templates() == ["a photo of a {}."]


@pytest.mark.parametrize("name", set_names())
def test_every_known_set_has_prompts_and_a_number_of_classes(name):
    known = known_set(name)
    assert known.templates and all(template.count("{}") == 1 for template in known.templates)
    assert known.classes and min(known.classes) > 1


def test_imagenets_variants_have_its_prompts():
    assert known_set("ImageNetV2").templates == known_set("imagenet").templates
    assert len(known_set("imagenet").templates) == 7


@pytest.mark.parametrize("option", [{"label_column": "x"}, {"group_column": "x"}, {"root": "x"}])
def test_options_of_tables_are_refused_for_published_folders(photo, tmp_path, option):
    photo("2750/AnnualCrop/1.jpg")
    photo("2750/SeaLake/1.jpg")
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}' does not apply to the layout of eurosat"):
        Natural().read(tmp_path, **option)


def test_the_sample_is_drawn_and_says_so():
    data = load_domain("natural").sample("classification")
    assert any("drawn" in note for note in data.notes)
    assert {len(data.split(split)) for split in ("train", "val", "test")} == {160, 40, 280}
    first = data.load(data.items[0])
    assert first.shape == (224, 224, 3) and (first == data.load(data.items[0])).all()


def test_things_of_the_sample_stand_among_others_which_leaves_the_drawings_as_they_are():
    """A thing alone made every method right; `draw` measures what is forgotten."""
    item = load_domain("natural").sample("classification").items[0]
    plain = draw("banana", item.decode["number"]).copy()
    shown = render_item(item)
    assert np.array_equal(draw("banana", item.decode["number"]), plain)
    changed = np.abs(shown.astype(int) - plain).mean(axis=2) > 40
    assert changed.mean() > 0.25
    seen = [render_item(item.with_(decode={**item.decode, "number": number})) for number in (1001, 1002)]
    borders = [each[:8].astype(int) for each in seen]
    assert np.abs(borders[0] - borders[1]).mean() > 20  # other things around it each time
