"""Options as dataclass fields: each has a type, a default, bounds or choices, and a line of help.

One function, `typed`, turns what `--set`, a recipe or a keyword says into the field's type, or raises one line that
names the option, the value and what would do. `options_of` lists the options of a class for `vladapt show` and for the
pages in `docs/`.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import math
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import ConfigError, UnknownNameError, did_you_mean

MOST = 10**9
"""What a whole number may be at most where its field gives no bound of its own."""
TOLERATED = 0.05
"""Share of a set's files that may be unreadable where something is learned from them, unless `--tolerate` says more."""
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
NOTHING = ("none", "null", "")
ABSENT = object()
GIVEN = re.compile(r"^( +)given: .*\n(?:\1 {4}.*\n)*", re.MULTILINE)
"""The line of `**given` in a docstring, from which Python 3.13 takes the indentation of its function."""


@dataclass(frozen=True)
class Bounds:
    """What a field accepts besides its type, and how a command line shows it; see `option`."""

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    parse: Callable[[Any], Any] | None = None
    metavar: str = ""
    group: str = ""
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One option of a class.

    Args:
        name: of the field.
        kind: its resolved type.
        default: its default; ABSENT where it must be given.
        bounds: what it accepts, and its help.
    """

    name: str
    kind: Any
    default: Any
    bounds: Bounds

    @property
    def help(self) -> str:
        return self.bounds.help

    @property
    def sentence(self) -> str:
        """`help` with a capital letter and a full stop."""
        return f"{self.help[:1].upper()}{self.help[1:]}." if self.help else ""

    @property
    def accepts(self) -> str:
        """In words: "a whole number, 1 or more, or none"."""
        return _wanted(self.kind, self.bounds)

    @property
    def default_text(self) -> str:
        """As a user would write it; "" where there is none."""
        return "" if self.default is ABSENT else as_text(self.default)


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[Any] = (),
    parse: Callable[[Any], Any] | None = None,
    factory: Any = MISSING,
    metavar: str = "",
    group: str = "",
    commands: Iterable[str] = (),
) -> Any:
    """A dataclass field that is an option. A subclass that only has another default writes `name: type = default`.

    Args:
        default: its default value.
        help: one line for the user, in lower case, without a full stop.
        low, high: smallest and largest value, inclusive. Of a sequence they hold for each element.
        above, below: exclusive bounds.
        choices: the only values. Of a sequence they hold for each element.
        parse: what is done to a value before it is read: names in other spellings, a check of the option's own. It
            raises ValueError or TypeError, or a ConfigError with a message of its own; none is not given to it.
        factory: makes a mutable default.
        metavar: what the value of its flag is called in a command's help.
        group: heading under which the flag stands there; "" for an option that has no flag of its own.
        commands: which commands on a run take it (`UseOptions`).
    """
    bounds = Bounds(help, low, high, above, below, tuple(choices), parse, metavar, group, tuple(commands))
    return field(default=default, default_factory=factory, metadata={"option": bounds})


def whole_number(value: Any) -> Any:
    """For `parse`: "2e8" and 2e8 as 200000000; whatever is no whole number stays as it is."""
    number = float(value) if isinstance(value, str) and "e" in value.lower() else value
    return int(number) if isinstance(number, float) and number.is_integer() else number


def tolerate_option(share: float, **how: Any) -> Any:
    """An option of how many unreadable files a command goes on with.

    Args:
        share: the default.
        how: further arguments of `option`.
    """
    help = f"share of unreadable files that are skipped, 0 to 1, by default {share:g}; one always is, unless this is 0"
    return option(share, help, low=0, high=1, metavar="SHARE", **how)


@cache
def options_of(cls: type) -> tuple[Option, ...]:
    """The options of a dataclass, in order: all its fields that its constructor takes."""
    kinds = typing.get_type_hints(cls)
    described = [(f, _bounds(cls, f)) for f in fields(cls) if f.init]
    return tuple(Option(f.name, kinds[f.name], _default(f), bounds) for f, bounds in described if bounds is not None)


def keywords(*classes: type, command: str = "") -> Callable[[Callable], Callable]:
    """A decorator: options of dataclasses that a function takes as `**given` stand in its signature, in its docstring
    in place of the line of `given`, and in its attribute `options`.

    Args:
        command: of the options that name commands on a run, only those that this one takes.
    """

    def named(function: Any) -> Any:
        plain = inspect.signature(function)
        kept = [each for each in plain.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        own = {each.name for each in kept}
        of_all = (each for cls in classes for each in options_of(cls))
        listed = [each for each in of_all if not each.bounds.commands or not command or command in each.bounds.commands]
        listed = [each for each in listed if each.name not in own]
        added = [
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=each.kind | None)
            for each in listed
        ]
        function.__signature__ = plain.replace(parameters=[*kept, *added])
        function.options = {each.name: each for each in listed}
        line = GIVEN.search(function.__doc__)
        assert line is not None, "a function with options has a line of `given` in its docstring"
        indent = line[1]
        wrapped = textwrap.TextWrapper(120, indent, f"{indent}    ", break_on_hyphens=False)
        lines = [wrapped.fill(f"{each.name}: {each.help}.") for each in listed]
        function.__doc__ = GIVEN.sub(lambda _: "\n".join([*lines, ""]), function.__doc__)
        return function

    return named


def settle(instance: Any, owner: str = "") -> None:
    """Turn each option of a dataclass instance into its type, in place. Call it first in `__post_init__`.

    Args:
        owner: what the options belong to, for messages ("coop").

    Raises:
        ConfigError: a value that its option does not accept.
    """
    cls: Any = type(instance)
    for each in options_of(cls):
        object.__setattr__(instance, each.name, typed(each, getattr(instance, each.name), owner))


def chosen(cls: type, given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Options by name, each in its type.

    Args:
        cls: the dataclass they are for.
        given: name -> value, as said by a user.
        owner: for messages: "adapter 'coop'".

    Raises:
        UnknownNameError: no such option. ConfigError: a value that its option does not accept.
    """
    known = {each.name: each for each in options_of(cls)}
    for name in given:
        if name not in known:
            raise UnknownNameError(f"{owner} has no option '{name}'; {did_you_mean(name, known)}")
    return {name: typed(known[name], value, owner) for name, value in given.items()}


