"""Results as a page of pictures: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts.domain import Decoded, Item
from ..errors import DataError
from ..runs.plots import data_uri
from ..runtime.files import write_whole
from .index import Hit

SIDE = 320


@dataclass(frozen=True)
class Asked:
    """What was searched for.

    Args:
        text: the text, or "".
        image: name of the image file, or "".
        picture: that image, decoded, or None.
        weight: share of the text where there are both.
    """

    text: str = ""
    image: str = ""
    picture: Decoded | None = None
    weight: float = 0.5


def write_page(
    path: Path, asked: Asked, hits: Sequence[Hit], info: dict[str, Any], load: Callable[[Item], Decoded]
) -> None:
    """Write the page.

    Args:
        path: an .html file.
        asked: the query.
        hits: the results, the best first.
        info: of the index.
        load: decodes an image; one that cannot be read any more is shown as its reason.

    Raises:
        DataError: the file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("results.html.j2").render(
        asked=asked,
        picture=None if asked.picture is None else data_uri(asked.picture, SIDE),
        cards=[_card(hit, load) for hit in hits],
        info=info,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--html {path}: cannot be written there ({error.strerror}); give another file") from error
    write_whole(path, text)


def _card(hit: Hit, load: Callable[[Item], Decoded]) -> dict[str, Any]:
    entry = hit.entry
    card = {"rank": hit.rank, "score": f"{hit.score:.4f}", "id": entry.id, "captions": entry.captions}
    if entry.source is None:
        return {**card, "picture": None, "why": ""}
    try:
        return {**card, "picture": data_uri(load(entry.item()), SIDE), "why": ""}
    except DataError as error:
        return {**card, "picture": None, "why": str(error)}
