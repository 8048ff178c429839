"""MetaCLIP: how often a pair is kept depends on how often the entries of a list occur in the texts of all pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..contracts.curator import TEXT, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import ConfigError, first_of
from ._captions import LANGUAGE, language_code
from ._entries import EntryList, read_entries

SHOWN = 5


@dataclass(eq=False, kw_only=True)
class Metaclip(Curator):
    """Demystifying CLIP Data (Xu et al., 2023, arXiv 2309.16671), and MetaCLIP 2: A Worldwide Scaling Recipe (Chuang et
    al., 2025, arXiv 2507.22062), with a list of entries of your own.

    An entry matches a text that contains it between spaces; see `Entries`. With c the number of texts that it matches
    in the whole set, it keeps each of them with probability p = min(1, t / c), so that a text is kept with probability
    1 - prod(1 - p) over its entries, and one without a match never. A set without frequent entries stays as it is.

    Lists per language ({"en": [...], "de": [...]} in JSON) match texts of that language alone, by a column `language`:
    "en-US" has the list of "en" where it has none of its own. The t of each is such that entries that are rarer have
    the same share of all matches as in the reference language.

    Balance last: after downloading, removing of copies and filters, or t is too small.

    The authors' own list is not free for commercial use. The limit belongs to 400 million pairs: lower it for a
    small pool, or give `tail_share`. Case counts, and `, . ; : ? !` and backquotes are set apart in texts: "u.s."
    never matches, and a note counts such entries.

    Example:
        >>> build_curator("metaclip", metadata="entries.txt", limit=200).decide_all(pairs).keep.sum()
        412
    """

    stage: ClassVar[str] = "balance"

    metadata: str | None = option(
        None,
        "file of entries: a .json list, a .json dict of lists per language, or text with a line each",
        metavar="FILE",
    )
    limit: int = option(20_000, "t: texts of an entry up to which all are kept (20000 of 400 million pairs)", low=1)
    tail_share: float | None = option(
        None,
        "in place of a limit, the share of all matches that entries below it have; none: limit",
        above=0.0,
        below=1.0,
    )
    reference: str = option("en", "of lists per language, the language that limit is for")
    unspaced: bool = option(
        True, "entries need no space at ends in CJK, Thai, Lao, Burmese, Khmer, Tibetan or punctuation (MetaCLIP 2)"
    )
    longest: bool = option(False, "of entries that overlap in a text, only the longest match")
    weights: bool = option(False, "keep all texts that match, with their probability as weight, to be drawn each epoch")
    seed: int = option(0, "fixes the draw", low=0)

    def __post_init__(self):
        super().__post_init__()
        if self.metadata is None:
            raise ConfigError(
                f"curator '{self.name}': give metadata=FILE, a list of entries; what is kept depends on it"
            )

        if self.tail_share is not None:
            self.refuse_unused("tail_share takes the place of a limit", "limit")

    @property
    def reads(self) -> tuple[str, ...]:
        return (TEXT,) if "" in self._strings else (TEXT, LANGUAGE)

    def check(self, columns: Collection[str]) -> None:
        _ = self._strings

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        lists = self._lists
        if self.tail_share is None and "" not in lists and not self._lists_of(self.reference):
            raise ConfigError(
                f"{self.metadata}: no list for '{self.reference}', the language that limit is for; give "
                f"reference={next(iter(lists))}, or tail_share"
            )
        counts = {language: np.zeros(len(entries), np.int64) for language, entries in lists.items()}
        unmatched, without_list = 0, Counter[str]()
        for rows in pairs.blocks():
            matched = np.zeros(rows.stop - rows.start, bool)
            for language, entry, text in self._matches(pairs.among(rows)):
                counts[language] += np.bincount(entry, minlength=len(counts[language]))
                matched[text] = True
            if "" not in lists:
                spoken = Counter(pairs.strings(LANGUAGE, rows))
                without_list.update({tag: n for tag, n in spoken.items() if not self._lists_of(tag)})
            unmatched += int(np.count_nonzero(~matched))
            progress(rows.stop, len(pairs))
        limits = self._limits(counts)
        probability = {each: entry_probability(count, limits[each]) for each, count in counts.items()}
        whole = {
            "count": np.concatenate(list(counts.values())),
            "probability": np.concatenate(list(probability.values())),
            "limit": np.array(list(limits.values())),
            "never": np.flatnonzero(np.concatenate([each.never for each in lists.values()])),
        }
        return Survey(whole, notes=tuple(self._notes(counts, limits, without_list, unmatched, len(pairs))))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        keep = np.zeros(len(pairs))
        starts = np.cumsum([0, *map(len, self._lists.values())])
        for start, (_, entry, text) in zip(starts, self._matches(pairs)):
            keep += text_probability(survey.whole["probability"][start + entry], text, len(pairs))
        fails = {"no entry matches": keep == 0}
        if not self.weights:
            fails["its entries are frequent"] = pairs.uniform(self.seed, purpose=self.name) >= keep
        weight = keep.astype(np.float32) if self.weights else None
        return Decision.of(fails, weight, {"metaclip": keep.astype(np.float32)})

    @cached_property
    def _strings(self) -> Mapping[str, Sequence[str]]:
        return read_entries(Path(str(self.metadata)))

    @cached_property
    def _lists(self) -> Mapping[str, EntryList]:
        """Language -> its entries; "" where there is one list for all."""
        return {language: EntryList(entries, self.unspaced) for language, entries in self._strings.items()}

    def _lists_of(self, tag: str) -> tuple[str, ...]:
        """The languages of the lists that hold for a text: of the same tag, else of the same code."""
        tag = tag.strip().lower().replace("_", "-")
        same = tuple(each for each in self._strings if each.strip().lower().replace("_", "-") == tag)
        return same or tuple(each for each in self._strings if language_code(each) == language_code(tag))

    def _matches(self, pairs: PairTable) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(language, entries, positions of their texts) of each list."""
        texts = pairs.strings(TEXT)
        spoken = pairs.strings(LANGUAGE) if "" not in self._lists else None
        lists = {tag: self._lists_of(tag) for tag in set(spoken or ())}
        for language, entries in self._lists.items():
            mine = (language in lists[tag] for tag in spoken) if spoken is not None else repeat(True, len(texts))
            rows = np.flatnonzero(np.fromiter(mine, bool, len(texts)))
            entry, text = entries.matches([texts[row] for row in rows], self.longest)
            yield language, entry, rows[text]

    def _limits(self, counts: Mapping[str, np.ndarray]) -> dict[str, int]:
        share = self.tail_share
        if share is None:
            if len(counts) == 1:
                return dict.fromkeys(counts, self.limit)
            share = share_below(counts[self._lists_of(self.reference)[0]], self.limit)
        limits = {language: limit_of_share(each, share) for language, each in counts.items()}
        return limits if self.tail_share is not None else limits | {self._lists_of(self.reference)[0]: self.limit}

    def _notes(
        self,
        counts: Mapping[str, np.ndarray],
        limits: Mapping[str, int],
        without_list: Mapping[str, int],
        unmatched: int,
        total: int,
    ) -> Iterator[str]:
        for language, limit in limits.items():
            name = f" of {language}" if language else ""
            frequent = int(np.count_nonzero(counts[language] > limit))
            yield f"t is {limit:,}: {frequent:,} of {len(counts[language]):,} entries{name} match more texts"
        if not any((count > limits[language]).any() for language, count in counts.items()):
            yield "no entry matches more than t texts, so that all that match are kept; lower limit"
        never = [e for name, each in self._lists.items() for e, n in zip(self._strings[name], each.never) if n]
        if never:
            listed = f"{len(never):,} ({first_of(never, SHOWN)})"
            yield f"entries that can never match: {listed}; spaces are put around punctuation in texts"
        if without_list:
            most = sorted(without_list, key=lambda tag: (-without_list[tag], tag))
            listed = first_of([f"{tag or 'none'} {without_list[tag]:,}" for tag in most], SHOWN)
            yield f"{sum(without_list.values()):,} of {total:,} texts are in languages without a list: {listed}"
        if unmatched:
            yield f"{unmatched:,} of {total:,} texts contain no entry"


def entry_probability(counts: np.ndarray, limit: int) -> np.ndarray:
    """(E,) probability with which an entry keeps each of its texts, of the (E,) numbers of its texts."""
    return np.minimum(1.0, limit / np.maximum(counts, 1))


def text_probability(probability: np.ndarray, texts: np.ndarray, count: int) -> np.ndarray:
    """(N,) probability that at least one of its entries keeps a text; 0 without entries.

    Args:
        probability: (M,) of the entry of each match.
        texts: (M,) text of each match.
        count: N.
    """
    with np.errstate(divide="ignore"):
        none = np.bincount(texts, np.log1p(-probability), count)
    return -np.expm1(none)


def share_below(counts: np.ndarray, limit: int) -> float:
    """Share of all matches that entries with fewer than `limit` have."""
    return float(counts[counts < limit].sum() / max(1, counts.sum()))


def limit_of_share(counts: np.ndarray, share: float) -> int:
    """The count up to which the rarest entries have about this share of all matches; 1 where nothing matches."""
    ranked = np.sort(counts[counts > 0])
    if not len(ranked):
        return 1
    return int(ranked[np.abs(np.cumsum(ranked) / ranked.sum() - share).argmin()])