def options_from(cls: type, given: Mapping[str, Any], owner: str) -> Any:
    """An instance of a dataclass of options. None counts as not given.

    Args:
        cls, given, owner: as for `chosen`.

    Raises:
        UnknownNameError: no such option. ConfigError: a value that its option does not accept.
    """
    defaults = {each.name: each.default for each in options_of(cls) if each.default is not ABSENT}
    named = {name: defaults.get(name) if value is None else value for name, value in given.items()}
    return cls(**chosen(cls, named, owner))


def typed(which: Option, value: Any, owner: str = "") -> Any:
    """A value in the type of its option.

    Raises:
        ConfigError: it cannot be read as that, or is out of bounds.
    """
    parse = which.bounds.parse
    given = f"option {which.name}={as_text(value)}{f' of {owner}' if owner else ''}"
    try:
        return _read(which.kind, value if parse is None or _is_nothing(value) else parse(value), which.bounds)
    except ConfigError as error:  # of `parse`
        raise type(error)(f"{given}: {error}") from None
    except (ValueError, TypeError, OverflowError):
        near = difflib.get_close_matches(str(value), [str(c) for c in which.bounds.choices], n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"{given} is not usable; give {which.accepts}{hint}") from None


def as_text(value: Any) -> str:
    """A value as a user would write it behind `--set NAME=`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, (tuple, list)):
        return ",".join(as_text(inner) for inner in value)
    if isinstance(value, Mapping):
        return json.dumps(dict(value), default=str)
    return str(value)


def annotation(kind: Any) -> str:
    """A type as it is written: "int | None", "tuple[str, ...]"."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(annotation(each) for each in inner)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if each is Ellipsis else annotation(each) for each in inner)}]"
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


