"""An export: what is asked of it, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ExportWishes:
    """What is asked of an export.

    Args:
        out: its folder, which must not be there yet.
        opset: version of ONNX's operators; None for the usual one.
        int8: a graph in 8 bits is to answer.
    """

    out: Path
    opset: int | None = None
    int8: bool = False


@dataclass
class Exported:
    """What was written.

    Attributes:
        folder: where it lies.
        facts: what export.json holds.
        notes: sentences for the user.
        lines: how far the graphs agree with the run, for the user.
    """

    folder: Path
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())
