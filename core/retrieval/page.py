"""Results as a page of pictures: one HTML file that needs nothing beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.items import Decoded, Item
from ..errors import DataError
from ..runs.run_sections import page_template
from ..runs.sections import data_uri
from ..runtime.files import write_whole
from .head import IndexInfo
from .index import Hit

SIDE = 320
TOP, COLUMNS = 0.25, 6
"""Share of a picture of a person that the head is in, and squares in a row of its mosaic."""


@dataclass(frozen=True)
class Asked:
    """What was searched for.

    Args:
        text: the text, or "".
        image: name of the image file, or "".
        picture: that image, decoded, or None.
        weight: share of the text where there are both; None where they are not weighted.
        only: what results were asked to be: name -> value.
        composed: how text and image were made one query, where that was asked for.
    """

    text: str = ""
    image: str = ""
    picture: Decoded | None = None
    weight: float | None = 0.5
    only: dict[str, str] = field(default_factory=dict)
    composed: str = ""


def write_page(
    path: Path,
    asked: Asked,
    hits: Sequence[Hit],
    info: IndexInfo,
    load: Callable[[Item], Decoded],
    *,
    blur: bool = False,
) -> None:
    """Write the page.

    Args:
        path: an .html file.
        asked: the query.
        hits: the results, the best first.
        info: of the index.
        load: decodes an image; one that cannot be read any more is shown as its reason.
        blur: pixelate the top quarter of each picture, that of the query too.

    Raises:
        DataError: the file cannot be written.
    """
    text = page_template(Path(__file__).with_name("results.html.j2")).render(
        asked=asked,
        picture=None if asked.picture is None else _shown(asked.picture, blur),
        clusters=_clusters(hits, [_card(hit, load, blur) for hit in hits]),
        found=len(hits),
        info=info,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--html {path}: cannot be written there ({error.strerror}); give another file") from error
    write_whole(path, text)


def pixelated(image: np.ndarray, share: float = TOP, columns: int = COLUMNS) -> np.ndarray:
    """An image whose top is a mosaic of so few squares that nobody is known by the face.

    Args:
        image: (H, W, C).
        share: of the height.
        columns: squares in a row.
    """
    height, width = image.shape[:2]
    rows = min(height, math.ceil(share * height))
    side = max(1, math.ceil(width / columns))
    made = image.copy()
    for top in range(0, rows, side):
        for left in range(0, width, side):
            square = made[top : min(top + side, rows), left : left + side]
            square[:] = square.reshape(-1, *square.shape[2:]).mean(axis=0).astype(made.dtype)
    return made


def _shown(image: np.ndarray, blur: bool) -> str:
    return data_uri(pixelated(np.asarray(image)) if blur else image, SIDE)


def _clusters(hits: Sequence[Hit], cards: Sequence[dict[str, Any]]) -> list[tuple[int | None, list[dict[str, Any]]]]:
    """The cards of each cluster; one without a number where results are not clustered."""
    numbers = dict.fromkeys(hit.cluster for hit in hits)
    pairs = list(zip(hits, cards, strict=True))
    return [(number, [card for hit, card in pairs if hit.cluster == number]) for number in numbers]


def _card(hit: Hit, load: Callable[[Item], Decoded], blur: bool) -> dict[str, Any]:
    entry = hit.entry
    about = ", ".join(f"{name} {value}" for name, value in entry.about.items())
    card = {"rank": hit.rank, "score": f"{hit.score:.4f}", "id": entry.id, "captions": entry.captions, "about": about}
    if entry.source is None:
        return {**card, "picture": None, "why": ""}
    try:
        return {**card, "picture": _shown(load(entry.item()), blur), "why": ""}
    except DataError as error:
        return {**card, "picture": None, "why": str(error)}
