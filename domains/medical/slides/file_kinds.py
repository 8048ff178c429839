"""Files that are slides, as a `Format`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....core.contracts import Decoded
from ....core.data import Format
from ....core.errors import DataError
from .options import ENDINGS, SUFFIXES

SLIDE = "slide"


def slide_format() -> Format:
    """Each file a sample; shown as its thumbnail."""

    def expand(path: Path) -> list[dict[str, Any]]:
        from .reading import Slide

        try:
            Slide.of(path)
        except DataError as error:  # whoever lists what is left out names the file
            raise DataError(str(error).removeprefix(f"{path}: ")) from None
        return [{}]

    return Format(SLIDE, SUFFIXES, load=slide_thumbnail, expand=expand)


def slides_elsewhere() -> Format:
    """Of readers of images: files that are slides and nothing else are left out, and it is said how they are read."""

    def expand(path: Path) -> list[dict[str, Any]]:
        raise DataError("a whole-slide image; read it with --unit slide")

    return Format(SLIDE, ENDINGS, load=slide_thumbnail, expand=expand, refused=True)


def slide_thumbnail(path: Path, decode: dict[str, Any]) -> Decoded:
    """The whole slide, (H, W, 3) uint8, its longest side of 1024 pixels at most."""
    from .reading import Slide, overview

    slide = Slide.of(path)
    return overview(slide, max(1.0, max(slide.width, slide.height) / 1024))
