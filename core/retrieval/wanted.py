"""Which entries of an index are wanted: by what is known of them, such as their camera, and by their time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ..errors import ConfigError, DataError, did_you_mean, shortened
from .entries import Entry
from .head import IndexInfo

TIME = "time"
"""The name under which an entry tells when it was taken: an ISO date, or a number such as a frame's."""
MOST_VALUES = 200
"""Different values of a fact that index.json lists."""


@dataclass(frozen=True)
class Wanted:
    """A filter of results.

    Args:
        values: name of a fact -> the value that it has.
        since: the earliest time: an ISO date or date and time, or a number; None for any.
        other_than: an image that is looked for: only what is of another file and of another group is wanted.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    since: str | None = None
    other_than: Entry | None = None

    def __bool__(self) -> bool:
        return bool(self.values) or self.since is not None or self.other_than is not None

    def check(self, info: IndexInfo, path: object) -> None:
        """Refuse what no entry of the index can have.

        Args:
            info: what index.json holds.
            path: of the index, for the message.

        Raises:
            DataError: its entries do not say it. ConfigError: none has the value, or the time is none.
        """
        facts = info.about if isinstance(info.about, dict) else {}
        for name in [*self.values, *([TIME] if self.since is not None else [])]:
            if name not in facts:
                known = f"; it holds their {', '.join(facts)}" if facts else ""
                raise DataError(f"{path}: does not hold the {name} of its images{known}; omit {_flag(name)}")
        for name, value in self.values.items():
            listed = facts[name] if isinstance(facts[name], list) else None
            if listed is not None and value not in listed:
                raise ConfigError(f"{_flag(name)} {value}: no image has it; {did_you_mean(value, map(str, listed))}")
        if self.since is not None:
            point_in_time(self.since, "--since")


class Facts:
    """What is known of the entries of an index, for index.json: name -> its values where they are few."""

    def __init__(self, summary: Mapping[str, Any] | None = None):
        """Args:
        summary: of entries that were added before.
        """
        summary = summary or {}
        self._values: dict[str, set[str]] = {
            name: set(values) for name, values in summary.items() if values is not None
        }
        self._many = {name for name, values in summary.items() if values is None}

    def add(self, entry: Entry) -> None:
        for name, value in entry.about.items():
            if name in self._many:
                continue
            values = self._values.setdefault(name, set())
            values.add(value)
            if len(values) > MOST_VALUES:
                self._many.add(name)
                del self._values[name]

    def merge(self, summary: Mapping[str, Any]) -> None:
        """Take in what a summary says of further entries."""
        for name, values in summary.items():
            together = self._values.pop(name, set()) | set(values or ())
            if name in self._many or values is None or len(together) > MOST_VALUES:
                self._many.add(name)
            else:
                self._values[name] = together

    def summary(self) -> dict[str, Any]:
        """Name -> sorted values; None where there are more than `MOST_VALUES`."""
        listed = {name: sorted(values) for name, values in self._values.items()}
        return {**listed, **dict.fromkeys(self._many)}


def point_in_time(text: str, place: str) -> float | datetime:
    """A number, or a date and time; one without a zone is taken as UTC.

    Raises:
        ConfigError: it is neither.
    """
    with suppress(ValueError):
        return float(text)
    try:
        time = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise ConfigError(
            f"{place} {shortened(text)}: neither a date and time (2024-03-04T07:30) nor a number; correct it"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)


def _flag(name: str) -> str:
    return {"camera": "--camera", TIME: "--since"}.get(name, f"--where {name}=...")
