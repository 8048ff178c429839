"""Sentences with their translations, without an image: a table with one column per language."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...contracts.options import option, settle
from ...errors import ConfigError, DataError, UnknownNameError, did_you_mean
from ...runtime.reading import check_regular
from ..tables import Table
from .columns import TextColumn, text_at
from .pair_set import SPLIT_CODES
from .pair_splits import ends_of_ranks
from .record_fields import BrokenRow, split_named, word_of
from .table_pairs import table_rows

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
MOST_LANGUAGES = 256
OPTION = "translated"
CODE = "[a-z]{2,3}([-_][a-z]{2,4})?"
LANGUAGE = re.compile(f"(?P<before>|.*[-_]){CODE}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TextReading:
    """Options of `read_text_pairs`, given as `data.NAME` in a recipe."""

    translated: tuple[str, ...] = option(
        (), "columns: the sentence, then its translations; by default the first column, and those of its languages"
    )
    seed: int = option(0, "seed of the division into splits, where the data has none", low=0, high=2**32 - 1)
    val: float = option(0.1, "share of sentences held out to validate, where the data has no splits", low=0, below=1)
    test: float = option(0.1, "share of sentences held out to test, where the data has no splits", low=0, below=1)

    def __post_init__(self):
        settle(self)


@dataclass(frozen=True)
class TextPairs:
    """N translations, each of one of S sentences.

    Args:
        name: of the set.
        sentences: S texts.
        translations: N texts.
        sentence_of: (N,) which of the sentences each translates.
        languages: names of the columns of translations.
        language_of: (N,) which of them each is from.
        split_codes: (S,) positions in `SPLIT_NAMES`.
        skipped: (line, reason) of what was left out.
    """

    name: str
    sentences: pa.LargeBinaryArray
    translations: pa.LargeBinaryArray
    sentence_of: np.ndarray
    languages: tuple[str, ...]
    language_of: np.ndarray
    split_codes: np.ndarray
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.translations)

    def __getitem__(self, row: int) -> tuple[str, str]:
        """A sentence and its translation."""
        return text_at(self.sentences, int(self.sentence_of[row])), text_at(self.translations, row)

    @classmethod
    def joined(cls, parts: Sequence[TextPairs]) -> TextPairs:
        """Sets one after the other; columns of one name are one language."""
        languages = tuple(dict.fromkeys(name for part in parts for name in part.languages))
        firsts = np.cumsum([0, *(len(part.sentences) for part in parts)])
        place = [np.array([languages.index(name) for name in part.languages], np.int64) for part in parts]
        return cls(
            " + ".join(part.name for part in parts),
            pa.concat_arrays([part.sentences for part in parts]),
            pa.concat_arrays([part.translations for part in parts]),
            np.concatenate([part.sentence_of + first for part, first in zip(parts, firsts)]),
            languages,
            np.concatenate([of[part.language_of] for part, of in zip(parts, place)]),
            np.concatenate([part.split_codes for part in parts]),
            [pair for part in parts for pair in part.skipped],
        )

    @property
    def digest(self) -> str:
        """Of its sentences and translations, in their order."""
        made = hashlib.sha256()
        for texts in (self.sentences, self.translations):
            for buffer in filter(None, texts.buffers()):
                made.update(buffer)
        made.update(np.ascontiguousarray(self.sentence_of).tobytes())
        return made.hexdigest()[:16]

    def id(self, row: int) -> str:
        """For messages: which sentence, in which language."""
        return f"sentence {int(self.sentence_of[row]) + 1}, {self.languages[int(self.language_of[row])]}"

    def select(self, rows: Sequence[int] | np.ndarray) -> TextPairs:
        """Some translations, in their order."""
        chosen = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            translations=self.translations.take(chosen),
            sentence_of=self.sentence_of[chosen],
            language_of=self.language_of[chosen],
        )

    def split(self, name: str) -> TextPairs:
        """The translations of the sentences of "train", "val" or "test"."""
        return self.select(np.flatnonzero(self.split_codes[self.sentence_of] == SPLIT_CODES[name]))

    def language(self, name: str) -> TextPairs:
        """The translations of one column."""
        return self.select(np.flatnonzero(self.language_of == self.languages.index(name)))


def read_text_pairs(
    path: str | Path, translated: Sequence[str] = (), *, seed: int = 0, val: float = 0.1, test: float = 0.1
) -> TextPairs:
    """The sentences of a table with their translations; rows are read one at a time.

    A column `split` is kept; lines without one are train where others have one. Where there is none, sentences are
    divided by their words and the seed alone: equal ones are in one split, whatever their order.

    Args:
        path: a .csv, .tsv or .jsonl.
        translated: names of columns, that of the sentence first; by default the first column, and those that are
            called like it with the code of a language (`caption`, `caption_de`, `caption_ja`; `en`, `de`), or else the
            second one.
        seed, val, test: as of `TextReading`.

    Raises:
        DataError: no such file, or no line with a sentence and a translation. ConfigError: fewer than two columns.
        UnknownNameError: there is no such column.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists():
            check_regular(path)
        raise DataError(f"{path}: no such file; give a .csv, .tsv or .jsonl of sentences and their translations")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: not a table; give a .csv, .tsv or .jsonl of sentences and their translations")
    names, of_splits = None, None
    sentences, translations = TextColumn(), TextColumn()
    sentence_of, language_of, splits, skipped = array("q"), array("B"), array("B"), []
    for line, record in table_rows(path):
        if names is None:
            table = Table(path, tuple(record), [])
            of_splits = table.column_of(Table.SPLIT)
            names = _columns(table, translated, of_splits)
        try:
            place = f"{path.name} line {line}"
            sentence, *further = (word_of(record.get(name), name) for name in names)
            split = split_named(word_of(record.get(of_splits), "split"), place) if of_splits else ""
        except BrokenRow as error:
            skipped.append((place, str(error)))
            continue
        if not sentence or not any(further):
            skipped.append((place, f"no '{names[0]}'" if not sentence else "no translation"))
            continue
        for language, translation in enumerate(further):
            if translation:
                translations.add(translation)
                sentence_of.append(len(sentences))
                language_of.append(language)
        sentences.add(sentence)
        splits.append(SPLIT_CODES[split])
    if names is None or not len(translations):
        pair = "a sentence and its translation" if names is None else f"both '{names[0]}' and '{names[1]}'"
        raise DataError(f"{path}: no line has {pair}; write a sentence and its translation on each line")
    read = TextPairs(
        path.stem,
        sentences.build(),
        translations.build(),
        np.frombuffer(sentence_of, dtype=np.int64),
        names[1:],
        np.frombuffer(language_of, dtype=np.uint8),
        np.frombuffer(splits, dtype=np.uint8),
        skipped,
    )
    if not read.split_codes.any():
        return _divided(read, seed, val, test)
    return replace(read, split_codes=np.where(read.split_codes == 0, SPLIT_CODES["train"], read.split_codes))


