"""What is known of a pair of dates: where its land changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.contracts import Target

UNCHANGED, CHANGED, IGNORED = 0, 1, 255
"""Of a mask, whatever numbers its file has."""
CLASS_NAMES = ("no change", "change")


@dataclass(frozen=True)
class ChangeMask(Target):
    """Where the land changed between the two dates of a window. The second date is in the item's `decode`.

    Args:
        file: a mask on the grid of the pair, or a layer of polygons, which are the changed land.
        values: what the mask's file has for "no change" and for "change"; other values are ignored. Of polygons ().
        shown: which of `CLASS_NAMES` the window has.
    """

    file: Path
    values: tuple[int, ...]
    shown: tuple[int, ...] = ()

    def classes(self) -> tuple[int, ...]:
        return self.shown

    def restricted(self, new: Mapping[int, int]) -> ChangeMask:
        """As it is: a change is told from no change alone."""
        return self

    def to_json(self) -> dict[str, Any]:
        return {"file": str(self.file), "values": list(self.values)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ChangeMask:
        return cls(Path(content["file"]), tuple(content["values"]))
