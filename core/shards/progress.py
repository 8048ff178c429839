"""How far jobs are, read from their files alone: on any machine, while they run or later."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from ..errors import DataError, shortened
from .driver import ASIDE, PLAN
from .place import ShardPlace
from .run import DONE

NEWEST = 200
"""Shards that the rate is of."""
IDLE_S = 1800.0
"""After which nothing is at work any more, so that there is no rate."""


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Args:
        folder: of its results.
        stage: what is made.
        shards: all of them.
        done: those that are there.
        rows: of all inputs; None where some are not counted.
        per_hour: shards; None while too few are done, or nothing was for half an hour.
        aside: shard -> why it could not be made.
    """

    folder: str
    stage: str
    shards: int
    done: int
    rows: int | None
    per_hour: float | None
    aside: dict[str, str] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float | None:
        left = self.shards - self.done
        return None if not self.per_hour else 3600 * left / self.per_hour

    @property
    def line(self) -> str:
        parts = [f"{self.folder}: {self.stage}, {self.done:,} of {self.shards:,} shards"]
        if self.rows:
            parts.append(f"{self.rows:,} rows in all")
        if self.seconds_left:
            parts.append(f"{self.per_hour:,.1f} shards per hour, {_duration(self.seconds_left)} left")
        if self.aside:
            parts.append(f"{len(self.aside)} set aside")
        return ", ".join(parts)


def jobs_below(out: ShardPlace, now: float | None = None) -> list[Progress]:
    """The jobs whose results lie in a place.

    Args:
        now: in seconds since 1970; by default the time.

    Raises:
        DataError: there are none.
    """
    jobs = list(_jobs(out, time.time() if now is None else now))
    if not jobs:
        raise DataError(f"{out}: no job there; give the folder that --out named")
    return jobs


def _jobs(out: ShardPlace, now: float) -> Iterator[Progress]:
    for name in [*out.folders(), "."]:
        place = out if name == "." else out.below(name)
        content = place.read(PLAN)
        if content is None:
            continue
        try:
            facts = json.loads(content)
            stage, shards, rows = str(facts["stage"]), int(facts["shards"]), facts["rows"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{place}/{PLAN}: damaged; remove {place} and start again") from None
        done = place.listed(DONE)
        aside = {each: _reason(place, each) for each in sorted(place.listed(ASIDE)) if each not in done}
        yield Progress(str(place), stage, shards, len(done), rows, _per_hour(list(done.values()), now), aside)


def _reason(place: ShardPlace, name: str) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return shortened(json.loads(place.read(f"{ASIDE}/{name}") or b"")["reason"], 200)
    return ""


def _per_hour(times: list[float], now: float) -> float | None:
    newest = sorted(times)[-NEWEST:]
    if len(newest) < 2 or now - newest[-1] > IDLE_S or newest[-1] <= newest[0]:
        return None
    return 3600 * (len(newest) - 1) / (newest[-1] - newest[0])


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"
