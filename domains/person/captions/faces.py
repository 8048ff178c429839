"""Sentences about faces from lists of attributes in CelebA's names.

* The six groups of "Text2FaceGAN: Face Generation from Fine Grained Textual Descriptions" (Nasir et al. 2019, arXiv
  1911.11378): outline of the face, facial hair, hairstyle, other features, what enhances or expresses, accessories.
* The five of "15M Multimodal Facial Image-Text Dataset" (FaceCaption-15M; Dai et al. 2024, arXiv 2407.08515): facial
  features, elementary, beard, hairstyle, accessories. There a language model rewrites the sentences, here none does.

One sentence per group with something to say, in several wordings (`faces.json`); the wordings are ours. What is absent
is not said: a face that is not labelled with a hat may wear one. Contradicting labels say nothing, and neither
"Attractive" nor "Blurry" is described. The pronoun is that of the label `Male`, "this person" where nobody knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....core.data import Table
from .combine import GROUPINGS, as_sentence, different, listed

WORDS_FILE = Path(__file__).with_name("faces.json")
BEARDS = ("5_o_Clock_Shadow", "Goatee", "Mustache")
NO_BEARD, MALE, YOUNG = "No_Beard", "Male", "Young"
CONTRADICTING_BEARDS = ("Goatee", "Mustache")
EXCLUSIVE = (("Straight_Hair", "Wavy_Hair"), ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"))
OF_HAIR = ("Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Straight_Hair", "Wavy_Hair")
BALD = "Bald"
FEWEST = 10
"""Of CelebA's names that a list must have to be one of faces."""


def are_faces(names: Sequence[str]) -> bool:
    """Whether attributes are CelebA's."""
    return len(_known(names)) >= FEWEST


def face_sentences(
    values: Mapping[str, float], count: int, seed: int, name: str, grouping: str = GROUPINGS[0]
) -> list[str]:
    """So many different descriptions of a face, none where there is nothing to say.

    Args:
        values: attribute -> 1 where the face has it, 0 where not, NaN where nobody knows.
        count: how many, at most.
        seed, name: of the draw; the name is the picture's.
        grouping: one of `GROUPINGS`.
    """
    present = _consistent(_known(values))
    groups = _words()["groupings"][grouping]
    said = [group for group in groups if any(each in present for each in group["attributes"])]
    if not said:
        return []
    return different(lambda rng: _description(said, present, _known(values), rng), count, seed, name)


def _consistent(values: Mapping[str, float]) -> set[str]:
    """The attributes that are there and that no other contradicts."""
    present = {name for name, value in values.items() if value == 1}
    if NO_BEARD in present and present & set(CONTRADICTING_BEARDS):
        present -= {NO_BEARD, *BEARDS, "Sideburns"}
    if present & set(BEARDS):
        present.discard(NO_BEARD)
    for names in EXCLUSIVE:
        if len(present & set(names)) > 1:
            present -= set(names)
    if BALD in present and present & set(OF_HAIR):
        present -= {BALD, *OF_HAIR}
    return present


def _description(groups: list[dict[str, Any]], present: set[str], values: Mapping[str, float], rng) -> str:
    first, sentences = _subject(values, present), []
    for place, group in enumerate(groups):
        parts: dict[str, list[str]] = {"has": [], "is": [], "wears": []}
        for name in group["attributes"]:
            if name in present:
                verb, wordings = _words()["attributes"][name]
                parts[verb].append(wordings[int(rng.integers(len(wordings)))])
        mixed = {verb: [things[i] for i in rng.permutation(len(things))] for verb, things in parts.items()}
        says = [f"{verb} {listed(things)}" for verb, things in mixed.items() if things]
        who = first if place == 0 else {1.0: "he", 0.0: "she"}.get(values.get(MALE), "this person")
        sentences.append(as_sentence(f"{who} {listed([says[i] for i in rng.permutation(len(says))])}"))
    return " ".join(sentences)


def _subject(values: Mapping[str, float], present: set[str]) -> str:
    known = values.get(MALE)
    noun = {1.0: "man", 0.0: "woman"}.get(known, "person")
    return f"a young {noun}" if YOUNG in present else f"a {noun}"


def _known(values: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """The values of CelebA's attributes by their usual spelling."""
    usual = {Table.plain_name(name): name for name in (*_words()["attributes"], MALE, YOUNG, "Attractive", "Blurry")}
    as_mapping = values if isinstance(values, Mapping) else dict.fromkeys(values, 0.0)
    return {
        usual[Table.plain_name(name)]: value for name, value in as_mapping.items() if Table.plain_name(name) in usual
    }


@lru_cache(maxsize=1)
def _words() -> dict[str, Any]:
    return json.loads(WORDS_FILE.read_text(encoding="utf-8"))
