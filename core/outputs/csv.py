"""A table for other programs: one row per image, a column per class."""

from __future__ import annotations

from typing import ClassVar

from ._rows import RowFile


class Csv(RowFile):
    """A table for other programs: one row per image, a column per class."""

    suffix: ClassVar = ".csv"
