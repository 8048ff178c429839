"""Person search: people found by a sentence, and sentences by a picture of the person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ....core.contracts.domain import Item
from ....core.contracts.options import option, settle
from ....core.contracts.recipe import Recipe
from ....core.data.pairs.pair_set import Pair
from ....core.errors import DataError
from ....core.metrics.retrieval import TEXT_TO_IMAGE
from ....core.tasks.retrieval.fitting import RetrievalData
from ....core.tasks.retrieval.scoring import DomainPairs
from ....core.tasks.retrieval.task import Retrieval
from ..pedestrian import Pedestrian

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of person search beside those of retrieval."""

    each_caption: bool = option(
        True, "train on each caption as a sample of its own; else on each picture, with one of its captions"
    )

    def __post_init__(self):
        settle(self)


class PersonSearch(Retrieval):
    """Text to image and image to text over identities: whatever shows or describes the person of a query is relevant.

    All pictures of the test split are the gallery, as CUHK-PEDES, ICFG-PEDES and RSTPReid are scored: Rank-1, 5 and 10,
    mAP and mINP, without a rule on cameras. Intervals draw people, with all that belongs to them. An epoch is chosen by
    Rank-1 of text to image on val (`select=best_val`), never on test.
    """

    needs_domain: ClassVar = True
    options: ClassVar = SearchOptions

    def read(self, recipe: Recipe) -> RetrievalData:
        """As of `Retrieval`; labels are identities.

        Raises:
            DataError: the pictures that are trained on, or those of the test, have no captions.
        """
        data = super().read(recipe)
        people = PeoplePairs.of(data.pairs)
        _check(people, data.name)
        teaching = PeoplePairs.by_caption if recipe.task_options["each_caption"] else PeoplePairs.captioned
        return replace(data, pairs=people, by_label=True, chosen_by=(TEXT_TO_IMAGE,), teaching=teaching)


@dataclass(frozen=True)
class PeoplePairs(DomainPairs):
    """Pictures of people with their captions, labelled by who is in them.

    Args:
        numbers: identity -> label. Those of people who are trained on come first, from 0, without gaps.
        image_of: which picture each row is of, where rows are captions; else empty.
    """

    numbers: Mapping[str, int] = field(default_factory=dict)
    image_of: tuple[int, ...] = ()

    @classmethod
    def of(cls, pairs: DomainPairs) -> PeoplePairs:
        """The same pictures."""
        order = [item for split in (*SPLITS, "") for item in pairs.items if item.split == split]
        numbers: dict[str, int] = {}
        for item in order:
            numbers.setdefault(_identity(item), len(numbers))
        return cls(pairs.data, pairs.items, numbers)

    def label(self, item: Item) -> int:
        return self.numbers[_identity(item)]

    def __getitem__(self, row: int) -> Pair:
        pair = super().__getitem__(row)
        return replace(pair, image=self.image_of[row]) if self.image_of else pair

    def captioned(self) -> PeoplePairs:
        """Pictures that have a caption."""
        return replace(self, items=tuple(item for item in self.items if item.captions()))

    def by_caption(self) -> PeoplePairs:
        """A row for each caption; rows of one picture are one image."""
        rows = [
            (image, item.with_(id=f"{item.id}#{place}", target=replace(item.target, texts=(text,))))
            for image, item in enumerate(self.items)
            for place, text in enumerate(item.captions(), start=1)
        ]
        return replace(self, items=tuple(item for _, item in rows), image_of=tuple(image for image, _ in rows))


def _identity(item: Item) -> str:
    """Of a picture of nobody known one of its own."""
    named = isinstance(item.target, Pedestrian) and item.target.identity is not None
    return f"identity {item.target.identity}" if named else f"picture {item.id}"


def _check(people: PeoplePairs, name: str) -> None:
    for split in ("train", "test"):
        some = people.split(split)
        if len(some) and not any(item.captions() for item in some.items):
            raise DataError(
                f"{name}: no picture of split '{split}' has a caption, so nobody can be searched; give captions, or "
                "task re-identification"
            )
