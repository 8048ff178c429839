"""What a method has besides its own: options that several methods share, and what is done by them.

A part is a frozen dataclass. `weighting = has(ClassWeighting)` in the body of a method puts the part's options before
the method's own, so that users, files and pages see one flat list; `self.weighting` is the part with their values.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

P = TypeVar("P", bound="Part")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Base of parts. Fields made by `option` are options of the method; other fields are what `has` says of it.

    Class attributes:
        published: options -> what papers have where our defaults differ.
    """

    published: ClassVar[Mapping[str, Any]] = {}

    def settled(self, adapter: Any) -> dict[str, Any]:
        """Options that are settled when an adapter is built, with their values: what "auto" is then.

        Raises:
            ConfigError: options that do not go together.
        """
        return {}

    @property
    def needs(self) -> frozenset[str]:
        """What a fit needs because of these options, a subset of `NEEDS`."""
        return frozenset()


def has(kind: type[P], **facts: Any) -> P:
    """A part of a method, to be written into its class. A subclass that writes it anew has other facts.

    Args:
        kind: of the part.
        facts: its fields that are no options.
    """
    return cast(P, _Has(kind, facts))


def parts_of(cls: type) -> dict[str, _Has]:
    """The parts of a method by their attributes, those of its bases first."""
    attributes = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    return {name: value for name, value in attributes.items() if isinstance(value, _Has)}


def part_of(method: Any, kind: type[P]) -> P | None:
    """The part of this kind that a method has, or its class, with the defaults of options; None where it has none."""
    parts = parts_of(method if isinstance(method, type) else type(method))
    names = [name for name, each in parts.items() if issubclass(each.kind, kind)]
    return getattr(method, names[-1]) if names else None


def put_options(cls: type, fixed: Mapping[str, Any]) -> None:
    """Make the options of the parts that a class body names fields of the class, which is to become a dataclass. An
    option that the body declares itself, or only its default, has the place of the part's. Of a part that a base has
    too the options stay; its facts may be class attributes for two more releases.

    Args:
        fixed: options of bases that the class does not have -> their values.
    """
    own = inspect.get_annotations(cls)
    of_bases = {name: part for base in reversed(cls.__mro__[1:]) for name, part in parts_of(base).items()}
    for attribute, part in of_bases.items():
        if facts := {name: vars(cls)[name] for name in part.names_of_facts if name in vars(cls)}:
            cure = f"{attribute} = has({part.kind.__name__}, {', '.join(f'{name}=...' for name in facts)})"
            warnings.warn(f"{cls.__name__} has facts of a part: write {cure}", DeprecationWarning, stacklevel=4)
            setattr(cls, attribute, _Has(part.kind, {**part.facts, **facts}))
    kinds: dict[str, Any] = {}
    for attribute, part in [(name, value) for name, value in vars(cls).items() if isinstance(value, _Has)]:
        hints, inherited = get_type_hints(part.kind), of_bases[attribute].options if attribute in of_bases else {}
        for name, of_part in part.options.items():
            if name in inherited:
                continue
            kinds[name], default = hints[name], vars(cls).get(name, of_part.default)
            if not isinstance(default, Field):
                made = copy.copy(of_part)
                made.default = default
                setattr(cls, name, made)
    for name, value in fixed.items():
        setattr(cls, name, value)
    if kinds or fixed:
        cls.__annotations__ = {**kinds, **own, **dict.fromkeys(fixed, ClassVar)}


class _Has:
    """What `has` leaves in a class: read from a method, it is the part with the values of the method's options."""

    def __init__(self, kind: type[Part], facts: Mapping[str, Any]):
        self.kind, self.facts = kind, facts
        self.options = {each.name: each for each in fields(kind) if "option" in each.metadata}
        self.names_of_facts = [each.name for each in fields(kind) if each.name not in self.options]

    def __get__(self, method: Any, cls: type) -> Part:
        source = cls if method is None else method
        return self.kind(**self.facts, **{name: getattr(source, name) for name in self.options})
