"""An export: what is asked of it, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .options import option, options_of


@dataclass(frozen=True)
class ExportWishes:
    """What is asked of an export.

    Args:
        out: its folder, which must not be there yet.
    """

    out: Path = field(metadata={"option": None})
    format: str = option("onnx", "format of the graphs: onnx (the default)", metavar="onnx")
    int8: bool = option(False, "also write an 8-bit graph, which predict.py then uses")
    opset: int | None = option(None, "version of ONNX's operators; by default 18", metavar="N")


EXPORT = {each.name: each for each in options_of(ExportWishes)}


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
