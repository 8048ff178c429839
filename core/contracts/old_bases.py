"""Bases by which methods shared options before these became parts (`parts.py`, `choices.py`): for two releases what
derives from one works as before, and is warned of."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from .adapter import Adapter
from .choices import ClassWeighting, RandomCrops, StoredViews, Ties, TrainingViews
from .parts import has, parts_of


@dataclass(eq=False, kw_only=True)
class OldBase(Adapter):
    """Finds in the parts of a method what the method inherited, and takes facts of parts from class attributes."""

    cure: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any):
        if "cure" not in vars(cls):
            cures = {base.__name__: vars(base)["cure"] for base in cls.__mro__ if vars(base).get("cure")}
            what = "; ".join(f"in place of {name} write {cure}" for name, cure in cures.items())
            message = f"{cls.__name__} derives from bases that go in two releases: {what}"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            for name, part in parts_of(cls).items():
                declared = [each.name for each in fields(part.kind) if each.name not in part.options]
                if facts := {fact: getattr(cls, fact) for fact in declared if hasattr(cls, fact)}:
                    setattr(cls, name, has(part.kind, **facts))
            cls.can = cls.can.union(*(base.can for base in cls.__mro__ if issubclass(base, OldBase)))
        super().__init_subclass__(**options)

    def __getattr__(self, name: str) -> Any:
        for part in () if name.startswith("_") else parts_of(type(self)):
            if hasattr(found := getattr(self, part), name):
                return getattr(found, name)
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")


@dataclass(eq=False, kw_only=True)
class ClassWeighted(OldBase):
    """In place of it: `weighting = has(ClassWeighting)`."""

    cure: ClassVar[str] = "weighting = has(ClassWeighting)"
    weighting = has(ClassWeighting)


@dataclass(eq=False, kw_only=True)
class Tied(OldBase):
    """In place of it: `choice = has(Ties)`."""

    cure: ClassVar[str] = "choice = has(Ties)"
    choice = has(Ties)


@dataclass(eq=False, kw_only=True)
class Searched(Tied, ClassWeighted):
    """In place of it: `weighting = has(ClassWeighting)` and `choice = has(Ties)`."""

    cure: ClassVar[str] = "both"


@dataclass(eq=False, kw_only=True)
class Augmented(OldBase):
    """In place of it: `crops = has(RandomCrops, published_crop=...)`."""

    cure: ClassVar[str] = "crops = has(RandomCrops, published_crop=...)"
    crops: ClassVar[RandomCrops] = has(RandomCrops)


@dataclass(eq=False, kw_only=True)
class PooledViews(Augmented):
    """In place of it: `pool = has(StoredViews, published_crop=...)`."""

    cure: ClassVar[str] = "pool = has(StoredViews, published_crop=...)"
    crops: ClassVar[RandomCrops] = has(StoredViews)


@dataclass(eq=False, kw_only=True)
class FreshViews(PooledViews):
    """In place of it: `pool = has(TrainingViews, published_crop=...)`."""

    cure: ClassVar[str] = "pool = has(TrainingViews, published_crop=...)"
    crops: ClassVar[RandomCrops] = has(TrainingViews)


@dataclass(eq=False, kw_only=True)
class ByExample(OldBase):
    """In place of it: "examples" in `can`."""

    cure: ClassVar[str] = '"examples" in can'
    can: ClassVar[frozenset[str]] = frozenset({"examples"})


@dataclass(eq=False, kw_only=True)
class ByAttention(OldBase):
    """In place of it: "attention" in `can`."""

    cure: ClassVar[str] = '"attention" in can'
    can: ClassVar[frozenset[str]] = frozenset({"attention"})
