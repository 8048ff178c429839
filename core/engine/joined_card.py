"""The card of joined towers: what they are, how they were put together, how well that works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contracts.run_info import JsonObject

if TYPE_CHECKING:
    from ..backbones.join import JoinedBackbone
    from ..backbones.tower_maps import Choice

LINEAR, LEXICAL, TEXTS, UNTRAINED = "linear", "lexical", "texts", "untrained"
"""How a space is made: of pairs, of names, of sentences, or of nothing yet."""
TO_USE = "Use: `vladapt fit --backbone FOLDER`, `vladapt index IMAGES --backbone FOLDER`"
TO_TRAIN = "Train: `vladapt pretrain --backbone FOLDER --recipe m-clip --data SENTENCES`, or `--recipe lit` with pairs"


@dataclass(frozen=True, eq=False)
class HeldOut(JsonObject):
    """How well towers fit together where the space was not made.

    Attributes:
        images, image_to_text, text_to_image, accuracy, intervals: of pairs, as `RetrievalScores` has them.
        names, sentences: how many of one of them were left out.
        found: the share of these that is found.
    """

    images: int = 0
    image_to_text: Mapping[str, float] = field(default_factory=dict)
    text_to_image: Mapping[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    intervals: Mapping[str, Any] = field(default_factory=dict)
    names: int = 0
    sentences: int = 0
    found: float = 0.0


@dataclass
class Joined:
    """What was made.

    Attributes:
        folder: a backbone's spec.
        kind: how the space was made: `LINEAR`, `LEXICAL`, `TEXTS` or `UNTRAINED`.
        map: the kind of the map, and its penalty where it has one.
        choices: what cross-validation said of each candidate, the best first; none where the map was named.
        scale: the logit scale.
        metrics: of held-out pairs, names or sentences.
        chance: what guessing would score there, by the name of a metric.
        fitted_on: pairs, names or sentences that the space was made of.
        notes: sentences for the user.
    """

    folder: Path
    kind: str
    map: str
    choices: list[Choice]
    scale: float
    metrics: HeldOut
    chance: Mapping[str, float]
    fitted_on: int
    notes: list[str]


def joined_card(backbone: JoinedBackbone, made: Joined, facts: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Joined towers",
        "",
        f"* Images: `{facts['image']}`. Texts: `{facts['text']}`. Licences: {backbone.licence}.",
        f"* {origin(made)}",
        "* " + measured(made),
        f"* {TO_TRAIN if made.kind == UNTRAINED else TO_USE}; both towers are found by their names above, and refused "
        "if they are others than they were.",
    ]
    if made.choices:
        lines += ["", "| map | ridge | mean reciprocal rank in cross-validation |", "|---|---|---|"]
        lines += [
            f"| {each.kind} | {'' if each.penalty is None else f'{each.penalty:g}'} | {each.score:.3f} |"
            for each in made.choices
        ]
    return "\n".join(lines) + "\n"


def origin(made: Joined) -> str:
    """Of what the space was made."""
    if made.kind == UNTRAINED:
        return f"The space is made of layers that nothing has trained ({made.map}): `vladapt pretrain` learns them."
    if made.kind == LEXICAL:
        return (
            f"The space was made of {made.fitted_on} names that both towers know ({made.map}); no image was seen with "
            "a text."
        )
    if made.kind == TEXTS:
        return (
            f"The space is that of the image tower's own texts; a linear map ({made.map}) fitted on {made.fitted_on} "
            "sentences and their translations brings the other text tower into it. No image was seen."
        )
    return (
        f"The space is a linear map ({made.map}) fitted on {made.fitted_on} pairs of an image and a text; on data like "
        "these it is not zero-shot."
    )


def measured(made: Joined) -> str:
    """How well it works where it was not fitted."""
    if made.kind == UNTRAINED:
        return "Until then texts and images are not comparable, so nothing was measured."
    held_out = made.metrics
    if made.kind == LEXICAL:
        return (
            f"Of {held_out.names} names that were left out for it, {held_out.found:.1%} are found by what they look "
            f"like to the image tower (guessing: {made.chance['found']:.1%})."
        )
    if made.kind == TEXTS:
        return (
            f"Of {held_out.sentences} translations that were left out, {held_out.found:.1%} are nearest to what the "
            f"image tower's own texts make of their sentence (guessing: {made.chance['found']:.1%})."
        )
    both = {"images to texts": held_out.image_to_text, "texts to images": held_out.text_to_image}
    shown = "; ".join(f"{side} R@1 {of['r1']:.1%}, median rank {of['median_rank']:g}" for side, of in both.items())
    guessing = f"{made.chance['r1']:.1%}, rank {made.chance['median_rank']:g}"
    named = ""
    if held_out.accuracy is not None:
        low, high = held_out.intervals["accuracy"]
        named = f" Captions name the class of {held_out.accuracy:.1%} of the images ({low:.0%} to {high:.0%})."
    return f"On {held_out.images} held-out images: {shown} (guessing: {guessing}).{named}"