def _columns(table: Table, translated: Sequence[str], of_splits: str | None) -> tuple[str, ...]:
    listed = ", ".join(map(str, table.columns))
    for name in translated:
        if not table.has_column(name):
            raise UnknownNameError(
                f"{table.path}: no column '{name}'; {did_you_mean(name, [str(each) for each in table.columns])}"
            )
    names = tuple(table.column_named(name, OPTION) for name in translated)
    names = names or _of_languages([str(name) for name in table.columns if name != of_splits])
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"{table.path}: translations named {','.join(names)}: give two columns or more, FROM,TO ({listed})"
        )
    if len(names) > MOST_LANGUAGES:
        raise ConfigError(
            f"{table.path}: {len(names)} columns; name those of the translations, at most {MOST_LANGUAGES}"
        )
    return names


def _of_languages(columns: list[str]) -> tuple[str, ...]:
    first = columns[0]
    stem = LANGUAGE.fullmatch(first)
    before = re.escape(f"{first}_" if stem is None else stem["before"])
    further = [name for name in columns[1:] if re.fullmatch(f"{before}{CODE}", name, re.IGNORECASE)]
    return first, *(further or columns[1:2])


def _divided(pairs: TextPairs, seed: int, val: float, test: float) -> TextPairs:
    """With a split for each sentence, by ranks that hang on the seed and the words alone."""
    digests = np.fromiter(
        (_digest(seed, text_at(pairs.sentences, row)) for row in range(len(pairs.sentences))),
        np.uint64,
        len(pairs.sentences),
    )
    ranked, place = np.unique(digests, return_inverse=True)
    of_test, of_val = ends_of_ranks(len(ranked), val, test)
    codes = np.full(len(ranked), SPLIT_CODES["train"], np.uint8)
    codes[:of_val], codes[:of_test] = SPLIT_CODES["val"], SPLIT_CODES["test"]
    return replace(pairs, split_codes=codes[place])


def _digest(seed: int, sentence: str) -> int:
    made = hashlib.blake2b(f"{seed}:{sentence}".encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(made.digest(), "big")
