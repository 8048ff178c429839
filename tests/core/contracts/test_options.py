"""Options: whatever a user writes becomes the field's type, or one line that names option, value and what would do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.contracts.options import as_text, chosen, option, options_of, settle
from vladapt.core.contracts.recipe import value_of
from vladapt.core.errors import ConfigError, UnknownNameError


@dataclass(kw_only=True)
class Knobs:
    """Of every kind."""

    csc: bool = option(False, "one context per class")
    epochs: int = option(10, "passes over the support", low=1, high=10_000)
    lr: float = option(1e-3, "peak learning rate", above=0)
    share: float | None = option(None, "share kept", low=0, high=1)
    mode: str = option("end", "where the class name stands", choices=("end", "middle", "front"))
    amp: str | None = option(None, "precision", choices=("bf16", "fp16"))
    grid: tuple[float, float] | None = option(None, "upper ends", above=0)
    steps: tuple[int, ...] = option((5, 7), "points", low=1)
    names: Sequence[str] | None = option(None, "names")
    kind: Literal["flat", "hnsw"] = option("flat", "of index")
    scale: float | str = option("auto", "a number or auto")

    def __post_init__(self):
        settle(self, "knobs")


READ = [
    ("csc", ("yes", "True", "1", 1, True, "on"), True),
    ("csc", ("no", "false", "0", 0, False, "off"), False),
    ("epochs", ("7", 7, 7.0, "7.0"), 7),
    ("lr", ("1e-2", 0.01), 0.01),
    ("lr", (1, "1"), 1.0),
    ("share", ("none", None, "null"), None),
    ("share", ("0.5", 0.5), 0.5),
    ("mode", ("front", "Front"), "front"),
    ("amp", (None, "none"), None),
    ("amp", ("bf16",), "bf16"),
    ("grid", ("7,3", (7, 3), [7, 3.0], "(7, 3)"), (7.0, 3.0)),
    ("steps", ("4", 4, [4], (4,)), (4,)),
    ("names", ("a, b", ["a", "b"]), ("a", "b")),
    ("kind", ("hnsw",), "hnsw"),
    ("scale", ("2",), 2.0),
    ("scale", ("auto",), "auto"),
]


@pytest.mark.parametrize(("name", "said", "meant"), READ)
def test_what_is_said_becomes_the_fields_type(name, said, meant):
    for value in said:
        result = getattr(Knobs(**{name: value}), name)
        assert result == meant
        assert type(result) is type(meant)


REFUSED = [
    ("csc", ("maybe", 2, None, "")),
    ("epochs", ("abc", 0, 10_001, 1.5, "1.5", True, None, math.nan, math.inf, [1])),
    ("lr", ("abc", 0, -1, "nan", math.nan, math.inf, "inf", True, None)),
    ("share", (1.01, -0.1, "half", math.nan)),
    ("mode", ("start", 3, None)),
    ("amp", ("int8", 16)),
    ("grid", ((1,), (1, 2, 3), "1", (0, 1), ("a", 1), math.nan)),
    ("steps", ((0,), "a,b", {"a": 1})),
    ("names", (3, {"a": 1})),
    ("kind", ("ivf",)),
]


@pytest.mark.parametrize(("name", "values"), REFUSED)
def test_what_cannot_be_meant_is_one_line_with_option_value_and_cure(name, values):
    for value in values:
        with pytest.raises(ConfigError) as error:
            Knobs(**{name: value})
        message = str(error.value)
        assert message.startswith(f"option {name}={as_text(value)} of knobs is not usable; give ")
        assert "\n" not in message


def test_messages_name_type_bounds_and_choices():
    cases = {
        "epochs": "give a whole number, 1 to 10000",
        "lr": "give a number above 0",
        "share": "give a number, 0 to 1, or none",
        "csc": "give yes or no",
        "mode": "give one of end, middle, front",
        "amp": "give one of bf16, fp16, or none",
        "grid": "give 2 numbers above 0, comma-separated, or none",
        "steps": "give whole numbers, 1 or more, comma-separated",
    }
    for name, wanted in cases.items():
        with pytest.raises(ConfigError, match=wanted):
            Knobs(**{name: "?"})


def test_the_nearest_choice_is_named():
    with pytest.raises(ConfigError, match=r"did you mean middle\?"):
        Knobs(mode="midle")


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"adapter 'k' has no option 'epoch'; did you mean epochs"):
        chosen(Knobs, {"epoch": 3}, "adapter 'k'")


def test_whole_numbers_without_a_bound_have_one():
    @dataclass
    class Free:
        n: int = option(1, "a count")

        def __post_init__(self):
            settle(self)

    assert Free(10**9).n == 10**9
    with pytest.raises(ConfigError, match="option n"):
        Free(10**9 + 1)


def test_options_list_type_default_and_help():
    listed = {each.name: each for each in options_of(Knobs)}
    assert listed["lr"].help == "peak learning rate"
    assert listed["lr"].default_text == "0.001"
    assert listed["csc"].default_text == "no"
    assert listed["steps"].default_text == "5,7"
    assert listed["share"].accepts == "a number, 0 to 1, or none"


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300))
def test_a_number_written_as_text_is_read_back_exactly(value):
    assert Knobs(lr=as_text(value)).lr == value


@given(st.lists(st.integers(1, 10**9), min_size=1))
def test_sequences_are_read_back_exactly(values):
    assert Knobs(steps=as_text(values)).steps == tuple(values)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.text())))
def test_any_value_is_typed_or_refused_as_a_config_error(value):
    for each in options_of(Knobs):
        try:
            Knobs(**{each.name: value})
        except ConfigError as error:
            assert f"option {each.name}=" in str(error)


def test_a_name_may_look_like_a_number():
    @dataclass
    class Named:
        root: str | None = option(None, "a folder")
        names: tuple[str, ...] = option(("a",), "names")

        def __post_init__(self):
            settle(self)

    assert Named(root=2024).root == "2024"
    for said in ("0,1", (0, 1), ["0", 1], '("0", "1")'):
        assert Named(names=said).names == ("0", "1")
    assert Named(names='["a, b", "c"]').names == ("a, b", "c")
    for value in (True, math.nan, {"a": 1}):
        with pytest.raises(ConfigError, match="option root="):
            Named(root=value)


def test_large_bounds_are_written_out():
    @dataclass
    class Queue:
        size: int = option(1, "rows", low=1, high=1_048_576)

    with pytest.raises(ConfigError, match="give a whole number, 1 to 1048576"):
        chosen(Queue, {"size": 10**12}, "queue")


@dataclass(kw_only=True)
class Slower(Knobs):
    """Another default of one option."""

    lr: float = 1e-4
    mode: str = option("front", "where else", choices=("front", "back"))


def test_a_subclass_with_another_default_keeps_help_and_bounds():
    listed = {each.name: each for each in options_of(Slower)}
    assert (listed["lr"].help, listed["lr"].default, listed["lr"].accepts) == (
        "peak learning rate",
        1e-4,
        "a number above 0",
    )
    assert (listed["mode"].help, listed["mode"].accepts) == ("where else", "one of front, back")
    with pytest.raises(ConfigError, match="option lr=0"):
        Slower(lr=0)


def spelled(value):
    if value == "nameless":
        raise UnknownNameError("nothing has that name")
    return {"daisy": "flower"}.get(value, value)


@dataclass
class Parsed:
    kind: str | None = option(None, "of plant", choices=("flower", "tree"), parse=spelled)
    start: str | None = option(None, "a text")
    penalty: str = option("none", "of the change", choices=("none", "l2"))
    size: int = option(1, "rows", low=1, high=1_048_576)

    def __post_init__(self):
        settle(self, "parsed")


def test_other_spellings_are_parsed_before_choices_are_looked_at():
    assert Parsed(kind="daisy").kind == "flower"
    assert Parsed(kind="none").kind is None
    with pytest.raises(ConfigError, match=r"kind=rock of parsed is not usable; give one of flower, tree, or none"):
        Parsed(kind="rock")


def test_an_error_of_parse_keeps_its_type_behind_the_options_name():
    with pytest.raises(UnknownNameError, match=r"^option kind=nameless of parsed: nothing has that name$"):
        Parsed(kind="nameless")


def test_an_empty_text_is_a_text():
    assert Parsed(start="").start == ""
    assert Parsed(start="none").start is None


def test_none_is_a_choice_of_that_name():
    assert Parsed(penalty=None).penalty == "none"


def test_bounds_are_written_out():
    with pytest.raises(ConfigError, match=r"give a whole number, 1 to 1048576$"):
        Parsed(size=0)


def test_shots_that_are_no_number_are_told_the_word_for_all_of_them():
    with pytest.raises(ConfigError, match=r"^--shots x: give a whole number, 0 or more, or all$"):
        value_of("shots", "x")
