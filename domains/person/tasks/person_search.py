"""Person search: people found by a sentence, and sentences by a picture of the person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from ....core.contracts import Backbone, Item, Recipe, option
from ....core.data import Pair
from ....core.errors import ConfigError, DataError
from ....core.tasks import DomainPairs, Retrieval, RetrievalData
from ..care import PeopleHidden, PeopleOptions, care_section, write_card
from ..changed_captions import ChangedCaptions, read_paraphrases
from ..pedestrian import Pedestrian, cameras_of
from ..samplers import SAMPLERS, IdentityBatches
from ..training_views import simclr_view, tbps_clip_view

VIEWS = ("pedestrian", "tbps-clip")
IN_ANY_ORDER = "random"


@dataclass(frozen=True, kw_only=True)
class _SearchOptions(PeopleOptions):
    """Options of person search beside those of retrieval."""

    each_caption: bool = option(
        True, "train on each caption as a sample of its own; else on each picture, with one of its captions"
    )
    sampler: str = option(
        IN_ANY_ORDER,
        "how batches are drawn: at random, or as several people with several samples each",
        choices=(IN_ANY_ORDER, *SAMPLERS),
    )
    pictures: int = option(
        4, "number of samples of each person in a batch, for samplers of several people", low=1, high=1000
    )
    views: str = option("pedestrian", "how pictures are augmented in training", choices=VIEWS)
    deletion: float = option(0.0, "probability that a word of a caption is left out in training", low=0, below=1)
    paraphrases: str | None = option(None, "JSON file of paraphrases by caption; none: no paraphrases", metavar="FILE")
    paraphrased: float = option(0.1, "probability that a caption is replaced by a paraphrase", low=0, below=1)


class PersonSearch(Retrieval):
    """Text to image and image to text over identities: whatever shows or describes the person of a query is relevant.

    All pictures of the test split are the gallery, as CUHK-PEDES, ICFG-PEDES and RSTPReid are scored: Rank-1, 5 and 10,
    mAP and mINP, without a rule on cameras. Intervals draw people, with all that belongs to them. An epoch is chosen by
    Rank-1 of text to image on val (`select=best_val`), never on test.

    With a sampler of several people a batch has `batch_size` / `pictures` of them. Reports and logs name no files and
    show no pictures unless `--show-people` says so (`care.py`).
    """

    takes: ClassVar = Retrieval.takes - {"sources", "features"}
    needs_domain: ClassVar = True
    options: ClassVar = _SearchOptions

    def read(self, recipe: Recipe) -> RetrievalData:
        """As of `Retrieval`; labels are identities.

        Raises:
            DataError: the pictures that are trained on, or those of the test, have no captions.
        """
        data = super().read(recipe)
        people = PeoplePairs.of(data.pairs)
        _check(people, data.name)
        said = recipe.task_options
        teaching = PeoplePairs.by_caption if said["each_caption"] else PeoplePairs.captioned
        plan = None if said["sampler"] == IN_ANY_ORDER else partial(_batches, said["sampler"], said["pictures"])
        how = {"chosen_by": (self.by_text,), "teaching": teaching, "plan": plan}
        return _augmented(replace(data, pairs=people, by_label=True, **how), said)

    def prepared(self, recipe: Recipe) -> Recipe:
        if (file := recipe.task_options["paraphrases"]) is not None:
            read_paraphrases(file)  # what is wrong with it is found out before pairs are read
        return super().prepared(recipe)

    def redaction(self, recipe, data, skipped, redact) -> Any:
        hidden = None if recipe.task_options["show_people"] else PeopleHidden.of(data.pairs.data, skipped)
        return super().redaction(recipe, data, skipped, redact) or hidden

    def finish(self, run, info, data, metrics) -> None:
        sentence = "{} of the sentences find their person first, mAP {}.".format(
            *(f"{metrics.adapted[f'{self.by_text}/{name}']:.1%}" for name in ("r1", "map"))
        )
        write_card(run.path, info, data.pairs.data, [sentence])

    @property
    def further_sections(self) -> list[Any]:
        return [care_section()]


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
        order = [item for split in (*Item.SPLITS, "") for item in pairs.items if item.split == split]
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


def _batches(sampler: str, pictures: int, people: PeoplePairs, batch_size: int, seed: int) -> IdentityBatches:
    """Of P people with K samples each, P x K at most `batch_size`."""
    if pictures > batch_size:
        raise ConfigError(f"--set pictures={pictures}: a batch has {batch_size} samples; give fewer pictures")
    cameras, labels = cameras_of(people.items), people.labels.tolist()
    return IdentityBatches(labels, cameras, batch_size // pictures, pictures, sampler, seed)


def _augmented(data: RetrievalData, options: Mapping[str, Any]) -> RetrievalData:
    """The same with the views and captions of a training that the options name."""

    def captions(seed: int) -> ChangedCaptions:
        others: dict[str, tuple[str, ...]] = {}
        if options["paraphrases"] is not None:
            taught = {text for item in data.pairs.split("train").items for text in item.captions()}
            others = read_paraphrases(options["paraphrases"], taught)
        return ChangedCaptions(
            seed=seed, deleted=options["deletion"], paraphrased=options["paraphrased"], paraphrases=others
        )

    data = replace(data, captions=captions)
    if options["views"] == "pedestrian":
        return data
    plain = data.transform

    def transform(backbone: Backbone, train: bool) -> Callable[..., Any]:
        return tbps_clip_view(backbone) if train else plain(backbone, False)

    return replace(data, transform=transform, strong_view=simclr_view)


def _identity(item: Item) -> str:
    """Of a picture of nobody known one of its own."""
    named = isinstance(item.target, Pedestrian) and item.target.identity is not None
    return f"identity {item.target.identity}" if named else f"picture {item.id}"


def _check(people: PeoplePairs, name: str) -> None:
    for split in ("train", "test"):
        some = people.split(split)
        if len(some) and not any(item.captions() for item in some.items):
            raise DataError(
                f"{name}: no picture of split '{split}' has a caption, so nobody can be searched for; give captions, "
                "or --task re-identification"
            )
