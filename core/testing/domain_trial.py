"""A domain to check, and the data sets that it gives: its sample, and one that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..contracts.domain import Domain
from ..contracts.items import DomainData
from .contract import ContractError, OwnFolder, attempted, first_line, given


@dataclass(frozen=True)
class ReadSet:
    """A data set as a domain gives it.

    Args:
        words: for messages: "its sample", "its sample of detection".
        task: what it was read for.
        read: reads it again.
    """

    words: str
    task: str
    data: DomainData
    read: Callable[[], DomainData]


class DomainTrial(OwnFolder):
    """A domain to check, and the sets that it gives.

    Args:
        domain, data, reading, task, sample: as for `domain_checks`.

    Raises:
        ContractError: the class cannot be made without arguments.
    """

    def __init__(
        self,
        domain: Domain | type[Domain],
        data: str | Path | None = None,
        reading: Mapping[str, Any] | None = None,
        task: str | None = None,
        sample: bool = True,
    ):
        self.domain = domain if isinstance(domain, Domain) else _made(domain)
        self.path, self.reading = None if data is None else Path(data), dict(reading or {})
        self.task = task or self.domain.task_names[0]
        self._of_set, self._sampled = self.domain.task_names if task is None else (task,), sample

    @property
    def title(self) -> str:
        return f"domain '{self.domain.name or type(self.domain).__name__}'"

    @property
    def channels(self) -> int:
        """How many channels an image read as asked for has."""
        channels = self.domain.channels(self.reading)
        return 3 if channels is None else len(channels)

    @property
    def sets(self) -> list[ReadSet]:
        """Its sample, if asked for, and the set at the path, for each of its tasks.

        Raises:
            ContractError: one cannot be read.
        """
        return given(self._sets)

    def read(self, path: str | Path, task: str, **options: Any) -> DomainData:
        return self.domain.read(path, task, **{**self.reading, **options})

    @cached_property
    def _sets(self) -> list[ReadSet] | ContractError:
        several, sets = len(self.domain.task_names) > 1, []
        for task in self.domain.task_names:
            readers = [("its sample", lambda task=task: self.domain.sample(task))] if self._sampled else []
            if self.path is not None and task in self._of_set:
                readers.append((f"the set '{self.path.name}'", lambda task=task: self.read(self.path, task)))
            for words, read in readers:
                words = f"{words} of {task}" if several else words
                data = attempted(f"{self.title}: {words} cannot be read", read)
                if isinstance(data, ContractError):
                    return data
                sets.append(ReadSet(words, task, data, read))
        return sets


def _made(cls: type[Domain]) -> Domain:
    try:
        return cls()
    except TypeError as error:
        line = f"domain '{cls.name or cls.__name__}': cannot be made without arguments ({first_line(error)})"
        raise ContractError([f"{line}; give all of them defaults"]) from error