def literal(text: str) -> Any:
    """A Python literal where a text is one (2, 1e-3, (7, 3), None, True), else the text itself."""
    if text.lower() in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(text.lower())
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _bounds(cls: type, f: Field) -> Bounds | None:
    """Of a field, or of the base's field whose default it replaces; None where it is not an option."""
    inherited = [base.__dataclass_fields__.get(f.name) for base in cls.__mro__[1:] if is_dataclass(base)]
    described = (each for each in (f, *inherited) if each is not None and "option" in each.metadata)
    return next((each.metadata["option"] for each in described), Bounds(""))


def _default(f: Field) -> Any:
    made = ABSENT if f.default_factory is MISSING else f.default_factory()
    return made if f.default is MISSING else f.default


def _read(kind: Any, value: Any, bounds: Bounds) -> Any:
    """`value` as `kind`; raises ValueError or TypeError."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(kind), value, bounds)
    if origin is Literal:
        return _chosen_of(get_args(kind), value)
    if kind is type(None):
        if _is_nothing(value):
            return None
        raise ValueError(value)
    if bounds.choices and origin is None:
        return _chosen_of(bounds.choices, value)
    if kind is bool:
        return _read_bool(value)
    if kind in (int, float):
        return _within(_read_number(kind, value, bounds), bounds)
    if kind is str:
        if isinstance(value, (str, Path)) or (_is_number(value) and math.isfinite(value)):
            return str(value)  # a name may look like a number: --set data.root=2024
        raise TypeError(value)
    if kind is Path:
        return Path(value)
    if origin in (tuple, list, Sequence, typing.Sequence) or kind in (tuple, list):
        return _read_sequence(kind, value, bounds)
    if origin in (dict, Mapping) or kind is dict:
        return _read_mapping(kind, value, bounds)
    if kind is Any or not isinstance(kind, type) or isinstance(value, kind):
        return value
    raise TypeError(value)


def _read_union(kinds: tuple[Any, ...], value: Any, bounds: Bounds) -> Any:
    """By the first member that reads it; None only where nothing is one of them."""
    empty_text = value == "" and isinstance(value, str) and str in kinds  # is a text
    if type(None) in kinds and _is_nothing(value) and not empty_text:
        return None
    some = [kind for kind in kinds if kind is not type(None)]
    for kind in sorted(some, key=lambda kind: (kind is str, type(value) is not kind)):  # a text may be a number
        try:
            return _read(kind, value, bounds)
        except (ValueError, TypeError):
            continue
    raise ValueError(value)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.lower() in NOTHING)


def _read_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in YES:
        return True
    if text in NO:
        return False
    raise ValueError(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_number(kind: type, value: Any, bounds: Bounds) -> int | float:
    if isinstance(value, bool):
        raise TypeError(value)
    if isinstance(value, str):
        value = float(value) if kind is float else literal(value.strip())
    if getattr(value, "ndim", None) == 0:  # a numpy or torch scalar
        value = value.item()
    if not _is_number(value):
        raise TypeError(value)
    if kind is int:
        if value != int(value):
            raise ValueError(value)
        return int(value)
    if math.isnan(value) or (math.isinf(value) and bounds.high != math.inf):
        raise ValueError(value)
    return float(value)


def _within(value: int | float, bounds: Bounds) -> int | float:
    highest = MOST if isinstance(value, int) and bounds.high is None and bounds.below is None else bounds.high
    fine = (
        (bounds.low is None or value >= bounds.low)
        and (highest is None or value <= highest)
        and (bounds.above is None or value > bounds.above)
        and (bounds.below is None or value < bounds.below)
    )
    if not fine:
        raise ValueError(value)
    return value


def _read_sequence(kind: Any, value: Any, bounds: Bounds) -> tuple | list:
    """A tuple of the right length, or a list; a text is cut at its commas."""
    inner = get_args(kind)
    of_texts = bool(inner) and inner[0] is str
    if isinstance(value, str):
        read = literal(value.strip()) if not of_texts or value.lstrip()[:1] in ("(", "[") else None
        value = read if isinstance(read, (tuple, list)) else [part.strip() for part in value.split(",") if part.strip()]
    elif _is_number(value) and not of_texts:
        value = [value]
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise TypeError(value)
    value = list(value)
    if get_origin(kind) is tuple and inner and Ellipsis not in inner:
        if len(value) != len(inner):
            raise ValueError(value)
        return tuple(_read(each, part, bounds) for each, part in zip(inner, value))
    element = inner[0] if inner else Any
    read = [_read(element, part, bounds) for part in value]
    return read if get_origin(kind) is list or kind is list else tuple(read)


def _read_mapping(kind: Any, value: Any, bounds: Bounds) -> dict:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise TypeError(value)
    inner = get_args(kind)
    return {str(key): _read(inner[1], part, bounds) if inner else part for key, part in value.items()}


def _chosen_of(choices: Sequence[Any], value: Any) -> Any:
    value = "none" if value is None else value  # where it is the name of a choice
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
        if isinstance(value, (str, int, float)) and str(value).lower() == str(choice).lower():
            return choice
    raise ValueError(value)


def _wanted(kind: Any, bounds: Bounds) -> str:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        parts = [_wanted(each, bounds) for each in get_args(kind) if each is not type(None)]
        parts = list(dict.fromkeys(parts))
        return " or ".join(parts) + (", or none" if type(None) in get_args(kind) else "")
    choices = get_args(kind) if origin is Literal else bounds.choices
    if choices and origin in (None, Literal):
        return "one of " + ", ".join(map(as_text, choices))
    if kind is bool:
        return "yes or no"
    if kind in (int, float):
        return _joined("a whole number" if kind is int else "a number", bounds)
    if origin is tuple and get_args(kind) and Ellipsis not in get_args(kind):
        inner = get_args(kind)
        each = _wanted(inner[0], bounds).removeprefix("a ") if len(set(inner)) == 1 else "values"
        return f"{len(inner)} {_plural(each)}, comma-separated"
    if origin in (tuple, list, Sequence, typing.Sequence):
        inner = get_args(kind)
        return f"{_plural(_wanted(inner[0], bounds).removeprefix('a ')) if inner else 'values'}, comma-separated"
    if origin in (dict, Mapping) or kind is dict:
        return "a JSON object"
    return {str: "a text", Path: "a path"}.get(kind, "a value")


def _plural(words: str) -> str:
    head, comma, tail = words.partition(",")
    first, space, rest = head.partition(" above")
    if head.startswith("one of"):
        return f"values, each {words}"
    return f"{first}s{space}{rest}{comma}{tail}"


def _joined(noun: str, bounds: Bounds) -> str:
    low, high = bounds.low, bounds.high if bounds.high != math.inf else None
    if low is not None and high is not None:
        return f"{noun}, {as_text(low)} to {as_text(high)}"
    parts = []
    if bounds.above is not None:
        parts.append(f"above {as_text(bounds.above)}")
    if low is not None:
        parts.append(f"{as_text(low)} or more")
    if bounds.below is not None:
        parts.append(f"below {as_text(bounds.below)}")
    if high is not None:
        parts.append(f"at most {as_text(high)}")
    separator = " " if parts and parts[0].startswith("above") else ", "
    return noun + (separator + ", ".join(parts) if parts else "")


def require(condition: bool, option: str, value, wanted: str) -> None:
    """Raise the one-line `ConfigError` for a bad option value."""
    if not condition:
        raise ConfigError(f"option {option}={json.dumps(value, default=str)} is not usable; {wanted}")
