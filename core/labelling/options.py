"""How images are labelled on the page."""

from __future__ import annotations

from dataclasses import dataclass

from ..contracts.options import option, settle


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """What a page of labelling takes besides the list and the file of answers."""

    several: bool = option(False, "an image may have several labels, or none")
    labeller: str | None = option(
        None, "name of the person who labels; by default the user name on this machine", metavar="NAME"
    )
    port: int = option(0, "port; by default any that is free", low=0, high=65_535, metavar="N")
    open: bool = option(False, "open the page in the browser")
    root: str | None = option(None, "where the images are, if outside the folder of the table", metavar="PATH")

    def __post_init__(self) -> None:
        settle(self, "label")
