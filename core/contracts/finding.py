"""What `vladapt doctor` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table: what was looked at, ok or not, what was found, what to do."""

    what: str
    ok: bool
    found: str
    cure: str = ""
