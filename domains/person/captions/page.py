"""A sample of captioned pictures beside their sentences: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....core.contracts import Decoded, Item
from ....core.errors import DataError
from ....core.runs import data_uri, page_template
from ....core.runtime import write_whole

if TYPE_CHECKING:
    from .make import Caption, Captioned

SIDE = 220


def write_page(path: Path, captions: Sequence[Caption], load: Callable[[Item], Decoded], made: Captioned) -> None:
    """Write the page.

    Args:
        path: an .html file.
        captions: those that are shown.
        load: decodes a picture.
        made: the file that the sample is of.

    Raises:
        DataError: the file cannot be written.
    """
    template = page_template(Path(__file__).with_name("page.html.j2"))
    write_whole(path, template.render(cards=[_card(each, load) for each in captions], made=made))


def _card(caption: Caption, load: Callable[[Item], Decoded]) -> dict[str, Any]:
    sure = [(name, value, caption.confidence.get(name)) for name, value in caption.attributes.items()]
    try:
        picture, why = data_uri(load(caption.item), SIDE), ""
    except DataError as error:
        picture, why = None, str(error)
    return {"picture": picture, "why": why, "texts": caption.texts, "attributes": sure}
