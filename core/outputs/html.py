"""A page with one row per image."""

from __future__ import annotations

from typing import ClassVar

from ._rows import RowFile


class Html(RowFile):
    """A page with one row per image."""

    suffix: ClassVar = ".html"
