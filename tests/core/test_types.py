"""What a type checker knows: each public name has its type, and no room has more errors than it had."""

from __future__ import annotations

import inspect
import json
import re

import pytest
import type_errors

import vladapt
import vladapt.api
from vladapt.core.commands.option_index import FILE, stub_text
from vladapt.core.contracts.options import keywords, options_of
from vladapt.core.contracts.recipe import Recipe, Trained
from vladapt.core.contracts.task import Axes
from vladapt.core.contracts.use import ExportWishes, UseOptions
from vladapt.core.engine.options import PushOptions, SearchOptions

NAMES = sorted(name for names in vladapt.HOMES.values() for name in names.split())
CALLS = {
    'vladapt.fit(domain="medical", data="scans", shots=4, window="lung")': "",
    'vladapt.fit(shots=4, widow="lung")': "call-arg",
    'vladapt.fit(seed="one")': "arg-type",
    'vladapt.evaluate("run", vocabulary_steps=3)': "",
    'vladapt.predict("run", ["a.png"], split="val")': "call-arg",
    "encoder = vladapt.Backbone.from_module(object(), image_size=224, embed_dim=512, preprocess=len)": "",
    'vladapt.Backbone.from_module(object(), image_size="large", embed_dim=512)': "arg-type",
    'vladapt.fit(data="./photos", backbone=encoder, adapter="linear-probe")': "",
    'vladapt.compare(vladapt.Recipe(), backbones=[encoder, "embedded"])': "",
    "vladapt.fit(backbone=224)": "arg-type",
    "vladapt.FeatureSet([[1.0, 2.0]], labels=[0])": "",
    "vladapt.FeatureSet([[1.0, 2.0]], ids=0)": "arg-type",
}
"""A call -> the error that it is."""


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """What mypy says of the package and of a script that asks for the type of every public name."""
    pytest.importorskip("mypy", reason="extra dev is not installed")
    return type_errors.mypy_lines(
        "\n".join(["import vladapt", *(f"reveal_type(vladapt.{name})" for name in NAMES), *CALLS, ""])
    )


def test_each_public_name_has_a_type(lines):
    revealed = [found[1] for line in lines if (found := re.search(r'Revealed type is "(.*)"', line))]
    assert len(revealed) == len(NAMES)
    unknown = [name for name, kind in zip(NAMES, revealed) if kind in ("Any", "object", "builtins.object")]
    assert not unknown


def test_calls_are_checked(lines):
    wrong = re.compile(r"script\.py:(\d+): error: .*\[(.*)\]")
    found = {int(said[1]): said[2] for line in lines if (said := wrong.search(line))}
    first = len(NAMES) + 2
    assert [found.get(first + place, "") for place in range(len(CALLS))] == list(CALLS.values())


def test_no_room_has_more_errors_than_it_had(lines):
    counts = type_errors.by_room(lines)
    assert not {room: counts[room] for room in type_errors.FREE if counts[room]}
    assert not type_errors.beyond(counts, json.loads(type_errors.ALLOWED.read_text()))


def test_errors_are_counted_by_room():
    said = ["vladapt/core/data/x.py:3: error: no", "vladapt/core/data/x.py:3: note: see", "vladapt/cli.py:1: error: no"]
    counts = type_errors.by_room(said)
    assert counts == {"core/data": 1, "cli.py": 1}
    assert type_errors.beyond(counts, {"core/data": 1}) == {"cli.py": 1}


def test_the_stub_is_up_to_date():
    """`make index` makes it again."""
    assert FILE.read_text(encoding="utf-8") == stub_text()


@pytest.mark.parametrize(
    ("function", "owners", "command"),
    [
        ("fit", (Recipe, Trained), ""),
        ("compare", (Axes,), ""),
        ("evaluate", (UseOptions,), "evaluate"),
        ("predict", (UseOptions,), "predict"),
        ("export", (UseOptions, ExportWishes), "export"),
        ("push", (PushOptions,), ""),
        ("search", (SearchOptions,), ""),
    ],
)
def test_each_option_is_a_keyword_and_stands_in_the_docstring(function, owners, command):
    called = getattr(vladapt.api, function)
    parameters = inspect.signature(called).parameters
    named = [each for of in owners for each in options_of(of)]
    taken = [each for each in named if not each.bounds.commands or not command or command in each.bounds.commands]
    assert taken and {each.name for each in taken} <= parameters.keys()
    told = inspect.getdoc(called)
    assert not [each.name for each in taken if f"\n    {each.name}: " not in told]
    assert "given" not in parameters and "\n    given:" not in told


def test_options_stand_in_a_docstring_that_python_has_taken_the_indentation_from():
    """As Python 3.13 does when it compiles."""

    def asked(**given):
        pass

    asked.__doc__ = "Do it.\n\nArgs:\n    given: options,\n        several.\n\nReturns:\n    Nothing.\n"
    lines = keywords(ExportWishes)(asked).__doc__.splitlines()
    assert lines[2] == "Args:" and lines[3].startswith("    format: ") and "several" not in str(lines)
    assert lines[-2:] == ["Returns:", "    Nothing."]


def test_a_keyword_that_no_option_has_is_refused():
    with pytest.raises(vladapt.UnknownNameError, match="a recipe has no key 'widow'"):
        vladapt.fit(domain="medical", widow="lung")
