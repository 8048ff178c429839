"""What a task sees of a run that is used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from .run_info import RunInfo


class FittedRun(Protocol):
    """A run folder that was opened (`core/runs/folder.py`).

    Attributes:
        path: the folder.
        info: what run.json holds.
        metrics: what metrics.json holds.
        place: how a run of the Hugging Face hub was named; "" for one in a folder.
    """

    path: Path
    info: RunInfo
    metrics: dict[str, Any]
    place: str

    @property
    def shown(self) -> str:
        """How the user names it."""

    @property
    def aside(self) -> Path:
        """Where evaluations of it are written."""

    @property
    def adapter_path(self) -> Path:
        """The file of the fitted adapter."""

    @property
    def report_path(self) -> Path:
        """The file of its report."""
