"""What every option of every adapter keeps, by the checks of `vladapt.testing`: a type, help, bounds, one line for what
it cannot read, and a result that it changes."""

from __future__ import annotations

import json
from functools import cache, partial

import pytest
from settings import COUNTS, OPTIONS, QUICKER, SHOWN_BY_FULL, SHOWN_ONCE, inherited, trains_towers

from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.options import options_of, typed
from vladapt.core.errors import ConfigError
from vladapt.core.registry import adapter_class, build_adapter, catalogue
from vladapt.core.testing.adapters import adapter_checks
from vladapt.core.testing.options import takes_any_text
from vladapt.core.training import teachers

ALL = sorted(catalogue.adapters())
OF_OPTIONS = ("every_option_counts", "cost_options_change_no_result")
OF_BASES = ("cost_options_change_no_result", "options_of_pairs_count")


@pytest.fixture(scope="module", autouse=True)
def _teachers_of_few_pixels():
    """Loaded once, at a size at which a pass takes a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "load_backbone", cache(partial(load_backbone, image_size=64)))
        yield


def checks_of(name: str, shown):
    options = {**OPTIONS.get(name, {}), **QUICKER.get(name, {})}
    return adapter_checks(adapter_class(name), options=options, counts=COUNTS.get(name), shown=shown)


def cases(name: str):
    """Options that a method has of a base are asked of one method each time, of all in a thorough run; of what only a
    training reads, `test_training_options.py` shows the rest."""
    shown, others = SHOWN_BY_FULL if trains_towers(name) else frozenset(), inherited(name)
    for rule, check in checks_of(name, shown | others):
        marks = pytest.mark.thorough if others and rule in OF_BASES else ()
        if rule in OF_OPTIONS or rule.startswith("options_"):
            yield pytest.param(check, id=f"{name}-{rule}", marks=marks)
    if others:
        own = {each.name for each in options_of(adapter_class(name))} - others
        check = dict(checks_of(name, shown | own))["every_option_counts"]
        yield pytest.param(check, id=f"{name}-inherited_options_count", marks=pytest.mark.thorough)


@pytest.mark.parametrize("check", [case for name in ALL for case in cases(name)])
def test_the_contract(check):
    check()


def test_who_shows_options_of_a_base_has_them():
    shown = {option.name for name in SHOWN_ONCE.values() for option in options_of(adapter_class(name))}
    assert all(inherited(name) <= shown for name in ALL)
    assert all(inherited(name) == frozenset() for name in SHOWN_ONCE.values())


def test_settings_are_of_options_that_there_are():
    for name, settings in COUNTS.items():
        assert settings.keys() <= {each.name for each in options_of(adapter_class(name))}, name


@pytest.mark.parametrize("name", ALL)
def test_by_name_and_by_class_it_is_refused_with_the_same_words(name):
    for option in options_of(adapter_class(name)):
        if takes_any_text(option):
            continue
        said = []
        for build in (lambda **given: build_adapter(name, **given), adapter_class(name)):
            with pytest.raises(ConfigError) as raised:
                build(**{option.name: "abc"})
            said.append(str(raised.value))
        assert said[0] == said[1] and said[0].startswith(f"option {option.name}=abc of adapter '{name}'")


@pytest.mark.parametrize("name", ALL)
def test_options_read_back_from_json_are_the_same(name):
    adapter = build_adapter(name)
    again = build_adapter(name, **json.loads(json.dumps(adapter.options)))
    assert again.options == adapter.options
    assert [type(value) for value in again.options.values()] == [type(value) for value in adapter.options.values()]


@pytest.mark.parametrize("name", ["wca", "prompt-src"])
def test_a_template_is_one_text_whatever_its_commas(name):
    (option,) = (each for each in options_of(adapter_class(name)) if each.name.endswith("templates"))
    template = "a photo of a {}, a kind of pet."
    assert typed(option, template) == (template,)
    assert typed(option, [template, "{}"]) == (template, "{}")
    with pytest.raises(ConfigError, match="no place for the class name"):
        typed(option, "a photo")


@pytest.mark.parametrize(("said", "meant"), [("Flowers102", "oxford_flowers"), ("EuroSAT", "eurosat"), ("none", None)])
@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "ape", "ape-t"])
def test_a_preset_is_read_in_any_usual_spelling(name, said, meant):
    assert build_adapter(name, preset=said).preset == meant


def test_nothing_is_no_penalty_where_a_choice_is_called_none():
    """On the command line `--set adapter.constraint=none` arrives as None."""
    assert build_adapter("clap", constraint=None).constraint == build_adapter("clap", constraint="none").constraint
