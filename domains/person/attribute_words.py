"""What attributes are called in sentences, and their opposites: "a person with long hair", "... with short hair".

"Towards Unified Text-based Person Retrieval" (APTM; Yang et al. 2023, arXiv 2306.02898) asks for each attribute by a
pair of sentences, one for each value; the pairs of `attribute_words.json` are ours.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from ...core.data import Table

WORDS_FILE = Path(__file__).with_name("attribute_words.json")
TEMPLATE = "a photo of {}."


def pair_of(name: str) -> tuple[str, str] | None:
    """What a person with an attribute is called, and one without it; None for an attribute that is not known.

    Args:
        name: in any of the spellings of Market-1501, DukeMTMC, PETA, PA-100K and CelebA.
    """
    words = _words().get(Table.plain_name(name))
    return None if words is None else (words["yes"], words["no"])


def attribute_sentences(name: str) -> tuple[list[str], list[str]] | None:
    """The same as sentences."""
    pair = pair_of(name)
    return None if pair is None else tuple([TEMPLATE.replace("{}", text)] for text in pair)


@lru_cache(maxsize=1)
def _words() -> dict[str, dict[str, str]]:
    return json.loads(WORDS_FILE.read_text(encoding="utf-8"))
