"""Who is sought among whom: queries and gallery of a split, and what is said where nothing can be retrieved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ....core.contracts import Item
from ....core.errors import DataError
from ..camera_ranking import SoughtPeople
from ..pedestrian import NOBODY, QUERY, cameras_of, identity_numbers

NO_RULE = "--set camera_rule=no"


@dataclass(frozen=True)
class SearchedSplit:
    """A split as it is searched.

    Args:
        items: of the split.
        queries, gallery: positions of items.
        identities: of all items, numbered; `NOBODY` of distractors.
        cameras: of all items.
        camera_rule: pictures of a query's person by its own camera do not count.
        drawn: the data name no queries, and these are ours.
    """

    items: tuple[Item, ...]
    queries: tuple[int, ...]
    gallery: tuple[int, ...]
    identities: tuple[int, ...]
    cameras: tuple[str, ...]
    camera_rule: bool
    drawn: bool

    @classmethod
    def of(cls, items: Sequence[Item], camera_rule: bool, name: str) -> SearchedSplit:
        """Queries and gallery as the data say; else all pictures are the gallery, and the queries one picture of each
        person in each camera, as Market-1501 drew them, or all pictures where cameras do not count.

        Args:
            name: of the set, for messages.

        Raises:
            DataError: cameras are missing, there is only one, or each person has one picture: nothing to retrieve.
        """
        items, identities, cameras = tuple(items), tuple(identity_numbers(items)), tuple(cameras_of(items))
        named = [place for place, item in enumerate(items) if item.target.role == QUERY]
        if camera_rule:
            _check_cameras(cameras, name)
        if named:
            gallery = [place for place, item in enumerate(items) if item.target.role != QUERY]
            queries = [place for place in named if identities[place] != NOBODY]
        else:
            gallery = list(range(len(items)))
            queries = _drawn(items, identities, cameras if camera_rule else None)
        protocol = cls(items, tuple(queries), tuple(gallery), identities, cameras, camera_rule, drawn=not named)
        protocol._check_answerable(name)
        return protocol

    @property
    def sought(self) -> SoughtPeople:
        """The same as numbers."""
        codes = {camera: code for code, camera in enumerate(dict.fromkeys(self.cameras))}
        queries, gallery = (torch.tensor(places, dtype=torch.int64) for places in (self.queries, self.gallery))
        identities = torch.tensor(self.identities, dtype=torch.int64)
        cameras = torch.tensor([codes[camera] for camera in self.cameras], dtype=torch.int64)
        where = {place: column for column, place in enumerate(self.gallery)}
        own = torch.tensor([where.get(place, -1) for place in self.queries], dtype=torch.int64)
        of_cameras = (cameras[queries], cameras[gallery]) if self.camera_rule else (None, None)
        return SoughtPeople(identities[queries], identities[gallery], *of_cameras, own=own)

    def only(self, kept: Sequence[int]) -> SearchedSplit:
        """With some of the items alone, those whose pictures could be read."""
        new = {old: place for place, old in enumerate(kept)}
        return SearchedSplit(
            items=tuple(self.items[old] for old in kept),
            queries=tuple(new[old] for old in self.queries if old in new),
            gallery=tuple(new[old] for old in self.gallery if old in new),
            identities=tuple(self.identities[old] for old in kept),
            cameras=tuple(self.cameras[old] for old in kept),
            camera_rule=self.camera_rule,
            drawn=self.drawn,
        )

    def in_words(self) -> str:
        """How queries came about, and what counts."""
        how = "as the data say"
        if self.drawn:
            how = "one picture of each person in each camera" if self.camera_rule else "every picture"
        rule = "pictures by the query's own camera do not count" if self.camera_rule else "cameras do not count"
        return f"Queries: {how}. Of the person sought, {rule}." if self.camera_rule else f"Queries: {how}; {rule}."

    def _check_answerable(self, name: str) -> None:
        if not self.queries:
            raise DataError(f"{name}: no picture names its person, so nobody can be sought; give identities")
        if bool(self.sought.answerable.any()):
            return
        counts = torch.tensor([each for each in self.identities if each != NOBODY]).bincount()
        if int(counts.max()) < 2:
            raise DataError(f"{name}: one image per identity: nothing to retrieve; give several pictures of a person")
        rule = f" under the camera rule; give people seen by two cameras, or {NO_RULE}" if self.camera_rule else ""
        raise DataError(f"{name}: no query has another picture of its person in the gallery{rule}")


def _check_cameras(cameras: Sequence[str], name: str) -> None:
    missing = sum(not camera for camera in cameras)
    if missing:
        raise DataError(
            f"{name}: {missing} of {len(cameras)} pictures do not name their camera, which the camera rule needs; "
            f"add a column camera, or {NO_RULE}"
        )
    if len(set(cameras)) == 1:
        raise DataError(
            f"{name}: one camera: nothing to retrieve under the rule that pictures by the query's own camera do not "
            f"count; give pictures of several cameras, or {NO_RULE}"
        )


def _drawn(items: Sequence[Item], identities: Sequence[int], cameras: Sequence[str] | None) -> list[int]:
    """Positions of queries: of each person and camera the picture that a seed of its name puts first."""
    known = [place for place, identity in enumerate(identities) if identity != NOBODY]
    if cameras is None:
        return known
    first: dict[tuple[int, str], int] = {}
    for place in sorted(known, key=lambda place: items[place].rank(0)):
        first.setdefault((identities[place], cameras[place]), place)
    return sorted(first.values())
