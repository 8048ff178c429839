"""Bases by which methods shared options before these became parts (`parts.py`, `choices.py`): for two releases what
derives from one works as before, and is warned of."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from .adapter import Adapter
from .parts import ClassWeighting, StoredViews, Ties, TrainingViews, declared_parts, has


@dataclass(eq=False, kw_only=True)
class OldBase(Adapter):
    """Finds in the parts of a method what the method inherited before.

    Class attributes:
        cure: of each such base, what is written in place of it.
    """

    cure: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any):
        if "cure" not in vars(cls):
            cures = {base.__name__: vars(base)["cure"] for base in cls.__mro__ if vars(base).get("cure")}
            what = "; ".join(f"in place of {name} {cure}" for name, cure in cures.items())
            message = f"{cls.__name__} derives from bases that go in two releases: {what}"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            cls.can = cls.can.union(*(base.can for base in cls.__mro__ if issubclass(base, OldBase)))
        super().__init_subclass__(**options)

    def __getattr__(self, name: str) -> Any:
        for part in () if name.startswith("_") else declared_parts(type(self)):
            if hasattr(getattr(self, part), name):
                return getattr(getattr(self, part), name)
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")


@dataclass(eq=False, kw_only=True)
class ClassWeighted(OldBase):
    """In place of it: `weighting = has(ClassWeighting)`."""

    cure: ClassVar[str] = "write weighting = has(ClassWeighting)"
    weighting = has(ClassWeighting)


@dataclass(eq=False, kw_only=True)
class Searched(ClassWeighted):
    """In place of it: `weighting = has(ClassWeighting)` and `choice = has(Ties)`."""

    cure: ClassVar[str] = "write choice = has(Ties), too"
    choice = has(Ties)


@dataclass(eq=False, kw_only=True)
class PooledViews(OldBase):
    """In place of it: `pool = has(StoredViews, published_crop=...)`."""

    cure: ClassVar[str] = "write pool = has(StoredViews, published_crop=...)"
    pool: ClassVar[StoredViews] = has(StoredViews)


@dataclass(eq=False, kw_only=True)
class FreshViews(PooledViews):
    """In place of it: `pool = has(TrainingViews, published_crop=...)`."""

    cure: ClassVar[str] = "write pool = has(TrainingViews, published_crop=...)"
    pool: ClassVar[TrainingViews] = has(TrainingViews)


@dataclass(eq=False, kw_only=True)
class ByExample(OldBase):
    """In place of it: `can = frozenset({"examples"})`."""

    cure: ClassVar[str] = 'write can = frozenset({"examples"})'
    can: ClassVar[frozenset[str]] = frozenset({"examples"})
