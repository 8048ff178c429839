"""What is compared for a method: a function for each kind of fixture, and the fixtures of that kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vladapt import Adapter, build_adapter
from vladapt.core.contracts.options import options_of
from vladapt.core.registry import adapter_class

from .fixtures import Check, Fixtures, Reference, UnreadableFixture


@dataclass(frozen=True)
class NotCompared:
    """A fixture that gave no number, or none after the first few, and why."""

    method: str
    fixture: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """A method beside the fixtures of one kind.

    Args:
        method: ours.
        pattern: the name of the fixtures, where `*` stands for anything.
        run: a fixture, and the folder it lies in, -> the checks.
        only_first: whether one fixture of the kind says all that the others say.
    """

    method: str
    pattern: str
    run: Callable[..., Iterator[Check]]
    only_first: bool = False

    def names(self, fixtures: Fixtures) -> list[str]:
        """Its fixtures in the folder."""
        names = fixtures.names(self.pattern)
        return names[:1] if self.only_first else names

    def references(self, fixtures: Fixtures) -> Iterator[Reference]:
        """The same, read."""
        return (fixtures.reference(name, self.method) for name in self.names(fixtures))

    def rows(self, fixtures: Fixtures) -> Iterator[Check | NotCompared]:
        """The checks of all its fixtures. One that is missing or cannot be read is told, and the others go on."""
        names = self.names(fixtures)
        if not names:
            yield NotCompared(self.method, self.pattern, "not in this folder")
        for name in names:
            try:
                yield from self.run(fixtures.reference(name, self.method), fixtures)
            except Exception as error:  # a folder of unknown fixtures must not end the page
                yield NotCompared(self.method, name, f"cannot be read: {_in_a_line(error)}")


def published(name: str, **options) -> Adapter:
    """A method as its authors published it: what we do otherwise by default, for unequal classes and ties, is off."""
    ours = {"class_weight": "none", "ties": "published"}
    known = {option.name for option in options_of(adapter_class(name))}
    return build_adapter(name, **{key: value for key, value in ours.items() if key in known}, **options)


def compares(method: str, pattern: str, only_first: bool = False) -> Callable[..., Comparison]:
    """Decorator: the function compares the method with the fixtures of this name; see `Comparison`."""
    return lambda run: Comparison(method, pattern, run, only_first)


def _in_a_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0].replace("|", "/")
    return first if isinstance(error, UnreadableFixture) else f"{type(error).__name__}: {first}"
