"""What is known of a picture of a person: who it is, which camera took it when, what it says, what can be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan

from ...core.contracts import Item, Target

QUERY, GALLERY = "query", "gallery"
ROLES = ("", QUERY, GALLERY)
IDENTITIES = "identities"
"""`DomainData.kind` of pictures that are told apart by who is in them."""
NOBODY = -1
"""Number of an identity that is none: a distractor."""


@dataclass(frozen=True)
class Pedestrian(Target):
    """One picture of one person.

    Identities are no classes: those of a test are never those of a training. Tasks number them (`identity_numbers`).

    Args:
        identity: whose picture it is; None for nobody that anyone asks for (a distractor), or where nobody knows.
        camera: that took it, "" where nobody knows.
        time: as the data have it, an ISO date or a number, "" where they do not say.
        role: "query" or "gallery" where the data say so, else "".
        texts: sentences about the picture.
        attributes: (C,) 1 where the person has the attribute, 0 where not, NaN where nobody knows; None where nothing
            is known of any.
        tracklet: which walk past the camera, of those that frames of a video belong to; "" where nobody says.
    """

    identity: str | None = None
    camera: str = ""
    time: str = ""
    role: str = ""
    texts: tuple[str, ...] = ()
    attributes: tuple[float, ...] | None = None
    tracklet: str = ""

    def class_label(self) -> tuple[float, ...] | None:
        return self.attributes

    def captions(self) -> tuple[str, ...]:
        return self.texts

    def about(self) -> dict[str, str]:
        facts = {"identity": self.identity or "", "camera": self.camera, "time": self.time, "tracklet": self.tracklet}
        return {name: value for name, value in facts.items() if value}

    def restricted(self, new: Mapping[int, int]) -> Pedestrian | None:
        """None where nothing is known of the attributes that stay."""
        if self.attributes is None:
            return self
        values = tuple(self.attributes[old] for old in sorted(new, key=new.__getitem__))
        return None if all(map(isnan, values)) else replace(self, attributes=values)


def identity_numbers(items: Sequence[Item]) -> list[int]:
    """A number from 0 for each identity, in the order of first mention; `NOBODY` of pictures without one."""
    numbers: dict[str, int] = {}
    named = [item.target.identity if isinstance(item.target, Pedestrian) else None for item in items]
    return [NOBODY if name is None else numbers.setdefault(name, len(numbers)) for name in named]


def cameras_of(items: Sequence[Item]) -> list[str]:
    """The camera of each picture, "" where nobody knows."""
    return [item.target.camera if isinstance(item.target, Pedestrian) else "" for item in items]
