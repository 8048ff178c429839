"""Rules of options say just what an option breaks; values that differ from another are tried, cheap ones first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from vladapt import option
from vladapt.core.contracts.options import options_of, settle
from vladapt.core.testing.contract import checks_of, violations
from vladapt.core.testing.options import OPTION_RULES, Options, other_values


class Settled:
    """Options are read where an instance is made."""

    def __post_init__(self):
        settle(self)


def lines(cls) -> list[str]:
    return [line.removeprefix("it: ") for line in violations(checks_of(Options(cls, "it"), OPTION_RULES), raises=False)]


@dataclass
class Whole(Settled):
    """Of every kind."""

    count: int = option(3, "how many", low=1, high=100)
    rate: float = option(0.1, "learning rate", above=0)
    share: float | None = option(None, "share of them", low=0, high=1)
    flag: bool = option(False, "whether")
    kind: str = option("a", "which", choices=("a", "b"))
    way: Literal["up", "down"] = option("up", "which way")
    pair: tuple[float, float] = option((0.1, 0.2), "two shares", low=0, high=1)
    names: tuple[str, ...] = option((), "names")
    text: str | None = option(None, "any text")


def test_whole_options_pass():
    assert lines(Whole) == []


@dataclass
class Bare(Settled):
    count: float = 1.0


@dataclass
class Needed(Settled):
    count: float = option(help="how much", low=0, high=1)


@dataclass
class Untyped(Settled):
    count: Any = option(None, "anything")


@dataclass
class Odd(Settled):
    count: set | None = option(None, "a set")


@dataclass
class NoHelp(Settled):
    rate: float = option(0.5, "", low=0, high=1)


@dataclass
class LongHelp(Settled):
    flag: bool = option(False, "a" + " b" * 50)


@dataclass
class Stop(Settled):
    flag: bool = option(False, "whether it is on.")


@dataclass
class Capital(Settled):
    flag: bool = option(False, "Whether it is on")


@dataclass
class Unread(Settled):
    rate: float = option(2.0, "share", low=0, high=1)


@dataclass
class OtherType(Settled):
    pair: tuple[float, float] = option(help="two shares", factory=lambda: [0.1, 0.2], low=0, high=1)


@dataclass
class Turned(Settled):
    text: str = option("a", "a text", parse=lambda value: f"{value}!")


@dataclass
class Unsettled:
    rate: float = option(0.5, "share", low=0, high=1)


@dataclass
class OwnWords(Settled):
    rate: float = option(0.5, "share", low=0, high=1)

    def __post_init__(self):
        from vladapt import ConfigError

        try:
            settle(self)
        except ConfigError:
            raise ConfigError("no") from None


@dataclass
class Endless(Settled):
    count: int = option(3, "how many", low=1)


@dataclass
class Narrow(Settled):
    """The lowest value is none for `parse`."""

    count: int = option(3, "how many", low=1, high=9, parse=lambda value: value if value != 1 else "no")


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Bare, ["option 'count' is a bare field; make it with option(default, help, ...)"]),
        (Odd, ["option 'count' has no type that a text can be read as (set | None)"]),
        (NoHelp, ["option 'rate' has help that is empty"]),
        (LongHelp, ["option 'flag' has help that is longer than a line of 100 characters"]),
        (Stop, ["option 'flag' has help that ends with a full stop or a space"]),
        (Capital, ["option 'flag' has help that begins with a capital letter"]),
        (Endless, ["option 'count' is a count without a highest value"]),
        (Turned, ["option 'text' reads its own default 'a' as 'a!'"]),
        (Narrow, ["option count=1 is refused; it accepts a whole number, 1 to 9"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_rule_is_said(cls, said):
    assert lines(cls) == said


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Needed, "option 'count' has no default"),
        (Untyped, "option 'count' has no type that a text can be read as (typing.Any)"),
        (
            Unread,
            "option 'rate' does not accept its own default 2.0: option rate=2 is not usable; give a number, 0 to 1",
        ),
        (OtherType, "option 'pair' reads its own default [0.1, 0.2] as (0.1, 0.2)"),
        (Unsettled, "option rate=abc raises nothing; give it bounds or choices, and call super().__post_init__()"),
        (OwnWords, "option rate=abc is refused with a message that does not begin like that: no"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_a_fault_breaks_first_is_said(cls, said):
    """Where one fault breaks several rules."""
    assert said in lines(cls)


@pytest.mark.parametrize(
    ("name", "first"),
    [("count", [4, 2, 1]), ("flag", [True]), ("kind", ["b"]), ("way", ["down"]), ("text", [])],
)
def test_other_values_of_an_option_are_tried(name, first):
    (each,) = (each for each in options_of(Whole) if each.name == name)
    tried = other_values(each, each.default)
    assert tried[: len(first)] == first and bool(tried) == bool(first)


def test_tried_values_keep_the_bounds():
    for each in options_of(Whole):
        tried = other_values(each, each.default)
        assert each.default not in tried and len(tried) <= 7
        if each.name in ("share", "pair"):
            flat = [number for value in tried for number in (value if isinstance(value, tuple) else (value,))]
            assert flat and all(0 <= number <= 1 for number in flat)
