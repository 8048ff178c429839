"""One JSON object per line and image."""

from __future__ import annotations

from typing import ClassVar

from ._rows import RowFile


class JsonLines(RowFile):
    """One JSON object per line and image."""

    suffix: ClassVar = ".jsonl"
