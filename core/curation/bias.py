"""Associations in texts: which words stand more often beside one attribute than beside another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ..contracts.curator import TEXT, PairTable
from ..errors import ConfigError
from .stored import database

WOMEN = "woman women girl girls female lady ladies she her mother wife daughter sister"
MEN = "man men boy boys male gentleman gentlemen he him his father husband son brother"
ATTRIBUTES = {name: tuple(words.split()) for name, words in (("women", WOMEN), ("men", MEN))}
"""Words that tell of somebody's gender as a text has it."""
WORDS, SHOWN, LEAST_LETTERS = 400, 12, 3
"""Most frequent words that are looked at, and how many are shown."""
LETTERS = r"\pL\pM\pN_"
"""Of words, of all scripts."""
LEAST_TEXTS = 20
"""That tell of an attribute, below which nothing can be said."""
LEVEL = 0.95
"""Of the intervals, of all words that are looked at together (Bonferroni)."""


@dataclass(frozen=True)
class Association:
    """How a word goes with two attributes.

    Args:
        before, after: (difference of the shares of texts with the word, half of its interval, which is so wide that in
            95 % of sets no word of all lies outside by chance); None where too few texts tell of an attribute.
        texts_before, texts_after: with the word, and one of the attributes.
    """

    word: str
    attributes: tuple[str, str]
    before: tuple[float, float] | None
    after: tuple[float, float] | None
    texts_before: int
    texts_after: int


def associations(
    table: PairTable, kept: np.ndarray, attributes: Mapping[str, Sequence[str]] | None = None
) -> list[Association]:
    """The words whose association is strongest, before anything was dropped.

    Args:
        kept: (M,) positions.
        attributes: two names -> words, as they stand in texts.

    Raises:
        ConfigError: other than two attributes.
    """
    attributes = attributes or ATTRIBUTES
    if len(attributes) != 2 or not all(attributes.values()):
        raise ConfigError(f"attributes: {len(attributes)} given; give two, each with its words")
    stays = np.zeros(len(table.ids), bool)
    stays[kept] = True
    names = list(attributes)
    counts, totals = _counted(table, stays, [attributes[name] for name in names])
    own = {word.lower() for words in attributes.values() for word in words}
    quantile = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / max(1, len(counts)))
    made = [
        Association(
            word,
            (names[0], names[1]),
            _difference(count[0], totals[0], quantile),
            _difference(count[1], totals[1], quantile),
            int(count[0].sum()),
            int(count[1].sum()),
        )
        for word, count in counts.items()
        if word not in own
    ]
    significant = [each for each in made if each.before is not None and abs(each.before[0]) > each.before[1]]
    return sorted(significant, key=lambda each: (-abs(each.before[0]) if each.before else 0.0, each.word))[:SHOWN]


def _counted(
    table: PairTable, kept: np.ndarray, words: Sequence[Sequence[str]]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Word -> (2, 2) texts with it: before and after, by attribute; and the texts in all, (2, 2). A text that tells of
    both attributes counts for neither."""
    import pyarrow as pa

    texts = pa.table({"text": table.columns[TEXT], "kept": kept})
    patterns = [rf"(^|[^{LETTERS}])({'|'.join(map(re.escape, some))})([^{LETTERS}]|$)" for some in words]
    with database() as base:
        base.register("texts", texts)
        base.execute(
            """CREATE TEMP TABLE attributed AS SELECT row_number() OVER () AS n, kept, first, lower(text) AS text FROM (
            SELECT text, kept, regexp_matches(text, ?, 'i') AS first, regexp_matches(text, ?, 'i') AS second FROM texts
            ) WHERE first <> second""",
            patterns,
        )
        totals = _by_attribute(base.execute("SELECT '', kept, first, count(*) FROM attributed GROUP BY ALL").fetchall())
        rows = base.execute(
            f"""WITH words AS (SELECT DISTINCT n, kept, first,
            unnest(regexp_extract_all(text, '[{LETTERS}]{{{LEAST_LETTERS},}}')) AS word FROM attributed),
            frequent AS (SELECT word FROM words GROUP BY word ORDER BY count(*) DESC, word LIMIT {WORDS})
            SELECT word, kept, first, count(*) FROM words JOIN frequent USING (word) GROUP BY ALL"""
        ).fetchall()
    return _by_attribute(rows), totals.get("", np.zeros((2, 2)))


def _by_attribute(rows: Sequence[tuple[str, bool, bool, int]]) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {}
    for word, kept, first, count in rows:
        counts = made.setdefault(word, np.zeros((2, 2)))
        attribute = 0 if first else 1
        counts[0, attribute] += count
        if kept:
            counts[1, attribute] += count
    return made


def _difference(count: np.ndarray, total: np.ndarray, quantile: float) -> tuple[float, float] | None:
    """Of two shares, and half of its interval (Agresti and Caffo, 2000: one success and one failure more in each)."""
    if total.min() < LEAST_TEXTS:
        return None
    share = count / total
    padded = (count + 1) / (total + 2)
    margin = quantile * float(np.sqrt((padded * (1 - padded) / (total + 2)).sum()))
    return float(share[0] - share[1]), margin
