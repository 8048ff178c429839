"""What every option of every adapter keeps: a type, help, bounds, and one line for what it cannot read."""

from __future__ import annotations

import json
import math
import types
from typing import Union, get_args, get_origin

import pytest

from vladapt.core.contracts.errors import ConfigError, UnknownNameError
from vladapt.core.contracts.options import Option, as_text, options_of, typed
from vladapt.core.registry import adapter_class, build_adapter, catalogue

ALL = sorted(catalogue.adapters())
CLASSES = {name: adapter_class(name) for name in ALL}
OPTIONS = {name: options_of(cls) for name, cls in CLASSES.items()}
LONGEST_HELP = 100
HUGE = 10**12


def members(option: Option) -> tuple:
    """The types that an option may have, None left out."""
    union = get_origin(option.kind) in (Union, types.UnionType)
    return tuple(kind for kind in (get_args(option.kind) if union else (option.kind,)) if kind is not type(None))


def is_text(option: Option) -> bool:
    """Whether any text will do."""
    return not option.bounds.choices and any(kind in (str, tuple[str, ...]) for kind in members(option))


def counts(option: Option) -> bool:
    return any(kind is int or int in get_args(kind) for kind in members(option))


def is_real(option: Option) -> bool:
    return any(kind is float or float in get_args(kind) for kind in members(option))


def spellings(option: Option, value: float) -> list:
    """A number as it is, as text where not any text will do, and in a sequence as long as the option's."""
    written = [value] if is_text(option) else [value, str(value)]
    for kind in members(option):
        if get_origin(kind) is tuple:
            written.append((value,) * len([part for part in get_args(kind) if part is not Ellipsis]))
    return written


def refusal(name: str, option: Option, value) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        CLASSES[name](**{option.name: value})
    return raised.value


@pytest.mark.parametrize("name", ALL)
def test_each_has_a_type_and_a_line_of_help(name):
    for option in OPTIONS[name]:
        help = option.help
        assert help and len(help) <= LONGEST_HELP and "\n" not in help, option
        assert help == help.strip() and not help.endswith(".") and not help[0].isupper(), option
        assert members(option) and option.accepts != "a value", option


@pytest.mark.parametrize("name", ALL)
def test_what_cannot_be_read_is_answered_with_option_value_and_what_would_do(name):
    for option in OPTIONS[name]:
        if is_text(option):
            continue
        error = refusal(name, option, "abc")
        message = str(error)
        told = f"option {option.name}=abc of adapter '{name}'"
        if isinstance(error, UnknownNameError):
            assert message.startswith(f"{told}: ") and all(str(choice) in message for choice in option.bounds.choices)
        else:
            assert message == f"{told} is not usable; give {option.accepts}"


@pytest.mark.parametrize("name", ALL)
def test_by_name_and_by_class_it_is_refused_with_the_same_words(name):
    for option in OPTIONS[name]:
        if not is_text(option):
            with pytest.raises(ConfigError) as raised:
                build_adapter(name, **{option.name: "abc"})
            assert str(raised.value) == str(refusal(name, option, "abc"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_nan_and_infinity_are_refused(name, value):
    for option in OPTIONS[name]:
        for written in spellings(option, value):
            assert str(refusal(name, option, written)).startswith(f"option {option.name}="), option


@pytest.mark.parametrize("name", ALL)
def test_absurd_sizes_are_refused(name):
    """All but weights, rates and temperatures, which are real numbers as large as one likes."""
    for option in OPTIONS[name]:
        if is_text(option):
            continue
        bounds = option.bounds
        assert bounds.high is not None or not counts(option), option
        if bounds.high is None and bounds.below is None and is_real(option):
            typed(option, spellings(option, HUGE)[-1])
            continue
        for written in spellings(option, HUGE):
            assert str(refusal(name, option, written)).startswith(f"option {option.name}="), option


@pytest.mark.parametrize("name", ALL)
def test_bounds_hold_and_their_ends_are_usable(name):
    for option in OPTIONS[name]:
        bounds = option.bounds
        if not {int, float} & set(members(option)):
            continue
        for end, step in ((bounds.low, -1), (bounds.high, 1)):
            if end is not None:
                assert typed(option, end) == end
                with pytest.raises(ConfigError):
                    typed(option, end + step)
        for end in (bounds.above, bounds.below):
            if end is not None:
                with pytest.raises(ConfigError):
                    typed(option, end)


@pytest.mark.parametrize("name", ALL)
def test_yes_and_no_are_read_in_the_usual_spellings(name):
    for option in OPTIONS[name]:
        if option.kind is not bool:
            continue
        for said, meant in {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}.items():
            assert typed(option, said) is typed(option, said.upper()) is meant
        assert typed(option, 1) is True and typed(option, 0) is False
        assert "give yes or no" in str(refusal(name, option, "maybe"))


@pytest.mark.parametrize("name", ALL)
def test_a_default_written_as_text_reads_back(name):
    for option in OPTIONS[name]:
        read = CLASSES[name](**{option.name: as_text(option.default)}).options[option.name]
        assert read == CLASSES[name]().options[option.name] == option.default, option


@pytest.mark.parametrize("name", ALL)
def test_options_read_back_from_json_are_the_same(name):
    adapter = build_adapter(name)
    again = build_adapter(name, **json.loads(json.dumps(adapter.options)))
    assert again.options == adapter.options
    assert [type(value) for value in again.options.values()] == [type(value) for value in adapter.options.values()]


@pytest.mark.parametrize("name", ["wca", "prompt-src"])
def test_a_template_is_one_text_whatever_its_commas(name):
    (option,) = (each for each in OPTIONS[name] if each.name.endswith("templates"))
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
