"""What the options of an adapter, a loss, a reader or a task keep: a type, help, bounds, and one line for what they
cannot read. And values of an option that differ from another, to see whether it counts."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from ..contracts.options import ABSENT, Bounds, Option, as_text, chosen, options_of, typed
from ..errors import ConfigError, UnknownNameError
from .contract import refusal

LONGEST_HELP = 100
NO_NUMBERS = (math.nan, math.inf, -math.inf)
ABSURD = 10**12
YES_AND_NO = {"yes": True, "TRUE": True, "1": True, "no": False, "False": False, "0": False}
MOST_TRIES = 7
FEW = 8
"""A number up to which the next ones are tried first."""


def _option_types(option: Option) -> tuple[Any, ...]:
    """The types that an option may have, None left out."""
    union = get_origin(option.kind) in (Union, types.UnionType)
    return tuple(kind for kind in (get_args(option.kind) if union else (option.kind,)) if kind is not type(None))


def scalars_of(option: Option) -> frozenset[Any]:
    """The types of its values, of the elements where they are sequences."""
    kinds = [kind for member in _option_types(option) for kind in _elements(member)]
    return frozenset(kind for kind in kinds if kind is not Ellipsis)


def takes_any_text(option: Option) -> bool:
    """Whether every text is a value of it, or may be."""
    return not option.bounds.choices and bool(scalars_of(option) & {str, Any})


class Options:
    """Options to check.

    Args:
        cls: the dataclass they are fields of.
        title: for messages: "adapter 'x'".
    """

    def __init__(self, cls: type, title: str):
        self.cls, self.title = cls, title

    @property
    def all(self) -> tuple[Option, ...]:
        return options_of(self.cls)


def options_are_described(options: Options) -> Iterator[str]:
    """Each has a type, a default and a line of help: short, in lower case, without a full stop."""
    for each in options.all:
        if each.bounds == Bounds(""):
            yield f"option '{each.name}' is a bare field; make it with option(default, help, ...)"
        elif not scalars_of(each) or each.accepts.removesuffix(", or none") == "a value":
            yield f"option '{each.name}' has no type that a text can be read as ({each.kind})"
        elif each.default is ABSENT:
            yield f"option '{each.name}' has no default"
        elif fault := _fault_of(each.help):
            yield f"option '{each.name}' has help that {fault}"


def options_read_what_they_write(options: Options) -> Iterator[str]:
    """A default, as text and through JSON, is read as itself; booleans read the usual words."""
    for each in options.all:
        for written in (each.default, each.default_text, json.loads(json.dumps(each.default, default=list))):
            try:
                read = typed(each, written)
            except ConfigError as error:
                yield f"option '{each.name}' does not accept its own default {written!r}: {error}"
                break
            if read != each.default or type(read) is not type(typed(each, each.default)):
                yield f"option '{each.name}' reads its own default {written!r} as {read!r}"
        for word, meant in YES_AND_NO.items() if each.kind is bool else ():
            if typed(each, word) is not meant:
                yield f"option '{each.name}' reads {word} as {typed(each, word)}"


def options_answer_in_one_line(options: Options) -> Iterator[str]:
    """Words that are no numbers, NaN, infinity, absurd sizes (a weight or a rate may be of any) and names of no option
    are refused in one line that names the option."""
    for each in options.all:
        for value in unusable_values(each):
            written = f"option {each.name}={as_text(value)}"
            did, message = refusal(lambda o=each.name, v=value: options.cls(**{o: v}), ConfigError)
            if did:
                yield f"{written} {did}; give it bounds or choices, and call super().__post_init__()"
            elif not message.startswith(written):
                yield f"{written} is refused with a message that does not begin like that: {message}"
            elif each.bounds.parse is None and each.accepts not in message:
                yield f"{written} is refused, but the message does not say to give {each.accepts}: {message}"
        wrong = f"{each.name}x"
        did, message = refusal(lambda o=wrong: chosen(options.cls, {o: 1}, options.title), UnknownNameError)
        if did or each.name not in message:
            yield f"option '{wrong}', which it does not have, {did or 'is answered without the nearest name'}"


def options_hold_their_bounds(options: Options) -> Iterator[str]:
    """What counts has an upper bound; the ends of bounds are usable, and nothing beyond them."""
    for each in options.all:
        bounds, kinds = each.bounds, _option_types(each)
        if int in scalars_of(each) and not bounds.choices and bounds.high is None and bounds.below is None:
            yield f"option '{each.name}' is a count without a highest value"
        if not {int, float} & set(kinds):
            continue
        ends = [(end, True) for end in (bounds.low, bounds.high) if end is not None]
        ends += [(end + step, False) for end, step in ((bounds.low, -1), (bounds.high, 1)) if end is not None]
        ends += [(end, False) for end in (bounds.above, bounds.below) if end is not None]
        for value, usable in ends:
            did, _ = refusal(lambda o=each, v=value: typed(o, v), ConfigError)
            if (did == "raises nothing") != usable:
                does = "is refused" if usable else did
                yield f"option {each.name}={as_text(value)} {does}; it accepts {each.accepts}"


OPTION_RULES = (
    options_are_described,
    options_read_what_they_write,
    options_answer_in_one_line,
    options_hold_their_bounds,
)


def other_values(option: Option, value: Any) -> list[Any]:
    """Values of an option that differ from one, cheap ones first; none where only its author knows any."""
    others: list[Any] = []
    for candidate in _candidates(option, value):
        try:
            usable = typed(option, candidate)
        except ConfigError:
            continue
        if usable != value and usable not in others and usable is not None:
            others.append(usable)
    if value is not None and type(None) in get_args(option.kind):
        others.append(None)
    return others[:MOST_TRIES]


def _elements(kind: Any) -> tuple[Any, ...]:
    """The types inside a sequence, or the type."""
    if get_origin(kind) is Literal:
        return tuple({type(choice) for choice in get_args(kind)})
    mapping = get_origin(kind) in (dict, typing.Mapping)
    return (kind,) if mapping or not get_args(kind) else tuple(e for inner in get_args(kind) for e in _elements(inner))


def _fault_of(help: str) -> str:
    if not help.strip():
        return "is empty"
    if len(help) > LONGEST_HELP or "\n" in help:
        return f"is longer than a line of {LONGEST_HELP} characters"
    if help != help.strip() or help.endswith("."):
        return "ends with a full stop or a space"
    first = help.split()[0]
    name = sum(map(str.isupper, first)) > 1 or not first.isalpha()  # AdamW, NIfTI:
    return "" if first.islower() or name else "begins with a capital letter"


def unusable_values(option: Option) -> list[Any]:
    """Values that mean nothing to an option; none where any text may be one of it."""
    if takes_any_text(option) or dict in {get_origin(kind) for kind in _option_types(option)}:
        return []
    kinds, bounds, values = scalars_of(option), option.bounds, ["abc"]
    if option.kind is bool:
        values += [2, None, ""]
    if kinds & {int, float}:
        unlimited = float in kinds and bounds.high is None and bounds.below is None  # a weight, a rate
        numbers = [*NO_NUMBERS, *([] if unlimited else [ABSURD])]
        values += [*numbers, *map(str, numbers), *_as_sequences(option, numbers)]
    return values


def _as_sequences(option: Option, numbers: list[Any]) -> Iterator[tuple[Any, ...]]:
    """Numbers in sequences as long as those that an option takes."""
    for kind in _option_types(option):
        if get_origin(kind) is tuple:
            length = len([part for part in get_args(kind) if part is not Ellipsis])
            yield from ((number,) * length for number in numbers)


def _candidates(option: Option, value: Any) -> Iterator[Any]:
    bounds = option.bounds
    yield from bounds.choices
    for kind in _option_types(option):
        if get_origin(kind) is Literal:
            yield from get_args(kind)
        elif kind is bool:
            yield from (True, False)
        elif kind in (int, float):
            yield from _numbers(kind, value, bounds)
        elif get_origin(kind) in (tuple, list) and {*_elements(kind)} - {Ellipsis} <= {int, float}:
            yield from _sequences(kind, value, bounds)


def _numbers(kind: type, value: Any, bounds) -> Iterator[int | float]:
    """Numbers around a value: whole ones a step away, others a factor away; the ends of the bounds last."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if kind is int:
        start = int(bounds.low or 0) if number is None else number
        near = (start + 1, start - 1)
        some = (*near, 1, 2) if start <= FEW else (2, 1, *near)  # one more of many changes little
        yield from (*some, start // 2, 2 * start + 1) if number is not None else (start, 1, 2, 3)
    elif number:
        yield from (number * 3, number / 3, number / 30, number * 30)
    else:
        yield from (0.5, 0.1, 2.0, 0.01)
    for end in (bounds.low, bounds.high):
        if end is not None and abs(end) <= 100:
            yield end


def _sequences(kind: Any, value: Any, bounds) -> Iterator[tuple]:
    """Sequences with one element changed, and others of two or three numbers."""
    inner = next(each for each in _elements(kind) if each is not Ellipsis)
    held = list(value) if isinstance(value, (tuple, list)) else []
    for place, element in enumerate(held):
        for number in _numbers(inner, element, bounds):
            yield (*held[:place], number, *held[place + 1 :])
    if not held:
        yield from ((0.5, 0.9), (1, 2), (1, 1, 1), (2,))
