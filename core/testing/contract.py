"""Checks of a contract: each holds one rule and says in one line how it is violated."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from math import isnan
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import CapabilityError

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
"""A name of the registry: that of a folder or a file, with hyphens."""
PAPER = re.compile(r"\b(19|20)\d\d\b[^\n]*\n?[^\n]*\b(arXiv \d{4}\.\d{4,5}|doi 10\.\d{4,}/\S+)")
BASELINE = re.compile(r"\bbase-?\s?line\b", re.IGNORECASE)


def first_line(error: BaseException) -> str:
    """What an error says, its first line alone; its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


class ContractError(AssertionError):
    """Rules of a contract are violated.

    Attributes:
        lines: one per violated rule: "adapter 'x': saved and loaded again, its logits differ by 0.3".
    """

    def __init__(self, lines: Iterable[str]):
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class Unchecked(CapabilityError):
    """A package that the checks themselves need is not installed."""


class Subject(Protocol):
    """What is checked."""

    title: str
    """For messages: "adapter 'x'"."""


class OwnFolder:
    """A subject with a folder for files of its checks, which goes with it."""

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(prefix="vladapt-")


Rule = Callable[[Any], Iterator[str]]
"""A subject -> in words, how it violates the rule; nothing where it keeps it. The first line is said."""
Check = tuple[str, Callable[[], None]]
"""The name of a rule, and a call that raises the ContractError of its violation."""


def checks_of(subject: Subject, rules: Iterable[Rule]) -> Iterator[Check]:
    """One check per rule."""
    for rule in rules:
        yield rule.__name__, partial(hold, rule, subject)


def hold(rule: Rule, subject: Subject) -> None:
    """Raise the ContractError of a rule that a subject violates, or in which it fails; or what stops the check."""
    try:
        line = next(iter(rule(subject)), None)
    except (ContractError, Unchecked):
        raise
    except Exception as error:
        words = rule.__name__.replace("_", " ")
        raise ContractError([f"{subject.title}: {words}: {type(error).__name__}: {first_line(error)}"]) from error
    if line is not None:
        raise ContractError([f"{subject.title}: {line}"])


T = TypeVar("T")


def attempted(words: str, call: Callable[[], T]) -> T | ContractError:
    """What a call gives; where it fails, the ContractError that says so, for `given` to raise whenever it is asked for.

    Args:
        words: what cannot be done: "adapter 'x': cannot be fitted".
    """
    try:
        return call()
    except Unchecked:
        raise
    except Exception as error:
        failed = ContractError([f"{words}: {type(error).__name__}: {first_line(error)}"])
        failed.__cause__ = error
        return failed


def given(result: T | ContractError) -> T:
    """A result of `attempted`, or its error raised."""
    if isinstance(result, ContractError):
        raise result
    return result


def violations(checks: Iterable[Check], raises: bool) -> list[str]:
    """Run checks; the lines of those that fail, each once.

    Raises:
        ContractError: some fail, where `raises`.
    """
    lines: list[str] = []
    for _, check in checks:
        try:
            check()
        except ContractError as error:
            lines += error.lines
    lines = list(dict.fromkeys(lines))
    if lines and raises:
        raise ContractError(lines)
    return lines


def refusal(call: Callable[[], Any], *kinds: type[Exception]) -> tuple[str, str]:
    """How a call refuses: ("", its message) of an error of one of `kinds`, which is one line by itself; else (what it
    does instead, ""), in words."""
    try:
        call()
    except Unchecked:
        raise
    except kinds as error:
        message = str(error)
        if not message.strip():
            return f"raises {type(error).__name__} without a word", ""
        return "", message
    except Exception as error:
        return f"raises {type(error).__name__} ({first_line(error)})", ""
    return "raises nothing", ""


def names_its_origin(cls: type) -> bool:
    """Whether the docstring of a class or of its module has a paper's year with its arXiv id or DOI, or says that it is
    a baseline."""
    text = f"{cls.__doc__ or ''}\n{sys.modules[cls.__module__].__doc__ or ''}"
    return bool(PAPER.search(text) or BASELINE.search(text))


def differences(before: Any, after: Any, place: str) -> list[str]:
    """Places where two values differ, of datasets, dicts, sequences and tensors."""
    if before is after:
        return []
    if isinstance(before, Tensor):
        same = isinstance(after, Tensor) and before.shape == after.shape and _equal(before, after)
        return [] if same else [place]
    if is_dataclass(before):
        if type(before) is not type(after):
            return [place]
        names = [each.name for each in fields(before)]
        return [p for n in names for p in differences(getattr(before, n), getattr(after, n), f"{place}.{n}")]
    if isinstance(before, Mapping):
        if not isinstance(after, Mapping) or list(before) != list(dict.keys(after)):
            return [place]
        return [p for n in before for p in differences(before[n], dict.__getitem__(after, n), f"{place}[{n!r}]")]
    if isinstance(before, (list, tuple)):
        if type(before) is not type(after) or len(before) != len(after):
            return [place]
        return [p for i, (a, b) in enumerate(zip(before, after)) for p in differences(a, b, f"{place}[{i}]")]
    if isinstance(before, float) and isinstance(after, float) and isnan(before) and isnan(after):
        return []
    plain = isinstance(before, (str, int, float, bool, type(None)))
    return [place] if plain and before is not after and before != after else []


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) and one.dtype == other.dtype
