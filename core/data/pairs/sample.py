"""A generated set of image-text pairs that needs no download: `--data sample`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ...errors import ConfigError
from .builder import PairBuilder
from .pair_set import PairSet
from .scenes import COUNTS, SCENES, Scene, SceneImages, Things, scene, scene_name, with_colours_swapped

OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
VAL_AND_TEST = {8: "val", 9: "test"}
"""By the last digit of a row's number."""


def sample_pairs(n: int = 240, seed: int = 0) -> PairSet:
    """Drawings of coloured shapes, each with four captions, and with further texts for every loss.

    * captions: three ways to say how many of which shapes in which colours stand where, and a long one of several
      sentences;
    * "synthetic": two rewrites; "short": colours and shapes alone;
    * "negative": the colours swapped, the places swapped, a wrong number; the negative image shows the first of these;
    * label: the shape of the larger things, six classes; of ten rows eight are train, one val, one test.

    No two images show the same scene. They are drawn when they are asked for.

    Args:
        n: images, 1 to 64,800.
        seed: which scenes, and how they are drawn.

    Raises:
        ConfigError: n is out of range.
    """
    if not 1 <= n <= SCENES:
        raise ConfigError(f"sample of {n} pairs: give 1 to {SCENES}")
    builder = PairBuilder("", "sample")
    for row, number in enumerate(np.random.default_rng(seed).choice(SCENES, n, replace=False).tolist()):
        shown = scene(number)
        wrong = with_colours_swapped(shown)
        builder.add(
            scene_name(shown),
            scene_captions(shown),
            texts={"synthetic": rewrites_of(shown), "negative": negatives_of(shown), "short": [short_of(shown)]},
            negative_image=scene_name(wrong),
            label=shown.main.shape,
            split=VAL_AND_TEST.get(row % 10, "train"),
        )
    builder.notes.append("Generated drawings of shapes: for trying things out, not for measuring.")
    return builder.build(name="sample", licence="generated, free to use", images=SceneImages(seed))


def scene_captions(shown: Scene) -> list[str]:
    """Four captions, the last with several sentences."""
    words = _Words.of(shown)
    return [
        f"{words.main} {words.relation} {words.other} on a {shown.background} background",
        f"a drawing of {words.other} {words.reverse} {words.main}, on {shown.background}",
        f"a {shown.background} picture with {words.main} and, {words.reverse} {words.them}, {words.other}",
        f"The drawing shows {words.main}. There is also something {words.reverse} {words.them}: {words.other}. "
        f"The background is {shown.background}. Nothing else can be seen.",
    ]


def rewrites_of(shown: Scene) -> list[str]:
    """Two, as a language model might reword the first caption."""
    words = _Words.of(shown)
    return [
        f"A {shown.background} sheet where someone drew {words.main} {words.relation} {words.other}.",
        f"Shapes before plain {shown.background}: {words.other}, and {words.main} {words.relation} {words.those}.",
    ]


def negatives_of(shown: Scene) -> list[str]:
    """First captions that are wrong: colours swapped, places swapped, another number."""
    words = _Words.of(shown)
    other_count = replace(shown.main, count=shown.main.count % 3 + 1)
    return [
        scene_captions(with_colours_swapped(shown))[0],
        f"{words.main} {words.reverse} {words.other} on a {shown.background} background",
        scene_captions(replace(shown, main=other_count))[0],
    ]


def short_of(shown: Scene) -> str:
    return f"{_named(shown.main)} and {_named(shown.other)}"


@dataclass(frozen=True)
class _Words:
    main: str
    other: str
    relation: str
    reverse: str
    them: str
    those: str

    PRONOUNS: ClassVar[dict[bool, str]] = {True: "it", False: "them"}

    @classmethod
    def of(cls, shown: Scene) -> _Words:
        return cls(
            main=_counted(shown.main),
            other=_counted(shown.other),
            relation=shown.relation,
            reverse=OPPOSITE[shown.relation],
            them=cls.PRONOUNS[shown.main.count == 1],
            those=cls.PRONOUNS[shown.other.count == 1],
        )


def _counted(things: Things) -> str:
    if things.count == 1:
        return _named(things)
    return f"{COUNTS[things.count - 1]} {_named(things)}"


def _named(things: Things) -> str:
    if things.count == 1:
        return f"{'an' if things.colour[0] in 'aeiou' else 'a'} {things.colour} {things.shape}"
    return f"{things.colour} {things.shape}{'es' if things.shape.endswith('s') else 's'}"
