"""Which images belong together, as far as names and pixels tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class OpenGroups:
    """What a reader leaves to be settled by the pixels: which images belong together (`core/data/group_candidates.py`).

    Args:
        columns: of a table that lists the images, title -> id of an item -> number of its value; those that repeat and
            hold neither the label nor the split.
        note: the sentence of the reader that holds if nothing groups the images.
    """

    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class PossibleGroups:
    """Images that belong together, as far as names and pixels tell.

    Args:
        option: as `--group-column` takes it; "none" where nothing groups the images.
        count: of the groups.
        p_value: of the test that members are no nearer to one another than to others of their class, adjusted.
        used: whether the images are grouped so; else, where there are some, the user is asked.
        groups: id of an item -> its group, a hash.
    """

    option: str
    count: int
    p_value: float
    used: bool
    groups: Mapping[str, str] = field(repr=False)

    @property
    def asked(self) -> bool:
        """Whether the user is asked if these groups belong together."""
        return bool(self.count) and not self.used

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says of them; `settle_groups` takes it."""
        return {"option": self.option, "groups": self.count, "p_value": self.p_value, "used": self.used}
